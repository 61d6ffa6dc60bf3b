"""Where the time of one inference goes: bars of the original beside those of a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bokeh.models import ColumnDataSource, HoverTool, LegendItem, TapTool
from bokeh.plotting import figure

from widgets._plots import add_legend, candidate_color, name_rows, new_figure
from widgets._profile_data import Bar

_ROW = 30  # pixels


def bars_figure(title: str, bars: Sequence[Bar], names: tuple[str, str], color: str) -> figure:
    """Draws two bars a row; a tap selects a row in the source, whose column `name` says which it is.

    Args:
        title: What the rows are.
        bars: The rows, the first on top.
        names: What the two bars of a row belong to; the same name twice draws the first alone.
        color: Of the candidate's bars.
    """
    places = range(len(bars))
    alone = names[0] == names[1]
    source = ColumnDataSource(
        {
            "name": [bar.name for bar in bars],
            "original": [bar.original for bar in bars],
            "candidate": [bar.candidate for bar in bars],
            "upper": [place - (0 if alone else 0.2) for place in places],
            "lower": [place + 0.2 for place in places],
        }
    )
    plot = new_figure(title, "ms of one inference", "", height=150 + _ROW * len(bars))
    name_rows(plot, [bar.name for bar in bars])
    kinds = [("original", "upper", candidate_color(0))] + ([] if alone else [("candidate", "lower", color)])
    renderers = [_draw(plot, source, kind, place, fill, 0.7 if alone else 0.38) for kind, place, fill in kinds]
    renderers[0].name = "bars"
    plot.x_range.start = 0
    shown = dict(zip(("original", "candidate"), names, strict=True))
    items = [LegendItem(label=shown[kind], renderers=[bar]) for (kind, *_), bar in zip(kinds, renderers, strict=True)]
    add_legend(plot, items)
    tips = [(shown[kind], f"@{kind}{{0.0000}} ms") for kind, *_ in kinds]
    plot.add_tools(HoverTool(renderers=renderers, tooltips=[("", "@name"), *tips]), TapTool(renderers=renderers))
    return plot


def _draw(plot: figure, source: ColumnDataSource, kind: str, place: str, fill: str, height: float) -> Any:
    return plot.hbar(
        y=place,
        right=kind,
        height=height,
        source=source,
        color=fill,
        line_color=None,
        nonselection_alpha=0.55,
    )
