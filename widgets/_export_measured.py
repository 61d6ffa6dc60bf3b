"""What was measured of the candidate that is exported, and where: here, by the Load test panel, or by Compare alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.comparison import Row
from workbench.engine import Engine
from workbench.exporters import measured_for
from workbench.load_report import curve_doubts, curve_words, sweep_words
from workbench.measure.load import LoadStats
from workbench.measure.sweep import Sweep
from workbench.serving_measure import best_alone
from workbench.serving_measurements import Measurements

HERE, LOAD_TEST, NOWHERE = "here", "Load test", ""


@dataclass(frozen=True)
class Loaded:
    """What was measured of an engine under load.

    Attributes:
        engine: What was measured; its option `threads` does not matter.
        measurements: Its curve and sweep, and what its service takes.
    """

    engine: Engine
    measurements: Measurements


@dataclass(frozen=True)
class Gathered:
    """What the numbers of a package follow from.

    Attributes:
        measurements: What was found of the candidate.
        origin: Where the curve and the sweep are from.
        words: The same in sentences, a line each.
    """

    measurements: Measurements
    origin: str
    words: str


def gather(
    row: Row, exporter: str, here: Sequence[Loaded], curve: Loaded | None = None, sweep: Loaded | None = None
) -> Gathered:
    """Finds what was measured of a candidate.

    Args:
        row: Its latency and accuracy.
        exporter: What is to write the package: what our own server takes counts for its packages only.
        here: What was measured for serving in this panel, the latest last; that goes before all else.
        curve: The load curve of the Load test panel.
        sweep: The sweep of the Load test panel.
    """
    engine = row.candidate.engine
    own = next((one for one in reversed(here) if _same(one.engine, engine)), None)
    if own is not None:
        found = measured_for(exporter, replace(own.measurements, row=row))
        return Gathered(found, HERE, "\n".join(_words(found)))
    rates = curve.measurements.curve if curve and _same(curve.engine, engine) else ()
    rates = rates if _single(rates, engine) else ()
    swept = sweep.measurements.sweep if sweep and _same(sweep.engine, engine) else None
    notes = []
    if rates and swept and not _agree(rates, swept):
        best = best_alone(swept)
        notes.append(f"The sweep is left out: its best is {best}, but the rates were measured at another division.")
        swept = None
    found = Measurements(row, rates, swept)
    if rates or swept:
        return Gathered(found, LOAD_TEST, "\n".join(["From the Load test panel.", *_words(found), *notes]))
    alone = "Only single inferences were measured, in Compare: what holds under load is estimated from these."
    return Gathered(found, NOWHERE, f"{alone} Press “Measure for serving” to measure it.")


def _words(found: Measurements) -> list[str]:
    lines = [sweep_words(found.sweep)] if found.sweep else []
    lines += [curve_words(found.curve), curve_doubts(found.curve)] if found.curve else []
    lines += [str(found.service)] if found.service else []
    return [line for line in lines if line]


def _same(one: Engine, other: Engine) -> bool:
    """Whether two engines are the same but for threads, which a sweep tries all of."""
    return _identity(one) == _identity(other)


def _identity(engine: Engine) -> dict[str, Any]:
    options = {name: value for name, value in engine.options.items() if name != "threads"}
    about = {"model": engine.model.sha256, "backend": engine.backend, "device": engine.device}
    return {**about, "options": options, "versions": dict(engine.versions)}


def _single(curve: Sequence[LoadStats], engine: Engine) -> bool:
    """Whether queries were as small as they can be: the plan counts requests, not samples."""
    return bool(curve) and curve[0].batch == (engine.model.fixed_batch or 1)


def _agree(curve: Sequence[LoadStats], sweep: Sweep) -> bool:
    """Whether the rates were measured at the division of the cores that the sweep found best."""
    if not any(point.stats for point in sweep.points):
        return False
    best = best_alone(sweep)
    return (curve[0].threads, curve[0].instances) == (best.threads, best.instances)
