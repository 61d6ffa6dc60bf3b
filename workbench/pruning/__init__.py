"""Pruning of channels directly on the ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from workbench.dataset import Dataset
from workbench.errors import DatasetError, TransformError
from workbench.jobs import Progress, part_of, silent
from workbench.pruning.channels import Dependencies
from workbench.pruning.cutting import cut, parameters
from workbench.pruning.follow import follow
from workbench.pruning.graphs import is_quantized, ready
from workbench.pruning.importance import by_activation, by_magnitude
from workbench.pruning.plan import Group, choose, find_groups, mask
from workbench.pruning.plan import Plan as Plan
from workbench.pruning.recovery import recover

if TYPE_CHECKING:
    import onnx

_MOST_REASONS = 4  # in one message


@dataclass(frozen=True)
class Pruned:
    """A pruned model and what was taken out of it.

    Attributes:
        proto: The model.
        removed: Channels before and after, by name of the layer that makes them.
        frozen: Why layers could not lose channels, or not those they were to lose, by name.
        parameters_before: Trained numbers of the original.
        parameters_after: Trained numbers of the pruned model.
    """

    proto: onnx.ModelProto
    removed: Mapping[str, tuple[int, int]]
    frozen: Mapping[str, str]
    parameters_before: int
    parameters_after: int


def prune(
    proto: onnx.ModelProto,
    plan: Plan | None = None,
    dataset: Dataset | None = None,
    *,
    repair: bool = False,
    progress: Progress = silent,
) -> Pruned:
    """Takes channels out of a model, with all that depends on them.

    Args:
        proto: The model with its weights; it stays as it is.
        plan: What to take away; 30 % of the channels of every layer if there is none.
        dataset: Samples without labels, for activations and repair.
        repair: Whether to fit the remaining weights so that each layer gives what it gave before, on the samples.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        TransformError: The model is quantized, no channel can go, or the plan names a layer that does not exist.
        DatasetError: Samples are needed, and none were given.
    """
    plan = plan or Plan()
    if dataset is None and (repair or plan.importance == "activation"):
        raise DatasetError("Pruning by activations, or with repair, needs samples.", "Give some; labels are not used.")
    progress(0.02, "following the channels")
    original, found, groups, frozen = _follow(proto)
    if plan.importance == "activation" and dataset is not None:
        scores = by_activation(original, found, dataset, part_of(progress, 0.05, 0.3))
    else:
        scores = by_magnitude(original, found)
    gone, kept = choose(groups, scores, plan, {layer.name for layer in found.layers})
    stays = mask(found, gone)
    progress(0.3, "cutting")
    pruned = ready(proto)
    cut(pruned, found, stays)
    if repair and gone and dataset is not None:
        recover(original, pruned, found, stays, dataset, part_of(progress, 0.35, 1.0))
    removed = {layer.name: (len(layer.labels), int(stays[layer.labels].sum())) for layer in found.layers}
    return Pruned(
        pruned,
        {name: counts for name, counts in removed.items() if counts[0] != counts[1]},
        {**kept, **frozen},
        parameters(original),
        parameters(pruned),
    )


def distinct_shares(proto: onnx.ModelProto, plan: Plan, shares: Iterable[float]) -> tuple[float, ...]:
    """Those of some shares, rising, that give numbers of channels which no smaller one gives; none that takes nothing.

    Where the whole net is ranked, magnitude stands in for activations.

    Raises:
        TransformError: As `prune` does.
    """
    original, found, groups, _ = _follow(proto)
    scores = by_magnitude(original, found)
    names = {layer.name for layer in found.layers}
    distinct: dict[tuple[int, ...], float] = {}
    for share in sorted(shares):
        gone, _ = choose(groups, scores, replace(plan, share=share), names)
        if gone:
            left = tuple(int((~np.isin(group.classes, list(gone))).sum()) for group in groups)
            distinct.setdefault(left, share)
    return tuple(distinct.values())


def _follow(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Dependencies, list[Group], dict[str, str]]:
    if is_quantized(proto):
        raise TransformError(
            "The model is quantized already, and pruning cuts weights in float.", "Prune first, and quantize after."
        )
    original = ready(proto)
    found = follow(original)
    groups, frozen = find_groups(found)
    if not groups:
        raise TransformError(_nothing_to_prune(frozen), "Prune it where it was trained, or use another transform.")
    return original, found, groups, frozen


def _nothing_to_prune(frozen: Mapping[str, str]) -> str:
    if not frozen:
        return "The model has no layer with weights whose channels could be pruned."
    some = "; ".join(f"{name}: {reason}" for name, reason in list(frozen.items())[:_MOST_REASONS])
    more = f"; and {len(frozen) - _MOST_REASONS} more" if len(frozen) > _MOST_REASONS else ""
    return f"No channel of the model can go. Why its layers keep theirs: {some}{more}."
