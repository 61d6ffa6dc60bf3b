"""What the tests of packages share: what somebody does to one, and what verification says of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from workbench.provenance import CHECKSUMS, Verification


def rewrite_checksums(package: Path) -> None:
    """What somebody does who changes a file and knows how the checksums are made."""
    names = [line[66:] for line in (package / CHECKSUMS).read_text().splitlines()]
    lines = [f"{hashlib.sha256((package / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (package / CHECKSUMS).write_text("".join(lines))


def model_in(package: Path) -> str:
    [model] = package.rglob("*.onnx")
    return model.relative_to(package).as_posix()


def kinds(verification: Verification) -> set[tuple[str, str]]:
    return {(fault.kind, fault.name) for fault in verification.faults}


def change(package: Path) -> None:
    model = package / model_in(package)
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
