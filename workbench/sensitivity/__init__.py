"""Sensitivity: how much each layer's quantization costs, alone and as the only one left in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from workbench.dataset import Dataset
from workbench.jobs import Progress, silent
from workbench.measure.accuracy import AccuracyOptions
from workbench.model import Model
from workbench.options import option
from workbench.workspace import Workspace


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

    Args:
        model: The float model.
        calibration: Samples that set ranges.
        evaluation: Samples that are scored.
        quantization: Options of quantize_static.
        options: Fields of `SensitivityOptions`.
        accuracy: What the model is for.
        workspace: Where finished layers are kept.
        fresh: Try again what the workspace has.
        progress: Called with the share done and a short text; may raise to cancel.
    """
    raise NotImplementedError
