"""The graph as data: operators, shapes, parameters, multiply-accumulates, memory, precision; and two compared."""

from workbench.graph.diff import GraphDiff, NodeChange, diff_graphs
from workbench.graph.summary import GraphSummary, NodeSummary, OperatorSummary, summarize_graph

__all__ = [
    "GraphDiff",
    "GraphSummary",
    "NodeChange",
    "NodeSummary",
    "OperatorSummary",
    "diff_graphs",
    "summarize_graph",
]
