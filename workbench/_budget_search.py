"""Finds the fewest layers to keep in float by trying choices of them, each of which is dear to try."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

Holds: TypeAlias = Callable[[tuple[str, ...]], bool]


def shortest(names: Sequence[str], holds: Holds) -> tuple[str, ...]:
    """The shortest beginning of an order that holds, by doubling and then halving; empty if none does.

    As if more layers kept never lost more; where they do, it finds one that holds but not always the shortest.

    Args:
        names: Layers, those to keep first first. With none of them kept the budget does not hold.
        holds: Whether it holds with these layers kept; what it raises goes on to the caller.
    """
    order = tuple(names)
    fails, works = 0, min(1, len(order))
    while not works or not holds(order[:works]):
        if works == len(order):
            return ()
        fails, works = works, min(2 * works, len(order))
    while works - fails > 1:
        middle = (works + fails) // 2
        if holds(order[:middle]):
            works = middle
        else:
            fails = middle
    return order[:works]


def give_back(kept: tuple[str, ...], costs: Mapping[str, float], holds: Holds) -> tuple[str, ...]:
    """What is left of the layers kept when those are given back without which the budget holds, the dearest first.

    Args:
        kept: As `shortest` found them: without the last one it does not hold.
        costs: Of each layer.
        holds: As for `shortest`.
    """
    for name in sorted(kept[:-1], key=lambda name: -costs[name]):
        without = tuple(other for other in kept if other != name)
        if holds(without):
            kept = without
    return kept
