"""What the operating system knows of a serving package's processes, by the names that Prometheus' own clients use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .board import DEAD_CPU, PID, Board
else:
    from board import DEAD_CPU, PID, Board

Figure = tuple[str, str, str, float]  # name, kind, words, value


def process_figures(board: Board) -> Iterator[Figure]:
    """The sums over this process, or over all workers and what starts them; nothing where there is no /proc.

    Memory that processes share counts for each of them. The time that dead workers took is not lost.
    """
    pids = {os.getpid()}
    dead = 0.0
    if board.workers > 1:
        rows = [board.own(row) for row in range(board.workers)]
        pids |= {os.getppid(), *(int(row[PID]) for row in rows if row[PID])}
        dead = sum(row[DEAD_CPU] for row in rows)
    try:
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        found = [figures for pid in pids if (figures := _read(pid))]
    except (OSError, StopIteration):
        return
    if not found:
        return
    cpu, start, virtual, resident, files = zip(*found, strict=True)
    yield "cpu_seconds_total", "counter", "User and system CPU time.", sum(cpu) + dead
    yield "start_time_seconds", "gauge", "Start since the epoch.", int(booted.split()[1]) + min(start)
    yield "virtual_memory_bytes", "gauge", "Virtual memory.", sum(virtual)
    yield "resident_memory_bytes", "gauge", "Resident memory.", sum(resident)
    yield "open_fds", "gauge", "Open file descriptors.", sum(files)


def _read(pid: int) -> tuple[float, float, int, int, int] | None:
    """Of one process: CPU time and start, s; virtual and resident memory, bytes; open files. None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    cpu, start = (int(fields[11]) + int(fields[12])) / ticks, int(fields[19]) / ticks
    return cpu, start, int(fields[20]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), files
