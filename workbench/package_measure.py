"""Measures what a package's numbers follow from: the inference, and the whole service over HTTP where that is ours."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench._serving_numbers import LEAST_GAIN, SHARE_OF_CAPACITY
from workbench.backends import engine_key
from workbench.comparison import Candidate, Row
from workbench.dataset import Dataset
from workbench.engine import random_feed
from workbench.errors import DatasetError, ExportError, ServiceError
from workbench.exporters import Package, check_backend, export_package, is_own_server
from workbench.jobs import Progress, part_of, silent
from workbench.load_report import format_rate
from workbench.measure._checks import check_machine
from workbench.measure.environment import read_environment
from workbench.measure.load import LoadStats
from workbench.measure.machine import ConditionsWatch
from workbench.measure.trust import Trust
from workbench.model import Model
from workbench.options import make_options, to_builtins
from workbench.service.load import load_service
from workbench.service.metrics import between, read_service
from workbench.serving_measure import MeasureServingOptions, measure_serving
from workbench.serving_measurements import Measurements, ServiceCapacity, ServiceTrial
from workbench.serving_plan import ServingPlan, plan_serving
from workbench.trial import Serving, serve_package
from workbench.workspace import Workspace

_INFERENCE_SHARE = 0.7  # of the progress
_CALLERS_PER_CORE = 4
_FEWEST_CALLERS = 8
_WARMUP_S = 0.3
_ANSWERS_PER_CALLER = 5  # at least, in each round
_LATENCIES = 600  # at least, for a 99th percentile
_RATES = 4  # tried, each lower, until one is kept up with
_LONGEST_ROUND_S = 10.0  # of a slow model
_LONGEST_S = 30.0  # for its latencies
_DECIDING = ("threads", "instances", "max_batch", "batch_wait_ms", "capacity")  # what a service's speed depends on


def measure_for_package(
    candidate: Candidate,
    exporter: str = "server",
    dataset: Dataset | None = None,
    options: Mapping[str, Any] | MeasureServingOptions | None = None,
    *,
    row: Row | None = None,
    workspace: Workspace | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> Measurements:
    """Measures all that the numbers of a package follow from; `export_package` takes the result as `measured`.

    The inference is measured by `measure_serving`. If the package is to run this workbench's own server, that server
    is then started with what follows, and loaded over HTTP by `measure_service`.

    Args:
        candidate: What is to be served.
        exporter: What is to write the package.
        dataset: Its samples are fed; random values if there is none.
        options: Fields of `MeasureServingOptions`.
        row: What was measured of the candidate in a comparison.
        workspace: Where the results are kept, and found again by a rerun on the same machine; not kept if None.
        fresh: Measure again even if the workspace has the results.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        ExportError: The exporter does not run the candidate's backend, or its server does not start.
        OptionsError: An option has a value it cannot have.
        DatasetError: The samples do not fit.
        ProviderError: The provider that would really run is not the one asked for.
        WorkerError: No setting could be measured.
        ServiceError: The service does not answer.
    """
    checked = make_options(MeasureServingOptions, options, "measure_serving")
    check_backend(candidate, exporter)
    kept: dict[str, Any] = {"workspace": workspace, "fresh": fresh}
    own = is_own_server(exporter)
    report = part_of(progress, 0.0, _INFERENCE_SHARE if own else 1.0)
    curve, swept = measure_serving(candidate.engine, dataset, checked, progress=report, **kept)
    found = Measurements(row, curve, swept, options=checked)
    if not own:
        return found
    report = part_of(progress, _INFERENCE_SHARE, 1.0)
    return replace(found, service=measure_service(candidate, found, dataset, checked, progress=report, **kept))


def measure_service(
    candidate: Candidate,
    found: Measurements,
    dataset: Dataset | None = None,
    options: Mapping[str, Any] | MeasureServingOptions | None = None,
    *,
    workspace: Workspace | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> ServiceCapacity:
    """Starts the service of a candidate on this machine, and looks for the workers it takes and the load it holds.

    One worker is tried first. Only if it gets through clearly less than the inference alone are 2, 4, … up to one for
    each core tried, all of them in turns; the fewest that get through nearly as much as the best are taken. The
    latencies are measured with these at the rate that a replica is planned for, with arrivals at random.

    The callers run on the same cores, so a service that has the machine for itself gets through more.

    Args:
        candidate: What is to be served.
        found: What was measured of its inference: threads, instances and batches of the service follow from that.
        dataset: Its samples are sent; random values if there is none.
        options: Fields of `MeasureServingOptions`, of which `seconds` and `rounds` count here.
        workspace: Where the result is kept, and found again by a rerun on the same machine; not kept if None.
        fresh: Measure again even if the workspace has it.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        ExportError: The server cannot serve the candidate, or does not start.
        DatasetError: The samples do not fit.
        ServiceError: The service does not answer.
    """
    checked = make_options(MeasureServingOptions, options, "measure_service")
    inference = replace(found, service=None)
    plan = plan_serving(candidate, inference)
    model = candidate.engine.model
    samples = dataset or _random_samples(model)

    def measure() -> ServiceCapacity:
        with _exported(candidate, inference, samples, workspace) as package:
            return _Services(package, samples, plan, checked).measure(progress)

    if workspace is None:
        return measure()
    key = {
        "engine": engine_key(candidate.engine),
        "plan": {name: number.value for name, number in plan.numbers.items() if name in _DECIDING},
        "options": {"seconds": checked.seconds, "rounds": checked.rounds},
        "dataset": samples.sha256,
        "environment": to_builtins(read_environment()),
    }
    return workspace.result("services", key, ServiceCapacity, measure, fresh=fresh)


def _random_samples(model: Model) -> Dataset:
    try:
        return Dataset(random_feed(model, model.fixed_batch or _FEWEST_CALLERS), name="random values")
    except DatasetError:
        raise ExportError(
            f"No samples can be made up for {model.name}, and so no service of it can be tried: its inputs do not have "
            "the same first axis.",
            "Give every input a batch axis, or measure the inference alone, by measure_serving.",
        ) from None


@contextlib.contextmanager
def _exported(
    candidate: Candidate, found: Measurements, samples: Dataset, workspace: Workspace | None
) -> Iterator[Package]:
    """The package as it would be, in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        yield export_package(
            candidate, sample=samples, measured=found, directory=Path(folder, "package"), workspace=workspace
        )


