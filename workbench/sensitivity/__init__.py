"""Sensitivity: how much each layer's quantization costs, alone and as the only one left in float."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.jobs import Progress, Worker, part_of, silent
from workbench.measure.accuracy import AccuracyOptions, accuracy_options
from workbench.model import Model
from workbench.options import make_options, option, to_builtins
from workbench.plugins import find_plugin, required_versions
from workbench.sensitivity._trial import Baseline, Trial, decibel, serve
from workbench.transforms import transform
from workbench.workspace import Workspace

_TRANSFORM = "quantize_static"
_KIND = "sensitivity"

_Found = TypeVar("_Found", Baseline, Trial)


@dataclass(frozen=True)
class SensitivityOptions:
    """How closely to look."""

    samples: Annotated[
        int, option("Evaluation samples that each layer is tried on.", minimum=1, maximum=4096, unit="samples")
    ] = 64


@dataclass(frozen=True)
class LayerSensitivity:
    """What quantizing one layer does.

    Attributes:
        name: The node's name, as `keep_float` of quantize_static takes it.
        op_type: Its operator.
        local_sqnr_db: Signal over quantization noise of the layer's own output, its input being exact, dB.
        only_sqnr_db: The same of the model's output when only this layer is quantized.
        all_but_sqnr_db: The same when every layer but this one is.
        only_drop: Points of the task's metric lost when only this layer is quantized; None without labels.
        all_but_gain: Points regained, against the fully quantized model, when this layer alone stays in float.
    """

    name: str
    op_type: str
    local_sqnr_db: float
    only_sqnr_db: float
    all_but_sqnr_db: float
    only_drop: float | None = None
    all_but_gain: float | None = None


@dataclass(frozen=True)
class Sensitivity:
    """The layers of a model by what their quantization costs.

    Attributes:
        model: Name of the float model.
        quantization: Options of quantize_static that it was tried with.
        layers: In the graph's order.
        samples: How many evaluation samples.
        metric: Name of the task's metric; empty without labels.
        original: That metric of the float model, 0 to 1.
        quantized: The same with every layer quantized.
        quantized_sqnr_db: SQNR of the model's output with every layer quantized, dB.
    """

    model: str
    quantization: Mapping[str, Any]
    layers: tuple[LayerSensitivity, ...]
    samples: int
    metric: str = ""
    original: float | None = None
    quantized: float | None = None
    quantized_sqnr_db: float = field(default=float("nan"))

    @property
    def worst_first(self) -> tuple[LayerSensitivity, ...]:
        """The layers, the one whose quantization alone disturbs the output most first."""
        return tuple(sorted(self.layers, key=lambda layer: layer.only_sqnr_db))


def measure_sensitivity(
    model: Model,
    calibration: Dataset,
    evaluation: Dataset,
    quantization: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | SensitivityOptions | None = None,
    *,
    accuracy: Mapping[str, Any] | AccuracyOptions | None = None,
    workspace: Workspace | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> Sensitivity:
    """Tries each layer quantized alone and each layer alone in float; a cancelled run goes on where it stood.

    A layer is a node that `keep_float` of quantize_static keeps in float: it is tried as the model would be in which
    that option names it, or all others. Such a layer has float weights; its input and output stay quantized where a
    neighbour asks for it. Models are simulated in float, see `workbench.sensitivity._simulation`.

    Args:
        model: The float model.
        calibration: Samples that set ranges.
        evaluation: Samples that are scored; the first ones are taken.
        quantization: Options of quantize_static; what its `keep_float` names is no layer.
        options: Fields of `SensitivityOptions`.
        accuracy: What the model is for.
        workspace: Where finished layers are kept.
        fresh: Try again what the workspace has.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        TransformError: The model cannot be quantized, or has no layer that is.
        ModelError: The float model gives NaN or infinite values, or ONNX Runtime cannot run it.
        DatasetError: Samples or labels do not fit.
        OptionsError: An option does not exist or has a value it cannot have.
    """
    checked = make_options(SensitivityOptions, options, "measure_sensitivity")
    scoring = accuracy_options(accuracy, None)
    evaluation.check_fits(model)
    workspace = workspace or Workspace()
    samples = evaluation.take(checked.samples)
    made = transform(
        model,
        _TRANSFORM,
        quantization,
        dataset=calibration,
        workspace=workspace,
        progress=part_of(progress, 0.0, 0.1, "quantizing: "),
    )
    base, trials = _find_trials(model, made, samples, scoring, workspace, fresh, part_of(progress, 0.1, 1.0))
    if not trials:
        raise TransformError(
            f"quantize_static leaves every layer of {model.name} in float: there is none to try.",
            "Choose a model with convolutions or matrix products, and keep fewer of them in float.",
        )
    return Sensitivity(
        model=model.name,
        quantization=made.history[-1].options,
        layers=tuple(_layer(name, base, trials[name]) for name in base.layers),
        samples=len(samples),
        metric=base.metric,
        original=base.original,
        quantized=base.quantized,
        quantized_sqnr_db=decibel(base.signal, base.noise),
    )


def _find_trials(
    model: Model,
    made: Model,
    samples: Dataset,
    scoring: AccuracyOptions,
    workspace: Workspace,
    fresh: bool,
    progress: Progress,
) -> tuple[Baseline, dict[str, Trial]]:
    """What the workspace has, and the rest tried now."""
    key = {
        "model": model.sha256,
        "quantized": made.sha256,
        "samples": samples.sha256,
        "accuracy": to_builtins(scoring),
        "versions": required_versions(find_plugin("transforms", _TRANSFORM)),
    }
    forget = fresh or scoring.task == "custom"  # the user's own code decides the result and has no hash

    def find(layer: str | None, cls: type[_Found]) -> _Found | None:
        with contextlib.suppress(LookupError):
            return workspace.result(_KIND, {**key, "layer": layer}, cls, _missing, fresh=forget)
        return None

    def keep(layer: str | None, value: Baseline | Trial) -> None:
        workspace.result(_KIND, {**key, "layer": layer}, type(value), lambda: value, fresh=True)

    def known(layers: Iterable[str]) -> dict[str, Trial]:
        return {name: trial for name in layers if (trial := find(name, Trial)) is not None}

    base = find(None, Baseline)
    trials = known(base.layers) if base else {}
    if base and len(trials) == len(base.layers):
        return base, trials

    def see(event: tuple[str, Trial]) -> None:
        keep(*event)
        trials.update([event])

    with (
        tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=workspace.root / "tmp") as scratch,
        Worker(serve, model, made, samples, scoring, Path(scratch)) as worker,
    ):
        if base is None:
            worker.send(None)
            base = worker.receive(part_of(progress, 0.0, 0.1))
            keep(None, base)
            trials.update(known(base.layers))
        worker.send([name for name in base.layers if name not in trials])
        worker.receive(part_of(progress, 0.1, 1.0), see)
    return base, trials


def _missing() -> Any:
    raise LookupError


def _layer(name: str, base: Baseline, trial: Trial) -> LayerSensitivity:
    return LayerSensitivity(
        name=name,
        op_type=base.layers[name],
        local_sqnr_db=decibel(trial.local_signal, trial.local_noise),
        only_sqnr_db=decibel(base.signal, trial.only_noise),
        all_but_sqnr_db=decibel(base.signal, trial.all_but_noise),
        only_drop=_points(base.original, trial.only),
        all_but_gain=_points(trial.all_but, base.quantized),
    )


def _points(more: float | None, less: float | None) -> float | None:
    return None if more is None or less is None else 100 * (more - less)
