"""Makes a PyTorch module of an ONNX graph that only runs: a flat function, one call for each node.

What the graph fixes is computed once when the module is made, shapes are computed with in Python, and each tensor is
given up after the last node that reads it. `torch.compile` takes the module whole.
"""

from __future__ import annotations

import operator as python_operator
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.graph_module._bound import bind
from workbench.graph_module._node import RUNNING, Node
from workbench.graph_module._quantized import QUANTIZED
from workbench.graph_module._reading import OPERATORS, as_array, constants, read_nodes
from workbench.graph_module._sizes import SIZES, as_list, shape_of, stays_size

if TYPE_CHECKING:
    import onnx
    import torch

_REDUCING = ("ReduceMean", "ReduceSum", "ReduceL2", "ReduceMax", "ReduceMin")
# Places of inputs that are axes, sizes or scales, and are wanted as Python's numbers.
_NUMBERS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Split", "Expand", "Tile", *_REDUCING), (1,)),
    **{"Slice": (1, 2, 3, 4), "Pad": (1, 3), "ConstantOfShape": (0,), "Resize": (2, 3)},
}
SOURCE = "onnx"  # under which the module's graph keeps, for each node, the operator and its first output
_MOST_SIZES = 64  # numbers in a constant that may take part in computing a shape


def make_inference_module(
    proto: onnx.ModelProto, title: str = "The model", *, device: str = "cpu", channels_last: bool = False
) -> torch.nn.Module:
    """Makes a module whose `forward` takes tensors in the order of the model's inputs and gives a tuple of its outputs.

    It is a `torch.fx.GraphModule`: its `code` can be read, and `graph.nodes` hold their ONNX operator and output in
    `meta[SOURCE]`.

    Args:
        proto: The model with its weights; it comes back unchanged.
        title: The model, for messages.
        device: Where its weights lie, in PyTorch's words.
        channels_last: Keep the weights of 2-D convolutions with the channels innermost.

    Raises:
        ModelError: It has an operator that is not known here, or uses one in a way that is not.
    """
    return _Maker(proto, title, device, channels_last).make()


def known_operators() -> frozenset[str]:
    """Operators of ONNX that a graph may consist of to be run; some of their uses are refused all the same."""
    return frozenset((*OPERATORS, *QUANTIZED, "Constant"))


