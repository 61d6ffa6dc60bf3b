"""A table to sort, to choose a row from and to tick rows of, which can also hand the page a file."""

from __future__ import annotations

import pathlib

import anywidget
import traitlets as t


class ResultTable(anywidget.AnyWidget):
    """Rows with a name; a click on a heading sorts, a click on a row selects it.

    Attributes:
        headings: One text per column; the first `left` columns are aligned to the left.
        notes: What a tooltip says of each heading; none if empty.
        rows: `{"name", "mark", "color", "faded", "label", "cells": [{"text", "value", "note", "share"}]}` each; `faded`
            are those that are out of the question, `label` warns below the name, `share` draws a bar below a number.
        selected: Name of the selected row; empty if there is none.
        tick: What a tick at a row does, the heading of a column of boxes; empty for no such column.
        ticked: Names of the rows that are ticked.
        height: Most height in pixels; 0 for no limit.
    """

    _esm = pathlib.Path(__file__).with_suffix(".js")

    headings = t.List(t.Unicode()).tag(sync=True)
    notes = t.List(t.Unicode()).tag(sync=True)
    left = t.Int(2).tag(sync=True)
    rows = t.List(t.Dict()).tag(sync=True)
    selected = t.Unicode().tag(sync=True)
    tick = t.Unicode().tag(sync=True)
    ticked = t.List(t.Unicode()).tag(sync=True)
    height = t.Int(0).tag(sync=True)
    label = t.Unicode("results").tag(sync=True)

    def offer(self, name: str, content: bytes) -> None:
        """Has every page that shows this download a file."""
        self.send({"download": name}, buffers=[content])
