"""Commands that compress with care: what INT8 does to each layer, and as much of it as an accuracy budget allows."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

from typing import Annotated, Any

import tyro

from workbench import report, sensitivity_report
from workbench._flags import (
    Backend,
    Calibration,
    Model,
    Root,
    Samples,
    Settings,
    flags,
    read_settings,
    show_progress,
)
from workbench._plugin_commands import Output
from workbench.budget import BudgetOptions, quantize_within_budget
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ModelError
from workbench.importers import load_dataset, load_model
from workbench.measure.accuracy import AccuracyOptions
from workbench.options import to_builtins
from workbench.samples import SAMPLE_PREFIX
from workbench.saving import save_model
from workbench.sensitivity import SensitivityOptions, measure_sensitivity
from workbench.transforms import quantize_static
from workbench.workspace import Workspace

AccuracyFlags: Any = flags(AccuracyOptions)
BudgetFlags: Any = flags(BudgetOptions)
SensitivityFlags: Any = flags(SensitivityOptions)

QuantizationFlags: Any = flags(quantize_static.Options)


def sensitivity(
    model: Model,
    data: Samples,
    calibration: Calibration = "",
    measurement: Annotated[SensitivityFlags, tyro.conf.OmitArgPrefixes] = SensitivityFlags(),
    quantization: QuantizationFlags = QuantizationFlags(),
    accuracy: AccuracyFlags = AccuracyFlags(),
    workspace: Root = None,
) -> None:
    """Show what quantizing each layer costs, alone and as the only one left in float."""
    found = measure_sensitivity(
        load_model(model),
        *_samples(calibration, data),
        to_builtins(quantization),
        to_builtins(measurement),
        accuracy=to_builtins(accuracy),
        workspace=Workspace(workspace),
        progress=show_progress(),
    )
    print(sensitivity_report.sensitivity_text(found))


def budget(
    model: Model,
    data: Samples,
    output: Output,
    calibration: Calibration = "",
    backend: Backend = "onnxruntime",
    settings: Settings = (),
    limits: Annotated[BudgetFlags, tyro.conf.OmitArgPrefixes] = BudgetFlags(),
    quantization: QuantizationFlags = QuantizationFlags(),
    sensitivity: SensitivityFlags = SensitivityFlags(),
    accuracy: AccuracyFlags = AccuracyFlags(),
    workspace: Root = None,
) -> None:
    """Quantize as much of a model as an accuracy budget allows. Ends with 1 and writes nothing if none keeps it."""
    if output.exists():  # said now, not after minutes of work
        raise ModelError(f"{output} exists already, and nothing is overwritten.", "Choose another name.")
    result = quantize_within_budget(
        load_model(model),
        *_samples(calibration, data),
        to_builtins(quantization),
        to_builtins(limits),
        sensitivity=to_builtins(sensitivity),
        backend=backend,
        backend_options=read_settings(settings),
        accuracy=to_builtins(accuracy),
        workspace=Workspace(workspace),
        progress=show_progress(),
    )
    print(sensitivity_report.budget_text(result))
    if not result.holds:
        raise SystemExit(1)
    print(f"\n{output}  {report.format_size(save_model(result.model, output).size_bytes / 1e6)}")


def _samples(calibration: str, data: str) -> tuple[Dataset, Dataset]:
    """Samples that set ranges and samples that score; a bundled sample has both.

    Raises:
        DatasetError: There are none to calibrate with.
    """
    if not (calibration or data.startswith(SAMPLE_PREFIX)):
        raise DatasetError(
            "Quantizing needs calibration samples, and none were given.",
            "Pass --calibration: about 100 typical inputs, no labels needed, and none of those that score.",
        )
    return load_dataset(calibration or data, "calibration"), load_dataset(data, "evaluation")
