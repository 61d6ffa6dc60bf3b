"""The Python that does what the Load test panel was told to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOAD, CURVE, SWEEP, LOADGEN = "One load", "Rising rate", "Sweep", "LoadGen"
_VERBS = {  # what measures, and what prints it
    LOAD: ("measure_load", "load_text"),
    CURVE: ("measure_load_curve", "curve_text"),
    LOADGEN: ("measure_with_loadgen", "loadgen_text"),
}


def load_code(
    mode: str,
    model: str,
    backend: str,
    built: Mapping[str, Any],
    options: Mapping[str, Any],
    data: str,
    limit: float | None,
) -> str:
    """Measuring as Python.

    Args:
        mode: What is measured.
        model: The expression that names the model.
        backend: What runs it.
        built: Options of the backend that differ from the defaults.
        options: Options of the measurement that differ from the defaults.
        data: The argument that names the samples, if there are some.
        limit: Latency limit of the sweep's best, ms.
    """
    if mode == SWEEP:
        others = {name: value for name, value in built.items() if name != "threads"}  # threads are the sweep's
        call = f"wb.sweep({model}, {backend!r}, {dict(options)!r}, backend_options={others!r}{data})"
        return f"import workbench as wb\n\nfound = {call}\nprint(wb.sweep_text(found, {limit!r}))"
    verb, text = _VERBS[mode]
    engine = f"engine = wb.build_engine({model}, {backend!r}, {dict(built)!r})"
    call = f"found = wb.{verb}(engine, {dict(options)!r}{data})"
    return f"import workbench as wb\n\n{engine}\n{call}\nprint(wb.{text}(found))"
