"""The Engine explorer panel: what a backend made of a model, layer by layer, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._bokeh import BokehPane
from widgets._engine_data import diff_html, facts_html, issue_html, layer_columns, layer_rows
from widgets._form import LABEL_STYLE, OptionsForm
from widgets._graph_table import GraphTable
from widgets._panel import Panel, Work
from widgets._plots_engine import engine_figure, group_color, group_of
from widgets._profile_data import find_layer, find_node
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import EngineError
from workbench.explorer import EngineDiff, EngineView, can_explore, compare_engines, explore_engine
from workbench.jobs import Progress, part_of
from workbench.linters import EngineIssue
from workbench.measure.profile import ProfileOptions, can_profile, profile_layers

_WIDTH = "400px"  # names of engines are long
_NOTHING = "–"
_MOST_LAYERS = 6


class _Found(NamedTuple):
    """What exploring gave: the views by the engines' names, and how the chosen differs from the other."""

    views: Mapping[str, EngineView]
    diff: EngineDiff | None


class EngineExplorer(Panel):
    """Shows the layers of an engine; the layers and the nodes of the graph select each other."""

    title = "Engine explorer"
    hint = "The layers that a backend made of the model: what was fused, what each computes in, and what is wrong."
    verb = "Explore"
    icon = "search"
    update_seconds = 1.0  # updates of the page would disturb the timing

    engines = t.Tuple(help="What was built: (name, Engine) each, the latest last.")
    evaluation = t.Instance(Dataset, allow_none=True)
    views = t.Dict(help="EngineView by the engine's name.")
    selected_node = t.Unicode(help="Name of the node whose layer is selected.")

    def __init__(self, **traits: Any) -> None:
        self.engine, self.other = (
            w.Dropdown(description=label, style=LABEL_STYLE, layout=w.Layout(width=_WIDTH))
            for label in ("Engine", "Compare with")
        )
        self.timed = w.Checkbox(
            False,
            description="Time the layers",
            tooltip="Runs the engine under its backend's profiler, where it runs here",
            indent=True,
            style=LABEL_STYLE,
            layout=w.Layout(width="360px"),
        )
        self.options = OptionsForm(ProfileOptions)
        self.plot = BokehPane()
        self.layers = GraphTable(label="layers", height=360)
        self.cards = w.VBox()
        self._facts, self._caveats, self._empty = w.HTML(), w.HTML(), w.HTML()
        self._diff, self._issues = w.HTML(), w.HTML()
        self._found = w.VBox([self._facts, self.plot])
        title = w.HTML(_markup.group("Layers"))
        self._below = w.VBox([self._caveats, self._issues, self.cards, title, self.layers, self._diff])
        self.cards.add_class("wb-cards")
        self._below.add_class("wb-changes")
        self._found.add_class("wb-plots")
        form = w.VBox([self.engine, self.other, self.timed, self.options])
        super().__init__(form, w.VBox([self._empty, self._found]), self._below, **traits)
        self._diffs: dict[tuple[str, str], EngineDiff] = {}
        self._listing = False
        self.engine.observe(self.guard(self._choose), "value")
        self.other.observe(self.guard(self._draw_diff), "value")
        self.timed.observe(lambda _: self._lay_out(), "value")
        self.layers.observe(lambda _: self._go_to_node(), "selected")
        self.observe(lambda _: self._go_to_layer(), "selected_node")
        self.observe(self.guard(self._list), "engines")
        self._list()

    def prepare(self) -> Work:
        """Reads the form."""
        return self._work(self.timed.value)

    def show(self, result: _Found) -> None:
        """Shows the engine."""
        name, other = self.engine.value, self.other.value
        if result.diff is not None:
            self._diffs[name, other] = result.diff
        self.views = {**self.views, **result.views}
        self._draw()

    def code(self) -> tuple[str, str]:
        """Exploring as Python; a recipe has no step for it."""
        changed = self.options.changed()
        lines = ["import workbench as wb", ""]
        arguments = "engine"
        if self.timed.value:
            lines.append(
                f"profile = wb.profile_layers(engine{f', {changed!r}' if changed else ''}, dataset=evaluation)"
            )
            arguments = "engine, profile=profile"
        lines += [f"view = wb.explore_engine({arguments})", "print(wb.engine_view_text(view))"]
        if self.other.value not in (_NOTHING, None, self.engine.value):
            lines.append("diff = wb.compare_engines(engine, other)")
        lines += ["", f"# In a terminal: workbench explore MODEL.onnx --backend {self._backend() or 'tensorrt'}"]
        return "\n".join(lines), ""

    def summary(self) -> str:
        """Facts, issues and the first layers without scripts."""
        view = self._view()
        if view is None:
            return super().summary()
        rows = [[str(getattr(cell, "text", cell)) for cell in row] for row in layer_rows(view)[:20]]
        cards = "".join(f'<div class="wb-finding">{issue_html(issue, view)}</div>' for issue in view.issues)
        listing = _markup.listing([column.label for column in layer_columns(view)], rows)
        return self._facts.value + cards + listing

    def _work(self, timed: bool) -> Work:
        engines, name, other = dict(self.engines), self.engine.value, self.other.value
        if name not in engines:
            raise EngineError("There is no engine to explore.", "Build one first.")
        chosen: dict[str, Engine] = {each: engines[each] for each in (name, other) if each in engines}
        options, dataset = self.options.values, self.evaluation
        timed = timed and can_profile(engines[name].backend)

        def work(progress: Progress) -> _Found:
            space, views = self.open_workspace(), {}
            for number, (each, engine) in enumerate(chosen.items()):
                report = part_of(progress, number / len(chosen), (number + 1) / len(chosen), f"{each}: ")
                profile = None
                if timed:
                    profile = profile_layers(engine, options, dataset=dataset, workspace=space, progress=report)
                views[each] = explore_engine(engine, profile=profile, workspace=space, progress=report)
            diff = compare_engines(*chosen.values(), workspace=space, progress=progress) if len(chosen) > 1 else None
            return _Found(views, diff)

        return work

    def _list(self) -> None:
        """Another engine was built: it is shown at once, as reading its layers takes no time to speak of."""
        names = [name for name, engine in self.engines if can_explore(engine.backend)]
        self.views = {name: view for name, view in self.views.items() if name in names}
        self._listing = True  # one choice for everything that changes here
        self.other.options, self.engine.options = [_NOTHING, *names], names
        self.engine.value, self.other.value = (names[-1] if names else None), _NOTHING
        self._listing = False
        self._choose()

    def _choose(self) -> None:
        if self._listing:
            return
        self._lay_out()
        self._draw()
        if self.engine.value is not None and self._view() is None:
            self.start(lambda: self._work(timed=False))

    def _lay_out(self) -> None:
        self.other.layout.display = "" if len(self.engines) > 1 else "none"
        some = bool(self.engines)
        for widget, shown in ((self.engine, some), (self.timed, some), (self.options, some and self.timed.value)):
            widget.layout.display = "" if shown else "none"
        self._show_code()

    def _view(self) -> EngineView | None:
        return self.views.get(self.engine.value)

    def _backend(self) -> str:
        engine: Engine | None = dict(self.engines).get(self.engine.value)
        return engine.backend if engine else ""

    def _draw(self) -> None:
        view = self._view()
        for box in (self._found, self._below):
            box.layout.display = "none" if view is None else ""
        self._empty.layout.display = "" if view is None else "none"
        self._empty.value = _markup.empty(self._advice())
        if view is None:
            return
        self._facts.value = facts_html(view)
        caveats = "\n".join(f"{caveat[:1].upper()}{caveat[1:]}." for caveat in view.profile.caveats)
        self._caveats.value = _markup.warning(caveats) if caveats else ""
        self.layers.show(layer_columns(view), layer_rows(view))
        self.layers.colors = {
            name: group_color(group_of(entry)) for name, entry in zip(view.names, view.layers, strict=True)
        }
        self.plot.show(engine_figure(view), label=f"What the layers of {self.engine.value} compute in")
        count = len(view.issues)
        found = f"{count} issue{'s' if count > 1 else ''}" if count else ""
        self._issues.value = _markup.group(found) if found else _markup.note("✓ The linters looked and found nothing.")
        self.cards.children = [self._card(issue, view) for issue in view.issues]
        self._draw_diff()
        self._go_to_layer()

    def _draw_diff(self) -> None:
        name, other = self.engine.value, self.other.value
        self._diff.value = ""
        if self._view() is None or other in (_NOTHING, None, name):
            return
        diff = self._diffs.get((name, other))
        told = diff_html(diff, (name, other)) if diff else _markup.note(f"Press Explore to compare with {other}.")
        self._diff.value = _markup.group("Differences") + told

    def _advice(self) -> str:
        if not self.engines:
            return "Build an engine above: its layers show here."
        if self.engine.value is None:
            tells = "; ".join(name for name, _ in self.engines)
            return f"The backend does not tell its layers: {tells}. Build on another one."
        return f"Press Explore to read the layers of {self.engine.value}."

    def _card(self, issue: EngineIssue, view: EngineView) -> w.VBox:
        nodes = {name: entry.nodes for name, entry in zip(view.names, view.layers, strict=True)}
        buttons = [self._layer_button(name, nodes.get(name, ())) for name in issue.layers[:_MOST_LAYERS]]
        rest = len(issue.layers) - _MOST_LAYERS
        row = w.HBox([*buttons, *([w.HTML(_markup.note(f"and {rest} more layers"))] if rest > 0 else [])])
        row.add_class("wb-actions")
        card = w.VBox([w.HTML(issue_html(issue, view)), *([row] if row.children else [])])
        card.add_class("wb-finding")
        return card

    def _layer_button(self, name: str, nodes: tuple[str, ...]) -> w.Button:
        button = w.Button(description=nodes[0] if nodes else name, tooltip=f"Select the layer {name}")
        button.add_class("wb-node")
        button.on_click(lambda _: setattr(self.layers, "selected", name))
        return button

    def _go_to_node(self) -> None:
        view = self._view()
        if view and (node := find_node(view.profile, self.layers.selected)):
            self.selected_node = node

    def _go_to_layer(self) -> None:
        view = self._view()
        if view and (layer := find_layer(view.profile, self.selected_node)):
            self.layers.selected = layer
