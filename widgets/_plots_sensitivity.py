"""What a layer's quantization does to the output against what keeping it in float costs: points to tick."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bokeh.models import ColumnDataSource, DataRange1d, HoverTool, LegendItem, Span, TapTool
from bokeh.plotting import figure

from widgets._plots import GREY, add_legend, candidate_color, new_figure
from widgets._sensitivity_data import Entry, plot_data

_FRAME = 380, 280  # pixels of the smallest frame that labels are placed in
_LETTER, _LINE, _GAP = 7, 15, 10  # pixels: width of a letter, height of a line, between a point and its label
_MOST_LABELS = 8

_IN_INT8, _IN_FLOAT = candidate_color(0), candidate_color(3)


def sensitivity_figure(
    entries: Sequence[Entry], kept: Collection[str], whole_db: float, *, height: int = 400
) -> figure:
    """Draws a point for each layer with a time; those that are selected in its source stay in float.

    Args:
        entries: The layers.
        kept: Names of those that stay in float.
        whole_db: SQNR of the output with every layer in INT8, dB.
        height: Of the plot, pixels.
    """
    data = plot_data(entries, kept)
    data |= _place_labels(data)
    source = ColumnDataSource(data)
    plot = new_figure(
        "What to keep in float (best: top left)",
        "what float costs (ms of one inference)",
        "SQNR of the output, this layer alone in INT8 (dB)",
        height=height,
        y_range=DataRange1d(flipped=True, range_padding=0.15),
        x_range=DataRange1d(range_padding=0.15),
    )
    plot.add_layout(Span(location=0, dimension="height", line_color=GREY, line_width=1))
    whole = plot.line(
        [min([*data["cost"], 0]), max([*data["cost"], 0])], [whole_db] * 2, line_dash="dashed", color=GREY
    )
    points = plot.scatter(
        "cost",
        "sqnr",
        name="layers",
        source=source,
        size=12,
        color=_IN_INT8,
        selection_color=_IN_FLOAT,
        selection_line_color=GREY,
        selection_line_width=3,
        nonselection_alpha=1.0,
        nonselection_color=_IN_INT8,
    )
    source.selected.indices = [number for number, is_kept in enumerate(data["kept"]) if is_kept]
    plot.text(
        "cost",
        "sqnr",
        text="label",
        source=source,
        x_offset="offset",
        text_align="align",
        text_baseline="middle",
        text_color=GREY,
        text_font_size="12px",
        nonselection_text_alpha=1,
    )
    in_float = plot.scatter([math.nan], [math.nan], size=12, color=_IN_FLOAT)
    in_int8 = plot.scatter([math.nan], [math.nan], size=12, color=_IN_INT8)
    add_legend(
        plot,
        [
            LegendItem(label="INT8", renderers=[in_int8]),
            LegendItem(label="ticked: float", renderers=[in_float]),
            LegendItem(label="every layer in INT8", renderers=[whole]),
        ],
    )
    tips = [
        ("layer", "@name (@operator)"),
        ("SQNR of the output", "@sqnr{0.0} dB"),
        ("float, INT8", "@float, @int8 ms"),
    ]
    plot.add_tools(HoverTool(renderers=[points], tooltips=tips), TapTool(renderers=[points], mode="xor"))
    return plot


def layers_of(plot: figure) -> ColumnDataSource:
    """The source of the points, whose column `name` says which layer each is."""
    source: ColumnDataSource = plot.select_one({"name": "layers"}).data_source
    return source


def _place_labels(data: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The worst points get their names, left or right of them, where these cover no other name or point."""
    places = list(zip(_scaled(data["cost"], _FRAME[0]), _scaled(data["sqnr"], _FRAME[1]), strict=True))
    taken = [(x - _LINE / 2, y - _LINE / 2, x + _LINE / 2, y + _LINE / 2) for x, y in places]
    labels, sides = [""] * len(places), ["left"] * len(places)
    for number, (x, y) in enumerate(places[:_MOST_LABELS]):
        width = _LETTER * len(data["short"][number])
        for side, start in (("left", x + _GAP), ("right", x - _GAP - width)):
            box = (start, y - _LINE / 2, start + width, y + _LINE / 2)
            if start >= 0 and box[2] <= _FRAME[0] and not any(_overlap(box, other) for other in taken):
                labels[number], sides[number] = data["short"][number], side
                taken.append(box)
                break
    return {"label": labels, "align": sides, "offset": [_GAP if side == "left" else -_GAP for side in sides]}


def _scaled(values: Sequence[float], pixels: int) -> list[float]:
    """Places in the frame, which leaves some room at both ends."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return [pixels * (0.07 + 0.86 * ((value - low) / (high - low) if high > low else 0.5)) for value in values]


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
