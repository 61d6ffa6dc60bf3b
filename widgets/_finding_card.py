"""One finding as a card: what, the time at stake, the evidence, why, and what to do."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from widgets import _markup
from widgets._profile_data import format_ms
from workbench.comparison import Comparison
from workbench.findings import NOT_CHECKED, Finding


def finding_card(finding: Finding, comparison: Comparison, color: str) -> str:
    """A card as HTML, without its buttons.

    Args:
        finding: What was found.
        comparison: Where it was found: its candidate's median is what the time at stake is a share of.
        color: Of the candidate.
    """
    stake = "" if finding.rule == NOT_CHECKED else _stake(finding, comparison)
    return (
        f'<div class="wb-finding-head"><b>{html.escape(finding.what)}</b>{stake}</div>'
        f'<div class="wb-finding-of"><i style="background:{color}"></i>{html.escape(finding.candidate)} · '
        f"{html.escape(finding.rule.replace('_', ' '))}</div>"
        f"<p>{html.escape(finding.evidence)}</p>"
        f"<details><summary>Why</summary><p>{html.escape(finding.why)}</p></details>"
        f"<p>→ {html.escape(finding.remedy)}</p>"
    )


def _stake(finding: Finding, comparison: Comparison) -> str:
    """The time at stake and, as a bar, its share of the candidate's median."""
    if finding.milliseconds is None:
        return '<span class="wb-stake">not timed</span>'
    whole = next((row.p50_ms for row in comparison.rows if row.name == finding.candidate), None)
    text = format_ms(finding.milliseconds, " ms")
    if not whole:
        return f'<span class="wb-stake">{text}</span>'
    share = min(1.0, max(0.0, finding.milliseconds / whole))
    title = html.escape(f"of the {format_ms(whole, ' ms')} of {finding.candidate}")
    return (
        f'<span class="wb-stake" title="{title}">{text} ({100 * share:.0f} %)'
        f'<span class="wb-share"><span style="width:{100 * share:.0f}%"></span></span></span>'
    )


def findings_list(findings: Sequence[Finding], comparison: Comparison, colors: Mapping[str, str]) -> str:
    """All cards below each other."""
    cards = (
        f'<div class="wb-finding">{finding_card(finding, comparison, colors.get(finding.candidate, ""))}</div>'
        for finding in findings
    )
    return "".join(cards) or _markup.empty("Nothing was found that costs time and could be changed.")
