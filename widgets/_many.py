"""Controls for an option that takes several values: a tick for each of those there are, or a line of text for each."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w
import traitlets as t


class Ticks(w.HBox):
    """A tick for each value that may be chosen.

    Attributes:
        value: The ticked values, in the order of the ticks.
    """

    value = t.Tuple()

    def __init__(self, label: str, choices: Sequence[str], value: Sequence[str] = (), help: str = "") -> None:
        self._showing = False
        self._ticks = {
            name: w.Checkbox(name in value, description=name, indent=False, layout=w.Layout(width="auto"))
            for name in choices
        }
        row = w.HBox(list(self._ticks.values()))
        row.add_class("wb-ticks")
        super().__init__([w.Label(label, tooltip=help), row], value=self._read(value))
        self.add_class("wb-many")
        for tick in self._ticks.values():
            tick.observe(lambda _: self._collect(), "value")
        self.observe(lambda _: self._show(), "value")

    def _read(self, value: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in self._ticks if name in value)

    def _collect(self) -> None:
        if not self._showing:
            self.value = self._read([name for name, tick in self._ticks.items() if tick.value])

    def _show(self) -> None:
        self._showing = True
        for name, tick in self._ticks.items():
            tick.value = name in self.value
        self._showing = False


class Lines(w.HBox):
    """A box of text, each line of which is one value.

    Attributes:
        value: The lines that are not empty.
    """

    value = t.Tuple()

    def __init__(self, label: str, value: Sequence[str] = (), placeholder: str = "", help: str = "") -> None:
        self._box = w.Textarea(
            "\n".join(value), placeholder=placeholder, tooltip=help, rows=2, layout=w.Layout(flex="1 1 auto")
        )
        super().__init__([w.Label(label, tooltip=help), self._box], value=tuple(value))
        self.add_class("wb-many")
        self._box.observe(lambda _: self._collect(), "value")
        self.observe(lambda _: self._show(), "value")

    def _collect(self) -> None:
        self.value = tuple(line.strip() for line in self._box.value.splitlines() if line.strip())

    def _show(self) -> None:
        if self.value != tuple(line.strip() for line in self._box.value.splitlines() if line.strip()):
            self._box.value = "\n".join(self.value)
