"""Latency: candidates timed in rounds that take turns, in fresh processes, so that noise and chance hit all alike."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, overload

import numpy as np

from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import Cancelled, OptionsError, WorkbenchError
from workbench.jobs import Progress, silent
from workbench.measure._limited import make_limits
from workbench.measure._stopwatch import Stopwatch, report_in
from workbench.measure._summary import Block as Block
from workbench.measure._summary import LatencyStats as LatencyStats
from workbench.measure._summary import Record
from workbench.measure._summary import Speedup as Speedup
from workbench.measure._summary import speedup as speedup
from workbench.measure.feeds import make_feed
from workbench.measure.machine import ConditionsWatch
from workbench.options import make_options, option

_MIN_ROUNDS = 10
_FEWEST_ROUNDS = 3  # of a model so slow that no more fit: an interval over fewer rounds would mean nothing
_OPENING_SHARE = 1.5  # time that opening may take, as a share of the time that is measured


@dataclass(frozen=True)
class LatencyOptions:
    """How long and on what latency is measured."""

    batch: Annotated[int, option("Samples per inference.", minimum=1, maximum=4096, unit="samples")] = 1
    seconds: Annotated[
        float,
        option(
            "Time limit for each candidate; twice that where fewer than 10 rounds fit.",
            minimum=0.2,
            maximum=3600,
            unit="s",
        ),
    ] = 3.0
    precision: Annotated[
        float,
        option(
            "Stop early when the median's interval is this narrow.", minimum=0.1, maximum=50, unit="%", advanced=True
        ),
    ] = 1.0
    launches: Annotated[
        int,
        option(
            "Fresh processes for each candidate, fewer where opening takes long: intervals then hold what differs "
            "from process to process.",
            minimum=1,
            maximum=30,
            advanced=True,
        ),
    ] = 5
    hang_s: Annotated[
        float, option("Longest time without an answer.", minimum=1, maximum=36000, unit="s", advanced=True)
    ] = 300.0
    memory_gb: Annotated[
        float,
        option(
            "Most memory that a candidate may take; 0 is three quarters of what is free.",
            minimum=0,
            maximum=10000,
            unit="GB",
            advanced=True,
        ),
    ] = 0.0


@overload
def measure_latency(
    engines: Sequence[Engine],
    options: Mapping[str, Any] | LatencyOptions | None = None,
    *,
    dataset: Dataset | None = None,
    keep_going: Literal[False] = False,
    progress: Progress = silent,
) -> tuple[LatencyStats, ...]: ...


@overload
def measure_latency(
    engines: Sequence[Engine],
    options: Mapping[str, Any] | LatencyOptions | None = None,
    *,
    dataset: Dataset | None = None,
    keep_going: Literal[True],
    progress: Progress = silent,
) -> tuple[LatencyStats | WorkbenchError, ...]: ...


def measure_latency(
    engines: Sequence[Engine],
    options: Mapping[str, Any] | LatencyOptions | None = None,
    *,
    dataset: Dataset | None = None,
    keep_going: bool = False,
    progress: Progress = silent,
) -> tuple[LatencyStats | WorkbenchError, ...]:
    """Measures engines against each other: A B C A B C …, until the medians are narrow or the time is up.

    Everything is measured in several launches; in each, every engine gets a fresh process, is warmed up until stable,
    and takes its turns, on the same cores as the others that have as many threads.

    Args:
        engines: What to measure.
        options: Fields of `LatencyOptions`.
        dataset: Its first samples are fed; random values if there is none.
        keep_going: Whether the others go on when one cannot be opened, crashes, hangs or takes too much memory.
        progress: Called with the share done and a short text; may raise to cancel.

    Returns:
        One result per engine, in order; with `keep_going` the error in place of the result where there is none.

    Raises:
        ProviderError: The provider that would really run is not the one asked for.
        WorkerError: One crashed, hung or took too much memory, and was ended.
        OptionsError: An option has a value it cannot have, or the batch does not fit a model.
    """
    checked = make_options(LatencyOptions, options, "measure_latency")
    if not engines:
        raise OptionsError("measure_latency got no engines.", "Give it at least one.")
    records = [Record(engine, make_feed(engine, dataset, checked.batch)) for engine in engines]
    watch = ConditionsWatch()
    _Session(records, checked, keep_going, progress).run()
    own = sum(record.cpu_seconds for record in records)
    conditions = watch.finish(own, gpu=any(_on_gpu(engine) for engine in engines))
    return tuple(record.failure or record.stats(checked.batch, conditions) for record in records)


class _Running(NamedTuple):
    """An engine in one launch, warmed up; the median of its last warm-up is in s."""

    record: Record
    watch: Stopwatch
    median: float


class _Session:
    """The launches of one measurement."""

    def __init__(
        self, records: Sequence[Record], options: LatencyOptions, keep_going: bool, progress: Progress
    ) -> None:
        self._records, self._options = records, options
        self._keep_going, self._progress = keep_going, progress
        self._launches = options.launches
        self._limits = make_limits(options.hang_s, options.memory_gb)

    def run(self) -> None:
        """Launches until enough is known, the time is up, or nothing is left to measure."""
        launch = 0
        while launch < self._launches and (alive := self._alive()):
            with contextlib.ExitStack() as stack:
                begun = time.monotonic()
                running = [one for record in alive if (one := self._open(record, launch, stack))]
                if launch == 0:
                    self._launches = self._affordable(time.monotonic() - begun, [one.median for one in running])
                self._take_turns(running, launch)
            launch += 1
            if launch >= min(3, self._launches) and all(self._is_narrow(record) for record in self._alive()):
                return

    def _alive(self) -> list[Record]:
        return [record for record in self._records if record.failure is None]

    def _open(self, record: Record, launch: int, stack: contextlib.ExitStack) -> _Running | None:
        """Opens and warms up; None if that failed."""
        with self._failing(record):
            watch = Stopwatch(record.engine, record.feed, self._limits, _cores(record.engine, launch))
            stack.callback(watch.close)
            stack.callback(record.close_launch, watch)
            report = report_in(self._progress, self._share_done(launch))
            opened = watch.open(report)
            median = watch.warm_up(self._options.seconds / self._options.launches, report)
            record.open_launch(opened)
            if launch == 0:
                record.ask_once(watch, report)
            return _Running(record, watch, median)
        return None

    def _take_turns(self, running: list[_Running], launch: int) -> None:
        limit = self._options.seconds * len(running) / self._launches
        wanted, fewest = (-(-rounds // self._launches) for rounds in (_MIN_ROUNDS, _FEWEST_ROUNDS))
        start, number = time.monotonic(), 0
        while running:
            first = number % len(running)  # nobody always runs right after the same neighbour
            for one in (*running[first:], *running[:first]):
                share = min(1.0, (time.monotonic() - start) / limit)
                with self._failing(one.record):
                    one.watch.run_round(report_in(self._progress, self._share_done(launch + share)))
                if one.record.failure is not None:
                    running.remove(one)
            number += 1
            elapsed = time.monotonic() - start
            if elapsed > (limit if number >= wanted else 2 * limit) and number >= fewest:
                return

    @contextlib.contextmanager
    def _failing(self, record: Record) -> Iterator[None]:
        """One that fails is left out from then on, or ends everything."""
        try:
            yield
        except Cancelled:
            raise
        except WorkbenchError as error:
            if not self._keep_going:
                raise
            record.failure = error

    def _affordable(self, opening: float, medians: Sequence[float]) -> int:
        """Launches for which there is time: opening must not take longer than measuring, nor rounds be too few."""
        total = self._options.seconds * max(1, len(medians))
        by_opening = _OPENING_SHARE * total / max(opening, 1e-3)
        by_rounds = total / max(_FEWEST_ROUNDS * sum(medians), 1e-6)
        return int(np.clip(min(by_opening, by_rounds), 1, self._options.launches))

    def _is_narrow(self, record: Record) -> bool:
        return record.median_spread() * 100 <= self._options.precision

    def _share_done(self, launches: float) -> float:
        return min(1.0, launches / self._launches)


def _cores(engine: Engine, launch: int) -> frozenset[int]:
    """The processors that an engine is kept on in one launch; none in particular where it takes all of them.

    Candidates with as many threads share theirs, turn by turn: left to the system, each tends to stay on a core of its
    own, and cores differ by several per cent while something else runs beside one of them.
    """
    threads, allowed = engine.options.get("threads"), sorted(os.sched_getaffinity(0))
    if not isinstance(threads, int) or not 0 < threads < len(allowed):
        return frozenset()
    first = os.getpid() + launch  # two measurements at a time need not meet on one core
    return frozenset(allowed[(first + number) % len(allowed)] for number in range(threads))


def _on_gpu(engine: Engine) -> bool:
    return any(word in f"{engine.backend} {engine.device}".lower() for word in ("cuda", "tensorrt", "gpu"))
