"""Exporters: one file or folder each writes a candidate as a package that runs as it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.backends import engine_key, predict
from workbench.comparison import Candidate, Row
from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.errors import ExportError
from workbench.jobs import Progress, part_of, silent
from workbench.options import make_options, to_builtins
from workbench.plugins import find_plugin
from workbench.workspace import Workspace, fingerprint, new_directory, write_json, writing

MANIFEST = "package.json"
CHECKSUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Package:
    """A written package.

    Attributes:
        directory: Where it lies.
        exporter: The plugin that wrote it.
        name: Name of the served model.
        candidate: Name of the candidate inside.
        command: What starts it, run in `directory` with Python in place of `python`.
    """

    directory: Path
    exporter: str
    name: str
    candidate: str
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What an exporter is given to pack.

    Attributes:
        candidate: What to serve.
        name: Name to serve it under.
        sample: One sample, or a whole batch where the model's is fixed; batch axis first.
        answer: What the candidate answers to it.
        measured: What was measured of it; None if nothing was.
    """

    candidate: Candidate
    name: str
    sample: Tensors
    answer: Tensors
    measured: Row | None


def export_package(
    candidate: Candidate,
    exporter: str = "server",
    options: Mapping[str, Any] | None = None,
    *,
    sample: Dataset,
    measured: Row | None = None,
    directory: str | Path | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> Package:
    """Writes a package; it appears under its name only when it is whole.

    Args:
        candidate: What to serve.
        exporter: A plugin of `workbench.exporters`.
        options: Options of that exporter.
        sample: Its first sample (as many as the model's batch, where that is fixed) becomes the package's sample
            request, with the candidate's own answer.
        measured: The candidate's row of a comparison, for the package's README.
        directory: A folder that does not exist yet; one in the workspace if None, found again by a rerun.
        workspace: Where intermediate results are kept.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        ExportError: The folder exists, or the candidate cannot be packed this way.
        WorkspaceError: The folder cannot be written.
    """
    plugin = find_plugin("exporters", exporter)
    checked = make_options(plugin.Options, options, f"exporter {exporter}")
    workspace = workspace or Workspace()
    one = sample.take(candidate.engine.model.fixed_batch or 1)
    answer = predict(candidate.engine, one, batch=len(one), workspace=workspace, progress=part_of(progress, 0.0, 0.7))
    contents = Contents(candidate, _slug(candidate.engine.model.name), one.inputs, answer, measured)
    if directory is None:
        key = {"engine": engine_key(candidate.engine), "options": to_builtins(checked), "sample": one.sha256}
        key["measured"] = to_builtins(measured)
        final = workspace.root / "packages" / f"{_slug(candidate.name)}-{fingerprint(key)[:8]}"
        if (final / MANIFEST).is_file():
            return read_package(final)
    else:
        final = Path(directory).expanduser().absolute()
        if final.exists():
            raise ExportError(
                f"{final} exists already, and nothing in it is overwritten.", "Choose a folder that does not exist yet."
            )
    progress(0.8, "writing the package")
    with new_directory(final) as folder, writing(final):
        plugin.export(contents, checked, folder)
        manifest = {
            "exporter": exporter,
            "name": contents.name,
            "candidate": candidate.name,
            "history": candidate.engine.model.history,
            "engine": engine_key(candidate.engine),
        }
        write_json(folder / MANIFEST, manifest)
        (folder / CHECKSUMS).write_text(_checksums(folder), encoding="utf-8")
    progress(1.0, "package written")
    return read_package(final)


def read_package(directory: Path) -> Package:
    """Describes a package that lies in a folder.

    Raises:
        ExportError: The folder holds none.
    """
    try:
        values = json.loads((directory / MANIFEST).read_bytes())
        return Package(
            directory=directory.absolute(),
            exporter=values["exporter"],
            name=values["name"],
            candidate=values["candidate"],
            # Not read from the file: a package from a stranger must not choose what runs here.
            command=find_plugin("exporters", values["exporter"]).COMMAND,
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise ExportError(
            f"{directory} holds no package: its {MANIFEST} is missing or damaged.", "Export the candidate again."
        ) from None


def _checksums(folder: Path) -> str:
    """One line per file, as `sha256sum -c` reads them."""
    lines = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as stream:
            lines.append(
                f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n"
            )
    return "".join(lines)


def _slug(name: str) -> str:
    """A name that files, URLs and containers take."""
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "model"
