"""Another version of a model put into a server's package, so that a service that runs can take it up."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import msgspec

from workbench.errors import ExportError, ServiceError
from workbench.exporters import MANIFEST, Package, read_package
from workbench.provenance import (
    FOLDER,
    changing,
    check_key,
    finish_change,
    only_change,
    sign,
    verify_package,
)
from workbench.provenance._checksums import is_inside
from workbench.workspace import write_json, writing

_SAMPLES = ("sample_request.json", "sample_response.json")
_CONFIG = "config.json"


class _Entry(msgspec.Struct, frozen=True):
    """What is read of one of a configuration's models; the rest of it is handed on as it is."""

    name: str
    version: str
    path: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    sample: str = ""


def add_version(
    package: Package, newer: Package, *, keep_old: bool = True, sign_key: str | Path | None = None
) -> Package:
    """Puts the version of another server's package into this one, where it answers requests that name none.

    A service that runs from the package takes it up when it gets SIGHUP. What it reads is replaced last and at once, so
    that a service that starts meanwhile finds one or the other. The documents of the new version go to
    `provenance/VERSION`; the checksums are made anew. A signature is dropped, as it was of other files, unless there is
    a key to sign again with.

    If it is cut off, the package still serves; called again, it finishes first what was begun, or begins anew. What is
    there already from the same export is not put there again, only signed if there is a key.

    Args:
        package: The package of a server; it is changed.
        newer: Another one, of the same model with the same inputs and outputs.
        keep_old: Whether the versions that are there can still be asked by name. If not, their entries go; their files
            stay, as a service that runs needs them until it has changed.
        sign_key: Private key (PEM, elliptic curve) to sign the package with.

    Returns:
        The package as it is now.

    Raises:
        ExportError: One of them is no such package or not as it was exported, they do not fit each other, the version
            is there already, or the key cannot be used.
        MissingDependencyError: It is to be signed, and what signs is not installed.
        WorkspaceError: The package cannot be written.
    """
    key = Path(sign_key).expanduser() if sign_key else None
    if key:
        check_key(key)  # said now, not after the work
    with only_change(package.directory):
        finish_change(package.directory, last=[_CONFIG])
        _put(package, newer, keep_old)
        if key:
            sign(package.directory, key)
    return read_package(package.directory)


def _put(package: Package, newer: Package, keep_old: bool) -> None:
    """Puts the version in, unless it is there."""
    config, mine = _read(package)
    other_config, theirs = _read(newer)
    new = theirs[-1]
    old = [entry for entry in mine if entry.name == new.name]
    if _is_there(package, newer, old, new) and (keep_old or len(old) == 1):
        return
    _check_fit(package, newer, old, new)

    raw = next(raw for raw in other_config["models"] if (raw["name"], raw["version"]) == (new.name, new.version))
    folder = Path("models", new.name, new.version)
    entry = {**raw, "path": (folder / Path(new.path).name).as_posix(), "sample": (folder / _SAMPLES[0]).as_posix()}
    kept = [raw for raw in config["models"] if keep_old or raw["name"] != new.name]
    with changing(package.directory, last=[_CONFIG]) as fresh, writing(package.directory):
        shutil.copytree(newer.directory / Path(new.path).parent, fresh / folder)
        for name in _SAMPLES:
            shutil.copyfile(newer.directory / name, fresh / folder / name)
        _keep_samples(package.directory, fresh, kept)
        documents = fresh / FOLDER / new.version
        documents.mkdir(parents=True)
        for path in (*(newer.directory / FOLDER).glob("*.json"), newer.directory / MANIFEST):
            shutil.copyfile(path, documents / path.name)
        for name in (*_SAMPLES, MANIFEST):
            shutil.copyfile(newer.directory / name, fresh / name)
        write_json(fresh / _CONFIG, {**config, "models": [*kept, entry]})


def versions_of(package: Package) -> tuple[str, tuple[str, ...]]:
    """The model that a server's package is of, and the versions of it that it serves; the newest is last.

    Raises:
        ExportError: Its configuration cannot be used.
    """
    _, entries = _read_config(package)
    name = entries[-1].name
    return name, tuple(entry.version for entry in entries if entry.name == name)


def reload_service(pid: int) -> None:
    """Has a service on this machine read its configuration again; its log says what came of it.

    Args:
        pid: The process that was started, which is the one that its log names.

    Raises:
        ServiceError: There is no such service, or it is another user's.
    """
    _signal(pid, signal.SIGHUP)


def check_service(pid: int) -> None:
    """Makes sure that there is a service that can be told, before anything is changed.

    Raises:
        ServiceError: As `reload_service`.
    """
    _signal(pid, 0)  # which none gets, but it is looked whether it could


