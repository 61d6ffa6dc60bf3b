"""The Graph panel: the graph of a model and of its variants, what each node costs, and what a transform changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._graph_code import graph_code, source_code
from widgets._graph_data import (
    CHANGE_COLUMNS,
    COLOR_BY,
    NODE_COLUMNS,
    OPERATOR_COLUMNS,
    change_rows,
    diff_line,
    facts_line,
    node_rows,
    operator_rows,
    paint_changes,
    paint_nodes,
)
from widgets._graph_page import graph_page
from widgets._graph_table import GraphTable
from widgets._netron import NetronView
from widgets._panel import Static, check_traits
from workbench.comparison import ORIGINAL
from workbench.errors import ModelError
from workbench.graph import GraphDiff, GraphSummary, diff_graphs, summarize_graph
from workbench.model import Model
from workbench.report import format_bytes, format_count, format_size
from workbench.workspace import Workspace, write_bytes

_SOURCE = "file before import"
_NOTHING = "–"


class Graph(Static):
    """Shows the original or a variant: alone with its nodes, or beside another with the changes."""

    title = "Inspect"

    model = t.Instance(Model, allow_none=True)
    variants = t.Tuple(help="Named models: (name, Model) each.")
    source = t.Any(None, help="The file or folder that `model` was imported from, where that was not ONNX.")
    warning = t.Unicode(help="What of `model` backends do not run; empty if nothing.")
    times = t.Dict(help="By the path of a model's file: time by node, ms, where it was profiled.")
    selected_node = t.Unicode(help="Name of the node selected in the graph or the table.")
    workspace = t.Any(None, help="A Workspace, or the folder of one; the default one if None.")
    error = t.Unicode(help="What went wrong and how to mend it; empty if nothing did.")

    def __init__(self, *, height: int = 520, **traits: Any) -> None:
        check_traits(self, traits)
        self._quiet = False
        self._summary: GraphSummary | None = None
        self._summaries: dict[tuple[Path, int], GraphSummary] = {}  # a large graph takes seconds to sum up
        self._diff: GraphDiff | None = None
        self._choice = w.Dropdown(description="Show", options=[])
        self._other = w.Dropdown(description="Compare with", options=[])
        self._batch = w.BoundedIntText(1, min=1, max=65536, description="Batch")
        self._color = w.Dropdown(description="Colour by", options=list(COLOR_BY.items()))
        self._save = w.Button(description="Save as HTML", icon="save", tooltip="One file that opens without a kernel")
        self._code_button = w.ToggleButton(description="Show code", icon="code", tooltip="Python that does the same")
        for control, width in ((self._choice, 240), (self._other, 280), (self._color, 200), (self._batch, 130)):
            control.layout.width, control.style.description_width = f"{width}px", "initial"
        self._facts, self._remark, self._code_box = w.HTML(), w.HTML(), w.HTML()
        self.view, self.other_view = NetronView(height=height), NetronView(height=height)
        self.nodes = GraphTable(label="nodes")
        self.operators = GraphTable(label="operators", searchable=False)
        self.changes = GraphTable(label="changes")
        heading = w.HTML(
            _markup.STYLE
            + _markup.heading(
                self.title,
                "Click a node for its facts, or find it in the table; an operator lists its nodes.",
            )
        )
        self._controls = w.HBox([self._choice, self._other, self._batch, self._color, self._save, self._code_button])
        self._views = w.Box([self.view, self.other_view])
        self._tables = w.Box([_titled("Nodes", self.nodes), _titled("By operator", self.operators)])
        self._changes = _titled("Changes", self.changes)
        for widget, name in (
            (heading, "wb-heading"),
            (self._controls, "wb-actions"),
            (self._views, "wb-views"),
            (self._tables, "wb-tables"),
            (self._changes, "wb-changes"),
        ):
            widget.add_class(name)
        children = [heading, self._controls, self._facts, self._views, self._remark, self._code_box]
        super().__init__([*children, self._tables, self._changes], **traits)
        self.add_class("wb-panel")
        self._connect()
        self._list()

    def _connect(self) -> None:
        for control in (self._choice, self._other, self._batch):
            control.observe(self._guard(self._load), "value")
        self._color.observe(self._guard(self._paint), "value")
        self._save.on_click(self._guard(self.save_html))
        self._code_button.observe(self._guard(self._show_code), "value")
        self.view.observe(lambda _: self._pick(self.view, "before"), "selected")
        self.other_view.observe(lambda _: self._pick(self.other_view, "after"), "selected")
        self.nodes.observe(lambda _: self._go(self.nodes.selected), "selected")
        self.operators.observe(lambda _: setattr(self.nodes, "query", self.operators.selected), "selected")
        self.changes.observe(lambda _: self._go_to_change(), "selected")
        t.dlink((self.nodes, "query"), (self.view, "query"))
        self.observe(lambda _: self._go(self.selected_node), "selected_node")
        self.observe(lambda _: self._list(), ("model", "variants", "source"))
        self.observe(self._guard(self._paint), "times")

    def show(self, name: str, *, beside: str = "") -> None:
        """Shows `original` or the variant of that name, and what differs in another if one is named."""
        self._choice.label = name
        self._other.label = beside or _NOTHING

    def color_by(self, label: str) -> None:
        """Colours the nodes by one of `nothing`, `time`, `MACs`, `parameters`, `memory` and `precision`."""
        self._color.label = label

    def save_html(self, path: str | Path | None = None) -> Path:
        """Writes the shown graph as one HTML file, and has the page download it.

        Args:
            path: The file; by default one in the workspace, named after the model and the variant.

        Returns:
            Where it was written.

        Raises:
            ModelError: Nothing is shown.
            WorkspaceError: The place cannot be written.
        """
        model = self._shown()
        if model is None:
            raise ModelError("There is no graph to save.", "Load a model first.")
        if path is None:
            space = self.workspace if isinstance(self.workspace, Workspace) else Workspace(self.workspace)
            name = model.name if self._choice.label == ORIGINAL else f"{model.name}-{self._choice.label}"
            path = space.root / "graphs" / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.html"
        path = Path(path).expanduser().absolute()
        content = graph_page(model, self._summary, self._times()).encode()
        write_bytes(path, content)
        self.view.offer(path.name, content)
        self._remark.value = _markup.note(f"Saved to {path} ({format_bytes(len(content))}).")
        return path

    def summary(self) -> str:
        """The operators and the costliest nodes of the shown model, or what changed."""
        if self._summary is None:
            return super().summary()
        if self._diff is not None:
            rows = [[str(getattr(cell, "text", cell)) for cell in row[1:]] for row in change_rows(self._diff)[:30]]
            return self._facts.value + _markup.listing([column.label for column in CHANGE_COLUMNS[1:]], rows)
        nodes = sorted(self._summary.nodes, key=lambda node: -(node.macs or 0))[:10]
        rows = [
            [node.name, node.operator, node.precision, format_count(node.parameters), format_count(node.macs)]
            for node in nodes
            if node.macs or node.parameters
        ]
        headings = ("costliest nodes", "operator", "precision", "parameters", "MACs")
        return self._facts.value + _markup.listing(headings, rows)

    def _shown(self) -> Model | None:
        return self._choice.value if isinstance(self._choice.value, Model) else None

    def _list(self) -> None:
        for widget in (self._controls, self._facts):
            widget.layout.display = "none" if self.model is None else ""
        models = [(ORIGINAL, self.model), *self.variants] if self.model is not None else []
        source = [(_SOURCE, Path(self.source))] if models and self.source else []
        shown, beside = self._choice.value, self._other.value
        self._quiet = True  # one drawing for everything that changes here
        self._choice.options = [*models, *source]
        self._other.options = [(_NOTHING, ""), *models]
        self._choice.value = next((value for _, value in self._choice.options if value == shown), self.model)
        self._other.value = next((value for _, value in models if value == beside), "")
        self._quiet = False
        self._other.layout.display = "" if self.variants else "none"
        if self._choice.value != shown or self._other.value != beside or shown is None:
            self._guard(self._load)()

    def _load(self) -> None:
        if self._quiet:
            return
        self._summary = self._diff = None
        self._remark.value = self._facts.value = ""
        model, other = self._shown(), self._other.value
        pair = model is not None and isinstance(other, Model) and other != model
        self._lay_out(nodes=model is not None and not pair, pair=pair)
        if model is None:
            self.other_view.clear()
            self.view.load(self._choice.value) if self._choice.value else self.view.clear()
            self._show_code()
            return
        self._batch.disabled = model.fixed_batch is not None
        self.view.load(model.path)  # first: the page draws while the rest is counted
        if pair:
            self.other_view.load(other.path)
        self._summary = self._summarize(model, model.fixed_batch or self._batch.value)
        if pair:
            self._diff = diff_graphs(model, other)
            self.changes.show(CHANGE_COLUMNS, change_rows(self._diff))
            text = f"{self._choice.label} → {self._other.label}: {diff_line(self._diff)}"
        else:
            self.other_view.clear()
            self.nodes.query = ""
            wanted = self.selected_node  # which the table's new rows take away
            self.nodes.show(NODE_COLUMNS, node_rows(self._summary))
            if wanted in {node.name for node in self._summary.nodes}:
                self._go(wanted)
            self.operators.show(OPERATOR_COLUMNS, operator_rows(self._summary))
            text = f"{facts_line(self._summary)} · {format_size(model.size_bytes / 1e6)} on disk"
        warning = _markup.warning(self.warning) if self.warning and model == self.model else ""
        self._facts.value = _markup.note(text) + warning
        self._paint()
        self._show_code()

    def _summarize(self, model: Model, batch: int) -> GraphSummary:
        key = (model.path, batch)
        if key not in self._summaries:
            self._summaries[key] = summarize_graph(model, batch=batch)
        return self._summaries[key]

    def _lay_out(self, *, nodes: bool, pair: bool) -> None:
        for widget, shown in (
            (self._tables, nodes),
            (self._color, nodes),
            (self._batch, nodes),
            (self._save, nodes),
            (self._changes, pair),
            (self.other_view, pair),
        ):
            widget.layout.display = "" if shown else "none"

    def _paint(self) -> None:
        if self._diff is not None:
            before, after, rows = paint_changes(self._diff)
            for view, paint in ((self.view, before), (self.other_view, after)):
                view.colors, view.legend = paint
            self.changes.colors = rows
        elif self._summary is not None:
            self.view.colors, self.view.legend = paint_nodes(self._summary, self._color.value, self._times())
            self.nodes.colors = self.view.colors

    def _times(self) -> dict[str, float]:
        model = self._shown()
        return self.times.get(str(model.path), {}) if model else {}

    def _pick(self, view: NetronView, side: str) -> None:
        """The page selected a node: its row, or its change, follows."""
        name = view.selected[0].get("name", "") if view.selected else ""
        if view is self.view and name:  # a page that loads another graph says that nothing is selected
            self.selected_node = name
        if self._diff is not None:
            changes = enumerate(self._diff.changes, 1)
            found = next((str(number) for number, change in changes if name in getattr(change, side)), "")
            if name and found:
                self.changes.selected = found

    def _go(self, name: str) -> None:
        self.nodes.selected = self.selected_node = name
        self.view.focus = name

    def _go_to_change(self) -> None:
        if self._diff is None or not self.changes.selected:
            return
        change = self._diff.changes[int(self.changes.selected) - 1]
        for view, names in ((self.view, change.before), (self.other_view, change.after)):
            if names and not {node.get("name") for node in view.selected} & set(names):
                view.focus = names[0]

    def _show_code(self) -> None:
        python = self._code() if self._code_button.value else ""
        self._code_box.value = _markup.code(python, "") if python else ""

    def _code(self) -> str:
        if self._shown() is None:
            return source_code(str(self._choice.value))
        beside = self._other.label if self._diff is not None else ""
        return graph_code(self._choice.label, beside, batch=self._batch.value)

    def _guard(self, callback: Callable[[], object]) -> Callable[..., None]:
        """An error shows in the panel: Jupyter drops it without a word."""

        def guarded(*_: object) -> None:
            self.error = ""
            try:
                callback()
            except Exception as error:
                self.error = str(error)
                self._remark.value = _markup.problem(error)

        return guarded


def _titled(title: str, table: GraphTable) -> w.VBox:
    return w.VBox([w.HTML(_markup.group(title)), table])
