"""Results and artifacts on disk: each appears under its final name only when it is whole, and is made only once.

Layout: `<root>/<kind>/<key>/` for artifacts, `<root>/<kind>/<key>.json` for results, `<root>/tmp/` for what is being
made. A key is a hash of everything that decides the content, so a rerun finds what an earlier run had finished.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from workbench.errors import WorkspaceError
from workbench.options import to_builtins

T = TypeVar("T")

_LAYOUT = 1  # part of every key; goes up when what is kept is written in another way
ROOT_VARIABLE = "WORKBENCH_WORKSPACE"


def default_root() -> Path:
    """The workspace used where none is named: `$WORKBENCH_WORKSPACE`, else `workbench-workspace` in this folder."""
    return Path(os.environ.get(ROOT_VARIABLE) or "workbench-workspace")


class Workspace:
    """A folder that keeps what was computed.

    Args:
        root: The folder; made if need be.

    Raises:
        WorkspaceError: It cannot be written.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root if root is not None else default_root()).expanduser().absolute()
        with writing(self.root):
            (self.root / "tmp").mkdir(parents=True, exist_ok=True)
            probe = self.root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
            probe.mkdir()
            probe.rmdir()
        self._sweep()

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    def artifact(self, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """Returns the folder that `make` fills, making it unless an earlier run has.

        Args:
            kind: Sort of artifact, e.g. `models`.
            key: Everything that decides its content, as plain values.
            make: Fills the empty folder it is given; if it raises, nothing stays.
        """
        final = self.root / kind / fingerprint({"layout": _LAYOUT, **key})
        if not final.is_dir():
            try:
                with new_directory(final, self.root / "tmp") as folder:
                    make(folder)
                    write_json(folder / "key.json", key)
            except WorkspaceError:
                if not final.is_dir():  # else someone finished the same artifact first: theirs is as good
                    raise
        return final

    def result(
        self,
        kind: str,
        key: Mapping[str, Any],
        cls: type[T],
        compute: Callable[[], T],
        *,
        fresh: bool = False,
        keep: Callable[[T], bool] = lambda value: True,
    ) -> T:
        """Returns a finished result of an earlier run unless `fresh`; or computes it, and keeps it if `keep` agrees."""
        path = self.root / kind / f"{fingerprint({'layout': _LAYOUT, **key})}.json"
        if path.is_file() and not fresh:
            with contextlib.suppress(msgspec.MsgspecError, OSError):  # damaged: compute it again
                return read_json(path, cls)
        value = compute()
        if keep(value):
            write_json(path, value)
        return value

    def _sweep(self) -> None:
        """Removes what processes that are gone left half-made."""
        for leftover in (self.root / "tmp").iterdir():
            pid = leftover.name.partition("-")[0]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(leftover, ignore_errors=True)


def fingerprint(key: Mapping[str, Any]) -> str:
    """A short, stable hash of plain values."""
    return hashlib.sha256(msgspec.json.encode(to_builtins(key), order="sorted")).hexdigest()[:20]


@contextlib.contextmanager
def new_directory(final: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Gives a folder to fill that appears as `final` when the block ends well, and not at all otherwise.

    Raises:
        WorkspaceError: The place cannot be written, or `final` exists and is not ours to replace.
    """
    scratch = scratch or final.parent
    folder = scratch / f"{os.getpid()}-{uuid.uuid4().hex}"
    try:
        with writing(final):
            folder.mkdir(parents=True)
            final.parent.mkdir(parents=True, exist_ok=True)
        yield folder
        with writing(final):
            folder.rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Writes plain values or dataclasses as JSON, whole or not at all.

    Raises:
        WorkspaceError: The place cannot be written.
    """
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all.

    Raises:
        WorkspaceError: The place cannot be written.
    """
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a file to write that takes the place of `path` when the block ends well, and is gone otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path, cls: type[T]) -> T:
    """Reads a dataclass that `write_json` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=cls, dec_hook=lambda kind, value: kind(value))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's refusals to write into words.

    Raises:
        WorkspaceError: Whatever the system refused.
    """
    try:
        yield
    except WorkspaceError:
        raise
    except OSError as error:
        elsewhere = error.filename and not Path(error.filename).is_relative_to(path.parent)
        if elsewhere and error.errno == errno.ENOENT:  # a file to be read is missing: not ours to explain
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else (error.strerror or str(error)).lower()
        remedy = "Free some space or use another disk" if full else "Choose a folder that you may write to"
        raise WorkspaceError(
            f"{path} cannot be written: {reason}.", f"{remedy}; nothing half-written was kept."
        ) from None
