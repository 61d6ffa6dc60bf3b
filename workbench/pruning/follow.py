"""Follows channels through a graph, node by node; what a rule does not know keeps all the channels that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from workbench.graph.shapes import STANDARD, operator_name
from workbench.pruning import rules_elementwise, rules_layers, rules_shapes
from workbench.pruning.channels import Dependencies, UnknownError, Value
from workbench.pruning.graphs import Graph, names_inside
from workbench.pruning.steps import Step

if TYPE_CHECKING:
    import onnx

Rule: TypeAlias = Callable[[Step], Value | Mapping[str, Value] | None]

_UNARY = (
    "Abs Cast Ceil Celu Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu "
    "Log Mish Neg Not QuickGelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Softplus Softsign Sqrt Swish Tan "
    "Tanh ThresholdedRelu"
)
_ELEMENTWISE = (
    "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor"
)
_POOLING = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"
_REDUCING = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_UNARY.split(), rules_elementwise.unary),
    **dict.fromkeys(_ELEMENTWISE.split(), rules_elementwise.elementwise),
    **dict.fromkeys(_POOLING.split(), rules_elementwise.pooling),
    **dict.fromkeys([f"Reduce{name}" for name in _REDUCING.split()], rules_shapes.reduce),
    "Conv": rules_layers.convolution,
    "ConvTranspose": rules_layers.transposed_convolution,
    "Gemm": rules_layers.gemm,
    "MatMul": rules_layers.product,
    "BatchNormalization": rules_layers.normalization,
    "InstanceNormalization": rules_layers.normalization,
    "LayerNormalization": rules_layers.normalization_of_last,
    "RMSNormalization": rules_layers.normalization_of_last,
    "Softmax": rules_layers.softmax,
    "LogSoftmax": rules_layers.softmax,
    "Concat": rules_shapes.concat,
    "Split": rules_shapes.split,
    "Transpose": rules_shapes.transpose,
    "Unsqueeze": rules_shapes.unsqueeze,
    "Squeeze": rules_shapes.squeeze,
    "Gather": rules_shapes.gather,
    "Slice": rules_shapes.slice_,
    "Pad": rules_shapes.pad,
    "Resize": rules_shapes.resize,
    "Upsample": rules_shapes.resize,
    "Shape": rules_shapes.shape_of,
    "Flatten": rules_shapes.flatten,
    "Reshape": rules_shapes.reshape,
}
_CONTRIBUTED = {"Gelu", "QuickGelu"}  # of com.microsoft


def follow(proto: onnx.ModelProto) -> Dependencies:
    """Finds which channels of a graph go together and where each stands in the weights.

    A label belongs to one channel that a layer makes. Labels travel with the activations; where two meet, as in a
    residual sum, they are joined, and what nobody can tell keeps its channels. The idea of joining what depends on each
    other is that of Fang et al., DepGraph, CVPR 2023.

    Args:
        proto: A model that is `ready`.
    """
    graph, found, values = Graph(proto), Dependencies(), dict[str, Value]()
    for place, node in enumerate(graph.nodes):
        inside = [values[name] for name in names_inside(node) if name in values]
        start = found.size
        try:
            if inside:
                raise UnknownError("uses them in a graph of its own")
            values.update(_pass_on(Step(graph, place, found, values)))
        except (UnknownError, ValueError, IndexError, KeyError, TypeError) as error:
            reason = error if isinstance(error, UnknownError) else "is written in a way that pruning does not know"
            text = f"'{node.name}' ({operator_name(node.domain, node.op_type)}) {reason}"
            for value in (*inside, *(values[name] for name in node.input if name in values)):
                found.freeze(value.labels, text)
            found.freeze(np.arange(start, found.size), text)  # of a rule that did not come to its end
    for name in graph.outputs:
        if name in values:
            found.freeze(values[name].labels, f"they are the model's output '{name}'")
    found.settle_shared(graph.uses)
    return found


def _pass_on(step: Step) -> Mapping[str, Value]:
    node = step.node
    known = node.domain in STANDARD or (node.domain == "com.microsoft" and node.op_type in _CONTRIBUTED)
    rule = RULES.get(node.op_type) if known else None
    if rule is None:
        if step.followed():
            raise UnknownError("is an operator that pruning cannot follow")
        return {}
    made = rule(step)
    if isinstance(made, Value):
        return {node.output[0]: made}
    return made or {}
