"""Another version of a model put into a server's package, and taken up by the server that runs from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from tests.exporters.callers import Callers
from tests.exporters.serving import serving
from tests.packages import change, kinds
from workbench import _server_commands as commands
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import ExportError, ServiceError
from workbench.exporters import Package, export_package
from workbench.importers import load_model
from workbench.provenance import SIGNATURE, verify_package
from workbench.served_versions import add_version, reload_service, versions_of
from workbench.trial import try_package

Export = Callable[..., Package]
INFER = "/v2/models/tiny/infer"


@pytest.fixture
def export(model_file: Callable[..., Path], tiny_data: Dataset, tmp_path: Path) -> Export:
    """A package of a version of one model, whose answers are so many times the first's."""

    def make(version: str, times: float = 1, *, name: str = "tiny", wide: int = 0, **options: Any) -> Package:
        path = model_file(tmp_path / version / f"{name}.onnx", wide=wide)
        model = onnx.load(path)
        weight = model.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(times * numpy_helper.to_array(weight), "weight"))
        onnx.save(model, path)
        candidate = Candidate(
            f"candidate {version}", build_engine(load_model(path), options.pop("backend", "onnxruntime"))
        )
        folder = tmp_path / f"package-{options.pop('folder', version)}"
        exporter = options.pop("exporter", "server")
        chosen = {"version": version, **options} if exporter == "server" else {}
        return export_package(candidate, exporter, chosen, sample=tiny_data, directory=folder)

    return make


def scores(package: Package) -> list[float]:
    """What the package expects of its sample."""
    answer = json.loads((package.directory / "sample_response.json").read_text())
    return list(answer["outputs"][0]["data"])


def models(package: Package) -> list[tuple[str, str, str]]:
    found = json.loads((package.directory / "config.json").read_text())["models"]
    return [(one["version"], one["path"], one["sample"]) for one in found]


def test_the_newer_version_answers_and_the_older_can_still_be_asked(export: Export) -> None:
    package, newer = export("1"), export("2", times=3)
    old, new = scores(package), scores(newer)
    changed = add_version(package, newer)
    assert models(changed) == [
        ("1", "models/tiny/1/model.onnx", "models/tiny/1/sample_request.json"),
        ("2", "models/tiny/2/model.onnx", "models/tiny/2/sample_request.json"),
    ]
    assert (changed.candidate, changed.directory) == ("candidate 2", package.directory)
    assert verify_package(changed.directory).ok
    assert (
        json.loads((changed.directory / "provenance" / "2" / "package.json").read_text())["candidate"] == "candidate 2"
    )
    assert try_package(changed).matches
    with serving(changed.directory) as server:
        request = json.loads((changed.directory / "sample_request.json").read_text())
        for path, expected in ((INFER, new), ("/v2/models/tiny/versions/1/infer", old)):
            assert server.infer(request, path)[1]["outputs"][0]["data"] == expected


def test_a_running_server_takes_it_up_under_load(export: Export) -> None:
    package, newer = export("1"), export("2", times=3)
    old, new = scores(package), scores(newer)
    request = json.loads((package.directory / "sample_request.json").read_text())
    with serving(package.directory) as server, Callers(server, request, path=INFER) as callers:
        callers.wait_for(100)
        add_version(package, newer, keep_old=False)
        callers.wait_for(100)
        assert callers.answers[-1][1]["model_version"] == "1"  # until it is told
        reload_service(server.process.pid)
        assert server.process.stderr is not None
        assert "new: tiny 2; gone: tiny 1" in json.loads(server.process.stderr.readline())["message"]
        callers.wait_for(100)
    assert (callers.lost, set(callers.statuses)) == ([], {"200"})
    given = {(answer["model_version"], tuple(answer["outputs"][0]["data"])) for _, answer in callers.answers}
    assert given == {("1", tuple(old)), ("2", tuple(new))}
    assert models(package) == [("2", "models/tiny/2/model.onnx", "models/tiny/2/sample_request.json")]
    with serving(package.directory) as server:
        assert server.infer(request, INFER)[1]["outputs"][0]["data"] == new


