"""From a model in another format to a checked ONNX file in the workspace."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import resource
import shutil
import tempfile
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench import jobs
from workbench.conversion import Conversion
from workbench.dataset import Dataset
from workbench.errors import ConversionError, WorkbenchError, WorkerError
from workbench.importers._source import ConversionOptions, Source
from workbench.importers._verify import verify
from workbench.jobs import Progress, part_of
from workbench.model import Model, read_model
from workbench.options import to_builtins
from workbench.plugins import find_plugin, required_versions
from workbench.workspace import Workspace, new_directory, read_json, write_json

_KIND = "imports"
_RECORD = "conversion.json"
_ORIGINAL = "original"  # folder with the source itself, of formats that a backend runs as they are
_MEMORY = 6 * 2**30  # what a framework and a small model need at most
_MEMORY_PER_BYTE = 12  # of the file: the model in the framework, in ONNX, in ONNX Runtime, and copies between


def convert_file(
    name: str,
    path: Path,
    options: ConversionOptions,
    samples: Dataset | None,
    trust: bool,
    workspace: Workspace,
    progress: Progress,
) -> Model:
    """Converts a file in a fresh subprocess, or finds what an earlier run made of it."""
    plugin = find_plugin("importers", name)
    stem = options.name or (path.stem if path.is_file() else path.name)

    def make(folder: Path) -> None:
        try:
            record = jobs.run(
                _convert, name, path, options, samples, trust, folder / f"{path.stem}.onnx", progress=progress
            )
        except WorkerError as error:
            raise ConversionError(
                f"{path} cannot be read as a {name} model: {error.message}",
                "The file is damaged, or needs more memory than there is; save or copy it again.",
                error.details,
            ) from None
        write_json(folder / _RECORD, record)
        if kept:
            (folder / _ORIGINAL).mkdir()
            shutil.copyfile(path, folder / _ORIGINAL / path.name)

    kept = getattr(plugin, "KEEPS_ORIGINAL", False)
    if trust or getattr(plugin, "reads_code", lambda _: False)(options):  # code that decides the result has no hash
        folder = _keep(workspace, make)
    else:
        key = {
            "importer": name,
            "source": hash_path(path, _parts(plugin)),
            "options": to_builtins(options),
            "samples": samples.sha256 if samples else None,
            "versions": required_versions(plugin),
            **({"kept": True} if kept else {}),
        }
        folder = workspace.artifact(_KIND, key, make)
    return _read(folder, stem, name)


def convert_object(
    name: str, value: Any, options: ConversionOptions, samples: Any, workspace: Workspace, progress: Progress
) -> Model:
    """Converts a model that lies in this process' memory, here; it is the caller's own, hence trusted."""
    title = type(value).__name__

    def make(folder: Path) -> None:
        source = find_plugin("importers", name).open_object(value, options, samples)
        write_json(folder / _RECORD, _write_and_verify(source, folder / f"{title}.onnx", options, title, progress))

    return _read(_keep(workspace, make), options.name or title, name)


def _convert(
    name: str,
    path: Path,
    options: ConversionOptions,
    samples: Dataset | None,
    trust: bool,
    target: Path,
    progress: Progress,
) -> Conversion:
    """Runs in the worker: what the framework wants, wastes or breaks stays in there."""
    tempfile.tempdir = str(target.parent)
    _limit_memory(_MEMORY + _MEMORY_PER_BYTE * size_of(path, _parts(find_plugin("importers", name))))
    progress(0.02, f"starting {name}")
    source = open_file(name, path, options, samples, trust)
    return _write_and_verify(source, target, options, path.name, progress)


def open_file(
    name: str, path: Path, options: ConversionOptions, samples: Dataset | None = None, trust: bool = False
) -> Source:
    """Opens a file in its framework, here: what a damaged one does to the process, it does to this one.

    Raises:
        ModelError: It cannot be opened.
    """
    with _in_words(f"{path} cannot be read as a {name} model", "Save it again, and compare sizes if it was copied."):
        source: Source = find_plugin("importers", name).open_source(path, options, samples, trust)
    return source


def _write_and_verify(
    source: Source, target: Path, options: ConversionOptions, title: str, progress: Progress
) -> Conversion:
    progress(0.2, f"converting with {source.framework}")
    with _in_words(
        f"{title} cannot be converted to ONNX", "Try another opset, or replace the layer that the reason names."
    ):
        source.write_onnx(target, part_of(progress, 0.2, 0.7))
    model = read_model(target)
    with _in_words(f"{title} cannot be compared with its ONNX model", "Give samples that the model really takes."):
        return verify(source, model, options.tolerance, part_of(progress, 0.7, 1.0, "checking: "))


@contextlib.contextmanager
def _in_words(message: str, remedy: str) -> Iterator[None]:
    """Turns whatever a framework raises into a sentence; its traceback goes into the details."""
    try:
        yield
    except (WorkbenchError, MemoryError):
        raise
    except Exception as error:
        said = "".join(letter for letter in " ".join(str(error).split()) if letter.isprintable())
        reason = said[:300].rstrip(".") or type(error).__name__
        raise ConversionError(f"{message}: {reason}.", remedy, traceback.format_exc()) from None


def _keep(workspace: Workspace, make: Callable[[Path], None]) -> Path:
    """Makes an artifact first and names it by its content."""
    with new_directory(workspace.root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}") as made:
        make(made)

        def fill(folder: Path) -> None:
            for part in made.iterdir():
                part.rename(folder / part.name)

        return workspace.artifact(_KIND, {"content": hash_path(made)}, fill)


def _parts(plugin: ModuleType) -> tuple[str, ...]:
    """Files and folders that make up a model which is a folder."""
    parts: tuple[str, ...] = getattr(plugin, "PARTS", ())
    return parts


def _read(folder: Path, name: str, importer: str) -> Model:
    [path] = folder.glob("*.onnx")
    model = read_model(path, name=name, source=importer)
    original = next((folder / _ORIGINAL).glob("*"), None)
    return dataclasses.replace(model, conversion=read_json(folder / _RECORD, Conversion), original=original)


def hash_path(path: Path, parts: Sequence[str] = ()) -> str:
    """Hash of a file, or of the files of a folder with their names."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for part in _files(path, parts):
        digest.update(f"{part.relative_to(path)}\0{hash_path(part)}\0".encode())
    return digest.hexdigest()


def size_of(path: Path, parts: Sequence[str] = ()) -> int:
    """Bytes of a file, or of the files of a folder."""
    return sum(part.stat().st_size for part in ([path] if path.is_file() else _files(path, parts)))


def _files(folder: Path, parts: Sequence[str]) -> list[Path]:
    """The files that a model is made of: a model's folder may be one that holds much else besides."""
    roots = [folder / part for part in parts] if parts else [folder]
    return sorted(file for root in roots for file in (root, *root.rglob("*")) if file.is_file())


def _limit_memory(limit: int) -> None:
    """A damaged file that asks for absurd amounts ends in words instead of a machine out of memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
