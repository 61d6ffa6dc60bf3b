"""The Python that does what the Graph panel shows."""

from __future__ import annotations

from workbench.comparison import ORIGINAL


def graph_code(shown: str, beside: str, *, batch: int) -> str:
    """Sums up a graph, or compares it with another.

    Args:
        shown: `original` or the name of a variant.
        beside: Another of them; empty to show the first alone.
        batch: Size of a dynamic first axis.
    """
    if beside:
        return (
            "import workbench as wb\n\n"
            f"diff = wb.diff_graphs({_model(shown)}, {_model(beside)})\n"
            "for change in diff.changes:\n    print(change.kind, change.before, change.after, change.what)"
        )
    return (
        "import workbench as wb\n\n"
        f"summary = wb.summarize_graph({_model(shown)}, batch={batch})\n"
        "for node in summary.nodes:\n    print(node.name, node.operator, node.parameters, node.macs)"
    )


def source_code(path: str) -> str:
    """Shows a file that is not ONNX."""
    return f"from widgets import NetronView\n\nNetronView({path!r})"


def _model(name: str) -> str:
    return "model" if name == ORIGINAL else f"variants[{name!r}]"
