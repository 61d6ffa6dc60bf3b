"""A comparison in words and columns: the same cells for the terminal, the notebook and the panel."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.choice import Choice, pareto_front
from workbench.comparison import Comparison, Row
from workbench.measure.accuracy import Accuracy
from workbench.measure.statistics import Estimate

SLOWER = "slower than the original"  # beyond doubt: what a warning says beside the name
_LABEL = "margin-left:8px;padding:0 6px;border:1px solid var(--jp-warn-color1,#b26a00);border-radius:3px"


@dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Attributes:
        text: What is shown.
        value: What it sorts by.
        note: What a tooltip adds.
    """

    text: str
    value: float | str
    note: str = ""


def headings(comparison: Comparison) -> tuple[str, ...]:
    """The columns of the table; accuracy has the name of the metric that was measured."""
    accuracy = comparison.original.accuracy
    quality = accuracy.metric if accuracy else "agreement"
    return ("candidate", "backend", "size", quality, "p50 ms", "p99 ms", "speed-up", "trust")


def table_row(comparison: Comparison, row: Row) -> tuple[Cell, ...]:
    """The cells of one candidate, in the order of `headings`."""
    original = comparison.original
    size = row.size_bytes / 1e6
    ratio = original.size_bytes / row.size_bytes
    shrink = f" ({ratio:.1f}× smaller)" if ratio >= 1.05 else ""
    if ratio <= 1 / 1.05:
        shrink = f" ({row.size_bytes / original.size_bytes:.1f}× larger)"
    p50, p99, trust = row.latency.p50, row.latency.p99, row.latency.trust
    return (
        Cell(row.name, row.name, describe_steps(row)),
        Cell(row.candidate.engine.backend, row.candidate.engine.backend, row.candidate.engine.device),
        Cell(f"{format_size(size)}{shrink}", size),
        _accuracy_cell(comparison, row),
        Cell(format_estimate(p50), row.p50_ms, _interval(p50, " ms")),
        Cell(format_estimate(p99), p99.value if p99 else float("inf"), _interval(p99, " ms") or "too few timings"),
        _speedup_cell(comparison, row),
        Cell("●" if trust.good else "○", len(trust.caveats), str(trust)),
    )


def comparison_text(comparison: Comparison, choice: Choice | None = None) -> str:
    """The table as plain text: `★` marks the choice, `◆` the Pareto front."""
    front = pareto_front(comparison)
    lines = [["", *headings(comparison)]]
    for row in comparison.rows:
        mark = "★" if choice and row.name == choice.name else "◆" if row.name in front else " "
        name, *others = (cell.text for cell in table_row(comparison, row))
        lines.append([mark, f"{name} ({SLOWER})" if row.slower else name, *others])
    return f"{columns(lines, left=4)}\n\n{footnote(comparison, choice)}"


def comparison_html(comparison: Comparison, choice: Choice | None = None) -> str:
    """The table as HTML that follows JupyterLab's theme where there is one."""
    front = pareto_front(comparison)
    style = "padding:4px 8px;border-bottom:1px solid var(--jp-border-color2,#8884);white-space:nowrap;text-align:"
    head = "".join(
        f'<th style="{style}{"left" if i < 2 else "right"}">{html.escape(h)}</th>'
        for i, h in enumerate(headings(comparison))
    )
    body = []
    for row in comparison.rows:
        mark = "★ " if choice and row.name == choice.name else "◆ " if row.name in front else ""
        label = f'<small style="{_LABEL}">{SLOWER}</small>' if row.slower else ""
        cells = "".join(
            f'<td style="{style}{"left" if i < 2 else "right"}" title="{html.escape(cell.note)}">'
            f"{mark if i == 0 else ''}{html.escape(cell.text)}{label if i == 0 else ''}</td>"
            for i, cell in enumerate(table_row(comparison, row))
        )
        body.append(f"<tr>{cells}</tr>")
    note = html.escape(footnote(comparison, choice)).replace("\n", "<br>")
    return (
        f'<table style="border-collapse:collapse;font-variant-numeric:tabular-nums"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table><p style="opacity:.8">{note}</p>'
    )


def footnote(comparison: Comparison, choice: Choice | None = None, *, doubts: bool = True) -> str:
    """What the marks mean, the choice with its reasons, and the conditions of the measurement.

    Args:
        comparison: What was measured.
        choice: What to ship of it.
        doubts: Whether to add what speaks against each candidate's numbers, where that is not shown elsewhere.
    """
    lines = []
    if choice:
        lines.append(f"★ {choice.name}: {choice.reason}.")
        lines += [f"✗ {name} {reason}." for name, reason in choice.rejected.items()]
    lines.append("◆ on the Pareto front of accuracy and latency; ns: the accuracy differs no more than chance would.")
    lines += _doubts(comparison) if doubts else []
    timing = comparison.original.latency
    threads = f"{timing.threads} thread{'s' if timing.threads != 1 else ''}" if timing.threads else "threads as chosen"
    lines.append(
        f"{comparison.dataset} ({comparison.samples}) · batch {timing.batch}, {threads} · {comparison.environment}"
    )
    return "\n".join(lines)


