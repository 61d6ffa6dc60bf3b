"""What a serving package asks of the library that runs a model, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .protocol import Array
else:
    from protocol import Array


class Node(NamedTuple):
    """An input or output as the model file has it: a dynamic axis has its name, or None."""

    name: str
    datatype: str
    shape: list[int | str | None]


class BadValues(Exception):
    """The model does not take these values, such as an index outside a table: the caller's fault."""


class Session(Protocol):
    """A live model that one thread at a time calls."""

    inputs: list[Node]
    outputs: list[Node]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Runs the model once.

        Raises:
            BadValues: If the model does not take the values.
        """

    def close(self) -> None:
        """Gives back what would stay when nobody refers to it any more."""
