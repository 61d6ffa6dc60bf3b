"""What lies in a package, be it a folder, a ZIP or a tar file: names, kinds and bytes; nothing is unpacked."""

from __future__ import annotations

import contextlib
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Literal

from workbench.errors import ExportError
from workbench.provenance._checksums import CHECKSUMS, open_regular

MANIFEST = "package.json"
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)
READ_ERRORS = (*_DAMAGED, OSError, RuntimeError)  # the last: zipfile, of what is encrypted


@dataclass(frozen=True)
class Entry:
    """One thing in a package.

    Attributes:
        name: Path inside the package, with `/`.
        kind: Only a `file` can be opened.
        size: Bytes.
        open: Opens it.
    """

    name: str
    kind: Literal["file", "link", "special", "unreadable"]
    size: int = 0
    open: Callable[[], IO[bytes]] | None = None


@contextlib.contextmanager
def open_entries(place: Path) -> Iterator[Sequence[Entry]]:
    """Everything in a package but its folders.

    Raises:
        ExportError: There is nothing, or it is neither a folder nor an archive that can be read.
    """
    try:
        is_folder, is_file = place.is_dir(), place.is_file()
    except OSError as error:
        raise ExportError(f"{place} cannot be read: {error.strerror}.", "Check the path and your rights.") from None
    if is_folder:
        yield list(_folder(place))
        return
    if not is_file:
        raise ExportError(f"There is no package at {place}.", "Check the path.")
    try:
        if zipfile.is_zipfile(place):
            with zipfile.ZipFile(place) as archive:
                yield _below_top([_of_zip(archive, member) for member in archive.infolist() if not member.is_dir()])
        elif tarfile.is_tarfile(place):
            with tarfile.open(place) as archive:
                yield _below_top([_of_tar(archive, member) for member in archive if not member.isdir()])
        else:
            raise ExportError(f"{place} is no package.", "Name the package's folder, or a ZIP or tar file of it.")
    except _DAMAGED as error:
        raise ExportError(f"The archive {place} is damaged: {error}.", "Fetch it again.") from None


def _folder(top: Path) -> Iterator[Entry]:
    """Walks without following links: what lies behind them is not the package's."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as scan:
                found = sorted(scan, key=lambda each: each.name)
        except OSError:
            yield Entry(folder.relative_to(top).as_posix(), "unreadable")
            continue
        for each in found:
            path = Path(each.path)
            name = path.relative_to(top).as_posix()
            if each.is_symlink():
                yield Entry(name, "link")
            elif each.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif each.is_file(follow_symlinks=False):
                yield Entry(name, "file", each.stat(follow_symlinks=False).st_size, partial(open_regular, path))
            else:
                yield Entry(name, "special")


def _of_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Entry:
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was not made on Unix
    if kind not in (0, stat.S_IFREG):
        return Entry(member.filename, "link" if kind == stat.S_IFLNK else "special")
    return Entry(member.filename, "file", member.file_size, partial(archive.open, member))


def _of_tar(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    if not member.isreg():
        return Entry(member.name, "link" if member.issym() or member.islnk() else "special")
    return Entry(member.name, "file", member.size, partial(_extract, archive, member))


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    assert stream is not None  # None is for what is no regular file
    return stream


def _below_top(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Names as they are in the package, where the archive holds its folder, or starts every name with `./`."""
    marks = (CHECKSUMS, MANIFEST)
    places = [entry.name.rpartition("/") for entry in entries]
    top = min((folder + slash for folder, slash, name in places if name in marks), key=len, default="")
    return [
        replace(entry, name=entry.name[len(top) :] if entry.name.startswith(top) else f"../{entry.name}")
        for entry in entries
    ]