def _doubts(comparison: Comparison) -> list[str]:
    lines = [
        f"○ {row.name}: do not trust its times, {'; '.join(row.latency.trust.caveats)}."
        for row in comparison.rows
        if not row.latency.trust.good
    ]
    lines += [f"✗ {name} could not be measured: {reason}" for name, reason in comparison.failures.items()]
    return lines + [f"{row.name}: {note}." for row in comparison.rows if row.accuracy for note in row.accuracy.caveats]


def describe_steps(row: Row) -> str:
    """The transforms of a candidate in words."""
    steps = row.candidate.engine.model.history
    return " → ".join(step.transform.replace("_", " ") for step in steps) or "as loaded"


def format_size(megabytes: float) -> str:
    """A size in MB (10⁶ bytes), or kB below a tenth of one, with sensible digits."""
    if megabytes < 0.1:
        return f"{1e3 * megabytes:.1f} kB"
    return f"{megabytes:.2f} MB" if megabytes < 10 else f"{megabytes:,.0f} MB"


def format_seconds(seconds: float) -> str:
    """A duration with digits that make sense, e.g. `0.4 s`, `12 s` or `2:05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


def format_count(value: float | None, unit: str = "") -> str:
    """A count with three significant digits, e.g. `1.23 M`; `–` if it is not known."""
    if value is None:
        return "–"
    prefixes = ["", "k", "M", "G", "T", "P"]
    while abs(value) >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    whole = prefixes[0] == "" or abs(value) >= 99.95
    digits = f"{value:.0f}" if whole else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
    return f"{digits} {prefixes[0]}{unit}".rstrip()


def format_bytes(value: float | None) -> str:
    """A size with three significant digits, e.g. `1.23 MB` (10⁶ bytes)."""
    return format_count(value, "B")


def format_estimate(estimate: Estimate | None) -> str:
    """A value with the digits that its interval allows, at most three behind the point; `–` if there is none."""
    if estimate is None:
        return "–"
    width = max(estimate.high - estimate.low, estimate.value * 1e-3, 1e-9)
    digits = next((d for d in range(3) if width / 2 >= 10**-d), 3)
    return f"{estimate.value:.{max(digits, 2 if estimate.value < 10 else 1)}f}"


def accuracy_text(accuracy: Accuracy) -> str:
    """A model's accuracy in lines: the headline metric with its interval, further metrics, and caveats."""
    value = accuracy.value
    interval = f"{100 * value.low:.2f}–{100 * value.high:.2f}, 95 % interval"
    lines = [f"{accuracy.metric}  {100 * value.value:.2f} % ({interval}, {_samples(accuracy)})"]
    lines += [f"{name}  {format_metric(number)}" for name, number in accuracy.others.items()]
    return "\n".join([*lines, *(f"{caveat[0].upper()}{caveat[1:]}." for caveat in accuracy.caveats)])


def _samples(accuracy: Accuracy) -> str:
    return "1 sample" if accuracy.samples == 1 else f"{accuracy.samples} samples"


def format_metric(value: float) -> str:
    """A metric beside the headline, with three significant digits."""
    return f"{value:.3g}"


def _accuracy_cell(comparison: Comparison, row: Row) -> Cell:
    if row.accuracy is None:
        share = row.agreement.share if row.agreement else 1.0
        return Cell(f"{100 * share:.1f} %", share, "no labels: predictions that agree with the original's")
    value = row.accuracy.value
    text = f"{100 * value.value:.1f} %"
    notes = [f"{_samples(row.accuracy)}, 95 % interval {_interval(value, '', 100)} %"]
    notes += [f"{name} {format_metric(number)}" for name, number in row.accuracy.others.items()]
    if row.change:
        points = row.change.difference.value
        chance = "" if row.change.significant or not points else " ns"
        text += f" ({f'{points:+.1f}' if abs(points) >= 0.05 else '±0.0'}{chance})".replace("-", "−")
        notes.append(f"difference {_interval(row.change.difference, ' points')} ({row.change.test})")
    if row.agreement:
        lost = f", {row.change.lost} of them lost" if row.change and row.change.lost is not None else ""
        notes.append(f"{len(row.agreement.changed)} predictions changed{lost}")
    return Cell(text, value.value, "; ".join([*notes, *row.accuracy.caveats]))


def _speedup_cell(comparison: Comparison, row: Row) -> Cell:
    if row is comparison.original:
        return Cell("1", 1.0, "the original")
    ratio, p50, cpu = row.speedup, row.speedup_p50, row.speedup_cpu
    text = f"{ratio.value:.2f}× ({ratio.low:.2f}–{ratio.high:.2f})"
    return Cell(
        text,
        ratio.value,
        f"of the fastest tenths, paired by launches, with its 95 % interval; by the medians {p50.value:.2f}× "
        f"({p50.low:.2f}–{p50.high:.2f}), by processor time {cpu.value:.2f}× ({cpu.low:.2f}–{cpu.high:.2f})",
    )


def _interval(estimate: Estimate | None, unit: str, scale: float = 1.0) -> str:
    return f"{scale * estimate.low:.3g}–{scale * estimate.high:.3g}{unit}" if estimate else ""


def columns(lines: Sequence[Sequence[str]], left: int = 0) -> str:
    """Aligned columns of plain text, the first `left` of them to the left and the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def align(cell: str, column: int) -> str:
        return cell.ljust(widths[column]) if column < left else cell.rjust(widths[column])

    return "\n".join("  ".join(align(cell, i) for i, cell in enumerate(line)).rstrip() for line in lines)
