"""Panels for notebooks and dashboards over the headless workbench."""

from widgets._bokeh import BokehPane
from widgets._netron import NetronView
from widgets._panel import Panel
from widgets._plots import front_data, front_figure, static_html
from widgets.app import Workbench
from widgets.compare import Compare
from widgets.export import Export
from widgets.graph import Graph
from widgets.load import Load
from widgets.transform import Transform

__all__ = [
    "BokehPane",
    "Compare",
    "Export",
    "Graph",
    "Load",
    "NetronView",
    "Panel",
    "Transform",
    "Workbench",
    "front_data",
    "front_figure",
    "static_html",
]
