"""The accuracy budget: quantizes as much as the budget allows, keeping in float what hurts most for its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from workbench._budget_judge import Judge, Times
from workbench._budget_search import give_back, shortest
from workbench.dataset import Dataset
from workbench.jobs import Progress, part_of, silent
from workbench.measure.accuracy import (
    AccuracyOptions,
    accuracy_options,
)
from workbench.model import Model
from workbench.options import make_options, option
from workbench.sensitivity import Sensitivity, SensitivityOptions, measure_sensitivity
from workbench.transforms import transform
from workbench.workspace import Workspace

_ROUNDING = 1e-9  # a loss of exactly half a point may come out as 0.5000000000000009
_FREE = 0.001  # share of an inference that a layer costs at least: less is noise of the clock
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # without one of them there is no quantized model


@dataclass(frozen=True)
class BudgetOptions:
    """What may be lost."""

    max_drop: Annotated[
        float,
        option("Largest loss of the task's metric against the float model.", minimum=0, maximum=100, unit="points"),
    ] = 0.5
    max_trials: Annotated[int, option("Most models to quantize and score.", minimum=1, maximum=100, advanced=True)] = 12
    seconds: Annotated[
        float, option("Time under the profiler for each form.", minimum=0.1, maximum=3600, unit="s", advanced=True)
    ] = 2.0


@dataclass(frozen=True)
class KeptLayer:
    """A layer that stays in float.

    Attributes:
        name: The node's name.
        sqnr_db: SQNR of the model's output when only it is quantized, dB.
        float_ms: Its time in float, ms, with what is fused with it; None where the backend tells no time of its own.
        int8_ms: The same in the model in which every layer is quantized.
    """

    name: str
    sqnr_db: float
    float_ms: float | None = None
    int8_ms: float | None = None

    @property
    def cost_ms(self) -> float | None:
        """What keeping it costs at each inference, ms; None where a time is not known."""
        return None if self.float_ms is None or self.int8_ms is None else self.float_ms - self.int8_ms


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
        metric: Name of the metric; `agreement` without labels: the share predicted as by the float model.
        samples: How many evaluation samples scored.
        kept: Layers that stay in float, the one that hurts most for its time first.
        trials: Every model that was scored, in order.
        sensitivity: What the order came from; None where the budget held at once.
        complete: Whether the search came to its end, and not to the end of its trials.
    """

    model: Model
    holds: bool
    drop: float
    max_drop: float
    metric: str
    samples: int
    kept: tuple[KeptLayer, ...]
    trials: tuple[BudgetTrial, ...]
    sensitivity: Sensitivity | None = None
    complete: bool = True


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
    that it saves; a thousandth of an inference where it saves less or nothing. How many of them must stay in float is
    found by doubling and then halving, and those that turn out not to be needed are given back. Every model on the way
    is really quantized, and scored on the backend on all evaluation samples.

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
    scoring = accuracy_options(accuracy, None)
    space = workspace or Workspace()
    judge = Judge(model, evaluation, scoring, backend, dict(backend_options or {}), space)
    judge.start(part_of(progress, 0.0, 0.05, "in float: "))

    def make(kept: tuple[str, ...], report: Progress) -> tuple[Model, float]:
        fixed = tuple((quantization or {}).get("keep_float", ()))
        wanted = {**(quantization or {}), "keep_float": (*fixed, *(name for name in kept if name not in fixed))}
        report(0.0, f"quantizing with {len(kept)} layers in float" if kept else "quantizing every layer")
        made = transform(model, "quantize_static", wanted, dataset=calibration, workspace=space)
        return made, judge.drop(made, report)

    search = _Search(make, checked, part_of(progress, 0.05, 0.15))
    order: tuple[KeptLayer, ...] = ()
    found: Sensitivity | None = None
    if not search.holds(()):
        found = measure_sensitivity(
            model,
            calibration,
            evaluation,
            quantization,
            sensitivity,
            accuracy=scoring,
            workspace=space,
            progress=part_of(progress, 0.15, 0.55),
        )
        times = judge.layer_times(search.models[()], checked.seconds, part_of(progress, 0.55, 0.65))
        order = _in_order(found, times)
        search.progress = part_of(progress, 0.65, 1.0)
        search.run(order, {layer.name for layer in found.layers if layer.op_type in _WEIGHTED})
    best = search.best()
    return BudgetResult(
        model=search.models[best.kept],
        holds=search.within(best),
        drop=best.drop,
        max_drop=checked.max_drop,
        metric=judge.metric,
        samples=len(evaluation),
        kept=tuple(layer for layer in order if layer.name in best.kept),
        trials=tuple(search.trials.values()),
        sensitivity=found,
        complete=search.complete,
    )


class _SpentError(Exception):
    """No trial is left."""


@dataclass
class _Search:
    """Quantizes and scores with different layers kept, each choice once."""

    make: Callable[[tuple[str, ...], Progress], tuple[Model, float]]
    options: BudgetOptions
    progress: Progress
    models: dict[tuple[str, ...], Model] = field(default_factory=dict)
    trials: dict[tuple[str, ...], BudgetTrial] = field(default_factory=dict)
    complete: bool = True

    def holds(self, kept: tuple[str, ...]) -> bool:
        """Whether the budget holds with these layers kept."""
        if kept not in self.trials:
            if len(self.trials) >= self.options.max_trials:
                raise _SpentError
            number, most = len(self.trials), self.options.max_trials
            report = part_of(self.progress, number / most, (number + 1) / most, f"model {number + 1}: ")
            self.models[kept], drop = self.make(kept, report)
            self.trials[kept] = BudgetTrial(kept, drop)
        return self.within(self.trials[kept])

    def within(self, trial: BudgetTrial) -> bool:
        """Whether a model loses no more than it may."""
        return trial.drop <= self.options.max_drop + _ROUNDING

    def run(self, order: Sequence[KeptLayer], weighted: set[str]) -> None:
        """Finds the shortest beginning of the order that holds, and gives back the layers of it that are not needed."""
        names = tuple(layer.name for layer in order)
        most = max((place for place, name in enumerate(names) if name in weighted), default=0)
        try:
            if kept := shortest(names[:most], self.holds):
                give_back(kept, {layer.name: layer.cost_ms or 0.0 for layer in order}, self.holds)
        except _SpentError:
            self.complete = False

    def best(self) -> BudgetTrial:
        """The one that keeps fewest of those that hold; the nearest where none does."""
        if holding := [trial for trial in self.trials.values() if self.within(trial)]:
            return min(holding, key=lambda trial: len(trial.kept))
        return min(self.trials.values(), key=lambda trial: (trial.drop, len(trial.kept)))


def _in_order(sensitivity: Sensitivity, times: Times) -> tuple[KeptLayer, ...]:
    """Layers by the noise that they bring into the output for each millisecond that they save."""
    layers = [
        KeptLayer(layer.name, layer.only_sqnr_db, *times.get(layer.name, (None, None))) for layer in sensitivity.layers
    ]
    least = _FREE * sum(before for before, _ in times.values() if before is not None) or 1.0

    def worth(layer: KeptLayer) -> float:
        noise = 10 ** (-max(layer.sqnr_db, -1000.0) / 10)  # beside the signal
        return noise / max(layer.cost_ms or 0.0, least)

    return tuple(sorted(layers, key=worth, reverse=True))
