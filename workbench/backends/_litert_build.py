"""Makes the .tflite file of a model: the one that it was imported from, or what onnx2tf makes of it."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workbench.backends._agreement import Agreement
from workbench.backends._host import physical_cores
from workbench.backends._litert_prepare import INPUT
from workbench.backends._litert_python import find_packages
from workbench.backends._litert_session import ENDS, FILE, End, Ends, Session, open_interpreter, reason
from workbench.backends._onnx2tf import CONVERTER, quantized_operators, run_onnx2tf
from workbench.errors import BuildError, ModelError
from workbench.jobs import Progress
from workbench.model import Model, TensorSpec
from workbench.workspace import write_json

FRAGILE = (
    "This converter is fragile: it is written against versions of its time. Export the model with another opset, make "
    "the .tflite file from PyTorch (export_litert), or use another backend."
)
QUANTIZED = (
    "It makes float operators of Q/DQ nodes, where TensorFlow Lite has INT8 kernels: build the float model with "
    "quantize='dynamic', import an INT8 .tflite file, or make one from PyTorch (export_litert)."
)
_SHARES = {"float16": 0.03, "dynamic": 0.25}  # of an output's range that rounded weights may move it by
_SAME_FILE = 0.1  # of the range: what tells a layout mistaken from kernels that round in another way
_IMAGE = 4  # axes


@dataclass(frozen=True)
class Converted:
    """What came of a conversion.

    Attributes:
        phases: Seconds of each, by name.
        notes: What is to be said of the result, in sentences.
    """

    phases: Mapping[str, float]
    notes: tuple[str, ...]


def convert(
    model: Model, python: str, quantize: str, folder: Path, *, progress: Progress, tell: Callable[[str], object]
) -> Converted:
    """Converts a model with onnx2tf and checks that the result computes the same; runs in a worker.

    Args:
        model: An ONNX model; its file is only read.
        python: Path of the Python that has onnx2tf; this one if empty.
        quantize: `none`, `float16` or `dynamic`.
        folder: Where to write the file and what its inputs and outputs are.
        progress: Called with the share done and a short text.
        tell: Called with each line that onnx2tf prints.

    Raises:
        BuildError: onnx2tf cannot convert it.
        ModelError: The result computes something else.
    """
    target = folder / FILE
    title = f"onnx2tf {find_packages(python, CONVERTER)['onnx2tf']}"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        progress(0.1, f"converting with {title}")
        request = {"target": target, "quantize": quantize}
        outcome = run_onnx2tf(model, python, request, Path(scratch), _remedy, tell)
    progress(0.7, "comparing with ONNX")
    begun = time.monotonic()
    note = _compare(model, target, _named_ends(model, target), _SHARES.get(quantize), title, folder)
    return Converted({**outcome.result["phases"], "check": time.monotonic() - begun}, (note,))


def keep_original(model: Model, folder: Path, *, progress: Progress) -> Converted:
    """Copies the file that a model was imported from, and finds its tensors; runs in a worker.

    Raises:
        ModelError: It does not compute what the model imported from it does.
    """
    assert model.original is not None
    target = folder / FILE
    shutil.copyfile(model.original, target)
    progress(0.5, "comparing with ONNX")
    begun = time.monotonic()
    interpreter = open_interpreter(target, 1)
    ends = Ends(
        _ends_in_order(model.inputs, interpreter.get_input_details()),
        _ends_in_order(model.outputs, interpreter.get_output_details()),
    )
    note = _compare(model, target, ends, _SAME_FILE, "the .tflite file that it was imported from", folder)
    return Converted({"check": time.monotonic() - begun}, ("This is the file that the model was imported from.", note))


def _remedy(model: Model) -> str:
    return QUANTIZED if quantized_operators(model) else FRAGILE


def _compare(model: Model, target: Path, ends: Ends, share: float | None, title: str, folder: Path) -> str:
    """Runs both on the same random inputs; writes what the ends are when they agree."""
    agreement = Agreement(model)
    try:
        session = Session(target, ends, physical_cores(), "xnnpack")
        session.set_inputs(agreement.feed)
        session.interpreter.invoke()
        answers = session.outputs()
    except (ValueError, RuntimeError) as error:
        raise BuildError(
            f"LiteRT {version('ai-edge-litert')} cannot run what {title} made of {model.name}: {reason(error)}.",
            FRAGILE,
        ) from None
    _check_types(model, answers, title)
    if share is None:
        note = agreement.check(answers, f"LiteRT, on what {title} made of it,")
    else:
        found = agreement.difference(answers)
        if not found <= share:
            raise ModelError(
                f"{title} does not compute what {model.name} says: its answers to random inputs differ by "
                f"{100 * found:.2g} % of their range from those of ONNX (allowed {100 * share:.2g} %).",
                "Build it without `quantize`, or use another backend for this model.",
            )
        note = f"Its answers to random inputs differ from those of ONNX by {100 * found:.2g} % of their range."
    write_json(folder / ENDS, ends)
    return note


def _check_types(model: Model, answers: Mapping[str, Any], title: str) -> None:
    for spec in model.outputs:
        if str(answers[spec.name].dtype) != spec.dtype:
            raise BuildError(
                f"{title} makes {answers[spec.name].dtype} of the output '{spec.name}' of {model.name}, which is "
                f"{spec.dtype}.",
                FRAGILE,
            )


def _named_ends(model: Model, target: Path) -> Ends:
    """The inputs by the numbers in their names, since TensorFlow Lite may put them in another order."""
    interpreter = open_interpreter(target, 1)
    places = {}
    for detail in interpreter.get_input_details():
        if found := re.search(rf"{INPUT}(\d+)", detail["name"]):
            places[int(found[1])] = int(detail["index"])
    outputs = interpreter.get_output_details()
    if len(outputs) != len(model.outputs):
        raise BuildError(f"onnx2tf makes {len(outputs)} outputs of the {len(model.outputs)} of {model.name}.", FRAGILE)
    return Ends(
        tuple(End(spec.name, places.get(place)) for place, spec in enumerate(model.inputs)),
        tuple(End(spec.name, int(detail["index"])) for spec, detail in zip(model.outputs, outputs, strict=True)),
    )


def _ends_in_order(specs: tuple[TensorSpec, ...], details: list[dict[str, Any]]) -> tuple[End, ...]:
    """Imported tensors stand in the order of the file; those asked for as NCHW have their channels moved."""
    if len(specs) != len(details):
        raise ModelError("The .tflite file has other inputs or outputs than the model.", "Import the file again.")
    return tuple(
        End(spec.name, int(detail["index"]), _turned(spec, tuple(map(int, detail["shape_signature"]))))
        for spec, detail in zip(specs, details, strict=True)
    )


def _turned(spec: TensorSpec, kept: tuple[int, ...]) -> bool:
    ours = tuple(size if isinstance(size, int) else -1 for size in spec.shape)
    return len(ours) == _IMAGE and ours != kept and ours == tuple(kept[axis] for axis in (0, 3, 1, 2))
