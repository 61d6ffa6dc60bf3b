"""Makes the SavedModel of a model with onnx2tf, and checks that it answers as the candidate does."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench import jobs
from workbench.backends._agreement import Agreement
from workbench.backends._litert_prepare import INPUT
from workbench.backends._litert_python import run_script
from workbench.backends._onnx2tf import converter_versions, foreign_operators, quantized_operators, run_onnx2tf
from workbench.engine import Tensors, unheard
from workbench.errors import BuildError, ExportError, ModelError
from workbench.exporters import Contents
from workbench.jobs import Progress
from workbench.model import Model, TensorSpec

TINY = 1e-6  # differences below this are rounding whatever the range

_LARGEST_MODEL = 2**31 - 2**24  # bytes: of protobuf, since onnx2tf makes constants of weights; some for the graph
_SCRIPT = Path(__file__).with_name("_run_saved_model.py")
_FLOAT = (
    "TensorFlow Serving runs models in float: export the candidate before it was quantized, or take INT8 to the "
    "exporter server or triton."
)
_OTHERS = (
    "This converter is fragile: it is written against versions of its time. Export the model from its framework with "
    "another opset, or take the exporter server or triton, which run the ONNX model itself."
)


@dataclass(frozen=True)
class Difference:
    """How far an output of the SavedModel is from the candidate's answer to the sample.

    Attributes:
        name: The output.
        max_abs_error: The largest difference.
        largest: The largest absolute value of the candidate's answer.
    """

    name: str
    max_abs_error: float
    largest: float

    @property
    def share(self) -> float:
        """The difference as a share of the output's largest value; 0 where it is rounding."""
        return 0.0 if self.max_abs_error <= TINY else self.max_abs_error / (self.largest or 1.0)


@dataclass(frozen=True)
class Saved:
    """What came of a conversion.

    Attributes:
        versions: Of the converter and what it works with.
        differences: From the candidate's answer to the sample, for each output.
        random: What is said of random inputs, in a sentence.
    """

    versions: Mapping[str, str]
    differences: tuple[Difference, ...]
    random: str

    @property
    def worst(self) -> Difference:
        """The output that is farthest away."""
        return max(self.differences, key=lambda entry: entry.share)


def declared_shape(spec: TensorSpec) -> list[int | None] | None:
    """A tensor's shape as TensorFlow has it: None for an axis of any size, or for any number of axes."""
    return None if spec.shape == ("...",) else [size if isinstance(size, int) else None for size in spec.shape]


def write_saved_model(contents: Contents, folder: Path, warm_up: Sequence[int], tolerance: float) -> Saved:
    """Writes the SavedModel with its warm-up, in subprocesses, and compares its answers.

    Args:
        contents: What is packed.
        folder: The folder to write, of one version.
        warm_up: Sizes of batches that the sample is repeated to for the warm-up.
        tolerance: Largest difference from the candidate's answer, as a share of an output's largest value.

    Raises:
        ExportError: onnx2tf cannot convert the model, or the SavedModel answers otherwise.
        MissingDependencyError: Something that onnx2tf needs is not installed.
    """
    model = contents.candidate.engine.model
    versions = converter_versions("", "TensorFlow Serving runs SavedModels")
    if quantized_operators(model):
        raise ExportError(f"{model.name} is quantized, and onnx2tf would make float operators of its INT8.", _FLOAT)
    if custom := foreign_operators(model):
        raise ExportError(
            f"{model.name} uses operators that onnx2tf does not know: {', '.join(custom)}.",
            "Export the model with ONNX's own operators, or take the exporter server or triton.",
        )
    if model.size_bytes > _LARGEST_MODEL:
        raise ExportError(
            f"{model.name} has {model.size_bytes / 1e9:.1f} GB, and onnx2tf keeps weights in the graph of a "
            "SavedModel, which holds 2 GB at most.",
            "Take the exporter server or triton, which run the ONNX model itself.",
        )
    try:
        return jobs.run(
            _make,
            model,
            contents.name,
            contents.sample,
            contents.answer,
            folder,
            list(warm_up),
            tolerance,
            versions,
            progress=contents.progress,
        )
    except (BuildError, ModelError) as error:
        raise ExportError(error.message, error.remedy) from error


