"""The plots of a comparison in one place, of which one is shown; all select and fade the same candidates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import ipywidgets as w
import traitlets as t
from bokeh.plotting import figure

from widgets._bokeh import BokehPane
from widgets._plots import fade, source_of
from widgets._plots_front import draw_front, front_figure
from widgets._plots_latency import ecdf_figure, histogram_figure
from widgets._plots_speedup import speedup_figure
from workbench.comparison import Comparison

_FRONT = "Accuracy and latency"
_PLOTS = {
    _FRONT: front_figure,
    "Spread": ecdf_figure,
    "Histogram": histogram_figure,
    "Speed-up": speedup_figure,
}
_TIPS = (
    "With the Pareto front",
    "Share of inferences within each latency",
    "How often each latency occurs",
    "Intervals",
)


class ComparisonPlots(w.VBox):
    """Accuracy against latency, the spread of latencies in two forms, or the speed-ups.

    Attributes:
        selected: Name of the selected candidate; empty if there is none.
    """

    selected = t.Unicode()

    def __init__(self) -> None:
        self.kind = w.ToggleButtons(options=list(_PLOTS), tooltips=_TIPS)
        self.pane = BokehPane()
        self._figures: dict[str, figure] = {}
        self._comparison: Comparison | None = None
        super().__init__([self.kind, self.pane])
        self.add_class("wb-plots")
        self.kind.observe(lambda _: self._swap(), "value")
        self.observe(lambda _: self._select_points(), "selected")

    def show(self, comparison: Comparison) -> None:
        """Draws another comparison."""
        self._comparison = comparison
        self._figures = {name: draw(comparison) for name, draw in _PLOTS.items()}
        for plot in self._figures.values():
            source_of(plot).selected.on_change("indices", self._follow(plot))
        self._select_points()
        self._swap()

    def limit(self, outside: Collection[str], front: Sequence[str]) -> None:
        """Fades the candidates that miss a limit, and draws the front through these others."""
        if self._comparison is None:
            return
        for plot in self._figures.values():
            fade(plot, outside)
        draw_front(self._figures[_FRONT], self._comparison, front)

    def _swap(self) -> None:
        if self._figures:
            shown = self._figures[self.kind.value]
            self.pane.show(shown, label=f"{shown.title.text}, for each candidate")

    def _follow(self, plot: figure) -> Any:
        def follow(_attr: str, _old: Any, new: list[int]) -> None:
            if new:
                self.selected = source_of(plot).data["name"][new[0]]

        return follow

    def _select_points(self) -> None:
        for plot in self._figures.values():
            source = source_of(plot)
            wanted = [number for number, name in enumerate(source.data["name"]) if name == self.selected]
            if list(source.selected.indices) != wanted:
                source.selected.indices = wanted
