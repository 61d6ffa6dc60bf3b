"""One HTML file with a model's graph, its nodes and its colours: it opens without a kernel or a network."""

from __future__ import annotations

import base64
import gzip
import html
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from widgets._graph_data import (
    COLOR_BY,
    NODE_COLUMNS,
    OPERATOR_COLUMNS,
    facts_line,
    node_rows,
    operator_rows,
    paint_nodes,
)
from widgets._graph_table import Column, Row, pack_rows
from widgets._netron import netron_file, pack
from workbench.graph import GraphSummary, summarize_graph
from workbench.model import Model
from workbench.skeleton import without_weights

_HERE = pathlib.Path(__file__).parent


def graph_page(model: Model, summary: GraphSummary | None = None, times: Mapping[str, float] | None = None) -> str:
    """Writes the graph of a model, without its weights, as a page of its own.

    The page runs the same front end as the widgets, with Netron in the same sandboxed frame.

    Args:
        model: Any model.
        summary: Its summary, if there is one already.
        times: Time by node, ms, where it was profiled.

    Raises:
        ModelError: The file does not hold an ONNX model.
    """
    summary = summary or summarize_graph(model)
    skeleton = without_weights(model.path)
    data = {
        "name": model.path.name,
        "netron": _text(pack({"onnx-metadata.json": _known_operators(skeleton)})),
        "model": _text(skeleton),
        "nodes": _table(NODE_COLUMNS, node_rows(summary)),
        "operators": _table(OPERATOR_COLUMNS, operator_rows(summary)),
        "paints": {
            label: paint_nodes(summary, by, times)._asdict() for label, by in COLOR_BY.items() if by != "time" or times
        },
        "scripts": {name: (_HERE / name).read_text("utf-8") for name in ("_netron.js", "_graph_table.js")},
    }
    texts = {
        "title": html.escape(model.name),
        "facts": html.escape(facts_line(summary)),
        "page": (_HERE / "_page.css").read_text("utf-8"),
        "style": (_HERE / "_graph.css").read_text("utf-8"),
        "script": (_HERE / "_graph_page.js").read_text("utf-8"),
        "data": _text(gzip.compress(json.dumps(data).encode(), compresslevel=6, mtime=0)),
    }
    page = (_HERE / "_graph_page.html").read_text("utf-8")
    for name, text in texts.items():
        page = page.replace(f"<!--{name}-->", text)
    return page


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> dict[str, Any]:
    return {"columns": [column._asdict() for column in columns], "_rows": _text(pack_rows(rows))}


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _known_operators(skeleton: bytes) -> str:
    """Netron's table of ONNX operators, cut to the names that occur in the model: a few of nine hundred."""
    operators = json.loads(netron_file("onnx-metadata.json"))
    return json.dumps([operator for operator in operators if operator["name"].encode() in skeleton])
