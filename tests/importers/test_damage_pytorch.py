"""PyTorch files that are damaged or made to harm: refused in words, nothing in them runs, memory stays bounded."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.archive import check_archive
from workbench.errors import ModelError
from workbench.importers import load_model
from workbench.importers.pytorch import Options, open_source

torch = pytest.importorskip("torch")

SWEEP = Path(__file__).parent / "pytorch_damage.py"


class Evil:
    """Unpickling it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it ran"


def sweep(*words: str) -> str:
    done = subprocess.run([sys.executable, SWEEP, *words], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(re.findall(r"(\d+) MB", done.stderr)[0]) < 3000
    return done.stdout


def test_damaged_files_open_or_are_refused_in_words() -> None:
    assert re.fullmatch(r"\d+ opened, \d+ refused\n", sweep("300", "quick", "1"))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_does_not_run(new: bool, tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.zeros(3), "extra": Evil(mark)}, path, _use_new_zipfile_serialization=new)

    with pytest.raises(ModelError, match=r"holds more than tensors: .*which only running code") as caught:
        open_source(path, Options(), None, False)
    assert "trust=True" in caught.value.remedy
    assert "state_dict" in caught.value.remedy
    assert not mark.exists()

    with pytest.raises(
        ModelError
    ):  # the same file is dangerous indeed: with trust it runs, and only then has no module
        open_source(path, Options(), None, True)
    assert mark.exists()


def test_code_hidden_in_a_program_does_not_run(tmp_path: Path, mark: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.pt2", "w") as archive:
        archive.writestr("evil/archive_format", "pt2")
        archive.writestr("evil/models/model.json", "{}")
        torch.save(Evil(mark), tmp_path / "evil.bin")
        archive.write(tmp_path / "evil.bin", "evil/data/sample_inputs/model.pt")

    with pytest.raises(ModelError, match=r"evil\.pt2 is a \.pt2 program: opening one unpickles"):
        load_model(tmp_path / "evil.pt2")
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_torchscript_archive_needs_trust_under_any_name(tmp_path: Path) -> None:
    module = torch.jit.script(torch.nn.ReLU())
    for name in ("model.pt", "model.pth", "model.safetensors", "model.pt2"):
        torch.jit.save(module, tmp_path / name)
        with pytest.raises(ModelError, match="is a TorchScript archive: opening one runs code"):
            open_source(tmp_path / name, Options(), None, False)


# --- archives ------------------------------------------------------------------------------------------------------


def archive_with(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_a_zip_bomb_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    path = archive_with(tmp_path / "bomb.pt2", data=bytes(1000))
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 2**31)  # the size it unpacks to
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"bomb\.pt2 is refused: its .* bytes would unpack to 2,147,483,648"):
        load_model(path)


def test_zeros_in_a_small_model_are_no_bomb(tmp_path: Path) -> None:
    check_archive(archive_with(tmp_path / "zeros.pt2", data=bytes(2**20)))


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    path = archive_with(tmp_path / "a.pt", one=b"1" * 100, two=b"2" * 100)
    content = path.read_bytes()
    second = content.rindex(b"PK\x01\x02")  # its place in the directory, changed to that of the first
    path.write_bytes(content[: second + 42] + struct.pack("<I", 0) + content[second + 46 :])

    with pytest.raises(ModelError, match="lies over another file"):
        check_archive(path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "C:/x", "..\\x"])
def test_names_that_point_outside_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="points outside the archive"):
        check_archive(archive_with(tmp_path / "a.pt", **{name: b"x"}))


def test_compressed_and_deep_archives_in_archives_are_refused(tmp_path: Path) -> None:
    inner = archive_with(tmp_path / "inner.pt", data=bytes(2**20)).read_bytes()
    with pytest.raises(ModelError, match="an archive that is itself compressed"):
        check_archive(archive_with(tmp_path / "outer.pt", **{"inner.pt": inner}))

    path = tmp_path / "inner.pt"
    for depth in range(3):
        deeper = tmp_path / f"{depth}.pt"
        with zipfile.ZipFile(deeper, "w") as archive:
            archive.write(path, "inside")
        path = deeper
    with pytest.raises(ModelError, match="archives in archives"):
        check_archive(path)


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    path = archive_with(tmp_path / "a.pt", one=b"1")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)

    with pytest.raises(ModelError, match="is encrypted"):
        check_archive(path)


def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"weight": torch.zeros(300)}, path)
    whole = path.read_bytes()
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"w\.pth is no complete zip archive") as caught:
            open_source(path, Options(), None, False)
        assert caught.value.remedy


def test_what_is_no_model_is_refused_without_starting_pytorch(tmp_path: Path) -> None:
    shutil.copy(__file__, tmp_path / "text.pth")
    (tmp_path / "empty.pt").touch()
    archive_with(tmp_path / "other.pt", readme=b"hello")
    for name, reason in (("text.pth", "is not a whole"), ("empty.pt", "is empty"), ("other.pt", "without a PyTorch")):
        with pytest.raises(ModelError, match=rf"{name} {reason}|{name} .*{reason}"):
            open_source(tmp_path / name, Options(), None, False)
