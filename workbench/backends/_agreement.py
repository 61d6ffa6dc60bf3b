"""Whether what a backend made of a model still computes the same: both are asked with the same random inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.backends._onnxruntime_session import load_runtime
from workbench.engine import Tensors, random_feed
from workbench.errors import ModelError
from workbench.graph import summarize_graph
from workbench.model import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BATCH = 2  # not 1, so that a batch which the conversion froze shows
_TINY = 1e-6  # differences below this are rounding whatever the range
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 0.03  # of an output's range; the second where the model rounds to 16 bits


class Agreement:
    """What ONNX says that a model computes.

    Args:
        model: Any model.
        batch: Size of a dynamic first axis.

    Attributes:
        batch: Samples in the feed.
        feed: Random inputs, floats between -2 and 2.
        expected: The answers to them: of ONNX Runtime without its optimizer, or of ONNX's own interpreter where that
            is not installed. Empty if neither can run the model.
    """

    def __init__(self, model: Model, batch: int = _BATCH) -> None:
        self._model, self.batch = model, model.fixed_batch or batch
        self.feed = {
            name: (array * 4 - 2).astype(array.dtype) if array.dtype.kind == "f" else array
            for name, array in random_feed(model, batch).items()
        }
        self.expected = _answers(model, self.feed)

    def difference(self, answers: Tensors) -> float:
        """The largest difference of any output, as a share of its range; infinite where shapes or NaNs differ."""
        return max((_difference(answers[name], wanted) for name, wanted in self.expected.items()), default=0.0)

    def check(self, answers: Tensors, runtime: str) -> str:
        """Says how far the answers are from those expected.

        Raises:
            ModelError: They are something else.
        """
        if not self.expected:
            return "ONNX itself has no answer to random inputs, so that nothing was compared."
        half = any(node.precision in ("float16", "bfloat16") for node in summarize_graph(self._model).nodes)
        found, tolerance = self.difference(answers), _HALF_TOLERANCE if half else _TOLERANCE
        if not found <= tolerance:
            raise ModelError(
                f"{runtime} computes something else than {self._model.name} says: its answers to random inputs differ "
                f"by {_share(found)} from those of ONNX (allowed {_share(tolerance)}).",
                "Use another backend for this model.",
            )
        return f"Its answers to random inputs differ from those of ONNX by {_share(found)}."


def _share(part: float) -> str:
    return f"{100 * part:.2g} % of their range" if np.isfinite(part) else "more than their range, or in shape"


def _answers(model: Model, feed: Tensors) -> dict[str, NDArray[Any]]:
    names = [spec.name for spec in model.outputs]
    for answer in (_runtime_answers, _reference_answers):
        try:
            return dict(zip(names, answer(model, feed, names), strict=True))
        except Exception:  # each has its own classes, and both refuse what the other may run
            continue
    return {}


def _runtime_answers(model: Model, feed: Tensors, names: list[str]) -> list[NDArray[Any]]:
    ort = load_runtime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(names, dict(feed))]


def _reference_answers(model: Model, feed: Tensors, names: list[str]) -> list[NDArray[Any]]:
    from onnx.reference import ReferenceEvaluator

    return [np.asarray(value) for value in ReferenceEvaluator(str(model.path)).run(names, dict(feed))]


def _difference(given: NDArray[Any], wanted: NDArray[Any]) -> float:
    if given.shape != wanted.shape:
        return float("inf")
    a, b = given.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not (finite | (a == b) | (np.isnan(a) & np.isnan(b))).all():
        return float("inf")
    error = float(np.abs(a - b)[finite].max(initial=0.0))
    return 0.0 if error <= _TINY else error / (float(np.abs(b[finite]).max(initial=0.0)) or 1.0)
