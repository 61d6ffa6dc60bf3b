"""Q/DQ pairs that the backend did not fuse: it converts to float and back for every one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from workbench.findings.context import Context, Finding, is_integer, nodes_of
from workbench.findings.trials import static_quantization
from workbench.findings.words import count_of, in_ms, in_percent, name_some
from workbench.graph import NodeSummary

_PLUMBING = ("QuantizeLinear", "DequantizeLinear")
_LEAST_SHARE = 0.02  # of the profile: less is not worth a word


class _Joined(Protocol):
    """A graph whose nodes find each other."""

    @property
    def nodes(self) -> Mapping[str, NodeSummary]: ...
    @property
    def producers(self) -> Mapping[str, NodeSummary]: ...
    @property
    def readers(self) -> Mapping[str, Sequence[NodeSummary]]: ...


def find(context: Context) -> Iterator[Finding]:
    """Looks for QuantizeLinear and DequantizeLinear left between layers that were meant to meet in integers."""
    left = [
        entry
        for entry in context.profile.layers
        if entry.layer.kind == "quantize" and any(is_between(context, name) for name in entry.nodes)
    ]
    lost = context.time_of(*left)
    if not left or context.share_of(lost) < _LEAST_SHARE:
        return
    meant = sum(node.operator in _PLUMBING for node in context.graph.nodes)
    yield Finding(
        rule="unfused_qdq",
        candidate=context.row.name,
        what=f"{count_of(len(left), 'quantize or dequantize layer')} did not fuse with the layers around them.",
        evidence=f"They take {in_ms(lost)}, {in_percent(context.share_of(lost))} of an inference; "
        f"{meant} such nodes are in the file, among those left are {name_some(nodes_of(left))}.",
        milliseconds=lost,
        why="A backend computes in integers only where it knows the pattern of Q/DQ nodes around an operator; "
        "elsewhere it converts to float, computes there and converts back.",
        remedy="Quantize the float model for this backend again, with quantize_static's unsigned activations on ONNX "
        "Runtime's CPU; keep in float what has no integer kernel.",
        step=static_quantization(context),
        nodes=nodes_of(left),
    )


def is_between(context: _Joined, name: str) -> bool:
    """Whether something quantized lies on the float side of a Q or DQ node, too.

    At the model's inputs and outputs, and beside a layer that nobody meant to quantize, it does what it is for.
    """
    node = context.nodes.get(name)
    if node is None or node.operator not in _PLUMBING:
        return False
    backwards = node.operator == "QuantizeLinear"
    waiting, seen = [node], {node.name}
    while waiting:
        here = waiting.pop()
        for other in _before(context, here) if backwards else _behind(context, here):
            if other.operator in _PLUMBING or (other.macs and is_integer(other.precision)):
                return True
            if not other.macs and other.name not in seen:
                seen.add(other.name)
                waiting.append(other)
    return False


def _before(context: _Joined, node: NodeSummary) -> list[NodeSummary]:
    names = node.inputs[:1] if node.operator in _PLUMBING else node.inputs
    return [context.producers[name] for name in names if name in context.producers]


def _behind(context: _Joined, node: NodeSummary) -> list[NodeSummary]:
    return [reader for spec in node.outputs for reader in context.readers.get(spec.name, ())]
