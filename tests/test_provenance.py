"""What a package says of where it comes from: how it was made, what was measured, on what, and what it is made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.loads import load_of, point_of, sweep_of
from tests.made import latency_of, near
from workbench.backends import build_engine
from workbench.comparison import Candidate, Row
from workbench.dataset import Dataset
from workbench.exporters import export_package
from workbench.importers import load_dataset
from workbench.measure.load import LoadStats
from workbench.measure.sweep import Sweep
from workbench.model import Model, Step
from workbench.options import to_builtins
from workbench.provenance import Origin
from workbench.provenance._record import recipe_of
from workbench.recipe import make_candidate, read_recipe, run_recipe
from workbench.serving_measurements import Measurements
from workbench.serving_plan import plan_serving
from workbench.transforms import transform
from workbench.workspace import Workspace, read_json

CURVE = (load_of(100, 4.0), load_of(300, 5.0))
SWEEP = sweep_of(point_of(1, 250, 4.0), point_of(4, 900, 8.0))


@pytest.fixture(scope="module")
def candidate(digits: Model, shared_workspace: Workspace) -> Candidate:
    return Candidate("half", build_engine(transform(digits, "float16", workspace=shared_workspace)))


@pytest.fixture(scope="module")
def found(candidate: Candidate) -> Measurements:
    return Measurements(Row(candidate, latency_of(4.0), near(1), near(1), near(1)), CURVE, SWEEP)


@pytest.fixture(scope="module")
def exported(
    candidate: Candidate,
    found: Measurements,
    evaluation: Dataset,
    shared_workspace: Workspace,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "package"
    export_package(candidate, "server", sample=evaluation, measured=found, directory=folder, workspace=shared_workspace)
    return folder


@pytest.fixture
def package(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "package"))


def document(package: Path, name: str) -> Any:
    return json.loads((package / "provenance" / f"{name}.json").read_text())


def test_the_recipe_makes_the_same_candidate_again(
    package: Path, candidate: Candidate, digits: Model, workspace: Workspace
) -> None:
    recipe = read_recipe(package / "provenance" / "recipe.json")
    [wanted] = recipe.candidates
    again = make_candidate(digits, to_builtins(wanted), workspace=workspace)

    assert recipe.export is not None
    assert (recipe.export.exporter, again.name) == ("server", "half")
    assert again.engine.model.sha256 == candidate.engine.model.sha256
    assert again.engine.options == candidate.engine.options


def test_the_recipe_of_int8_runs_once_its_names_are_paths(
    digits: Model,
    calibration: Dataset,
    evaluation: Dataset,
    npz: Callable[..., Path],
    shared_workspace: Workspace,
    tmp_path: Path,
) -> None:
    file = npz("few.npz", **calibration.inputs)
    model = transform(digits, "quantize_static", dataset=load_dataset(file, "calibration"), workspace=shared_workspace)
    int8 = Candidate("int8", build_engine(transform(model, "simplify", workspace=shared_workspace)))
    row = Row(int8, dataclasses.replace(latency_of(4.0), batch=8, launches=3), near(1), near(1), near(1))
    export_package(int8, sample=evaluation, measured=row, directory=tmp_path / "package", workspace=shared_workspace)
    recipe = document(tmp_path / "package", "recipe")

    assert recipe["data"] == {"evaluation": "digits evaluation samples", "calibration": "few.npz"}
    assert recipe["latency"] == {"batch": 8, "launches": 3}
    recipe |= {"model": "sample:digits", "latency": {"seconds": 0.2, "launches": 1}}
    recipe["data"] = {"evaluation": "sample:digits", "calibration": str(file)}
    again = run_recipe(recipe, workspace=Workspace(tmp_path / "elsewhere")).comparison["int8"].candidate.engine
    assert again.model.sha256 == int8.engine.model.sha256


def test_a_recipe_without_the_name_of_its_samples_says_that_it_needs_some(candidate: Candidate, tiny: Model) -> None:
    model = dataclasses.replace(tiny, history=(Step("quantize_static"),))  # whose file says nothing of it
    engine = dataclasses.replace(candidate.engine, model=model)
    origin = Origin(Candidate("a", engine), "a", "server", {}, "corners", Measurements(), plan_serving(candidate))

    assert recipe_of(origin)["data"] == {"evaluation": "corners", "calibration": "calibration samples"}


def test_a_recipe_begins_after_what_recipes_cannot_do(candidate: Candidate, tiny: Model) -> None:
    history = (Step("simplify"), Step("distil", {"epochs": 4}), *candidate.engine.model.history)
    model = dataclasses.replace(tiny, history=history)
    engine = dataclasses.replace(candidate.engine, model=model)
    origin = Origin(
        Candidate("small", engine), "small", "server", {}, "corners", Measurements(), plan_serving(candidate)
    )
    recipe = read_recipe(recipe_of(origin))

    assert [list(step) for step in to_builtins(recipe.candidates[0].transforms)] == [["float16"]]


def test_the_measurements_are_kept_as_they_were(package: Path, found: Measurements) -> None:
    kept = document(package, "measurements")
    assert found.row is not None

    assert kept["row"]["latency"] == to_builtins(found.row.latency)
    assert kept["candidate"]["backend"] == "onnxruntime"
    for name, cls, value in (("curve", tuple[LoadStats, ...], CURVE), ("sweep", Sweep, SWEEP)):
        (package / "part.json").write_text(json.dumps(kept[name]))
        assert read_json(package / "part.json", cls) == value  # type: ignore[arg-type]


def test_the_plan_has_every_number_with_its_source(
    package: Path, candidate: Candidate, found: Measurements, evaluation: Dataset
) -> None:
    plan = plan_serving(candidate, found, evaluation)
    kept = document(package, "plan")

    assert kept == to_builtins(plan)
    assert all(kept[name]["source"] for name in plan.numbers)


def test_the_environment_names_machine_and_versions(package: Path) -> None:
    environment = document(package, "environment")

    assert environment["machine"]["cores"] == len(os.sched_getaffinity(0))
    for library in ("deployment-workbench", "numpy", "onnx", "onnxruntime"):
        assert environment["versions"][library] == version(library)


def test_what_was_not_measured_is_null(tiny: Model, tiny_data: Dataset, tmp_path: Path) -> None:
    export_package(Candidate("tiny", build_engine(tiny)), sample=tiny_data, directory=tmp_path / "package")
    kept = document(tmp_path / "package", "measurements")

    assert (kept["row"], kept["curve"], kept["sweep"]) == (None, [], None)


def test_no_folder_of_this_machine_is_named(package: Path, shared_workspace: Workspace) -> None:
    for path in (package / "provenance").iterdir():
        assert str(shared_workspace.root) not in path.read_text()


def test_the_bill_of_materials_is_what_cyclonedx_allows(package: Path) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    text = (package / "provenance" / "bom.cdx.json").read_text()
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)

    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"library"', '"librarian"')) is not None


def test_the_bill_of_materials_names_the_pinned_libraries_and_the_model(package: Path) -> None:
    parts = document(package, "bom.cdx")["components"]
    libraries = {part["name"]: part for part in parts if part["type"] == "library"}
    pins = dict(line.split("==") for line in (package / "requirements.txt").read_text().split())

    assert {name: part["version"] for name, part in libraries.items()} == pins
    assert libraries["numpy"]["purl"] == f"pkg:pypi/numpy@{version('numpy')}"
    assert libraries["uvicorn"]["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert all(part.get("licenses") for part in libraries.values())
    [model] = [part for part in parts if part["type"] == "machine-learning-model"]
    [file] = model["components"]
    assert file["hashes"] == [
        {"alg": "SHA-256", "content": hashlib.sha256((package / file["name"]).read_bytes()).hexdigest()}
    ]
    assert model["hashes"] == file["hashes"]
    assert "float16" in model["pedigree"]["notes"]
    assert model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["type"] == "latency p50 ms"
