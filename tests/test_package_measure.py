"""A service is started and loaded before its package is written: how many workers it takes, and what it holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.loads import load_of
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import Cancelled, ExportError, OptionsError
from workbench.exporters import export_package
from workbench.model import Model
from workbench.package_measure import measure_for_package, measure_service
from workbench.serving_measurements import Measurements, ServiceCapacity
from workbench.serving_plan import plan_serving
from workbench.workspace import Workspace

SHORT = {"batches": [1], "seconds": 0.3, "steps": 2, "rounds": 0}
# No service gets through so much, and every one through so little: then the number of workers matters, or cannot.
FAST = Measurements(None, (load_of(1e6, 0.01), load_of(2e6, 0.01)))
SLOW = Measurements(None, (load_of(100.0, 9.0),))


@pytest.fixture(scope="module")
def candidate(digits: Model) -> Candidate:
    return Candidate("as it is", build_engine(digits, options={"threads": 1}))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("space"))


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def service(candidate: Candidate, evaluation: Dataset, space: Workspace, said: list[str]) -> ServiceCapacity:
    return measure_service(
        candidate, FAST, evaluation, SHORT, workspace=space, progress=lambda _, text: said.append(text)
    )


def test_the_fewest_workers_that_get_through_nearly_as_much_as_any_are_taken(service: ServiceCapacity) -> None:
    rates = {trial.workers: trial.queries_per_second for trial in service.trials}
    enough = [workers for workers, rate in rates.items() if 1.2 * rate >= max(rates.values())]

    assert list(rates)[:2] == [1, 2]
    assert max(rates) == service.cores
    assert service.workers == enough[0]
    assert service.queries_per_second == rates[service.workers]


def test_the_latencies_are_those_at_the_planned_rate(service: ServiceCapacity) -> None:
    lower = [0.7**number * service.queries_per_second for number in (1, 2, 3, 4)]  # the first that was kept up with
    assert any(service.rate == pytest.approx(rate) for rate in lower)
    assert service.kept_up or service.rate == pytest.approx(lower[-1])
    assert {check.name for check in service.trust.checks} >= {"answers", "sender", "noise", "other load", "clock"}
    assert 0 < service.p50_ms <= service.p99_ms
    assert 30 < service.memory_mb < 4000


def test_one_worker_that_does_what_the_inference_does_is_tried_alone(
    candidate: Candidate, evaluation: Dataset, space: Workspace
) -> None:
    said: list[str] = []
    found = measure_service(
        candidate,
        SLOW,
        evaluation,
        SHORT,
        workspace=space,
        progress=lambda _, text: said.append(text),
    )

    assert [trial.workers for trial in found.trials] == [1]
    assert not [text for text in said if "2 workers" in text]


def test_a_rerun_starts_nothing(
    candidate: Candidate, evaluation: Dataset, space: Workspace, service: ServiceCapacity, said: list[str]
) -> None:
    assert any("starting a service" in text for text in said)
    again: list[str] = []
    found = measure_service(
        candidate, FAST, evaluation, SHORT, workspace=space, progress=lambda _, text: again.append(text)
    )

    assert found == service
    assert again == []


def test_the_package_gets_the_workers_that_were_found(
    candidate: Candidate, evaluation: Dataset, service: ServiceCapacity, tmp_path: Path
) -> None:
    found = replace(FAST, service=replace(service, workers=2))

    def workers(exporter: str, folder: str, config: str, **options: object) -> int:
        package = export_package(
            candidate, exporter, options, sample=evaluation, measured=found, directory=tmp_path / folder
        )
        kept: int = json.loads((package.directory / config).read_text())["workers"]
        return kept

    assert workers("server", "own", "config.json") == 2
    assert workers("server", "asked", "config.json", workers=1) == 1
    assert workers("kubernetes", "cluster", "base/config.json") == 2
    assert "It runs 2 workers" in (tmp_path / "own" / "README.md").read_text()


def test_what_our_own_server_takes_says_nothing_of_tritons(
    candidate: Candidate, evaluation: Dataset, service: ServiceCapacity, tmp_path: Path
) -> None:
    found = replace(FAST, service=service)
    package = export_package(candidate, "triton", sample=evaluation, measured=found, directory=tmp_path / "triton")
    plan = json.loads((package.directory / "provenance" / "plan.json").read_text())

    assert plan["capacity"]["value"] == plan_serving(candidate, FAST).capacity.value
    assert plan["workers"] is None  # those are processes of our own server
    assert "| workers |" not in (package.directory / "README.md").read_text()


def test_without_samples_random_values_are_sent(tiny: Model) -> None:
    found = measure_service(Candidate("tiny", build_engine(tiny)), SLOW, None, SHORT)

    assert found.queries_per_second > 1


def test_what_the_exporter_does_not_run_is_refused_before_anything_is_measured(
    candidate: Candidate, make_other: Callable[[str], Candidate], workspace: Workspace
) -> None:
    with pytest.raises(ExportError, match=r"as it is is built for mnn\. Choose a candidate"):
        measure_for_package(make_other("mnn"), "server", None, SHORT, workspace=workspace)
    assert not (workspace.root / "sweeps").exists()


@pytest.fixture
def make_other(candidate: Candidate) -> Callable[[str], Candidate]:
    """The same candidate, said to be built for another backend."""
    return lambda backend: replace(candidate, engine=replace(candidate.engine, backend=backend))


def test_options_it_cannot_have_are_refused(candidate: Candidate) -> None:
    with pytest.raises(OptionsError, match="no option"):
        measure_service(candidate, FAST, None, {"rate": 1})


def test_a_cancel_leaves_no_service_behind(
    candidate: Candidate,
    evaluation: Dataset,
    processes_in: Callable[[Path], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def cancel(share: float, text: str) -> None:
        if "at work" in text:
            raise Cancelled

    with pytest.raises(Cancelled):
        measure_service(candidate, FAST, evaluation, SHORT, progress=cancel)
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"]
    assert processes_in(tmp_path) == []
