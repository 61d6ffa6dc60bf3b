"""Makes a trainable PyTorch module of an ONNX graph, and puts what it has learned back into the same graph.

Nothing is exported again: names, interface and dynamic axes stay what they were, only weights change. A graph whose
BatchNormalization was folded into its convolutions trains without it, which works with a lower learning rate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import TransformError
from workbench.graph.quantized import is_quantizing
from workbench.graph_module._node import TRAINING, Node
from workbench.graph_module._reading import OPERATORS, as_array, constants, read_nodes

if TYPE_CHECKING:
    import onnx
    import torch

# Places of an operator's inputs that are trained; of a sum or product either, where it is no single number.
_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "LayerNormalization"), (1, 2)),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization"), (1, 2)),
    **{"PRelu": (1,), "Gather": (0,), "MatMul": (0, 1), "Einsum": (0, 1)},
}
_EITHER = ("Add", "Sub", "Mul")
_THROUGH = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Expand")  # a weight on its way to its operator
_MASK = -1e4  # what is added to hide a position is no bias


def make_graph_module(proto: onnx.ModelProto, title: str = "The model") -> torch.nn.Module:
    """Makes a module of a whole model; its `forward(feed, wanted)` takes and returns tensors by name.

    Weights are its parameters and the running statistics of BatchNormalization its buffers; other constants stay.
    `forward` returns the graph's outputs and the tensors named in `wanted`. `write_weights(proto)` puts the weights
    as they are now into a model of the same graph.

    Args:
        proto: The model with its weights; it comes back unchanged.
        title: The model, for messages.

    Raises:
        TransformError: It is quantized or in half precision, or has an operator that cannot be trained here.
    """
    import torch

    _check_float(proto, title)
    nodes = read_nodes(proto, title, TRAINING)
    tensors = constants(proto)
    weights, statistics = _find_weights(nodes, tensors, title)
    outputs = tuple(value.name for value in proto.graph.output)

    class GraphModule(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._names: dict[str, str] = {}  # name in the graph → name here, where dots may not stand
            self._constants: dict[str, torch.Tensor] = {}
            for number, (name, tensor) in enumerate(tensors.items()):
                value = torch.from_numpy(as_array(tensor).copy())
                if name in weights:
                    self.register_parameter(f"weight_{number}", torch.nn.Parameter(value))
                elif name in statistics:
                    self.register_buffer(f"statistic_{number}", value)
                else:
                    self._constants[name] = value
                    continue
                self._names[name] = f"{'weight' if name in weights else 'statistic'}_{number}"

        def forward(self, feed: Mapping[str, torch.Tensor], wanted: Collection[str] = ()) -> dict[str, torch.Tensor]:
            own = {name: getattr(self, place) for name, place in self._names.items()}
            values: dict[str, Any] = {**self._constants, **own, **feed}
            for node in nodes:
                inputs = [values[name] if name else None for name in node.inputs]
                made = _run(node, inputs, self.training)
                values.update(zip(node.outputs, made, strict=False))
            return {name: values[name] for name in (*outputs, *wanted)}

        def write_weights(self, target: onnx.ModelProto) -> None:
            """Puts the weights as they are now into a model of the same graph."""
            found = constants(target)
            for name, place in self._names.items():
                value = getattr(self, place).detach().cpu().numpy()
                _fill(found[name], value)

    return GraphModule()


def _run(node: Node, inputs: Sequence[Any], training: bool) -> Sequence[torch.Tensor]:
    operator = OPERATORS[node.operator]
    try:
        made = operator(node, inputs, training)
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        if isinstance(error, TransformError):
            raise
        shapes = ", ".join(str(list(value.shape)) if value is not None else "nothing" for value in inputs)
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise node.refuse(f"on {shapes} it fails: {reason}") from error
    return made if isinstance(made, tuple | list) else (made,)


def _check_float(proto: onnx.ModelProto, title: str) -> None:
    for node in proto.graph.node:
        if is_quantizing(node.op_type):
            raise TransformError(
                f"{title} is quantized ('{node.name or node.output[0]}' is {node.op_type}), and what is rounded to "
                "integers does not learn.",
                "Train the float model first, and quantize the result.",
            )


def _fill(tensor: onnx.TensorProto | onnx.AttributeProto, value: np.ndarray[Any, Any]) -> None:
    import onnx

    if isinstance(tensor, onnx.TensorProto):
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
    else:
        tensor.CopyFrom(onnx.helper.make_attribute(tensor.name, value.tolist()))


def _find_weights(
    nodes: Sequence[Node], tensors: Mapping[str, Any], title: str
) -> tuple[Collection[str], Collection[str]]:
    """Names of the constants that are trained, and of the running statistics."""
    statistics = {name for node in nodes if node.operator == "BatchNormalization" for name in node.inputs[3:5]}
    used: set[str] = set()
    either: set[str] = set()
    for node in nodes:
        used |= {node.inputs[place] for place in _WEIGHTS.get(node.operator, ()) if place < len(node.inputs)}
        either |= set(node.inputs) if node.operator in _EITHER else set()
    for node in reversed(nodes):
        for names in (used, either):
            if node.operator in _THROUGH and node.outputs[0] in names:
                names.add(node.inputs[0])
    arrays = {name: as_array(tensors[name]) for name in (used | either) & set(tensors)}
    _check_types(arrays, used, title)
    weights = {
        name
        for name, array in arrays.items()
        if array.dtype == np.float32
        and name not in statistics
        and (name in used or array.size > 1)
        and np.isfinite(array).all()
        and not (array <= _MASK).any()
    }
    if not weights:
        raise TransformError(f"{title} has no weights to train.", "Give a model whose weights are in float32.")
    return weights, statistics & set(tensors)


def _check_types(arrays: Mapping[str, np.ndarray[Any, Any]], used: Iterable[str], title: str) -> None:
    for name in sorted(set(used) & set(arrays)):
        kind = str(arrays[name].dtype)
        if kind in ("float16", "bfloat16", "float64"):
            raise TransformError(
                f"{title} has weights in {kind} ('{name}'), and training needs float32.",
                "Train the float32 model, and make the result smaller afterwards.",
            )
