"""What the Export panel shows: the serving plan, a written package, its trial and its verification, as HTML."""

from __future__ import annotations

import html
import re
from pathlib import Path

from widgets import _markup
from workbench.exporters import Package
from workbench.provenance import SIGNATURE, Verification
from workbench.report import format_size
from workbench.serving_measurements import Derived
from workbench.serving_plan import ServingPlan
from workbench.trial import Trial

_MOST_FAULTS = 12
_MOST_README = 100_000  # characters of a README that are read
_STYLE = """<style>
.wb-panel .wb-plan { max-width: 1000px; width: 100%; margin-top: 4px; }
.wb-panel .wb-plan :is(th, td) { padding: 4px 24px 4px 0; white-space: normal; vertical-align: baseline; }
.wb-panel .wb-plan :is(th, td):nth-child(-n+2) { white-space: nowrap; }
.wb-panel .wb-plan :is(th, td):last-child { text-align: left; padding-right: 0; width: 100%; }
.wb-panel .wb-plan .wb-usual td { color: var(--jp-ui-font-color2, inherit); }
.wb-panel .wb-plan small { border: 1px solid var(--jp-border-color1, currentColor); border-radius: 3px; padding: 0 6px;
  margin-right: 8px; white-space: nowrap; }
.wb-panel .wb-package summary { cursor: pointer; color: var(--jp-ui-font-color2, inherit); margin-top: 4px; }
.wb-panel .wb-package .wb-facts { margin-bottom: 4px; }
.wb-panel .wb-package .wb-facts th { min-width: 80px; }
.wb-panel .wb-package.wb-first > .wb-group:first-of-type { margin-top: 0; }
.wb-panel .wb-package pre { white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere; }
</style>"""
_LABELS = {
    "max_batch": "largest batch",
    "batch_wait_ms": "longest wait for a batch",
    "request_seconds": "longest request",
    "capacity": "capacity of a replica",
    "rate_per_replica": "planned rate of a replica",
    "p50_ms": "p50 to expect",
    "p99_ms": "p99 to expect",
    "alert_p99_ms": "alert if p99 is above",
    "alert_error_ratio": "alert if failures are above",
    "cpu_cores": "processor",
    "memory_mb": "memory",
}


def plan_html(plan: ServingPlan) -> str:
    """Every number of a package with what it was derived from; those that rest on no measurement are marked."""
    rows = [_plan_row(_LABELS.get(name, name.replace("_", " ")), number) for name, number in plan.numbers.items()]
    buckets = plan.buckets_ms
    spread = f"{len(buckets)}, {buckets[0]:g} to {buckets[-1]:g} ms" if buckets else "none"
    rows.append(_row("latency buckets", spread, plan.buckets_source, usual=not plan.p50_ms.measured))
    head = "<tr><th>number</th><th>value</th><th>derived from</th></tr>"
    return f'{_STYLE}<table class="wb-list wb-plan">{head}{"".join(rows)}</table>'


def package_html(package: Package, fingerprint: str) -> str:
    """Where a package lies, what is in it, and how it is started."""
    files = [path for path in package.directory.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    signed = (package.directory / SIGNATURE).is_file()
    facts = {
        "Package": f"{package.name}, from {package.candidate}",
        "Folder": str(package.directory),
        "Content": f"{len(files)} files, {format_size(size / 1e6)}",
        "Fingerprint": f"sha256:{fingerprint}",
        "Signature": "signed; workbench verify checks it with --key PUBLIC.pem" if signed else "",
    }
    shown = _markup.facts({name: value for name, value in facts.items() if value})
    start, text = start_words(package), _readme(package)
    words = f"{_markup.group('Start it there')}<pre>{html.escape(start)}</pre>" if start else ""
    fold = f"<details><summary>README.md</summary><pre>{html.escape(text)}</pre></details>" if text else ""
    return _part("Package", f"{shown}{words}{fold}", first=True)


def start_words(package: Package) -> str:
    """The commands that start a package, as its README has them; its `command` where that names none."""
    found = re.search(
        r"^(?:\*\*Start it|#+ (?:Start|Apply))[^\0]*?\n\n((?: {4}.*\n?)+)", _readme(package), re.MULTILINE
    )
    if found is None:
        return " ".join(package.command)
    return "\n".join(line[4:] for line in found[1].rstrip().splitlines())


def trial_html(trial: Trial) -> str:
    """What a package answered."""
    if trial.status != 200 or not trial.matches:
        return _part("Trial", _markup.warning(f"{trial.url} answered {trial.status}: {trial.verdict}."))
    answer = f"{trial.status} in {trial.milliseconds:.1f} ms, {trial.verdict}"
    facts = {"Asked": trial.url, "Answered": answer}
    if trial.keyed:
        facts["Key"] = "one made for this trial; the service reads its own from WORKBENCH_API_KEY"
    return _part("Trial", _markup.facts(facts))


def verification_html(verification: Verification) -> str:
    """Whether a package is what was exported; each fault with its reason."""
    if verification.ok:
        size = format_size(verification.size_bytes / 1e6)
        words = f"✓ all {verification.files} files ({size}) are as they were exported"
        words += ", and so is the fingerprint" if verification.fingerprint_known else ""
        if verification.signature == "unchecked":
            words += "; the signature was not checked, which takes the public key"
        return _part("Verification", _markup.facts({"Verified": words}))
    faults = verification.faults
    count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
    lines = [f"It is not as it was exported: {count}.", *(f"✗ {fault}" for fault in faults[:_MOST_FAULTS])]
    if len(faults) > _MOST_FAULTS:
        lines.append(f"… and {len(faults) - _MOST_FAULTS} more, which workbench verify lists.")
    return _part("Verification", _markup.warning("\n".join(lines)))


def _part(title: str, content: str, *, first: bool = False) -> str:
    return f'{_STYLE}<div class="wb-package{" wb-first" if first else ""}">{_markup.group(title)}{content}</div>'


def _plan_row(label: str, number: Derived) -> str:
    return _row(label, _value(number), number.source, usual=not number.measured)


def _row(label: str, value: str, source: str, *, usual: bool) -> str:
    mark = "<small>usual value</small>" if usual else ""
    kind = ' class="wb-usual"' if usual else ""
    return (
        f"<tr{kind}><td>{html.escape(label)}</td><td>{html.escape(value)}</td><td>{mark}{html.escape(source)}</td></tr>"
    )


def _value(number: Derived) -> str:
    """A number with its unit; a share as a percentage."""
    if not number.unit:
        return f"{100 * number.value:g} %" if 0 < number.value < 1 else f"{number.value:g}"
    return number.counted


def _readme(package: Package) -> str:
    path = Path(package.directory, "README.md")
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:_MOST_README]
    except OSError:
        return ""
