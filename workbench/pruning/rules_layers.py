"""How channels pass through operators with weights: convolutions, products, normalization."""

from __future__ import annotations

import math

import numpy as np

from workbench.pruning.channels import Count, UnknownError, Value
from workbench.pruning.steps import Step


def convolution(step: Step) -> Value | None:
    """Conv: weights (outputs, inputs of a group, …)."""
    dims, groups = step.constant(1), int(step.attribute("group", 1))
    value = _image(step, dims[1] * groups)
    depthwise = groups > 1 and dims[1] == 1
    if depthwise and value is None:
        return None
    if step.input(2):
        step.constant(2)
    found = step.found
    if depthwise and value is not None:
        labels = np.repeat(value.labels, dims[0] // groups)
        found.counts.append(Count(step.place, "group", None, value.labels))
    else:
        labels = found.new(dims[0])
        if groups > 1:
            found.tie(labels, groups)
        if value is not None:
            if groups > 1:
                found.tie(value.labels, groups)
            found.cut(step.input(1), 1, value.labels[: dims[1]])
    found.cut(step.input(1), 0, labels)
    if step.input(2):
        found.cut(step.input(2), 0, labels)
    kind = "depthwise" if depthwise else "grouped" if groups > 1 else "dense"
    layer = step.make_layer(kind, None if depthwise else 1, 0, labels, value, step.input(2))  # type: ignore[arg-type]
    return Value(1, labels, len(dims), layer)


def transposed_convolution(step: Step) -> Value | None:
    """ConvTranspose: weights (inputs, outputs of a group, …); one group, or each channel by itself."""
    dims, groups = step.constant(1), int(step.attribute("group", 1))
    value = _image(step, dims[0])
    depthwise = groups > 1 and groups == dims[0] and dims[1] == 1
    if groups > 1 and not depthwise:
        raise UnknownError("has groups")
    if depthwise and value is None:
        return None
    if step.input(2):
        step.constant(2)
    found = step.found
    if depthwise and value is not None:
        labels = value.labels
        found.counts.append(Count(step.place, "group", None, labels))
        found.cut(step.input(1), 0, labels)
    else:
        labels = found.new(dims[1])
        found.cut(step.input(1), 1, labels)
        if value is not None:
            found.cut(step.input(1), 0, value.labels)
    if step.input(2):
        found.cut(step.input(2), 0, labels)
    inputs, outputs = (None, 0) if depthwise else (0, 1)
    layer = step.make_layer("transposed", inputs, outputs, labels, value, step.input(2))
    return Value(1, labels, len(dims), layer)


def _image(step: Step, channels: int) -> Value | None:
    value = step.value(0, axis=1)
    if value is not None and len(value.labels) != channels:
        raise UnknownError(f"has weights for {channels} channels and gets {len(value.labels)}")
    return value


def gemm(step: Step) -> Value | None:
    """Gemm: a matrix of weights, either way round, and a bias."""
    if step.attribute("transA", 0):
        raise UnknownError("transposes them")
    dims, value = step.constant(1), step.value(0, axis=1)
    inputs, outputs = (1, 0) if step.attribute("transB", 0) else (0, 1)
    if value is not None and len(value.labels) != dims[inputs]:
        raise UnknownError(f"has weights for {dims[inputs]} channels and gets {len(value.labels)}")
    bias = step.constant(2) if step.input(2) else ()
    if len(bias) > 1 and math.prod(bias[:-1]) != 1:
        raise UnknownError("adds another bias for each sample")
    labels = step.found.new(dims[outputs])
    step.found.cut(step.input(1), outputs, labels)
    if value is not None:
        step.found.cut(step.input(1), inputs, value.labels)
    each = bool(bias) and bias[-1] == dims[outputs]
    if each:
        step.found.cut(step.input(2), len(bias) - 1, labels)
    plain = step.attribute("alpha", 1.0) == step.attribute("beta", 1.0) == 1.0
    layer = step.make_layer("dense", inputs, outputs, labels, value, step.input(2) if each and plain else "")
    return Value(1, labels, 2, layer)


def product(step: Step) -> Value | None:
    """MatMul with a matrix of weights on the right: channels lie on the last axis."""
    dims, value = step.constant(1), step.value(0)
    shape = step.shape(0)
    rank = value.rank if value is not None else len(shape) if shape is not None else 0
    if len(dims) != 2 or rank < 2:
        raise UnknownError("is no product with one matrix of weights")
    if value is not None and value.axis != rank - 1:
        return Value(value.axis, value.labels, rank)  # rows of the matrix, left as they are
    if value is not None and len(value.labels) != dims[0]:
        raise UnknownError(f"has weights for {dims[0]} channels and gets {len(value.labels)}")
    labels = step.found.new(dims[1])
    step.found.cut(step.input(1), 1, labels)
    if value is not None:
        step.found.cut(step.input(1), 0, value.labels)
    layer = step.make_layer("dense", 0, 1, labels, value)
    return Value(rank - 1, labels, rank, layer)


def normalization(step: Step) -> Value | None:
    """BatchNormalization and InstanceNormalization: each channel by itself, with numbers of its own."""
    value = step.value(0, axis=1)
    if value is None:
        return None
    if any(step.node.output[1:]):
        raise UnknownError("is set to training")
    places = range(1, len(step.node.input))
    if any(step.constant(place) != (len(value.labels),) for place in places):
        raise UnknownError("has numbers for other channels")
    for place in places:
        step.found.cut(step.input(place), 0, value.labels)
    if value.layer and step.node.op_type == "BatchNormalization":
        alone = all(step.graph.uses[step.input(place)] == 1 for place in range(len(step.node.input)))
        value.layer.norm = step.place if alone else None
    return Value(1, value.labels, value.rank)


def normalization_of_last(step: Step) -> Value | None:
    """LayerNormalization and its like: what is normalized together must stay as it is."""
    value = step.value(0)
    if value is None:
        return None
    if value.axis >= int(step.attribute("axis", -1)) % value.rank:
        raise UnknownError("normalizes over them, so that each depends on all")
    return Value(value.axis, value.labels, value.rank)


def softmax(step: Step) -> Value | None:
    """Softmax and its like; below opset 13 over all axes from the given one on."""
    value = step.value(0)
    if value is None:
        return None
    axis = int(step.attribute("axis", -1 if step.graph.opset >= 13 else 1)) % value.rank
    if value.axis == axis or (step.graph.opset < 13 and value.axis > axis):
        raise UnknownError("weighs them against each other")
    return Value(value.axis, value.labels, value.rank)
