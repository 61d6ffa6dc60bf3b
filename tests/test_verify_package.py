"""No change to a package goes unnoticed, and what lies in one is neither run nor followed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CommandLine
from tests.packages import change, kinds, model_in, rewrite_checksums
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import Cancelled, ExportError
from workbench.exporters import CHECKSUMS, MANIFEST, export_package, read_package
from workbench.model import Model
from workbench.provenance import fingerprint_of, verify_package
from workbench.provenance._checksums import checksums, read_checksums
from workbench.report import format_size
from workbench.trial import try_package
from workbench.workspace import Workspace


@pytest.fixture(scope="module")
def exported(
    digits: Model, evaluation: Dataset, shared_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "package"
    candidate = Candidate("as it is", build_engine(digits))
    export_package(candidate, sample=evaluation, directory=folder, workspace=shared_workspace)
    return folder


@pytest.fixture
def package(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "package"))


def test_a_package_as_exported_is_fine_and_what_that_means_is_said(exported: Path) -> None:
    seen: list[float] = []
    verification = verify_package(exported, progress=lambda share, text: seen.append(share))

    assert verification.ok
    assert verification.files == len((exported / CHECKSUMS).read_text().splitlines())
    assert verification.signature == "none"
    assert verification.fingerprint == hashlib.sha256((exported / CHECKSUMS).read_bytes()).hexdigest()
    listed = [line[66:] for line in (exported / CHECKSUMS).read_text().splitlines()]
    size = format_size(sum((exported / name).stat().st_size for name in listed) / 1e6)
    assert str(verification).startswith(f"All {verification.files} files ({size}) of")
    assert "It is not signed. Somebody who changed files and SHA256SUMS alike would not be noticed" in str(verification)
    assert seen[-1] == pytest.approx(1)


def replace_by_link(package: Path) -> None:
    outside = package.parent / "outside.json"
    (package / "config.json").rename(outside)
    (package / "config.json").symlink_to(outside)


def replace_folder_by_link(package: Path) -> None:
    (package / "provenance").rename(package.parent / "elsewhere")
    (package / "provenance").symlink_to(package.parent / "elsewhere")


def add(name: str | bytes, content: bytes = b"print('here')") -> Callable[[Path], None]:
    def put(package: Path) -> None:
        path = Path(os.fsdecode(os.path.join(os.fsencode(package), os.fsencode(name))))  # noqa: PTH118
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    return put


def list_also(line: str) -> Callable[[Path], None]:
    def write(package: Path) -> None:
        with (package / CHECKSUMS).open("a") as file:
            file.write(f"{line}\n")

    return write


def unlist(package: Path) -> None:
    lines = (package / CHECKSUMS).read_text().splitlines(keepends=True)
    (package / CHECKSUMS).write_text("".join(line for line in lines if "serve.py" not in line))


PYC = "__pycache__/limits.cpython-311.pyc"
ZERO = "0" * 64
MODEL = "the model, wherever it lies"


@pytest.mark.parametrize(
    ("damage", "faults"),
    [
        (change, {("changed", MODEL)}),
        (lambda package: (package / "config.json").write_text("{}"), {("changed", "config.json")}),
        (lambda package: (package / "serve.py").unlink(), {("missing", "serve.py")}),
        (lambda package: (package / model_in(package)).unlink(), {("missing", MODEL)}),
        (add("more.py"), {("added", "more.py")}),
        (add(".git/config"), {("added", ".git/config")}),
        (add(PYC), {("added", PYC)}),
        (add(b"\xff\x1b[2J.py"), {("added", "\\udcff\\x1b[2J.py")}),
        (replace_by_link, {("link", "config.json")}),
        (replace_folder_by_link, {("link", "provenance")}),
        (lambda package: (package / "loop").symlink_to(package), {("link", "loop")}),
        (lambda package: os.mkfifo(package / "pipe"), {("special", "pipe")}),
        (lambda package: (package / MANIFEST).write_text("[]"), {("changed", MANIFEST), ("damaged", MANIFEST)}),
        (lambda package: (package / MANIFEST).unlink(), {("missing", MANIFEST)}),
        (
            lambda package: (package / MANIFEST).write_text("[" * 100_000),
            {("changed", MANIFEST), ("damaged", MANIFEST)},
        ),
        (unlist, {("added", "serve.py")}),
        (list_also("garbage"), {("damaged", CHECKSUMS)}),
        (list_also(f"{ZERO}  gone.py"), {("missing", "gone.py")}),
        (list_also(f"{ZERO}  ../../etc/passwd"), {("outside", CHECKSUMS)}),
        (list_also(f"{ZERO}  /etc/passwd"), {("outside", CHECKSUMS)}),
        (list_also(f"{ZERO}  a//b"), {("outside", CHECKSUMS)}),
        (list_also(f"{ZERO}  serve.py"), {("damaged", CHECKSUMS)}),
    ],
)
def test_each_kind_of_change_is_found(
    package: Path, damage: Callable[[Path], None], faults: set[tuple[str, str]]
) -> None:
    model = model_in(package)
    damage(package)
    verification = verify_package(package)
    expected = {(kind, model if name == MODEL else name) for kind, name in faults}
    if ("link", "provenance") in faults:
        expected |= {("missing", f"provenance/{path.name}") for path in (package / "provenance").iterdir()}

    assert kinds(verification) == expected
    assert not verification.ok
    assert "is not as it was exported" in str(verification)
    assert str(verification).isprintable() or "\x1b" not in str(verification)


def test_a_package_that_ran_is_still_as_it_was_exported(package: Path) -> None:
    assert try_package(read_package(package)).matches
    assert verify_package(package).ok, str(verify_package(package))


def test_bytecode_is_explained(package: Path) -> None:
    add(PYC)(package)
    assert "Python writes such files when the package runs" in str(verify_package(package))
    assert "PYTHONDONTWRITEBYTECODE=1" in str(verify_package(package))


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00 no text"])
def test_without_checksums_nothing_counts_as_compared(package: Path, content: bytes | None) -> None:
    (package / CHECKSUMS).unlink()
    if content is not None:
        (package / CHECKSUMS).write_bytes(content)
    verification = verify_package(package)

    assert verification.files == 0
    assert {fault.kind for fault in verification.faults} == {"missing" if content is None else "damaged"}
    assert "added" not in {fault.kind for fault in verification.faults}  # nothing says what belongs there


def test_checksums_behind_a_link_are_not_followed(package: Path) -> None:
    (package / CHECKSUMS).rename(package.parent / "sums")
    (package / CHECKSUMS).symlink_to(package.parent / "sums")

    assert {("link", CHECKSUMS), ("damaged", CHECKSUMS)} <= kinds(verify_package(package))


def test_a_file_that_cannot_be_read_is_said(exported: Path, without_rights: Callable[[], Any]) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        package = Path(shutil.copytree(exported, Path(open_to_all) / "package"))
        (package / "serve.py").chmod(0)
        (package / "provenance").chmod(0)
        with without_rights():
            found = kinds(verify_package(package))
            with pytest.raises(ExportError, match="cannot be read: Permission denied"):
                verify_package(package / "provenance" / "hidden")
        (package / "provenance").chmod(0o755)

    assert {("unreadable", "serve.py"), ("unreadable", "provenance")} <= found


def test_a_name_with_a_newline_goes_through_the_checksums_and_back(package: Path) -> None:
    add("two\nlines\\.txt", b"x")(package)
    (package / CHECKSUMS).unlink()
    text = checksums(package)
    (package / CHECKSUMS).write_text(text)

    assert read_checksums(text)[0]["two\nlines\\.txt"] == hashlib.sha256(b"x").hexdigest()
    assert verify_package(package).ok
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", CHECKSUMS], cwd=package, check=True)


def test_who_changes_the_checksums_too_is_found_by_the_fingerprint_only(package: Path) -> None:
    known = fingerprint_of(package)
    change(package)
    rewrite_checksums(package)

    assert verify_package(package).ok
    verification = verify_package(package, fingerprint=f"sha256:{known}")
    assert kinds(verification) == {("changed", CHECKSUMS)}
    assert "has another fingerprint" in str(verification)


def test_the_right_fingerprint_is_said_to_be_right(exported: Path) -> None:
    assert "the fingerprint is the one that was given" in str(
        verify_package(exported, fingerprint=fingerprint_of(exported).upper())
    )


@pytest.mark.parametrize(("form", "inside"), [("zip", True), ("zip", False), ("tar", False), ("gztar", True)])
def test_archives_are_compared_without_being_unpacked(package: Path, tmp_path: Path, form: str, inside: bool) -> None:
    shutil.make_archive(str(tmp_path / "good"), form, tmp_path if inside else package, package.name if inside else None)
    change(package)
    shutil.make_archive(str(tmp_path / "bad"), form, package)
    [good] = tmp_path.glob("good.*")
    [bad] = tmp_path.glob("bad.*")

    assert verify_package(good).ok, str(verify_package(good))
    assert kinds(verify_package(bad)) == {("changed", model_in(package))}


def test_what_an_archive_would_put_elsewhere_is_found(package: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in package.rglob("*"):
            archive.write(path, Path("package") / path.relative_to(package))
        archive.writestr("../evil.py", "")  # beside the package's own folder
        archive.writestr("package/../evil.py", "")
        link = zipfile.ZipInfo("package/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("package/serve.py/", "")
    with tarfile.open(tmp_path / "a.tar", "w") as tape:
        tape.add(package, "package")
        tape.add(package / "serve.py", "package/serve.py")
        link_member = tarfile.TarInfo("package/link")
        link_member.type, link_member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tape.addfile(link_member)

    assert kinds(verify_package(tmp_path / "a.zip")) == {
        ("outside", "../../evil.py"),
        ("outside", "../evil.py"),
        ("link", "link"),
    }
    assert kinds(verify_package(tmp_path / "a.tar")) == {("link", "link"), ("damaged", "serve.py")}


def test_a_damaged_archive_is_refused_in_words(exported: Path, tmp_path: Path) -> None:
    for form in ("zip", "gztar"):
        whole = Path(shutil.make_archive(str(tmp_path / form), form, exported))
        content = whole.read_bytes()
        whole.write_bytes(content[: len(content) // 2])
        with pytest.raises(ExportError, match=r"is damaged|is no package"):
            verify_package(whole)


def test_an_archive_whose_bytes_are_damaged_is_not_fine(exported: Path, tmp_path: Path) -> None:
    whole = Path(shutil.make_archive(str(tmp_path / "a"), "zip", exported))
    content = bytearray(whole.read_bytes())
    with zipfile.ZipFile(whole) as archive:
        middle = archive.getinfo(model_in(exported)).header_offset + 5000
    content[middle : middle + 50] = bytes(50)
    whole.write_bytes(content)

    assert kinds(verify_package(whole)) == {("unreadable", model_in(exported))}


@pytest.mark.parametrize("what", ["nothing", "empty", "text"])
def test_what_is_no_package_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no package")
    with pytest.raises(ExportError, match=r"no package"):
        verify_package(tmp_path / what)


def test_large_files_are_streamed(package: Path) -> None:
    with (package / "large.bin").open("wb") as file:
        file.truncate(200_000_000)
    digest = hashlib.sha256()
    for _ in range(200):
        digest.update(bytes(1_000_000))
    list_also(f"{digest.hexdigest()}  large.bin")(package)
    tracemalloc.start()
    try:
        assert verify_package(package).ok
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 8_000_000


def test_a_cancel_goes_through(exported: Path) -> None:
    def cancel(share: float, text: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        verify_package(exported, progress=cancel)


def test_nothing_in_a_package_runs(package: Path) -> None:
    """Modules of the package have the names of those that the verification itself imports."""
    for name in ("json", "msgspec", "numpy", "sitecustomize", "workbench"):
        add(f"{name}.py", b"open('ran', 'w')")(package)
    script = Path(sys.executable).with_name("workbench")
    ended = subprocess.run([script, "verify", "."], cwd=package, capture_output=True, text=True, check=False)

    assert ended.returncode == 1, ended.stderr
    assert "✗ json.py was added." in ended.stdout
    assert not (package / "ran").exists()


def test_the_command_ends_with_what_it_found(command_line: CommandLine, package: Path) -> None:
    fine = command_line("verify", package)
    assert (fine.returncode, fine.stderr) == (0, "")
    assert "are as they were exported" in fine.stdout
    assert f"Fingerprint: sha256:{fingerprint_of(package)}" in fine.stdout

    change(package)
    wrong = command_line("verify", package)
    assert wrong.returncode == 1
    assert f"✗ {model_in(package)} was changed." in wrong.stdout
