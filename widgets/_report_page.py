"""The report of a comparison as one HTML file that opens without a kernel or a network, on a light or a dark page."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Callable, Mapping, Sequence

from bokeh.embed import components
from bokeh.plotting import figure
from bokeh.resources import Resources

from widgets import _markup
from widgets._candidate_details import details_list
from widgets._finding_card import findings_list
from widgets._plots import ON_ANY_PAGE, candidate_color
from widgets._plots_front import front_figure
from widgets._plots_latency import ecdf_figure, histogram_figure
from widgets._plots_profile import bars_figure
from widgets._plots_speedup import speedup_figure
from widgets._profile_data import LAYER_COLUMNS, layer_bars, layer_rows, total_rows
from workbench.choice import Choice
from workbench.comparison import Comparison
from workbench.findings import Finding
from workbench.measure.profile import LayerProfile
from workbench.report import comparison_html

_HERE = pathlib.Path(__file__).parent
_PLOTS: dict[str, Callable[[Comparison], figure]] = {
    "front": front_figure,
    "speed-up": speedup_figure,
    "spread": ecdf_figure,
    "histogram": histogram_figure,
}


def report_page(
    comparison: Comparison,
    choice: Choice | None = None,
    findings: Sequence[Finding] | None = None,
    profiles: Mapping[str, LayerProfile] | None = None,
) -> str:
    """Writes what was measured as a page of its own.

    Args:
        comparison: What was measured.
        choice: What to ship of it.
        findings: What `explain` said about it; None if it was not asked.
        profiles: Layer profiles by the candidate's name.
    """
    colors = {row.name: candidate_color(number) for number, row in enumerate(comparison.rows)}
    plots = {name: draw(comparison) for name, draw in _PLOTS.items()}
    sections = [
        _section("Candidates", _scrolled(comparison_html(comparison, choice))),
        _section("Plots", f'<div class="plots">{"".join(_place(*named) for named in plots.items())}</div>'),
        _section("What the numbers rest on", details_list(comparison, choice)),
    ]
    if findings is not None:
        sections.append(_section("Findings", findings_list(findings, comparison, colors)))
    profiles = profiles or {}
    first = comparison.original.name
    for number, (name, profile) in enumerate(profiles.items()):
        if name == first and len(profiles) > 1:
            continue  # it stands beside each of the others
        names, original = (first, name), profiles.get(first)
        if original is None or name == first:
            names, original = (name, name), profile
        key = f"profile{number}"
        plots[key] = bars_figure("Time by node", layer_bars(original, profile), names, colors.get(name, ""))
        tables = _profile_tables(original, profile, names)
        title = f"Layers of {name}, as {profile.backend} runs them"
        sections.append(_section(title, _place(key, plots[key]) + tables))
    script, places = components(plots, theme=ON_ANY_PAGE)
    model, count = comparison.original.candidate.engine.model.name, len(comparison.rows)
    texts = {
        "title": html.escape(f"{model}: {count} candidate{'s' if count > 1 else ''} measured"),
        "conditions": html.escape(f"{comparison.dataset} ({comparison.samples:,} samples) · {comparison.environment}"),
        "page": (_HERE / "_page.css").read_text("utf-8"),
        "style": _markup.STYLE,
        "scripts": Resources(mode="inline", components=["bokeh"]).render(),
        "sections": "".join(sections),
        **{f"plot {key}": place for key, place in places.items()},
        "plots": script,
    }
    page = (_HERE / "_report_page.html").read_text("utf-8")
    for name, text in texts.items():
        page = page.replace(f"<!--{name}-->", text)
    return page


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def _place(key: str, plot: figure) -> str:
    return f'<figure role="img" aria-label="{html.escape(plot.title.text)}"><!--plot {key}--></figure>'


def _scrolled(content: str) -> str:
    return f'<div class="scroll" tabindex="0">{content}</div>'


def _profile_tables(original: LayerProfile, profile: LayerProfile, names: tuple[str, str]) -> str:
    alone = names[0] == names[1]
    headings = ("", *names[alone:])
    totals = _markup.listing(headings, [row[: len(headings)] for row in total_rows(original, profile)])
    caveats = "\n".join(profile.caveats)
    layers = [[str(getattr(cell, "text", cell)) for cell in row] for row in layer_rows(profile)]
    table = _scrolled(_markup.listing([column.label for column in LAYER_COLUMNS], layers))
    folded = f"<details><summary>All {len(layers)} layers</summary>{table}</details>"
    return _scrolled(totals) + (_markup.warning(caveats) if caveats else "") + folded
