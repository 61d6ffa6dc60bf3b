"""The Transform panel: makes smaller or faster variants of a model."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import traitlets as t
import yaml

from widgets import _markup
from widgets._form import OptionsForm
from widgets._panel import Panel, Work
from workbench.dataset import Dataset
from workbench.errors import ModelError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.plugins import find_plugin, list_plugins
from workbench.report import format_size
from workbench.transforms import transform

_ORIGINAL = "original"


class Transform(Panel):
    """Applies one transform at a time; each result becomes a variant that the other panels see."""

    title = "Compress"
    hint = "Each press makes one variant; the original stays as it is. Measure them in the next step."
    verb = "Apply"
    icon = "compress"

    model = t.Instance(Model, allow_none=True)
    calibration = t.Instance(Dataset, allow_none=True)
    variants = t.Tuple(help="Named models: (name, Model) each.")

    def __init__(self, **traits: Any) -> None:
        plugins = [plugin for plugin in list_plugins("transforms") if plugin.available]
        names = [(plugin.name.replace("_", " "), plugin.name) for plugin in plugins]
        self._summaries = {plugin.name: plugin.summary for plugin in plugins}
        self._forms = {plugin.name: OptionsForm(find_plugin("transforms", plugin.name).Options) for plugin in plugins}
        default = "quantize_static" if "quantize_static" in self._forms else plugins[0].name
        style = {"description_width": "132px"}
        width = w.Layout(width="320px")
        self.kind = w.Dropdown(description="Transform", options=names, value=default, style=style, layout=width)
        self.base = w.Dropdown(description="Apply to", options=[_ORIGINAL], style=style, layout=width)
        self.name = w.Text(description="Name", placeholder="automatic", style=style, layout=width)
        self._about, self._slot = w.HTML(), w.VBox()
        missing = [plugin for plugin in list_plugins("transforms") if not plugin.available]
        absent = w.HTML(_markup.note("\n".join(f"{plugin.name}: {plugin.reason}" for plugin in missing)))
        self._view = w.HTML(_markup.empty("Load a model, then press Apply to make the first variant."))
        form = w.VBox([self.kind, self._about, self.base, self._slot, self.name, absent])
        super().__init__(form, self._view, **traits)
        self.kind.observe(lambda _: self._swap(), "value")
        self.observe(lambda _: self._forget(), "model")
        self.observe(lambda _: self._list(), "variants")
        self._swap()
        self._list()

    @property
    def options(self) -> OptionsForm:
        """The form of the chosen transform."""
        return self._forms[self.kind.value]

    def prepare(self) -> Work:
        """Reads the form."""
        if self.model is None:
            raise ModelError("There is no model to transform.", "Load one first.")
        base = dict(self.variants).get(self.base.value, self.model)
        kind, values, calibration = self.kind.value, self.options.values, self.calibration
        name = self._free_name()

        def work(progress: Progress) -> tuple[str, Model]:
            space = self.open_workspace()
            return name, transform(base, kind, values, dataset=calibration, workspace=space, progress=progress)

        return work

    def show(self, result: tuple[str, Model]) -> None:
        """Adds the variant."""
        self.variants = (*self.variants, result)

    def code(self) -> tuple[str, str]:
        """The transform as Python and as a candidate of a recipe."""
        kind, changed = self.kind.value, self.options.changed()
        needs = find_plugin("transforms", kind).NEEDS_DATASET
        arguments = ["model", repr(kind), *([repr(changed)] if changed else [])]
        arguments += ["dataset=calibration"] if needs else []
        step: Any = {kind: changed} if changed else kind
        candidate = {"name": self._free_name(), "transforms": [step]}
        python = f"import workbench as wb\n\nvariant = wb.transform({', '.join(arguments)})"
        return python, yaml.safe_dump({"candidates": [candidate]}, sort_keys=False)

    def summary(self) -> str:
        """The variants made so far."""
        return self._view.value

    def _free_name(self) -> str:
        wanted = self.name.value.strip() or self.kind.value.replace("_", " ")
        taken = {_ORIGINAL, *(name for name, _ in self.variants)}
        numbered = (wanted if number == 1 else f"{wanted} {number}" for number in range(1, len(taken) + 2))
        return next(name for name in numbered if name not in taken)

    def _swap(self) -> None:
        self._slot.children = [self.options]
        self._about.value = _markup.note(self._summaries[self.kind.value])

    def _forget(self) -> None:
        self.variants = ()

    def _list(self) -> None:
        self.base.options = [_ORIGINAL, *(name for name, _ in self.variants)]
        if not self.variants or self.model is None:
            self._view.value = _markup.empty("Press Apply to make the first variant.")
            return
        original = self.model.size_bytes
        rows = [
            (
                name,
                " → ".join(step.transform.replace("_", " ") for step in model.history),
                format_size(model.size_bytes / 1e6),
                f"{original / model.size_bytes:.2f}×",
            )
            for name, model in self.variants
        ]
        self._view.value = _markup.listing(("variant", "made by", "size", "smaller"), rows)
