"""Throughput and latency under load: closed loop, open loop at a rate, all at once; and the curve of rising rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np

from workbench.dataset import Dataset
from workbench.engine import Engine, Tensors, random_feed
from workbench.errors import OptionsError
from workbench.jobs import Progress, part_of, silent
from workbench.measure._checks import check_calibration
from workbench.measure._limited import make_limits
from workbench.measure._load_bench import Callers, LoadBench
from workbench.measure._load_stats import LoadPoint as LoadPoint
from workbench.measure._load_stats import LoadStats as LoadStats
from workbench.measure._traffic import Pattern, Traffic
from workbench.measure.feeds import make_feed
from workbench.measure.machine import Calibration, calibrate
from workbench.measure.trust import Trust
from workbench.options import make_options, option

# Options that several kinds of load share; each stands here only.
Batch: TypeAlias = Annotated[int, option("Samples per query.", minimum=1, maximum=4096, unit="samples")]
Instances: TypeAlias = Annotated[
    int,
    option(
        "Live runners in one process, each called from a thread of its own and with the engine's threads inside.",
        minimum=1,
        maximum=256,
    ),
]
MaxWait: TypeAlias = Annotated[
    float,
    option(
        "A query of an open loop that has to wait longer ends the run as overloaded.",
        minimum=0.1,
        maximum=600,
        unit="s",
        advanced=True,
    ),
]
Seed: TypeAlias = Annotated[
    int, option("Of the times of Poisson arrivals.", minimum=0, maximum=2**31 - 1, advanced=True)
]
Hang: TypeAlias = Annotated[
    float,
    option("A process in which nothing ends for so long is ended.", minimum=1, maximum=36000, unit="s", advanced=True),
]
Memory: TypeAlias = Annotated[
    float,
    option(
        "Most memory that the process may take; 0 is three quarters of what is free.",
        minimum=0,
        maximum=10000,
        unit="GB",
        advanced=True,
    ),
]

_SHARE_OF_CAPACITY = 0.7  # the rate of an open loop where none is given
_MOST_ARRIVALS = 20_000_000
_OVERLOADED_STEPS = 2  # a curve ends after so many in a row
_WARM_UP_SHARE, _SHORTEST_WARM_UP, _LONGEST_WARM_UP = 0.5, 0.6, 10.0  # of the time that is measured; s; s


@dataclass(frozen=True)
class LoadOptions:
    """How queries come, and to what."""

    pattern: Annotated[
        Pattern,
        option(
            "closed: a fixed number under way. poisson, constant: arrivals at a rate, which shows queueing. "
            "offline: all at once, throughput only."
        ),
    ] = "closed"
    concurrency: Annotated[
        int, option("Queries under way at once, waiting ones included; for closed.", minimum=1, maximum=65536)
    ] = 1
    rate: (
        Annotated[
            float,
            option(
                "Arrivals per second, for poisson and constant; 70 % of what the warm-up got through if not given.",
                minimum=0.001,
                maximum=1e6,
                unit="queries/s",
                example="200",
            ),
        ]
        | None
    ) = None
    batch: Batch = 1
    instances: Instances = 1
    callers: Annotated[
        Callers,
        option(
            "runners: each instance is a runner of its own. shared: the instances are threads that call one runner. "
            "asynchronous: they are requests under way on one runner, which runs them on threads of its own.",
            advanced=True,
        ),
    ] = "runners"
    seconds: Annotated[float, option("How long queries come.", minimum=0.2, maximum=3600, unit="s")] = 5.0
    max_wait_s: MaxWait = 2.0
    seed: Seed = 0
    hang_s: Hang = 60.0
    memory_gb: Memory = 0.0


@dataclass(frozen=True)
class CurveOptions:
    """Arrivals at rates that rise step by step, as shares of what the runners get through in a closed loop."""

    pattern: Annotated[Literal["poisson", "constant"], option("How queries come.")] = "poisson"
    steps: Annotated[int, option("Rates to try.", minimum=2, maximum=100)] = 8
    lowest: Annotated[float, option("First rate, as a share of the capacity.", minimum=1, maximum=200, unit="%")] = 20.0
    highest: Annotated[float, option("Last rate, as a share of the capacity.", minimum=1, maximum=200, unit="%")] = (
        120.0
    )
    batch: Batch = 1
    instances: Instances = 1
    seconds: Annotated[float, option("How long queries come at each rate.", minimum=0.2, maximum=3600, unit="s")] = 3.0
    max_wait_s: MaxWait = 2.0
    seed: Seed = 0
    hang_s: Hang = 60.0
    memory_gb: Memory = 0.0


def measure_load(
    engine: Engine,
    options: Mapping[str, Any] | LoadOptions | None = None,
    *,
    dataset: Dataset | None = None,
    progress: Progress = silent,
    watch: Callable[[LoadPoint], None] | None = None,
) -> LoadStats:
    """Measures one load, in a fresh subprocess, after a warm-up that ends when the throughput is stable.

    Runners of their own are timed by their bare calls. Callers that share one runner are timed by `infer`, and
    asynchronous requests from `submit` to their result, which are the calls that are safe side by side.

    Args:
        engine: What every instance runs.
        options: Fields of `LoadOptions`.
        dataset: Its samples are fed, different ones to each instance; random values if there is none.
        progress: Called with the share done and a short text; may raise to cancel.
        watch: Called about four times a second with what happened since; may raise to cancel.

    Raises:
        OptionsError: An option has a value it cannot have, the batch does not fit the model, or the backend takes no
            asynchronous requests.
        EngineError: The engine was built so that it takes none.
        DatasetError: The samples do not fit.
        ProviderError: The provider that would really run is not the one asked for.
        WorkerError: The runner crashed, hung or took too much memory; its process was ended.
    """
    checked = make_options(LoadOptions, options, "measure_load")
    if checked.pattern == "closed" and checked.concurrency < checked.instances:
        raise OptionsError(
            f"A concurrency of {checked.concurrency} leaves some of {checked.instances} instances without work.",
            f"Set concurrency to {checked.instances} or more, or use fewer instances.",
        )
    if checked.pattern in ("poisson", "constant"):
        check_arrivals(checked.rate or 0, checked.seconds)
    feeds = make_feeds(engine, dataset, checked.batch, checked.instances)
    before = calibrate()
    limits = make_limits(checked.hang_s, checked.memory_gb)
    with LoadBench(engine, feeds, limits, callers=checked.callers) as bench:
        capacity = bench.open(_warm_up_seconds(checked.seconds), part_of(progress, 0.0, 0.0))
        traffic = Traffic(
            checked.pattern,
            checked.seconds,
            concurrency=checked.concurrency,
            rate=checked.rate or _SHARE_OF_CAPACITY * capacity,
            count=max(checked.instances, round(capacity * checked.seconds)),
            max_wait_s=checked.max_wait_s,
            seed=checked.seed,
        )
        check_arrivals(capacity, checked.seconds)
        found = bench.run(traffic, progress, watch)
    return add_noise(found, before, calibrate())


def measure_load_curve(
    engine: Engine,
    options: Mapping[str, Any] | CurveOptions | None = None,
    *,
    dataset: Dataset | None = None,
    progress: Progress = silent,
    watch: Callable[[LoadPoint | LoadStats], None] | None = None,
) -> tuple[LoadStats, ...]:
    """Measures latency against a rising rate of arrivals, all in one fresh subprocess.

    It ends early when two rates in a row were too high: a queue that only grows says nothing more.

    Args:
        engine: What every instance runs.
        options: Fields of `CurveOptions`.
        dataset: Its samples are fed; random values if there is none.
        progress: Called with the share done and a short text; may raise to cancel.
        watch: Called with moments of the step that runs, and with each step's result; may raise to cancel.

    Returns:
        One result per rate, rising.

    Raises:
        OptionsError: An option has a value it cannot have, or the batch does not fit the model.
        DatasetError: The samples do not fit.
        ProviderError: The provider that would really run is not the one asked for.
        WorkerError: The runner crashed, hung or took too much memory; its process was ended.
    """
    checked = make_options(CurveOptions, options, "measure_load_curve")
    if checked.lowest >= checked.highest:
        raise OptionsError(
            f"The rates cannot rise from {checked.lowest:g} to {checked.highest:g} % of the capacity.",
            "Set lowest below highest.",
        )
    feeds = make_feeds(engine, dataset, checked.batch, checked.instances)
    found: list[LoadStats] = []
    before = calibrate()
    with LoadBench(engine, feeds, make_limits(checked.hang_s, checked.memory_gb)) as bench:
        capacity = bench.open(_warm_up_seconds(checked.seconds), part_of(progress, 0.0, 0.0))
        for step, share in enumerate(np.linspace(checked.lowest, checked.highest, checked.steps)):
            traffic = Traffic(
                checked.pattern,
                checked.seconds,
                rate=float(share) / 100 * capacity,
                max_wait_s=checked.max_wait_s,
                seed=checked.seed + step,
            )
            check_arrivals(traffic.rate, checked.seconds)
            found.append(bench.run(traffic, part_of(progress, step / checked.steps, (step + 1) / checked.steps), watch))
            if watch is not None:
                watch(found[-1])
            if len(found) >= _OVERLOADED_STEPS and not any(stats.kept_up for stats in found[-_OVERLOADED_STEPS:]):
                break
    after = calibrate()
    return tuple(add_noise(stats, before, after) for stats in found)


def knee(curve: Sequence[LoadStats]) -> LoadStats | None:
    """The load beyond which latency rises faster than throughput; None where none was kept up with.

    It is where throughput divided by mean latency is largest (Kleinrock, Power and Deterministic Rules of Thumb for
    Probabilistic Problems in Computer Communications, ICC 1979).
    """
    return max(
        (one for one in curve if one.kept_up), key=lambda one: one.queries_per_second / one.mean_ms, default=None
    )


def make_feeds(engine: Engine, dataset: Dataset | None, batch: int, instances: int) -> list[Tensors]:
    """One feed of `batch` samples for each instance, each from another part of the samples.

    Raises:
        OptionsError: The model's batch is fixed at another size.
        DatasetError: The samples do not fit.
    """
    if dataset is None:
        first = make_feed(engine, None, batch)
        return [first, *(random_feed(engine.model, batch, seed=number) for number in range(1, instances))]
    numbers = np.arange(instances * batch).reshape(instances, batch) % len(dataset)
    parts = (
        Dataset({name: array[part] for name, array in dataset.inputs.items()}, name=dataset.name) for part in numbers
    )
    return [make_feed(engine, part, batch) for part in parts]


def add_noise(stats: LoadStats, before: Calibration, after: Calibration) -> LoadStats:
    """Adds to the badge what the calibration loop told before and after."""
    return replace(stats, trust=Trust((*stats.trust.checks, check_calibration(before, after))))


def check_arrivals(rate: float, seconds: float) -> None:
    """Refuses schedules that would not fit into memory.

    Raises:
        OptionsError: There would be too many arrivals.
    """
    if rate * seconds > _MOST_ARRIVALS:
        raise OptionsError(
            f"{rate * seconds:.3g} queries in {seconds:g} s are more than the {_MOST_ARRIVALS:,} of one run.",
            "Choose a lower rate or a shorter time.",
        )


def _warm_up_seconds(seconds: float) -> float:
    return min(_LONGEST_WARM_UP, max(_SHORTEST_WARM_UP, _WARM_UP_SHARE * seconds))
