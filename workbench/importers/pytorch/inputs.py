"""What a PyTorch module is called with: samples, or values for `image float32[batch, 3, 224, 224]`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.errors import DatasetError, ModelError, OptionsError

if TYPE_CHECKING:
    import torch

EXAMPLE = "image float32[batch, 3, 224, 224]"
_INPUT = re.compile(r"\s*([A-Za-z_][\w.]*)\s+(\w+)\s*\[(.*)\]\s*")
_AXIS = re.compile(r"\s*(?:(\d+)|([A-Za-z_]\w*)(?:\s*=\s*(\d+))?)\s*")
_DTYPES = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
_PIXELS, _STEPS = 64, 8  # sizes of other free axes that nobody gave: large enough for a few poolings; short texts
_ROWS = 2  # samples of a dataset, or invented ones, to trace with


@dataclass(frozen=True)
class InputText:
    """One input as a user describes it.

    Attributes:
        name: Its name.
        dtype: NumPy's name of its element type.
        axes: Per axis its name (empty if its size is fixed) and its size (0 if nobody said).
    """

    name: str
    dtype: str
    axes: tuple[tuple[str, int], ...]


@dataclass
class Call:
    """How a module is called, and which of the arguments are the inputs of the ONNX model.

    Attributes:
        names: Names of the tensors among the arguments.
        tensors: Their example values.
        free: Per tensor the axes whose size is free, with their names.
        samples: The user's samples under these names; None if there are none or they share no batch axis.
        any_count: Whether the number of example samples is of the workbench's choosing.
    """

    names: list[str]
    tensors: list[torch.Tensor]
    free: list[dict[int, str]]
    samples: Dataset | None = None
    any_count: bool = False
    _signature: Any = None
    _leaves: list[Any] = field(default_factory=list)
    _structure: Any = None
    _places: list[int] = field(default_factory=list)

    def arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with these tensors in the place of the examples."""
        from torch.utils import _pytree

        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        bound = inspect.BoundArguments(self._signature, _pytree.tree_unflatten(leaves, self._structure))
        return bound.args, bound.kwargs

    def with_more_samples(self) -> list[torch.Tensor]:
        """The examples with one sample more, where the batch is free."""
        import torch

        return [
            torch.cat([tensor, tensor[-1:]]) if 0 in free else tensor
            for tensor, free in zip(self.tensors, self.free, strict=True)
        ]


def parse_input(text: str) -> InputText:
    """Reads `image float32[batch, 3, 224, 224]`; `height=64` gives a free axis an example size.

    Raises:
        OptionsError: It is not written like that.
    """
    whole = _INPUT.fullmatch(text)
    if whole and whole[2] in _DTYPES:
        parts = [_AXIS.fullmatch(part) for part in whole[3].split(",")] if whole[3].strip() else []
        if None not in parts:
            axes = tuple((part[2] or "", int(part[1] or part[3] or 0)) for part in parts if part)
            if all(name or size for name, size in axes):
                return InputText(whole[1], whole[2], axes)
    raise OptionsError(
        f"'{text}' does not describe an input.",
        f"Write name, type and axes like '{EXAMPLE}', a name for each axis whose size is free "
        f"(height=64 to give it an example size); types: {', '.join(_DTYPES)}.",
    )


def make_call(
    forward: Callable[..., Any] | Sequence[str],
    texts: Sequence[str],
    samples: Any,
    dynamic_batch: bool,
    title: str,
    rows: int = 0,
) -> Call:
    """Works out how to call a module.

    Args:
        forward: The function that is called, or the names of its parameters where it has no signature.
        texts: The user's descriptions of the inputs, in the notation of `parse_input`.
        samples: A Dataset or mapping by name, a tuple of arguments, or None.
        dynamic_batch: Whether to free the first axis of all inputs that share its size.
        title: What is called, for messages.
        rows: How many samples of a dataset, or invented ones, to call it with; 0 if any number will do.

    Raises:
        ModelError: Neither samples nor descriptions say what it takes.
        OptionsError: A description cannot be read or does not fit the parameters.
        DatasetError: The samples do not fit the parameters or the descriptions.
    """
    signature = forward if isinstance(forward, inspect.Signature) else _signature(forward)
    described = [parse_input(text) for text in texts]
    if samples is None and not described:
        takes = [name for name, p in signature.parameters.items() if p.default is p.empty] or ["image"]
        example = ", ".join(f'"{EXAMPLE.replace("image", name)}"' for name in takes)
        raise ModelError(
            f"{title} does not say what it takes.",
            f"Give samples, or describe the inputs of forward({', '.join(takes)}) by type and size, such as "
            f'options={{"inputs": [{example}]}}.',
        )
    rows = rows or (_ROWS if dynamic_batch else 1)
    values: dict[str, Any] = {}
    if samples is None:
        values = {text.name: _invent(text, rows) for text in described}
        bound = _bind(signature, values, title, OptionsError)
    elif isinstance(samples, Dataset | Mapping):
        given = samples.take(rows).inputs if isinstance(samples, Dataset) else samples
        values = {text.name: given[text.name] for text in described if text.name in given} | dict(given)
        bound = _bind(signature, values, title, DatasetError)
    else:
        bound = _bind_in_order(signature, samples if isinstance(samples, tuple) else (samples,), title)
    call = _flatten(bound, values, title)
    for text in described:
        _check_described(call, text)
    _set_free(call, {text.name: text for text in described}, dynamic_batch)
    call.any_count = samples is None or isinstance(samples, Dataset)
    call.samples = _as_samples(call, samples)
    return call


