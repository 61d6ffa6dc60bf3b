"""What the Build panel says before a build and after it, as HTML."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from workbench.artifact import Manifest, find_manifest
from workbench.engine import BuildCheck, Engine
from workbench.engine_report import MARKS, phases_text
from workbench.graph import GraphSummary
from workbench.report import format_bytes, format_seconds

_ORDER = {"refused": 0, "doubt": 1, "ok": 2}


def precision_line(graph: GraphSummary) -> str:
    """What a model computes in, by its own Q/DQ nodes and casts, e.g. `int8 98 %, float32 2 % of the MACs`."""
    macs: Counter[str] = Counter()
    for node in graph.nodes:
        macs[node.precision or "not known"] += node.macs or 0
    total = sum(macs.values())
    if not total:
        kinds = Counter(node.precision or "not known" for node in graph.nodes)
        return ", ".join(name for name, _ in kinds.most_common())
    shares = [(name, 100 * count / total) for name, count in macs.most_common() if count]
    if len(shares) == 1:
        return shares[0][0]
    return ", ".join(f"{name} {_percent(share)}" for name, share in shares) + " of the MACs"


def checks_html(precision: str, checks: Sequence[BuildCheck]) -> str:
    """What is known before the build, what is refused first; the precision where a backend says nothing of it."""
    rows = (
        []
        if checks
        else [f'<tr><td colspan="2" class="wb-all">The model computes in {html.escape(precision)}.</td></tr>']
    )
    for check in sorted(checks, key=lambda check: _ORDER[check.verdict]):
        remedy = f'<div class="wb-quiet">→ {html.escape(check.remedy)}</div>' if check.remedy else ""
        rows.append(
            f'<tr class="wb-{check.verdict}"><td role="img" aria-label="{check.verdict}">{MARKS[check.verdict]}</td>'
            f"<td>{html.escape(check.what)}{remedy}</td></tr>"
        )
    return f'<table class="wb-facts wb-before">{"".join(rows)}</table>'


def engine_html(engine: Engine, *, found: bool) -> str:
    """What came of a build.

    Args:
        engine: The engine.
        found: Whether an earlier run had built it.
    """
    manifest = find_manifest(engine)
    versions = ", ".join(f"{name} {number}" for name, number in engine.versions.items())
    if manifest is None:
        rows = {
            "File": _file(engine, "the model itself; the backend compiles it when it is opened"),
            "Runs on": html.escape(engine.device),
            "Versions": html.escape(versions),
        }
        return _facts(rows)
    phases = phases_text(manifest)
    took = f"{format_seconds(manifest.seconds)}{f' ({phases})' if phases else ''}"
    before = f"found in the workspace, built {manifest.made[:16].replace('T', ' ')} UTC" if found else ""
    rows = {
        "Size": html.escape(f"{format_bytes(manifest.size_bytes)}{_ratio(engine, manifest)}"),
        "Built for": html.escape(engine.device.replace("+", ", ")),
        "Built in": html.escape(took),
        "Already built": before,
        "Versions": html.escape(versions),
        "File": _file(engine, engine.path.name),
    }
    notes = "".join(f'<div class="wb-note">{html.escape(note)}</div>' for note in manifest.notes)
    return _facts(rows) + notes


def engine_name(variant: str, engine: Engine, others: Iterable[tuple[str, Engine]]) -> str:
    """A name that no other engine has: the variant, the backend and the target, numbered where only options differ."""
    name = " · ".join(filter(None, (variant, engine.backend, "" if find_manifest(engine) is None else engine.device)))
    taken = {other for other, each in others if each != engine}
    if name not in taken:
        return name
    return next(f"{name} ({number})" for number in range(2, len(taken) + 3) if f"{name} ({number})" not in taken)


def _ratio(engine: Engine, manifest: Manifest) -> str:
    ratio = engine.model.size_bytes / manifest.size_bytes
    if ratio >= 1.05:
        return f", {ratio:.1f} × smaller than the ONNX model"
    return f", {1 / ratio:.1f} × larger than the ONNX model" if ratio <= 1 / 1.05 else ", like the ONNX model"


def _file(engine: Engine, text: str) -> str:
    return f'<span title="{html.escape(str(engine.path))}" tabindex="0">{html.escape(text)}</span>'


def _facts(rows: Mapping[str, str]) -> str:
    cells = (f"<tr><th>{html.escape(name)}</th><td>{value}</td></tr>" for name, value in rows.items() if value)
    return f'<table class="wb-facts">{"".join(cells)}</table>'


def _percent(share: float) -> str:
    return f"{share:.0f} %" if share >= 1 else "< 1 %"
