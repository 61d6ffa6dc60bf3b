"""The Sensitivity panel: which layers suffer from INT8, what float costs there, and variants that keep some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as w
import traitlets as t
import yaml

from widgets import _markup
from widgets._backends import list_backends
from widgets._bokeh import BokehPane
from widgets._form import FIELD_WIDTH, LABEL_STYLE, OptionsForm, changed_options
from widgets._layer_times import time_layers
from widgets._panel import Panel, Work
from widgets._plots_sensitivity import layers_of, sensitivity_figure
from widgets._sensitivity_data import (
    HEADINGS,
    NOTES,
    Entry,
    Times,
    budget_words,
    kept_words,
    list_entries,
    sensitivity_words,
    table_rows,
)
from widgets._table import ResultTable
from workbench.budget import BudgetOptions, BudgetResult, quantize_within_budget
from workbench.comparison import ORIGINAL
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ModelError
from workbench.jobs import Progress, part_of
from workbench.measure.accuracy import AccuracyOptions
from workbench.measure.profile import ProfileOptions, can_profile
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.sensitivity import Sensitivity as Measured
from workbench.sensitivity import SensitivityOptions, measure_sensitivity
from workbench.transforms import transform

_QUANTIZER = "quantize_static"
_TABLE_HEIGHT = 420  # pixels: about sixteen layers


@dataclass(frozen=True)
class _Looked:
    """What one look gave: the layers and their times by node, where it had to look at them, and the budget's result."""

    sensitivity: Measured | None
    times: Times
    budget: BudgetResult | None = None


