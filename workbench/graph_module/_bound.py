"""Operators with everything that a graph fixes put in beforehand: attributes read, constants in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from workbench.graph_module._layers import padding_of
from workbench.graph_module._node import Node, Operator

Fixed: TypeAlias = Sequence[
    Any
]  # an input's constant or None; numbers as a list where the operator reads axes or sizes
Bound: TypeAlias = Callable[..., Any]

_SAME = {"Relu", "Sigmoid", "Tanh", "Erf", "Sqrt", "Exp", "Log", "Abs", "Neg", "MatMul", "Add", "Sub", "Mul", "Where"}


def bind(node: Node, fixed: Fixed, operator: Operator) -> Bound:
    """A function of a node's other inputs, in their order, that does as little as it can when it is called.

    Args:
        node: The node.
        fixed: By place, the constants among its inputs.
        operator: What computes it in general.
    """
    made = _BINDERS[node.operator](node, fixed) if node.operator in _BINDERS else None
    return made or _in_general(node, fixed, operator)


def _in_general(node: Node, fixed: Fixed, operator: Operator) -> Bound:
    places = [place for place, name in enumerate(node.inputs) if name and fixed[place] is None]
    several = len(node.outputs) > 1

    def run(*values: Any) -> Any:
        inputs = list(fixed)
        for place, value in zip(places, values, strict=True):
            inputs[place] = value
        made = operator(node, inputs, False)
        return made[0] if not several and isinstance(made, tuple | list) else made

    return run


def _plain(node: Node, fixed: Fixed) -> Bound | None:
    """What PyTorch has under the same name."""
    import torch

    function: Bound = getattr(torch, node.operator.lower())
    if all(value is None for value in fixed):
        return function
    if len(fixed) != 2:
        return None
    first, second = fixed
    if first is None:

        def after(value: Any) -> Any:
            return function(value, second)

        return after

    def before(value: Any) -> Any:
        return function(first, value)

    return before


def _convolution(node: Node, fixed: Fixed) -> Bound | None:
    import torch

    weight, bias = fixed[1], fixed[2] if len(fixed) > 2 else None
    if fixed[0] is not None or weight is None or (len(node.inputs) > 2 and node.inputs[2] and bias is None):
        return None
    axes = weight.ndim - 2
    padding = padding_of(node, axes)
    if padding is None:
        return None
    run = (torch.conv1d, torch.conv2d, torch.conv3d)[axes - 1]
    strides, dilations = list(node.get("strides") or [1] * axes), list(node.get("dilations") or [1] * axes)
    groups = node.get("group", 1)

    def convolution(value: Any) -> Any:
        return run(value, weight, bias, strides, padding, dilations, groups)

    return convolution


def _product(node: Node, fixed: Fixed) -> Bound | None:
    from torch.nn import functional

    weight, bias = fixed[1], fixed[2] if len(fixed) > 2 else None
    plain = not node.get("transA", 0) and node.get("alpha", 1.0) == 1.0 and node.get("beta", 1.0) == 1.0
    free_bias = len(node.inputs) > 2 and node.inputs[2] and bias is None
    if not plain or fixed[0] is not None or weight is None or free_bias or (bias is not None and bias.ndim != 1):
        return None
    weight = weight if node.get("transB", 0) else weight.t().contiguous()
    if bias is not None and bias.numel() != weight.shape[0]:
        return None

    def product(value: Any) -> Any:
        return functional.linear(value, weight, bias)

    return product


def _normalization(node: Node, fixed: Fixed) -> Bound | None:
    from torch.nn import functional

    if fixed[0] is not None or any(value is None for value in fixed[1:5]):
        return None
    scale, bias, mean, variance = fixed[1:5]
    epsilon = node.get("epsilon", 1e-5)

    def normalization(value: Any) -> Any:
        return functional.batch_norm(value, mean, variance, scale, bias, False, 0.0, epsilon)

    return normalization


def _maximum(node: Node, fixed: Fixed) -> Bound | None:
    import torch

    window = list(node.get("kernel_shape"))
    padding = padding_of(node, len(window))
    if len(window) != 2 or len(node.outputs) > 1 or padding is None:
        return None
    if any(2 * pad > size for pad, size in zip(padding, window, strict=True)):
        return None
    strides, dilations = list(node.get("strides") or [1, 1]), list(node.get("dilations") or [1, 1])
    ceil = bool(node.get("ceil_mode", 0))

    def maximum(value: Any) -> Any:
        return torch.max_pool2d(value, window, strides, padding, dilations, ceil)

    return maximum


def _clipping(node: Node, fixed: Fixed) -> Bound | None:
    low, high = (node.get(name, _number(fixed, place)) for place, name in ((1, "min"), (2, "max")))
    if any(name and fixed[place] is None for place, name in enumerate(node.inputs) if place):
        return None

    def clipping(value: Any) -> Any:
        return value if low is None and high is None else value.clamp(low, high)

    return clipping


def _number(fixed: Fixed, place: int) -> Any:
    return fixed[place].item() if place < len(fixed) and fixed[place] is not None else None


def _slicing(node: Node, fixed: Fixed) -> Bound | None:
    """Forward steps are a view in PyTorch."""
    if fixed[0] is not None or any(value is None for value in fixed[1:]) or len(fixed) < 3:
        return None
    starts, ends = fixed[1], fixed[2]
    axes = fixed[3] if len(fixed) > 3 else list(range(len(starts)))
    steps = fixed[4] if len(fixed) > 4 else [1] * len(starts)
    if any(step < 1 for step in steps) or any(axis < 0 for axis in axes):
        return None
    by_axis = {axis: slice(*part) for axis, *part in zip(axes, starts, ends, steps, strict=True)}
    parts = tuple(by_axis.get(axis, slice(None)) for axis in range(max(by_axis) + 1))

    def slicing(value: Any) -> Any:
        return value[parts]

    return slicing


_BINDERS: Mapping[str, Callable[[Node, Fixed], Bound | None]] = {
    **dict.fromkeys(_SAME, _plain),
    **{"Conv": _convolution, "Gemm": _product, "BatchNormalization": _normalization, "MaxPool": _maximum},
    **{"Clip": _clipping, "Slice": _slicing},
}