class _Services:
    """A package's services with different numbers of workers, which are loaded in turns."""

    def __init__(self, package: Package, samples: Dataset, plan: ServingPlan, options: MeasureServingOptions) -> None:
        self._package, self._samples, self._plan, self._rounds = package, samples, plan, max(1, options.rounds)
        self._cores = len(os.sched_getaffinity(0))
        usual = max(_FEWEST_CALLERS, _CALLERS_PER_CORE * self._cores)
        self._callers = min(usual, max(2, math.ceil(plan.capacity.value)))  # more would wait for seconds
        enough = _ANSWERS_PER_CALLER * self._callers / plan.capacity.value
        self._seconds = max(options.seconds, min(enough, _LONGEST_ROUND_S))
        self._running: dict[int, Serving] = {}
        self._rates: dict[int, list[float]] = {}

    def measure(self, progress: Progress) -> ServiceCapacity:
        """Tries one worker, then more where that can help, then the best at the planned rate."""
        watch, begun = ConditionsWatch(), sum(os.times()[2:4])  # the processes that are begun here are children of this
        with contextlib.ExitStack() as stack:
            self._load_in_turns(stack, [1], part_of(progress, 0.0, 0.3))
            if LEAST_GAIN * self._rate(1) < self._plan.capacity.value:
                self._load_in_turns(stack, list(_workers_for(self._cores)), part_of(progress, 0.3, 0.8))
            trials = tuple(ServiceTrial(workers, self._rate(workers)) for workers in self._running)
            most = max(trial.queries_per_second for trial in trials)
            chosen = next(one for one in trials if LEAST_GAIN * one.queries_per_second >= most)
            url = self._running[chosen.workers].url
            before = read_service(url)
            rate, stats = self._hold(chosen, part_of(progress, 0.8, 1.0))
            memory_mb = between(before, read_service(url)).memory_mb
        conditions = watch.finish(sum(os.times()[2:4]) - begun)
        return ServiceCapacity(
            trials=trials,
            workers=chosen.workers,
            connections=self._callers,
            rate=rate,
            p50_ms=stats.p50.value if stats.p50 else stats.mean_ms,
            p99_ms=stats.tail_ms,
            completed=stats.completed,
            whole_tail=stats.p99 is not None,
            kept_up=stats.kept_up,
            memory_mb=memory_mb,
            cores=self._cores,
            trust=Trust((*stats.trust.checks, *check_machine(conditions))),
        )

    def _hold(self, chosen: ServiceTrial, progress: Progress) -> tuple[float, LoadStats]:
        """Looks for a rate that it keeps up with: what a replica is planned for, or less where that is too much."""
        rate = SHARE_OF_CAPACITY * chosen.queries_per_second
        for attempt in range(_RATES):
            rate = max(0.1, rate if attempt == 0 else SHARE_OF_CAPACITY * rate)
            seconds = max(self._seconds, min(_LATENCIES / rate, _LONGEST_S))
            report = part_of(progress, attempt / _RATES, (attempt + 1) / _RATES, f"{format_rate(rate)} arrivals/s: ")
            stats = self._load(chosen.workers, {"pattern": "poisson", "rate": rate, "seconds": seconds}, report)
            if stats.kept_up:
                break
        return rate, stats

    def _load_in_turns(self, stack: contextlib.ExitStack, counts: Sequence[int], progress: Progress) -> None:
        """Measures every number of workers as often as asked, one after the other, round by round."""
        for count in counts:
            if count not in self._running:
                progress(0.0, f"starting a service with {count} worker{'s' if count > 1 else ''}")
                self._running[count] = stack.enter_context(serve_package(self._package, workers=count))
        runs = [count for _ in range(self._rounds) for count in counts]
        for number, count in enumerate(runs):
            report = part_of(progress, number / len(runs), (number + 1) / len(runs), f"{count} at work: ")
            stats = self._load(count, {"seconds": self._seconds}, report)
            self._rates.setdefault(count, []).append(stats.queries_per_second)

    def _rate(self, workers: int) -> float:
        return statistics.median(self._rates[workers])

    def _load(self, workers: int, options: Mapping[str, Any], progress: Progress) -> LoadStats:
        patience = max(10.0, self._plan.request_seconds.value)
        common = {"connections": self._callers, "warmup_s": _WARMUP_S, "timeout_s": patience}
        url = self._running[workers].url
        found = load_service(url, {**common, **options}, dataset=self._samples, progress=progress)
        if found.stats is None:
            raise ServiceError(
                f"No request to the service of {self._package.candidate} was answered: {found.reasons}.",
                "Export the candidate without measuring, and look at what the service logs.",
            )
        return found.stats


def _workers_for(cores: int) -> Iterator[int]:
    """1, 2, 4, … and one for each core."""
    workers = 1
    while workers < cores:
        yield workers
        workers *= 2
    yield cores
