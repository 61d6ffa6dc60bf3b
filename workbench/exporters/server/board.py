"""The counters of all workers in one place: any worker tells their sum, and none is lost with a worker that dies."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TypeAlias

Cells: TypeAlias = "list[float] | memoryview[float]"

GAUGES = "gauges"  # the last word of the key of cells that stand for now, which a worker's death clears
PID, DEAD_CPU, RESTARTS, LOAD = range(4)  # the first cells of a row; load: connections and one, 0 before it listens
_OWN = 8  # cells that each row has for these
_CELLS = 1 << 17  # of each row: for the counters of a thousand versions, which cost nothing until they are used
_DIRECTORY = 1 << 20  # bytes of each row that say what its cells are for


class BoardFull(Exception):
    """There is no room for the counters of yet another version."""


class Board:
    """A row of counters for each worker, in memory that processes share which are forked from here.

    Each worker writes its own row, and reads all. What its cells are for stands in the row itself, so that workers may
    load models in any order, and one that takes the place of a dead worker goes on where that one stopped. A service
    of one worker counts in plain lists, which is faster.

    Args:
        workers: How many rows.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.row = 0  # that of this process
        self._lists: dict[str, list[float]] = {}
        self._known: list[tuple[int, dict[str, tuple[int, int]]]] = [(0, {})] * workers
        if workers > 1:
            size = 8 * _CELLS + 8 + _DIRECTORY
            shared = memoryview(mmap.mmap(-1, workers * size))
            rows = [shared[row * size : (row + 1) * size] for row in range(workers)]
            self._cells = [row[: 8 * _CELLS].cast("d") for row in rows]
            self._lengths = [row[8 * _CELLS : 8 * _CELLS + 8].cast("Q") for row in rows]  # written last, at once
            self._directories = [row[8 * _CELLS + 8 :] for row in rows]

    def take(self, key: str, size: int) -> Cells:
        """Cells of this process' own row; with what is in them if the row has had some of that key before.

        Args:
            key: What they are for, without a line break.
            size: How many; always the same for one key.

        Raises:
            BoardFull: There is no room for them.
        """
        if self.workers == 1:
            return self._lists.setdefault(key, [0.0] * size)
        known = self._index(self.row)
        if key not in known:
            first = max((start + taken for start, taken in known.values()), default=_OWN)
            line, length = f"{first} {size} {key}\n".encode(), self._lengths[self.row][0]
            if first + size > _CELLS or length + len(line) > _DIRECTORY:
                raise BoardFull
            self._directories[self.row][length : length + len(line)] = line
            self._lengths[self.row][0] = length + len(line)
        return self._part(self.row, key) or []

    def all(self, key: str) -> list[Cells]:
        """The cells of that key in every row that has some."""
        if self.workers == 1:
            return [self._lists[key]] if key in self._lists else []
        return [part for row in range(self.workers) if (part := self._part(row, key)) is not None]

    def own(self, row: int) -> Cells:
        """The first cells of a row, which are about the worker itself."""
        if self.workers == 1:
            return self._lists.setdefault("", [0.0] * _OWN)
        return self._cells[row][:_OWN]

    def died(self, row: int, cpu_seconds: float) -> None:
        """Takes note of a worker's death: what it counted stays, what was under way is no more."""
        own = self.own(row)
        own[PID] = own[LOAD] = 0
        own[DEAD_CPU] += cpu_seconds
        for key in self._index(row):
            part = self._part(row, key)
            if key.endswith(GAUGES) and part is not None:
                part[:] = memoryview(bytes(8 * len(part))).cast("d")

    def _part(self, row: int, key: str) -> memoryview[float] | None:
        place = self._index(row).get(key)
        return self._cells[row][place[0] : sum(place)] if place else None

    def _index(self, row: int) -> dict[str, tuple[int, int]]:
        length = self._lengths[row][0]
        if self._known[row][0] != length:
            self._known[row] = (length, dict(_read(bytes(self._directories[row][:length]))))
        return self._known[row][1]


def _read(directory: bytes) -> Iterator[tuple[str, tuple[int, int]]]:
    for line in directory.decode().splitlines():
        first, size, key = line.split(" ", 2)
        yield key, (int(first), int(size))
