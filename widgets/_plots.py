"""Plots of a comparison: functions that return data, and apart from them functions that draw it."""

from __future__ import annotations

import html
from typing import Any

from bokeh.embed import file_html
from bokeh.models import ColumnDataSource, HoverTool, Legend, LegendItem, TapTool
from bokeh.plotting import figure
from bokeh.resources import INLINE
from bokeh.themes import Theme

from workbench.comparison import Comparison, pareto_front

# Okabe and Ito's colours that stand out from both a white and a dark page.
_COLORS = ("#2f86c9", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")


# A saved plot does not know the page that it will stand on: middle greys can be read on white and on black.
_GREY = "#8a8a8a"
_AXIS_PARTS = ("axis_line", "axis_label_text", "major_label_text", "major_tick_line", "minor_tick_line")
_ON_ANY_PAGE = Theme(
    json={
        "attrs": {
            "Plot": {"background_fill_color": None, "border_fill_color": None, "outline_line_color": _GREY},
            "Title": {"text_color": _GREY},
            "Axis": {f"{part}_color": _GREY for part in _AXIS_PARTS},
            "Grid": {"grid_line_color": _GREY, "grid_line_alpha": 0.25},
            "Legend": {"label_text_color": _GREY},
        }
    }
)


def candidate_color(number: int) -> str:
    """The colour of the candidate at this place of a comparison, in every plot and table."""
    return _COLORS[number % len(_COLORS)]


def front_data(comparison: Comparison) -> dict[str, list[Any]]:
    """One entry per candidate: latency (ms) and quality (%) with their 95 % intervals, colour, and texts."""
    columns: dict[str, list[Any]] = {key: [] for key in ("name", "x", "x0", "x1", "y", "y0", "y1", "color", "size")}
    for number, row in enumerate(comparison.rows):
        p50 = row.latency.p50
        top1 = row.accuracy.top1 if row.accuracy else None
        values = {
            "name": row.name,
            "x": row.p50_ms,
            "x0": p50.low if p50 else row.p50_ms,
            "x1": p50.high if p50 else row.p50_ms,
            "y": 100 * row.quality,
            "y0": 100 * (top1.low if top1 else row.quality),
            "y1": 100 * (top1.high if top1 else row.quality),
            "color": candidate_color(number),
            "size": row.size_bytes / 1e6,
        }
        for key, value in values.items():
            columns[key].append(value)
    return columns


def front_figure(comparison: Comparison, *, height: int = 320) -> tuple[figure, ColumnDataSource]:
    """Draws accuracy against latency with the Pareto front; a tap selects a candidate in the returned source."""
    data = front_data(comparison)
    source = ColumnDataSource(data)
    quality = "top-1 accuracy (%)" if comparison.original.accuracy else "agreement with the original (%)"
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        title="Accuracy against latency (best: top left)",
        x_axis_label="median latency (ms)",
        y_axis_label=quality,
        tools="pan,box_zoom,wheel_zoom,reset,save",
        toolbar_location="above",
    )
    plot.toolbar.logo = None
    plot.x_range.start = 0
    plot.segment("x0", "y", "x1", "y", source=source, color="color", line_width=2, alpha=0.7)
    plot.segment("x", "y0", "x", "y1", source=source, color="color", line_width=2, alpha=0.35)
    points = plot.scatter(
        "x",
        "y",
        name="candidates",
        source=source,
        size=13,
        color="color",
        line_color=None,
        nonselection_alpha=0.6,
        selection_alpha=1.0,
    )
    front = [data["name"].index(name) for name in pareto_front(comparison)]
    line = plot.line(
        [data["x"][i] for i in front],
        [data["y"][i] for i in front],
        line_dash="dashed",
        line_width=1.5,
        color="#888888",
    )
    items = [LegendItem(label=name, renderers=[points], index=i) for i, name in enumerate(data["name"])]
    if len(front) > 1:
        items.append(LegendItem(label="Pareto front", renderers=[line]))
    plot.add_layout(Legend(items=items), "right")
    plot.legend.background_fill_alpha = 0
    plot.legend.border_line_alpha = 0
    hover = HoverTool(
        renderers=[points],
        tooltips=[
            ("candidate", "@name"),
            ("median latency", "@x{0.000} ms (@x0{0.000}–@x1{0.000})"),
            ("quality", "@y{0.0} % (@y0{0.0}–@y1{0.0})"),
            ("size", "@size{0.00} MB"),
        ],
    )
    plot.add_tools(hover, TapTool(renderers=[points]))
    return plot, source


def static_html(plot: figure, *, height: int = 360) -> str:
    """A figure as HTML that lives without a kernel or a network; it can be zoomed but selects nothing elsewhere."""
    page = file_html(plot, INLINE, "plot", theme=_ON_ANY_PAGE)
    return (
        f'<div><iframe srcdoc="{html.escape(page)}" title="plot" sandbox="allow-scripts" '
        f'style="width:100%;height:{height}px;border:0;color-scheme:light"></iframe></div>'
    )
