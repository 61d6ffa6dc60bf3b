"""A change of several files of a package: made ready in a folder inside it, then put in place; finished if cut off.

No two files can be replaced at once. So the new ones first lie together in `.add-version`, and the new checksums come
there last. Only when these are there do all take their places, one rename each. Whoever is cut off before that has
changed nothing else; whoever is cut off later leaves all that finishing takes. The checksums move last, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from workbench.errors import ExportError
from workbench.provenance._checksums import (
    CHECKSUMS,
    PENDING,
    SIGNATURE,
    digests_of,
    hash_file,
    read_checksums,
    write_checksums,
)
from workbench.provenance._verify import Fault, verify_package
from workbench.workspace import write_bytes, writing


@contextlib.contextmanager
def changing(package: Path, last: Sequence[str] = ()) -> Iterator[Path]:
    """Gives an empty folder for the new files of a package, which take their places when the block ends well.

    A signature goes then: it was of other files.

    Args:
        package: One that verifies.
        last: Names of files that take their places after all others, in this order.

    Raises:
        WorkspaceError: The package cannot be written.
    """
    pending = package / PENDING
    with writing(package):
        pending.mkdir()
    try:
        yield pending
        with writing(package):
            digests = {**_listed(package), **digests_of(pending)}
            write_bytes(pending / CHECKSUMS, write_checksums(digests).encode(errors="surrogateescape"))
    except BaseException:
        shutil.rmtree(pending, ignore_errors=True)
        raise
    _put(package, last)


def finish_change(package: Path, last: Sequence[str] = ()) -> bool:
    """Finishes a change that was cut off, or clears away what it had begun to make ready.

    Args:
        package: The package, of which a change was perhaps cut off.
        last: As for `changing`.

    Returns:
        Whether there was something to finish.

    Raises:
        ExportError: Something else than the change is the matter with the package; it is left as it is.
        WorkspaceError: The package cannot be written.
    """
    pending = package / PENDING
    if pending.is_symlink() or not pending.is_dir():
        return False
    if not (pending / CHECKSUMS).is_file():
        with writing(package):
            shutil.rmtree(pending)
        return False
    if faults := _others(package):
        raise ExportError(
            f"A change of {package} was cut off, and cannot be finished, as something else is the matter with it: "
            f"{faults[0]}",
            "Export it again.",
        )
    _put(package, last)
    return True


@contextlib.contextmanager
def only_change(package: Path) -> Iterator[None]:
    """Keeps other processes from changing a package meanwhile.

    Raises:
        ExportError: One is at it, or there is no package.
    """
    try:
        descriptor = os.open(package, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ExportError(f"{package} cannot be read: {error.strerror}.", "Check the path and your rights.") from None
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ExportError(f"Another process changes {package}.", "Wait until it has ended.") from None
        yield
    finally:
        os.close(descriptor)


def _put(package: Path, last: Sequence[str]) -> None:
    pending = package / PENDING
    order = [*last, CHECKSUMS]
    names = [path.relative_to(pending).as_posix() for path in pending.rglob("*") if not path.is_dir()]
    with writing(package):
        (package / SIGNATURE).unlink(missing_ok=True)
        for name in sorted(names, key=lambda name: (order.index(name) if name in order else -1, name)):
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (pending / name).replace(package / name)
        shutil.rmtree(pending)


def _others(package: Path) -> list[Fault]:
    """What is not as it was exported, and neither as the change has it."""
    wanted = _listed(package / PENDING)
    faults = [fault for fault in verify_package(package).faults if not _is_of(fault, package, wanted)]
    for path in (package / PENDING).rglob("*"):
        name = path.relative_to(package / PENDING).as_posix()
        is_file = path.is_file() and not path.is_symlink()  # verification has found the links
        if is_file and name != CHECKSUMS and hash_file(path) != wanted.get(name):
            faults.append(Fault("changed", f"{PENDING}/{name}", "was changed"))
    return faults


def _is_of(fault: Fault, package: Path, wanted: dict[str, str]) -> bool:
    """Whether the change explains a fault."""
    if fault.name == PENDING:
        return True
    return fault.kind in ("changed", "added") and hash_file(package / fault.name) == wanted.get(fault.name)


def _listed(folder: Path) -> dict[str, str]:
    return read_checksums((folder / CHECKSUMS).read_bytes().decode(errors="surrogateescape"))[0]
