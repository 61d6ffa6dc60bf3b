"""Decides how many channels of each group go, and which."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workbench.errors import TransformError
from workbench.pruning.channels import Dependencies, Labels

_MULTIPLES = {"nearest": "nearest", "down": "lowest"}
_ROUNDING = 1e-9  # 70 % of 160 may come out as 111.99999999999999
_LEAST = 0.1  # share of a group that stays when channels are ranked over the whole net


@dataclass(frozen=True)
class Plan:
    """What to take away.

    Attributes:
        share: Channels to take away, %.
        align: Numbers of channels become multiples of this.
        rounding: To the nearest multiple, or down, so that every layer loses the share at the least.
        importance: What tells which channels matter: their weights, or their activations on samples.
        ranking: Whether every layer loses the same share, or the least important channels of the whole net go.
        layers: Layers with a share of their own, `name=percent`.
        keep: Layers that keep all the channels that they make.
    """

    share: float = 30.0
    align: int = 16
    rounding: Literal["nearest", "down"] = "nearest"
    importance: Literal["magnitude", "activation"] = "magnitude"
    ranking: Literal["layer", "global"] = "layer"
    layers: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


@dataclass(eq=False)
class Group:
    """Channels that the same layers make, so that they can stand in for each other.

    Attributes:
        layers: Names of the layers that make them.
        classes: Roots of the labels, in order; each goes or stays as one.
        width: Channels of a layer that each stands for.
    """

    layers: tuple[str, ...]
    classes: NDArray[np.intp]
    width: int


def find_groups(found: Dependencies) -> tuple[list[Group], dict[str, str]]:
    """The groups that can lose channels, and by name why the other layers cannot."""
    reasons, frozen = found.reasons(), dict[str, str]()
    arrays = [(layer.name, found.roots(layer.labels)) for layer in found.layers]
    arrays += [("", found.roots(part)) for part in found.parts]
    members: defaultdict[int, dict[int, int]] = defaultdict(dict)  # root → array → how often
    for place, (name, roots) in enumerate(arrays):
        for root, count in zip(*(each.tolist() for each in np.unique(roots, return_counts=True)), strict=True):
            if root in reasons:
                frozen.setdefault(name, reasons[root])
            else:
                members[root][place] = count
    groups: defaultdict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for root, places in members.items():
        groups[tuple(places.items())].append(root)
    frozen.pop("", None)
    return [
        Group(
            tuple(dict.fromkeys(arrays[place][0] for place, _ in key if arrays[place][0])),
            np.array(sorted(classes), np.intp),
            max(count for _, count in key),
        )
        for key, classes in groups.items()
    ], frozen


def choose(
    groups: Sequence[Group], scores: Mapping[int, float], plan: Plan, names: set[str]
) -> tuple[set[int], dict[str, str]]:
    """Chooses the channels that go.

    Args:
        groups: Those that can lose channels.
        scores: Importance by root.
        plan: What to take away.
        names: Of all layers.

    Returns:
        Roots of the labels that go, and why layers stay as they are by name.

    Raises:
        TransformError: The plan names a layer that does not exist, or a share that cannot be read.
    """
    own = dict(map(_read_share, plan.layers))
    if unknown := sorted((set(own) | set(plan.keep)) - names):
        raise TransformError(
            f"The model has no layer named {', '.join(map(repr, unknown))} whose channels could be pruned.",
            f"Its layers with weights are {', '.join(sorted(names)[:8])}{' …' if len(names) > 8 else ''}.",
        )
    kept = _kept_by_share(groups, plan, own)
    if plan.ranking == "global":
        free = [place for place, group in enumerate(groups) if not _named(group, plan, own)]
        kept.update(_kept_by_rank([groups[place] for place in free], free, scores, plan.share))
    gone: set[int] = set()
    reasons: dict[str, str] = {}
    for place, group in enumerate(groups):
        before = len(group.classes)
        after = before if kept[place] >= before else _align(kept[place], before, group.width, plan)
        order = sorted(group.classes.tolist(), key=lambda root: scores.get(root, 0.0))
        gone.update(order[: before - after])
        if after == before and kept[place] < before:
            text = f"the {_MULTIPLES[plan.rounding]} multiple of {plan.align} channels is what it has"
            reasons.update(dict.fromkeys(group.layers, text))
        elif any(name in plan.keep for name in group.layers):
            reasons.update(dict.fromkeys(group.layers, "the plan keeps it, or a layer that it depends on"))
    return gone, reasons


def _read_share(entry: str) -> tuple[str, float]:
    name, _, number = entry.rpartition("=")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not name or not 0 <= share < 100:
        raise TransformError(
            f"'{entry}' gives no layer a share of its own.", "Write the node's name and a share below 100 %: conv1=50."
        )
    return name, share


def _named(group: Group, plan: Plan, own: Mapping[str, float]) -> bool:
    return any(name in own or name in plan.keep for name in group.layers)


def _kept_by_share(groups: Sequence[Group], plan: Plan, own: Mapping[str, float]) -> dict[int, float]:
    kept = {}
    for place, group in enumerate(groups):
        share = max((own[name] for name in group.layers if name in own), default=plan.share)
        if any(name in plan.keep for name in group.layers):
            share = 0.0
        kept[place] = len(group.classes) * (1 - share / 100)
    return kept


def _kept_by_rank(
    groups: Sequence[Group], places: Sequence[int], scores: Mapping[int, float], share: float
) -> dict[int, float]:
    """Takes the least important channels of the whole net until their share is reached."""
    kept = {place: len(group.classes) for place, group in zip(places, groups, strict=True)}
    least = {place: math.ceil(count * _LEAST) for place, count in kept.items()}
    ranked = sorted(
        (scores.get(root, 0.0), place, group.width)
        for place, group in zip(places, groups, strict=True)
        for root in group.classes.tolist()
    )
    left = share / 100 * sum(width for _, _, width in ranked)
    for _, place, width in ranked:
        if left < width / 2:
            break
        if kept[place] > least[place]:
            kept[place] -= 1
            left -= width
    return {place: float(count) for place, count in kept.items()}


def _align(kept: float, before: int, width: int, plan: Plan) -> int:
    """The nearest or next lower number of classes whose channels fill whole vectors: at least one vector."""
    unit = plan.align // math.gcd(plan.align, width)
    half = 0.5 if plan.rounding == "nearest" else _ROUNDING
    return min(before, max(unit, math.floor(kept / unit + half) * unit))


def mask(found: Dependencies, gone: set[int]) -> NDArray[np.bool_]:
    """Whether each label stays."""
    roots: Labels = found.roots(np.arange(found.size))
    return ~np.isin(roots, np.fromiter(gone, np.intp, len(gone)))
