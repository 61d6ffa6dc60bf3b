"""The Load panel: a model and its samples in, checked and described."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._files import FilePick
from widgets._import_form import ImportForm
from widgets._panel import Panel, Work
from workbench import model_report
from workbench.backends import find_unsupported
from workbench.dataset import Dataset
from workbench.errors import ModelError
from workbench.graph import GraphSummary, summarize_graph
from workbench.importers import load_dataset, load_model, model_suffixes
from workbench.jobs import Progress, part_of
from workbench.model import Model
from workbench.report import format_size
from workbench.support import Unsupported
from workbench.workspace import Workspace, default_root

SAMPLE = "sample:digits"

_Loaded = tuple[Model, GraphSummary, Mapping[str, tuple[Unsupported, ...]], Dataset | None, Dataset | None]


class Load(Panel):
    """Loads a model, and the samples that calibrate and score it."""

    title = "Load"
    hint = "Choose a trained model and samples to calibrate and score it, or take the bundled digits network."
    verb = "Load"
    icon = "folder-open"

    model = t.Instance(Model, allow_none=True)
    evaluation = t.Instance(Dataset, allow_none=True)
    calibration = t.Instance(Dataset, allow_none=True)
    original = t.Unicode(None, allow_none=True, help="What the model was converted from; None if it was ONNX already.")
    warning = t.Unicode(help="What of the model the backends here do not run; empty if nothing.")

    def __init__(self, **traits: Any) -> None:
        self.source = w.ToggleButtons(
            options=[("Bundled sample", SAMPLE), ("Own files", "")],
            tooltips=["Handwritten digits, 99 % top-1", "A model file and .npz files of samples"],
        )
        root = traits.get("workspace") or default_root()
        uploads = Path(root.root if isinstance(root, Workspace) else root) / "uploads"
        self.model_file = FilePick(suffixes=model_suffixes(), uploads=uploads, label="Model", folders=True)
        self.importing = ImportForm()
        t.dlink((self.model_file, "path"), (self.importing, "path"))
        self.evaluation_file = FilePick(suffixes=(".npz",), uploads=uploads, label="Evaluation")
        self.calibration_file = FilePick(suffixes=(".npz",), uploads=uploads, label="Calibration")
        files = w.VBox(
            [self.model_file, self.importing, self.evaluation_file, self.calibration_file],
            layout=w.Layout(display="none"),
        )
        files.add_class("wb-file-list")
        w.dlink((self.source, "value"), (files.layout, "display"), lambda value: "none" if value else "flex")
        self._view = w.HTML(_markup.empty("Press Load to see what the model takes and gives."))
        super().__init__(w.VBox([self.source, files]), self._view, **traits)

    def prepare(self) -> Work:
        """Reads what was chosen."""
        model, evaluation, calibration = self._chosen()
        for pick in (self.model_file, self.evaluation_file, self.calibration_file):
            if pick.error and not self.source.value:
                raise ModelError(pick.error)
        if not model:
            raise ModelError("No model is chosen.", "Type its path, browse for it, or drop the file on the box.")

        self._asked = model
        options, trust = ({}, False) if self.source.value else (self.importing.changed, self.importing.trust.value)

        def work(progress: Progress) -> _Loaded:
            progress(0.02, "reading the samples")
            samples = load_dataset(evaluation, "evaluation") if evaluation else None
            ranges = load_dataset(calibration, "calibration") if calibration else None
            loaded = load_model(
                model,
                options,
                samples=ranges or samples,
                trust=trust,
                workspace=self.open_workspace(),
                progress=part_of(progress, 0.05, 0.8),
            )
            progress(0.85, "looking at the graph")
            for dataset in (samples, ranges):
                if dataset is not None:
                    dataset.check_fits(loaded)
            return loaded, summarize_graph(loaded), find_unsupported(loaded), samples, ranges

        return work

    def show(self, result: _Loaded) -> None:
        """Describes the model and hands it on."""
        model, summary, unsupported, evaluation, calibration = result
        parts = [_markup.facts(_describe(model, summary, evaluation, calibration))]
        if model.conversion:
            parts += [
                _markup.group("Conversion check"),
                _markup.note(model_report.conversion_summary(model.conversion)),
                _markup.listing(model_report.CHECK_HEADINGS, model_report.check_rows(model.conversion)),
                *(_markup.note(note) for note in model.conversion.notes),
            ]
        warning = model_report.support_text(unsupported)
        if warning:
            parts.append(_markup.warning(warning))
        self._view.value = "".join(parts)
        self.original, self.warning = self._asked if model.conversion else None, warning
        with self.hold_trait_notifications():
            self.model, self.evaluation, self.calibration = model, evaluation, calibration

    def code(self) -> tuple[str, str]:
        """Loading as Python and as the head of a recipe."""
        model, evaluation, calibration = self._chosen()
        options, trust = ({}, False) if self.source.value else (self.importing.changed, self.importing.trust.value)
        converted = bool(self.importing.options) and not self.source.value
        samples = "calibration" if calibration else "evaluation" if evaluation else ""
        arguments = [repr(model), *([repr(options)] if options else [])]
        arguments += [f"samples={samples}"] if converted and samples else []
        arguments += ["trust=True"] if trust else []
        python = ["import workbench as wb", ""]
        recipe = [f"model: {model}", "data:", f"  evaluation: {evaluation}"]
        if evaluation:
            python.append(f'evaluation = wb.load_dataset({evaluation!r}, "evaluation")')
        if calibration:
            python.append(f'calibration = wb.load_dataset({calibration!r}, "calibration")')
            recipe.append(f"  calibration: {calibration}")
        python.append(f"model = wb.load_model({', '.join(arguments)})")
        recipe += [f"importer: {json.dumps(options)}"] if options else []
        recipe += ["trust: true"] if trust else []
        return "\n".join(python), "\n".join(recipe)

    def summary(self) -> str:
        """The facts about the loaded model."""
        return self._view.value

    def _chosen(self) -> tuple[str, str, str]:
        if self.source.value:
            return self.source.value, self.source.value, self.source.value
        return self.model_file.path, self.evaluation_file.path, self.calibration_file.path


def _describe(
    model: Model, summary: GraphSummary, evaluation: Dataset | None, calibration: Dataset | None
) -> dict[str, str]:
    common = list(summary.operators.items())[:8]
    return {
        "Model": f"{model.name} ({_origin(model)}, opset {model.opset})",
        "Size": format_size(model.size_bytes / 1e6),
        "Takes": "; ".join(map(str, model.inputs)),
        "Gives": "; ".join(map(str, model.outputs)),
        **model_report.totals(summary),
        "Operators": ", ".join(f"{count} {name}" for name, count in common),
        "Evaluation": _samples(evaluation, "none: accuracy and agreement cannot be measured"),
        "Calibration": _samples(calibration, "none: static quantization needs some"),
    }


def _origin(model: Model) -> str:
    return f"from {model.conversion.framework}" if model.conversion else "ONNX"


def _samples(dataset: Dataset | None, missing: str) -> str:
    if dataset is None:
        return missing
    return f"{len(dataset):,} samples{'' if dataset.labels is None else ' with labels'} ({dataset.name})"
