"""The Load test panel: one load, latency against a rising rate, or a sweep of settings, watched as it runs."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._backends import backend_form, can_run, list_backends
from widgets._bokeh import BokehPane
from widgets._form import FIELD_WIDTH, LABEL_STYLE, OptionsForm
from widgets._load_code import CURVE, LOAD, LOADGEN, SWEEP, load_code
from widgets._panel import Panel, Work
from widgets._plots import candidate_color
from widgets._plots_load import LoadPlot, LoadStream, SweepPlot, division_name, division_names
from widgets._table import ResultTable
from workbench.backends import build_engine
from workbench.comparison import ORIGINAL
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import ModelError
from workbench.jobs import Progress
from workbench.load_report import (
    LOAD_HEADINGS,
    LOADGEN_HEADINGS,
    SWEEP_HEADINGS,
    curve_doubts,
    curve_words,
    left_out,
    load_row,
    load_words,
    loadgen_row,
    loadgen_text,
    sweep_row,
    sweep_words,
    tried_points,
)
from workbench.measure.load import (
    CurveOptions,
    LoadOptions,
    LoadStats,
    knee,
    measure_load,
    measure_load_curve,
)
from workbench.measure.loadgen import LoadGenOptions, LoadGenStats, measure_with_loadgen
from workbench.measure.sweep import SpotOptions, Sweep, SweepOptions, SweepPoint, sweep, sweet_spot
from workbench.model import Model
from workbench.options import make_options
from workbench.report import Cell

_HINTS = {
    LOAD: "Press Measure to send queries and see throughput and latency.",
    CURVE: "Press Measure to see how latency rises with the rate of arrivals, and where it bends.",
    SWEEP: "Press Measure to find the batch, threads and instances with the highest throughput.",
    LOADGEN: "Press Measure to let MLPerf's LoadGen drive the same runner, as a cross-check.",
}


class LoadTest(Panel):
    """Sends queries to a candidate in a closed or an open loop, at a rising rate, or under many settings."""

    title = "Load test"
    hint = "Throughput and latency under load. Waiting counts: latency runs from the moment a query was due."
    verb = "Measure"
    icon = "area-chart"
    update_seconds = 1.0  # updates of the page would disturb the timing

    model = t.Instance(Model, allow_none=True)
    variants = t.Tuple(help="Named models: (name, Model) each.")
    evaluation = t.Instance(Dataset, allow_none=True)
    stats = t.Instance(LoadStats, allow_none=True, help="What one load gave.")
    curve = t.Tuple(help="LoadStats of each rate.")
    curve_engine = t.Instance(Engine, allow_none=True, help="What the rates were measured on.")
    sweep = t.Instance(Sweep, allow_none=True, help="What a sweep gave.")
    sweep_engine = t.Instance(Engine, allow_none=True, help="What the sweep was of; its threads do not matter.")
    loadgen = t.Instance(LoadGenStats, allow_none=True, help="What LoadGen gave.")

    def __init__(self, **traits: Any) -> None:
        names = list_backends(can_run)
        usual = "onnxruntime" if "onnxruntime" in names else next(iter(names), None)
        field: dict[str, Any] = {"style": LABEL_STYLE, "layout": w.Layout(width=FIELD_WIDTH)}
        self.candidate = w.Dropdown(description="Candidate", options=[], **field)
        self.backend = w.Dropdown(description="Backend", options=names, value=usual, **field)
        self.mode = w.ToggleButtons(
            options=list(_HINTS), style={"button_width": "auto"}, layout=w.Layout(margin="0 0 8px")
        )
        self.forms = {
            LOAD: OptionsForm(LoadOptions),
            CURVE: OptionsForm(CurveOptions),
            SWEEP: OptionsForm(SweepOptions),
            LOADGEN: OptionsForm(LoadGenOptions),
        }
        self.spot = OptionsForm(SpotOptions)
        self._backends: dict[str, OptionsForm] = {}
        self._plots: dict[str, LoadPlot | SweepPlot] = {}
        self._live = ""  # what is being measured
        self._before: LoadPlot | SweepPlot | None = None  # what its plot showed until then
        self._slot, self._options = w.VBox(), w.VBox()
        self._empty, self._words, self._checks = w.HTML(), w.HTML(), w.HTML()
        self.plot = BokehPane()
        self.table = ResultTable(left=1)
        self._below = w.VBox([self.table, self._checks])
        form = w.VBox(
            [self.mode, self._options, w.HTML(_markup.group("Run on")), self.candidate, self.backend, self._slot]
        )
        super().__init__(form, w.VBox([self._empty, self.plot, self._words]), self._below, **traits)
        self.backend.observe(self.guard(self._swap), "value")
        self.mode.observe(self.guard(self._switch), "value")
        self.spot.observe(self.guard(self._draw), "values")
        self.observe(lambda _: self._list(), ("model", "variants"))
        self.observe(self.guard(self._draw), ("stats", "curve", "sweep", "loadgen"))
        self.observe(lambda change: self._give_up() if change.new in ("cancelled", "failed") else None, "state")
        self._swap()
        self._switch()
        self._list()

    @property
    def options(self) -> OptionsForm:
        """The form of what is to be measured."""
        return self.forms[self.mode.value]

    @property
    def backend_options(self) -> OptionsForm:
        """The form of the chosen backend."""
        name = self.backend.value
        if name not in self._backends:
            self._backends[name] = backend_form(name)
        return self._backends[name]

    def prepare(self) -> Work:
        """Reads the form."""
        if self.model is None:
            raise ModelError("There is no model to measure.", "Load one first.")
        model: Model = {ORIGINAL: self.model, **dict(self.variants)}[self.candidate.value]
        mode, backend, options, dataset = self.mode.value, self.backend.value, self.options.values, self.evaluation
        built = dict(self.backend_options.values)
        if mode == SWEEP:
            built.pop("threads", None)  # that is what the sweep tries
            points = SweepPlot(sorted(make_options(SweepOptions, options, "sweep").batches) or [1])
            found: list[SweepPoint] = []

            def collect(point: SweepPoint) -> None:
                found.append(point)
                points.show(found)

            def search(progress: Progress) -> Sweep:
                result = sweep(
                    model, backend, options, backend_options=built, dataset=dataset, progress=progress, watch=collect
                )
                self.sweep_engine = build_engine(model, backend, built)
                return result

            self._start(mode, points)
            return search
        if mode == LOADGEN:
            return lambda progress: measure_with_loadgen(
                build_engine(model, backend, built), options, dataset=dataset, progress=progress
            )
        plot = LoadPlot(curve=mode == CURVE)
        stream = LoadStream(plot, self.update_seconds)
        self._start(mode, plot)

        def work(progress: Progress) -> LoadStats | tuple[LoadStats, ...]:
            engine = build_engine(model, backend, built)
            verb = measure_load_curve if mode == CURVE else measure_load
            result = verb(engine, options, dataset=dataset, progress=progress, watch=stream)
            stream.flush()
            if mode == CURVE:
                self.curve_engine = engine
            return result

        return work

    def show(self, result: LoadStats | tuple[LoadStats, ...] | Sweep | LoadGenStats) -> None:
        """Shows the table and what it means."""
        self._live = ""
        if isinstance(result, Sweep):
            self.sweep = result
        elif isinstance(result, LoadStats):
            self.stats = result
        elif isinstance(result, LoadGenStats):
            self.loadgen = result
        else:
            self.curve = result

    def code(self) -> tuple[str, str]:
        """Measuring as Python; a recipe has no step for it."""
        name, mode = self.candidate.value or ORIGINAL, self.mode.value
        model = "model" if name == ORIGINAL else f"dict(variants)[{name!r}]"
        data = ", dataset=evaluation" if self.evaluation is not None else ""
        built, options = self.backend_options.changed(), self.options.changed()
        return load_code(mode, model, self.backend.value, built, options, data, self._limit()), ""

    def summary(self) -> str:
        """Every result without scripts."""
        parts = []
        for mode, headings, rows, words in self._results():
            cells = [[cell.text for cell in row] for row in rows]
            parts.append(_markup.group(mode) + _markup.listing(headings, cells) + _markup.note(words))
        if self.stats is not None:
            parts.append(_markup.checks(self.stats.trust))
        return "".join(parts) or super().summary()

    def _results(self) -> list[tuple[str, tuple[str, ...], list[tuple[Cell, ...]], str]]:
        found: list[tuple[str, tuple[str, ...], list[tuple[Cell, ...]], str]] = []
        if self.stats is not None:
            found.append((LOAD, LOAD_HEADINGS, [load_row(self.stats)], load_words(self.stats)))
        if self.curve:
            words = f"{curve_words(self.curve)}\n{curve_doubts(self.curve)}".strip()
            found.append((CURVE, LOAD_HEADINGS, [load_row(one) for one in self.curve], words))
        if self.sweep is not None:
            words = f"{sweep_words(self.sweep, self._limit())}\n{left_out(self.sweep)}".strip()
            found.append((SWEEP, SWEEP_HEADINGS, [sweep_row(one) for one in tried_points(self.sweep)], words))
        if self.loadgen is not None:
            found.append((LOADGEN, LOADGEN_HEADINGS, [loadgen_row(self.loadgen)], loadgen_text(self.loadgen)))
        return found

    def _limit(self) -> float | None:
        limit: float | None = self.spot.values["max_latency_ms"]
        return limit

    def _start(self, mode: str, plot: LoadPlot | SweepPlot) -> None:
        """Shows an empty plot that fills as the work goes on."""
        self._live, self._before = mode, self._plots.get(mode)
        self._plots[mode] = plot
        self._draw()

    def _give_up(self) -> None:
        """Shows again what was there before the work that did not end."""
        if self._live and self._before is not None:
            self._plots[self._live] = self._before
        else:
            self._plots.pop(self._live, None)
        self._live = ""
        self._draw()

    def _swap(self) -> None:
        fold = w.Accordion([self.backend_options], titles=("Backend options",), selected_index=None)
        self._slot.children = [fold]

    def _switch(self) -> None:
        self._options.children = [self.options, *([self.spot] if self.mode.value == SWEEP else [])]
        self._draw()

    def _list(self) -> None:
        names = [ORIGINAL, *(name for name, _ in self.variants)] if self.model is not None else []
        chosen = self.candidate.value
        self.candidate.options = names
        if names:
            self.candidate.value = chosen if chosen in names else names[0]

    def _draw(self) -> None:
        """Shows what is known of the chosen kind: a plot that fills, or the last result."""
        mode = self.mode.value
        results = {name: (headings, rows, words) for name, headings, rows, words in self._results()}
        known = mode in results and mode != self._live
        headings, rows, words = results[mode] if known else ((), [], "")
        self._words.value = _markup.note(words) if words else ""
        self._fill_table(mode, headings, rows)
        plot = self._find_plot(mode) if known or mode == self._live else None
        if plot is not None:
            self.plot.show(plot.layout, label=f"{mode}: throughput and latency")
        self._empty.value = _markup.empty(_HINTS[mode])
        for widget, shown in ((self._empty, not known and plot is None), (self.plot, plot), (self._below, known)):
            widget.layout.display = "" if shown else "none"

    def _fill_table(self, mode: str, headings: tuple[str, ...], rows: list[tuple[Cell, ...]]) -> None:
        marked, mark, colors = None, "◆", [0] * len(rows)
        if mode == CURVE:
            best = knee(self.curve)
            marked = next((number for number, one in enumerate(self.curve) if one is best), None)
        elif mode == SWEEP and self.sweep is not None:
            spot, mark, points = sweet_spot(self.sweep, self._limit()), "★", tried_points(self.sweep)
            marked = next((number for number, one in enumerate(points) if one is spot), None)
            names = division_names(points)
            colors = [names.index(name) if (name := division_name(one)) in names else len(names) for one in points]
        self.table.headings, self.table.label = list(headings), mode
        self.table.rows = [
            {
                "name": str(number),
                "mark": mark if number == marked else "",
                "color": candidate_color(colors[number]),
                "cells": [{"text": c.text, "value": _finite(c.value), "note": c.note} for c in row],
            }
            for number, row in enumerate(rows)
        ]
        self._checks.value = _markup.checks(self.stats.trust) if mode == LOAD and self.stats is not None else ""

    def _find_plot(self, mode: str) -> LoadPlot | SweepPlot | None:
        """The plot of a kind; one load has none where its moments were not seen."""
        if mode == CURVE and mode not in self._plots:
            made = LoadPlot(curve=True)
            made.add(self.curve)
            self._plots[mode] = made
        if mode == SWEEP and self.sweep is not None and mode != self._live:
            drawn = SweepPlot(sorted({point.batch for point in self.sweep.points}))
            drawn.show(self.sweep.points, sweet_spot(self.sweep, self._limit()))
            self._plots[mode] = drawn
        return self._plots.get(mode)


def _finite(value: float | str) -> float | str:
    return 1e308 if value == float("inf") else value  # JSON has no infinity
