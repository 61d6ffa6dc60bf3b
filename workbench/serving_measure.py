"""Measures what the numbers of a serving package are derived from: how to divide the cores, and the load it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from workbench.backends import build_engine, engine_key
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import WorkerError
from workbench.jobs import Progress, part_of, silent
from workbench.measure._sweep_data import Counts
from workbench.measure.environment import read_environment
from workbench.measure.load import CurveOptions, Hang, LoadStats, MaxWait, Memory, measure_load_curve
from workbench.measure.sweep import Sweep, SweepOptions, SweepPoint, sweep
from workbench.options import make_options, option, to_builtins
from workbench.workspace import Workspace

_SWEEP_SHARE = 0.6  # of the progress


@dataclass(frozen=True)
class MeasureServingOptions:
    """How long, and which batches are tried."""

    batches: Annotated[Counts, option("Samples per query that are tried, e.g. 1, 2, 4.", example="1, 2, 4, 8")] = (
        1,
        2,
        4,
        8,
    )
    seconds: Annotated[
        float, option("How long each setting and each rate is measured.", minimum=0.2, maximum=600, unit="s")
    ] = 1.0
    steps: Annotated[int, option("Rates of arrivals to try.", minimum=2, maximum=100)] = 8
    rounds: Annotated[
        int,
        option("How often the settings near the best are measured again.", minimum=0, maximum=50, advanced=True),
    ] = 3
    max_wait_s: MaxWait = 2.0
    hang_s: Hang = 60.0
    memory_gb: Memory = 0.0


@dataclass(frozen=True)
class _Kept:
    """A curve as the workspace keeps it."""

    curve: tuple[LoadStats, ...]


def measure_serving(
    engine: Engine,
    dataset: Dataset | None = None,
    options: Mapping[str, Any] | MeasureServingOptions | None = None,
    *,
    workspace: Workspace | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> tuple[tuple[LoadStats, ...], Sweep]:
    """Looks for the best batch and division of the cores, then loads the best division of single queries.

    `Measurements(row, curve, sweep)` takes the result, and `export_package` derives a package's numbers from that.

    Args:
        engine: What is to be served; its option `threads` does not matter, as all are tried.
        dataset: Its samples are fed; random values if there is none.
        options: Fields of `MeasureServingOptions`.
        workspace: Where the results are kept, and found again by a rerun on the same machine; not kept if None.
        fresh: Measure again even if the workspace has the results.
        progress: Called with the share done and a short text; may raise to cancel.

    Returns:
        The load curve at the best division for the smallest batch, and the sweep.

    Raises:
        OptionsError: An option has a value it cannot have.
        DatasetError: The samples do not fit.
        ProviderError: The provider that would really run is not the one asked for.
        WorkerError: No setting could be measured.
    """
    checked = make_options(MeasureServingOptions, options, "measure_serving")
    swept = sweep(
        engine.model,
        engine.backend,
        SweepOptions(
            batches=checked.batches,
            seconds=checked.seconds,
            rounds=checked.rounds,
            hang_s=checked.hang_s,
            memory_gb=checked.memory_gb,
        ),
        backend_options={name: value for name, value in engine.options.items() if name != "threads"},
        dataset=dataset,
        workspace=workspace,
        fresh=fresh,
        progress=part_of(progress, 0.0, _SWEEP_SHARE),
    )
    best = best_alone(swept)
    chosen = {**engine.options, **({} if best.threads is None else {"threads": best.threads})}
    served = build_engine(engine.model, engine.backend, chosen)
    curve_options = CurveOptions(
        steps=checked.steps,
        batch=best.batch,
        instances=best.instances,
        seconds=checked.seconds,
        max_wait_s=checked.max_wait_s,
        hang_s=checked.hang_s,
        memory_gb=checked.memory_gb,
    )

    def measure() -> _Kept:
        report = part_of(progress, _SWEEP_SHARE, 1.0)
        return _Kept(measure_load_curve(served, curve_options, dataset=dataset, progress=report))

    if workspace is None:
        return measure().curve, swept
    key = {
        "engine": engine_key(served),
        "options": to_builtins(curve_options),
        "dataset": dataset.sha256 if dataset else "",
        "environment": to_builtins(read_environment()),
    }
    return workspace.result("curves", key, _Kept, measure, fresh=fresh).curve, swept


def best_alone(swept: Sweep) -> SweepPoint:
    """The division of the cores with the most throughput at the smallest batch: that of queries served one by one.

    Raises:
        WorkerError: None was measured.
    """
    measured = [point for point in swept.points if point.stats is not None]
    if not measured:
        reasons = dict.fromkeys(point.reason for point in swept.points if point.state == "failed")
        raise WorkerError(
            f"{swept.model} could not be measured on {swept.backend} in any setting: {'; '.join(reasons)}.",
            "Run its latency measurement first, which says more.",
        )
    smallest = min(point.batch for point in measured)
    return max((point for point in measured if point.batch == smallest), key=lambda point: point.samples_per_second)
