"""A table of any length to search and to choose a row from; only the rows in sight are drawn."""

from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import anywidget
import traitlets as t

_HERE = pathlib.Path(__file__).parent


class Cell(NamedTuple):
    """A number as it is sorted and as it is read, and its share of the column's total, drawn as a bar."""

    value: float | None
    text: str
    share: float = 0.0


class Column(NamedTuple):
    """A heading, whether the column holds text, and what it means."""

    label: str
    is_text: bool = False
    note: str = ""


Row = tuple["str | Cell", ...]  # the first cell is the row's name and unlike any other's


class GraphTable(anywidget.AnyWidget):
    """Rows with a name; a click on a heading sorts, a click or the arrow keys select, the search box filters.

    Attributes:
        label: What the rows are, e.g. `nodes`.
        query: Words of which a row's texts must hold all.
        selected: Name of the selected row; empty if there is none.
        colors: Name of a row to CSS colour.
    """

    _esm = _HERE / "_graph_table.js"
    _css = _HERE / "_graph.css"

    label = t.Unicode("rows").tag(sync=True)
    height = t.Int(320, min=80, help="Most height in pixels.").tag(sync=True)
    searchable = t.Bool(True).tag(sync=True)
    query = t.Unicode().tag(sync=True)
    selected = t.Unicode().tag(sync=True)
    colors = t.Dict().tag(sync=True)
    columns = t.List(t.Dict()).tag(sync=True)
    _rows = t.Bytes().tag(sync=True)  # compressed: ten thousand nodes take 200 kB

    def show(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """Shows other rows."""
        with self.hold_sync():
            self.selected = ""
            self.columns = [column._asdict() for column in columns]
            self._rows = pack_rows(rows)


def pack_rows(rows: Sequence[Row]) -> bytes:
    """Rows as the page reads them."""
    return gzip.compress(json.dumps(rows, separators=(",", ":")).encode(), compresslevel=6, mtime=0)
