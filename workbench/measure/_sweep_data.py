"""What a sweep is asked and what it finds: options, points, and the best of them under a latency limit."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec

from workbench.measure.environment import Environment
from workbench.measure.load import Hang, LoadStats, Memory
from workbench.options import option

Counts: TypeAlias = tuple[Annotated[int, msgspec.Meta(ge=1, le=4096)], ...]


@dataclass(frozen=True)
class SweepOptions:
    """Which settings are tried, and how long each."""

    search: Annotated[
        Literal["ladder", "grid"],
        option("ladder: doubles while doubling pays, in a fraction of the time. grid: everything."),
    ] = "ladder"
    batches: Annotated[Counts, option("Samples per query, e.g. 1, 2, 4.", example="1, 2, 4, 8")] = (1, 2, 4, 8, 16, 32)
    threads: Annotated[
        Counts, option("Threads of each instance; 1, 2, 4 … up to the cores if not given.", example="1, 2")
    ] = ()
    instances: Annotated[
        Counts, option("Live runners at once; 1, 2, 4 … up to the cores if not given.", example="1, 2")
    ] = ()
    seconds: Annotated[
        float, option("How long each point is measured after its warm-up.", minimum=0.1, maximum=600, unit="s")
    ] = 1.0
    rounds: Annotated[
        int,
        option(
            "How often the points near the best are measured again, in turns.", minimum=0, maximum=50, advanced=True
        ),
    ] = 3
    hang_s: Hang = 60.0
    memory_gb: Memory = 0.0


@dataclass(frozen=True)
class SweepPoint:
    """One setting, and what it gave in a closed loop with one query under way for each instance.

    Attributes:
        batch: Samples per query.
        threads: Threads of each instance; None where the backend has no such option.
        instances: Live runners.
        state: Whether it was measured, left out, or failed.
        reason: Why it was left out or failed; empty if it was measured.
        stats: What was measured first; its latency is the time of one inference.
        rates: Samples per second each time it was measured: first, and in the rounds against the others near the best.
        seconds: How long the first measurement took, opening and warm-up included.
        confirmed: Whether it was measured again, in turns with the others near the best.
    """

    batch: int
    threads: int | None
    instances: int
    state: Literal["measured", "skipped", "failed"]
    reason: str = ""
    stats: LoadStats | None = None
    rates: tuple[float, ...] = ()
    seconds: float = 0.0
    confirmed: bool = False

    @property
    def samples_per_second(self) -> float:
        """Throughput; of the later rounds where there are any, since chance helped the first to be near the best."""
        return statistics.median(self.rates[1:] or self.rates) if self.rates else 0.0

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {_number(self.threads, 'thread')}"
        return f"batch {self.batch}{threads}, {_number(self.instances, 'instance')}"


@dataclass(frozen=True)
class Sweep:
    """What was tried, and what came of it.

    Attributes:
        model: Name of the model.
        backend: What ran it.
        search: How the points were chosen.
        points: Every point of the grid, the skipped ones included.
        seconds: How long it took.
        environment: The machine.
    """

    model: str
    backend: str
    search: str
    points: tuple[SweepPoint, ...]
    seconds: float
    environment: Environment

    @property
    def best(self) -> SweepPoint | None:
        """The highest throughput; None where nothing could be measured."""
        return sweet_spot(self)


@dataclass(frozen=True)
class SpotOptions:
    """What the sweet spot has to keep."""

    max_latency_ms: (
        Annotated[
            float,
            option(
                "Longest time for 99 of 100 inferences; the throughput alone decides without it.", minimum=0, unit="ms"
            ),
        ]
        | None
    ) = None


def sweet_spot(sweep: Sweep, max_latency_ms: float | None = None) -> SweepPoint | None:
    """The highest throughput whose 99th percentile of latency keeps a limit; None where no point does.

    Where a point has too few inferences for that percentile, its slowest has to keep the limit. Points that were
    measured again, all of them near the best, go before others.

    Args:
        sweep: What was measured.
        max_latency_ms: The limit, ms; None for no limit.
    """
    fit = [
        point
        for point in sweep.points
        if point.stats is not None and (max_latency_ms is None or point.stats.tail_ms <= max_latency_ms)
    ]
    return max(fit, key=lambda point: (point.confirmed, point.samples_per_second), default=None)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
