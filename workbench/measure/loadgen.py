"""MLPerf's LoadGen drives the same runner: another's generator, as a choice and as the cross-check of our own."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from workbench import jobs
from workbench.backends import open_runner
from workbench.dataset import Dataset
from workbench.engine import Engine, Tensors
from workbench.errors import MissingDependencyError, OptionsError, WorkerError
from workbench.jobs import Progress, silent
from workbench.measure._traffic import Traffic, send
from workbench.measure.load import Batch, Hang, Seed, make_feeds
from workbench.options import make_options, option

_SHARE_OF_CAPACITY = 0.7  # the rate of Server where none is given
_MOST = 1.2  # rates so far above the capacity are refused: the warm-up may have been disturbed
_WARM_UP_SECONDS = 0.3


@dataclass(frozen=True)
class LoadGenOptions:
    """What LoadGen sends."""

    scenario: Annotated[
        Literal["SingleStream", "Server", "Offline"],
        option("SingleStream: one after the other. Server: Poisson arrivals at a rate. Offline: all at once."),
    ] = "SingleStream"
    rate: (
        Annotated[
            float,
            option(
                "Arrivals per second, for Server; 70 % of what the warm-up got through if not given.",
                minimum=0.001,
                maximum=1e6,
                unit="queries/s",
                example="200",
            ),
        ]
        | None
    ) = None
    target_ms: Annotated[
        float, option("Latency that 99 % of Server's queries must keep to be valid.", minimum=0.001, unit="ms")
    ] = 100.0
    batch: Batch = 1
    seconds: Annotated[
        float, option("Shortest time; LoadGen may take longer.", minimum=0.2, maximum=3600, unit="s")
    ] = 5.0
    seed: Seed = 0
    hang_s: Hang = 60.0


@dataclass(frozen=True)
class LoadGenStats:
    """What LoadGen wrote into its log.

    Attributes:
        scenario: Its name of the load.
        batch: Samples per query; LoadGen itself takes each query for one sample.
        offered_per_second: Arrivals per second that it scheduled; None where queries came as fast as others ended.
        queries_per_second: Queries that ended per second.
        p50_ms: Median latency; p90_ms, p95_ms, p99_ms likewise.
        mean_ms: Mean latency.
        completed: Queries that ended.
        valid: Whether LoadGen calls the run valid by its own rules, which ask for more than our own do.
        version: Of LoadGen.
        log: Every result that it wrote, by its own names.
    """

    scenario: str
    batch: int
    offered_per_second: float | None
    queries_per_second: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    completed: int
    valid: bool
    version: str
    log: Mapping[str, Any]

    @property
    def samples_per_second(self) -> float:
        """Queries per second × samples per query."""
        return self.queries_per_second * self.batch


def measure_with_loadgen(
    engine: Engine,
    options: Mapping[str, Any] | LoadGenOptions | None = None,
    *,
    dataset: Dataset | None = None,
    progress: Progress = silent,
) -> LoadGenStats:
    """Lets LoadGen send queries to one runner, in a fresh subprocess; its log files go to a folder that is removed.

    Args:
        engine: What the runner runs.
        options: Fields of `LoadGenOptions`.
        dataset: Its first samples are fed; random values if there is none.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        MissingDependencyError: LoadGen is not installed.
        OptionsError: An option has a value it cannot have, or the batch does not fit the model.
        DatasetError: The samples do not fit.
        WorkerError: The runner crashed or hung; its process was ended.
    """
    checked = make_options(LoadGenOptions, options, "measure_with_loadgen")
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise MissingDependencyError(
            "LoadGen needs mlperf_loadgen, which this environment lacks.",
            "Install it: pip install 'deployment-workbench[loadgen]'.",
        )
    [feed] = make_feeds(engine, dataset, checked.batch, 1)
    begun, limit = time.monotonic(), 2 * checked.seconds + checked.hang_s

    def look(_fraction: float, message: str) -> None:
        elapsed = time.monotonic() - begun
        if elapsed > limit:
            raise WorkerError(
                f"{engine.model.name} on {engine.backend} hung under LoadGen: not done after {limit:g} s, so its "
                "process was ended.",
                "If it is just slow, allow more time with hang_s.",
            )
        progress(min(0.99, elapsed / (checked.seconds + 2)), message)

    log = jobs.run(_drive, engine, feed, checked, progress=look)
    offline, server = checked.scenario == "Offline", checked.scenario == "Server"
    rate = {
        "SingleStream": "result_qps_with_loadgen_overhead",
        "Server": "result_completed_samples_per_sec",
        "Offline": "result_samples_per_second",
    }[checked.scenario]
    return LoadGenStats(
        scenario=checked.scenario,
        batch=checked.batch,
        offered_per_second=float(log["result_scheduled_samples_per_sec"]) if server else None,
        queries_per_second=float(log[rate]),
        **{f"p{share}_ms": log[f"result_{share}.00_percentile_latency_ns"] / 1e6 for share in (50, 90, 95, 99)},
        mean_ms=log["result_mean_latency_ns"] / 1e6,
        completed=int(log["generated_samples_per_query"] if offline else log["result_query_count"]),
        valid=log["result_validity"] == "VALID",
        version=version("mlcommons-loadgen"),
        log=log,
    )


def _drive(engine: Engine, feed: Tensors, options: LoadGenOptions, progress: Progress) -> dict[str, Any]:
    """Runs in a subprocess, since LoadGen's threads call Python and end the process when that raises."""
    import mlperf_loadgen as loadgen

    progress(0.0, f"opening {engine.model.name} on {engine.backend}")
    with open_runner(engine) as runner, tempfile.TemporaryDirectory(prefix="loadgen-") as folder:
        call = runner.bind(feed)
        call()
        for _ in range(2):
            [notes] = send([call], Traffic("closed", _WARM_UP_SECONDS)).callers
        capacity = float(len(notes) / notes[-1, 3]) * 1e9
        errors: list[Exception] = []

        def issue(queries: Any) -> None:
            for query in queries:
                if not errors:
                    try:
                        call()
                    except Exception as error:
                        errors.append(error)
                loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query.id, 0, 0)])

        progress(0.0, f"LoadGen sends to {engine.model.name} on {engine.backend}")
        library = loadgen.ConstructQSL(1, 1, lambda _: None, lambda _: None)
        system = loadgen.ConstructSUT(issue, lambda: None)
        try:
            loadgen.StartTestWithLogSettings(
                system, library, _settings(loadgen, options, capacity), _logs(loadgen, folder)
            )
        finally:
            loadgen.DestroySUT(system)
            loadgen.DestroyQSL(library)
        if errors:
            raise errors[0]
        return _read_log(Path(folder) / "mlperf_log_detail.txt")


