"""Loss and validation score by epoch, which grow while a student learns: data, and apart from it drawing."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from bokeh.layouts import column
from bokeh.models import ColumnDataSource, DataRange1d, HoverTool, LegendItem, LogTickFormatter
from bokeh.models.layouts import LayoutDOM

from widgets._plots import GREY, add_legend, candidate_color, new_figure
from workbench.training import Epoch

_PARTS = {"loss": "whole", "teacher_loss": "teacher", "label_loss": "labels", "feature_loss": "features"}
_HEIGHT = 260  # pixels


def epoch_data(epochs: Sequence[Epoch]) -> dict[str, list[Any]]:
    """Epochs as columns: losses, score (%), seconds; NaN, which is not drawn, for a part that the loss has not."""
    data: dict[str, list[Any]] = {part: [_known(getattr(epoch, part)) for epoch in epochs] for part in _PARTS}
    data["number"] = [epoch.number for epoch in epochs]
    data["score"] = [100 * epoch.score for epoch in epochs]
    data["seconds"] = [epoch.seconds for epoch in epochs]
    return data


def best_epoch(epochs: Sequence[Epoch]) -> Epoch | None:
    """The epoch with the best score, the last of those that are marked as best."""
    return next((epoch for epoch in reversed(epochs) if epoch.best), None)


def _known(value: float | None) -> float:
    return math.nan if value is None else value


class TrainingPlot:
    """Loss above, validation score below, with the best epoch marked; both share the axis of epochs.

    Attributes:
        layout: What to show.
    """

    def __init__(self) -> None:
        self._epochs = ColumnDataSource(epoch_data(()))
        self._best = ColumnDataSource({"number": [], "score": []})
        self._parts: dict[str, LegendItem] = {}
        epochs = DataRange1d(start=0.5, range_padding=0.05)
        self._teacher = ColumnDataSource({"number": [], "score": []})
        self.layout: LayoutDOM = column(
            [self._draw_score(epochs), self._draw_loss(epochs)], sizing_mode="stretch_width"
        )

    def add(self, epochs: Sequence[Epoch], best: Epoch | None) -> None:
        """Adds finished epochs and marks the best of all so far."""
        if epochs:
            self._epochs.stream(epoch_data(epochs))
            self._name_parts()
        self._mark(best)

    def show(self, epochs: Sequence[Epoch], teacher_score: float | None = None) -> None:
        """Shows these epochs in place of what was there, and the teacher's score."""
        self._epochs.data = epoch_data(epochs)
        self._name_parts()
        self._mark(best_epoch(epochs))
        if teacher_score is not None and not math.isnan(teacher_score):
            ends = [1, max((epoch.number for epoch in epochs), default=1)]
            self._teacher.data = {"number": ends, "score": [100 * teacher_score] * 2}
            self._score_legend.items = [*self._score_legend.items[:2], self._teacher_item]

    def _mark(self, best: Epoch | None) -> None:
        self._best.data = (
            {"number": [best.number], "score": [100 * best.score]} if best else {"number": [], "score": []}
        )

    def _name_parts(self) -> None:
        """The legend names the parts of the loss that there are."""
        there = [item for part, item in self._parts.items() if not all(map(math.isnan, self._epochs.data[part]))]
        if self._legend.items != there:
            self._legend.items = there

    def _draw_score(self, epochs: DataRange1d) -> Any:
        plot = new_figure("Validation score", "epoch", "score (%)", height=_HEIGHT, x_range=epochs)
        plot.outline_line_color = None  # Bokeh 3.9 draws it over the path that the last marker of the frame before left
        plot.xaxis.ticker.min_interval = 1
        teacher = plot.line("number", "score", source=self._teacher, color=GREY, line_dash="dashed", line_width=2)
        line = plot.line("number", "score", source=self._epochs, color=candidate_color(0), line_width=2)
        points = plot.scatter("number", "score", source=self._epochs, color=candidate_color(0), size=6)
        best = plot.scatter(
            "number", "score", source=self._best, size=18, marker="star", fill_color=None, line_color=GREY, line_width=2
        )
        self._teacher_item = LegendItem(label="teacher", renderers=[teacher])
        names = {"student": [line, points], "best epoch": [best]}
        add_legend(plot, [LegendItem(label=name, renderers=drawn) for name, drawn in names.items()])
        self._score_legend = plot.legend[0]
        self._score_legend.ncols = len(names) + 1  # the teacher comes with the result
        tips = [("epoch", "@number, @seconds{0.0} s"), ("score", "@score{0.00} %"), ("loss", "@loss{0.0000}")]
        plot.add_tools(HoverTool(renderers=[points], tooltips=tips))
        return plot

    def _draw_loss(self, epochs: DataRange1d) -> Any:
        plot = new_figure("Loss", "epoch", "loss", height=_HEIGHT, x_range=epochs, y_axis_type="log")
        plot.outline_line_color = None  # as above
        plot.yaxis.formatter = LogTickFormatter(min_exponent=4)
        plot.xaxis.ticker.min_interval = 1
        for number, (part, label) in enumerate(_PARTS.items()):
            style = {} if part == "loss" else {"line_dash": "dotted"}
            color = candidate_color((3, 0, 2, 4)[number])
            line = plot.line("number", part, source=self._epochs, color=color, line_width=2, **style)
            points = plot.scatter("number", part, source=self._epochs, color=color, size=4)
            self._parts[part] = LegendItem(label=label, renderers=[line, points])
        add_legend(plot, list(self._parts.values()))
        self._legend = plot.legend[0]
        return plot


class TrainingStream:
    """Collects epochs and hands them to the plot at most ten times a second.

    Attributes:
        epochs: All that came, those of an earlier part of the same run included.
    """

    def __init__(self, plot: TrainingPlot, earlier: Sequence[Epoch] = (), seconds: float = 0.1) -> None:
        self._plot, self._seconds = plot, seconds
        self.epochs = {epoch.number: epoch for epoch in earlier}
        self._waiting: list[Epoch] = []
        self._shown = 0.0

    def __call__(self, epoch: Epoch) -> None:
        if epoch.number in self.epochs:
            return
        self.epochs[epoch.number] = epoch
        self._waiting.append(epoch)
        if time.monotonic() - self._shown >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Shows what has been collected."""
        self._plot.add(self._waiting, best_epoch(list(self.epochs.values())))
        self._waiting, self._shown = [], time.monotonic()
