"""SHA256SUMS: one line per file, as `sha256sum --check` reads them, written and read without trusting what it says."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal

CHECKSUMS = "SHA256SUMS"
SIGNATURE = "provenance/package.sig"  # covers SHA256SUMS, so that cannot list it
PENDING = ".add-version"  # what a change makes ready; there only while it goes on, or after it was cut off

_LINE = re.compile(r"(\\?)([0-9a-f]{64}) [ *](.+)")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_BLOCK = 1 << 20


class NotRegularError(OSError):
    """What should be a file is a link, a pipe or a device."""


def checksums(folder: Path) -> str:
    """The lines for all files of a folder."""
    return write_checksums(digests_of(folder))


def digests_of(folder: Path) -> dict[str, str]:
    """Name → hash of all files of a folder."""
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in folder.rglob("*") if path.is_file()}


def write_checksums(digests: Mapping[str, str]) -> str:
    """The lines for files, of which each name has its hash."""
    lines = []
    for name in sorted(digests, key=PurePosixPath):
        escaped = "".join(_ESCAPES.get(letter, letter) for letter in name)
        lines.append(f"{'' if escaped == name else chr(92)}{digests[name]}  {escaped}\n")
    return "".join(lines)


def read_checksums(text: str) -> tuple[dict[str, str], list[tuple[Literal["damaged", "outside"], str]]]:
    """Reads the lines of a stranger.

    Returns:
        Name → hash of what can be in a package, and for each other line what is wrong with it: the kind, and a clause.
    """
    found: dict[str, str] = {}
    faults: list[tuple[Literal["damaged", "outside"], str]] = []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            faults.append(("damaged", f"line {number} is no checksum"))
            continue
        escaped, digest, name = match.groups()
        if escaped:
            name = re.sub(r"\\([\\nr])", lambda m: {"\\": "\\", "n": "\n", "r": "\r"}[m[1]], name)
        if not is_inside(name):
            faults.append(("outside", f"line {number} names a path outside the package: {shown(name)}"))
        elif name in found:
            faults.append(("damaged", f"line {number} names {shown(name)} again"))
        else:
            found[name] = digest
    return found, faults


def is_inside(name: str) -> bool:
    """Whether a name stays below the folder that it is meant in, written in the one way that this package writes it."""
    return "\0" not in name and not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))


def shown(name: str) -> str:
    """A name as it can be printed: a stranger's may hold what steers a terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)


def open_regular(path: Path) -> BinaryIO:
    """Opens a file without following a link and without waiting for the other end of a pipe.

    Raises:
        NotRegularError: It is no regular file.
        OSError: It cannot be read.
    """
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise NotRegularError(f"{path} is no regular file")
    return stream


def hash_file(path: Path) -> str:
    """SHA-256 of a file that is no link.

    Raises:
        OSError: It cannot be read.
    """
    with open_regular(path) as stream:
        return hash_stream(stream)


def hash_stream(stream: IO[bytes], count: Callable[[int], None] = lambda size: None) -> str:
    """SHA-256 of a stream, a block at a time.

    Args:
        stream: Where to read from.
        count: Called with the size of each block, bytes; may raise to cancel.
    """
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
        count(len(block))
    return digest.hexdigest()
