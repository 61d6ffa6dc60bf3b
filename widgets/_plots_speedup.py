"""How much faster each candidate is than the original: the data, and apart from it the plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bokeh.models import ColumnDataSource, HoverTool, LegendItem, Span, TapTool
from bokeh.plotting import figure

from widgets._plots import GREY, add_legend, candidate_color, name_rows, new_figure
from workbench.comparison import Comparison
from workbench.measure.statistics import Estimate


class _Measure(NamedTuple):
    """One of the three ratios: its column, what it is called, and how it is drawn."""

    column: str
    label: str
    offset: float
    marker: str
    size: int
    width: float


_MEASURES = (
    _Measure("x", "fastest tenth", 0.0, "circle", 12, 4),
    _Measure("p50", "median", 0.2, "diamond", 10, 1.5),
    _Measure("cpu", "processor time", 0.34, "square", 6, 1.5),
)


def speedup_data(comparison: Comparison) -> dict[str, list[Any]]:
    """One entry per candidate but the original, in order: how many times faster it is, with 95 % intervals.

    `x` is the headline, `p50` the ratio of the medians, `cpu` that of the processor times; `_low` and `_high` are the
    bounds, `_y` is the place on the axis.
    """
    rows = [(number, row) for number, row in enumerate(comparison.rows) if row is not comparison.original]
    data: dict[str, list[Any]] = {
        "name": [row.name for _, row in rows],
        "color": [candidate_color(number) for number, _ in rows],
        "alpha": [1.0] * len(rows),
        "text": [f"{row.speedup.value:.2f} ×{', slower' if row.slower else ''}" for _, row in rows],
    }
    estimates = (
        [row.speedup for _, row in rows],
        [row.speedup_p50 for _, row in rows],
        [row.speedup_cpu for _, row in rows],
    )
    for measure, values in zip(_MEASURES, estimates, strict=True):
        data |= _columns(measure, values)
    return data


def speedup_figure(comparison: Comparison) -> figure:
    """Draws each candidate's speed-up as an interval beside the line of no difference; a tap selects a candidate."""
    data = speedup_data(comparison)
    source = ColumnDataSource(data)
    title = "Times faster than the original"
    plot = new_figure(title, "speed-up (×)", "", height=170 + 48 * max(1, len(data["name"])))
    name_rows(plot, data["name"])
    plot.add_layout(Span(location=1, dimension="height", line_color=GREY, line_width=1.5, line_dash="dashed"))
    colors = {"color": "color", "alpha": "alpha", "selection_alpha": "alpha", "nonselection_alpha": "alpha"}
    markers = []
    for measure in _MEASURES:
        name, y = measure.column, f"{measure.column}_y"
        bounds = {"x0": f"{name}_low", "x1": f"{name}_high", "y0": y, "y1": y}
        plot.segment(**bounds, line_width=measure.width, source=source, **colors)
        named = {"name": "candidates"} if measure is _MEASURES[0] else {}
        style = {"marker": measure.marker, "size": measure.size}
        markers.append(plot.scatter(name, y, source=source, **style, **named, **colors))
    plot.text(
        "x_high",
        "x_y",
        text="text",
        source=source,
        x_offset=10,
        text_baseline="middle",
        text_font_size="12px",
        text_color=GREY,
        nonselection_text_alpha=1,
    )
    _set_range(plot, data)
    labels = [measure.label for measure in _MEASURES]
    items = [LegendItem(label=label, renderers=[marker]) for label, marker in zip(labels, markers, strict=True)]
    add_legend(plot, items)
    tips = [
        (each.label, f"@{each.column}{{0.00}} × (@{each.column}_low{{0.00}}–@{each.column}_high{{0.00}})")
        for each in _MEASURES
    ]
    plot.add_tools(
        HoverTool(renderers=markers, tooltips=[("candidate", "@name"), *tips]), TapTool(renderers=markers[:1])
    )
    return plot


def _columns(measure: _Measure, values: Sequence[Estimate]) -> dict[str, list[Any]]:
    name = measure.column
    return {
        name: [value.value for value in values],
        f"{name}_low": [value.low for value in values],
        f"{name}_high": [value.high for value in values],
        f"{name}_y": [number + measure.offset for number in range(len(values))],
    }


def _set_range(plot: figure, data: dict[str, list[Any]]) -> None:
    """From no speed at all, so that lengths can be compared, to the farthest bound with room for its text."""
    bounds = [1.0, *(bound for each in _MEASURES for bound in data[f"{each.column}_high"])]
    room = 1.15 if all(len(text) < 10 for text in data["text"]) else 1.3
    plot.x_range.start, plot.x_range.end = 0, room * max(bounds)
