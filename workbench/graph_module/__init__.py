"""ONNX graphs as PyTorch modules: one that learns and goes back into its graph, and one that only runs."""

from __future__ import annotations

from workbench.graph_module.inference import known_operators as known_operators
from workbench.graph_module.inference import make_inference_module as make_inference_module
from workbench.graph_module.training import make_graph_module as make_graph_module
