"""What a model file of another format needs to be told before it becomes ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._form import OptionsForm
from workbench.errors import WorkbenchError
from workbench.importers import importer_for
from workbench.plugins import list_plugins, plugin_modules

_TRUST = "Trust this file: it may run code of its own"


class ImportForm(w.VBox):
    """Says what the chosen file is, and shows the options of the importer that reads it.

    Attributes:
        path: The chosen file or folder; empty if there is none.
        importer: Name of the importer that reads it; empty if none does.
    """

    path = t.Unicode()
    importer = t.Unicode()

    def __init__(self) -> None:
        self._forms: dict[str, OptionsForm] = {}
        self._about = w.HTML()
        self._slot = w.VBox()
        self.trust = w.Checkbox(
            description=_TRUST,
            indent=False,
            layout=w.Layout(width="auto"),
            tooltip="Only for files that you, or people you trust, made",
        )
        super().__init__([self._about, self._slot, self.trust])
        self.observe(lambda _: self._refresh(), "path")
        self._refresh()

    @property
    def options(self) -> OptionsForm | None:
        """The form of the importer; None where there is nothing to be told."""
        return self._forms.get(self.importer)

    @property
    def changed(self) -> dict[str, Any]:
        """The options that differ from the defaults."""
        return self.options.changed() if self.options else {}

    def _refresh(self) -> None:
        self.trust.value = False  # given for one file, not for the next
        try:
            self.importer = importer_for(Path(self.path)) if self.path else ""
            text = self._describe() if self.path else ""
        except WorkbenchError as error:
            self.importer, text = "", str(error)
        modules = plugin_modules("importers")
        converts = self.importer != "" and not hasattr(modules[self.importer], "load")
        if converts and self.importer not in self._forms:
            self._forms[self.importer] = OptionsForm(modules[self.importer].Options)
        self._about.value = _markup.note(text) if text else ""
        self._slot.children = [self._forms[self.importer]] if converts else []
        self.trust.layout.display = "" if converts else "none"
        self.layout.display = "" if text else "none"

    def _describe(self) -> str:
        plugin = next(plugin for plugin in list_plugins("importers") if plugin.name == self.importer)
        lines = [plugin.summary]
        if not plugin.available:
            lines.append(f"It {plugin.reason}")
        return "\n".join(lines)
