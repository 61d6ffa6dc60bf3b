"""The Transform panel: makes smaller or faster variants of a model."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import traitlets as t
import yaml

from widgets import _markup
from widgets._candidates import are_transforms
from widgets._form import FIELD_WIDTH, LABEL_STYLE, OptionsForm, changed_options
from widgets._grouped_choice import GroupedChoice
from widgets._panel import Panel, Work
from widgets._transform_groups import group_transforms
from workbench.comparison import ORIGINAL
from workbench.dataset import Dataset
from workbench.errors import ModelError
from workbench.jobs import Progress
from workbench.model import Model, Step
from workbench.plugins import find_plugin, list_plugins
from workbench.report import format_size
from workbench.transforms import transform


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
        everything = list_plugins("transforms")
        plugins = [plugin for plugin in everything if plugin.available]
        self._summaries = {plugin.name: plugin.summary for plugin in plugins}
        self._forms: dict[str, OptionsForm] = {}
        default = "quantize_static" if "quantize_static" in self._summaries else plugins[0].name
        style = LABEL_STYLE
        width = w.Layout(width=FIELD_WIDTH)
        self.kind = GroupedChoice("Transform", group_transforms(everything), default)
        self.base = w.Dropdown(description="Apply to", options=[ORIGINAL], style=style, layout=width)
        self.name = w.Text(description="Name", placeholder="automatic", style=style, layout=width)
        self._about, self._slot = w.HTML(), w.VBox()
        missing = [plugin for plugin in everything if not plugin.available]
        absent = w.HTML(
            _markup.note("\n".join(f"{plugin.name.replace('_', ' ')} {plugin.reason}" for plugin in missing))
        )
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
        name = self.kind.value
        if name not in self._forms:
            self._forms[name] = OptionsForm(find_plugin("transforms", name).Options)
        return self._forms[name]

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
        """Every variant as Python and as candidates of a recipe; before there is one, what the form would make."""
        made = [(name, model.history) for name, model in self.variants]
        pending = (self._free_name(), (Step(self.kind.value, self.options.values),))
        lines, candidates = ["import workbench as wb", "", "variants = {}"], []
        for name, history in made or [pending]:
            if not are_transforms(history):
                lines.append(f"# variants[{name!r}] was trained: the code of Train makes it")
                continue
            steps: list[Any] = []
            for number, step in enumerate(history):
                plugin = find_plugin("transforms", step.transform)
                changed = changed_options(plugin.Options, step.options)
                source = f"variants[{name!r}]" if number else "model"
                arguments = [source, repr(step.transform), *([repr(changed)] if changed else [])]
                arguments += ["dataset=calibration"] if plugin.NEEDS_DATASET else []
                lines.append(f"variants[{name!r}] = wb.transform({', '.join(arguments)})")
                steps.append({step.transform: changed} if changed else step.transform)
            candidates.append({"name": name, "transforms": steps})
        return "\n".join(lines), yaml.safe_dump({"candidates": candidates}, sort_keys=False)

    def summary(self) -> str:
        """The variants made so far."""
        return self._view.value

    def _free_name(self) -> str:
        wanted = self.name.value.strip() or self.kind.value.replace("_", " ")
        taken = {ORIGINAL, *(name for name, _ in self.variants)}
        numbered = (wanted if number == 1 else f"{wanted} {number}" for number in range(1, len(taken) + 2))
        return next(name for name in numbered if name not in taken)

    def _swap(self) -> None:
        self._slot.children = [self.options]
        self._about.value = _markup.note(self._summaries[self.kind.value])

    def _forget(self) -> None:
        self.variants = ()

    def _list(self) -> None:
        self.base.options = [ORIGINAL, *(name for name, _ in self.variants)]
        if not self.variants or self.model is None:
            self._view.value = _markup.empty("Press Apply to make the first variant.")
            return
        original = self.model.size_bytes
        rows = [
            (
                name,
                " → ".join(step.transform.replace("_", " ") for step in model.history) or "as loaded",
                format_size(model.size_bytes / 1e6),
                f"{original / model.size_bytes:.2f}×",
            )
            for name, model in self.variants
        ]
        table = _markup.listing(("variant", "made by", "size", "smaller"), rows)
        said = [
            f"{name}: {note}" for name, model in self.variants for step in model.history[-1:] for note in step.notes
        ]
        self._view.value = table + (_markup.note("\n".join(said)) if said else "")
