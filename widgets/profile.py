"""The Profile panel: where the time of one inference goes, layer by layer, the original beside a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._backends import list_backends
from widgets._bokeh import BokehPane
from widgets._form import FIELD_WIDTH, LABEL_STYLE, OptionsForm
from widgets._graph_table import GraphTable
from widgets._panel import Panel, Work
from widgets._plots import candidate_color
from widgets._plots_profile import bars_figure
from widgets._profile_data import (
    LAYER_COLUMNS,
    find_layer,
    find_node,
    layer_bars,
    layer_rows,
    operator_bars,
    total_rows,
)
from workbench.backends import build_engine
from workbench.comparison import ORIGINAL, Comparison
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import ModelError
from workbench.jobs import Progress, part_of
from workbench.measure.profile import LayerProfile, ProfileOptions, can_profile, profile_layers
from workbench.model import Model

_KINDS = {"By node": layer_bars, "By operator": operator_bars}
_EMPTY = "Press Profile to see what each layer takes."


class Profile(Panel):
    """Times the layers of a candidate and of the original; the layers and the nodes of the graph select each other."""

    title = "Profile"
    hint = "Time of each layer, in the backend's words and by the graph's nodes. Inspect can colour the graph by it."
    verb = "Profile"
    icon = "bar-chart"
    update_seconds = 1.0  # updates of the page would disturb the timing

    model = t.Instance(Model, allow_none=True)
    variants = t.Tuple(help="Named models: (name, Model) each.")
    evaluation = t.Instance(Dataset, allow_none=True)
    comparison = t.Instance(Comparison, allow_none=True)
    profiles = t.Dict(help="LayerProfile by the candidate's name.")
    times = t.Dict(help="By the path of a model's file: time by node of its graph, ms.")
    selected_node = t.Unicode(help="Name of the node whose layer is selected.")

    def __init__(self, **traits: Any) -> None:
        names = list_backends(can_profile)
        self.candidate = w.Dropdown(description="Candidate", style=LABEL_STYLE, layout=w.Layout(width=FIELD_WIDTH))
        self.backend = w.Dropdown(
            description="Backend", options=names, style=LABEL_STYLE, layout=w.Layout(width=FIELD_WIDTH)
        )
        self.options = OptionsForm(ProfileOptions)
        self.kind = w.ToggleButtons(options=list(_KINDS))
        self.plot = BokehPane()
        self.layers = GraphTable(label="layers")
        self._totals, self._caveats, self._title = w.HTML(), w.HTML(), w.HTML()
        self._empty = w.HTML()
        tables = w.Box([w.VBox([self._title, self.layers]), self._totals])
        self._below = w.VBox([self._caveats, tables])
        self._plots = w.VBox([self.kind, self.plot])
        self._plots.add_class("wb-plots")
        tables.add_class("wb-layers")
        form = w.VBox([self.candidate, self.backend, self.options])
        super().__init__(form, w.VBox([self._empty, self._plots]), self._below, **traits)
        self.candidate.observe(self.guard(self._draw), "value")
        self.kind.observe(self.guard(self._draw_bars), "value")
        self.layers.observe(lambda _: self._go_to_node(), "selected")
        self.observe(lambda _: self._go_to_layer(), "selected_node")
        self.observe(lambda _: self._list(), ("model", "variants"))
        self.observe(lambda _: self._list(), "comparison")
        self._list()

    def prepare(self) -> Work:
        """Reads the form."""
        if self.model is None and self.comparison is None:
            raise ModelError("There is no model to profile.", "Load one first.")
        names = self._names()
        engines = None if self.comparison is None else {row.name: row.candidate.engine for row in self.comparison.rows}
        models = {ORIGINAL: self.model, **dict(self.variants)}
        backend, options, dataset = self.backend.value, self.options.values, self.evaluation

        def work(progress: Progress) -> dict[str, tuple[Engine, LayerProfile]]:
            space, made = self.open_workspace(), {}
            for number, name in enumerate(names):
                report = part_of(progress, number / len(names), (number + 1) / len(names), f"{name}: ")
                engine = engines[name] if engines else build_engine(models[name], backend)
                made[name] = engine, profile_layers(engine, options, dataset=dataset, workspace=space, progress=report)
            return made

        return work

    def show(self, result: Mapping[str, tuple[Engine, LayerProfile]]) -> None:
        """Shows the bars and the layers."""
        self.times = {**self.times, **{str(engine.model.path): profile.node_ms for engine, profile in result.values()}}
        self.profiles = {**self.profiles, **{name: profile for name, (_, profile) in result.items()}}
        self._draw()

    def code(self) -> tuple[str, str]:
        """Profiling as Python; a recipe has no step for it."""
        changed = self.options.changed()
        lines = ["import workbench as wb", "", "profiles = {}"]
        for name in self._names():
            model = "model" if name == ORIGINAL else f"variants[{name!r}]"
            built = f"wb.build_engine({model}, {self.backend.value!r})"
            engine = f"comparison[{name!r}].candidate.engine" if self.comparison else built
            arguments = [engine, *([repr(changed)] if changed else []), "dataset=evaluation"]
            lines.append(f"profiles[{name!r}] = wb.profile_layers({', '.join(arguments)})")
        lines += [
            "for name, profile in profiles.items():",
            "    for entry in profile.layers:",
            "        print(name, entry.layer.name, entry.layer.operator, entry.layer.ms, *entry.nodes)",
        ]
        return "\n".join(lines), ""

    def summary(self) -> str:
        """Totals and the costliest layers without scripts."""
        if not self._totals.value:
            return super().summary()
        profile = self.profiles[self.candidate.value]
        rows = sorted(layer_rows(profile), key=lambda row: -(row[4][0] or 0))[:15]  # type: ignore[operator]
        texts = [[str(getattr(cell, "text", cell)) for cell in row] for row in rows]
        return self._totals.value + _markup.listing([column.label for column in LAYER_COLUMNS], texts)

    def _names(self) -> list[str]:
        """The original and the chosen candidate, each once."""
        first = self.comparison.original.name if self.comparison else ORIGINAL
        return list(dict.fromkeys([first, self.candidate.value or first]))

    def _list(self) -> None:
        """Another model or another measurement: what was profiled may not belong to these names any more."""
        self.profiles, self.times = {}, {}
        rows = self.comparison.rows if self.comparison else ()
        names = [row.name for row in rows] or [ORIGINAL, *(name for name, _ in self.variants)]
        chosen = self.candidate.value
        self.candidate.options = names
        self.candidate.value = chosen if chosen in names[1:] else names[min(1, len(names) - 1)]
        self.backend.layout.display = "none" if rows else ""
        self._draw()

    def _pair(self) -> tuple[LayerProfile, LayerProfile] | None:
        names = self._names()
        if not all(name in self.profiles for name in names):
            return None
        return self.profiles[names[0]], self.profiles[names[-1]]

    def _draw(self) -> None:
        pair = self._pair()
        for box in (self._plots, self._below):
            box.layout.display = "" if pair else "none"
        self._empty.layout.display = "none" if pair else ""
        self._empty.value = _markup.empty(_EMPTY if self.model or self.comparison else "Load a model first.")
        self._totals.value = ""
        if pair is None:
            return
        original, candidate = pair
        names = self._names()
        columns = ("", *names)
        totals = _markup.listing(columns, [row[: len(columns)] for row in total_rows(original, candidate)])
        self._totals.value = _markup.group("Totals") + totals
        caveats = [f"{name}: {caveat}." for name in names for caveat in self.profiles[name].caveats]
        self._caveats.value = _markup.warning("\n".join(caveats)) if caveats else ""
        self._title.value = _markup.group(f"Layers of {names[-1]}, as {candidate.backend} runs them")
        self.layers.show(LAYER_COLUMNS, layer_rows(candidate))
        self._draw_bars()
        self._go_to_layer()

    def _draw_bars(self) -> None:
        pair = self._pair()
        if pair is None:
            return
        names = self._names()
        bars = _KINDS[self.kind.value](*pair)
        title = f"Time {self.kind.value.lower()}"
        number = next(number for number, name in enumerate(self.candidate.options) if name == names[-1])
        plot = bars_figure(title, bars, (names[0], names[-1]), candidate_color(number))
        source = plot.select_one({"name": "bars"}).data_source
        source.selected.on_change("indices", lambda _attr, _old, new: self._tap([bars[place].name for place in new]))
        self.plot.show(plot, label=f"{title}, of {' and '.join(names)}")

    def _tap(self, names: list[str]) -> None:
        """A bar of the plot was tapped: its node, or the first layer that the operator names."""
        if not names:
            return
        candidate = self.profiles[self.candidate.value]
        if self.kind.value == "By node":
            self.selected_node = names[0]
        else:
            self.layers.query = names[0] if any(e.layer.operator == names[0] for e in candidate.layers) else ""

    def _go_to_node(self) -> None:
        profile = self.profiles.get(self.candidate.value)
        if profile and (node := find_node(profile, self.layers.selected)):
            self.selected_node = node

    def _go_to_layer(self) -> None:
        profile = self.profiles.get(self.candidate.value)
        if profile and (layer := find_layer(profile, self.selected_node)):
            self.layers.selected = layer