class Sensitivity(Panel):
    """Ranks layers by what INT8 does to them; the ticked ones stay in float in the variant that it makes."""

    title = "Where it hurts"
    hint = (
        "Tries each layer in INT8 alone, and times it in both forms. Tick what to keep in float, or let an accuracy "
        "budget choose."
    )
    verb = "Measure sensitivity"
    icon = "search"

    model = t.Instance(Model, allow_none=True)
    calibration = t.Instance(Dataset, allow_none=True)
    evaluation = t.Instance(Dataset, allow_none=True)
    accuracy = t.Any(None, help="Fields of AccuracyOptions: what the model is for.")
    variants = t.Tuple(help="Named models, those made here at the end: (name, Model) each.")
    sensitivity = t.Instance(Measured, allow_none=True)
    times = t.Dict(help="By node: its ms in float and in INT8; None where it has no time of its own.")
    budget = t.Instance(BudgetResult, allow_none=True, help="What the accuracy budget allowed.")
    selected_node = t.Unicode(help="Name of the node whose row is selected.")
    kept = t.List(t.Unicode(), help="Names of the layers that are ticked to stay in float.")

    def __init__(self, **traits: Any) -> None:
        names = list_backends(can_profile)
        self.quantization = OptionsForm(find_plugin("transforms", _QUANTIZER).Options, without=("keep_float",))
        self.options = OptionsForm(SensitivityOptions)
        self.backend = w.Dropdown(
            description="Times on", options=names, style=LABEL_STYLE, layout=w.Layout(width=FIELD_WIDTH)
        )
        self.timing = OptionsForm(ProfileOptions)
        self.limits = OptionsForm(BudgetOptions)
        self.keep_budget = w.Button(description="Keep the budget", icon="balance-scale", tooltip="Chooses the layers")
        self.requantize = w.Button(
            description="Requantize", icon="compress", tooltip="Makes a variant with the ticked layers in float"
        )
        self.plot = BokehPane()
        self.table = ResultTable(
            label="layers", headings=list(HEADINGS), notes=list(NOTES), tick="float", height=_TABLE_HEIGHT
        )
        self._empty, self._words, self._kept_words, self._verdict = (w.HTML() for _ in range(4))
        self._entries: list[Entry] = []
        making, budgeting = w.HBox([self.requantize, self._kept_words]), w.HBox([self.keep_budget])
        making.add_class("wb-actions")
        budgeting.add_class("wb-actions")
        form = w.VBox(
            [
                w.HTML(_markup.group("Quantization")),
                self.quantization,
                w.HTML(_markup.group("Look")),
                self.options,
                self.backend,
                w.Accordion([self.timing], titles=("Timing",), selected_index=None),
                w.HTML(_markup.group("Accuracy budget")),
                self.limits,
                budgeting,
            ]
        )
        self._below = w.VBox([self._words, self.table, making])
        super().__init__(form, w.VBox([self._empty, self._verdict, self.plot]), self._below, **traits)
        self._join()
        self._draw()
        self._show_budget()

    def _join(self) -> None:
        self.requantize.on_click(lambda _: self.start(self.prepare_variant))
        self.keep_budget.on_click(lambda _: self.start(self.prepare_budget))
        t.link((self, "kept"), (self.table, "ticked"))
        t.link((self, "selected_node"), (self.table, "selected"))
        self.observe(self.guard(self._draw), ("sensitivity", "times", "budget"))
        self.observe(self.guard(self._show_kept), "kept")
        self.observe(self.guard(self._show_budget), "budget")
        self.observe(lambda _: self._forget(), "model")
        self.observe(lambda _: self._enable(), "state")

    def prepare(self) -> Work:
        """Reads the form for looking at every layer."""
        data, look, accuracy = self._given(), self.options.values, self.accuracy
        quantization, time = self.quantization.changed(), self._prepare_times()

        def work(progress: Progress) -> _Looked:
            space = self.open_workspace()
            report = part_of(progress, 0.0, 0.6)
            found = measure_sensitivity(*data, quantization, look, accuracy=accuracy, workspace=space, progress=report)
            return _Looked(found, time(part_of(progress, 0.6, 1.0)))

        return work

    def prepare_budget(self) -> Work:
        """Reads the form for keeping an accuracy budget."""
        data, limits, look, accuracy = self._given(), self.limits.values, self.options.values, self.accuracy
        backend, quantization, time = self.backend.value, self.quantization.changed(), self._prepare_times()

        def work(progress: Progress) -> _Looked:
            result = quantize_within_budget(
                *data,
                quantization,
                limits,
                sensitivity=look,
                backend=backend,
                accuracy=accuracy,
                workspace=self.open_workspace(),
                progress=part_of(progress, 0.0, 0.8),
            )
            times = time(part_of(progress, 0.8, 1.0)) if result.sensitivity else {}
            return _Looked(result.sensitivity, times, result)

        return work

    def _prepare_times(self) -> Callable[[Progress], Times]:
        """Reads the form for timing every layer in float and in INT8."""
        model, calibration, evaluation = self._given()
        quantization, backend, options = self.quantization.changed(), self.backend.value, self.timing.values

        def time(progress: Progress) -> Times:
            space, making = self.open_workspace(), part_of(progress, 0.0, 0.1)
            int8 = transform(model, _QUANTIZER, quantization, dataset=calibration, workspace=space, progress=making)
            return time_layers((model, int8), backend, options, evaluation, space, part_of(progress, 0.1, 1.0))

        return time

    def prepare_variant(self) -> Work:
        """Reads which layers are ticked, for the model that keeps them in float."""
        model, calibration, _ = self._given()
        options, name = {**self.quantization.changed(), "keep_float": list(self.kept)}, self._free_name(len(self.kept))

        def work(progress: Progress) -> tuple[str, Model]:
            space = self.open_workspace()
            return name, transform(model, _QUANTIZER, options, dataset=calibration, workspace=space, progress=progress)

        return work

    def show(self, result: _Looked | tuple[str, Model]) -> None:
        """Shows the layers; or adds the variant that was made."""
        if not isinstance(result, _Looked):
            self.variants = (*self.variants, result)
            return
        if result.sensitivity is not None:
            self.times, self.sensitivity = result.times, result.sensitivity
            known = {layer.name for layer in result.sensitivity.layers}
            self.kept = [name for name in self.kept if name in known]
        self.budget = result.budget
        if result.budget is not None:
            self.kept = [layer.name for layer in result.budget.kept]
            if result.budget.holds:
                self.variants = (*self.variants, (self._free_name(len(self.kept)), result.budget.model))

    def code(self) -> tuple[str, str]:
        """Looking, keeping a budget and the variant with the ticked layers: as Python, and as a recipe's candidate."""
        quantization, options, limits = self.quantization.changed(), self.options.changed(), self.limits.changed()
        scoring = {} if self.accuracy is None else changed_options(AccuracyOptions, self.accuracy)
        accuracy = f", accuracy={scoring!r}" if scoring else ""
        data = f"model, calibration, evaluation, {quantization!r}"
        name, chosen = _name(len(self.kept)), {**quantization, **({"keep_float": list(self.kept)} if self.kept else {})}
        lines = [
            "import workbench as wb",
            "",
            f"sensitivity = wb.measure_sensitivity({data}, {options!r}{accuracy})",
            "print(wb.sensitivity_text(sensitivity))",
        ]
        if self.budget is not None:
            given = f"{limits!r}, sensitivity={options!r}, backend={self.backend.value!r}{accuracy}"
            lines += [f"result = wb.quantize_within_budget({data}, {given})", "print(wb.budget_text(result))"]
        lines.append(f"variants[{name!r}] = wb.transform(model, {_QUANTIZER!r}, {chosen!r}, dataset=calibration)")
        candidate = {"name": name, "transforms": [{_QUANTIZER: chosen} if chosen else _QUANTIZER]}
        return "\n".join(lines), yaml.safe_dump({"candidates": [candidate]}, sort_keys=False)

    def summary(self) -> str:
        """The layers without scripts."""
        if self.sensitivity is None:
            return self._verdict.value or self._empty.value
        rows = [
            ["✓" if row["name"] in self.kept else "", *(cell["text"] for cell in row["cells"])]
            for row in table_rows(self._entries, self.sensitivity.samples)
        ]
        return self._words.value + self._verdict.value + _markup.listing(("float", *HEADINGS), rows)

    def _given(self) -> tuple[Model, Dataset, Dataset]:
        if self.model is None:
            raise ModelError("There is no model to look at.", "Load one first.")
        for dataset, what in ((self.calibration, "to calibrate with"), (self.evaluation, "to score on")):
            if dataset is None:
                raise DatasetError(f"There are no samples {what}.", "Load some with the model.")
        return self.model, self.calibration, self.evaluation

    def _free_name(self, kept: int) -> str:
        taken = {ORIGINAL, *(name for name, _ in self.variants)}
        wanted = _name(kept)
        numbered = (wanted if number == 1 else f"{wanted} ({number})" for number in range(1, len(taken) + 2))
        return next(name for name in numbered if name not in taken)

    def _forget(self) -> None:
        """Another model: what was found belongs to the one before."""
        self.sensitivity, self.times, self.budget, self.kept = None, {}, None, []
        self._draw()

    def _enable(self) -> None:
        busy = self.state == "running"
        self.requantize.disabled = busy or not self._entries
        self.keep_budget.disabled = busy or self.model is None

    def _draw(self) -> None:
        self._entries = list_entries(self.sensitivity, self.times)
        known = self.sensitivity is not None
        for widget in (self.plot, self._below):
            widget.layout.display = "" if known else "none"
        self._empty.layout.display = "none" if known or self.budget else ""
        waiting = "Press Measure sensitivity to see which layers INT8 hurts." if self.model else "Load a model first."
        self._empty.value = _markup.empty(waiting)
        self._enable()
        if self.sensitivity is None:
            return
        self._words.value = _markup.note(sensitivity_words(self.sensitivity))
        self.table.rows = table_rows(self._entries, self.sensitivity.samples)
        self._draw_plot(self._entries, self.sensitivity)
        self._show_kept()

    def _draw_plot(self, entries: Sequence[Entry], sensitivity: Measured) -> None:
        plot = sensitivity_figure(entries, self.kept, sensitivity.quantized_sqnr_db)
        source = layers_of(plot)

        def tick(_attr: str, _old: Any, new: list[int]) -> None:
            drawn = source.data["name"]
            chosen = {drawn[number] for number in new}
            kept = [name for name in self.kept if name in chosen or name not in drawn]
            self.kept = kept + [name for name in drawn if name in chosen and name not in kept]

        source.selected.on_change("indices", tick)
        self.plot.show(plot, label="Layers: SQNR of the output against what float costs")

    def _show_kept(self) -> None:
        """Ticks in the table, points in the plot and the words beside the button say the same."""
        self._kept_words.value = _markup.note(kept_words(self._entries, self.kept))
        if self.plot.figure is None:
            return
        source = layers_of(self.plot.figure)
        wanted = [number for number, name in enumerate(source.data["name"]) if name in self.kept]
        if sorted(source.selected.indices) != wanted:
            source.selected.indices = wanted

    def _show_budget(self) -> None:
        result = self.budget
        words = budget_words(result) if result else ""
        self._verdict.value = (_markup.note if result and result.holds else _markup.warning)(words) if words else ""


def _name(kept: int) -> str:
    return f"INT8, {kept} in float" if kept else "INT8"
