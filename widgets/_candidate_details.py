"""One measured candidate in full: what its badge rests on, its times, and what became of its outputs."""

from __future__ import annotations

import html

from widgets import _markup
from workbench.choice import Choice
from workbench.comparison import Comparison, Row
from workbench.measure.statistics import Estimate
from workbench.report import describe_steps, format_estimate


def candidate_details(row: Row, choice: Choice | None = None) -> str:
    """Everything about a row that its table has no column for, as HTML."""
    trust = row.latency.trust
    badge = "● nothing speaks against its times" if trust.good else "○ its times are not to be trusted"
    verdict = _verdict(row, choice)
    return (
        _markup.group(f"{row.name}: {badge}")
        + (_markup.note(verdict) if verdict else "")
        + f'<div class="wb-details">{_markup.checks(trust)}{_markup.facts(_facts(row))}</div>'
    )


def failures_text(comparison: Comparison) -> str:
    """The candidates that could not be measured and why, as HTML; empty if all could."""
    lines = [f"{name} could not be measured. {reason}" for name, reason in comparison.failures.items()]
    return _markup.warning("\n".join(lines)) if lines else ""


def details_list(comparison: Comparison, choice: Choice | None = None) -> str:
    """The details of every candidate, each folded under its name."""
    return "".join(
        f"<details><summary>{html.escape(row.name)} {'●' if row.latency.trust.good else '○'}</summary>"
        f"{candidate_details(row, choice)}</details>"
        for row in comparison.rows
    )


def _verdict(row: Row, choice: Choice | None) -> str:
    if choice and row.name == choice.name:
        return f"★ Chosen: {choice.reason}."
    if choice and row.name in choice.rejected:
        return f"✗ Not chosen: it {choice.rejected[row.name]}."
    return ""


def _facts(row: Row) -> dict[str, str]:
    stats = row.latency
    named = {"p10": stats.p10, "p50": stats.p50, "p90": stats.p90, "p95": stats.p95, "p99": stats.p99}
    facts = {
        "Made by": f"{describe_steps(row)}; {row.candidate.engine.backend} on {row.candidate.engine.device}",
        "Latency": ", ".join(f"{name} {format_estimate(value)}" for name, value in named.items()) + " ms",
        "Processor": f"{stats.cpu_ms:.3g} ms for an inference, all threads together",
        "Start": f"loaded in {stats.load_ms:.3g} ms, first inference {stats.first_ms:.3g} ms",
        "Memory": f"{stats.peak_memory_mb:,.0f} MB at most",
        "Measured": f"{stats.iterations:,} inferences in {_processes(stats.launches)}, {stats.warmup:,} before them to "
        "warm up",
        "Speed-up": f"{_times(row.speedup)} by the fastest tenth, {_times(row.speedup_p50)} by the median, "
        f"{_times(row.speedup_cpu)} by processor time",
        "Outputs": _outputs(row),
        "Accuracy": "; ".join(row.accuracy.caveats) if row.accuracy else "",
    }
    return {name: text for name, text in facts.items() if text}


def _outputs(row: Row) -> str:
    """How far the outputs are from the original's; empty for the original."""
    error, agreement = row.output_error, row.agreement
    parts = []
    if agreement:
        parts.append(f"{len(agreement.changed):,} predictions changed ({100 * agreement.share:.2f} % agree)")
    if error and error.max_abs_error is not None:
        parts.append(f"largest error {error.max_abs_error:.3g}")
    if error and error.cosine_similarity is not None:
        parts.append(f"cosine similarity {error.cosine_similarity:.5f}")
    if error and error.sqnr_db is not None:
        parts.append(f"SQNR {error.sqnr_db:.1f} dB")
    if error and error.invalid:
        parts.append(f"{error.invalid:,} values are NaN or infinite")
    return ", ".join(parts)


def _times(ratio: Estimate) -> str:
    return f"{ratio.value:.2f} × ({ratio.low:.2f}–{ratio.high:.2f})"


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"
