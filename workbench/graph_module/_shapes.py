"""ONNX's operators on shapes and places in PyTorch, as the ONNX operator specification defines them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.graph_module._node import Node, Operator, Values, given, numbers


def _flatten(node: Node, inputs: Values, training: bool) -> Any:
    value: Any = inputs[0]
    axis = node.get("axis", 1)
    axis = axis + value.ndim if axis < 0 else axis
    return value.reshape([_product(value.shape[:axis]), _product(value.shape[axis:])])


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= int(size)
    return result


def _reshape(node: Node, inputs: Values, training: bool) -> Any:
    value: Any = inputs[0]
    sizes = numbers(node, inputs, "shape", 1) or []
    if not node.get("allowzero", 0):
        sizes = [value.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return value.reshape(sizes)


def _transpose(node: Node, inputs: Values, training: bool) -> Any:
    value: Any = inputs[0]
    return value.permute(node.get("perm") or list(range(value.ndim))[::-1])


def _squeeze(node: Node, inputs: Values, training: bool) -> Any:
    value: Any = inputs[0]
    axes = numbers(node, inputs, "axes", 1)
    return value.squeeze() if axes is None else value.squeeze(tuple(axes))


def _unsqueeze(node: Node, inputs: Values, training: bool) -> Any:
    value: Any = inputs[0]
    axes = numbers(node, inputs, "axes", 1) or []
    for axis in sorted(axis % (value.ndim + len(axes)) for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _concat(node: Node, inputs: Values, training: bool) -> Any:
    import torch

    return torch.cat(list(inputs), node.get("axis"))


def _split(node: Node, inputs: Values, training: bool) -> Any:
    value: Any = inputs[0]
    axis, count = node.get("axis", 0), len(node.outputs)
    sizes = numbers(node, inputs, "split", 1)
    if sizes is None:
        part = -(-value.shape[axis] // node.get("num_outputs", count))
        sizes = [part] * (count - 1) + [value.shape[axis] - part * (count - 1)]
    return value.split(sizes, axis)


def _slice(node: Node, inputs: Values, training: bool) -> Any:
    import torch

    value: Any = inputs[0]
    starts = numbers(node, inputs, "starts", 1) or []
    ends = numbers(node, inputs, "ends", 2) or []
    axes = numbers(node, inputs, "axes", 3) or list(range(len(starts)))
    steps = numbers(node, inputs, "steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        picked = range(value.shape[axis])[slice(start, end if step > 0 or end >= -value.shape[axis] else None, step)]
        value = value.index_select(axis, torch.tensor(list(picked), dtype=torch.int64, device=value.device))
    return value


def _gather(node: Node, inputs: Values, training: bool) -> Any:
    value, index = inputs
    assert value is not None
    assert index is not None
    axis = node.get("axis", 0) % value.ndim
    index = index.long()
    flat = index.reshape(-1)
    picked = value.index_select(axis, flat.where(flat >= 0, flat + value.shape[axis]))
    return picked.reshape([*value.shape[:axis], *index.shape, *value.shape[axis + 1 :]])


def _gather_elements(node: Node, inputs: Values, training: bool) -> Any:
    value, index = inputs
    assert value is not None
    assert index is not None
    axis = node.get("axis", 0)
    return value.gather(axis, index.where(index >= 0, index + value.shape[axis]))


def _pad(node: Node, inputs: Values, training: bool) -> Any:
    from torch.nn import functional

    value: Any = inputs[0]
    pads = numbers(node, inputs, "pads", 1) or []
    axes = numbers(node, inputs, "", 3) or list(range(value.ndim))
    before = dict(zip(axes, pads[: len(axes)], strict=True))
    after = dict(zip(axes, pads[len(axes) :], strict=True))
    # PyTorch counts from the last axis; its other modes pad no batch and no channels.
    sizes = [size for axis in reversed(range(value.ndim)) for size in (before.get(axis, 0), after.get(axis, 0))]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(node.get("mode", "constant"))
    if mode is None:
        raise node.refuse(f"it pads in the mode {node.get('mode')}")
    if mode == "constant":
        fill = given(inputs, 2)
        return functional.pad(value, sizes, value=float(fill) if fill is not None else node.get("value", 0.0))
    if any(sizes[-4:]):
        raise node.refuse("it pads the batch or the channels with values from inside")
    return functional.pad(value, sizes[:-4], mode=mode)


def _expand(node: Node, inputs: Values, training: bool) -> Any:
    import torch

    value: Any = inputs[0]
    return value.expand(torch.broadcast_shapes(value.shape, numbers(node, inputs, "shape", 1) or []))


def _tile(node: Node, inputs: Values, training: bool) -> Any:
    value: Any = inputs[0]
    return value.repeat(numbers(node, inputs, "repeats", 1) or [])


def _shape(node: Node, inputs: Values, training: bool) -> Any:
    import torch

    value: Any = inputs[0]
    return torch.tensor(list(value.shape)[slice(node.get("start", 0), node.get("end"))], dtype=torch.int64)


def _constant_of_shape(node: Node, inputs: Values, training: bool) -> Any:
    import torch

    value = node.get("value")
    fill = torch.zeros(1) if value is None else torch.from_numpy(value)
    return fill.reshape([]).repeat(numbers(node, inputs, "", 0) or [])


def _range(node: Node, inputs: Values, training: bool) -> Any:
    import torch

    start, limit, delta = (value.item() for value in inputs if value is not None)
    first: Any = inputs[0]
    return torch.arange(start, limit, delta, dtype=first.dtype)


def _trilu(node: Node, inputs: Values, training: bool) -> Any:
    value: Any = inputs[0]
    diagonal = given(inputs, 1)
    shift = int(diagonal) if diagonal is not None else 0
    return value.triu(shift) if node.get("upper", 1) else value.tril(shift)


def _depth_to_space(node: Node, inputs: Values, training: bool) -> Any:
    from torch.nn import functional

    value: Any = inputs[0]
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "DCR":
        batch, channels, height, width = value.shape
        value = value.reshape(batch, block * block, -1, height, width).transpose(1, 2)
        value = value.reshape(batch, channels, height, width)
    return functional.pixel_shuffle(value, block)


SHAPES: Mapping[str, Operator] = {
    **{"Flatten": _flatten, "Reshape": _reshape, "Transpose": _transpose, "Squeeze": _squeeze},
    **{"Unsqueeze": _unsqueeze, "Concat": _concat, "Split": _split, "Slice": _slice, "Gather": _gather},
    **{"GatherElements": _gather_elements, "Pad": _pad, "Expand": _expand, "Tile": _tile, "Shape": _shape},
    **{"ConstantOfShape": _constant_of_shape, "Range": _range, "Trilu": _trilu, "DepthToSpace": _depth_to_space},
}
