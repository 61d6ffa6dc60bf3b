"""What was measured of one engine, summed up: percentiles with intervals, blocks to pair, the trust badge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from workbench.engine import Engine, Tensors
from workbench.errors import WorkbenchError
from workbench.jobs import Progress
from workbench.measure._checks import latency_checks
from workbench.measure._limited import Opened
from workbench.measure._stopwatch import Stopwatch
from workbench.measure.machine import Conditions
from workbench.measure.statistics import Estimate, paired_ratio, percentiles
from workbench.measure.trust import Trust

_SHARES = (0.10, 0.50, 0.90, 0.95, 0.99)
_QUANTILES = np.linspace(0, 1, 201)
_FEWEST_BLOCKS = 3
_BLOCKS = 5  # where there are fewer launches than that


@dataclass(frozen=True)
class Block:
    """Timings of one launch, or of a part of it, summed up; block *n* of all candidates ran next to each other.

    Attributes:
        p10_ms: Fastest tenth.
        p50_ms: Median.
        mean_ms: Mean.
        cpu_ms: Processor time of one inference, all threads.
    """

    p10_ms: float
    p50_ms: float
    mean_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class LatencyStats:
    """Host time of one inference, ms, and what it was measured under.

    Attributes:
        batch: Samples per inference.
        p10: Tenth percentile: what the machine does when nothing disturbs it.
        p50: Median; p90, p95, p99 likewise. None where there were too few samples for the percentile.
        mean_ms: Mean.
        cpu_ms: Processor time of one inference, all threads.
        load_ms: Opening the engine.
        first_ms: First inference.
        peak_memory_mb: Most memory that the process held, MB (10⁶ bytes).
        iterations: Timed inferences.
        warmup: Untimed inferences before them.
        threads: Threads inside one operator, where the backend has such an option.
        launches: Fresh processes that it was measured in.
        blocks: What ratios are made of.
        quantiles_ms: 201 evenly spaced quantiles of all timings, the fastest first.
        placement: Nodes that each provider really ran.
        device_ms: Median time of one inference on a device apart, by its own events; None where there is none.
        conditions: The machine meanwhile.
        trust: What was checked, and what speaks against the numbers.
    """

    batch: int
    p10: Estimate | None
    p50: Estimate | None
    p90: Estimate | None
    p95: Estimate | None
    p99: Estimate | None
    mean_ms: float
    cpu_ms: float
    load_ms: float
    first_ms: float
    peak_memory_mb: float
    iterations: int
    warmup: int
    threads: int | None
    launches: int
    blocks: tuple[Block, ...]
    quantiles_ms: tuple[float, ...]
    placement: Mapping[str, int]
    device_ms: float | None = None
    conditions: Conditions | None = None
    trust: Trust = field(default_factory=Trust)

    @property
    def samples_per_second(self) -> float:
        """Samples that one caller gets through in a second."""
        return 1000 * self.batch / self.mean_ms


@dataclass(frozen=True)
class Speedup:
    """How many times faster one is than another, paired block by block.

    Attributes:
        p10: Of the fastest tenths: what holds even while other work disturbs the machine.
        p50: Of the medians.
        cpu: Of the processor time of one inference.
    """

    p10: Estimate
    p50: Estimate
    cpu: Estimate


def speedup(original: LatencyStats, candidate: LatencyStats) -> Speedup:
    """How many times faster the candidate is than the original; both must come from one measurement."""
    before, after = original.blocks, candidate.blocks
    return Speedup(
        paired_ratio([b.p10_ms for b in before], [b.p10_ms for b in after]),
        paired_ratio([b.p50_ms for b in before], [b.p50_ms for b in after]),
        paired_ratio([b.cpu_ms for b in before], [b.cpu_ms for b in after]),
    )


class Record:
    """One engine over all launches.

    Attributes:
        engine: What is measured.
        feed: What it is fed.
        failure: Why it could not be measured to the end.
        cpu_seconds: Processor time of its processes.
    """

    def __init__(self, engine: Engine, feed: Tensors) -> None:
        self.engine, self.feed = engine, feed
        self.failure: WorkbenchError | None = None
        self.cpu_seconds = 0.0
        self._opened: list[Opened] = []
        self._launches: list[Stopwatch] = []
        self._synchronised: float | None = None
        self._device_ms: float | None = None

    def open_launch(self, opened: Opened) -> None:
        """Keeps what opening showed."""
        self._opened.append(opened)

    def ask_once(self, watch: Stopwatch, progress: Progress) -> None:
        """Finds out, in the first launch, what does not change from launch to launch."""
        self._synchronised = watch.check_synchronised(progress)
        self._device_ms = watch.device_ms(progress)

    def close_launch(self, watch: Stopwatch) -> None:
        """Keeps what a launch measured, while its process is still there."""
        self.cpu_seconds += watch.cpu_seconds()
        if watch.rounds:
            self._launches.append(watch)

    def median_spread(self) -> float:
        """Half the median's interval as a share of it; infinite while the 99th percentile is not known."""
        p50, p99 = percentiles(self._rounds(), [0.5, 0.99])
        return p50.spread if p50 and p99 else float("inf")

    def stats(self, batch: int, conditions: Conditions) -> LatencyStats:
        """Sums the launches up."""
        rounds = self._rounds()
        samples = np.concatenate(rounds)
        p10, p50, p90, p95, p99 = percentiles(rounds, _SHARES)
        threads = self.engine.options.get("threads")
        blocks = self._blocks()
        opened = self._opened[0]
        return LatencyStats(
            batch=batch,
            p10=p10,
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            mean_ms=float(samples.mean()),
            cpu_ms=float(np.median([block.cpu_ms for block in blocks])),
            load_ms=float(np.median([one.load_ms for one in self._opened])),
            first_ms=float(np.median([one.first_ms for one in self._opened])),
            peak_memory_mb=max(watch.peak_memory_mb for watch in self._launches),
            iterations=len(samples),
            warmup=sum(watch.warmup for watch in self._launches),
            threads=threads,
            launches=len(self._launches),
            blocks=blocks,
            quantiles_ms=tuple(float(value) for value in np.quantile(samples, _QUANTILES)),
            placement=opened.placement,
            device_ms=self._device_ms,
            conditions=conditions,
            trust=Trust(
                latency_checks(
                    opened,
                    device=self.engine.device,
                    p10=p10,
                    p50=p50,
                    p99=p99,
                    iterations=len(samples),
                    medians=[block.p50_ms for block in blocks],
                    busy=[block.cpu_ms / block.mean_ms / (threads or 1) for block in blocks],
                    threads=threads,
                    launches=len(self._launches),
                    steady=all(watch.steady for watch in self._launches),
                    synchronised=self._synchronised,
                    conditions=conditions,
                )
            ),
        )

    def _rounds(self) -> list[NDArray[np.float64]]:
        return [times for watch in self._launches for times in watch.rounds]

    def _blocks(self) -> tuple[Block, ...]:
        """One block per launch; where those are too few for an interval, parts of them."""
        parts = 1 if len(self._launches) >= _FEWEST_BLOCKS else -(-_BLOCKS // len(self._launches))
        return tuple(block for watch in self._launches for block in _split(watch.rounds, watch.cpu_ms, parts))


def _split(rounds: Sequence[NDArray[np.float64]], cpu_ms: Sequence[float], parts: int) -> list[Block]:
    blocks = []
    for picked in np.array_split(np.arange(len(rounds)), min(parts, len(rounds))):
        times = np.concatenate([rounds[index] for index in picked])
        p10, p50 = (float(value) for value in np.quantile(times, [0.1, 0.5]))
        cpu, counts = np.array([(cpu_ms[index], len(rounds[index])) for index in picked]).T
        blocks.append(Block(p10, p50, float(times.mean()), float(cpu @ counts / counts.sum())))
    return blocks
