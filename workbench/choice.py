"""The choice among measured candidates: limits that they must keep, the Pareto front, and the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from workbench.comparison import Comparison, Row
from workbench.options import make_options, option

_ROUNDING = 1e-9  # a loss of exactly 1 point may come out as 1.0000000000000009


@dataclass(frozen=True)
class ChoiceOptions:
    """What to look for."""

    max_accuracy_drop: Annotated[
        float, option("Accuracy budget: largest loss against the original.", minimum=0, maximum=100, unit="points")
    ] = 1.0
    max_p99_ms: Annotated[float, option("Largest 99th percentile; none if empty.", minimum=0, unit="ms")] | None = None
    max_size_mb: Annotated[float, option("Largest model; none if empty.", minimum=0, unit="MB")] | None = None
    prefer: Annotated[Literal["latency", "size"], option("What to make smallest within the limits.")] = "latency"


@dataclass(frozen=True)
class Choice:
    """The candidate to ship, and why not the others.

    Attributes:
        name: The chosen candidate; the original if nothing better kept the limits.
        reason: Why, in words.
        rejected: Why not, for each candidate that was not eligible.
    """

    name: str
    reason: str
    rejected: Mapping[str, str]


def pareto_front(comparison: Comparison, options: Mapping[str, Any] | ChoiceOptions | None = None) -> tuple[str, ...]:
    """Names of the candidates that no other beats in both latency and quality, fastest first.

    Args:
        comparison: What was measured.
        options: Fields of `ChoiceOptions`; if given, only candidates that keep its limits are on the front.
    """
    rows = list(comparison.rows)
    if options is not None:
        outside = find_outside(comparison, options)
        rows = [row for row in rows if row.name not in outside]
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.p50_ms, -row.quality)):
        if not front or row.quality > front[-1].quality:
            front.append(row)
    return tuple(row.name for row in front)


def find_outside(comparison: Comparison, options: Mapping[str, Any] | ChoiceOptions | None = None) -> dict[str, str]:
    """Which candidates, the original included, miss a limit, and which one."""
    wanted = make_options(ChoiceOptions, options, "choose")
    outside = {row.name: _missed(comparison, row, wanted) for row in comparison.rows}
    return {name: reason for name, reason in outside.items() if reason}


def choose(comparison: Comparison, options: Mapping[str, Any] | ChoiceOptions | None = None) -> Choice:
    """Picks the best candidate within limits; never one that is not faster than the original.

    Args:
        comparison: What was measured.
        options: Fields of `ChoiceOptions`.
    """
    wanted = make_options(ChoiceOptions, options, "choose")
    original = comparison.original
    outside = find_outside(comparison, wanted)
    rejected: dict[str, str] = {}
    eligible = [original]
    for row in comparison.rows[1:]:
        if row.name in outside:
            rejected[row.name] = outside[row.name]
        elif row.slower:
            verdict = "slower" if row.speedup.value < 0.99 else "not faster"
            rejected[row.name] = f"is {verdict} than the original ({row.speedup.value:.2f} ×)"
        elif wanted.prefer == "latency" and row.speedup.low <= 1:
            rejected[row.name] = f"is not clearly faster than the original ({row.speedup.value:.2f} ×)"
        else:
            eligible.append(row)
    by_size = wanted.prefer == "size"
    best = min(eligible, key=lambda row: row.size_bytes if by_size else 1 / row.speedup.value)
    if best is original:
        reason = "no candidate is better within the accuracy budget"
        if original.name in outside:
            reason = f"no candidate keeps every limit, nor does it: it {outside[original.name]}"
        return Choice(original.name, reason, rejected)
    what = "smallest" if by_size else "fastest"
    loss = max(0.0, comparison.accuracy_drop(best))
    return Choice(best.name, f"the {what} within the budget: it loses {loss:.2f} points", rejected)


def _missed(comparison: Comparison, row: Row, wanted: ChoiceOptions) -> str:
    """The first limit that a candidate misses, in words; empty if it keeps them all."""
    drop, size, p99 = comparison.accuracy_drop(row), row.size_bytes / 1e6, row.latency.p99
    if drop > wanted.max_accuracy_drop + _ROUNDING:
        return f"loses {drop:.2f} points, over the budget of {wanted.max_accuracy_drop:g}"
    if wanted.max_size_mb is not None and size > wanted.max_size_mb + _ROUNDING:
        return f"takes {size:.2f} MB, over the limit of {wanted.max_size_mb:g}"
    if wanted.max_p99_ms is not None and p99 is None:
        return "has too few timings to know its 99th percentile"
    if wanted.max_p99_ms is not None and p99 is not None and p99.value > wanted.max_p99_ms + _ROUNDING:
        return f"takes {p99.value:.3g} ms at the 99th percentile, over the limit of {wanted.max_p99_ms:g}"
    return ""