def _signature(forward: Callable[..., Any] | Sequence[str]) -> inspect.Signature:
    if callable(forward):
        return inspect.signature(forward)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in forward])


def _invent(text: InputText, rows: int) -> NDArray[Any]:
    generator = np.random.default_rng(len(text.axes))
    guess = _PIXELS if len(text.axes) > 3 else _STEPS
    shape = [size or (guess if axis else rows) for axis, (_, size) in enumerate(text.axes)]
    if np.issubdtype(np.dtype(text.dtype), np.floating):
        return np.asarray(generator.standard_normal(shape), text.dtype)
    return np.asarray(generator.integers(0, 2, shape), text.dtype)


def _bind(
    signature: inspect.Signature, values: Mapping[str, Any], title: str, error: type[OptionsError | DatasetError]
) -> inspect.BoundArguments:
    """By name; by order if no name is one of the parameters', so that inputs can be given better names."""
    try:
        if not set(values) & set(signature.parameters):
            return signature.bind(*values.values())
        return signature.bind(**values)
    except TypeError as reason:
        raise error(
            f"{title} takes ({', '.join(signature.parameters)}) where ({', '.join(values)}) is given: {reason}.",
            "Name the inputs like the parameters of forward, or give one for each in their order.",
        ) from None


def _bind_in_order(signature: inspect.Signature, values: tuple[Any, ...], title: str) -> inspect.BoundArguments:
    try:
        return signature.bind(*values)
    except TypeError as reason:
        raise DatasetError(
            f"{title} takes ({', '.join(signature.parameters)}), but {len(values)} are given: {reason}.",
            "Give the arguments as a tuple in the order of forward's parameters.",
        ) from None


def _flatten(bound: inspect.BoundArguments, named: Mapping[str, Any], title: str) -> Call:
    import torch
    from torch.utils import _pytree

    paths, structure = _pytree.tree_flatten_with_path(dict(bound.arguments))
    leaves = [_tensor(leaf) for _, leaf in paths]
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    if not places:
        raise DatasetError(f"There is no tensor among the inputs of {title}.", "Give tensors or arrays.")
    by_order = set(named) - set(bound.signature.parameters)
    labels = list(named) if by_order else [label(path) for path, _ in paths]
    names, tensors = [labels[place] for place in places], [leaves[place] for place in places]
    return Call(names, tensors, [], None, False, bound.signature, leaves, structure, places)


def label(path: Sequence[Any]) -> str:
    """The place of a leaf in nested arguments or results as a name, e.g. `hidden_0`."""
    parts = [str(next(getattr(key, kind) for kind in ("key", "idx", "name") if hasattr(key, kind))) for key in path]
    return re.sub(r"[^\w.]", "_", "_".join(parts))


def _tensor(value: Any) -> Any:
    """Arrays and tensors as tensors in main memory, which nothing else holds; anything else as it is."""
    import torch

    if isinstance(value, np.ndarray | np.generic):
        value = torch.from_numpy(np.array(value))
    if not isinstance(value, torch.Tensor):
        return value
    half = value.dtype in (torch.float16, torch.bfloat16)  # modules become float32, see open_source
    return value.detach().to("cpu", torch.float32 if half else value.dtype, copy=True)


def _check_described(call: Call, text: InputText) -> None:
    if text.name not in call.names:
        raise OptionsError(
            f"`inputs` describes '{text.name}', but the inputs are {', '.join(call.names)}.", "Use their names."
        )
    tensor = call.tensors[call.names.index(text.name)]
    dtype = str(tensor.dtype).removeprefix("torch.")
    fits = len(text.axes) == tensor.ndim and all(
        name or not axis or size == tensor.shape[axis] for axis, (name, size) in enumerate(text.axes)
    )
    if dtype != text.dtype or not fits:
        raise DatasetError(
            f"'{text.name}' is {dtype}{list(tensor.shape)} in the samples and {text.dtype}"
            f"[{', '.join(name or str(size) for name, size in text.axes)}] in `inputs`.",
            "Change one of them; the samples say what the model really takes.",
        )


def _set_free(call: Call, described: Mapping[str, InputText], dynamic_batch: bool) -> None:
    """Free are the axes that the user names, and the first one of all inputs that are as long there as the first."""
    batch = next((tensor.shape[0] for tensor in call.tensors if tensor.ndim), None)
    for name, tensor in zip(call.names, call.tensors, strict=True):
        axes = described[name].axes if name in described else ()
        free = {axis: title for axis, (title, _) in enumerate(axes) if title and (axis or dynamic_batch)}
        if dynamic_batch and tensor.ndim and tensor.shape[0] == batch:
            free.setdefault(0, "batch")
        call.free.append(free)


def _as_samples(call: Call, samples: Any) -> Dataset | None:
    if isinstance(samples, Dataset):
        arrays = {name: samples.inputs[name] for name in call.names}
        arrays = {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in arrays.items()}
        return Dataset(arrays, name=samples.name)
    lengths = {tensor.shape[0] if tensor.ndim else 0 for tensor in call.tensors}
    if samples is None or len(lengths) > 1 or 0 in lengths:
        return None
    return Dataset(as_feed(call, call.tensors), name="the given inputs")


def as_feed(call: Call, tensors: Sequence[torch.Tensor]) -> Tensors:
    """Tensors as the ONNX model takes them."""
    return {name: tensor.numpy() for name, tensor in zip(call.names, tensors, strict=True)}