class _Maker:
    def __init__(self, proto: onnx.ModelProto, title: str, device: str, channels_last: bool) -> None:
        import torch

        self._proto, self._title, self._device, self._channels_last = proto, title, device, channels_last
        self._nodes = read_nodes(proto, title, RUNNING, (*QUANTIZED, "Shape"))
        self._graph = torch.fx.Graph()
        self._constants: dict[str, torch.Tensor] = {}
        self._made: dict[str, Any] = {}  # by tensor, the node of the function that makes it
        self._ranks: dict[str, int] = {}  # of those that are sizes in Python's numbers

    def make(self) -> torch.nn.Module:
        import torch

        for name, tensor in constants(self._proto).items():
            self._constants[name] = self._tensor(tensor)
        inputs = [value.name for value in self._proto.graph.input if value.name not in self._constants]
        for number, name in enumerate(inputs):
            self._made[name] = self._graph.placeholder(f"input_{number}")
        with torch.no_grad():
            for node in self._nodes:
                self._add(node)
        self._graph.output(tuple(self._read(value.name) for value in self._proto.graph.output))
        module = torch.fx.GraphModule(torch.nn.Module(), self._graph)
        return module.eval()

    def _tensor(self, value: Any) -> torch.Tensor:
        import torch

        array = as_array(value)
        try:
            if array.dtype.name == "bfloat16":
                return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16).to(self._device)
            return torch.from_numpy(array.copy()).to(self._device)
        except TypeError:
            raise RUNNING.error(
                f"{self._title} cannot be run by PyTorch as an ONNX graph: it has constants in {array.dtype}.",
                f"{RUNNING.remedy}.",
            ) from None

    def _add(self, node: Node) -> None:
        names = [name for name in node.inputs if name]
        if all(name in self._constants for name in names) and names:
            self._fold(node)
        elif node.operator == "Shape":
            self._call(node, shape_of(node), names)
            self._ranks[node.outputs[0]] = 1
        elif self._is_size(node, names):
            self._add_size(node)
        elif node.operator in ("Identity", "Dropout") and len(node.outputs) == 1:
            self._made[node.outputs[0]] = self._read(names[0])
        else:
            self._call(node, bind(node, self._fixed(node), _operator(node)), self._free(node))

    def _fold(self, node: Node) -> None:
        """Computes what depends on constants alone."""
        inputs = [self._constants[name] if name else None for name in node.inputs]
        try:
            if node.operator == "Shape":
                import torch

                made: Any = torch.tensor(shape_of(node)(inputs[0]))
            else:
                made = _operator(node)(node, inputs, False)
        except WorkbenchError:
            raise
        except Exception as error:
            raise node.refuse(" ".join(str(error).split())[:200].rstrip(".")) from error
        self._constants.update(zip(node.outputs, made if isinstance(made, tuple | list) else (made,), strict=False))

    def _is_size(self, node: Node, names: Sequence[str]) -> bool:
        if node.operator not in SIZES or not any(name in self._ranks for name in names):
            return False
        known = all(name in self._ranks or self._is_small(name) for name in names)
        return known and stays_size(node, [self._rank(name) for name in names])

    def _is_small(self, name: str) -> bool:
        value = self._constants.get(name)
        integer = value is not None and not value.is_floating_point() and value.ndim < 2
        return integer and value.numel() <= _MOST_SIZES  # type: ignore[union-attr]

    def _rank(self, name: str) -> int:
        return self._ranks[name] if name in self._ranks else self._constants[name].ndim

    def _add_size(self, node: Node) -> None:
        names = [name for name in node.inputs if name]
        fixed = [self._constants[name].tolist() if name in self._constants else None for name in names]
        places = [place for place, name in enumerate(names) if name not in self._constants]
        run = SIZES[node.operator]

        def size(*values: Any) -> Any:
            inputs = list(fixed)
            for place, value in zip(places, values, strict=True):
                inputs[place] = value
            return run(node, inputs)

        ranks = [self._rank(name) for name in names]
        self._call(node, size, [names[place] for place in places])
        self._ranks[node.outputs[0]] = {
            **{"Gather": ranks[-1], "Squeeze": 0, "Unsqueeze": 1, "Concat": 1, "Slice": 1}
        }.get(node.operator, max(ranks))

    def _fixed(self, node: Node) -> list[Any]:
        """By place, the constants among a node's inputs."""
        fixed: list[Any] = []
        for place, name in enumerate(node.inputs):
            value = self._constants.get(name)
            if value is not None and place in _NUMBERS.get(node.operator, ()):
                fixed.append(value.reshape(-1).tolist())
            elif value is not None and self._channels_last and node.operator == "Conv" and value.ndim == 4:
                import torch

                fixed.append(value.to(memory_format=torch.channels_last))
            else:
                fixed.append(value)
        return fixed

    def _free(self, node: Node) -> list[Any]:
        """The other inputs; sizes as what the operator takes."""
        free: list[Any] = []
        for place, name in enumerate(node.inputs):
            if not name or name in self._constants:
                continue
            if name in self._ranks and place in _NUMBERS.get(node.operator, ()):
                free.append(self._graph.call_function(as_list, (self._made[name],)))
            else:
                free.append(self._read(name))
        return free

    def _read(self, name: str) -> Any:
        """The node of the function that gives a tensor."""
        if name in self._ranks:
            return self._graph.call_function(self._as_tensor, (self._made[name],))
        if name in self._made:
            return self._made[name]
        return self._graph.call_function(_giving(self._constants[name]))  # an output that is a constant

    def _as_tensor(self, value: Any) -> torch.Tensor:
        import torch

        return torch.tensor(value, dtype=torch.int64, device=self._device)

    def _call(self, node: Node, function: Any, inputs: Sequence[Any]) -> None:
        arguments = tuple(self._made[value] if isinstance(value, str) else value for value in inputs)
        title = re.sub(r"\W+", "_", node.name).strip("_") or "node"
        made = self._graph.create_node("call_function", function, arguments, {}, f"n_{title}")
        made.meta[SOURCE] = (node.operator, node.outputs[0])
        if len(node.outputs) == 1:
            self._made[node.outputs[0]] = made
            return
        for place, name in enumerate(node.outputs):
            if name:
                self._made[name] = self._graph.call_function(python_operator.getitem, (made, place))


def _operator(node: Node) -> Any:
    return QUANTIZED.get(node.operator) or OPERATORS.get(node.operator)


def _giving(value: torch.Tensor) -> Any:
    def constant() -> torch.Tensor:
        return value

    return constant
