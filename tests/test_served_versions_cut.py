"""Whenever putting a version into a package is cut off, the package serves, and the same command mends it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.exporters.serving import serving
from tests.packages import kinds
from workbench import _server_commands as commands
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import ExportError
from workbench.exporters import Package, export_package, read_package
from workbench.importers import load_model
from workbench.provenance import CHECKSUMS, PENDING, only_change, verify_package
from workbench.served_versions import add_version
from workbench.workspace import Workspace

INFER = "/v2/models/tiny/infer"


@dataclass(frozen=True)
class Cuts:
    """Two versions of a model, and what is left where putting the newer into a copy of the older was killed.

    Attributes:
        older: The package that is changed.
        newer: The package of the other version.
        left: A copy for each write that it was killed before, in their order.
        whole: The copy that it was not killed in.
    """

    older: Package
    newer: Package
    left: list[Path]
    whole: Path

    @property
    def begun(self) -> Path:
        """The first of those in which something has taken its place, or may."""
        return next(cut for cut in self.left if (cut / PENDING / CHECKSUMS).exists())

    @property
    def half(self) -> Path:
        """The one between the last two writes of files, the configuration and the checksums."""
        return next(cut for cut in self.left if files(cut)["config.json"] != files(self.left[0])["config.json"])


@pytest.fixture(scope="module")
def export(model_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Package]:
    """A package of a version of one model, whose weights lie beside it."""
    folder = tmp_path_factory.mktemp("versions")
    path, sample = model_file(folder / "tiny.onnx", external="tiny.data"), Dataset({"x": np.eye(4, dtype=np.float32)})

    def make(version: str) -> Package:
        candidate = Candidate(f"candidate {version}", build_engine(load_model(path)))
        options, workspace = {"version": version}, Workspace(folder / "workspace")
        return export_package(
            candidate, "server", options, sample=sample, directory=folder / version, workspace=workspace
        )

    return make


@pytest.fixture(scope="module")
def cuts(export: Callable[[str], Package], tmp_path_factory: pytest.TempPathFactory) -> Cuts:
    older, newer = export("1"), export("2")
    left, whole = cut_everywhere(older.directory, newer, tmp_path_factory.mktemp("cuts"))
    return Cuts(older, newer, left, whole)


def cut_everywhere(
    package: Path, newer: Package, folder: Path, *, start: int = 0, key: Path | str = ""
) -> tuple[list[Path], Path]:
    """What is left by each run that is killed before a write, in their order; and by the one that is not."""
    command = [sys.executable, "-m", "tests.cut_off", package, newer.directory, folder, str(start), key]
    subprocess.run(command, check=True, timeout=600, cwd=Path(__file__).parents[1])
    *left, whole = (path / "package" for path in sorted(folder.iterdir(), key=lambda path: int(path.name)))
    assert left
    return left, whole


def files(package: Path) -> dict[str, bytes]:
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()}


def copied(package: Path, folder: Path) -> Path:
    return Path(shutil.copytree(package, folder / "copy"))


def test_wherever_it_is_cut_off_the_package_serves_and_the_same_command_mends_it(cuts: Cuts, tmp_path: Path) -> None:
    states = set()
    for number, left in enumerate(cuts.left):
        cut = copied(left, tmp_path / str(number))
        found, before = verify_package(cut), files(cut)
        states.add(found.ok)
        assert found.ok or ("add-version left behind" in str(found) and "Run the same command again" in str(found))
        for model in json.loads(before["config.json"])["models"]:
            assert {model["path"], model["sample"]} <= set(before)
        add_version(read_package(cut), cuts.newer)
        assert files(cut) == files(cuts.whole), number
        assert verify_package(cut).ok
    assert states == {True, False}


def test_a_server_starts_before_and_after_the_last_write_that_it_reads(cuts: Cuts) -> None:
    before = cuts.left[cuts.left.index(cuts.half) - 1]
    assert ("changed", "config.json") in kinds(verify_package(cuts.half)) - kinds(verify_package(before))
    request = json.loads((cuts.half / "sample_request.json").read_text())
    for cut, version in ((before, "1"), (cuts.half, "2")):
        with serving(cut) as server:
            assert server.infer(request, INFER)[1]["model_version"] == version
            assert server.infer(request, INFER.replace("infer", "versions/1/infer"))[0] == 200


def test_what_mends_can_be_cut_off_too(cuts: Cuts, tmp_path: Path) -> None:
    left, mended = cut_everywhere(cuts.begun, cuts.newer, tmp_path)
    assert files(mended) == files(cuts.whole)
    for cut in left:
        add_version(read_package(cut), cuts.newer)
        assert files(cut) == files(cuts.whole), cut


def test_the_same_command_also_makes_the_signature_that_is_missing(cuts: Cuts, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    pytest.importorskip("OpenSSL")
    from tests.test_package_signature import write_keys

    private, public = write_keys(tmp_path / "keys")
    (tmp_path / "cuts").mkdir()
    start = len(cuts.left) - 1  # before that it does not matter whether it will be signed
    left, _ = cut_everywhere(cuts.older.directory, cuts.newer, tmp_path / "cuts", start=start, key=private)
    for cut in left:
        add_version(read_package(cut), cuts.newer, sign_key=private)
        assert verify_package(cut, key=public).signature == "valid", cut


def test_another_version_can_follow_one_that_was_cut_off(
    cuts: Cuts, export: Callable[[str], Package], tmp_path: Path
) -> None:
    changed = add_version(read_package(copied(cuts.half, tmp_path)), export("3"))
    assert [model["version"] for model in json.loads(files(changed.directory)["config.json"])["models"]] == list("123")
    assert verify_package(changed.directory).ok


def test_the_command_says_that_one_was_cut_off(cuts: Cuts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = copied(cuts.half, tmp_path)
    commands.add_version(cut, cuts.newer.directory)
    assert "An add-version of this package was cut off: what it had begun is finished" in capsys.readouterr().out
    commands.add_version(cut, cuts.newer.directory)  # nothing is left to do, and nothing is said of it
    assert "cut off" not in capsys.readouterr().out


def change_code(package: Path) -> None:
    (package / "serve.py").write_text("print('mine')\n")


def change_what_waits(package: Path) -> None:
    (package / PENDING / "config.json").write_text("{}")


def lead_elsewhere(package: Path) -> None:
    shutil.move(package / "models", package.parent / "elsewhere")
    (package / "models").symlink_to(package.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change_code, r"serve\.py was changed"),
        (change_what_waits, r"\.add-version/config\.json was changed"),
        (lead_elsewhere, "models is a link"),
    ],
)
def test_mending_covers_no_other_change_up(
    cuts: Cuts, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    cut = copied(cuts.begun, tmp_path)
    damage(cut)
    before = files(cut)
    with pytest.raises(ExportError, match=f"was cut off, and cannot be finished, .*: {words}"):
        add_version(read_package(cut), cuts.newer)
    assert files(cut) == before


def test_two_do_not_change_one_package_at_once(cuts: Cuts, tmp_path: Path) -> None:
    package = read_package(copied(cuts.older.directory, tmp_path))
    with (
        only_change(package.directory),
        pytest.raises(ExportError, match=r"Another process changes .*Wait until it has ended"),
    ):
        add_version(package, cuts.newer)
    assert files(package.directory) == files(cuts.older.directory)
