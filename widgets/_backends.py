"""Which backends to run on, each with its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._form import OptionsForm
from workbench.options import option_fields
from workbench.plugins import Plugin, find_plugin, list_plugins

_USUAL = "onnxruntime"


class BackendPick(w.VBox):
    """A tick for each backend that is here, and below them the options of those that are ticked.

    Attributes:
        chosen: The ticked backends; the first is the one that the original runs on as the reference.
    """

    chosen = t.Tuple()

    def __init__(self) -> None:
        plugins = sorted(list_plugins("backends"), key=lambda plugin: plugin.name != _USUAL)
        available = [plugin for plugin in plugins if plugin.available and can_run(plugin.name)]
        self._ticks = {plugin.name: _tick(plugin.name, plugin.summary) for plugin in available}
        self._forms: dict[str, OptionsForm] = {}
        self._options = w.Accordion()
        absent = "\n".join(f"{plugin.name}: {_why_not(plugin)}" for plugin in plugins if plugin not in available)
        row = w.HBox(list(self._ticks.values()))
        row.add_class("wb-ticks")
        super().__init__([row, self._options, *([w.HTML(_markup.note(absent))] if absent else [])])
        for tick in self._ticks.values():
            tick.observe(lambda _: self._collect(), "value")
        self._collect()

    def __getitem__(self, name: str) -> OptionsForm:
        """The options of a backend."""
        if name not in self._forms:
            self._forms[name] = backend_form(name)
        return self._forms[name]

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """What is set for each ticked backend, where it differs from the defaults."""
        return {name: self[name].changed() for name in self.chosen}

    def tick(self, *names: str) -> None:
        """Ticks these backends and no others."""
        for name in names:
            self._ticks[name].value = True
        for name in self.chosen:
            self._ticks[name].value = name in names

    def _collect(self) -> None:
        self.chosen = tuple(name for name, tick in self._ticks.items() if tick.value)
        self._options.children = [self[name] for name in self.chosen]
        self._options.titles = self.chosen
        if len(self.chosen) == 1:
            self._options.selected_index = 0


def list_backends(able: Callable[[str], bool]) -> list[str]:
    """The backends that are here and can do something, the usual one first."""
    names = [plugin.name for plugin in list_plugins("backends") if plugin.available and able(plugin.name)]
    return sorted(names, key=lambda name: name != _USUAL)


def can_run(name: str) -> bool:
    """Whether a backend that is here also runs what it builds; its library is not imported for that."""
    plugin = find_plugin("backends", name)
    return not hasattr(plugin, "runs") or plugin.runs()


def backend_form(name: str, lines: Sequence[str] = ()) -> OptionsForm:
    """The options of a backend, with the providers that it knows; those named in `lines` take a line each."""
    options = find_plugin("backends", name).Options
    names = {field.name for field in option_fields(options)}
    choices = {"provider": find_plugin("backends", name).devices()} if "provider" in names else {}
    return OptionsForm(options, choices=choices, lines=[line for line in lines if line in names])


def _why_not(plugin: Plugin) -> str:
    return plugin.reason or "builds engines here, which Build shows, but finds no GPU to run them on"


def _tick(name: str, summary: str) -> w.Checkbox:
    return w.Checkbox(name == _USUAL, description=name, tooltip=summary, indent=False, layout=w.Layout(width="auto"))
