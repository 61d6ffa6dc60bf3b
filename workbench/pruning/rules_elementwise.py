"""How channels pass through operators that compute value by value."""

from __future__ import annotations

from workbench.pruning.channels import UnknownError, Value
from workbench.pruning.steps import Step


def unary(step: Step) -> Value | None:
    """One activation, and settings that are single numbers."""
    value = step.value(0)
    if value is None:
        return None
    if len(step.followed()) > 1 or any(step.node.output[1:]):
        raise UnknownError("takes or gives more than one activation")
    return Value(value.axis, value.labels, value.rank)


def pooling(step: Step) -> Value | None:
    """Each channel by itself over the axes behind."""
    value = step.value(0, axis=1)
    if value is None:
        return None
    if any(step.node.output[1:]):
        raise UnknownError("gives places within all channels")
    return Value(1, value.labels, value.rank)


def elementwise(step: Step) -> Value | None:
    """Several operands, brought to one shape as NumPy does: their channels at the same place go together."""
    followed = step.followed()
    if not followed:
        return None
    main = max(followed, key=lambda value: len(value.labels))
    back, size, rank = main.axis - main.rank, len(main.labels), main.rank
    cuts = []
    for place, name in enumerate(step.node.input):
        value, dims = step.value(place), step.graph.dims(name)
        if value is not None:
            rank = max(rank, value.rank)
            _join(step, main, value)
        elif dims is not None:
            rank = max(rank, len(dims))
            width = dims[back] if len(dims) >= -back else 1
            if width not in (1, size):
                raise UnknownError(f"spreads them over the {width} entries of '{name}'")
            if width == size > 1:
                cuts.append((name, len(dims) + back))
        else:
            shape = step.graph.shape(name)
            if shape is None or (len(shape) >= -back and shape[back] != 1):
                raise UnknownError(f"joins them with '{name}', whose channels stay")
            rank = max(rank, len(shape))
    for name, axis in cuts:
        step.found.cut(name, axis, main.labels)
    if main.layer and main.layer.kind == "dense" and step.node.op_type == "Add" and len(followed) == 1 and cuts:
        name, axis = cuts[0]
        only = axis == len(step.graph.dims(name) or ()) - 1 and step.graph.array(name).size == size
        if only and step.graph.uses[name] == step.graph.uses[main.layer.target] == 1:
            main.layer.bias = main.layer.bias or name
    return Value(rank + back, main.labels, rank)


def _join(step: Step, main: Value, value: Value) -> None:
    if value is main:
        return
    if value.axis - value.rank != main.axis - main.rank:
        raise UnknownError("joins channels that lie on different axes")
    if len(value.labels) == len(main.labels):
        step.found.join(value.labels, main.labels)
    elif len(value.labels) == 1:
        step.found.freeze(value.labels, f"'{step.name()}' spreads it over all channels")
    else:
        raise UnknownError(f"joins {len(main.labels)} channels with {len(value.labels)}")