def _make(
    model: Model,
    name: str,
    sample: Tensors,
    answer: Tensors,
    folder: Path,
    warm_up: list[int],
    tolerance: float,
    versions: dict[str, str],
    *,
    progress: Progress,
) -> Saved:
    """Runs in a worker, which takes onnx2tf and TensorFlow along when it is ended."""
    inputs = [
        {"name": spec.name, "dtype": spec.dtype, "shape": declared_shape(spec), "reads": f"{INPUT}{place}"}
        for place, spec in enumerate(model.inputs)
    ]
    outputs = [{"name": spec.name, "dtype": spec.dtype} for spec in model.outputs]
    tempfile.tempdir = str(folder.parent)  # what is left behind when this is ended goes with the package's folder
    agreement = Agreement(model)
    with tempfile.TemporaryDirectory() as scratch:
        progress(0.1, f"converting with onnx2tf {versions['onnx2tf']}")
        known = _write_known(
            model, {"sample": (sample, answer), "random": (agreement.feed, agreement.expected)}, scratch
        )
        request = {"target": folder, "signature": {"inputs": inputs, "outputs": outputs, **known}}
        run_onnx2tf(model, "", request, Path(scratch), lambda _: _OTHERS, unheard)
    progress(0.7, "comparing with ONNX")
    feeds: dict[str, Tensors] = {"sample": sample}
    if agreement.expected:
        feeds["random"] = agreement.feed
    found = _run(model, name, folder, feeds, warm_up)
    differences = tuple(
        _difference(spec, found["sample"][spec.name], np.asarray(answer[spec.name])) for spec in model.outputs
    )
    saved = Saved(versions, differences, agreement.check(found.get("random", {}), "TensorFlow, on what onnx2tf made,"))
    if not saved.worst.share <= tolerance:
        worst = saved.worst
        raise ExportError(
            f"The SavedModel that onnx2tf {versions['onnx2tf']} makes of {model.name} answers the sample otherwise "
            f"than the candidate: '{worst.name}' differs by {worst.max_abs_error:.3g}, which is "
            f"{100 * worst.share:.2g} % of its largest value (allowed {100 * tolerance:.2g} %).",
            "Where the candidate computes in fewer bits, choose the one in float32 or a larger `tolerance`; else take "
            "the exporter server or triton, which run the ONNX model itself.",
        )
    return saved


def _write_known(model: Model, known: Mapping[str, tuple[Tensors, Tensors]], folder: str) -> dict[str, Any]:
    """Writes inputs with their answers, by which is told where onnx2tf has left the channels of an output."""
    found = {kind: pair for kind, pair in known.items() if pair[1]}  # of random inputs, ONNX may have no answer
    arrays: dict[str, Any] = {}
    for kind, (feed, answers) in found.items():
        arrays |= {f"{kind}_input_{place}": feed[spec.name] for place, spec in enumerate(model.inputs)}
        arrays |= {f"{kind}_output_{place}": answers[spec.name] for place, spec in enumerate(model.outputs)}
    file = Path(folder) / "known.npz"
    np.savez(file, **arrays)
    return {"known": file, "kinds": list(found)}


def _run(
    model: Model, name: str, folder: Path, feeds: Mapping[str, Tensors], warm_up: list[int]
) -> dict[str, dict[str, NDArray[Any]]]:
    """What the SavedModel answers, in a process that has not made it."""
    inputs, outputs = ([spec.name for spec in specs] for specs in (model.inputs, model.outputs))
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "feeds.npz", Path(scratch) / "answers.npz"
        arrays: dict[str, Any] = {
            f"{kind}_{place}": feed[name] for kind, feed in feeds.items() for place, name in enumerate(inputs)
        }
        np.savez(asked, **arrays)
        request = {"saved": folder, "model_name": name, "inputs": inputs, "outputs": outputs, "warm_up": warm_up}
        outcome = run_script("", _SCRIPT, {**request, "feeds": asked, "answers": answered}, Path(scratch), unheard)
        if outcome.code or "problem" in outcome.result or not answered.is_file():
            said = " ".join(str(outcome.result.get("problem", "")).split())[:300]
            raise BuildError(
                f"TensorFlow cannot run what onnx2tf made of {model.name}: {said or f'code {outcome.code}'}.",
                _OTHERS,
                "\n".join(outcome.lines),
            )
        with np.load(answered) as stored:
            return {
                kind: {name: stored[f"{kind}_{place}"] for place, name in enumerate(outputs)}
                for kind in feeds
                if f"{kind}_0" in stored.files
            }


def _difference(spec: TensorSpec, found: NDArray[Any], wanted: NDArray[Any]) -> Difference:
    """How far an output is from the candidate's.

    Raises:
        BuildError: It is of another type or shape.
    """
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise BuildError(
            f"onnx2tf makes {found.dtype} {list(found.shape)} of the output '{spec.name}', which is {wanted.dtype} "
            f"{list(wanted.shape)}.",
            _OTHERS,
        )
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    with np.errstate(invalid="ignore"):
        error = float(np.nan_to_num(np.abs(a - b)[differs], nan=np.inf).max(initial=0.0))
    return Difference(spec.name, error, float(np.abs(b[np.isfinite(b)]).max(initial=0.0)))