def test_a_third_version_comes_after_the_second(export: Export) -> None:
    package = add_version(add_version(export("1"), export("2", 2)), export("3", 3))
    assert [version for version, _, _ in models(package)] == ["1", "2", "3"]
    assert versions_of(package) == ("tiny", ("1", "2", "3"))
    assert verify_package(package.directory).ok
    assert try_package(package).matches


def test_what_does_not_fit_is_refused_and_changes_nothing(export: Export) -> None:
    package = export("1")
    before = {path: path.read_bytes() for path in package.directory.rglob("*") if path.is_file()}
    damaged = export("damaged")
    change(damaged.directory)
    for newer, words in (
        (package, r"has version 1 of tiny already\. Export the newer one with another version, e\.g\. version=2"),
        (export("other", name="other"), "serves other, and .* serves tiny"),
        (export("wide", wide=1), r"has other outputs: scores FP32 \[-1, 4\], and version 1 has scores FP32 \[-1, 3\]"),
        (export("triton", exporter="triton"), "is a package of the exporter triton"),
        (damaged, "is not as it was exported: models/tiny/damaged/model.onnx was changed"),
        (export("grpc", grpc=True), "run on other code or libraries: requirements.txt differ"),
    ):
        with pytest.raises(ExportError, match=words):
            add_version(package, newer)
    assert {path: path.read_bytes() for path in package.directory.rglob("*") if path.is_file()} == before


def test_the_version_that_is_proposed_instead_is_a_free_one(export: Export) -> None:
    package = add_version(add_version(export("1"), export("2", 2)), export("10", 3))
    with pytest.raises(ExportError, match=r"has version 1 of tiny already.*e\.g\. version=11\."):
        add_version(package, export("1", 4, folder="other"))
    named = export("stable")
    with pytest.raises(ExportError, match=r"has version stable of tiny already.*e\.g\. version=1\."):
        add_version(named, export("stable", 2, folder="another"))


def test_a_package_that_was_changed_by_hand_is_not_covered_up(export: Export) -> None:
    package, newer = export("1"), export("2")
    (package.directory / "serve.py").write_text("print('mine')\n")
    with pytest.raises(ExportError, match=r"is not as it was exported: serve\.py was changed"):
        add_version(package, newer)


def test_a_signature_of_other_files_goes_or_is_made_anew(export: Export, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    pytest.importorskip("OpenSSL")
    from tests.test_package_signature import write_keys

    private, public = write_keys(tmp_path / "keys")
    package = add_version(export("1"), export("2"), sign_key=private)
    assert verify_package(package.directory, key=public).signature == "valid"
    package = add_version(package, export("3"))
    assert not (package.directory / SIGNATURE).exists()
    assert kinds(verify_package(package.directory)) == set()


def test_the_command_says_what_it_did(export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    package, newer = export("1"), export("2", times=3)
    with serving(package.directory) as server:
        commands.add_version(package.directory, newer.directory, drop_old=True, pid=server.process.pid)
        assert server.process.stderr is not None
        assert "Serving tiny 2" in json.loads(server.process.stderr.readline())["message"]
    said = capsys.readouterr().out
    assert "serves tiny 2 now, and no other version of it.\nFingerprint: sha256:" in said
    assert f"Process {server.process.pid} was told" in said
    commands.add_version(package.directory, export("3").directory)
    assert "serves tiny 2 and 3 now; requests that name none get 3." in capsys.readouterr().out


def test_nothing_is_changed_for_a_process_that_is_no_service(export: Export) -> None:
    package, newer = export("1"), export("2")
    with pytest.raises(ServiceError, match="is no exported server"):
        commands.add_version(package.directory, newer.directory, pid=os.getpid())
    assert versions_of(package) == ("tiny", ("1",))


def test_only_a_server_is_sent_the_signal() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        with pytest.raises(ServiceError, match=f"Process {other.pid} is no exported server"):
            reload_service(other.pid)
        assert other.poll() is None
        other.communicate(b"\n")
    assert other.returncode == 0
    with pytest.raises(ServiceError, match="There is no process"):
        reload_service(other.pid)
    with pytest.raises(ServiceError, match="is no exported server"):
        reload_service(os.getpid())
