"""ONNX's convolutions, poolings, normalizations and resizing in PyTorch, as the ONNX specification defines them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from workbench.graph_module._node import Node, Operator, Values, given, numbers


def _pads(node: Node, sizes: Sequence[int], window: Sequence[int]) -> list[int]:
    """Padding before and after each spatial axis: all befores, then all afters."""
    axes = len(window)
    automatic = node.get("auto_pad", "NOTSET")
    if automatic == "NOTSET":
        return list(node.get("pads") or [0] * 2 * axes)
    if automatic == "VALID":
        return [0] * 2 * axes
    before, after = [], []
    strides, dilations = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    for size, kernel, stride, dilation in zip(sizes, window, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        before.append(small if automatic == "SAME_UPPER" else large)
        after.append(large if automatic == "SAME_UPPER" else small)
    return before + after


def padding_of(node: Node, axes: int) -> list[int] | None:
    """Padding that is fixed and the same on both sides of each spatial axis; None where it is not."""
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    pads = _pads(node, (), range(axes))
    return pads[:axes] if pads[:axes] == pads[axes:] else None


def _padded(value: Any, pads: Sequence[int], fill: float = 0.0) -> tuple[Any, tuple[int, ...]]:
    """The value with what PyTorch's own padding cannot do, and the padding that it can: the same on both sides."""
    from torch.nn import functional

    axes = len(pads) // 2
    before, after = pads[:axes], pads[axes:]
    if list(before) == list(after):
        return value, tuple(before)
    sizes = [size for axis in reversed(range(axes)) for size in (before[axis], after[axis])]
    return functional.pad(value, sizes, value=fill), (0,) * axes


def _convolve(node: Node, inputs: Values, training: bool) -> Any:
    from torch.nn import functional

    value: Any = inputs[0]
    weight: Any = inputs[1]
    axes = weight.ndim - 2
    value, padding = _padded(value, _pads(node, value.shape[2:], weight.shape[2:]))
    run = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    strides, dilations = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    return run(value, weight, given(inputs, 2), strides, padding, dilations, node.get("group", 1))


def _convolve_transposed(node: Node, inputs: Values, training: bool) -> Any:
    from torch.nn import functional

    value: Any = inputs[0]
    weight: Any = inputs[1]
    axes = weight.ndim - 2
    if node.get("output_shape") or node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise node.refuse("it derives its padding from the size of its output")
    run = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[axes - 1]
    strides, dilations = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    pads = list(node.get("pads") or [0] * 2 * axes)
    extra = node.get("output_padding") or [0] * axes
    whole = run(value, weight, given(inputs, 2), strides, 0, extra, node.get("group", 1), dilations)
    for axis in range(axes):  # padding cuts the result, on each side by its own amount
        whole = whole.narrow(axis + 2, pads[axis], whole.shape[axis + 2] - pads[axis] - pads[axes + axis])
    return whole


def _pool(kind: Literal["max", "avg"]) -> Operator:
    def run(node: Node, inputs: Values, training: bool) -> Any:
        import torch
        from torch.nn import functional

        value: Any = inputs[0]
        window = list(node.get("kernel_shape"))
        axes = len(window)
        strides, dilations = list(node.get("strides") or [1] * axes), node.get("dilations") or [1] * axes
        pads, ceil = _pads(node, value.shape[2:], window), bool(node.get("ceil_mode", 0))
        pool = getattr(functional, f"{kind}_pool{axes}d")
        if kind == "max":
            if len(node.outputs) > 1:
                raise node.refuse("it gives the places of the largest values")
            # PyTorch pads by at most half the window, so it is done beforehand.
            value, padding = _padded(value, pads, float("-inf"))
            if any(2 * pad > size for pad, size in zip(padding, window, strict=True)):
                around = [pad for pad in padding[::-1] for _ in ("before", "after")]
                value, padding = functional.pad(value, around, value=float("-inf")), (0,) * axes
            return pool(value, window, strides, padding, list(dilations), ceil)
        if any(dilation != 1 for dilation in dilations):
            raise node.refuse("it averages with gaps")
        if not any(pads):
            return pool(value, window, strides, 0, ceil, False)
        sizes = [size for axis in reversed(range(axes)) for size in (pads[axis], pads[axes + axis])]
        counted = torch.ones_like(value[:1, :1])
        counted = functional.pad(counted, sizes, value=float(node.get("count_include_pad", 0)))
        return pool(functional.pad(value, sizes), window, strides, 0, ceil) / pool(counted, window, strides, 0, ceil)

    return run


