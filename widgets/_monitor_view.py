"""What the Monitor panel says beside its plots: the service now, the bench beside it, a canary, and load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from widgets import _markup
from widgets._plots_monitor import bench_latency
from workbench.load_report import format_ms, format_rate
from workbench.measure.load import LoadStats
from workbench.measure.trust import Trust
from workbench.report import format_seconds
from workbench.service.load import ServiceLoad
from workbench.service.metrics import ServiceStats
from workbench.service.report import service_facts, service_load_facts
from workbench.service.watch import Moment

_PHASES = {"rolled_back": "rolled back"}
_STEPS = ("canary gets", "for", "requests", "p99 ms", "stable p99 ms", "failed", "result")


def moment_html(moment: Moment, curve: Sequence[LoadStats]) -> str:
    """What a service is doing, or that it does not answer."""
    if moment.stats is None:
        return _markup.warning(f"No answer, {format_seconds(moment.seconds)} after the start: {moment.trouble}")
    return _markup.facts({**service_facts(moment), **_beside(moment.stats, curve)})


def load_html(load: ServiceLoad) -> str:
    """What came of load, and what speaks against the numbers; what was checked beside that is folded."""
    parts = [_markup.group("Load"), _markup.facts(service_load_facts(load))]
    if load.stats is not None:
        checks = load.stats.trust.checks
        doubts = tuple(check for check in checks if check.verdict == "doubt")
        others = tuple(check for check in checks if check.verdict != "doubt")
        parts.append(_markup.checks(Trust(doubts)) if doubts else "")
        count = f"{len(others)} checks speak for these numbers" if not doubts else f"{len(others)} other checks"
        parts.append(f'<details class="wb-quiet"><summary>{count}</summary>{_markup.checks(Trust(others))}</details>')
    return "".join(parts)


def canary_html(folder: str) -> str:
    """How the canary in a folder stands.

    Raises:
        WorkbenchError: The folder holds none.
    """
    if not folder.strip():
        return ""
    from workbench.canary import read_canary

    state = read_canary(Path(folder.strip()).expanduser())
    phase = _PHASES.get(state.phase, state.phase)
    rows = {"Canary": f"{state.weight_percent:g} % of the callers, {phase}", "Verdict": state.verdict}
    steps = [
        (
            f"{step.weight_percent:g} %",
            format_seconds(step.seconds),
            f"{step.canary.requests:,.0f}",
            _ms(step.canary.p99_ms),
            _ms(step.stable.p99_ms),
            f"{100 * step.canary.error_ratio:.2g} %",
            step.outcome,
        )
        for step in state.steps
    ]
    return _markup.group("Canary") + _markup.facts(rows) + (_markup.listing(_STEPS, steps) if steps else "")


def _beside(stats: ServiceStats, curve: Sequence[LoadStats]) -> dict[str, str]:
    """The bench's latency at the rate of now, where it measured such rates."""
    if not curve:
        return {}
    if not stats.requests:
        return {"On the bench": "no request to compare"}
    p50, p99 = bench_latency(curve, stats.queries_per_second)
    if math.isnan(p50):
        rates = [one.queries_per_second for one in curve if one.kept_up]
        span = f"{format_rate(min(rates))} to {format_rate(max(rates))}" if rates else "no"
        return {"On the bench": f"measured at {span} requests/s, not at this rate"}
    return {
        "On the bench": f"p50 {format_ms(p50)} ms, p99 {format_ms(p99)} ms at this rate; "
        f"here {stats.p50_ms / p50:.1f} × and {stats.p99_ms / p99:.1f} ×"
    }


def _ms(value: float) -> str:
    return "–" if math.isnan(value) else format_ms(value)
