"""One call measures what a package's numbers are derived from, keeps it, and says when nothing could be measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import CommandLine, ModelFile
from tests.loads import point_of, sweep_of
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.engine import Engine
from workbench.errors import Cancelled, OptionsError, WorkerError
from workbench.importers import load_dataset, load_model
from workbench.load_report import curve_text
from workbench.measure.load import LoadStats
from workbench.measure.sweep import Sweep, SweepPoint
from workbench.model import Model
from workbench.options import make_options
from workbench.recipe import read_recipe
from workbench.serving_measure import MeasureServingOptions, best_alone, measure_serving
from workbench.serving_measurements import Measurements
from workbench.serving_plan import describe_plan, plan_serving
from workbench.workspace import Workspace

SHORT = {"batches": [1], "seconds": 0.2, "steps": 2, "rounds": 0}
WORDS = ("batches", "1", "seconds", "0.2", "steps", "2", "rounds", "0")

Found = tuple[tuple[LoadStats, ...], Sweep]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_file: ModelFile) -> Path:
    """A model and its samples, and beside them the workspace that keeps what was measured."""
    folder = tmp_path_factory.mktemp("served")
    model_file(folder / "tiny.onnx")
    np.savez(folder / "data.npz", x=np.eye(4, dtype=np.float32))
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return build_engine(load_model(folder / "tiny.onnx"))


def measured(folder: Path, engine: Engine, said: list[tuple[float, str]]) -> Found:
    return measure_serving(
        engine,
        load_dataset(folder / "data.npz", "evaluation"),
        SHORT,
        workspace=Workspace(folder / "space"),
        progress=lambda share, text: said.append((share, text)),
    )


@pytest.fixture(scope="module")
def said() -> list[tuple[float, str]]:
    return []


@pytest.fixture(scope="module")
def found(folder: Path, engine: Engine, said: list[tuple[float, str]]) -> Found:
    return measured(folder, engine, said)


def test_the_load_is_measured_at_the_best_division(found: Found, said: list[tuple[float, str]]) -> None:
    curve, swept = found
    best = best_alone(swept)

    assert {(one.batch, one.threads, one.instances) for one in curve} == {(1, best.threads, best.instances)}
    assert len(curve) == 2
    assert all(one.pattern == "poisson" for one in curve)
    assert any("batch 1" in text for _, text in said)
    assert all(0 <= share <= 1 for share, _ in said)


def test_a_rerun_measures_nothing(folder: Path, engine: Engine, found: Found) -> None:
    said: list[tuple[float, str]] = []

    assert measured(folder, engine, said) == found
    assert said == []


def test_the_plan_that_follows_holds_together(engine: Engine, found: Found) -> None:
    curve, swept = found
    plan = plan_serving(Candidate("tiny", engine), Measurements(None, curve, swept))

    assert (plan.threads.value, plan.instances.value) == (curve[0].threads, curve[0].instances)
    usual = {name for name, number in plan.numbers.items() if not number.measured}
    assert usual == {"alert_error_ratio", "workers"}, describe_plan(plan)
    assert any(plan.capacity.value == pytest.approx(one.queries_per_second, rel=0.01) for one in curve)
    assert 0 < plan.rate_per_replica.value < plan.capacity.value
    assert 0 < plan.p50_ms.value <= plan.p99_ms.value < plan.alert_p99_ms.value
    assert plan.cpu_cores.value <= swept.environment.cores
    assert plan.memory_mb.value > curve[0].peak_memory_mb


def test_the_best_division_is_that_of_single_queries() -> None:
    swept = sweep_of(point_of(1, 250, 4.0), point_of(1, 400, 5.0, instances=2), point_of(4, 900, 8.0))
    assert best_alone(swept).instances == 2

    fixed = sweep_of(point_of(4, 900, 8.0), point_of(4, 800, 8.0, instances=2))
    assert (best_alone(fixed).batch, best_alone(fixed).instances) == (4, 1)


def test_nothing_measured_is_said_with_the_reason() -> None:
    failed = sweep_of(SweepPoint(1, 1, 1, "failed", "it took too much memory"), SweepPoint(2, 1, 1, "skipped", "no"))
    with pytest.raises(WorkerError, match=r"tiny could not be measured on onnxruntime .*: it took too much memory\."):
        best_alone(failed)


def test_a_cancel_goes_through(tiny: Model) -> None:
    def cancel(share: float, text: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        measure_serving(build_engine(tiny), None, SHORT, progress=cancel)


@pytest.mark.parametrize(
    ("options", "said"), [({"batches": []}, "no batches"), ({"seconds": 0}, "seconds"), ({"rate": 1}, "no option")]
)
def test_options_it_cannot_have_are_refused(tiny: Model, options: dict[str, object], said: str) -> None:
    with pytest.raises(OptionsError, match=said):
        measure_serving(build_engine(tiny), None, options)


def test_the_usual_batches_are_few() -> None:
    assert MeasureServingOptions().batches == (1, 2, 4, 8)


def test_the_command_shows_the_numbers_and_their_sources(command_line: CommandLine, folder: Path, found: Found) -> None:
    short = [f"--{word}" if word.isalpha() else word for word in WORDS]
    ended = command_line(
        "measure-serving", "tiny.onnx", "--data", "data.npz", "--workspace", "space", *short, cwd=folder
    )

    assert ended.returncode == 0, ended.stderr
    for text in ("Highest throughput", "knee", "rate per replica", "queries/s"):
        assert text in ended.stdout
    assert curve_text(found[0]) in ended.stdout  # as it was measured before
    assert "Over HTTP, " in ended.stdout
    assert "the most over HTTP with" in ended.stdout


def test_an_export_measures_first_where_it_is_asked_to(command_line: CommandLine, folder: Path, found: Found) -> None:
    short = [f"--measurement.{word}" if word.isalpha() else word for word in WORDS]
    words = ("tiny.onnx", "--sample", "data.npz", "--directory", "package", "--workspace", "space", "--measure")
    quick = ("--latency.seconds", "0.2", "--latency.launches", "1")
    ended = command_line("export", "server", *words, *short, *quick, cwd=folder)

    assert ended.returncode == 0, ended.stderr
    kept = json.loads((folder / "package" / "provenance" / "measurements.json").read_text())
    assert [one["queries_per_second"] for one in kept["curve"]] == [one.queries_per_second for one in found[0]]
    plan = json.loads((folder / "package" / "provenance" / "plan.json").read_text())
    assert plan["capacity"]["source"].startswith("the most over HTTP")
    recipe = read_recipe(folder / "package" / "provenance" / "recipe.json")
    assert recipe.export is not None
    assert recipe.export.measure == make_options(MeasureServingOptions, SHORT, "it")  # so a rerun measures as this did
    assert plan["capacity"]["value"] == pytest.approx(held_by(kept["service"]), rel=1e-3)
    assert json.loads((folder / "package" / "config.json").read_text())["workers"] == kept["service"]["workers"]


def held_by(service: dict[str, Any]) -> float:
    """What the chosen number of workers got through."""
    rates = {trial["workers"]: trial["queries_per_second"] for trial in service["trials"]}
    return float(rates[service["workers"]])
