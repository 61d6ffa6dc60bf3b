"""How latency is spread among its inferences: the data of each candidate, and apart from it the plots."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from bokeh.models import BasicTickFormatter, ColumnDataSource, FixedTicker, HoverTool, TapTool
from bokeh.plotting import figure
from numpy.typing import NDArray

from widgets._plots import add_legend, candidate_color, legend_items, new_figure
from workbench.comparison import Comparison, Row

_BINS = 60
_SHOWN = 0.995  # the slowest of a thousand timings may be a hundred times the median, and would squash the rest
_LOGARITHMIC = 8  # spread from which the axis shows ratios
_LINES: dict[str, Any] = {
    "line_color": "color",
    "line_alpha": "alpha",
    "selection_line_alpha": "alpha",
    "nonselection_line_alpha": "alpha",
    "line_width": 2,
    "selection_line_width": 3.5,
}


def ecdf_data(comparison: Comparison) -> dict[str, list[Any]]:
    """One entry per candidate: the quantiles of its latencies (`xs`, ms) and their shares (`ys`, %)."""
    timings = [row.latency.quantiles_ms for row in comparison.rows]
    return {
        **_identity(comparison),
        "xs": [list(quantiles) for quantiles in timings],
        "ys": [list(np.linspace(0, 100, len(quantiles))) for quantiles in timings],
    }


def histogram_data(comparison: Comparison, *, bins: int = _BINS) -> dict[str, list[Any]]:
    """One entry per candidate: the outline of its histogram (`xs`, ms; `ys`, share of its timings in a bin, %).

    All have the same bins, which reach to the 99.5th percentile; they grow with the latency where `spans_ratios`.
    """
    low, high = _shown_range(comparison)
    edges = np.geomspace(low, high, bins + 1) if spans_ratios(comparison) else np.linspace(low, high, bins + 1)
    outlines = [_outline(edges, row) for row in comparison.rows]
    return {
        **_identity(comparison),
        "fill": [0.25] * len(outlines),
        "xs": [list(np.repeat(edges, 2))] * len(outlines),
        "ys": outlines,
    }


def spans_ratios(comparison: Comparison) -> bool:
    """Whether the latencies differ so much that an even axis would squash the fast ones."""
    low, high = _shown_range(comparison)
    return high > _LOGARITHMIC * low


def ecdf_figure(comparison: Comparison, *, height: int = 400) -> figure:
    """Draws for each latency the share of inferences that took no longer; a tap selects a candidate."""
    source = ColumnDataSource(ecdf_data(comparison))
    plot = _latency_figure(comparison, "Inferences that take no longer", height)
    lines = plot.multi_line("xs", "ys", source=source, name="candidates", **_LINES)
    plot.yaxis.ticker = FixedTicker(ticks=[0, 10, 25, 50, 75, 90, 99])
    plot.y_range.start, plot.y_range.end = 0, 101
    _explain(plot, lines, source, "$y{0.0} % take at most $x{0.000} ms")
    return plot


def histogram_figure(comparison: Comparison, *, height: int = 400) -> figure:
    """Draws how often each latency occurred; a tap selects a candidate."""
    source = ColumnDataSource(histogram_data(comparison))
    plot = _latency_figure(comparison, "How often each latency occurs", height)
    fill = {f"{state}fill_alpha": "fill" for state in ("", "selection_", "nonselection_")}
    plot.patches("xs", "ys", source=source, fill_color="color", line_color=None, **fill)
    lines = plot.multi_line("xs", "ys", source=source, name="candidates", **_LINES)
    plot.y_range.start = 0
    _explain(plot, lines, source, "$y{0.0} % at $x{0.000} ms")
    return plot


def _identity(comparison: Comparison) -> dict[str, list[Any]]:
    names = [row.name for row in comparison.rows]
    return {
        "name": names,
        "color": [candidate_color(number) for number in range(len(names))],
        "alpha": [1.0] * len(names),
    }


def _shown_range(comparison: Comparison) -> tuple[float, float]:
    """From the fastest timing of all to the slowest 99.5th percentile, with a little room, ms."""
    timings = [row.latency.quantiles_ms for row in comparison.rows]
    low = min(quantiles[0] for quantiles in timings)
    high = max(float(np.quantile(quantiles, _SHOWN)) for quantiles in timings)
    return 0.98 * low, 1.02 * high


def _outline(edges: NDArray[np.float64], row: Row) -> list[float]:
    """Heights at the corners of a histogram's bars, starting and ending on the ground."""
    quantiles = row.latency.quantiles_ms
    # Equal timings come from a coarse clock: the share below a value is that of the last of them.
    values, last = np.unique(quantiles[::-1], return_index=True)
    shares = 100 * (1 - last / (len(quantiles) - 1))
    below = np.interp(edges, values, shares, left=0.0, right=100.0)
    return [0.0, *np.repeat(np.diff(below), 2), 0.0]


def _latency_figure(comparison: Comparison, title: str, height: int) -> figure:
    axis = "log" if spans_ratios(comparison) else "linear"
    plot = new_figure(title, "latency (ms)", "share of inferences (%)", height=height, x_axis_type=axis)
    low, high = _shown_range(comparison)
    plot.x_range.start, plot.x_range.end = low, high
    if axis == "log":
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        plot.xaxis.ticker = FixedTicker(ticks=[each * 10.0**power for power in decades for each in (1, 2, 5)])
        plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    return plot


def _explain(plot: figure, lines: Any, source: ColumnDataSource, text: str) -> None:
    add_legend(plot, legend_items(source.data["name"], lines))
    hover = HoverTool(renderers=[lines], line_policy="interp", tooltips=[("candidate", "@name"), ("here", text)])
    plot.add_tools(hover, TapTool(renderers=[lines]))
