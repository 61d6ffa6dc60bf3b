"""Engine files in the workspace: built once under a lock, described by a manifest, and loaded only where they fit."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from workbench.engine import Engine
from workbench.errors import EngineError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import to_builtins
from workbench.workspace import Workspace, fingerprint, read_json, write_json, writing

MANIFEST, LOG = "manifest.json", "build.log"

_WAIT_SECONDS = 0.1  # between two looks whether another build of the same engine has ended


@dataclass(frozen=True)
class Manifest:
    """What an engine file was built from, with, and for.

    Attributes:
        backend: Name of the plugin in `workbench.backends`.
        model: Name of the model.
        model_sha256: Its hash.
        options: Every option it was built with.
        device: What it runs on, as in `Engine.device`.
        versions: Version of each library that decides the result; of the driver too, where that does.
        file: Name of the engine file beside the manifest.
        sha256: Its hash.
        size_bytes: Its size.
        seconds: How long the build took.
        phases: Seconds of each phase of it, by name, as far as the backend tells.
        notes: What the build said of the result, in sentences.
        made: When, as an ISO 8601 time in UTC.
    """

    backend: str
    model: str
    model_sha256: str
    options: Mapping[str, Any]
    device: str
    versions: Mapping[str, str]
    file: str
    sha256: str
    size_bytes: int
    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    made: str = ""


@dataclass(frozen=True)
class Misfit:
    """Why an engine cannot be used here, and how it would be built here.

    Attributes:
        reason: A clause such as `it was built with tensorrt_rtx 1.6.0, and here is 1.7.1`.
        options: What to build it with again.
    """

    reason: str
    options: Mapping[str, Any]


class Built(NamedTuple):
    """What a build says of the file that it wrote: seconds of its phases, and notes in sentences."""

    phases: Mapping[str, float] = {}
    notes: tuple[str, ...] = ()


def build_artifact(
    model: Model,
    backend: str,
    options: Any,
    device: str,
    versions: Mapping[str, str],
    file: str,
    make: Callable[[Path], Built],
    progress: Progress,
) -> Engine:
    """Finds an engine file that an earlier run built, or builds it; two builds of the same wait for each other.

    A file that is damaged is built again. What a build that fails or is cancelled had written is removed.

    Args:
        model: What is built.
        backend: Name of the plugin.
        options: Its `Options`.
        device: What it is built for, e.g. `SM89`.
        versions: Version of each library that decides the result.
        file: Name of the engine file, e.g. `model.plan`.
        make: Writes the file, and whatever belongs to it, into the empty folder that it is given.
        progress: Called while another build of the same is waited for; may raise to cancel.
    """
    plain = to_builtins(options)
    key = {
        "model": model.sha256,
        "backend": backend,
        "options": plain,
        "device": device,
        "versions": dict(versions),
    }
    workspace = Workspace()

    def fill(folder: Path) -> None:
        begun = time.monotonic()
        told = make(folder)
        path = folder / file
        manifest = Manifest(
            backend=backend,
            model=model.name,
            model_sha256=model.sha256,
            options=plain,
            device=device,
            versions=dict(versions),
            file=file,
            sha256=_sha256(path),
            size_bytes=path.stat().st_size,
            seconds=time.monotonic() - begun,
            phases=told.phases,
            notes=told.notes,
            made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        write_json(folder / MANIFEST, manifest)

    with _alone(workspace.root / "locks" / f"{fingerprint(key)}.lock", progress):
        folder = workspace.artifact("engines", key, fill)
        if _damage(folder):
            shutil.rmtree(folder)
            folder = workspace.artifact("engines", key, fill)
    return Engine(model, backend, plain, device, folder / file, dict(versions))


def read_manifest(folder: Path) -> Manifest:
    """Reads what an engine folder says of itself.

    Raises:
        EngineError: There is no manifest, or it cannot be read.
    """
    try:
        manifest = read_json(folder / MANIFEST, Manifest)
    except OSError:
        raise EngineError(f"{folder} holds no engine.", "Give the folder that a build wrote.") from None
    except msgspec.MsgspecError as error:
        raise EngineError(f"{folder / MANIFEST} cannot be read: {error}.", "Build the engine again.") from None
    if Path(manifest.file).name != manifest.file:
        raise EngineError(f"{folder / MANIFEST} names a file outside of its folder.", "Build the engine again.")
    return manifest


def find_manifest(engine: Engine) -> Manifest | None:
    """What an engine's file says of itself; None for an engine that is compiled when it is opened.

    Raises:
        EngineError: The manifest cannot be read.
    """
    folder = engine.path.parent
    return read_manifest(folder) if (folder / MANIFEST).is_file() else None


def check_file(engine: Engine) -> None:
    """Checks that an engine's file is the one that was built.

    Raises:
        EngineError: It is gone, was cut short or changed.
    """
    if damage := _damage(engine.path.parent):
        raise EngineError(f"The engine of {engine.model.name} cannot be used: {damage}.", "Build the engine again.")


def _damage(folder: Path) -> str:
    """What is wrong with the files of an engine; empty if nothing is."""
    try:
        manifest = read_manifest(folder)
    except EngineError as error:
        return error.message.rstrip(".")
    path = folder / manifest.file
    if not path.is_file():
        return f"{path} is gone"
    size = path.stat().st_size
    if size != manifest.size_bytes:
        return f"{path} has {size:,} bytes in place of {manifest.size_bytes:,}"
    return "" if _sha256(path) == manifest.sha256 else f"{path} was changed since it was built"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    """Waits until no other process or thread builds the same; the system frees the lock of one that is gone."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    with stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress(0.0, "waiting for another build of the same engine")
                time.sleep(_WAIT_SECONDS)
        yield
