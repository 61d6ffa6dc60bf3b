"""Commands that measure: latency, accuracy, load, sweep, LoadGen, the time of each layer, and why it is what it is."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from workbench import load_report, profile_report, report, serving_measure
from workbench._flags import (
    Backend,
    Feed,
    Model,
    Provider,
    Root,
    Samples,
    Settings,
    Threads,
    backend_options,
    flags,
    read_settings,
    show_progress,
)
from workbench.backends import build_engine, predict
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import ModelError
from workbench.exporters import plan_package
from workbench.findings import explain as find_reasons
from workbench.findings.text import findings_text
from workbench.importers import load_dataset, load_model
from workbench.measure import sweep as sweeping
from workbench.measure.accuracy import AccuracyOptions, measure_accuracy
from workbench.measure.confusion import confusion_matrix, confusion_text
from workbench.measure.latency import LatencyOptions, measure_latency
from workbench.measure.load import CurveOptions, LoadOptions, measure_load, measure_load_curve
from workbench.measure.loadgen import LoadGenOptions, measure_with_loadgen
from workbench.measure.profile import ProfileOptions, profile_layers
from workbench.options import to_builtins
from workbench.package_measure import measure_for_package
from workbench.plugins import find_plugin
from workbench.recipe import Run
from workbench.serving_measurements import Measurements
from workbench.serving_plan import describe_plan
from workbench.workspace import Workspace, read_json

AccuracyFlags: Any = flags(AccuracyOptions)
CurveFlags: Any = flags(CurveOptions)
LatencyFlags: Any = flags(LatencyOptions)
LoadFlags: Any = flags(LoadOptions)
LoadGenFlags: Any = flags(LoadGenOptions)
ServingFlags: Any = flags(serving_measure.MeasureServingOptions)
ProfileFlags: Any = flags(ProfileOptions)
SpotFlags: Any = flags(sweeping.SpotOptions)
SweepFlags: Any = flags(sweeping.SweepOptions)


@dataclass(frozen=True)
class EngineFlags:
    """What is measured, on what, and what it is fed."""

    model: Model
    data: Feed = ""
    threads: Threads = 0
    provider: Provider = "CPUExecutionProvider"
    backend: Backend = "onnxruntime"
    settings: Settings = ()

    def build(self) -> Engine:
        """The model made ready for its backend."""
        options = {**backend_options(self.backend, self.threads, self.provider), **read_settings(self.settings)}
        return build_engine(load_model(self.model), self.backend, options)

    def samples(self) -> Dataset | None:
        """What it is fed; None for random values."""
        return _samples(self.data)


RunFile = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="A .json file that `run` wrote.")]


def latency(
    engine: Annotated[EngineFlags, tyro.conf.OmitArgPrefixes],
    measurement: Annotated[LatencyFlags, tyro.conf.OmitArgPrefixes] = LatencyFlags(),
) -> None:
    """Measure a model's latency as it is."""
    built = engine.build()
    [stats] = measure_latency([built], to_builtins(measurement), dataset=engine.samples(), progress=show_progress())
    for share in ("p10", "p50", "p90", "p95", "p99"):
        print(f"{share}  {report.format_estimate(getattr(stats, share))} ms")
    print(f"{stats.iterations} timings at batch {stats.batch}, {stats.threads} threads, on {built.device}")
    print(
        f"loading {stats.load_ms:.1f} ms, first inference {stats.first_ms:.1f} ms, "
        f"processor time {stats.cpu_ms:.3g} ms, peak memory {stats.peak_memory_mb:.0f} MB"
    )
    print(f"\n{stats.trust}")


def accuracy(
    model: Model,
    data: Samples,
    options: Annotated[AccuracyFlags, tyro.conf.OmitArgPrefixes] = AccuracyFlags(),
    confusion: Annotated[bool, tyro.conf.arg(help="Of a classifier, show which class it takes for which.")] = False,
    backend: Backend = "onnxruntime",
    settings: Settings = (),
    workspace: Root = None,
) -> None:
    """Measure how well a model does what it is for, on labelled samples."""
    engine = build_engine(load_model(model), backend, read_settings(settings))
    dataset = load_dataset(data, "evaluation")
    wanted, kept = to_builtins(options), Workspace(workspace)
    print(report.accuracy_text(measure_accuracy(engine, dataset, wanted, workspace=kept, progress=show_progress())))
    if confusion:
        outputs = predict(engine, dataset, workspace=kept)
        print(f"\n{confusion_text(confusion_matrix(outputs, dataset, wanted))}")