def _settings(loadgen: Any, options: LoadGenOptions, capacity: float) -> Any:
    rate = options.rate or _SHARE_OF_CAPACITY * capacity
    if (
        options.scenario == "Server" and rate > _MOST * capacity
    ):  # it would send all the queries, however long that takes
        raise OptionsError(
            f"{rate:.3g} queries/s are more than the {capacity:.3g} that the runner gets through.",
            "Choose a lower rate; measure_load shows what an overload does.",
        )
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, options.scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1000 * options.seconds)
    settings.max_duration_ms = 2 * settings.min_duration_ms
    settings.min_query_count = 1
    settings.single_stream_expected_latency_ns = max(1, round(1e9 / capacity))
    settings.offline_expected_qps = capacity
    settings.server_target_qps = rate
    settings.server_target_latency_ns = round(1e6 * options.target_ms)
    settings.schedule_rng_seed = options.seed
    return settings


def _logs(loadgen: Any, folder: str) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    settings = loadgen.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings


def _read_log(path: Path) -> dict[str, Any]:
    """The results in LoadGen's detailed log: one JSON object after a mark in each line."""
    marked = (line.partition(":::MLLOG ")[2] for line in path.read_text(encoding="utf-8").splitlines())
    entries = [json.loads(line) for line in marked if line]
    return {
        entry["key"]: entry["value"] for entry in entries if entry["key"].startswith(("result_", "generated_", "early"))
    }
