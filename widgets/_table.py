"""A table to sort and to choose a row from, which can also hand the page a file."""

from __future__ import annotations

import pathlib

import anywidget
import traitlets as t


class ResultTable(anywidget.AnyWidget):
    """Rows with a name; a click on a heading sorts, a click on a row selects it.

    Attributes:
        headings: One text per column; the first `left` columns are aligned to the left.
        rows: `{"name", "mark", "color", "faded", "cells": [{"text", "value", "note"}]}` each; `faded` are those that
            are out of the question.
        selected: Name of the selected row; empty if there is none.
    """

    _esm = pathlib.Path(__file__).with_suffix(".js")

    headings = t.List(t.Unicode()).tag(sync=True)
    left = t.Int(2).tag(sync=True)
    rows = t.List(t.Dict()).tag(sync=True)
    selected = t.Unicode().tag(sync=True)
    label = t.Unicode("results").tag(sync=True)

    def offer(self, name: str, content: bytes) -> None:
        """Has every page that shows this download a file."""
        self.send({"download": name}, buffers=[content])
