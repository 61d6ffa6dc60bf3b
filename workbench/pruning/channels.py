"""Which channels of a graph go or stay together: labels that are joined, frozen, and tied to places in weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.intp]
Kind: TypeAlias = Literal["dense", "depthwise", "grouped", "transposed"]


class UnknownError(Exception):
    """Channels cannot be followed through a node; the text says why, in words that follow the node's name."""


@dataclass(eq=False)
class Layer:
    """A node with weights that makes channels, or weighs each by itself.

    Attributes:
        name: The node's name, or that of its output where it has none.
        node: Its place in the graph.
        kind: `dense` mixes all channels; `depthwise` keeps each by itself; `grouped` mixes within groups.
        source: Name of the tensor that it reads.
        target: Name of the tensor that it makes.
        weight: Name of the weights.
        inputs: Axis of the weights that reads channels; None if it reads each by itself.
        outputs: Axis of the weights that makes channels.
        labels: Labels of the channels that it makes.
        taken: Labels of the channels that it reads; None if they cannot go.
        axis: Axis of `source` that holds the channels that it reads.
        bias: Name of what is added for each channel, where this layer alone uses it.
        norm: The place in the graph of the BatchNormalization that alone reads `target`.
    """

    name: str
    node: int
    kind: Kind
    source: str
    target: str
    weight: str
    inputs: int | None
    outputs: int
    labels: Labels
    taken: Labels | None
    axis: int = 1
    bias: str = ""
    norm: int | None = None


@dataclass(frozen=True, eq=False)
class Value:
    """Where an activation holds its channels.

    Attributes:
        axis: The axis, counted from the front.
        labels: One label for each position along it; the same label where positions come from one channel.
        rank: How many axes there are.
        layer: The layer whose output this is, with nothing in between.
    """

    axis: int
    labels: Labels
    rank: int
    layer: Layer | None = None


class Cut(NamedTuple):
    """An axis of a constant whose entries go with the channels."""

    tensor: str
    axis: int
    labels: Labels


class Count(NamedTuple):
    """A number that says how many channels there are: in a constant input of a node, or in an attribute.

    Attributes:
        node: Place of the node in the graph.
        where: Place of the input, or name of the attribute.
        position: Place of the number in it; None if it is the attribute itself.
        labels: What it counts.
    """

    node: int
    where: int | str
    position: int | None
    labels: Labels


@dataclass(eq=False)
class Dependencies:
    """What was found in a graph.

    Attributes:
        layers: In the graph's order.
        parts: Pieces that channels are split into; some of each must stay.
        cuts: Places in constants that go with channels.
        counts: Numbers that change with them.
    """

    layers: list[Layer] = field(default_factory=list)
    parts: list[Labels] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    _parents: list[int] = field(default_factory=list)
    _frozen: list[tuple[Labels, str]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many labels there are."""
        return len(self._parents)

    def new(self, count: int) -> Labels:
        """Labels that nothing else has."""
        start = self.size
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def join(self, first: Labels, second: Labels) -> None:
        """The channels at the same places go or stay together (union-find)."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self._parents[self._root(one)] = self._root(other)

    def tie(self, labels: Labels, groups: int) -> None:
        """The channels at the same place of each of `groups` equal groups go or stay together."""
        rows = labels.reshape(groups, -1)
        for row in rows[1:]:
            self.join(row, rows[0])

    def freeze(self, labels: Labels, reason: str) -> None:
        """These channels stay."""
        self._frozen.append((labels, reason))

    def cut(self, tensor: str, axis: int, labels: Labels) -> None:
        """The entries of a constant along an axis go with these channels."""
        self.cuts.append(Cut(tensor, axis, labels))

    def roots(self, labels: Labels) -> Labels:
        """One label that stands for all that are joined with each."""
        return np.fromiter((self._root(label) for label in labels.tolist()), np.intp, len(labels))

    def reasons(self) -> dict[int, str]:
        """Why channels stay, by root; the first reason where there are several."""
        found: dict[int, str] = {}
        for labels, reason in self._frozen:
            for root in self.roots(labels).tolist():
                found.setdefault(root, reason)
        return found

    def settle_shared(self, uses: dict[str, int]) -> None:
        """Treats constants that several nodes use: cut alike by all of them, or not at all.

        Args:
            uses: How often each constant is used.
        """
        places: dict[tuple[str, int], list[Labels]] = defaultdict(list)
        for tensor, axis, labels in self.cuts:
            places[tensor, axis].append(labels)
        for (tensor, _), alternatives in places.items():
            whole = len(alternatives) == uses[tensor]
            for labels in alternatives:
                if labels.shape == alternatives[0].shape:
                    self.join(labels, alternatives[0])
                else:
                    whole = False
            if not whole:
                for labels in alternatives:
                    self.freeze(labels, f"'{tensor}' is used elsewhere too, in another way")

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label


def positions(labels: Sequence[Labels]) -> Labels:
    """Several arrays of labels one after the other."""
    return np.concatenate(labels) if labels else np.empty(0, np.intp)
