"""Takes whole channels out of a torch module with torch-pruning, which follows what depends on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.dataset import Dataset, check_labels
from workbench.errors import TransformError

if TYPE_CHECKING:
    import torch

_JUDGED = 256  # samples for gradients
_BATCH = 32
_CONVERSIONS = ("TBackward0", "TransposeBackward0", "PermuteBackward0")  # between a layer and its weights


def cut_channels(
    flat: torch.nn.Module,
    tensors: Sequence[torch.Tensor],
    *,
    share: float,
    align: int,
    keep: Sequence[torch.nn.Module],
    training: Dataset | None,
    order: Sequence[str],
    title: str,
) -> None:
    """Removes the least important channels of each layer (Fang et al., CVPR 2023); outputs stay whole.

    Args:
        flat: A module that takes and returns tensors; it is changed.
        tensors: Example inputs.
        share: Channels to remove, 0 to 1.
        align: Numbers of channels stay multiples of this.
        keep: Modules that keep the channels that they make.
        training: Samples with labels to judge by gradients (Molchanov et al., CVPR 2019); None judges by weights.
        order: Names of the module's inputs in the samples.
        title: The module, for messages.

    Raises:
        TransformError: Nothing could be removed, or the module does not run without it.
        DatasetError: There are no class numbers to judge by.
    """
    import torch_pruning

    flat.eval().requires_grad_(True)
    before = _count(flat)
    taylor = training is not None
    importance = (
        torch_pruning.importance.GroupTaylorImportance()
        if taylor
        else torch_pruning.importance.GroupMagnitudeImportance()
    )
    ignored = list({id(layer): layer for layer in (*_output_layers(flat, tensors), *keep)}.values())
    try:
        pruner = torch_pruning.pruner.BasePruner(
            flat,
            list(tensors),
            importance,
            pruning_ratio=share,
            ignored_layers=ignored,
            round_to=align,
            forward_fn=lambda module, inputs: module(*inputs),
        )
        if training is not None:
            _gather_gradients(flat, training, order)
        pruner.step()
        flat.zero_grad(set_to_none=True)
        flat(*tensors)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        if isinstance(error, TransformError):
            raise
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise TransformError(
            f"{title} cannot be pruned: {reason}.",
            "Sizes written into forward (view, reshape) must follow the channels; or name the layers before them in "
            "`keep`.",
        ) from error
    if _count(flat) == before:
        raise TransformError(
            f"No channel of {title} can go: with {100 * share:g} % and multiples of {align}, every layer stays as "
            "it is.",
            "Take a larger share, a smaller `align`, or keep fewer layers.",
        )


def _count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _gather_gradients(flat: torch.nn.Module, training: Dataset, order: Sequence[str]) -> None:
    """Adds up the gradients of the labels' cross-entropy over some samples."""
    import torch
    from torch.nn import functional

    part = training.take(_JUDGED)
    classes = flat(*(torch.from_numpy(np.array(part.inputs[name][:1])) for name in order))[0].shape[1]
    labels = torch.from_numpy(check_labels(part, classes).astype(np.int64))
    flat.zero_grad()
    for start, feed in zip(range(0, len(part), _BATCH), part.batches(_BATCH), strict=True):
        scores = flat(*(torch.from_numpy(feed[name]) for name in order))[0]
        functional.cross_entropy(scores, labels[start : start + _BATCH], reduction="sum").backward()


def _output_layers(flat: torch.nn.Module, tensors: Sequence[torch.Tensor]) -> Iterator[torch.nn.Module]:
    """The last layers with weights before each output: their channels are the output's own."""
    import torch

    owners = {id(w): part for part in flat.modules() for w in part.parameters(recurse=False) if w.ndim > 1}
    with torch.enable_grad():
        waiting = [output.grad_fn for output in flat(*tensors) if output.grad_fn is not None]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        nexts = [entry for entry, _ in node.next_functions if entry is not None]
        owned = [owners[id(weight)] for weight in map(_leaf, nexts) if id(weight) in owners]
        yield from owned
        waiting += [] if owned else nexts


def _leaf(node: Any) -> Any:
    """The weight that a node of the autograd graph stands for; None if it stands for none."""
    while type(node).__name__ in _CONVERSIONS and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    return getattr(node, "variable", None)
