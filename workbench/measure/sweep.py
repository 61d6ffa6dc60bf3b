"""The sweep: throughput and latency over batch × threads × instances, all of it or by a ladder that stops early."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from workbench.backends import build_engine, engine_key
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import OptionsError, WorkerError
from workbench.jobs import Progress, part_of, silent
from workbench.measure._ladder import PAYS, Setting, climb, divide_cores, doublings
from workbench.measure._limited import make_limits
from workbench.measure._load_bench import LoadBench
from workbench.measure._sweep_data import SpotOptions as SpotOptions
from workbench.measure._sweep_data import Sweep as Sweep
from workbench.measure._sweep_data import SweepOptions as SweepOptions
from workbench.measure._sweep_data import SweepPoint as SweepPoint
from workbench.measure._sweep_data import sweet_spot as sweet_spot
from workbench.measure._traffic import Traffic
from workbench.measure.environment import read_environment
from workbench.measure.load import LoadStats, add_noise, make_feeds
from workbench.measure.machine import calibrate
from workbench.model import Model
from workbench.options import make_options, option_fields, to_builtins
from workbench.plugins import find_plugin
from workbench.workspace import Workspace

_NEAR = 0.05  # points so near to the best are measured again
_CONTENDERS = 3
_WARM_UP_SECONDS = 2.0


def sweep(
    model: Model,
    backend: str = "onnxruntime",
    options: Mapping[str, Any] | SweepOptions | None = None,
    *,
    backend_options: Mapping[str, Any] | None = None,
    dataset: Dataset | None = None,
    workspace: Workspace | None = None,
    fresh: bool = False,
    progress: Progress = silent,
    watch: Callable[[SweepPoint], None] | None = None,
) -> Sweep:
    """Looks for the batch, threads and instances with the highest throughput; each point runs in a fresh subprocess.

    The ladder starts with the smallest batch, tries the ways of dividing the cores among instances, then doubles the
    batch as long as that gains 3 %, and looks beside the best once more. A point that crashes, hangs or takes too much
    memory is reported as failed, and the others go on.

    Args:
        model: What to run.
        backend: What to run it on.
        options: Fields of `SweepOptions`.
        backend_options: Options of the backend; `threads` is the sweep's.
        dataset: Its samples are fed; random values if there is none.
        workspace: Where the result is kept, and found again by a rerun on the same machine; not kept if None.
        fresh: Measure again even if the workspace has the result.
        progress: Called with the share done and a short text; may raise to cancel.
        watch: Called with each point that was measured or failed; may raise to cancel.

    Raises:
        OptionsError: An option has a value it cannot have.
        DatasetError: The samples do not fit.
        ProviderError: The provider that would really run is not the one asked for.
    """
    checked = make_options(SweepOptions, options, "sweep")
    if not checked.batches:
        raise OptionsError("The sweep has no batches to try.", "Give batches, e.g. 1, 2, 4, 8.")
    search = _Search(model, backend, checked, backend_options or {}, dataset, progress, watch)
    if workspace is None:
        return search.run()
    key = {
        "engine": engine_key(search.engine(None)),
        "options": to_builtins(checked),
        "dataset": dataset.sha256 if dataset else "",
        "environment": to_builtins(search.environment),
    }
    return workspace.result("sweeps", key, Sweep, search.run, fresh=fresh)


class _Search:
    """One sweep as it goes."""

    def __init__(
        self,
        model: Model,
        backend: str,
        options: SweepOptions,
        backend_options: Mapping[str, Any],
        dataset: Dataset | None,
        progress: Progress,
        watch: Callable[[SweepPoint], None] | None,
    ) -> None:
        self.environment = read_environment()
        self._model, self._backend, self._options = model, backend, options
        self._backend_options, self._dataset = backend_options, dataset
        self._progress, self._watch = progress, watch
        self._limits = make_limits(options.hang_s, options.memory_gb)
        self._share = 0.0  # done so far
        self._engines: dict[int | None, Engine] = {}
        cores = self.environment.cores
        takes_threads = any(
            field.name == "threads" for field in option_fields(find_plugin("backends", backend).Options)
        )
        self._threads: tuple[int | None, ...] = (options.threads or doublings(cores)) if takes_threads else (None,)
        self._instances = options.instances or doublings(cores)
        fixed = model.fixed_batch
        self._batches = sorted({fixed} if fixed else set(options.batches))
        self._placements = divide_cores(self._threads, self._instances, cores)
        grid = [
            Setting(batch, threads, instances)
            for batch in self._batches
            for threads in self._threads
            for instances in self._instances
        ]
        self._points: dict[Setting, SweepPoint | None] = dict.fromkeys(grid)

    def engine(self, threads: int | None) -> Engine:
        """The model on the backend with so many threads."""
        if threads not in self._engines:
            chosen = {} if threads is None else {"threads": threads}
            self._engines[threads] = build_engine(self._model, self._backend, {**self._backend_options, **chosen})
        return self._engines[threads]

    def run(self) -> Sweep:
        """Measures, confirms, and says of every other point why it was left out."""
        begun, before = time.monotonic(), calibrate()
        if self._options.search == "grid":
            for setting in self._points:
                self._rate(setting)
        else:
            climb(self._batches, self._placements, self._gain)
        self._confirm()
        after = calibrate()
        points = tuple(
            replace(point, stats=add_noise(point.stats, before, after))
            if point and point.stats
            else point or self._skipped(setting)
            for setting, point in self._points.items()
        )
        seconds = time.monotonic() - begun
        return Sweep(self._model.name, self._backend, self._options.search, points, seconds, self.environment)

    def _rate(self, setting: Setting) -> float:
        """Measures a point unless that has been done."""
        if (known := self._points[setting]) is not None:
            return known.samples_per_second
        done = sum(point is not None for point in self._points.values())
        expected = len(self._points) if self._options.search == "grid" else len(self._placements) + len(self._batches)
        self._share = min(0.9, 0.9 * done / expected)
        report = part_of(self._progress, self._share, self._share, f"{SweepPoint(*setting, 'skipped')}: ")
        begun = time.monotonic()
        try:
            with self._bench(setting, report) as bench:
                stats = self._load(bench, setting, self._options.seconds, report)
            point = SweepPoint(*setting, "measured", stats=stats, rates=(stats.samples_per_second,))
        except WorkerError as error:
            point = SweepPoint(*setting, "failed", reason=error.message)
        point = self._points[setting] = replace(point, seconds=time.monotonic() - begun)
        if self._watch is not None:
            self._watch(point)
        return point.samples_per_second

    @contextlib.contextmanager
    def _bench(self, setting: Setting, progress: Progress) -> Iterator[LoadBench]:
        engine = self.engine(setting.threads)
        feeds = make_feeds(engine, self._dataset, setting.batch, setting.instances)
        with LoadBench(
            engine, feeds, self._limits, f"{self._model.name} at {SweepPoint(*setting, 'skipped')}"
        ) as bench:
            bench.open(_WARM_UP_SECONDS, progress)
            yield bench

    def _load(self, bench: LoadBench, setting: Setting, seconds: float, progress: Progress) -> LoadStats:
        return bench.run(Traffic("closed", seconds, concurrency=setting.instances), progress)

    def _gain(self, before: Setting, after: Setting) -> float:
        """Throughput of one point as a multiple of another's; in turns where other work disturbed a measurement."""
        rates = [self._rate(setting) for setting in (before, after)]
        if before == after or not all(rates):
            return 1.0 if before == after else math.inf if rates[1] else 0.0
        if any(self._disturbed(setting) for setting in (before, after)) and self._options.rounds:
            first, second = self._take_turns([before, after], f"{SweepPoint(*after, 'skipped')} once more: ")
            return statistics.median(new / old for old, new in zip(first, second, strict=True))
        return rates[1] / rates[0]

    def _disturbed(self, setting: Setting) -> bool:
        point = self._points[setting]
        checks = point.stats.trust.checks if point and point.stats else ()
        return any(check.name == "other load" and check.verdict == "doubt" for check in checks)

    def _confirm(self) -> None:
        """Measures the points near the best again, in turns, so that none wins by chance."""
        measured = {setting: point for setting, point in self._points.items() if point and point.rates}
        best = max((point.samples_per_second for point in measured.values()), default=0.0)
        near = [setting for setting, point in measured.items() if point.samples_per_second >= best * (1 - _NEAR)]
        near = sorted(near, key=lambda setting: measured[setting].samples_per_second)[-_CONTENDERS:]
        if len(near) > 1 and self._options.rounds:
            self._take_turns(near, "those near the best again: ")
            for setting in near:
                self._points[setting] = replace(self._point(setting), confirmed=True)

    def _take_turns(self, settings: Sequence[Setting], prefix: str) -> list[tuple[float, ...]]:
        """Measures points again, A B C A B C …; the samples per second of each."""
        report = part_of(self._progress, self._share, self._share, prefix)
        with contextlib.ExitStack() as stack:
            benches = [stack.enter_context(self._bench(setting, report)) for setting in settings]
            rounds = [
                [
                    self._load(bench, setting, self._options.seconds / 2, report).samples_per_second
                    for bench, setting in zip(benches, settings, strict=True)
                ]
                for _ in range(self._options.rounds)
            ]
        again = list(zip(*rounds, strict=True))
        for setting, rates in zip(settings, again, strict=True):
            point = self._point(setting)
            self._points[setting] = replace(point, rates=(*point.rates, *rates))
        return again

    def _point(self, setting: Setting) -> SweepPoint:
        point = self._points[setting]
        assert point is not None
        return point

    def _skipped(self, setting: Setting) -> SweepPoint:
        """Why the ladder left a point out."""
        _, threads, instances = setting
        cores, used = self.environment.cores, (threads or 1) * instances
        if used > cores:
            reason = f"would run {used} threads on {cores} cores"
        elif (threads, instances) not in self._placements:
            reason = "leaves cores without work that another division of them uses"
        else:
            reason = f"a step towards it did not gain {100 * PAYS:.0f} %"
        return SweepPoint(*setting, "skipped", reason=reason)
