"""Accuracy against latency with the Pareto front: the data, and apart from it the plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bokeh.models import ColumnDataSource, HoverTool, LegendItem, TapTool
from bokeh.plotting import figure

from widgets._plots import GREY, add_legend, candidate_color, legend_items, new_figure
from workbench.choice import pareto_front
from workbench.comparison import Comparison
from workbench.report import SLOWER


def front_data(comparison: Comparison) -> dict[str, list[Any]]:
    """One entry per candidate: latency (ms) and quality (%) with their 95 % intervals, colour, form, and texts."""
    columns: dict[str, list[Any]] = {
        key: [] for key in ("name", "x", "x0", "x1", "y", "y0", "y1", "color", "alpha", "size", "marker", "speed")
    }
    for number, row in enumerate(comparison.rows):
        p50 = row.latency.p50
        accuracy = row.accuracy.value if row.accuracy else None
        values = {
            "name": row.name,
            "x": row.p50_ms,
            "x0": p50.low if p50 else row.p50_ms,
            "x1": p50.high if p50 else row.p50_ms,
            "y": 100 * row.quality,
            "y0": 100 * (accuracy.low if accuracy else row.quality),
            "y1": 100 * (accuracy.high if accuracy else row.quality),
            "color": candidate_color(number),
            "alpha": 1.0,
            "size": row.size_bytes / 1e6,
            "marker": "inverted_triangle" if row.slower else "circle",
            "speed": f"{row.speedup.value:.2f}×{f', {SLOWER}' if row.slower else ''}",
        }
        for key, value in values.items():
            columns[key].append(value)
    return columns


def front_figure(comparison: Comparison, *, height: int = 400) -> figure:
    """Draws accuracy against latency with the Pareto front; a tap selects a candidate."""
    data = front_data(comparison)
    source = ColumnDataSource(data)
    accuracy = comparison.original.accuracy
    quality = f"{accuracy.metric} (%)" if accuracy else "agreement with the original (%)"
    plot = new_figure("Accuracy against latency (best: top left)", "median latency (ms)", quality, height=height)
    plot.outline_line_color = None  # Bokeh 3.9 draws it over the path that the last marker of the frame before left
    plot.x_range.start = 0
    plot.segment("x0", "y", "x1", "y", source=source, color="color", line_width=2, alpha="alpha", **_selected("alpha"))
    plot.segment("x", "y0", "x", "y1", source=source, color="color", line_width=2, alpha="alpha", **_selected("alpha"))
    line = plot.line([], [], name="front", line_dash="dashed", line_width=1.5, color=GREY)
    points = plot.scatter(
        "x",
        "y",
        name="candidates",
        source=source,
        size=13,
        marker="marker",
        color="color",
        alpha="alpha",
        **_selected("alpha"),
        nonselection_line_color="color",
        selection_line_color=GREY,
        selection_line_width=4,
    )
    draw_front(plot, comparison, pareto_front(comparison))
    names = [f"{row.name} (slower)" if row.slower else row.name for row in comparison.rows]
    add_legend(plot, [*legend_items(names, points), LegendItem(label="Pareto front", renderers=[line])])
    hover = HoverTool(
        renderers=[points],
        tooltips=[
            ("candidate", "@name"),
            ("median latency", "@x{0.000} ms (@x0{0.000}–@x1{0.000})"),
            (quality, "@y{0.0} (@y0{0.0}–@y1{0.0})"),
            ("speed-up", "@speed"),
            ("size", "@size{0.00} MB"),
        ],
    )
    plot.add_tools(hover, TapTool(renderers=[points]))
    return plot


def draw_front(plot: figure, comparison: Comparison, names: Sequence[str]) -> None:
    """Draws the front of `front_figure` through these candidates."""
    rows = [comparison[name] for name in names]
    data = {"x": [row.p50_ms for row in rows], "y": [100 * row.quality for row in rows]}
    plot.select_one({"name": "front"}).data_source.data = data


def _selected(alpha: str) -> dict[str, str]:
    """What is not selected is drawn as strongly as what is: faint is what is out of the question."""
    return {"selection_alpha": alpha, "nonselection_alpha": alpha}
