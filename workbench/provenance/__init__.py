"""Provenance: what a package was made of and how, and whether it still is what was exported."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from workbench.provenance._bom import bill_of_materials
from workbench.provenance._checksums import CHECKSUMS as CHECKSUMS
from workbench.provenance._checksums import PENDING as PENDING
from workbench.provenance._checksums import SIGNATURE as SIGNATURE
from workbench.provenance._checksums import checksums
from workbench.provenance._entries import MANIFEST as MANIFEST
from workbench.provenance._pending import changing as changing
from workbench.provenance._pending import finish_change as finish_change
from workbench.provenance._pending import only_change as only_change
from workbench.provenance._record import Origin as Origin
from workbench.provenance._record import environment_of, measurements_of, recipe_of
from workbench.provenance._signature import PASSWORD_VARIABLE as PASSWORD_VARIABLE
from workbench.provenance._signature import check_key as check_key
from workbench.provenance._signature import sign as sign
from workbench.provenance._verify import Fault as Fault
from workbench.provenance._verify import Verification as Verification
from workbench.provenance._verify import verify_package as verify_package
from workbench.workspace import write_json

FOLDER = "provenance"


def write_provenance(folder: Path, origin: Origin) -> None:
    """Adds to a package that is otherwise whole where it comes from, and the checksums of everything.

    Args:
        folder: The package.
        origin: What it was made of.

    Raises:
        WorkspaceError: It cannot be written.
    """
    environment = environment_of(origin)
    documents: dict[str, Any] = {
        "recipe": recipe_of(origin),
        "measurements": measurements_of(origin),
        "plan": origin.plan,
        "environment": environment,
        "bom.cdx": bill_of_materials(folder, origin, environment["created"]),
    }
    for name, document in documents.items():
        write_json(folder / FOLDER / f"{name}.json", document)
    (folder / CHECKSUMS).write_text(checksums(folder), encoding="utf-8")


def fingerprint_of(directory: Path) -> str:
    """SHA-256 of a package's SHA256SUMS: one value that stands for all of it, to be kept elsewhere."""
    return hashlib.sha256((directory / CHECKSUMS).read_bytes()).hexdigest()
