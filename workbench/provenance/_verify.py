"""Whether a package is what was exported: every changed, missing and added file, and what could not be looked at."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from workbench.errors import ExportError
from workbench.jobs import Progress, silent
from workbench.provenance._checksums import CHECKSUMS, PENDING, SIGNATURE, hash_stream, is_inside, read_checksums, shown
from workbench.provenance._entries import MANIFEST, READ_ERRORS, Entry, open_entries
from workbench.provenance._signature import check_signature
from workbench.report import format_size

_PARTS = {"provenance", "sample_request.json", "sample_response.json"}  # by which a part of a package is known
_LONGEST = 64_000_000  # bytes of checksums, and of a manifest, that are read at once
_KINDS = {
    "link": "is a link; packages hold none, and it was not followed",
    "special": "is a pipe, a socket or a device, and was not opened",
    "unreadable": "cannot be read",
}
_COUNTED = {  # one, and several
    "changed": ("file changed", "files changed"),
    "missing": ("file missing", "files missing"),
    "added": ("file added", "files added"),
    "link": ("link", "links"),
    "special": ("pipe or device", "pipes or devices"),
    "unreadable": ("unreadable", "unreadable"),
    "outside": ("path outside the package", "paths outside the package"),
    "damaged": ("damaged part", "damaged parts"),
    "signature": ("signature not as expected", "signatures not as expected"),
}
_MOST_SHOWN = 20
_BYTECODE = (
    "was added: Python writes such files when the package runs, and somebody else can too; Python runs them instead "
    "of the source. Delete the folder, and set PYTHONDONTWRITEBYTECODE=1 where the package runs"
)
_CUT_OFF = (
    "is what an add-version left behind that was cut off, the likely cause of any other fault here, too. Run the same "
    "command again: it finishes or undoes what was begun"
)


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it was exported.

    Attributes:
        kind: What is wrong with it.
        name: The file inside the package, as it can be printed.
        reason: The same in words that follow the name.
    """

    kind: Literal["changed", "missing", "added", "link", "special", "unreadable", "outside", "damaged", "signature"]
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} {self.reason}."


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        place: The package's folder or archive.
        files: Files that were compared with their checksums.
        size_bytes: Their size.
        faults: What is not as it was exported; empty if all is well.
        fingerprint: SHA-256 of SHA256SUMS, which stands for the whole package; empty if that is missing.
        fingerprint_known: Whether it was compared with one from elsewhere.
        signature: Whether the package is signed, and whether that was checked with a key.
    """

    place: Path
    files: int
    size_bytes: int
    faults: tuple[Fault, ...]
    fingerprint: str
    fingerprint_known: bool
    signature: Literal["none", "unchecked", "valid", "invalid"]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def __str__(self) -> str:
        if self.faults:
            lines = [f"{self.place} is not as it was exported: {self._count()}."]
            return "\n".join([*lines, *(f"  ✗ {fault}" for fault in self._first()), *self._rest()])
        size = format_size(self.size_bytes / 1e6)
        found = f"All {self.files:,} files ({size}) of {self.place} are as they were exported"
        if self.signature == "valid":
            return f"{found}, and the signature was made with this key."
        if self.fingerprint_known:
            return f"{found}, and the fingerprint is the one that was given."
        unnoticed = (
            f"Somebody who changed files and {CHECKSUMS} alike would not be noticed: compare the fingerprint with the "
            "one that the export printed"
        )
        if self.signature == "unchecked":
            return f"{found}. Its signature was not checked, as no key was given. {unnoticed}, or give the key."
        return f"{found}. It is not signed. {unnoticed}."

    def _count(self) -> str:
        counts = Counter(fault.kind for fault in self.faults)
        return ", ".join(f"{count:,} {_COUNTED[kind][count > 1]}" for kind, count in counts.items())

    def _first(self) -> Sequence[Fault]:
        """The faults that are shown: of many, those of rare kinds before the thousands of one kind."""
        if len(self.faults) <= _MOST_SHOWN:
            return self.faults
        counts = Counter(fault.kind for fault in self.faults)
        return sorted(self.faults, key=lambda fault: (fault.name != PENDING, counts[fault.kind]))[:_MOST_SHOWN]

    def _rest(self) -> Sequence[str]:
        more = len(self.faults) - _MOST_SHOWN
        return [f"  ... and {more:,} more"] if more > 0 else []


def verify_package(
    directory: str | Path, *, key: str | Path | None = None, fingerprint: str = "", progress: Progress = silent
) -> Verification:
    """Compares a package with its checksums; nothing in it is run, imported or followed, and files are streamed.

    Args:
        directory: The package's folder, or a ZIP or tar file of it.
        key: Public key (PEM, elliptic curve) that the package must be signed with.
        fingerprint: The one that was printed when it was exported, to be compared with this package's.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        ExportError: There is no package, or the key cannot be used.
        MissingDependencyError: A key is given, and what checks signatures is not installed.
    """
    place = Path(directory).expanduser().absolute()
    public = None if key is None else Path(key).expanduser()
    if public is not None and not public.is_file():
        raise ExportError(
            f"The key {public} cannot be used: there is no such file.", "Check the path, and name the public one."
        )
    with open_entries(place) as entries:
        found = {entry.name: entry for entry in entries}
        if CHECKSUMS not in found and MANIFEST not in found:
            raise _no_package(place, found)
        faults = [Fault(entry.kind, shown(entry.name), _KINDS[entry.kind]) for entry in entries if entry.kind != "file"]
        counts = Counter(entry.name for entry in entries)
        faults += [Fault("damaged", shown(name), "is there more than once") for name in counts if counts[name] > 1]
        listed, own = _listed(found, faults)
        files = [entry for entry in entries if entry.kind == "file"]
        compared = [entry for entry in files if entry.name in listed]
        faults += _compare(compared, listed, progress)
        faults += [Fault("missing", shown(name), "is missing") for name in listed if name not in found]
        known = {*listed, CHECKSUMS, SIGNATURE}
        added = [entry for entry in files if entry.name not in known]
        pending = [entry for entry in added if entry.name.startswith(f"{PENDING}/")]
        faults += [_added(entry) for entry in added if listed and entry not in pending]
        faults[:0] = [Fault("added", PENDING, _CUT_OFF)] if pending else []
        faults += _manifest(found)
    given = fingerprint.lower().removeprefix("sha256:").strip()
    if given and given != own:
        faults.append(Fault("changed", CHECKSUMS, f"has another fingerprint: sha256:{own or '–'}"))
    signature: Literal["none", "unchecked", "valid", "invalid"] = "unchecked" if SIGNATURE in found else "none"
    if public is not None:
        there = SIGNATURE in found and found[SIGNATURE].kind == "file"
        reason = check_signature(place, public) if there else "is missing"
        signature = "invalid" if reason else "valid"
        faults += [Fault("signature", SIGNATURE, reason)] if reason else []
    size = sum(entry.size for entry in compared)
    return Verification(place, len(compared), size, tuple(faults), own, bool(given), signature)


def _no_package(place: Path, found: Mapping[str, Entry]) -> ExportError:
    """What is said of a place without a manifest and checksums: an archive that was cut off has neither either."""
    lacks = f"neither {MANIFEST} nor {CHECKSUMS}"
    if part := next((name for name in found if _PARTS & {*name.split("/")}), None):
        return ExportError(
            f"{place} is no whole package: it has {shown(part)}, but {lacks}.", "Fetch it again, or unpack it again."
        )
    return ExportError(f"{place} holds no package: it has {lacks}.", "Check the path.")


def _listed(found: Mapping[str, Entry], faults: list[Fault]) -> tuple[dict[str, str], str]:
    """What SHA256SUMS names, and its own hash."""
    if CHECKSUMS not in found:
        faults.append(Fault("missing", CHECKSUMS, "is missing, so that no file can be compared"))
        return {}, ""
    content = _read(found[CHECKSUMS])
    if content is None:
        faults.append(Fault("damaged", CHECKSUMS, "cannot be read, so that no file can be compared"))
        return {}, ""
    listed, wrong = read_checksums(content.decode(errors="surrogateescape"))
    faults += [Fault(kind, CHECKSUMS, f"is damaged: {reason}") for kind, reason in wrong]
    if MANIFEST not in listed:
        faults.append(Fault("damaged", CHECKSUMS, f"does not name {MANIFEST}"))
    return listed, hashlib.sha256(content).hexdigest()


def _compare(entries: Sequence[Entry], listed: Mapping[str, str], progress: Progress) -> list[Fault]:
    """Hashes what is listed."""
    faults = []
    whole, done = max(1, sum(entry.size for entry in entries)), 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(min(1.0, done / whole), f"compared {done / 1e6:.0f} of {whole / 1e6:.0f} MB")

    for entry in entries:
        assert entry.open is not None
        try:
            with entry.open() as stream:
                digest = hash_stream(stream, count)
        except READ_ERRORS:
            faults.append(Fault("unreadable", shown(entry.name), _KINDS["unreadable"]))
            continue
        if digest != listed[entry.name]:
            faults.append(Fault("changed", shown(entry.name), "was changed"))
    return faults


def _added(entry: Entry) -> Fault:
    if not is_inside(entry.name):
        return Fault("outside", shown(entry.name), "lies outside the package")
    bytecode = "__pycache__" in PurePosixPath(entry.name).parts
    return Fault("added", shown(entry.name), _BYTECODE if bytecode else "was added")


def _manifest(found: Mapping[str, Entry]) -> list[Fault]:
    """Whether package.json says what the package is, even if its hash is right."""
    if MANIFEST not in found:
        return []  # it is missing, and said to be
    try:
        values = json.loads(_read(found[MANIFEST]) or b"")
        sound = all(isinstance(values[name], str) for name in ("exporter", "name", "candidate"))
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    return [] if sound else [Fault("damaged", MANIFEST, "is damaged: it does not say what the package is")]


def _read(entry: Entry) -> bytes | None:
    """A small file as a whole; None if it is no file, cannot be read or is not small."""
    if entry.open is None or entry.size > _LONGEST:
        return None
    try:
        with entry.open() as stream:
            return stream.read(entry.size)
    except READ_ERRORS:
        return None
