"""The Compare panel: measures the original and its variants, and shows what to ship."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as w
import traitlets as t
import yaml

from widgets import _markup
from widgets._backends import BackendPick
from widgets._candidate_details import candidate_details, failures_text
from widgets._candidates import Wanted, make_all, wanted_candidates
from widgets._comparison_plots import ComparisonPlots
from widgets._form import LABEL_STYLE, OptionsForm
from widgets._panel import Panel, Work
from widgets._plots import candidate_color
from widgets._report_page import report_page
from widgets._table import ResultTable
from workbench.choice import Choice, ChoiceOptions, choose, find_outside, pareto_front
from workbench.comparison import ORIGINAL, Comparison, compare
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ModelError, OptionsError
from workbench.jobs import Progress, part_of
from workbench.measure.accuracy import AccuracyOptions
from workbench.measure.latency import LatencyOptions
from workbench.model import Model
from workbench.report import SLOWER, comparison_html, footnote, format_bytes, headings, table_row
from workbench.workspace import write_bytes


class Compare(Panel):
    """Measures candidates in turns and marks the Pareto front and the choice within limits."""

    title = "Compare"
    hint = (
        "Accuracy on the evaluation samples, latency in rounds that take turns. Limits act at once, without measuring."
    )
    verb = "Measure"
    icon = "tachometer"
    update_seconds = 1.0  # updates of the page would disturb the timing

    model = t.Instance(Model, allow_none=True)
    variants = t.Tuple(help="Named models: (name, Model) each.")
    additions = t.Tuple(help="More candidates, as a recipe has them: name, transforms, backend, options.")
    calibration = t.Instance(Dataset, allow_none=True, help="Samples for the transforms of additions.")
    evaluation = t.Instance(Dataset, allow_none=True)
    comparison = t.Instance(Comparison, allow_none=True)
    choice = t.Instance(Choice, allow_none=True)
    selected = t.Unicode(help="Name of the candidate selected in table and plot.")
    findings = t.Tuple(None, allow_none=True, help="Findings for the report; None if nobody looked.")
    profiles = t.Dict(help="Layer profiles for the report, by name of the candidate.")

    def __init__(self, **traits: Any) -> None:
        self.limits = OptionsForm(ChoiceOptions)
        self.backends = BackendPick()
        self.latency = OptionsForm(LatencyOptions)
        self.accuracy = OptionsForm(AccuracyOptions)
        self.fresh = w.Checkbox(
            description="Measure again",
            tooltip="Do not reuse an earlier result",
            indent=True,
            style=LABEL_STYLE,
            layout=w.Layout(width="360px"),
        )
        self._save = w.Button(
            description="Save report", icon="save", tooltip="One HTML file that opens without a kernel"
        )
        self._empty = w.HTML(_markup.empty("Make variants in Compress, then press Measure."))
        self._added, self._note, self.details = w.HTML(), w.HTML(), w.HTML()
        self._failures, self._saved = w.HTML(), w.HTML()
        self.table = ResultTable(label="candidates")
        self.plots = ComparisonPlots()
        saving = w.HBox([self._save, self._saved])
        saving.add_class("wb-actions")
        self._measured = w.VBox([self._failures, self.table, self.details, self._note, saving])
        form = w.VBox(
            [
                w.HTML(_markup.group("Limits")),
                self.limits,
                w.HTML(_markup.group("Run on")),
                self.backends,
                self._added,
                w.HTML(_markup.group("Measure")),
                self.latency,
                w.Accordion([self.accuracy], titles=("Scoring",), selected_index=None),
                self.fresh,
            ]
        )
        super().__init__(form, w.VBox([self._empty, self.plots]), self._measured, **traits)
        self._join()
        self._list_additions()
        self._draw()

    def _join(self) -> None:
        self._save.on_click(self.guard(self.save_report))
        self.limits.observe(self.guard(self._choose), "values")
        for part in (self.table, self.plots):
            t.link((part, "selected"), (self, "selected"))
        self.observe(self.guard(self._describe), "selected")
        self.observe(self.guard(self._draw), "comparison")
        self.observe(lambda _: self._list_additions(), "additions")
        self.observe(lambda _: self._forget(), "model")

    @property
    def options(self) -> OptionsForm:
        """The options of the backend that the original runs on."""
        if not self.backends.chosen:
            raise OptionsError("No backend is ticked.", "Tick what to run on.")
        return self.backends[self.backends.chosen[0]]

    def prepare(self) -> Work:
        """Reads the form."""
        if self.model is None:
            raise ModelError("There is no model to measure.", "Load one first.")
        if self.evaluation is None:
            raise DatasetError("There are no samples to score on.", "Load evaluation samples with the model.")
        wanted, latency, accuracy = self._wanted(), self.latency.values, self.accuracy.values
        evaluation, calibration, fresh = self.evaluation, self.calibration, self.fresh.value

        def work(progress: Progress) -> Comparison:
            workspace = self.open_workspace()
            made, failures = make_all(wanted, calibration, workspace, part_of(progress, 0.0, 0.1))
            found = compare(
                made,
                evaluation,
                latency,
                accuracy=accuracy,
                workspace=workspace,
                fresh=fresh,
                progress=part_of(progress, 0.1, 1.0),
            )
            return replace(found, failures={**failures, **found.failures})

        return work

    def show(self, result: Comparison) -> None:
        """Shows the table and the plots."""
        self.comparison = result

    def save_report(self, path: str | Path | None = None) -> Path:
        """Writes what was measured as one HTML file, and has the page download it.

        Args:
            path: The file; by default one in the workspace, named after the model.

        Returns:
            Where it was written.

        Raises:
            ModelError: Nothing was measured.
            WorkspaceError: The place cannot be written.
        """
        if self.comparison is None:
            raise ModelError("There is nothing to report.", "Measure first.")
        if path is None:
            name = self.comparison.original.candidate.engine.model.name
            path = self.open_workspace().root / "reports" / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.html"
        path = Path(path).expanduser().absolute()
        page = report_page(self.comparison, self.choice, self.findings, self.profiles).encode()
        write_bytes(path, page)
        self.table.offer(path.name, page)
        self._saved.value = _markup.note(f"Saved to {path} ({format_bytes(len(page))}).")
        return path

    def code(self) -> tuple[str, str]:
        """Measuring and choosing as Python and as part of a recipe."""
        wanted, backends = self._wanted(), self.backends.options
        latency, accuracy, limits = self.latency.changed(), self.accuracy.changed(), self.limits.changed()
        scoring = f", accuracy={accuracy!r}" if accuracy else ""
        lines = [
            "import workbench as wb",
            "",
            f"options = {backends!r}",
            "candidates = [",
            *(f"    {_expression(each)}," for each in wanted),
            "]",
            f"comparison = wb.compare(candidates, evaluation, {latency!r}{scoring})",
            f"choice = wb.choose(comparison, {limits!r})",
            "print(wb.comparison_text(comparison, choice))",
        ]
        first = wanted[0]
        recipe = {
            "backend": first.backend,
            "options": dict(first.options),
            "candidates": [each.entry for each in wanted[1:] if each.transforms is not None],
            "latency": latency,
            "accuracy": accuracy,
            "choose": limits,
        }
        return "\n".join(lines), yaml.safe_dump({key: value for key, value in recipe.items() if value}, sort_keys=False)

    def summary(self) -> str:
        """The table without scripts."""
        if self.comparison is None:
            return super().summary()
        return comparison_html(self.comparison, self.choice)

    def _wanted(self) -> list[Wanted]:
        if not self.backends.chosen:
            raise OptionsError("No backend is ticked.", "Tick what to run on.")
        models = [(ORIGINAL, self.model), *self.variants]
        return wanted_candidates(models, self.backends.options, self.additions)

    def _forget(self) -> None:
        self.additions, self.comparison = (), None

    def _list_additions(self) -> None:
        names = ", ".join(addition["name"] for addition in self.additions)
        self._added.value = _markup.note(f"Added by Explain: {names}.") if names else ""

    def _choose(self) -> None:
        """Front and choice follow the limits at once; nothing is measured again."""
        comparison = self.comparison
        if comparison is None:
            self.choice = None
            return
        limits = self.limits.values
        self.choice = choose(comparison, limits)
        front, outside = pareto_front(comparison, limits), find_outside(comparison, limits)
        self.table.headings = list(headings(comparison))
        self.table.rows = [
            {
                "name": row.name,
                "mark": "★" if row.name == self.choice.name else "◆" if row.name in front else "",
                "color": candidate_color(number),
                "faded": row.name in outside,
                "label": SLOWER if row.slower else "",
                "cells": [
                    {"text": cell.text, "value": _finite(cell.value), "note": cell.note}
                    for cell in table_row(comparison, row)
                ],
            }
            for number, row in enumerate(comparison.rows)
        ]
        self.plots.limit(outside, front)
        self._note.value = _markup.note(footnote(comparison, self.choice, doubts=False))
        self._describe()

    def _draw(self) -> None:
        comparison = self.comparison
        self._empty.layout.display = "" if comparison is None else "none"
        for widget in (self.plots, self._measured):
            widget.layout.display = "none" if comparison is None else ""
        self._failures.value, self._saved.value = failures_text(comparison) if comparison else "", ""
        if comparison is not None:
            self.plots.show(comparison)
        self._choose()
        self.selected = self.choice.name if self.choice else ""

    def _describe(self) -> None:
        """What stands behind the selected candidate's numbers."""
        rows = self.comparison.rows if self.comparison else ()
        row = next((row for row in rows if row.name == self.selected), None)
        self.details.value = candidate_details(row, self.choice) if row else ""


def _expression(wanted: Wanted) -> str:
    """The Python that makes a candidate."""
    if wanted.model is None:
        return f"wb.make_candidate(model, {wanted.entry!r}, calibration=calibration)"
    model = "model" if wanted.variant == ORIGINAL else f"variants[{wanted.variant!r}]"
    built = f"wb.build_engine({model}, {wanted.backend!r}, options[{wanted.backend!r}])"
    return f"wb.Candidate({wanted.name!r}, {built})"


def _finite(value: float | str) -> float | str:
    return 1e308 if value == float("inf") else value  # JSON has no infinity
