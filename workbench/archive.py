"""Looks at a zip archive's directory before a framework unpacks it; nothing is inflated here."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath
from typing import IO

from workbench.errors import ModelError

_RATIO = 64  # weights hardly compress; text and zeros in a model do, but not by more than this on the whole
_SLACK = 256 * 2**20  # bytes that any archive may unpack to, so that a small file of zeros passes
_ENTRIES = 100_000  # the largest models have some thousand tensors, one entry each
_DEPTH = 2  # formats keep an archive in an archive; none goes deeper
_HEADER = 30  # bytes of a local entry header before its name
_LEAST = 22  # bytes of an empty archive
_ARCHIVES = (".zip", ".pt", ".pth", ".pt2", ".keras", ".npz", ".gz")
_SAVE_AGAIN = "Copy or save it again, and compare sizes if it was copied."


def check_archive(path: Path) -> None:
    """Refuses a zip archive that is cut short or made to harm whoever unpacks it.

    Raises:
        ModelError: It is no complete zip archive; or it would unpack to far more than its size, its entries overlap,
            are encrypted, too many, or named to lie outside the archive.
    """
    with path.open("rb") as stream:
        _check(stream, path.stat().st_size, str(path), 1)


def _check(stream: IO[bytes] | _Part, size: int, where: str, depth: int) -> None:
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
    # What zipfile raises on bytes that are not what they should be.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError) as error:
        raise ModelError(f"{where} is no complete zip archive ({error}).", _SAVE_AGAIN) from None
    if len(entries) > _ENTRIES:
        _refuse(where, f"it holds {len(entries):,} files, more than any model")
    total = sum(entry.file_size for entry in entries)
    if total > _RATIO * size + _SLACK:
        _refuse(where, f"its {size:,} bytes would unpack to {total:,}")
    names = set()
    for entry in entries:
        _check_entry(entry, where)
        if entry.filename in names:
            _refuse(where, f"'{entry.filename[:80]}' stands in it twice")
        names.add(entry.filename)
    _check_places(entries, size, where)
    for entry in entries:
        _check_nested(stream, entry, f"'{entry.filename}' in {where}", depth)


def _check_entry(entry: zipfile.ZipInfo, where: str) -> None:
    name = entry.filename.replace("\\", "/")
    if name.startswith("/") or ":" in name.split("/")[0] or ".." in PurePosixPath(name).parts:
        _refuse(where, f"'{entry.filename[:80]}' in it points outside the archive")
    if entry.flag_bits & 1:
        _refuse(where, f"'{entry.filename[:80]}' in it is encrypted")
    if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
        raise ModelError(f"{where} is damaged: '{entry.filename[:80]}' in it has two sizes.", _SAVE_AGAIN)


def _check_places(entries: list[zipfile.ZipInfo], size: int, where: str) -> None:
    """Entries that share bytes are how a small file unpacks to an enormous one."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            _refuse(where, f"'{entry.filename[:80]}' in it lies over another file")
        end = entry.header_offset + _HEADER + entry.compress_size
    if end > size:
        raise ModelError(f"{where} is cut short.", _SAVE_AGAIN)


def _check_nested(stream: IO[bytes] | _Part, entry: zipfile.ZipInfo, where: str, depth: int) -> None:
    if entry.compress_type != zipfile.ZIP_STORED:
        if entry.filename.lower().endswith(_ARCHIVES):
            _refuse(where, "it is an archive that is itself compressed")
        return
    if entry.file_size < _LEAST:
        return
    stream.seek(entry.header_offset + 26)
    lengths = stream.read(4)
    start = entry.header_offset + _HEADER + sum(int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
    stream.seek(start)
    if stream.read(4) != b"PK\x03\x04":
        return
    if depth == _DEPTH:
        _refuse(where, "archives lie in archives in archives")
    _check(_Part(stream, start, entry.file_size), entry.file_size, where, depth + 1)


def _refuse(where: str, reason: str) -> None:
    raise ModelError(f"{where} is refused: {reason}.", "Get the file from its maker; no framework saves such archives.")


class _Part:
    """A stretch of a file, as a file."""

    def __init__(self, stream: IO[bytes] | _Part, start: int, size: int) -> None:
        self._stream, self._start, self._size, self._at = stream, start, size, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        if self._at < 0:
            raise OSError("a place before its start")
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._stream.seek(self._start + self._at)
        content = self._stream.read(left if count < 0 else min(count, left))
        self._at += len(content)
        return content
