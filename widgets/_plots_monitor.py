"""Plots of a running service, which move while it is watched: data, and apart from it drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, FactorRange, FixedTicker, HoverTool, LegendItem, LogTickFormatter, NoOverlap
from bokeh.plotting import figure

from widgets._plots import GREY, add_legend, candidate_color, new_figure
from workbench.measure.load import LoadStats
from workbench.service.watch import Moment

_RATE, _MEDIAN, _TAIL, _REFUSED = candidate_color(0), candidate_color(0), candidate_color(3), candidate_color(1)
_HEIGHT = 240
_KEPT = 2000  # moments that a page shows
_RECENT = 60  # moments that are drawn beside the bench's curve, the older the fainter, and that batches are counted of
_FEWEST_BARS = 4  # of batches, so that a single one is no wall
_TICKS = [mantissa * 10.0**power for power in range(-3, 6) for mantissa in (1, 2, 5)]  # ms
_MOMENTS = ("seconds", "rate", "refused", "failed", "p50", "p99", "bench50", "bench99")
_LIVE = ("rate", "p50", "p99", "alpha", "size", "seconds")


def moment_data(moments: Sequence[Moment], curve: Sequence[LoadStats] = ()) -> dict[str, list[float]]:
    """Each moment's requests per second, refused and failed ones per second, latency and the bench's at this rate (ms).

    Moments without an answer are NaN, which is a gap in a line.
    """
    data: dict[str, list[float]] = {name: [] for name in _MOMENTS}
    for moment in moments:
        stats = moment.stats
        if stats is None:
            values = (moment.seconds, *[math.nan] * 7)
        else:
            rate = stats.queries_per_second
            per_second = (rate, stats.refused / stats.seconds, stats.errors / stats.seconds)
            values = (moment.seconds, *per_second, stats.p50_ms, stats.p99_ms, *bench_latency(curve, rate))
        for name, value in zip(_MOMENTS, values, strict=True):
            data[name].append(value)
    return data


def bench_latency(curve: Sequence[LoadStats], rate: float) -> tuple[float, float]:
    """Median and tail (ms) that the bench measured at a rate, linear between its rates; NaN outside of them."""
    data = curve_data(curve)
    if not data["rate"] or not data["rate"][0] <= rate <= data["rate"][-1]:
        return math.nan, math.nan
    return float(np.interp(rate, data["rate"], data["p50"])), float(np.interp(rate, data["rate"], data["tail"]))


def curve_data(curve: Sequence[LoadStats]) -> dict[str, list[float]]:
    """The rates of a curve that the bench kept up with, rising: queries/s, median and tail (ms)."""
    kept = sorted((one for one in curve if one.kept_up), key=lambda one: one.queries_per_second)
    return {
        "rate": [one.queries_per_second for one in kept],
        "p50": [one.p50.value if one.p50 else one.mean_ms for one in kept],
        "tail": [one.tail_ms for one in kept],
    }


def live_data(moments: Sequence[Moment]) -> dict[str, list[float]]:
    """The newest moments with requests, for the plot of latency against rate; the last one is the largest."""
    recent = [moment for moment in moments if moment.stats is not None and moment.stats.requests][-_RECENT:]
    data: dict[str, list[float]] = {name: [] for name in _LIVE}
    for number, moment in enumerate(recent, _RECENT - len(recent) + 1):
        assert moment.stats is not None
        last = number == _RECENT
        values = (moment.stats.queries_per_second, moment.stats.p50_ms, moment.stats.p99_ms)
        values = (*values, 1.0 if last else 0.1 + 0.5 * number / _RECENT, 12.0 if last else 6.0, moment.seconds)
        for name, value in zip(_LIVE, values, strict=True):
            data[name].append(value)
    return data


def batch_data(moments: Sequence[Moment]) -> dict[str, list[Any]]:
    """Share of the inferences of the newest moments (%) by the samples in them, up to the largest that occurred."""
    counts: dict[float, float] = {}
    for moment in moments[-_RECENT:]:
        for bound, count in moment.stats.batches.items() if moment.stats is not None else ():
            counts[bound] = counts.get(bound, 0.0) + count
    total, largest = sum(counts.values()), max((bound for bound, count in counts.items() if count), default=0.0)
    names, shares, below = [], [], 0
    for bound, count in sorted(counts.items()):
        if bound > largest and len(names) >= _FEWEST_BARS:
            break
        name = (
            f"over {below}"
            if math.isinf(bound)
            else f"{bound:.0f}"
            if bound <= below + 1
            else f"{below + 1}–{bound:.0f}"
        )
        names.append(name)
        shares.append(100 * count / total if total else 0.0)
        below = below if math.isinf(bound) else int(bound)
    return {"samples": names, "share": shares}


class MonitorPlots:
    """All plots of a watched service.

    Attributes:
        figures: What to show, by what each says.
    """

    def __init__(self) -> None:
        self._moments: list[ColumnDataSource] = []  # alike, one for each pane
        self._live = ColumnDataSource(live_data(()))
        self._curve = ColumnDataSource(curve_data(()))
        self._batches = ColumnDataSource(batch_data(()))
        self._bench: Sequence[LoadStats] = ()
        self._all: list[Moment] = []
        self.figures: dict[str, figure] = {
            "Requests per second over time": self._draw_rate(),
            "Latency over time": self._draw_latency(),
            "Latency against rate, beside the bench": self._draw_curve(),
            "Refused and failed requests over time": self._draw_errors(),
            "Samples in a batch": self._draw_batches(),
        }

    def clear(self) -> None:
        """Forgets what was seen."""
        self._all = []
        for source in self._moments:
            source.data = moment_data(())
        self._draw_recent()

    def add(self, moment: Moment) -> None:
        """Adds what was seen at one time."""
        self._all = [*self._all[1 - _KEPT :], moment]
        for source in self._moments:
            source.stream(moment_data([moment], self._bench), rollover=_KEPT)
        self._draw_recent()

    def compare_with(self, curve: Sequence[LoadStats]) -> None:
        """Shows the bench's curve of the same candidate."""
        self._bench = curve
        self._curve.data = curve_data(curve)
        for source in self._moments:
            source.data = moment_data(self._all, curve)

    def _draw_recent(self) -> None:
        self._live.data = live_data(self._all)
        data = batch_data(self._all)
        if data["samples"] and self._range.factors != data["samples"]:
            self._range.factors = data["samples"]
        self._batches.data = data

    def _new_source(self) -> ColumnDataSource:
        source = ColumnDataSource(moment_data(()))
        self._moments.append(source)
        return source

    def _draw_rate(self) -> figure:
        source = self._new_source()
        plot = _prepare(new_figure("Requests per second", "time (s)", "requests/s", height=_HEIGHT))
        line = plot.line("seconds", "rate", source=source, color=_RATE, line_width=2)
        dots = plot.scatter("seconds", "rate", source=source, color=_RATE, size=4)
        add_legend(plot, [LegendItem(label="all requests", renderers=[line, dots])])
        plot.add_tools(HoverTool(renderers=[dots], tooltips=[("", "@seconds{0.0} s: @rate{0,0.0} requests/s")]))
        return plot

    def _draw_latency(self) -> figure:
        source = self._new_source()
        plot = new_figure("Latency over time", "time (s)", "latency (ms)", height=_HEIGHT, y_axis_type="log")
        plot = _prepare(plot)
        items = []
        for name, label, color, dash in (
            ("bench50", "bench p50", GREY, "dotted"),
            ("bench99", "bench p99", GREY, "dashed"),
            ("p50", "p50", _MEDIAN, "solid"),
            ("p99", "p99", _TAIL, "solid"),
        ):
            drawn = [plot.line("seconds", name, source=source, color=color, line_width=2, line_dash=dash)]
            if dash == "solid":
                drawn.append(plot.scatter("seconds", name, source=source, color=color, size=4))
            items.append(LegendItem(label=label, renderers=drawn))
        add_legend(plot, items[2:] + items[:2])
        tips = [
            ("", "@seconds{0.0} s at @rate{0,0.0} requests/s"),
            ("p50, p99", "@p50{0.00}, @p99{0.00} ms"),
            ("bench at this rate", "@bench50{0.00}, @bench99{0.00} ms"),
        ]
        plot.add_tools(HoverTool(renderers=[items[3].renderers[1]], tooltips=tips))
        return plot

    def _draw_curve(self) -> figure:
        plot = new_figure("Latency against rate", "requests/s", "latency (ms)", height=_HEIGHT, y_axis_type="log")
        plot = _prepare(plot)
        plot.x_range.start = 0
        bench50 = plot.line("rate", "p50", source=self._curve, color=_MEDIAN, line_width=2)
        bench99 = plot.line("rate", "tail", source=self._curve, color=_TAIL, line_width=2, line_dash="dashed")
        shared: dict[str, Any] = {"source": self._live, "size": "size", "alpha": "alpha"}
        tails = plot.scatter("rate", "p99", color=_TAIL, fill_color=None, line_width=2, **shared)
        medians = plot.scatter("rate", "p50", color=_MEDIAN, **shared)
        items = (("p50 now", medians), ("p99 now", tails), ("bench p50", bench50), ("bench p99", bench99))
        add_legend(plot, [LegendItem(label=label, renderers=[drawn]) for label, drawn in items])
        tips = [("", "@seconds{0.0} s: p50 @p50{0.00}, p99 @p99{0.00} ms at @rate{0,0.0} requests/s")]
        plot.add_tools(HoverTool(renderers=[medians], tooltips=tips))
        return plot

    def _draw_errors(self) -> figure:
        source = self._new_source()
        plot = _prepare(new_figure("Refused and failed", "time (s)", "requests/s", height=_HEIGHT))
        plot.y_range.min_interval = 1
        items = []
        for name, label, color in (
            ("refused", "refused (4xx)", _REFUSED),
            ("failed", "failed (5xx, full queue)", _TAIL),
        ):
            line = plot.line("seconds", name, source=source, color=color, line_width=2)
            dots = plot.scatter("seconds", name, source=source, color=color, size=4)
            items.append(LegendItem(label=label, renderers=[line, dots]))
        add_legend(plot, items)
        tips = [("", "@seconds{0.0} s: @refused{0,0.0} refused, @failed{0,0.0} failed of @rate{0,0.0} requests/s")]
        plot.add_tools(HoverTool(renderers=[items[1].renderers[1]], tooltips=tips))
        return plot

    def _draw_batches(self) -> figure:
        self._range = FactorRange(factors=["1"])
        plot = new_figure(
            "Samples in a batch", "samples", "share of inferences (%)", height=_HEIGHT, x_range=self._range
        )
        plot = _prepare(plot)
        plot.y_range.end = 100
        plot.xgrid.grid_line_color = None
        bars = plot.vbar("samples", top="share", width=0.7, source=self._batches, color=_RATE, line_color=None)
        plot.add_tools(HoverTool(renderers=[bars], tooltips=[("", "@share{0.0} % with @samples samples")]))
        return plot


def _prepare(plot: figure) -> figure:
    plot.outline_line_color = None  # Bokeh 3.9 draws it over the path that the last marker of the frame before left
    if type(plot.yaxis[0]).__name__ == "LogAxis":
        plot.yaxis.ticker = FixedTicker(ticks=_TICKS)  # Bokeh's own has two or three where the range is short
        plot.yaxis.major_label_policy = NoOverlap()
        plot.yaxis.formatter = LogTickFormatter(min_exponent=4)
    else:
        plot.y_range.start = 0
    return plot
