"""Which settings a sweep tries: the ways of dividing cores, and the ladder that stops when doubling stops paying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

PAYS = 0.03  # a step goes on only where the one before gained that much


class Setting(NamedTuple):
    """Samples per query, threads of each instance (None where the backend has no such option), live runners."""

    batch: int
    threads: int | None
    instances: int


class Placement(NamedTuple):
    """A way of dividing the cores."""

    threads: int | None
    instances: int


def doublings(most: int) -> tuple[int, ...]:
    """1, 2, 4 … and `most` itself."""
    return tuple(sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)}))


def divide_cores(threads: Sequence[int | None], instances: Sequence[int], cores: int) -> list[Placement]:
    """For each number of threads, the most instances that have cores of their own; the fewest instances first."""
    found = []
    for count in sorted(threads, key=lambda each: each or 0, reverse=True):
        fitting = [each for each in instances if each * (count or 1) <= cores]
        found.append(Placement(count, max(fitting, default=min(instances))))
    return found


def climb(batches: Sequence[int], placements: Sequence[Placement], gain: Callable[[Setting, Setting], float]) -> None:
    """Measures settings until no step from the best pays any more.

    Every way of dividing the cores at the smallest batch, while the next is no worse than the best so far; from the
    best of them larger batches while each gains; then the neighbours in dividing at that batch, and on from a better
    one.

    Args:
        batches: Rising.
        placements: Ordered so that neighbours are alike.
        gain: Measures two settings, or recalls them; throughput of the second as a multiple of the first's.
    """
    at, place = 0, 0

    def setting(batch: int, placement: int) -> Setting:
        return Setting(batches[batch], *placements[placement])

    for beside in range(len(placements)):
        gained = gain(setting(0, place), setting(0, beside))
        if gained > 1:
            place = beside
        elif gained < 1 / (1 + PAYS):
            break
    improved = True
    while improved:
        improved, gained = False, 1 + 2 * PAYS
        while gained > 1 + PAYS and at + 1 < len(batches):
            gained = gain(setting(at, place), setting(at + 1, place))
            at += gained > 1
        for beside in (place - 1, place + 1):
            inside = 0 <= beside < len(placements)
            if inside and gain(setting(at, place), setting(at, beside)) > 1 + PAYS:
                place, improved = beside, True
                break
