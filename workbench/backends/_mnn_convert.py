"""ONNX to MNN, in a subprocess: the conversion, whether its result computes the same, and what it refuses.

`_tools`, the extension module behind MNN's command line, is called directly: `MNN.tools` around it installs a package
that reports to MNN's makers.
"""

from __future__ import annotations

import dataclasses
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from workbench.artifact import Built
from workbench.backends._agreement import Agreement
from workbench.backends._mnn_layers import read_layers
from workbench.backends._mnn_session import FACTS, X86, Facts, Session
from workbench.engine import Engine, Tensors, unheard
from workbench.errors import ModelError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.support import Unsupported, make_probes
from workbench.workspace import write_json

# The converter answers True whatever happens, so its lines are read; unbuffered, they are there when it breaks.
_CONVERTER = (
    "import ctypes, sys; c = ctypes.CDLL(None); c.setvbuf(ctypes.c_void_p.in_dll(c, 'stdout'), None, 2, 0); "
    "import _tools; _tools.mnnconvert(sys.argv)"
)
_SMALLER: dict[int, Sequence[str]] = {
    16: ("--fp16",),
    8: ("--weightQuantBits", "8"),
    4: ("--weightQuantBits", "4", "--hqq"),  # plain rounding to 4 bits was 1.4 and 1.6 times as far off on two nets
}
_STAMP = re.compile(r"^\[[\d:]+\]( [^ ]*:\d+:)? *")
_NO_OPERATOR = re.compile(r"These Op Not Support: (.+)")


def convert(engine: Engine, progress: Progress, tell: Callable[[str], None]) -> Built:
    """Writes an engine's file and compares what it computes with what ONNX says.

    Weights in fewer bits are made of the model after it was found to be converted rightly; how far they move the
    answers is a note.

    Raises:
        ModelError: The converter refuses the model, or makes something else of it.
    """
    model, bits = engine.model, engine.options["weight_bits"]
    begun = time.monotonic()
    progress(0.1, "converting to MNN")
    _run_converter(model, engine.path, (), tell)
    converted = time.monotonic()
    progress(0.5, "comparing with ONNX")
    agreement = Agreement(model)
    notes = [agreement.check(_answers(engine, agreement.feed), f"MNN {engine.versions['mnn']}")]
    compared = time.monotonic()
    phases = {"convert": converted - begun, "compare": compared - converted}
    if bits != 32:
        progress(0.7, f"rounding weights to {bits} bits")
        _run_converter(model, engine.path, _SMALLER[bits], tell)
        moved = agreement.difference(_answers(engine, agreement.feed))
        notes.append(f"Weights in {bits} bits move them by {100 * moved:.2g} % of their range.")
        phases["round"] = time.monotonic() - compared
    session = Session(engine)
    session.set_inputs(agreement.feed)
    layers = len(read_layers(session))
    write_json(engine.path.with_name(FACTS), Facts(layers, _computes(engine, agreement.feed)))
    for note in notes:
        tell(note)
    return Built(phases, tuple(notes))


def refused_operators(model: Model) -> tuple[Unsupported, ...]:
    """What the converter says that it does not have."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            said = _run_converter(model, Path(folder) / "model.mnn", (), unheard)
        except ModelError as error:
            said = error.message
    found = _NO_OPERATOR.search(said)
    refused = set(re.findall(r"ONNX::(\w+)", found[1])) if found else set()
    return tuple(
        Unsupported(
            probe.operator,
            f"MNN {version('mnn')} has no conversion for it.",
            probe.nodes,
            "Use another backend, or export the model with other operators.",
        )
        for probe in make_probes(model)
        if probe.operator.rpartition(":")[2] in refused
    )


def _run_converter(model: Model, target: Path, options: Sequence[str], tell: Callable[[str], None]) -> str:
    """Runs the converter in a process of its own, since it ends that on models which it does not expect.

    Returns:
        What it said.

    Raises:
        ModelError: It wrote no file.
    """
    target.unlink(missing_ok=True)
    files = ("-f", "ONNX", "--modelFile", str(model.path), "--MNNModel", str(target), "--bizCode", "workbench")
    command = [sys.executable, "-P", "-c", _CONVERTER, *files, *options]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace") as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(_STAMP.sub("", line.rstrip()))
            tell(lines[-1])
    if process.returncode == 0 and target.is_file():
        return "\n".join(lines)
    name = f"MNN {version('mnn')}"
    if found := _NO_OPERATOR.search("\n".join(lines)):
        raise ModelError(
            f"{model.name} uses operators that {name} does not have. These Op Not Support: {found[1].strip()}.",
            "Use another backend, or export the model with other operators.",
        )
    said = next((line for line in reversed(lines) if line and "Convert" not in line), "it gives no reason")
    how = f"breaks on {model.name}" if process.returncode else f"refuses {model.name}"
    raise ModelError(
        f"The converter of {name} {how}: {said[:300].strip(' .')}.",
        "Check that the model runs on ONNX Runtime, and use that or another backend.",
    )


def _answers(engine: Engine, feed: Tensors) -> Tensors:
    session = Session(engine)
    session.set_inputs(feed)
    session.run()
    return {spec.name: session.output(spec.name) for spec in engine.model.outputs}


def _computes(engine: Engine, feed: Tensors) -> str:
    """Which type floats are computed in: MNN does not tell, but a shorter one gives other answers."""
    if engine.options["precision"] != "low":
        return "f32"
    exact = _answers(dataclasses.replace(engine, options={**engine.options, "precision": "high"}), feed)
    same = all(np.array_equal(exact[name], value, equal_nan=True) for name, value in _answers(engine, feed).items())
    if same:
        return "f32"
    return "bf16" if platform.machine() in X86 else "f16"  # not seen yet: on the x86 tried, nothing changed