def _pool_all(name: str) -> Operator:
    def run(node: Node, inputs: Values, training: bool) -> Any:
        value: Any = inputs[0]
        return getattr(value, name)(tuple(range(2, value.ndim)), keepdim=True)

    return run


def _batch_norm(node: Node, inputs: Values, training: bool) -> Any:
    """Ioffe and Szegedy (2015): by the batch's statistics while training, which move the running ones."""
    from torch.nn import functional

    value, scale, bias, mean, variance = inputs[:5]
    return functional.batch_norm(
        value, mean, variance, scale, bias, training, 1 - node.get("momentum", 0.9), node.get("epsilon", 1e-5)
    )


def _layer_norm(node: Node, inputs: Values, training: bool) -> Any:
    from torch.nn import functional

    value: Any = inputs[0]
    scale: Any = inputs[1]
    if len(node.outputs) > 1:
        raise node.refuse("it gives mean and deviation")
    shape = list(value.shape)[node.get("axis", -1) :]
    if list(scale.shape) != shape:
        raise node.refuse("its scale has another shape than what it normalizes")
    return functional.layer_norm(value, shape, scale, given(inputs, 2), node.get("epsilon", 1e-5))


def _instance_norm(node: Node, inputs: Values, training: bool) -> Any:
    from torch.nn import functional

    value, scale, bias = inputs
    return functional.instance_norm(value, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


def _group_norm(node: Node, inputs: Values, training: bool) -> Any:
    from torch.nn import functional

    value, scale, bias = inputs
    assert scale is not None
    assert bias is not None
    groups = node.get("num_groups")
    if node.opset < 21:  # one number for each group then, one for each channel since
        per = value.shape[1] // groups  # type: ignore[union-attr]
        scale, bias = scale.repeat_interleave(per), bias.repeat_interleave(per)
    return functional.group_norm(value, groups, scale, bias, node.get("epsilon", 1e-5))


def _resize(node: Node, inputs: Values, training: bool) -> Any:
    from torch.nn import functional

    value: Any = inputs[0]
    mode, place = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    if node.get("axes"):
        raise node.refuse("it resizes chosen axes")
    scales, sizes = given(inputs, 2), numbers(node, inputs, "", 3)
    if scales is not None and len(scales):
        factors = scales if isinstance(scales, list) else scales.tolist()
    else:
        factors = [new / old for new, old in zip(sizes or [], value.shape, strict=True)]
    if factors[:2] != [1, 1]:
        raise node.refuse("it resizes the batch or the channels")
    target = {"size": sizes[2:]} if sizes else {"scale_factor": factors[2:]}
    if mode == "nearest":
        floor = place == "asymmetric" and node.get("nearest_mode", "round_prefer_floor") == "floor"
        whole = all(factor >= 1 and factor == int(factor) for factor in factors)
        if floor or (whole and place in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")):
            return functional.interpolate(value, mode="nearest", **target)
    elif mode == "linear" and place in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        kind = {3: "linear", 4: "bilinear", 5: "trilinear"}[value.ndim]
        return functional.interpolate(value, mode=kind, align_corners=place == "align_corners", **target)
    raise node.refuse(f"it resizes in the mode {mode} with {place} coordinates")


LAYERS: Mapping[str, Operator] = {
    "Conv": _convolve,
    "ConvTranspose": _convolve_transposed,
    "MaxPool": _pool("max"),
    "AveragePool": _pool("avg"),
    "GlobalAveragePool": _pool_all("mean"),
    "GlobalMaxPool": _pool_all("amax"),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "Resize": _resize,
}
