"""The Export panel: the plan before and after measuring, the package, its verification, its trial, and its code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ipywidgets import HTML

from tests.conftest import ModelFile
from tests.loads import load_of, point_of, sweep_of
from widgets import Export
from workbench.backends import build_engine
from workbench.comparison import Candidate, Comparison, compare
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ExportError
from workbench.importers import load_dataset, load_model
from workbench.recipe import run_recipe
from workbench.workspace import ROOT_VARIABLE, Workspace

LATENCY = {"seconds": 0.2, "launches": 1}
SHORT = {"batches": [1], "seconds": 0.2, "steps": 2, "rounds": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_file: ModelFile) -> Path:
    """A model and labelled samples, and the workspace beside them."""
    folder = tmp_path_factory.mktemp("exported")
    model_file(folder / "tiny.onnx")
    np.savez(folder / "data.npz", x=np.eye(4, dtype=np.float32)[[0, 1, 2]], labels=np.arange(3))
    return folder


@pytest.fixture(scope="module")
def evaluation(folder: Path) -> Dataset:
    return load_dataset(folder / "data.npz", "evaluation")


@pytest.fixture(scope="module")
def comparison(folder: Path, evaluation: Dataset) -> Comparison:
    candidate = Candidate("original", build_engine(load_model(folder / "tiny.onnx"), options={"threads": 1}))
    return compare([candidate], evaluation, LATENCY, workspace=Workspace(folder / "space"))


@pytest.fixture(scope="module")
def panel(folder: Path, comparison: Comparison, evaluation: Dataset) -> Iterator[Export]:
    """Measured for serving, and exported with a key."""
    panel = Export(comparison=comparison, evaluation=evaluation, workspace=str(folder / "space"))
    panel.measuring.set(SHORT)
    panel.start_measuring().wait()
    panel.options.set({"api_key": "environment"})
    panel.start().wait()
    yield panel
    panel.close()


@pytest.fixture
def fresh(tmp_path: Path, comparison: Comparison, evaluation: Dataset) -> Export:
    return Export(comparison=comparison, evaluation=evaluation, workspace=str(tmp_path / "space"))


def usual(panel: Export) -> set[str]:
    assert panel.plan is not None
    return {name for name, number in panel.plan.numbers.items() if not number.measured}


# --- before the export ---------------------------------------------------------------------------------------------


def test_the_plan_is_there_before_anything_is_written(fresh: Export, tmp_path: Path) -> None:
    assert usual(fresh) >= {"instances", "max_batch"}
    shown = fresh.summary()
    assert "Only single inferences were measured" in shown
    assert "<small>usual value</small>off, as larger batches were not measured" in shown
    assert "one after the other" in shown
    assert not (tmp_path / "space").exists()


def test_without_a_candidate_there_is_no_plan() -> None:
    panel = Export()
    assert panel.plan is None
    assert "Measure candidates first" in panel.summary()
    assert panel.measure_button.disabled
    with pytest.raises(ExportError, match="no measured candidate to measure"):
        panel.start_measuring().wait()


def test_without_samples_nothing_is_written(comparison: Comparison, tmp_path: Path) -> None:
    panel = Export(comparison=comparison, workspace=str(tmp_path))
    with pytest.raises(DatasetError, match="Load evaluation samples"):
        panel.start().wait()


def test_measuring_for_serving_replaces_what_was_estimated(panel: Export) -> None:
    assert usual(panel) == {"alert_error_ratio"}
    assert "the most over HTTP with" in panel.summary()
    assert "Over HTTP, " in panel.summary()
    assert "Highest throughput" in panel.summary()


def test_what_our_own_server_takes_says_nothing_of_another(panel: Export) -> None:
    panel.exporter.value = "triton"
    try:
        assert usual(panel) == {"alert_error_ratio"}
        assert panel.plan is not None
        assert "workers" not in panel.plan.numbers
        assert panel.plan.capacity.source.startswith("the knee of 2 measured rates")
    finally:
        panel.exporter.value = "server"


def test_what_was_measured_is_found_again(
    panel: Export, comparison: Comparison, evaluation: Dataset, folder: Path
) -> None:
    again = Export(comparison=comparison, evaluation=evaluation, workspace=str(folder / "space"))
    again.measuring.set(SHORT)
    again.start_measuring().wait()
    assert again.plan == panel.plan
    assert (again.state, again.package) == ("idle", None)  # the step is not done by that
    assert panel.state == "done"


def test_the_load_tests_result_is_used_for_the_same_candidate_only(fresh: Export, comparison: Comparison) -> None:
    engine = comparison.original.candidate.engine
    curve = tuple(load_of(rate, 2.0) for rate in (100.0, 200.0))
    fresh.curve, fresh.curve_engine = curve, replace(engine, options={**engine.options, "graph_level": "basic"})
    assert "the knee of" not in fresh.summary()

    fresh.curve_engine = replace(engine, options={**engine.options, "threads": 2})
    assert "From the Load test panel." in fresh.summary()
    assert "the knee of 2 measured rates" in fresh.summary()

    fresh.sweep, fresh.sweep_engine = sweep_of(point_of(1, 300.0, 3.0), point_of(4, 900.0, 4.0)), engine
    assert fresh.plan is not None
    assert fresh.plan.max_batch.value == 4


def test_rates_at_another_division_of_the_cores_than_the_sweeps_best_go_before_it(
    fresh: Export, comparison: Comparison
) -> None:
    engine = comparison.original.candidate.engine
    fresh.curve, fresh.curve_engine = (load_of(100.0, 2.0), load_of(200.0, 2.0)), engine
    fresh.sweep, fresh.sweep_engine = sweep_of(point_of(1, 900.0, 2.0, instances=2)), engine
    assert fresh.plan is not None
    assert fresh.plan.instances.value == 1
    assert "measured at another division" in fresh.summary()


def test_rates_of_larger_queries_are_no_rates_of_requests(fresh: Export, comparison: Comparison) -> None:
    fresh.curve = (load_of(100.0, 2.0, batch=8), load_of(200.0, 2.0, batch=8))
    fresh.curve_engine = comparison.original.candidate.engine
    assert "the knee of" not in fresh.summary()


def test_a_backend_that_the_exporter_does_not_run_is_said_in_words(
    comparison: Comparison, evaluation: Dataset, tmp_path: Path
) -> None:
    pytest.importorskip("MNN")
    engine = build_engine(comparison.original.candidate.engine.model, "mnn")
    row = replace(comparison.original, candidate=Candidate("phone", engine))
    panel = Export(comparison=replace(comparison, rows=(row,)), evaluation=evaluation, workspace=str(tmp_path))
    said = [child.value for child in panel.form.children if isinstance(child, HTML)]
    assert any("phone is built for mnn" in text for text in said)
    for start in (panel.start, panel.start_measuring):
        with pytest.raises(ExportError, match=r"phone is built for mnn\. Choose a candidate"):
            start().wait()
    assert not (tmp_path / "sweeps").exists()


# --- the package ---------------------------------------------------------------------------------------------------


def test_the_package_holds_what_was_measured(panel: Export) -> None:
    assert panel.package is not None
    measured = json.loads((panel.package.directory / "provenance" / "measurements.json").read_text())
    assert len(measured["curve"]) == 2
    assert measured["sweep"]["points"]
    readme = (panel.package.directory / "README.md").read_text()
    assert "top-1 100.0 % on 3 samples" in readme
    assert measured["service"]["trials"]
    assert "the most over HTTP with" in readme


def test_it_says_where_the_package_lies_and_how_it_is_started(panel: Export) -> None:
    assert panel.package is not None
    shown = panel.summary()
    assert str(panel.package.directory) in shown
    assert "WORKBENCH_API_KEY=… python serve.py" in shown
    assert "sha256:" in shown


def test_a_package_with_a_key_is_tried_with_one(panel: Export) -> None:
    panel.start_trial().wait()
    assert panel.trial is not None
    assert (panel.trial.status, panel.trial.matches, panel.trial.keyed) == (200, True, True)
    assert "200 in" in panel.summary()
    assert "one made for this trial" in panel.summary()


def test_every_fault_of_a_changed_package_is_listed(fresh: Export) -> None:
    fresh.start().wait()
    assert "✓ all" in fresh.summary()
    fresh.start_verification().wait()
    assert "are as they were exported, and so is the fingerprint" in fresh.summary()
    assert fresh.package is not None
    (fresh.package.directory / "serve.py").write_text("print('mine')\n")
    (fresh.package.directory / "more.py").touch()
    (fresh.package.directory / "Dockerfile").unlink()
    fresh.start_verification().wait()
    assert "3 faults" in fresh.summary()
    for words in ("serve.py was changed", "more.py was added", "Dockerfile is missing"):
        assert words in fresh.summary()
    fresh.start().wait()  # the same package is found in the workspace, which is no reason to trust it
    assert "3 faults" in fresh.summary()


def test_a_package_for_another_program_shows_how_that_is_started(fresh: Export) -> None:
    fresh.exporter.value = "triton"
    fresh.start().wait()
    assert "tritonserver --model-repository=/models" in fresh.summary()
    assert fresh.try_button.disabled
    assert not fresh.verify_button.disabled


def test_a_key_in_a_file_signs_the_package(fresh: Export, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    pytest.importorskip("OpenSSL")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(private.private_bytes(*form))
    fresh.sign_key.value = str(tmp_path / "key.pem")
    fresh.start().wait()
    assert "signed; workbench verify" in fresh.summary()
    assert f"sign_key={str(tmp_path / 'key.pem')!r}" in fresh.code()[0]

    fresh.sign_key.value = str(tmp_path / "none.pem")
    with pytest.raises(ExportError, match=r"none\.pem"):
        fresh.start().wait()


# --- the code ------------------------------------------------------------------------------------------------------


def test_the_shown_python_writes_the_same_package(
    panel: Export,
    comparison: Comparison,
    evaluation: Dataset,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(folder / "space"))
    names: dict[str, Any] = {"comparison": comparison, "evaluation": evaluation}
    exec(panel.code()[0], names)
    assert names["package"] == panel.package
    assert "are as they were exported" in capsys.readouterr().out


def test_the_shown_recipe_writes_the_same_package(panel: Export, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    flow = {"model": "tiny.onnx", "data": "data.npz", "options": {"threads": 1}, "latency": LATENCY}
    run = run_recipe({**flow, **yaml.safe_load(panel.code()[1])}, workspace=Workspace(folder / "space"))
    assert run.package == panel.package


def test_code_that_is_shown_follows_the_form(fresh: Export) -> None:
    fresh._code_button.value = True
    fresh.options.set({"grpc": True})
    assert "grpc&#x27;: True" in fresh._code_box.value
    fresh.directory.value = "service"
    assert "directory=&#x27;service&#x27;" in fresh._code_box.value
    fresh.exporter.value = "triton"
    assert "grpc" not in fresh._code_box.value


def test_code_without_measuring_does_not_measure(fresh: Export) -> None:
    python, recipe = fresh.code()
    assert "measure_for_package" not in python
    assert yaml.safe_load(recipe) == {"export": {"exporter": "server"}}
