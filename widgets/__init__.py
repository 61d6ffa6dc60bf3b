"""Panels for notebooks and dashboards over the headless workbench."""

from widgets._bokeh import BokehPane
from widgets._netron import NetronView
from widgets._panel import Panel
from widgets._plots import static_html
from widgets._plots_front import front_data, front_figure
from widgets._plots_latency import ecdf_data, ecdf_figure, histogram_data, histogram_figure
from widgets._plots_speedup import speedup_data, speedup_figure
from widgets._report_page import report_page
from widgets.app import Workbench
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

__all__ = [
    "BokehPane",
    "Build",
    "Compare",
    "Distil",
    "EngineExplorer",
    "Explain",
    "Export",
    "Graph",
    "Load",
    "LoadTest",
    "Monitor",
    "NetronView",
    "Panel",
    "Predictions",
    "Profile",
    "Sensitivity",
    "Transform",
    "Workbench",
    "ecdf_data",
    "ecdf_figure",
    "front_data",
    "front_figure",
    "histogram_data",
    "histogram_figure",
    "report_page",
    "speedup_data",
    "speedup_figure",
    "static_html",
]
