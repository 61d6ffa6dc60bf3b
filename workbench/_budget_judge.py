"""Scores and times the models that a budget tries, against the float model on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from workbench.backends import build_engine, predict
from workbench.dataset import Dataset
from workbench.engine import Engine, Tensors
from workbench.jobs import Progress, part_of
from workbench.measure.accuracy import AccuracyOptions, can_score, compare_predictions, score
from workbench.measure.mapping import match_profiles
from workbench.measure.profile import can_profile, profile_layers
from workbench.model import Model
from workbench.workspace import Workspace

Times: TypeAlias = Mapping[str, tuple[float | None, float | None]]


class Judge:
    """Holds quantized models against the float one, as a comparison does.

    Args:
        model: The float model.
        samples: Evaluation samples.
        scoring: What the model is for.
        backend: What runs every model.
        options: Options of that backend.
        workspace: Where outputs and profiles are kept.
    """

    def __init__(
        self,
        model: Model,
        samples: Dataset,
        scoring: AccuracyOptions,
        backend: str,
        options: Mapping[str, Any],
        workspace: Workspace,
    ) -> None:
        self._model, self._samples, self._scoring, self._workspace = model, samples, scoring, workspace
        self._backend, self._options = backend, options
        self._outputs: Tensors = {}
        self.metric, self._original = "agreement", 1.0

    def start(self, progress: Progress) -> None:
        """Runs and scores the float model.

        Raises:
            DatasetError: Samples or labels do not fit.
            ModelError: The backend refuses the model.
        """
        self._outputs = self._predict(self._model, progress)
        if can_score(self._samples, self._scoring):
            scores = score(self._outputs, self._samples, self._scoring)
            self.metric, self._original = scores.metric, scores.value

    def drop(self, model: Model, progress: Progress) -> float:
        """Points of the metric that a model loses; without labels, of the share predicted as by the float model."""
        outputs = self._predict(model, progress)
        if can_score(self._samples, self._scoring):
            quality = score(outputs, self._samples, self._scoring).value
        else:
            quality = compare_predictions(self._outputs, outputs, self._scoring).share
        return 100 * (self._original - quality)

    def layer_times(self, quantized: Model, seconds: float, progress: Progress) -> Times:
        """By node of the float model: ms of one inference in float and in INT8, of what is fused at the first node.

        Args:
            quantized: The model in INT8.
            seconds: Time under the profiler for each.
            progress: As everywhere.

        Returns:
            Empty where the backend tells no time per layer.
        """
        if not can_profile(self._backend):
            return {}
        wanted = {"batch": self._model.fixed_batch or 1, "seconds": seconds}
        before, after = (
            profile_layers(
                self._build(model),
                wanted,
                dataset=self._samples,
                workspace=self._workspace,
                progress=part_of(progress, start, start + 0.5, f"timing layers in {form}: "),
            )
            for model, form, start in ((self._model, "float", 0.0), (quantized, "INT8", 0.5))
        )
        rows = match_profiles(self._model, before, quantized, after)
        return {row.nodes[0]: (row.ms, row.other_ms) for row in rows if row.nodes}

    def _predict(self, model: Model, progress: Progress) -> Tensors:
        return predict(self._build(model), self._samples, workspace=self._workspace, progress=progress)

    def _build(self, model: Model) -> Engine:
        return build_engine(model, self._backend, self._options)
