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
from workbench.backends._litert_prepare import INPUT, prepare
from workbench.backends._litert_python import Outcome, find_packages, run_script
from workbench.backends._litert_session import ENDS, FILE, End, Ends, Session, open_interpreter, reason
from workbench.errors import BuildError, MissingDependencyError, ModelError
from workbench.jobs import Progress
from workbench.model import Model, TensorSpec
from workbench.workspace import write_json

SCRIPT = Path(__file__).with_name("_litert_onnx2tf.py")
# By module that onnx2tf imports, the packages that bring it.
CONVERTER = {
    "onnx2tf": ("onnx2tf",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "tf_keras": ("tf_keras",),
    "onnx_graphsurgeon": ("onnx_graphsurgeon",),
    "sng4onnx": ("sng4onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "ai_edge_litert": ("ai-edge-litert",),
    "psutil": ("psutil",),
    "requests": ("requests",),
}
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


def converter_versions(python: str) -> dict[str, str]:
    """Versions of the converter and what it works with.

    Args:
        python: Path of the Python that has it; this one if empty.

    Raises:
        MissingDependencyError: Something that it needs is not installed.
        OptionsError: There is no such Python.
    """
    found = find_packages(python, CONVERTER)
    missing = [name for name, number in found.items() if not number]
    if missing:
        where = python or "this environment"
        raise MissingDependencyError(
            f"LiteRT runs .tflite files, and onnx2tf, which makes one of an ONNX model, needs {', '.join(missing)}, "
            f"which {where} lacks.",
            "Install them: pip install 'deployment-workbench[litert,tensorflow]', then pip install --no-deps tf_keras "
            "(which would bring a second TensorFlow); or name an environment's Python that has them as `converter`.",
        )
    return {name: found[name] for name in ("onnx2tf", "tensorflow", "tf_keras")}


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
        simplified = Path(scratch) / "model.onnx"
        request = {
            "model": simplified,
            "inputs": prepare(model, simplified),
            "target": target,
            "quantize": quantize,
            "folder": scratch,
        }
        progress(0.1, f"converting with {title}")
        outcome = run_script(python, SCRIPT, request, Path(scratch), tell)
    if outcome.code or "problem" in outcome.result or not target.is_file():
        remedy = QUANTIZED if quantized_operators(model) else FRAGILE
        raise BuildError(f"{title} cannot convert {model.name}: {explain(outcome)}.", remedy, "\n".join(outcome.lines))
    progress(0.7, "comparing with ONNX")
    begun = time.monotonic()
    note = _compare(model, target, _named_ends(model, target), _SHARES.get(quantize), title, folder)
    return Converted({**outcome.result["phases"], "check": time.monotonic() - begun}, (note,))


def quantized_operators(model: Model) -> bool:
    """Whether activations are quantized in the model."""
    from workbench.skeleton import read_skeleton

    return any(
        node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") or node.op_type.startswith("QLinear")
        for node in read_skeleton(model.path).graph.node
    )


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


def explain(outcome: Outcome) -> str:
    """Why onnx2tf gave up, in words."""
    problem, lines = str(outcome.result.get("problem", "")), outcome.lines
    if lacking := list(dict.fromkeys(re.findall(r"'tf\.(\w+)' op is neither", problem))):
        return f"TensorFlow Lite has no kernel for what it makes of it: TensorFlow's {', '.join(lacking)}"
    said = [line.partition("ERROR:")[2].strip() for line in lines if line.startswith("ERROR:")]
    node = next((text.partition(":")[2].strip() for text in said if text.startswith("onnx_op_name:")), "")
    told = [text for text in said if not re.match(r"(input_)?onnx_|The trace log|Read this|Alternatively", text)]
    first = next((text for text in (*told, *problem.splitlines()) if text.strip()), "")
    kind = str(outcome.result.get("kind", ""))
    why = re.sub(r"\s+", " ", first)[:300].rstrip(". ") or kind or f"it ended with code {outcome.code}"
    return f"{why} (node '{node}')" if node else why


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
