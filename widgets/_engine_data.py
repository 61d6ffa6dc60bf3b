"""What the Engine explorer shows of an engine: rows of its table, its facts, what is wrong, how two differ."""

from __future__ import annotations

import html
from collections.abc import Sequence

from widgets._graph_table import Cell, Column, Row
from widgets._profile_data import format_ms
from workbench.explorer import EngineDiff, EngineView
from workbench.explorer_report import stakes, view_facts
from workbench.findings.words import count_of
from workbench.linters import EngineIssue
from workbench.report import format_bytes

_LAYER = Column("layer", True, "The backend's own name")
_OPERATOR = Column("operator", True, "What the backend runs")
_PRECISION = Column("precision", True, "What it computes in, where the backend says; the colour is that of the bars")
_WRITES = Column("writes", True, "Type of its output")
_BYTES = Column("bytes", note="Size of what it writes; the bar is its share of all layers")
_MS = Column("ms", note="Of one inference; the bar is its share of all layers")
_SHARE = Column("share", note="Of the sum of all layers")
_NODES = Column("nodes", True, "Nodes of the model's graph that it computes; several where they are fused")
_CHANGES = 30


def layer_columns(view: EngineView) -> list[Column]:
    """The columns of the table of layers: those of which anything is known."""
    layers = [entry.layer for entry in view.layers]
    optional = (
        (_WRITES, any(layer.output_precision for layer in layers)),
        (_BYTES, any(layer.output_bytes for layer in layers)),
        (_MS, view.profile.sum_ms is not None),
        (_SHARE, view.profile.sum_ms is not None),
    )
    return [_LAYER, _OPERATOR, _PRECISION, *(column for column, known in optional if known), _NODES]


def layer_rows(view: EngineView) -> list[Row]:
    """A row per layer, under `layer_columns`, in the order in which they run."""
    columns = layer_columns(view)
    written = sum(entry.layer.output_bytes or 0 for entry in view.layers) or 1
    rows: list[Row] = []
    for name, entry in zip(view.names, view.layers, strict=True):
        layer = entry.layer
        size = layer.output_bytes
        cells: dict[Column, str | Cell] = {
            _LAYER: name,
            _OPERATOR: layer.operator,
            _PRECISION: (layer.precision or "–") if layer.kind == "compute" else f"{layer.precision} ({layer.kind})",
            _WRITES: layer.output_precision or "–",
            _BYTES: Cell(size, format_bytes(size), round((size or 0) / written, 4)),
            _MS: Cell(layer.ms, format_ms(layer.ms), round(entry.share, 4)),
            _SHARE: Cell(entry.share, f"{100 * entry.share:.1f} %"),
            _NODES: ", ".join(entry.nodes) or "added by the backend",
        }
        rows.append(tuple(cells[column] for column in columns))
    return rows


def facts_html(view: EngineView) -> str:
    """The engine as a whole."""
    rows = {"Engine": f"{count_of(len(view.layers), 'layer')} on {view.backend}, for {view.device}", **view_facts(view)}
    cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows.items())
    return f'<table class="wb-facts">{"".join(cells)}</table>'


def issue_html(issue: EngineIssue, view: EngineView) -> str:
    """One issue as a card, without its buttons."""
    stake = " · ".join(stakes(issue)) or "not timed"
    total = view.profile.sum_ms
    share = ""
    if issue.milliseconds is not None and total:
        width = f"{100 * min(1.0, issue.milliseconds / total):.0f}%"
        share = f'<span class="wb-share"><span style="width:{width}"></span></span>'
    return (
        f'<div class="wb-finding-head"><b>{html.escape(issue.what)}</b>'
        f'<span class="wb-stake" title="of the layers that are meant">{html.escape(stake)}{share}</span></div>'
        f'<div class="wb-finding-of">{html.escape(issue.rule.replace("_", " "))}</div>'
        f"<details><summary>Why</summary><p>{html.escape(issue.why)}</p></details>"
        f"<p>→ {html.escape(issue.remedy)}</p>"
    )


def diff_html(diff: EngineDiff, names: Sequence[str]) -> str:
    """How two engines differ."""
    first, second = map(html.escape, names)
    if not diff.changes:
        files = {True: " and are the same to the byte", False: ", though their files differ", None: ""}[diff.identical]
        return f'<div class="wb-note">{first} and {second} have the same layers{files}.</div>'
    head = (
        f"{count_of(len(diff.changes), 'difference')} from {first} to {second}; {diff.same:,} of "
        f"{count_of(diff.layers[0], 'layer')} alike"
    )
    rows = "".join(
        f'<tr><td>{change.kind}</td><td title="{html.escape(", ".join(change.nodes))}">{_short(change.nodes)}</td>'
        f'<td title="{html.escape(change.what)}">{html.escape(change.what)}</td></tr>'
        for change in diff.changes[:_CHANGES]
    )
    rest = len(diff.changes) - _CHANGES
    more = f'<div class="wb-note">and {rest:,} more</div>' if rest > 0 else ""
    headings = "<tr><th>kind</th><th>nodes</th><th>difference</th></tr>"
    return f'<div class="wb-note">{head}</div><table class="wb-list wb-diff">{headings}{rows}</table>{more}'


def _short(nodes: Sequence[str]) -> str:
    """The first node and how many more."""
    return html.escape(nodes[0] if nodes else "–") + (f" + {len(nodes) - 1}" if len(nodes) > 1 else "")
