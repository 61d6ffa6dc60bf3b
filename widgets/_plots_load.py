"""Plots of latency and throughput under load, which move while it is measured: data, and apart from it drawing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.layouts import column
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Legend, LegendItem, LogTickFormatter
from bokeh.models.layouts import LayoutDOM

from widgets._plots import GREY, add_legend, candidate_color, new_figure
from workbench.measure.load import LoadPoint, LoadStats, knee
from workbench.measure.sweep import SweepPoint

_MEDIAN, _TAIL = candidate_color(0), candidate_color(3)
_MOMENTS = ("seconds", "rate", "p50", "worst")
_STEPS = ("offered", "achieved", "p50", "p50_low", "p50_high", "tail", "label", "kept_up")
_POINTS = ("batch", "rate", "low", "high", "color", "name", "p50", "tail")
_LONGEST_STREAM = 20_000  # moments that a page keeps


def moment_data(points: Sequence[LoadPoint], offset: float = 0.0) -> dict[str, list[Any]]:
    """Moments of a running load: seconds since the start, rate (queries/s), median and longest latency (ms)."""
    return {
        "seconds": [offset + point.seconds for point in points],
        "rate": [point.achieved if point.offered is None else point.offered for point in points],
        "p50": [point.p50_ms for point in points],
        "worst": [point.worst_ms for point in points],
    }


def step_data(steps: Sequence[LoadStats]) -> dict[str, list[Any]]:
    """Finished rates: queries/s offered and achieved, median with its interval and 99th percentile (ms)."""
    data: dict[str, list[Any]] = {name: [] for name in _STEPS}
    for stats in steps:
        p50 = stats.p50
        values = (
            stats.offered_per_second or stats.queries_per_second,
            stats.queries_per_second,
            p50.value if p50 else stats.mean_ms,
            p50.low if p50 else stats.mean_ms,
            p50.high if p50 else stats.mean_ms,
            stats.tail_ms,
            "99th percentile" if stats.p99 else "slowest",
            "yes" if stats.kept_up else "no",
        )
        for name, value in zip(_STEPS, values, strict=True):
            data[name].append(value)
    return data


def sweep_data(points: Sequence[SweepPoint]) -> dict[str, list[Any]]:
    """Measured settings: batch, samples/s with the range of its measurements, colour and name of the division."""
    data: dict[str, list[Any]] = {name: [] for name in _POINTS}
    names = division_names(points)
    for point in (point for point in points if point.stats is not None):
        assert point.stats is not None
        name, p50 = division_name(point), point.stats.p50
        values = (
            point.batch,
            point.samples_per_second,
            min(point.rates),
            max(point.rates),
            candidate_color(names.index(name)),
            name,
            p50.value if p50 else point.stats.mean_ms,
            point.stats.tail_ms,
        )
        for key, value in zip(_POINTS, values, strict=True):
            data[key].append(value)
    return data


def division_name(point: SweepPoint) -> str:
    """How a setting divides the cores."""
    instances = f"{point.instances} instance{'s' if point.instances > 1 else ''}"
    return f"{instances} × {point.threads} thread{'s' if point.threads > 1 else ''}" if point.threads else instances


def division_names(points: Sequence[SweepPoint]) -> list[str]:
    """The divisions that were measured, in a fixed order."""
    measured = (point for point in points if point.stats is not None)
    return [name for _, name in sorted({(point.instances, division_name(point)) for point in measured})]


class LoadPlot:
    """Latency against offered rate, and over time, that grow while a load or a curve is measured.

    Attributes:
        layout: What to show.
    """

    def __init__(self, *, curve: bool) -> None:
        self._moments = ColumnDataSource({name: [] for name in _MOMENTS})
        self._steps = ColumnDataSource(step_data(()))
        self._knee = ColumnDataSource({"offered": [], "p50": []})
        self._offset = self._last = 0.0
        over_time = self._draw_time(240 if curve else 320)
        plots = [self._draw_curve(), over_time] if curve else [over_time]
        self.layout: LayoutDOM = column(plots, sizing_mode="stretch_width")

    def stream(self, points: Sequence[LoadPoint]) -> None:
        """Adds moments of the load that runs."""
        if points:
            self._moments.stream(moment_data(points, self._offset), rollover=_LONGEST_STREAM)
            self._last = self._offset + points[-1].seconds

    def add(self, steps: Sequence[LoadStats]) -> None:
        """Shows the rates that are finished, all of them so far; moments that follow belong to the next."""
        self._steps.data = step_data(steps)
        self._offset = self._last
        best = knee(steps) if len(steps) > 1 else None
        data = step_data([best] if best else [])
        self._knee.data = {"offered": data["offered"], "p50": data["p50"]}

    def _draw_curve(self) -> Any:
        plot = new_figure(
            "Latency against offered rate", "offered rate (queries/s)", "latency (ms)", height=300, y_axis_type="log"
        )
        plot.x_range.start = 0
        _prepare(plot)
        moments = plot.scatter("rate", "p50", source=self._moments, size=4, color=GREY, alpha=0.5)
        plot.segment("offered", "p50_low", "offered", "p50_high", source=self._steps, color=_MEDIAN, line_width=3)
        tail = plot.line("offered", "tail", source=self._steps, color=_TAIL, line_width=2, line_dash="dashed")
        tails = plot.scatter("offered", "tail", source=self._steps, color=_TAIL, size=7)
        median = plot.line("offered", "p50", source=self._steps, color=_MEDIAN, line_width=2)
        medians = plot.scatter("offered", "p50", source=self._steps, color=_MEDIAN, size=9)
        best = plot.scatter(
            "offered", "p50", source=self._knee, size=18, marker="diamond", fill_color=None, line_color=_MEDIAN
        )
        add_legend(
            plot,
            [
                LegendItem(label="median", renderers=[median, medians]),
                LegendItem(label="p99 or slowest", renderers=[tail, tails]),
                LegendItem(label="knee", renderers=[best]),
                LegendItem(label="moments", renderers=[moments]),
            ],
        )
        tips = [
            ("offered, achieved", "@offered{0,0.0}, @achieved{0,0.0} queries/s"),
            ("median", "@p50{0.00} ms (@p50_low{0.00}–@p50_high{0.00})"),
            ("@label", "@tail{0.00} ms"),
            ("kept up", "@kept_up"),
        ]
        plot.add_tools(HoverTool(renderers=[medians, tails], tooltips=tips))
        return plot

    def _draw_time(self, height: int) -> Any:
        plot = new_figure("Latency over time", "time (s)", "latency (ms)", height=height, y_axis_type="log")
        _prepare(plot)
        median = plot.line("seconds", "p50", source=self._moments, color=_MEDIAN, line_width=2)
        worst = plot.scatter("seconds", "worst", source=self._moments, color=_TAIL, size=4)
        add_legend(
            plot,
            [
                LegendItem(label="median", renderers=[median]),
                LegendItem(label="slowest", renderers=[worst]),
            ],
        )
        tips = [("", "$x{0.0} s: median @p50{0.00}, slowest @worst{0.00} ms at @rate{0,0.0} queries/s")]
        plot.add_tools(HoverTool(renderers=[worst], tooltips=tips))
        return plot


class LoadStream:
    """Collects moments and hands them to the plot once a second: each update of the page takes time from the load."""

    def __init__(self, plot: LoadPlot, seconds: float) -> None:
        self._plot, self._seconds = plot, seconds
        self._points: list[LoadPoint] = []
        self._steps: list[LoadStats] = []
        self._shown = time.monotonic()

    def __call__(self, news: LoadPoint | LoadStats) -> None:
        if isinstance(news, LoadPoint):
            self._points.append(news)
            if time.monotonic() - self._shown < self._seconds:
                return
        self.flush()
        if isinstance(news, LoadStats):
            self._steps.append(news)
            self._plot.add(self._steps)

    def flush(self) -> None:
        """Shows what has been collected."""
        self._plot.stream(self._points)
        self._points, self._shown = [], time.monotonic()


class SweepPlot:
    """Throughput against batch, a line for each way of dividing the cores; grows while a sweep runs.

    Attributes:
        layout: What to show.
    """

    def __init__(self, batches: Sequence[int]) -> None:
        self._points = ColumnDataSource(sweep_data(()))
        self._lines = ColumnDataSource({"xs": [], "ys": [], "color": [], "name": []})
        self._best = ColumnDataSource({"batch": [], "rate": []})
        plot = new_figure("Throughput against batch", "samples per query", "samples/s", height=340, x_axis_type="log")
        plot.outline_line_color = None
        plot.xaxis.ticker = FixedTicker(ticks=list(batches))
        plot.xaxis.major_label_overrides = {batch: str(batch) for batch in batches}
        plot.x_range.start, plot.x_range.end = min(batches) / 1.3, max(batches) * 1.3
        plot.y_range.start = 0
        plot.multi_line("xs", "ys", source=self._lines, color="color", line_width=2)
        plot.segment("batch", "low", "batch", "high", source=self._points, color="color", line_width=3)
        points = plot.scatter("batch", "rate", source=self._points, color="color", size=9)
        best = plot.scatter(
            "batch", "rate", source=self._best, size=20, marker="star", fill_color=None, line_color=GREY, line_width=2
        )
        # The names are not known yet, so `add_legend` cannot measure them.
        legend = Legend(orientation="horizontal", ncols=3, location="top_left", margin=0, padding=4)
        legend.background_fill_alpha = legend.border_line_alpha = 0
        legend.label_text_font_size = "12px"
        names = LegendItem(label={"field": "name"}, renderers=[points])
        legend.items = [names, LegendItem(label="choice", renderers=[best])]
        plot.add_layout(legend, "below")
        tips = [
            ("@name", "batch @batch"),
            ("throughput", "@rate{0,0.0} samples/s (@low{0,0.0}–@high{0,0.0})"),
            ("median, tail", "@p50{0.00}, @tail{0.00} ms"),
        ]
        plot.add_tools(HoverTool(renderers=[points], tooltips=tips))
        self.layout: LayoutDOM = plot

    def show(self, points: Sequence[SweepPoint], best: SweepPoint | None = None) -> None:
        """Shows what is measured so far, and marks the best."""
        data = sweep_data(points)
        self._lines.data = _lines(data)
        self._points.data = data
        marked = [best] if best is not None else []
        self._best.data = {
            "batch": [point.batch for point in marked],
            "rate": [point.samples_per_second for point in marked],
        }


def _prepare(plot: Any) -> None:
    plot.outline_line_color = None  # Bokeh 3.9 draws it over the path that the last marker of the frame before left
    plot.yaxis.formatter = LogTickFormatter(min_exponent=4)


def _lines(data: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    lines: dict[str, list[Any]] = {"xs": [], "ys": [], "color": [], "name": []}
    for name in dict.fromkeys(data["name"]):
        rows = sorted(
            (batch, rate, color)
            for batch, rate, color, each in zip(data["batch"], data["rate"], data["color"], data["name"], strict=True)
            if each == name
        )
        lines["xs"].append([row[0] for row in rows])
        lines["ys"].append([row[1] for row in rows])
        lines["color"].append(rows[0][2])
        lines["name"].append(name)
    return lines