def _signal(pid: int, number: int) -> None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if not any(Path(os.fsdecode(word)).name == "serve.py" for word in command):  # others end on this signal
            raise ServiceError(f"Process {pid} is no exported server.", "Give the one that its log calls process.pid.")
        os.kill(pid, number)
    except (FileNotFoundError, ProcessLookupError):
        raise ServiceError(f"There is no process {pid}.", "Give the one that its log calls process.pid.") from None
    except PermissionError:
        raise ServiceError(f"Process {pid} is another user's.", "Send it SIGHUP as that user.") from None


def _read(package: Package) -> tuple[dict[str, Any], list[_Entry]]:
    """The configuration of a server's package that is as it was exported."""
    if package.exporter != "server":
        raise ExportError(
            f"{package.directory} is a package of the exporter {package.exporter}: a version can be added to those of "
            "'server' only.",
            "Export the candidate with the exporter server.",
        )
    if faults := verify_package(package.directory).faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ExportError(
            f"{package.directory} is not as it was exported: {faults[0]}{more}",
            "See `workbench verify`, and export it again.",
        )
    return _read_config(package)


def _read_config(package: Package) -> tuple[dict[str, Any], list[_Entry]]:
    """A configuration as it is, and as far as it matters here."""
    try:
        content = (package.directory / _CONFIG).read_bytes()
        config = msgspec.json.decode(content, type=dict[str, Any])
        entries = msgspec.convert(config.get("models"), list[_Entry])
        if not entries or not all(_is_sound(entry) for entry in entries):
            raise ValueError("a model has a path outside the package, or there is none")
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{package.directory / _CONFIG} cannot be used: {error}.", "Export the candidate again."
        ) from None
    return config, entries


def _is_sound(entry: _Entry) -> bool:
    """Whether its names and paths can be made paths of."""
    names = all("/" not in name and is_inside(name) for name in (entry.name, entry.version))
    return names and all(is_inside(path) for path in (entry.path, *([entry.sample] if entry.sample else [])))


def _is_there(package: Package, newer: Package, old: list[_Entry], new: _Entry) -> bool:
    """Whether it was put there already, from the same export: no two have the same bill of materials."""
    if not old or (old[-1].name, old[-1].version) != (new.name, new.version):
        return False
    name = "bom.cdx.json"
    mine, theirs = package.directory / FOLDER / new.version / name, newer.directory / FOLDER / name
    return mine.is_file() and theirs.is_file() and mine.read_bytes() == theirs.read_bytes()


def _check_fit(package: Package, newer: Package, old: list[_Entry], new: _Entry) -> None:
    here, there = package.directory, newer.directory
    if not old:
        raise ExportError(
            f"{there} serves {new.name}, and {here} serves {package.name}: they are other models.",
            "Give both the same name when they are exported, if one is to take the other's place.",
        )
    if new.version in {entry.version for entry in old}:
        free = max((int(entry.version) for entry in old if entry.version.isdecimal()), default=0) + 1
        raise ExportError(
            f"{here} has version {new.version} of {new.name} already.",
            f"Export the newer one with another version, e.g. version={free}.",
        )
    for kind in ("inputs", "outputs"):
        was, will_be = (_spoken(getattr(entry, kind)) for entry in (old[-1], new))
        if was != will_be:
            raise ExportError(
                f"Version {new.version} of {new.name} has other {kind}: {will_be}, and version {old[-1].version} has "
                f"{was}. Callers of one could not ask the other.",
                "Serve it under another name, in a package of its own.",
            )
    if Path(new.path).parent == Path():
        raise ExportError(f"The model in {there} has no folder of its own.", "Export the candidate again.")
    code, other_code = (
        {path.name: path.read_bytes() for path in folder.glob("*.py")}
        | {"": (folder / "requirements.txt").read_bytes()}
        for folder in (here, there)
    )
    if code != other_code:
        differing = sorted(
            name or "requirements.txt" for name in code | other_code if code.get(name) != other_code.get(name)
        )
        raise ExportError(
            f"The two packages run on other code or libraries: {', '.join(differing)} differ. A service that runs "
            "keeps those that it was started with.",
            "Export both with the same workbench, on the same backend; or start the newer one beside the older.",
        )


def _keep_samples(directory: Path, fresh: Path, kept: list[dict[str, Any]]) -> None:
    """Puts the sample of a version that stays beside its model: the one above is the newest's."""
    for entry in kept:
        if entry.get("sample") == _SAMPLES[0]:
            folder = Path(entry["path"]).parent
            for name in _SAMPLES:
                (fresh / folder).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(directory / name, fresh / folder / name)
            entry["sample"] = (folder / _SAMPLES[0]).as_posix()


def _spoken(tensors: list[dict[str, Any]]) -> str:
    return "; ".join(f"{tensor.get('name')} {tensor.get('datatype')} {tensor.get('shape')}" for tensor in tensors)
