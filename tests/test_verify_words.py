"""What verification says of a package, in words that stay short however much is wrong with it."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from workbench.errors import ExportError
from workbench.exporters import CHECKSUMS, MANIFEST
from workbench.provenance import SIGNATURE, verify_package
from workbench.provenance._checksums import checksums


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small one, made by hand."""
    folder = tmp_path / "package"
    (folder / "provenance").mkdir(parents=True)
    (folder / MANIFEST).write_text('{"exporter": "server", "name": "tiny", "candidate": "as it is"}')
    (folder / "config.json").write_text("{}")
    (folder / "provenance" / "plan.json").write_text("{}")
    (folder / CHECKSUMS).write_text(checksums(folder))
    return folder


def test_a_small_package_has_a_size(package: Path) -> None:
    assert "All 3 files (0.1 kB) of" in str(verify_package(package))


def test_one_and_several_are_counted_in_words(package: Path) -> None:
    os.mkfifo(package / "pipe")
    assert "is not as it was exported: 1 pipe or device." in str(verify_package(package))
    os.mkfifo(package / "another")
    (package / "more.py").touch()
    assert "is not as it was exported: 2 pipes or devices, 1 file added." in str(verify_package(package))


def test_many_faults_are_counted_and_the_rare_ones_shown(package: Path) -> None:
    (package / "venv").mkdir()
    for number in range(1030):
        (package / "venv" / f"{number}.py").touch()
    (package / "config.json").unlink()
    (package / "python").symlink_to(package)
    lines = str(verify_package(package)).splitlines()

    assert lines[0].endswith(" is not as it was exported: 1 link, 1 file missing, 1,030 files added.")
    assert lines[1].startswith("  ✗ python is a link")
    assert lines[2] == "  ✗ config.json is missing."
    assert (len(lines), lines[-1]) == (22, "  ... and 1,012 more")


def test_a_key_that_is_not_there_is_said_before_the_signature_is_looked_for(package: Path) -> None:
    with pytest.raises(ExportError, match=r"The key \S+/nope cannot be used: there is no such file"):
        verify_package(package, key=package / "nope")


def test_what_a_library_asks_ends_with_its_own_mark(package: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    pytest.importorskip("OpenSSL")
    from tests.test_package_signature import write_keys

    private, _ = write_keys(tmp_path / "keys")
    (package / SIGNATURE).touch()
    with pytest.raises(ExportError, match=r"cannot be used: .*[^.?!][.?!] It must be an elliptic-curve key"):
        verify_package(package, key=private)


def test_a_part_of_a_package_is_no_other_thing(package: Path, tmp_path: Path) -> None:
    """As an archive that was cut off leaves it, packed or unpacked: the two come last."""
    for name in (CHECKSUMS, MANIFEST):
        (package / name).unlink()
    with tarfile.open(tmp_path / "part.tar", "w") as tape:
        tape.add(package, "digits")
    for place in (tmp_path / "part.tar", package):
        with pytest.raises(ExportError, match=r"is no whole package: it has \S*provenance/plan\.json, but neither"):
            verify_package(place)
