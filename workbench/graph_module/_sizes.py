"""Arithmetic on shapes in plain numbers: as tensors, each step would cost as much as a layer, and compilers stop.

A value is a number, for a tensor without axes, or a list of numbers, for one axis.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from workbench.graph_module._node import Node

if TYPE_CHECKING:
    import torch

Size: TypeAlias = "int | list[int]"
SizeOperator: TypeAlias = Callable[[Node, Sequence[Any]], Any]

_INTEGERS = (6, 7)  # ONNX's numbers of int32 and int64


def shape_of(node: Node) -> Callable[[torch.Tensor], list[int]]:
    """What gives the sizes of a tensor that `Shape` asks for."""
    part = slice(node.get("start", 0), node.get("end"))

    def shape(value: torch.Tensor) -> list[int]:
        return list(value.shape)[part]

    return shape


def as_list(value: Size) -> list[int]:
    """Sizes as the operators that take axes and sizes read them."""
    return value if isinstance(value, list) else [value]


def _divide(left: int, right: int) -> int:
    return left // right if (left >= 0) == (right > 0) else -(-left // right)


def _each(function: Callable[[int, int], int]) -> SizeOperator:
    def run(node: Node, inputs: Sequence[Any]) -> Any:
        left, right = inputs
        if not isinstance(left, list) and not isinstance(right, list):
            return function(left, right)
        a, b = as_list(left), as_list(right)
        length = max(len(a), len(b))
        return [function(x, y) for x, y in zip(a * (length // len(a)), b * (length // len(b)), strict=True)]

    return run


def _gather(node: Node, inputs: Sequence[Any]) -> Any:
    sizes, places = inputs
    return [sizes[place] for place in places] if isinstance(places, list) else sizes[places]


def _concat(node: Node, inputs: Sequence[Any]) -> Any:
    return [number for value in inputs for number in as_list(value)]


def _slice(node: Node, inputs: Sequence[Any]) -> Any:
    start, end = (as_list(value)[0] for value in inputs[1:3])
    step = as_list(inputs[4])[0] if len(inputs) > 4 else 1
    whole: list[int] = inputs[0]
    return whole[slice(start, end if step > 0 or end >= -len(whole) else None, step)]


SIZES: Mapping[str, SizeOperator] = {
    **{"Add": _each(operator.add), "Sub": _each(operator.sub), "Mul": _each(operator.mul), "Div": _each(_divide)},
    **{"Gather": _gather, "Concat": _concat, "Slice": _slice},
    **{"Unsqueeze": lambda node, inputs: as_list(inputs[0]), "Identity": lambda node, inputs: inputs[0]},
    **{"Squeeze": lambda node, inputs: as_list(inputs[0])[0], "Cast": lambda node, inputs: inputs[0]},
}


def stays_size(node: Node, ranks: Sequence[int]) -> bool:
    """Whether what a node makes of sizes is sizes again: a number, or a list of them.

    Args:
        node: One whose operator is among `SIZES`.
        ranks: Axes of its inputs, 0 or 1.
    """
    if node.operator == "Cast":
        return node.get("to") in _INTEGERS
    if node.operator == "Unsqueeze":
        return ranks[0] == 0
    return node.operator != "Slice" or ranks[0] == 1
