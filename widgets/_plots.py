"""What all plots share: the colour of each candidate, the frame, what fades, and a form that needs no kernel."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from typing import Any

from bokeh.embed import file_html
from bokeh.models import ColumnDataSource, FixedTicker, Legend, LegendItem, Renderer
from bokeh.plotting import figure
from bokeh.resources import INLINE
from bokeh.themes import Theme

GREY = "#858585"  # can be read on white and on black

# Okabe and Ito's colours that stand out from both a white and a dark page, and four more of their kind.
_COLORS = ("#2f86c9", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
_COLORS += ("#8f7ae5", "#a39523", "#c8553d", "#5f9ea0")
_FADED = 0.22
_LEGEND = 60  # characters of a row that fit the narrowest plot
_LEGEND_ROW = 27  # pixels
_PAGE_MARGIN = 20  # pixels

_AXIS_PARTS = ("axis_line", "axis_label_text", "major_label_text", "major_tick_line", "minor_tick_line")
# A saved plot does not know the page that it will stand on.
ON_ANY_PAGE = Theme(
    json={
        "attrs": {
            "Plot": {"background_fill_color": None, "border_fill_color": None, "outline_line_color": GREY},
            "Title": {"text_color": GREY},
            "Axis": {f"{part}_color": GREY for part in _AXIS_PARTS},
            "Grid": {"grid_line_color": GREY, "grid_line_alpha": 0.25},
            "Legend": {"label_text_color": GREY},
        }
    }
)


def candidate_color(number: int) -> str:
    """The colour of the candidate at this place of a comparison, in every plot and table."""
    return _COLORS[number % len(_COLORS)]


def new_figure(title: str, x_label: str, y_label: str, *, height: int, **options: Any) -> figure:
    """An empty plot as wide as the page, with the tools that all have."""
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        title=title,
        x_axis_label=x_label,
        y_axis_label=y_label,
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_scroll=None,  # the wheel scrolls the page
        toolbar_location="above",
        **options,
    )
    plot.toolbar.logo = None
    return plot


def add_legend(plot: figure, items: Sequence[LegendItem]) -> None:
    """Names below the plot, so that it keeps its width."""
    widths = [len(item.label.value) + 6 for item in items]
    columns = len(items) if sum(widths) <= _LEGEND else max(1, _LEGEND // max(widths))
    legend = Legend(
        items=list(items), orientation="horizontal", ncols=columns, location="top_left", margin=0, padding=4
    )
    legend.background_fill_alpha = legend.border_line_alpha = 0
    legend.label_text_font_size = "12px"
    plot.add_layout(legend, "below")
    plot.height += _LEGEND_ROW * (-(-len(items) // columns) - 1)


def legend_items(names: Sequence[str], renderer: Renderer) -> list[LegendItem]:
    """One entry for each candidate that a renderer draws."""
    return [LegendItem(label=name, renderers=[renderer], index=number) for number, name in enumerate(names)]


def name_rows(plot: figure, names: Sequence[str], longest: int = 28) -> None:
    """Writes names beside the rows 0, 1, … of a plot, the first on top; long ones without their middle."""
    half = longest // 2
    texts = [name if len(name) <= longest else f"{name[: half - 1]}…{name[-half:]}" for name in names]
    plot.yaxis.ticker = FixedTicker(ticks=list(range(len(names))))
    plot.yaxis.major_label_overrides = dict(enumerate(texts))
    plot.y_range.start, plot.y_range.end = len(names) - 0.4, -0.6
    plot.ygrid.grid_line_color = None


def source_of(plot: figure) -> ColumnDataSource:
    """What a plot of candidates draws: a row for each, with at least `name`, `color` and `alpha`."""
    source: ColumnDataSource = plot.select_one({"name": "candidates"}).data_source
    return source


def fade(plot: figure, names: Collection[str]) -> None:
    """Fades these candidates and draws the others in full."""
    source = source_of(plot)
    alphas = [_FADED if name in names else 1.0 for name in source.data["name"]]
    source.data["alpha"] = alphas
    if "fill" in source.data:
        source.data["fill"] = [0.25 * alpha for alpha in alphas]


def static_html(plot: figure) -> str:
    """A figure as HTML that lives without a kernel or a network; it can be zoomed but selects nothing elsewhere."""
    page = file_html(plot, INLINE, "plot", theme=ON_ANY_PAGE)
    return (
        f'<div><iframe srcdoc="{html.escape(page)}" title="plot" sandbox="allow-scripts" '
        f'style="width:100%;height:{plot.height + _PAGE_MARGIN}px;border:0;color-scheme:light"></iframe></div>'
    )
