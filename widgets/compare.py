"""The Compare panel: measures the original and its variants, and shows what to ship."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import traitlets as t
import yaml

from widgets import _markup
from widgets._bokeh import BokehPane
from widgets._form import FIELD_WIDTH, LABEL_STYLE, OptionsForm
from widgets._panel import Panel, Work
from widgets._plots import candidate_color, front_figure
from widgets._table import ResultTable
from workbench.backends import build_engine
from workbench.comparison import ORIGINAL, Candidate, Choice, ChoiceOptions, Comparison, choose, compare, pareto_front
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ModelError
from workbench.jobs import Progress
from workbench.measure.latency import LatencyOptions
from workbench.model import Model
from workbench.plugins import find_plugin, list_plugins
from workbench.report import HEADINGS, comparison_html, footnote, table_row


class Compare(Panel):
    """Measures candidates in turns and marks the Pareto front and the choice under an accuracy budget."""

    title = "Compare"
    hint = "Accuracy on the evaluation samples, latency in rounds that take turns. A click on a heading sorts."
    verb = "Measure"
    icon = "tachometer"
    update_seconds = 1.0  # updates of the page would disturb the timing

    model = t.Instance(Model, allow_none=True)
    variants = t.Tuple(help="Named models: (name, Model) each.")
    evaluation = t.Instance(Dataset, allow_none=True)
    comparison = t.Instance(Comparison, allow_none=True)
    choice = t.Instance(Choice, allow_none=True)
    selected = t.Unicode(help="Name of the candidate selected in table and plot.")

    def __init__(self, **traits: Any) -> None:
        backends = [plugin.name for plugin in list_plugins("backends") if plugin.available]
        self.backend = w.Dropdown(
            description="Backend",
            options=backends,
            style=LABEL_STYLE,
            layout=w.Layout(width=FIELD_WIDTH),
        )
        self._forms = {name: _backend_form(name) for name in backends}
        self.latency = OptionsForm(LatencyOptions)
        self.budget = OptionsForm(ChoiceOptions)
        self.fresh = w.Checkbox(
            description="Measure again",
            tooltip="Do not reuse an earlier result",
            indent=True,
            style=LABEL_STYLE,
            layout=w.Layout(width="360px"),
        )
        self._slot = w.VBox()
        self._empty = w.HTML(_markup.empty("Make variants in Compress, then press Measure."))
        self.table = ResultTable(headings=list(HEADINGS), label="candidates")
        self.plot = BokehPane()
        self._note = w.HTML()
        self._source: Any = None
        self._measured = w.VBox([self.table, self._note])
        form = w.VBox(
            [
                w.HTML('<div class="wb-group">Choose</div>'),
                self.budget,
                w.HTML('<div class="wb-group">Measure</div>'),
                self.latency,
                self.fresh,
                w.HTML('<div class="wb-group">Run on</div>'),
                self.backend,
                self._slot,
            ]
        )
        super().__init__(form, w.VBox([self._empty, self.plot]), self._measured, **traits)
        self.backend.observe(lambda _: self._swap(), "value")
        self.budget.observe(self.guard(self._choose), "values")
        t.link((self.table, "selected"), (self, "selected"))
        self.observe(lambda _: self._select_point(), "selected")
        self.observe(self.guard(self._draw), "comparison")
        self._swap()
        self._draw()

    @property
    def options(self) -> OptionsForm:
        """The form of the chosen backend."""
        return self._forms[self.backend.value]

    def prepare(self) -> Work:
        """Reads the form."""
        if self.model is None:
            raise ModelError("There is no model to measure.", "Load one first.")
        if self.evaluation is None:
            raise DatasetError("There are no samples to score on.", "Load evaluation samples with the model.")
        named = [(ORIGINAL, self.model), *self.variants]
        backend, options, latency = self.backend.value, self.options.values, self.latency.values
        evaluation, fresh = self.evaluation, self.fresh.value

        def work(progress: Progress) -> Comparison:
            candidates = [Candidate(name, build_engine(model, backend, options)) for name, model in named]
            workspace = self.open_workspace()
            return compare(candidates, evaluation, latency, workspace=workspace, fresh=fresh, progress=progress)

        return work

    def show(self, result: Comparison) -> None:
        """Shows the table and the plot."""
        self.comparison = result

    def code(self) -> tuple[str, str]:
        """Measuring and choosing as Python and as part of a recipe."""
        options, latency, budget = self.options.changed(), self.latency.changed(), self.budget.changed()
        models = {ORIGINAL: "model", **{name: f"variants[{name!r}]" for name, _ in self.variants}}
        built = f"{self.backend.value!r}, options"
        names = "".join(f"    wb.Candidate({n!r}, wb.build_engine({m}, {built})),\n" for n, m in models.items())
        python = (
            f"import workbench as wb\n\noptions = {options!r}\ncandidates = [\n{names}]\n"
            f"comparison = wb.compare(candidates, evaluation, {latency!r})\n"
            f"choice = wb.choose(comparison, {budget!r})\nprint(wb.comparison_text(comparison, choice))"
        )
        recipe = {"backend": self.backend.value, "options": options, "latency": latency, "choose": budget}
        return python, yaml.safe_dump({key: value for key, value in recipe.items() if value}, sort_keys=False)

    def summary(self) -> str:
        """The table without scripts."""
        if self.comparison is None:
            return super().summary()
        return comparison_html(self.comparison, self.choice)

    def _swap(self) -> None:
        self._slot.children = [self.options]

    def _choose(self) -> None:
        """The choice follows the budget at once; nothing is measured again."""
        if self.comparison is None:
            self.choice = None
            return
        self.choice = choose(self.comparison, self.budget.values)
        front = pareto_front(self.comparison)
        self.table.rows = [
            {
                "name": row.name,
                "mark": "★" if row.name == self.choice.name else "◆" if row.name in front else "",
                "color": candidate_color(number),
                "cells": [
                    {"text": cell.text, "value": _finite(cell.value), "note": cell.note}
                    for cell in table_row(self.comparison, row)
                ],
            }
            for number, row in enumerate(self.comparison.rows)
        ]
        self._note.value = _markup.note(footnote(self.comparison, self.choice))

    def _draw(self) -> None:
        measured = self.comparison is not None
        self._empty.layout.display = "none" if measured else ""
        for widget in (self.plot, self._measured):
            widget.layout.display = "" if measured else "none"
        self._choose()
        if self.comparison is None or self.choice is None:
            return
        figure, self._source = front_figure(self.comparison)
        self._source.selected.on_change("indices", self._select_row)
        self.plot.show(figure, label="accuracy against latency of the candidates")
        self.selected = ""
        self.selected = self.choice.name

    def _select_row(self, _attr: str, _old: Any, new: list[int]) -> None:
        if self.comparison is not None and new:
            self.selected = self.comparison.rows[new[0]].name

    def _select_point(self) -> None:
        if self.comparison is None or self._source is None:
            return
        names = [row.name for row in self.comparison.rows]
        wanted = [names.index(self.selected)] if self.selected in names else []
        if list(self._source.selected.indices) != wanted:
            self._source.selected.indices = wanted


def _backend_form(name: str) -> OptionsForm:
    plugin = find_plugin("backends", name)
    return OptionsForm(plugin.Options, choices={"provider": plugin.devices()})


def _finite(value: float | str) -> float | str:
    return 1e308 if value == float("inf") else value  # JSON has no infinity
