"""Engines in words: what is known before a build, what came of it, and how builds of the same differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.artifact import Manifest, find_manifest
from workbench.engine import BuildCheck, Engine
from workbench.options import to_builtins
from workbench.plugins import find_plugin
from workbench.rebuilds import Rebuild
from workbench.report import columns, format_estimate, format_seconds, format_size

_SHORTEST = 0.05  # s; shorter phases say nothing
MARKS = {"ok": "✓", "doubt": "○", "refused": "✗"}


def checks_text(checks: Sequence[BuildCheck]) -> str:
    """What is known before a build, one line for each check and one for its remedy."""
    lines = []
    for check in checks:
        lines.append(f"{MARKS[check.verdict]} {check.what}")
        if check.remedy:
            lines.append(f"  {check.remedy}")
    return "\n".join(lines)


def engine_text(engine: Engine) -> str:
    """What an engine is, and where it lies."""
    versions = ", ".join(f"{name} {number}" for name, number in engine.versions.items())
    lines = [f"{engine.model.name} on {engine.backend}, for {engine.device} ({versions})"]
    usual = to_builtins(find_plugin("backends", engine.backend).Options())
    lines += [f"  {name}: {_plain(value)}" for name, value in engine.options.items() if value != usual.get(name)]
    manifest = find_manifest(engine)
    if manifest is None:
        return "\n".join([*lines, f"compiled when it is opened; the model: {engine.path}"])
    lines.append(f"{format_size(manifest.size_bytes / 1e6)}, built in {format_seconds(manifest.seconds)}")
    if phases := phases_text(manifest):
        lines.append(f"phases: {phases}")
    return "\n".join([*lines, *manifest.notes, f"file: {engine.path}"])


def phases_text(manifest: Manifest) -> str:
    """What the time of a build went into; empty where the backend does not tell, or nothing took long."""
    told = {name: spent for name, spent in manifest.phases.items() if spent >= _SHORTEST}
    return ", ".join(f"{name[:1].lower()}{name[1:]} {format_seconds(spent)}" for name, spent in told.items())


def rebuilds_text(builds: Sequence[Rebuild]) -> str:
    """Builds of the same side by side, and what differs."""
    rows = [("build", "seconds", "size", "hash", "layers that differ", "p50 ms")]
    for number, build in enumerate(builds, 1):
        differing = "–" if number == 1 or build.diff is None else str(len(build.diff.changes))
        p50 = format_estimate(build.latency.p50) if build.latency else "–"
        size = format_size(build.manifest.size_bytes / 1e6)
        cells = (str(number), f"{build.manifest.seconds:.1f}", size, build.manifest.sha256[:8], differing, p50)
        rows.append(cells)
    same = len({build.manifest.sha256 for build in builds}) == 1
    files = "All builds are the same to the byte." if same else "The files differ from build to build."
    layers = ""
    if all(build.diff is not None for build in builds):
        differ = any(build.diff and build.diff.changes for build in builds)
        layers = (
            " Their layers differ as well: time several and keep the fastest." if differ else " Their layers agree."
        )
    return f"{columns(rows, left=1)}\n\n{files}{'' if same else layers}"


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return Path(value).name if isinstance(value, Path) else str(value)
