"""Commands that compress with care: the cost of INT8 layer by layer, an accuracy budget, a latency to prune to."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

from pathlib import Path
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
from workbench.errors import DatasetError, ModelError, OptionsError
from workbench.importers import load_dataset, load_model
from workbench.latency_pruning import prune_to_latency as search_share
from workbench.measure.accuracy import AccuracyOptions
from workbench.options import to_builtins
from workbench.samples import SAMPLE_PREFIX
from workbench.saving import save_model
from workbench.sensitivity import SensitivityOptions, measure_sensitivity
from workbench.transforms import prune_channels, quantize_static
from workbench.workspace import Workspace

AccuracyFlags: Any = flags(AccuracyOptions)
BudgetFlags: Any = flags(BudgetOptions)
SensitivityFlags: Any = flags(SensitivityOptions)
PruningFlags: Any = flags(prune_channels.Options)
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
    _refuse_existing(output)
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


def prune_to_latency(
    model: Model,
    milliseconds: Annotated[float, tyro.conf.arg(help="Longest median of one inference.")],
    output: Output,
    calibration: Annotated[str, tyro.conf.arg(help="Samples that importance and repair look at: an .npz file.")],
    backend: Backend = "onnxruntime",
    settings: Settings = (),
    pruning: Annotated[PruningFlags, tyro.conf.OmitArgPrefixes] = PruningFlags(),
    workspace: Root = None,
) -> None:
    """Take away as few channels as bring a model within a latency. Ends with 1 and writes nothing if none does."""
    _refuse_existing(output)
    options = to_builtins(pruning)
    if options.pop("share") != PruningFlags().share:
        raise OptionsError("The share is what pruning to a latency looks for.", "Leave --share out.")
    found = search_share(
        load_model(model),
        milliseconds,
        load_dataset(calibration, "calibration"),
        options,
        backend=backend,
        backend_options=read_settings(settings),
        workspace=Workspace(workspace),
        progress=show_progress(),
    )
    for trial in found.trials:
        print(f"{trial.share:5.0f} % of the channels gone  {trial.ms:.3f} ms")
    if not found.holds:
        print(f"No share brings it to {milliseconds:g} ms; the fastest takes {found.trials[-1].ms:.3f} ms.")
        raise SystemExit(1)
    print(f"\n{output}  {report.format_size(save_model(found.model, output).size_bytes / 1e6)}")


def _refuse_existing(output: Path) -> None:
    """Says now, not after minutes of work, that the result could not be written."""
    if output.exists():
        raise ModelError(f"{output} exists already, and nothing is overwritten.", "Choose another name.")


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
