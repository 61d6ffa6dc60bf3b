"""Signed packages: whoever has not the key cannot change one without being found out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CommandLine
from tests.packages import kinds, rewrite_checksums
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import ExportError
from workbench.exporters import export_package
from workbench.importers import load_model
from workbench.provenance import PASSWORD_VARIABLE, SIGNATURE, sign, verify_package
from workbench.workspace import Workspace

pytest.importorskip("model_signing")
pytest.importorskip("OpenSSL")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa


def write_keys(folder: Path, password: str = "", private: object = None) -> tuple[Path, Path]:
    """A private key and its public one, as `openssl` would write them."""
    made = private or ec.generate_private_key(ec.SECP256R1())
    assert isinstance(made, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    folder.mkdir(exist_ok=True)
    pem = serialization.Encoding.PEM
    (folder / "private.pem").write_bytes(made.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked))
    public = made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    return folder / "private.pem", folder / "public.pem"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed(
    keys: tuple[Path, Path], evaluation: Dataset, shared_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("signed") / "package"
    candidate = Candidate("as it is", build_engine(load_model("sample:digits")))
    export_package(candidate, sample=evaluation, directory=folder, sign_key=keys[0], workspace=shared_workspace)
    assert [path.name for path in folder.parent.iterdir()] == ["package"]
    return folder


@pytest.fixture
def package(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "moved" / "package"))


def test_a_signature_holds_with_its_key_wherever_the_package_lies(package: Path, keys: tuple[Path, Path]) -> None:
    verification = verify_package(package, key=keys[1])

    assert verification.ok, str(verification)
    assert verification.signature == "valid"
    assert "the signature was made with this key" in str(verification)


def test_without_the_key_it_is_said_not_to_be_checked(signed: Path) -> None:
    verification = verify_package(signed)

    assert (verification.ok, verification.signature) == (True, "unchecked")
    assert "Its signature was not checked, as no key was given." in str(verification)


def test_the_librarys_own_command_agrees(signed: Path, keys: tuple[Path, Path]) -> None:
    words = ["verify", "key", "--signature", signed / SIGNATURE, "--public_key", keys[1], signed]
    command = [sys.executable, "-m", "model_signing", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr


def test_who_changes_the_checksums_too_is_found(package: Path, keys: tuple[Path, Path]) -> None:
    (package / "config.json").write_text("{}")
    rewrite_checksums(package)

    assert verify_package(package).ok
    verification = verify_package(package, key=keys[1])
    assert kinds(verification) == {("signature", SIGNATURE)}
    assert "is of other files than these" in str(verification)


def test_a_file_of_git_is_covered_too(package: Path, keys: tuple[Path, Path]) -> None:
    (package / ".gitattributes").write_text("* filter=evil\n")

    assert kinds(verify_package(package, key=keys[1])) == {("added", ".gitattributes"), ("signature", SIGNATURE)}


def test_a_signature_that_was_taken_away_is_missed(package: Path, keys: tuple[Path, Path]) -> None:
    (package / SIGNATURE).unlink()

    assert kinds(verify_package(package, key=keys[1])) == {("signature", SIGNATURE)}
    assert "It is not signed." in str(verify_package(package))


def test_the_signature_of_somebody_else_does_not_hold(package: Path, tmp_path: Path) -> None:
    _, public = write_keys(tmp_path / "other")
    verification = verify_package(package, key=public)

    assert (verification.ok, verification.signature) == (False, "invalid")
    assert "it was made with another key or is damaged" in str(verification)


@pytest.mark.parametrize("content", ["", "{}", "[]", "no json", '{"dsseEnvelope": {"payload": 3}}'])
def test_a_damaged_signature_does_not_hold(package: Path, keys: tuple[Path, Path], content: str) -> None:
    (package / SIGNATURE).write_text(content)
    verification = verify_package(package, key=keys[1])

    assert kinds(verification) == {("signature", SIGNATURE)}
    assert "does not hold" in str(verification)


def test_a_signature_moved_onto_other_content_does_not_hold(package: Path, keys: tuple[Path, Path]) -> None:
    bundle = json.loads((package / SIGNATURE).read_text())
    payload = bundle["dsseEnvelope"]["payload"]
    bundle["dsseEnvelope"]["payload"] = payload[:40] + ("A" if payload[40] != "A" else "B") + payload[41:]
    (package / SIGNATURE).write_text(json.dumps(bundle))

    assert verify_package(package, key=keys[1]).signature == "invalid"


def test_the_signature_of_an_archive_is_checked_after_unpacking(signed: Path, keys: tuple[Path, Path]) -> None:
    archive = shutil.make_archive(str(signed.parent / "archive"), "zip", signed)
    try:
        assert verify_package(archive).ok
        with pytest.raises(ExportError, match="Unpack it"):
            verify_package(archive, key=keys[1])
    finally:
        Path(archive).unlink()


@pytest.mark.parametrize("kind", ["missing", "text", "public", "RSA", "locked"])
def test_a_key_that_cannot_sign_is_refused_before_the_work(
    tiny_data: Dataset, tmp_path: Path, keys: tuple[Path, Path], kind: str
) -> None:
    (tmp_path / "text").write_text("no key")
    key = {
        "missing": lambda: tmp_path / "none.pem",
        "text": lambda: tmp_path / "text",
        "public": lambda: keys[1],
        "RSA": lambda: write_keys(tmp_path / "rsa", private=rsa.generate_private_key(65537, 2048))[0],
        "locked": lambda: write_keys(tmp_path / "locked", password="a secret")[0],
    }[kind]()
    candidate = Candidate("never used", None)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"The key .* cannot be used: .*elliptic-curve key in a PEM file"):
        export_package(candidate, sample=tiny_data, directory=tmp_path / "package", sign_key=key)
    assert not (tmp_path / "package").exists()


def test_a_private_key_in_the_package_does_not_sign_it(package: Path, keys: tuple[Path, Path]) -> None:
    before = (package / SIGNATURE).read_bytes()
    shutil.copy(keys[0], package / "private.pem")
    with pytest.raises(ExportError, match="lies in the package"):
        sign(package, package / "private.pem")
    assert (package / SIGNATURE).read_bytes() == before


@pytest.mark.parametrize("kind", ["missing", "text", "private"])
def test_a_key_that_cannot_check_is_refused(signed: Path, tmp_path: Path, keys: tuple[Path, Path], kind: str) -> None:
    (tmp_path / "text").write_text("no key")
    key = {"missing": tmp_path / "none.pem", "text": tmp_path / "text", "private": keys[0]}[kind]
    with pytest.raises(ExportError, match=r"cannot be used: .*name the public one"):
        verify_package(signed, key=key)


def test_a_locked_key_signs_with_its_password(
    signed: Path, tmp_path: Path, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch, model_file: object
) -> None:
    assert callable(model_file)
    candidate = Candidate("tiny", build_engine(load_model(model_file(tmp_path / "tiny.onnx"))))
    private, public = write_keys(tmp_path / "locked", password="a secret")
    monkeypatch.setenv(PASSWORD_VARIABLE, "a secret")
    package = export_package(candidate, sample=tiny_data, sign_key=private)

    assert verify_package(package.directory, key=public).ok
    assert export_package(candidate, sample=tiny_data, sign_key=private) == package
    other, _ = write_keys(tmp_path / "other", password="a secret")
    assert export_package(candidate, sample=tiny_data, sign_key=other) != package
    assert export_package(candidate, sample=tiny_data) != package


def test_the_commands_sign_and_check(command_line: CommandLine, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    made = command_line(
        "export", "server", "sample:digits", "--sample", "sample:digits", "--directory", "p", "--sign-key", keys[0]
    )
    assert made.returncode == 0, made.stderr
    checked = command_line("verify", "p", "--key", keys[1])
    assert checked.returncode == 0, checked.stdout
    assert "the signature was made with this key" in checked.stdout
