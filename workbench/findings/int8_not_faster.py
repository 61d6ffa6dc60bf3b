"""The verdict on a quantized candidate that is not faster than the original: which of the findings weigh most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workbench.findings.context import Context, Finding, is_quantized
from workbench.findings.words import in_ms, in_times

_MOST_REASONS = 3
_HARDLY = 1.1  # a gain that may be larger than this is one, or not known


def sum_up(context: Context, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Says why a quantized candidate is not clearly faster, from the other findings about it.

    Args:
        context: The candidate.
        findings: What the rules found of it, the costliest first.
    """
    speedup = context.row.speedup
    if context.row.name == context.original.name or not is_quantized(context.graph) or speedup.high >= _HARDLY:
        return
    reasons = [finding for finding in findings if finding.milliseconds and finding.rule not in _ASIDE][:_MOST_REASONS]
    lost = max(0.0, context.row.p50_ms - context.original.p50_ms)
    mended = next((finding for finding in reasons if finding.step), None)
    because = "; ".join(
        f"{_lower(finding.what).rstrip('.')} ({in_ms(finding.milliseconds or 0.0)})" for finding in reasons
    )
    yield Finding(
        rule="int8_not_faster",
        candidate=context.row.name,
        what=f"INT8 is {'slower' if speedup.high < 1 else 'not faster'} than the original"
        + (f", because {_lower(reasons[0].what)}" if reasons else ", and no rule here knows why."),
        evidence=f"{in_ms(context.row.p50_ms)} against {in_ms(context.original.p50_ms)}: {in_times(speedup)}.",
        milliseconds=lost or None,
        why=f"In the order of their weight: {because}." if reasons else "Nothing that was looked at stands out.",
        remedy=mended.remedy if mended else "Look at the profile of both side by side.",
        step=mended.step if mended else None,
        nodes=reasons[0].nodes if reasons else (),
    )


_ASIDE = ("small_batch", "too_many_threads", "unaligned_channels")  # they hold for the original as well


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
