"""What every exporter must do, those of other packages too: a package that runs as it is, on its own."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import Cancelled, DatasetError, ExportError, OptionsError, WorkspaceError
from workbench.exporters import CHECKSUMS, MANIFEST, Package, export_package, read_package
from workbench.importers import load_model
from workbench.model import Model
from workbench.options import option_fields
from workbench.plugins import find_plugin, list_plugins
from workbench.provenance import verify_package
from workbench.trial import try_package
from workbench.workspace import Workspace

NAMES = [plugin.name for plugin in list_plugins("exporters") if plugin.available]
STARTED = [name for name in NAMES if find_plugin("exporters", name).COMMAND]  # the others are for another program

starts = pytest.mark.parametrize("name", STARTED, indirect=True)


SLOW = ("tf_serving",)  # converts the model with TensorFlow
ROWS = {name: pytest.param(name, marks=pytest.mark.heavy) if name in SLOW else name for name in NAMES}


@pytest.fixture(scope="session", params=ROWS.values())
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def package(name: str, digits: Model, evaluation: Dataset, shared_workspace: Workspace) -> Package:
    candidate = Candidate("as it is", build_engine(digits))
    return export_package(candidate, name, sample=evaluation, workspace=shared_workspace)


@pytest.fixture
def tiny_candidate(tiny: Model) -> Candidate:
    return Candidate("as it is", build_engine(tiny))


def test_the_file_explains_itself(name: str) -> None:
    plugin = find_plugin("exporters", name)

    assert plugin.__doc__
    assert plugin.__doc__.splitlines()[0].endswith(".")
    assert isinstance(plugin.REQUIRES, dict)
    assert isinstance(plugin.COMMAND, tuple)
    assert plugin.Options.__dataclass_params__.frozen
    assert [field.name for field in option_fields(plugin.Options) if not field.help] == []
    assert plugin.Options() == plugin.Options()


def test_every_file_is_checksummed(package: Package) -> None:
    ended = subprocess.run(
        ["sha256sum", "--check", "--strict", CHECKSUMS],
        cwd=package.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    verified = {line.removesuffix(": OK") for line in ended.stdout.splitlines()}
    files = {str(path.relative_to(package.directory)) for path in package.directory.rglob("*") if path.is_file()}

    assert verified == files - {CHECKSUMS}


def test_it_says_where_it_comes_from_and_that_holds(package: Package) -> None:
    verification = verify_package(package.directory)
    validation, schema = pytest.importorskip("cyclonedx.validation.json"), pytest.importorskip("cyclonedx.schema")
    bill = (package.directory / "provenance" / "bom.cdx.json").read_text()

    assert verification.ok, str(verification)
    assert {f"{name}.json" for name in ("recipe", "measurements", "plan", "environment", "bom.cdx")} == {
        path.name for path in (package.directory / "provenance").iterdir()
    }
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(bill) is None


def test_a_changed_file_is_noticed(package: Package, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package.directory, copy)
    (copy / MANIFEST).write_text("{}")
    ended = subprocess.run(["sha256sum", "--check", "--quiet", CHECKSUMS], cwd=copy, capture_output=True, check=False)

    assert ended.returncode == 1
    assert MANIFEST.encode() in ended.stdout


@starts
def test_it_answers_from_wherever_it_lies_without_the_workbench(package: Package, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "package"
    shutil.copytree(package.directory, moved)
    trial = try_package(read_package(moved))

    assert trial.matches
    assert trial.status == 200
    assert trial.milliseconds > 0
    assert trial.verdict.startswith("as expected")
    for path in moved.rglob("*.py"):
        assert not re.search(r"(import|from) workbench", path.read_text()), path
    assert not [path for path in moved.rglob("*") if path.is_symlink()]


def test_no_path_of_this_machine_is_in_it(package: Package) -> None:
    for path in package.directory.rglob("*"):
        if path.is_file() and path.suffix != ".onnx":
            assert str(Path.cwd()).encode() not in path.read_bytes(), path


@starts
def test_a_wrong_answer_is_noticed(package: Package, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package.directory, copy)
    answer = json.loads((copy / "sample_response.json").read_text())
    answer["outputs"][0]["data"][3] += 1.0
    (copy / "sample_response.json").write_text(json.dumps(answer))
    trial = try_package(read_package(copy))

    assert not trial.matches
    assert trial.max_abs_error == pytest.approx(1, abs=0.01)
    assert trial.verdict.startswith("NOT as expected")


@starts
def test_a_package_that_cannot_start_says_what_it_wrote(package: Package, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package.directory, copy)
    for model in copy.rglob("*.onnx"):
        model.write_bytes(b"damaged")
    with pytest.raises(ExportError, match=r"copy did not become ready .*It wrote: .*(model|onnx)"):
        try_package(read_package(copy))


@starts
@pytest.mark.parametrize("lost", ["sample_request.json", "sample_response.json"])
def test_a_package_without_its_sample_says_so(package: Package, tmp_path: Path, lost: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package.directory, copy)
    (copy / lost).unlink()
    with pytest.raises(ExportError, match=f"{lost}.*Export the candidate again"):
        try_package(read_package(copy))


@pytest.mark.parametrize("name", [row for name, row in ROWS.items() if name not in STARTED], indirect=True)
def test_a_package_for_another_program_is_not_started(package: Package) -> None:
    with pytest.raises(ExportError, match=r"nothing to start.*README"):
        try_package(package)


def test_a_rerun_finds_the_package(
    name: str, package: Package, digits: Model, evaluation: Dataset, shared_workspace: Workspace
) -> None:
    written = (package.directory / CHECKSUMS).stat().st_mtime_ns
    again = export_package(
        Candidate("as it is", build_engine(digits)), name, sample=evaluation, workspace=shared_workspace
    )
    assert again == package
    assert (again.directory / CHECKSUMS).stat().st_mtime_ns == written


def test_a_folder_that_exists_is_refused(
    name: str, tiny_candidate: Candidate, tiny_data: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ExportError, match="mine exists already, and nothing in it is overwritten"):
        export_package(tiny_candidate, name, sample=tiny_data, directory=tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(
    name: str, tiny_candidate: Candidate, tiny_data: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "package", Path("/proc/package")):
        with pytest.raises(WorkspaceError, match=f"{place} cannot be written"):
            export_package(tiny_candidate, name, sample=tiny_data, directory=place)


def test_a_cancel_leaves_nothing(name: str, tiny_candidate: Candidate, tiny_data: Dataset, tmp_path: Path) -> None:
    def cancel(fraction: float, message: str) -> None:
        if "package" in message:
            raise Cancelled

    with pytest.raises(Cancelled):
        export_package(tiny_candidate, name, sample=tiny_data, directory=tmp_path / "out" / "package", progress=cancel)
    assert not list((tmp_path / "out").iterdir() if (tmp_path / "out").exists() else [])


def test_an_unknown_option_is_refused_by_name(name: str, tiny_candidate: Candidate, tiny_data: Dataset) -> None:
    with pytest.raises(OptionsError, match=f"exporter {name} has no option 'no_such_option'"):
        export_package(tiny_candidate, name, {"no_such_option": 1}, sample=tiny_data)


def test_a_sample_that_does_not_fit_is_refused(name: str, tiny_candidate: Candidate, evaluation: Dataset) -> None:
    with pytest.raises(DatasetError, match="Name each array like the model's input"):
        export_package(tiny_candidate, name, sample=evaluation)


@starts
def test_a_model_with_a_fixed_batch_and_weights_beside_it_is_packed_whole(
    name: str, tmp_path: Path, model_file: Callable[..., Path], tiny_data: Dataset
) -> None:
    model = load_model(model_file(tmp_path / "m.onnx", batch=5, external="m.data"))
    package = export_package(
        Candidate("fixed", build_engine(model)), name, sample=tiny_data, directory=tmp_path / "package"
    )
    shutil.rmtree(os.environ["WORKBENCH_WORKSPACE"])
    (tmp_path / "m.data").unlink()

    assert try_package(package).matches


def test_a_folder_without_a_package_is_refused(package: Package, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no package"):
        read_package(tmp_path)
    for damage in ("", "[]", '{"exporter": "server"}'):
        (tmp_path / MANIFEST).write_text(damage)
        with pytest.raises(ExportError, match=f"{MANIFEST} is missing or damaged"):
            read_package(tmp_path)


def test_a_package_does_not_choose_the_command(package: Package, tmp_path: Path) -> None:
    manifest = json.loads((package.directory / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "command": ["touch", "ran"]}))

    assert read_package(tmp_path) == dataclasses.replace(package, directory=tmp_path)