def load(
    engine: Annotated[EngineFlags, tyro.conf.OmitArgPrefixes],
    measurement: Annotated[LoadFlags, tyro.conf.OmitArgPrefixes] = LoadFlags(),
) -> None:
    """Measure latency and throughput under one load: queries under way at once, or arrivals at a rate."""
    built = engine.build()
    found = measure_load(built, to_builtins(measurement), dataset=engine.samples(), progress=show_progress())
    print(load_report.load_text(found))


def load_curve(
    engine: Annotated[EngineFlags, tyro.conf.OmitArgPrefixes],
    measurement: Annotated[CurveFlags, tyro.conf.OmitArgPrefixes] = CurveFlags(),
) -> None:
    """Measure latency at rising rates of arrivals, and find the knee."""
    built = engine.build()
    found = measure_load_curve(built, to_builtins(measurement), dataset=engine.samples(), progress=show_progress())
    print(load_report.curve_text(found))


def sweep(
    model: Model,
    data: Feed = "",
    backend: Backend = "onnxruntime",
    settings: Settings = (),
    measurement: Annotated[SweepFlags, tyro.conf.OmitArgPrefixes] = SweepFlags(),
    spot: Annotated[SpotFlags, tyro.conf.OmitArgPrefixes] = SpotFlags(),
    workspace: Root = None,
) -> None:
    """Find the batch, threads and instances with the highest throughput, and the best under a latency limit."""
    found = sweeping.sweep(
        load_model(model),
        backend,
        to_builtins(measurement),
        backend_options=read_settings(settings),
        dataset=_samples(data),
        workspace=Workspace(workspace),
        progress=show_progress(),
    )
    print(load_report.sweep_text(found, **to_builtins(spot)))


def measure_serving(
    engine: Annotated[EngineFlags, tyro.conf.OmitArgPrefixes],
    measurement: Annotated[ServingFlags, tyro.conf.OmitArgPrefixes] = ServingFlags(),
    exporter: Annotated[
        str, tyro.conf.arg(help="What is to write the package; server if not given, where that runs the backend.")
    ] = "",
    workspace: Root = None,
) -> None:
    """Measure what the numbers of a serving package are derived from, and show them."""
    built, samples = engine.build(), engine.samples()
    candidate = Candidate(built.model.name, built)
    wanted: dict[str, Any] = {"workspace": Workspace(workspace), "progress": show_progress()}
    if exporter or built.backend in find_plugin("exporters", "server").backends():
        found = measure_for_package(candidate, exporter or "server", samples, to_builtins(measurement), **wanted)
    else:
        found = Measurements(None, *serving_measure.measure_serving(built, samples, to_builtins(measurement), **wanted))
    plan = plan_package(candidate, exporter or "server", found, samples)
    assert found.sweep is not None
    parts = [load_report.sweep_text(found.sweep), load_report.curve_text(found.curve)]
    parts += [str(found.service)] if found.service else []
    parts.append(report.columns([("number", "value", "from"), *describe_plan(plan)], left=3))
    print("\n\n".join(parts))


def loadgen(
    engine: Annotated[EngineFlags, tyro.conf.OmitArgPrefixes],
    measurement: Annotated[LoadGenFlags, tyro.conf.OmitArgPrefixes] = LoadGenFlags(),
) -> None:
    """Let MLPerf's LoadGen drive the same runner, as a cross-check."""
    built = engine.build()
    found = measure_with_loadgen(built, to_builtins(measurement), dataset=engine.samples(), progress=show_progress())
    print(load_report.loadgen_text(found))


def profile(
    engine: Annotated[EngineFlags, tyro.conf.OmitArgPrefixes],
    measurement: Annotated[ProfileFlags, tyro.conf.OmitArgPrefixes] = ProfileFlags(),
    workspace: Root = None,
) -> None:
    """Show the time of each layer, as the backend really runs it."""
    found = profile_layers(
        engine.build(),
        to_builtins(measurement),
        dataset=engine.samples(),
        workspace=Workspace(workspace),
        progress=show_progress(),
    )
    print(profile_report.profile_text(found))


def explain(run: RunFile, data: Feed = "", workspace: Root = None) -> None:
    """Explain why the candidates of a finished run are as fast as they are, and what to change."""
    finished = read_run(run)
    samples = _samples(data or finished.recipe.data.evaluation)
    found = find_reasons(finished.comparison, dataset=samples, workspace=Workspace(workspace), progress=show_progress())
    print(findings_text(found))


def read_run(path: Path) -> Run:
    """Reads the result of a finished run.

    Raises:
        ModelError: The file is missing, or something else.
    """
    try:
        return read_json(path, Run)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not the result of a run: {error}.", "Look in the workspace's `runs`.") from None


def _samples(data: str) -> Dataset | None:
    return load_dataset(data, "evaluation") if data else None
