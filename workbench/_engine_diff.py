"""How the layers of two engines differ: dealt out otherwise, in another precision, by other kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.measure.profile import ProfiledLayer


@dataclass(frozen=True)
class LayerChange:
    """Layers of two engines that compute the same in different ways.

    Attributes:
        kind: `fusion` if the nodes are dealt out to layers otherwise, `precision` if they compute or write in another
            type, `kernel` if something else of the same types runs, `added` if only one engine has the layer.
        nodes: Nodes of the first engine's model; none for layers that a backend added.
        before: The layers of the first engine; none if it has no such layer.
        after: The layers of the second.
        what: The difference in words.
    """

    kind: Literal["fusion", "precision", "kernel", "added"]
    nodes: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    what: str


@dataclass(frozen=True)
class EngineDiff:
    """How two engines differ.

    Attributes:
        changes: What differs, in the order in which the first engine runs.
        same: Layers of the first engine that the second has as well.
        layers: Number of layers of each.
        identical: Whether the files are the same to the byte; None for what is compiled when it is opened.
    """

    changes: tuple[LayerChange, ...]
    same: int
    layers: tuple[int, int]
    identical: bool | None = None


def diff_layers(
    pairs: Iterable[tuple[Sequence[ProfiledLayer], Sequence[ProfiledLayer]]], names: Sequence[Mapping[int, str]]
) -> tuple[tuple[LayerChange, ...], int]:
    """Finds what differs.

    Args:
        pairs: Layers of the first and the second engine that compute the same nodes, as `match_layers` finds them.
        names: For each engine, the names of its layers by their `id`.

    Returns:
        The changes, and how many layers of the first engine the second has as well.
    """
    changes: list[LayerChange] = []
    same = 0
    added: list[Counter[tuple[str, ...]]] = [Counter(), Counter()]
    for mine, theirs in pairs:
        if not any(entry.nodes for entry in (*mine, *theirs)):
            for side, entries in enumerate((mine, theirs)):
                added[side].update(map(_signature, entries))
        elif change := _change(mine, theirs, names):
            changes.append(change)
        else:
            same += len(mine)
    same += sum((added[0] & added[1]).values())
    for side, other in ((0, 1), (1, 0)):
        for (operator, *_), count in (added[side] - added[other]).items():
            sides = ((operator,) * count, ())
            what = f"{count} × {operator}, only in the {('first', 'second')[side]}"
            changes.append(LayerChange("added", (), sides[side], sides[other], what))
    return tuple(changes), same


def _signature(entry: ProfiledLayer) -> tuple[str, ...]:
    layer = entry.layer
    return layer.operator, layer.kind, layer.provider, layer.precision, layer.output_precision


def _change(
    mine: Sequence[ProfiledLayer], theirs: Sequence[ProfiledLayer], names: Sequence[Mapping[int, str]]
) -> LayerChange | None:
    """What differs between layers that compute the same nodes; None if nothing does."""
    nodes = tuple(dict.fromkeys(name for entry in mine for name in entry.nodes))
    before, after = (tuple(names[side][id(entry)] for entry in each) for side, each in enumerate((mine, theirs)))
    others = {name for entry in theirs for name in entry.nodes}
    if len(mine) != len(theirs) or (set(nodes) == others and _groups(mine) != _groups(theirs)):
        what = f"{_list(mine)} → {_list(theirs)}"
        return LayerChange("fusion" if mine and theirs else "added", nodes, before, after, what)
    kinds: tuple[tuple[Literal["precision", "kernel"], Callable[[ProfiledLayer], str]], ...] = (
        ("precision", _types),
        ("kernel", lambda entry: " · ".join(dict.fromkeys(filter(None, (entry.layer.operator, entry.layer.provider))))),
    )
    for kind, text in kinds:
        pair = [Counter(map(text, side)) for side in (mine, theirs)]
        if pair[0] != pair[1]:
            left, right = (", ".join((one - other).elements()) for one, other in (pair, pair[::-1]))
            return LayerChange(kind, nodes, before, after, f"{left} → {right}")
    return None


def _groups(entries: Iterable[ProfiledLayer]) -> Counter[frozenset[str]]:
    return Counter(frozenset(entry.nodes) for entry in entries)


def _types(entry: ProfiledLayer) -> str:
    layer = entry.layer
    written = layer.output_precision if layer.output_precision != layer.precision else ""
    return f"{layer.precision or 'not known'}{f', writing {written}' if written else ''}"


def _list(entries: Sequence[ProfiledLayer]) -> str:
    counts = Counter(entry.layer.operator for entry in entries)
    return " + ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items()) or "nothing"
