"""The accuracy budget: quantizes as much as the budget allows, keeping in float what hurts most for its time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from workbench.dataset import Dataset
from workbench.jobs import Progress, silent
from workbench.measure.accuracy import AccuracyOptions
from workbench.model import Model
from workbench.options import option
from workbench.sensitivity import Sensitivity
from workbench.workspace import Workspace


@dataclass(frozen=True)
class BudgetOptions:
    """What may be lost."""

    max_drop: Annotated[
        float, option("Largest loss of the task's metric against the float model.", minimum=0, maximum=100, unit="points")
    ] = 0.5
    max_trials: Annotated[int, option("Most models to quantize and score.", minimum=1, maximum=100, advanced=True)] = 12


@dataclass(frozen=True)
class KeptLayer:
    """A layer that stays in float.

    Attributes:
        name: The node's name.
        sqnr_db: SQNR of the model's output when only it is quantized, dB.
        float_ms: Its time in float, ms.
        int8_ms: Its time in the quantized model, ms.
    """

    name: str
    sqnr_db: float
    float_ms: float
    int8_ms: float

    @property
    def cost_ms(self) -> float:
        """What keeping it costs at each inference, ms."""
        return self.float_ms - self.int8_ms


@dataclass(frozen=True)
class BudgetTrial:
    """One model that was quantized and scored: which layers it kept, and points lost against the float model."""

    kept: tuple[str, ...]
    drop: float


@dataclass(frozen=True)
class BudgetResult:
    """What the budget allowed.

    Attributes:
        model: The quantized model that keeps the budget; the one that came nearest where none does.
        holds: Whether it keeps the budget.
        drop: Points of the metric that it loses against the float model.
        max_drop: The budget.
        metric: Name of the metric.
        samples: How many evaluation samples scored.
        kept: Layers that stay in float, the one that hurts most for its time first.
        trials: Every model that was scored, in order.
        sensitivity: What the order came from.
    """

    model: Model
    holds: bool
    drop: float
    max_drop: float
    metric: str
    samples: int
    kept: tuple[KeptLayer, ...]
    trials: tuple[BudgetTrial, ...]
    sensitivity: Sensitivity


def quantize_within_budget(
    model: Model,
    calibration: Dataset,
    evaluation: Dataset,
    quantization: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | BudgetOptions | None = None,
    *,
    sensitivity: Mapping[str, Any] | SensitivityOptions | None = None,
    backend: str = "onnxruntime",
    backend_options: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, Any] | AccuracyOptions | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> BudgetResult:
    """Keeps layers in float, those first that hurt most for the milliseconds they cost, until the budget holds.

    The layers are put in an order by the noise that quantizing each alone brings into the output, for each millisecond
    that it saves; a layer that saves none comes first. How many of them must stay in float is found by doubling and
    then halving, and those that turn out not to be needed are given back. Every model on the way is really quantized,
    and scored on the backend on all evaluation samples.

    Args:
        model: The float model.
        calibration: Samples that set ranges.
        evaluation: Samples that are scored; without labels, by how often they are predicted as by the float model.
        quantization: Options of quantize_static; its `keep_float` layers are kept in any case.
        options: Fields of `BudgetOptions`.
        sensitivity: Fields of `SensitivityOptions`.
        backend: What runs the model, for its scores and the times of its layers.
        backend_options: Options of that backend.
        accuracy: What the model is for.
        workspace: Where models and results are kept.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        TransformError: The model cannot be quantized.
        DatasetError: Samples or labels do not fit.
        OptionsError: An option does not exist or has a value it cannot have.
        ModelError: The backend refuses a model, or the float model gives NaN or infinite values.
    """
    checked = make_options(BudgetOptions, options, "quantize_within_budget")
    workspace = workspace or Workspace()
    search = _Search(
        model, calibration, evaluation, dict(quantization or {}), checked, backend, dict(backend_options or {}),
        accuracy_options(accuracy, None), workspace, part_of(progress, 0.6, 1.0),
    )
    found: Sensitivity | None = None
    order: tuple[KeptLayer, ...] = ()
    search.start(part_of(progress, 0.0, 0.15))
    if not search.holds(()):
        found = measure_sensitivity(
            model, calibration, evaluation, quantization, sensitivity,
            accuracy=search.scoring, workspace=workspace, progress=part_of(progress, 0.15, 0.5),
        )
        order = _in_order(found, search.layer_times(part_of(progress, 0.5, 0.6)))
        search.run([layer.name for layer in order], most=_most_kept(order, found))
    best = search.best()
    return BudgetResult(
        model=search.made[best.kept],
        holds=best.drop <= checked.max_drop + _ROUNDING,
        drop=best.drop,
        max_drop=checked.max_drop,
        metric=search.metric,
        samples=len(evaluation),
        kept=tuple(layer for layer in order if layer.name in best.kept),
        trials=tuple(search.trials.values()),
        sensitivity=found,
    )
