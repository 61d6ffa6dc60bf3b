"""The Predictions panel: the samples on which a candidate says something else than the original."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import ipywidgets as w
import traitlets as t
import yaml
from numpy.typing import NDArray

from widgets import _markup
from widgets._bokeh import BokehPane
from widgets._form import FIELD_WIDTH, LABEL_STYLE
from widgets._panel import Panel, Work
from widgets._plots_confusion import MOST_CLASSES, confusion_figure
from widgets._prediction_rows import change_line, sample_table
from widgets._thumbnail import image_input
from workbench.backends import predict
from workbench.comparison import Comparison, Row
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ModelError, WorkbenchError
from workbench.jobs import Progress, part_of
from workbench.measure.accuracy import AccuracyOptions
from workbench.measure.confusion import confusion_lines, confusion_matrix
from workbench.measure.predictions import ChangedSample, changed_samples
from workbench.options import make_options, to_builtins

_PAGE = 12  # samples shown at once
_FILTERS = {"all": "changed", "lost": "was lost", "gained": "was gained", "changed": "is wrong in both, but differs"}


@dataclass(frozen=True)
class _Shown:
    """What there is to show of one candidate."""

    row: Row
    samples: tuple[ChangedSample, ...]
    total: int
    images: NDArray[Any] | None
    matrices: tuple[NDArray[Any], NDArray[Any]] | None


class Predictions(Panel):
    """Shows the changed samples of one candidate with their labels, lost ones first, and its confusion matrix."""

    title = "Predictions"
    hint = (
        "Samples on which a candidate says something else than the original. Outputs are kept, so nothing is run twice."
    )
    verb = "Show"
    icon = "eye"

    comparison = t.Instance(Comparison, allow_none=True)
    evaluation = t.Instance(Dataset, allow_none=True)
    selected = t.Unicode(help="Name of the candidate whose predictions are shown.")
    accuracy = t.Any(None, help="Fields of AccuracyOptions: what the models are for.")

    def __init__(self, **traits: Any) -> None:
        shared = {"style": LABEL_STYLE, "layout": w.Layout(width=FIELD_WIDTH)}
        self.candidate = w.Dropdown(description="Candidate", options=[], **shared)
        self.filter = w.Dropdown(description="Show", options=list(_FILTERS), **shared)
        self._back = w.Button(description="Previous", icon="chevron-left")
        self._next = w.Button(description="Next", icon="chevron-right")
        self._place = w.Label()
        self._pages = w.HBox([self._back, self._next, self._place])
        self._pages.add_class("wb-actions")
        self._samples, self._mistakes = w.HTML(), w.HTML()
        self.matrix = BokehPane()
        self._shown: _Shown | None = None
        self._first, self._quiet = 0, False
        form = w.VBox([self.candidate, self.filter, self._mistakes, self.matrix])
        super().__init__(form, w.VBox([self._samples, self._pages]), **traits)
        self.filter.observe(self.guard(self._draw_first), "value")
        self._back.on_click(self.guard(lambda: self._turn(-_PAGE)))
        self._next.on_click(self.guard(lambda: self._turn(_PAGE)))
        self.candidate.observe(self.guard(self._choose), "value")
        self.matrix.observe(self.guard(self._draw_matrix), "dark")
        self.observe(self.guard(self._list), ("comparison", "evaluation", "accuracy"))
        self.observe(self.guard(self._follow), "selected")
        self._list()

    @property
    def samples(self) -> tuple[ChangedSample, ...]:
        """The changed samples that the filter lets through."""
        if self._shown is None:
            return ()
        wanted = self.filter.value
        return tuple(sample for sample in self._shown.samples if wanted in ("all", sample.verdict))

    def prepare(self) -> Work:
        """Reads which candidate is meant."""
        comparison, evaluation = self.comparison, self.evaluation
        if comparison is None or len(comparison.rows) < 2:
            raise ModelError("There is no candidate beside the original.", "Measure some in Compare first.")
        if evaluation is None:
            raise DatasetError("There are no samples.", "Load evaluation samples with the model.")
        row = comparison[self.candidate.value]
        options = make_options(AccuracyOptions, self.accuracy, "accuracy")

        def work(progress: Progress) -> _Shown:
            workspace = self.open_workspace()
            outputs = [
                predict(each.candidate.engine, evaluation, workspace=workspace, progress=part_of(progress, *share))
                for each, share in ((comparison.original, (0.0, 0.4)), (row, (0.4, 0.8)))
            ]
            samples = changed_samples(*outputs, evaluation, options, progress=part_of(progress, 0.8, 1.0))
            matrices = None
            if options.task == "classification" and evaluation.labels is not None:
                before, after = (confusion_matrix(each, evaluation, options) for each in outputs)
                matrices = before, after
            return _Shown(row, samples, len(evaluation), image_input(evaluation.inputs), matrices)

        return work

    def show(self, result: _Shown) -> None:
        """Shows the first page of the changed samples, and the matrix."""
        self._shown = result
        self._draw_first()
        self._draw_matrix()

    def code(self) -> tuple[str, str]:
        """The same as Python, and what a recipe says of the task."""
        options = {} if self.accuracy is None else to_builtins(self.accuracy)
        python = (
            "import workbench as wb\n\n"
            f"rows = comparison.original, comparison[{self.candidate.value!r}]\n"
            "before, after = (wb.predict(row.candidate.engine, evaluation) for row in rows)\n"
            f"for sample in wb.changed_samples(before, after, evaluation, {options!r}):\n"
            "    print(sample.verdict, sample.number, sample.label, sample.before.text, '→', sample.after.text)"
        )
        return python, yaml.safe_dump({"accuracy": options}, sort_keys=False) if options else ""

    def summary(self) -> str:
        """The first page without scripts."""
        return self._samples.value or super().summary()

    def _list(self) -> None:
        """Offers the candidates of another comparison, and shows the one that was selected before, or the first."""
        self._shown = None
        names = [row.name for row in self.comparison.rows[1:]] if self.comparison else []
        self._quiet = True
        self.candidate.options = names
        if names:
            self.candidate.value = self.selected if self.selected in names else names[0]
        self._quiet = False
        self._draw_first()
        self._draw_matrix()
        self._choose()

    def _follow(self) -> None:
        if self.selected in self.candidate.options:
            self.candidate.value = self.selected

    def _choose(self) -> None:
        if self.candidate.value and not self._quiet:
            self.selected = self.candidate.value
            self._begin()

    def _begin(self) -> None:
        """Shows another candidate; what is still under way for the one before is dropped."""
        if not self.candidate.value or self.evaluation is None:
            return
        if self.state == "running":
            self.cancel()
            with contextlib.suppress(WorkbenchError):  # nobody waits for it any more
                self.wait()
        if self._shown is None or self._shown.row is not self.comparison[self.candidate.value]:
            self.start()

    def _turn(self, step: int) -> None:
        self._first = min(max(0, self._first + step), max(0, len(self.samples) - 1)) // _PAGE * _PAGE
        self._draw()

    def _draw_first(self) -> None:
        self._first = 0
        self._draw()

    def _draw(self) -> None:
        shown, samples = self._shown, self.samples
        several = len(samples) > _PAGE
        self._pages.layout.display = "" if several else "none"
        if shown is None:
            candidates = bool(self.candidate.options)
            text = (
                "Press Show."
                if candidates
                else "Measure candidates in Compare: here is where their predictions differ."
            )
            self._samples.value = _markup.empty(text)
            return
        page = samples[self._first : self._first + _PAGE]
        line = _markup.note(change_line(shown.row, shown.samples, shown.total))
        nothing = f"No prediction {_FILTERS[self.filter.value]}."
        self._samples.value = line + (sample_table(page, shown.images) if page else _markup.empty(nothing))
        self._place.value = f"{self._first + 1}–{self._first + len(page)} of {len(samples)}"
        self._back.disabled, self._next.disabled = self._first == 0, self._first + _PAGE >= len(samples)

    def _draw_matrix(self) -> None:
        matrices = self._shown.matrices if self._shown else None
        drawn = matrices is not None and len(matrices[1]) <= MOST_CLASSES
        self.matrix.layout.display = "" if drawn else "none"
        self._mistakes.value = ""
        if matrices is None:
            return
        before, after = matrices
        if drawn:
            plot = confusion_figure(after, before, self.matrix.dark)
            self.matrix.show(plot, label="confusion matrix of the candidate")
        else:
            lines = confusion_lines(after)
            self._mistakes.value = _markup.group("Most frequent mistakes") + _markup.note("\n".join(lines) or "none")
