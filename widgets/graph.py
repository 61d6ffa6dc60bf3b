"""The Graph panel: the model's graph in Netron, and any variant of it."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._netron import NetronView
from widgets._panel import Static, check_traits
from workbench.comparison import ORIGINAL
from workbench.graph import summarize_graph
from workbench.model import Model
from workbench.report import format_size


class Graph(Static):
    """Shows the graph of the original or of a variant; nothing leaves the page."""

    title = "Inspect"

    model = t.Instance(Model, allow_none=True)
    variants = t.Tuple(help="Named models: (name, Model) each.")
    selected_node = t.Unicode(help="Name of the node selected in the graph.")

    def __init__(self, *, height: int = 520, **traits: Any) -> None:
        check_traits(self, traits)
        self._choice = w.Dropdown(description="Show", options=[], style={"description_width": "48px"})
        self._facts = w.HTML()
        self.view = NetronView(height=height)
        heading = w.HTML(
            _markup.STYLE + _markup.heading(self.title, "The graph of a model; click a node for its facts.")
        )
        heading.add_class("wb-heading")
        self._row = w.HBox([self._choice, self._facts])
        self._row.add_class("wb-actions")
        super().__init__([heading, self._row, self.view], **traits)
        self.add_class("wb-panel")
        self._choice.observe(lambda _: self._load(), "value")
        self.view.observe(self._select, "selected")
        self.observe(lambda _: self._list(), ("model", "variants"))
        self._list()

    def show(self, name: str) -> None:
        """Shows `original` or the variant of that name."""
        self._choice.label = name

    def summary(self) -> str:
        """The operators of the shown model, costliest first."""
        model = self._choice.value
        if model is None:
            return super().summary()
        nodes = sorted(summarize_graph(model).nodes, key=lambda node: -(node.macs or 0))[:10]
        rows = [
            (node.name, node.operator, f"{node.parameters:,}", f"{(node.macs or 0) / 1e6:.2f} M")
            for node in nodes
            if node.macs or node.parameters
        ]
        return self._facts.value + _markup.listing(("costliest nodes", "operator", "parameters", "MACs"), rows)

    def _list(self) -> None:
        self._row.layout.display = "none" if self.model is None else ""
        if self.model is None:
            self._choice.options = ()
            return
        before = self._choice.value
        options = [(ORIGINAL, self.model), *self.variants]
        self._choice.options = options
        self._choice.value = before if before in [model for _, model in options] else self.model

    def _load(self) -> None:
        model = self._choice.value
        if model is None:
            self.view.clear()
            self._facts.value = ""
            return
        self.view.load(model.path)
        summary = summarize_graph(model)
        text = (
            f"{len(summary.nodes):,} nodes · {summary.parameters:,} parameters · "
            f"{summary.macs / 1e6:,.1f} M MACs · {format_size(model.size_bytes / 1e6)}"
        )
        self._facts.value = _markup.note(text)

    def _select(self, change: dict[str, Any]) -> None:
        self.selected_node = change["new"][0].get("name", "") if change["new"] else ""
