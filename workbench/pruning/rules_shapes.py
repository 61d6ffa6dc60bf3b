"""How channels pass through operators that move values: joined, split, reshaped, reduced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.graph.shapes import STANDARD
from workbench.pruning.channels import Count, Labels, UnknownError, Value, positions
from workbench.pruning.steps import Step


def concat(step: Step) -> Value | None:
    """Channels one after the other; or values along another axis, whose channels then go together."""
    followed = step.followed()
    if not followed:
        return None
    first = followed[0]
    axis = int(step.attribute("axis", 1)) % first.rank
    if any(value.axis != first.axis for value in followed):
        raise UnknownError("joins channels that lie on different axes")
    if axis != first.axis:
        if len(followed) < len(step.node.input):
            raise UnknownError("joins them with something whose channels stay")
        for value in followed[1:]:
            step.found.join(value.labels, first.labels)
        return Value(first.axis, first.labels, first.rank)
    sizes = [_size(step, place, axis) for place in range(len(step.node.input))]
    pieces = []
    for place, size in enumerate(sizes):
        piece = step.value(place)
        if piece is None:
            fixed = step.found.new(size)
            step.found.freeze(fixed, f"'{step.input(place)}' cannot lose channels")
        pieces.append(fixed if piece is None else piece.labels)
    return Value(axis, positions(pieces), first.rank)


def _size(step: Step, place: int, axis: int) -> int:
    value, shape = step.value(place), step.shape(place)
    if value is not None:
        return len(value.labels)
    size = shape[axis] if shape is not None and axis < len(shape) else None
    if not isinstance(size, int):
        raise UnknownError(f"joins them with '{step.input(place)}', which has an unknown number of channels")
    return size


def split(step: Step) -> dict[str, Value]:
    """Pieces of the channels; equal ones stay equal."""
    value = step.value(0)
    if value is None:
        return {}
    outputs = list(step.node.output)
    if int(step.attribute("axis", 0)) % value.rank != value.axis:
        return {name: Value(value.axis, value.labels, value.rank) for name in outputs}
    sizes = step.numbers(1, "split")
    if sizes is None and len(value.labels) % len(outputs):
        raise UnknownError("splits them into unequal parts")
    sections = np.cumsum(sizes)[:-1] if sizes else len(outputs)
    parts = np.split(value.labels, sections)
    if sizes is None:
        step.found.tie(value.labels, len(outputs))
    where = "split" if step.attribute("split") else 1
    for position, part in enumerate(parts):
        step.found.parts.append(part)
        if sizes:
            step.found.counts.append(Count(step.place, where, position, part))
    return {name: Value(value.axis, part, value.rank) for name, part in zip(outputs, parts, strict=True)}


def transpose(step: Step) -> Value | None:
    """Axes in another order."""
    value = step.value(0)
    if value is None:
        return None
    order = list(step.attribute("perm", range(value.rank)[::-1]))
    return Value(order.index(value.axis), value.labels, value.rank)


def unsqueeze(step: Step) -> Value | None:
    """New axes of length 1."""
    value = step.value(0)
    if value is None:
        return None
    axes = step.numbers(1, "axes") or []
    rank = value.rank + len(axes)
    new = {axis % rank for axis in axes}
    return Value([axis for axis in range(rank) if axis not in new][value.axis], value.labels, rank)


def squeeze(step: Step) -> Value | None:
    """Axes of length 1 left out."""
    value = step.value(0)
    if value is None:
        return None
    axes = step.numbers(1, "axes")
    if axes is None:
        raise UnknownError("does not say which axes it leaves out")
    return _without(value, {axis % value.rank for axis in axes}, keep=False)


def reduce(step: Step) -> Value | None:
    """Means, sums and the like over other axes."""
    value = step.value(0)
    if value is None:
        return None
    axes = step.numbers(1, "axes") or range(value.rank)
    return _without(value, {axis % value.rank for axis in axes}, keep=bool(step.attribute("keepdims", 1)))


def _without(value: Value, axes: set[int], *, keep: bool) -> Value:
    if value.axis in axes:
        raise UnknownError("computes across them")
    left = [axis for axis in range(value.rank) if keep or axis not in axes]
    return Value(left.index(value.axis), value.labels, len(left))


def gather(step: Step) -> Value | None:
    """Entries along another axis."""
    value, dims = step.value(0), step.constant(1)
    if value is None:
        return None
    axis = int(step.attribute("axis", 0)) % value.rank
    if axis == value.axis:
        raise UnknownError("picks some of them")
    return Value(value.axis + (len(dims) - 1 if axis < value.axis else 0), value.labels, value.rank + len(dims) - 1)


def slice_(step: Step) -> Value | None:
    """A part along other axes."""
    value = step.value(0)
    if value is None:
        return None
    axes, starts = step.numbers(3, "axes"), step.shape(1)
    if axes is None:
        axes = list(range(starts[0])) if starts and isinstance(starts[0], int) else list(range(value.rank))
    if value.axis in {axis % value.rank for axis in axes}:
        raise UnknownError("cuts them")
    return Value(value.axis, value.labels, value.rank)


def pad(step: Step) -> Value | None:
    """A rim around other axes."""
    value = step.value(0)
    if value is None:
        return None
    sizes = step.numbers(1, "pads") or []
    axes = [axis % value.rank for axis in (step.numbers(3) or range(value.rank))]
    rims = dict(zip(axes, zip(sizes[: len(axes)], sizes[len(axes) :], strict=True), strict=True))
    if any(rims.get(value.axis, (0, 0))):
        raise UnknownError("adds channels")
    return Value(value.axis, value.labels, value.rank)


def resize(step: Step) -> Value | None:
    """Another size of other axes."""
    value = step.value(0)
    if value is None:
        return None
    given = step.attribute("axes")
    axes = [axis % value.rank for axis in given] if given else list(range(value.rank))
    if value.axis in axes:
        place = axes.index(value.axis)
        old = step.graph.opset < 11 or step.node.op_type == "Upsample"
        scales = step.numbers(1 if old else 2, "scales")
        if scales:
            if scales[place] != 1:
                raise UnknownError("resizes them")
        elif (step.numbers(3) or {place: None})[place] == len(value.labels):
            step.found.counts.append(Count(step.place, 3, place, value.labels))
        else:
            raise UnknownError("resizes them")
    return Value(value.axis, value.labels, value.rank)


def shape_of(step: Step) -> None:
    """Shape: harmless where only sizes of other axes are picked from it."""
    value = step.value(0)
    if value is None:
        return
    start, end = int(step.attribute("start", 0)), step.attribute("end")
    whole = range(value.rank)[start : None if end is None else int(end)]
    if value.axis not in whole:
        return
    graph, [output] = step.graph, step.node.output
    for place in graph.readers[output]:
        node = graph.nodes[place]
        picked = graph.dims(node.input[1]) if node.op_type == "Gather" and node.domain in STANDARD else None
        if picked is None or whole.index(value.axis) in np.atleast_1d(graph.array(node.input[1])) % len(whole):
            raise UnknownError("reads how many there are")
    if output in graph.outputs:
        raise UnknownError("gives how many there are")


def flatten(step: Step) -> Value | None:
    """Flatten: all axes from the given one on in one."""
    value = step.value(0)
    if value is None:
        return None
    if int(step.attribute("axis", 1)) % value.rank != value.axis:
        raise UnknownError("joins them with the axes before")
    block = _static((step.shape(0) or ("?",) * value.rank)[value.axis + 1 :])
    if block is None:
        raise UnknownError("flattens images of unknown size")
    return Value(1, np.repeat(value.labels, block), 2)


def reshape(step: Step) -> Value | None:
    """Reshape where the channels stay an axis, or become one with all or some axes behind them."""
    value, shape = step.value(0), step.shape(0)
    if value is None:
        return None
    if shape is None:
        raise UnknownError("reshapes something of unknown shape")
    shape = (*shape[: value.axis], len(value.labels), *shape[value.axis + 1 :])
    target = _target(step)
    if step.attribute("allowzero", 0) and any(entry == 0 for entry, _ in target):
        raise UnknownError("makes something empty")
    made = _resolve(shape, [entry for entry, _ in target])
    place, block = _find(shape, value, made)
    entry, count = target[place]
    labels = np.repeat(value.labels, block)
    if entry == 0 and (place != value.axis or block != 1):
        raise UnknownError("takes the size of another axis")
    if entry is None:
        raise UnknownError("computes its shape while the model runs")
    if entry > 0:
        step.found.counts.append(count._replace(labels=labels))
    return Value(place, labels, len(target))


def _find(shape: Sequence[int | str], value: Value, made: Sequence[int | str]) -> tuple[int, int]:
    """The axis that holds the channels afterwards, and how many of its positions each has."""
    size, inner = len(value.labels), _static(shape[value.axis + 1 :])
    for place, entry in enumerate(made):
        tail = _static(made[place + 1 :])
        if isinstance(entry, int) and entry and entry % size == 0 and inner is not None and tail is not None:
            if size * inner == entry * tail:
                return place, entry // size
        elif entry == size and place == value.axis and tuple(made[:place]) == tuple(shape[:place]):
            return place, 1
    raise UnknownError("mixes them with other axes")


def _target(step: Step) -> list[tuple[int | None, Count]]:
    """The shape asked for, number by number; None for those that are computed. With the place of each number."""
    empty: Labels = np.empty(0, np.intp)
    if step.node.op_type == "Reshape" and step.attribute("shape") is not None:  # below opset 5
        return [(entry, Count(step.place, "shape", at, empty)) for at, entry in enumerate(step.attribute("shape"))]
    name = step.input(1)
    if step.graph.dims(name) is not None:
        return [(entry, Count(step.place, 1, at, empty)) for at, entry in enumerate(step.numbers(1) or [])]
    maker = step.graph.nodes[step.graph.made[name]] if name in step.graph.made else None
    if maker is None or maker.op_type != "Concat" or step.graph.uses[name] != 1:
        raise UnknownError("computes its shape while the model runs")
    found: list[tuple[int | None, Count]] = []
    for place, piece in enumerate(maker.input):
        if step.graph.dims(piece) is not None:
            numbers = step.graph.array(piece).reshape(-1).tolist()
            found += [(n, Count(step.graph.made[name], place, at, empty)) for at, n in enumerate(numbers)]
        else:
            length = step.graph.shape(piece)
            if length != (1,):
                raise UnknownError("computes its shape while the model runs")
            found.append((None, Count(step.graph.made[name], place, None, empty)))
    return found


def _resolve(shape: Sequence[int | str], target: Sequence[int | None]) -> list[int | str]:
    """The shape that comes out, as far as it is known; a computed first number is taken for the batch."""
    made: list[Any] = []
    for place, entry in enumerate(target):
        copied = entry == 0 or (entry is None and place == 0)
        made.append(shape[place] if copied and place < len(shape) else "?" if entry is None else entry)
    if -1 in made:
        names = [sorted(size for size in sizes if isinstance(size, str)) for sizes in (shape, made)]
        numbers = [math.prod(size for size in sizes if isinstance(size, int)) for sizes in (shape, made)]
        known = names[0] == names[1] and "?" not in names[1][1:] and numbers[1]
        made[made.index(-1)] = numbers[0] // -numbers[1] if known else "?"
    return made


def _static(shape: Sequence[int | str]) -> int | None:
    return (
        math.prod(size for size in shape if isinstance(size, int))
        if all(isinstance(size, int) for size in shape)
        else None
    )
