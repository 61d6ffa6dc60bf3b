"""Findings as plain text and as HTML cards."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.findings.context import Finding
from workbench.findings.words import in_ms

_NONE = "Nothing was found that costs time and could be changed."
_CARD = (
    "border:1px solid var(--jp-border-color2,#8884);border-left:3px solid var(--jp-warn-color1,#b26a00);"
    "border-radius:4px;padding:8px 12px;margin:8px 0;max-width:90ch;overflow-wrap:anywhere;"
    "background:var(--jp-layout-color1,transparent);color:var(--jp-ui-font-color1,inherit)"
)
_QUIET = "color:var(--jp-ui-font-color2,inherit)"
_CODE = (
    "background:var(--jp-layout-color2,transparent);color:var(--jp-content-font-color1,inherit);padding:6px 8px;"
    "margin:4px 0 0;overflow-x:auto;font-size:12px;font-family:var(--jp-code-font-family,monospace)"
)


def findings_text(findings: Sequence[Finding]) -> str:
    """Findings as plain text, in the order given."""
    return "\n\n".join(map(_text, findings)) or _NONE


def findings_html(findings: Sequence[Finding]) -> str:
    """Findings as HTML cards that follow JupyterLab's theme where there is one."""
    return "".join(map(finding_html, findings)) or f'<p style="{_QUIET}">{_NONE}</p>'


def finding_html(finding: Finding) -> str:
    """One card."""
    rows = "".join(
        f'<p style="margin:4px 0 0"><span style="{_QUIET}">{label}</span> {html.escape(text)}</p>'
        for label, text in _parts(finding)
    )
    step = f'<pre style="{_CODE}">{html.escape(step_text(finding.step))}</pre>' if finding.step else ""
    return (
        f'<div style="{_CARD}"><div style="display:flex;gap:16px;justify-content:space-between">'
        f'<b>{html.escape(finding.what)}</b><b style="white-space:nowrap;font-variant-numeric:tabular-nums">'
        f"{html.escape(_stake(finding))}</b></div>"
        f'<div style="{_QUIET};font-size:12px">{html.escape(finding.candidate)} · {html.escape(finding.rule)}</div>'
        f"{rows}{step}</div>"
    )


def step_text(step: Mapping[str, Any]) -> str:
    """The candidate to try as a recipe has it, in YAML."""
    import yaml

    return str(yaml.safe_dump([dict(step)], sort_keys=False, allow_unicode=True, default_flow_style=None)).rstrip()


def _text(finding: Finding) -> str:
    lines = [f"{finding.candidate}: {finding.what}  [{_stake(finding)}, {finding.rule}]"]
    lines += [f"  {label} {text}" for label, text in _parts(finding)]
    if finding.step:
        lines += [f"    {line}" for line in step_text(finding.step).splitlines()]
    return "\n".join(lines)


def _parts(finding: Finding) -> list[tuple[str, str]]:
    parts = (("Measured:", finding.evidence), ("Why:", finding.why), ("To do:", finding.remedy))
    return [(label, text) for label, text in parts if text]


def _stake(finding: Finding) -> str:
    return "not timed" if finding.milliseconds is None else in_ms(finding.milliseconds)
