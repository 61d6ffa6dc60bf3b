"""What an engine is made of: a stacked bar of its layers by precision, by count, by time and by what they write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bokeh.models import ColumnDataSource, HoverTool, LegendItem
from bokeh.plotting import figure

from widgets._plots import GREY, add_legend, candidate_color, name_rows, new_figure
from widgets._profile_data import format_ms
from workbench.explorer import EngineView
from workbench.measure.profile import ProfiledLayer
from workbench.report import format_bytes

_ROW = 34  # pixels
# The same colour for the same precision in every engine; what only moves or quantizes stands apart.
_ORDER = ("int4", "int8", "float8", "float16", "bfloat16", "float32", "quantize", "reformat")
_COLORS = dict(zip(_ORDER, (5, 2, 9, 6, 4, 0, 1), strict=False))


class Part(NamedTuple):
    """One piece of a bar: its group, how much it is of what is counted, and that in words."""

    group: str
    value: float
    text: str


def group_of(entry: ProfiledLayer) -> str:
    """What a layer counts as: its precision, or that it quantizes or moves."""
    layer = entry.layer
    return (layer.precision or "not known") if layer.kind == "compute" else layer.kind


def group_color(group: str) -> str:
    """The colour of a precision or kind, in plots and tables."""
    known = next((name for name in _ORDER if group.startswith(name)), "")
    return candidate_color(_COLORS[known]) if known in _COLORS else GREY


def bar_parts(view: EngineView) -> Mapping[str, list[Part]]:
    """By what is counted, the parts of its bar; what is not known of every layer has no bar."""
    sums: dict[str, list[float]] = {}
    for group in _sorted({group_of(entry) for entry in view.layers}):
        sums[group] = [0.0, 0.0, 0.0]
    for entry in view.layers:
        total = sums[group_of(entry)]
        total[0] += 1
        total[1] += entry.layer.ms or 0.0
        total[2] += entry.layer.output_bytes or 0
    found = {"layers": [Part(group, total[0], _layers(int(total[0]))) for group, total in sums.items()]}
    if view.profile.sum_ms:
        found["time"] = [Part(group, total[1], format_ms(total[1], " ms")) for group, total in sums.items()]
    if any(total[2] for total in sums.values()):
        found["bytes written"] = [Part(group, total[2], format_bytes(total[2])) for group, total in sums.items()]
    return found


def engine_figure(view: EngineView) -> figure:
    """Draws a bar for each thing that is counted, in percent of the whole; a colour is a precision or a kind."""
    bars = bar_parts(view)
    plot = new_figure("What the layers compute in", "% of all layers", "", height=148 + _ROW * len(bars))
    name_rows(plot, list(bars))
    rows = [(place, *part) for place, parts in enumerate(bars.values()) for part in _with_places(parts)]
    renderers = {}
    for group in dict.fromkeys(row[1] for row in rows):
        own = [row for row in rows if row[1] == group]
        source = ColumnDataSource(
            {
                "place": [row[0] for row in own],
                "group": [group] * len(own),
                "text": [row[2] for row in own],
                "left": [row[3] for row in own],
                "right": [row[4] for row in own],
                "share": [row[4] - row[3] for row in own],
            }
        )
        renderers[group] = plot.hbar(
            y="place", left="left", right="right", height=0.7, source=source, color=group_color(group), line_color=None
        )
    plot.x_range.start, plot.x_range.end = 0, 100
    add_legend(plot, [LegendItem(label=group, renderers=[bar]) for group, bar in renderers.items()])
    tips = [("", "@group"), ("", "@text"), ("share", "@share{0.0} %")]
    plot.add_tools(HoverTool(renderers=list(renderers.values()), tooltips=tips))
    return plot


def _with_places(parts: list[Part]) -> list[tuple[str, str, float, float]]:
    total = sum(part.value for part in parts) or 1.0
    placed, at = [], 0.0
    for part in parts:
        end = at + 100 * part.value / total
        placed.append((part.group, part.text, at, end))
        at = end
    return placed


def _sorted(groups: set[str]) -> list[str]:
    def place(group: str) -> int:
        return next((n for n, name in enumerate(_ORDER) if group.startswith(name)), len(_ORDER))

    return sorted(groups, key=lambda group: (place(group), group))


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count:,} layers"
