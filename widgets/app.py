"""The workbench: the panels side by side as steps, joined by links; it has no logic of its own."""

from __future__ import annotations

import html

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._panel import Panel, Static
from widgets.build import Build
from widgets.compare import Compare
from widgets.distil import Distil
from widgets.engine import EngineExplorer
from widgets.explain import Explain
from widgets.export import Export
from widgets.graph import Graph
from widgets.load import Load
from widgets.load_test import LoadTest
from widgets.monitor import Monitor
from widgets.predictions import Predictions
from widgets.profile import Profile
from widgets.sensitivity import Sensitivity
from widgets.transform import Transform
from workbench.measure.environment import read_environment
from workbench.report import format_size
from workbench.workspace import Workspace, default_root


class Workbench(Static):
    """From Load over Inspect, Compress and Build to Compare, Explain, Export and Monitor: a step for each.

    Args:
        workspace: A Workspace, or the folder that keeps results; the default one if None.
    """

    def __init__(self, workspace: Workspace | str | None = None) -> None:
        root = workspace if workspace is not None else default_root()
        self.load = Load(workspace=root)
        self.graph = Graph(workspace=root)
        self.transform = Transform(workspace=root)
        self.sensitivity = Sensitivity(workspace=root)
        self.distil = Distil(workspace=root)
        self.build = Build(workspace=root)
        self.engine = EngineExplorer(workspace=root)
        self.compare = Compare(workspace=root)
        self.predictions = Predictions(workspace=root)
        self.profile = Profile(workspace=root)
        self.explain = Explain(workspace=root)
        self.load_test = LoadTest(workspace=root)
        self.export = Export(workspace=root)
        self.monitor = Monitor(workspace=root)
        self._steps: dict[str, tuple[Static, ...]] = {
            "Load": (self.load,),
            "Inspect": (self.graph,),
            "Compress": (self.transform,),
            "Sensitivity": (self.sensitivity,),
            "Train": (self.distil,),
            "Build": (self.build, self.engine),
            "Compare": (self.compare,),
            "Predictions": (self.predictions,),
            "Profile": (self.profile,),
            "Explain": (self.explain,),
            "Load test": (self.load_test,),
            "Export": (self.export,),
            "Monitor": (self.monitor,),
        }
        self._panels = tuple(panel for panels in self._steps.values() for panel in panels)
        self._machine = read_environment()
        self._bar = w.HTML()
        pages = [panels[0] if len(panels) == 1 else w.VBox(panels) for panels in self._steps.values()]
        self.steps = w.Tab(pages, titles=tuple(self._steps))
        super().__init__([w.HTML(_markup.STYLE), self._bar, self.steps])
        self.add_class("wb-app")
        self._join()
        self._describe()

    def _join(self) -> None:
        compare, profile, explain = self.compare, self.profile, self.explain
        makers = (self.transform, self.sensitivity, self.distil)
        for panel in (self.graph, *makers, self.build, compare, profile, self.load_test):
            t.dlink((self.load, "model"), (panel, "model"))
        t.dlink((self.load, "original"), (self.graph, "source"))
        t.dlink((self.load, "warning"), (self.graph, "warning"))
        for panel in (*makers, compare):
            t.dlink((self.load, "calibration"), (panel, "calibration"))
        for panel in self._panels:
            if panel is not self.load and panel.has_trait("evaluation"):
                t.dlink((self.load, "evaluation"), (panel, "evaluation"))
        for panel in makers[1:]:
            t.link((self.transform, "variants"), (panel, "variants"))
        for panel in (self.graph, self.build, compare, profile, self.load_test):
            t.dlink((self.transform, "variants"), (panel, "variants"))
        t.dlink((self.build, "engines"), (self.engine, "engines"))
        t.dlink((compare, "selected"), (self.predictions, "selected"))
        for panel in (self.predictions, self.sensitivity):
            t.dlink((compare.accuracy, "values"), (panel, "accuracy"))
        for panel in (self.predictions, profile, explain, self.export):
            t.dlink((compare, "comparison"), (panel, "comparison"))
        t.dlink((compare, "choice"), (self.export, "choice"))
        t.dlink((self.export, "package"), (self.monitor, "package"))
        t.dlink((self.load_test, "curve"), (self.monitor, "curve"))
        for name in ("curve", "curve_engine", "sweep", "sweep_engine"):
            t.dlink((self.load_test, name), (self.export, name))
        t.link((explain, "additions"), (compare, "additions"))
        t.dlink((explain, "findings"), (compare, "findings"))
        for panel in (explain, compare):
            t.dlink((profile, "profiles"), (panel, "profiles"))
        t.dlink((profile, "times"), (self.graph, "times"))
        for panel in (profile, explain, self.sensitivity, self.engine):
            t.link((panel, "selected_node"), (self.graph, "selected_node"))
        self.load.observe(lambda _: self._describe(), "model")
        for panel in self._panels:
            if panel.has_trait("state"):
                panel.observe(lambda _: self._tick(), "state")

    def _describe(self) -> None:
        model = self.load.model
        loaded = f"{model.name} · {format_size(model.size_bytes / 1e6)}" if model else "no model loaded"
        parts = ("<b>Deployment Workbench</b>", html.escape(loaded), html.escape(str(self._machine)))
        self._bar.value = f'<div class="wb-bar">{"".join(f"<span>{part}</span>" for part in parts)}</div>'

    def _tick(self) -> None:
        marks = {"running": "… ", "failed": "⚠ ", "done": "✓ "}
        states = {
            step: {panel.state for panel in panels if isinstance(panel, Panel)} for step, panels in self._steps.items()
        }
        self.steps.titles = tuple(
            f"{next((mark for state, mark in marks.items() if state in found), '')}{step}"
            for step, found in states.items()
        )

    def summary(self) -> str:
        """What every panel shows."""
        return self._bar.value + "".join(panel.summary() for panel in self._panels)
