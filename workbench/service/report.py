"""A watched service and load on one in words and columns: the same for the terminal, the notebook and the panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from workbench.load_report import format_ms, format_rate
from workbench.report import Cell, columns, format_seconds, format_size
from workbench.service.load import ServiceLoad
from workbench.service.metrics import ServiceStats
from workbench.service.watch import Moment

SERVICE_HEADINGS = ("time s", "requests/s", "p50 ms", "p99 ms", "refused", "failed", "batch", "in flight", "cores")
_UNKNOWN = float("inf")
_USUAL, _UNLIKE = 1.0, 2.0  # standard deviations of the known samples' means; 1 is a large shift if it lasts
_FORMS = {"binary": "bytes", "json": "JSON", "grpc": "bytes over gRPC"}
_PATTERNS = {"closed": "as fast as they are answered", "poisson": "Poisson arrivals", "constant": "even arrivals"}


def service_row(moment: Moment) -> tuple[Cell, ...]:
    """The cells of one moment, in the order of `SERVICE_HEADINGS`."""
    stats, at = moment.stats, Cell(f"{moment.seconds:.1f}", moment.seconds)
    if stats is None:
        return (at, Cell("no answer", _UNKNOWN, moment.trouble), *(Cell("–", _UNKNOWN) for _ in range(7)))
    requests = f"{stats.requests:,.0f} requests in {stats.seconds:.1f} s"
    return (
        at,
        Cell(format_rate(stats.queries_per_second), stats.queries_per_second, requests),
        _ms(stats.p50_ms),
        _ms(stats.p99_ms),
        Cell(f"{stats.refused:,.0f}", stats.refused),
        Cell(f"{stats.errors:,.0f}", stats.errors, f"{100 * stats.error_ratio:.2g} % of all"),
        _number(stats.mean_batch, ".1f"),
        Cell(f"{stats.in_flight:.0f}", stats.in_flight, f"of {stats.queue_limit:.0f} at most"),
        _number(stats.cpu_cores, ".2f"),
    )


def service_facts(moment: Moment) -> dict[str, str]:
    """What a service is doing, as names and values."""
    stats = moment.stats
    if stats is None:
        return {"Service": moment.trouble}
    wanted = [f"{name} {version}" for name, version in moment.served if _is_of(stats, name, version)]
    facts = {
        "Service": ", ".join(wanted) or "nothing that is served",
        "Requests": f"{format_rate(stats.queries_per_second)} /s in the last {format_seconds(stats.seconds)}",
        "Latency": _latency(stats),
        "In flight": f"{stats.in_flight:.0f} of {stats.queue_limit:.0f} at most",
        "Samples in a batch": "–" if math.isnan(stats.mean_batch) else f"{stats.mean_batch:.1f} on average",
        "Processor": f"{stats.cpu_cores:.2f} cores",
        "Memory": format_size(stats.memory_mb),
    }
    return {**facts, **{f"Input {name}": drift_words(off) for name, off in stats.drift.items()}}


def drift_words(deviations: float) -> str:
    """How far an input's mean is from that of the samples that came with the model."""
    if math.isnan(deviations):
        return "no request yet, or nothing to compare with"
    words = "like" if deviations <= _USUAL else "somewhat unlike" if deviations <= _UNLIKE else "unlike"
    return f"{words} the known samples (mean {deviations:.1f} σ off)"


def service_text(moments: Sequence[Moment]) -> str:
    """All moments for the terminal, and what the last says."""
    if not moments:
        return "Nothing was seen: watch for longer than the time between two readings."
    lines = [SERVICE_HEADINGS, *(tuple(cell.text for cell in service_row(moment)) for moment in moments)]
    return f"{columns(lines)}\n\n{facts_text(service_facts(moments[-1]))}"


def facts_text(facts: Mapping[str, str]) -> str:
    """Names and values for the terminal."""
    return columns([*facts.items()], left=2) if facts else ""


def service_load_facts(load: ServiceLoad) -> dict[str, str]:
    """What came of load, as names and values."""
    stats, form = load.stats, _FORMS[load.tensors]
    size = f"{format_size(load.request_kb / 1e3)} as {form}, answers of {format_size(load.answer_kb / 1e3)}"
    facts = {"Sent": f"{load.sent}, to {load.model}, {size}", "Answers": _answers(load)}
    if stats is not None:
        offered = "" if stats.offered_per_second is None else f" of {format_rate(stats.offered_per_second)} offered"
        rate, how = format_rate(stats.queries_per_second), _PATTERNS[stats.pattern]
        facts["Answered well"] = f"{rate} requests/s{offered}, {how} on {_count(stats.instances, 'connection')}"
        facts["Latency"] = f"{_median(load)}{_tail(load)}"
        if stats.pattern != "closed":
            waited = format_ms(stats.queueing_ms)
            facts["Latency"] += f", of which {waited} ms waiting to be sent on average"
    if load.unsent or (stats is not None and not stats.kept_up):
        were = "was" if load.unsent == 1 else "were"
        facts["Too much"] = f"the service did not keep up; {_count(load.unsent, 'request')} {were} due but not sent"
    return facts


def service_load_text(load: ServiceLoad) -> str:
    """What came of load for the terminal, with everything that was checked."""
    checks = f"\n\n{load.stats.trust}" if load.stats is not None else ""
    return f"{facts_text(service_load_facts(load))}{checks}"


def _answers(load: ServiceLoad) -> str:
    statuses = load.statuses
    if not load.answered + load.lost:
        return "none: no request was sent"
    words = [f"{statuses.get(200, 0):,} of {load.answered + load.lost:,} with 200"]
    words += [f"{count:,} with {status}" for status, count in statuses.items() if status != 200]
    if load.lost:
        words.append(f"{load.lost:,} lost ({', '.join(f'{n:,} × {why}' for why, n in load.reasons.items())})")
    return "; ".join(words)


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"


def _median(load: ServiceLoad) -> str:
    assert load.stats is not None
    p50 = load.stats.p50
    return f"p50 {format_ms(p50.value)} ms, " if p50 else ""


def _tail(load: ServiceLoad) -> str:
    assert load.stats is not None
    p99 = load.stats.p99
    return f"p99 {format_ms(p99.value)} ms" if p99 else f"slowest {format_ms(load.stats.worst_ms)} ms"


def _latency(stats: ServiceStats) -> str:
    if math.isnan(stats.p50_ms):
        return "no request"
    inside = (
        "" if math.isnan(stats.inference_p50_ms) else f", the inference alone {format_ms(stats.inference_p50_ms)} ms"
    )
    return f"p50 {format_ms(stats.p50_ms)} ms, p99 {format_ms(stats.p99_ms)} ms{inside}"


def _is_of(stats: ServiceStats, name: str, version: str) -> bool:
    return stats.model in ("", name) and stats.version in ("", version)


def _ms(value: float) -> Cell:
    return Cell("–", _UNKNOWN, "no request") if math.isnan(value) else Cell(format_ms(value), value)


def _number(value: float, digits: str) -> Cell:
    return Cell("–", _UNKNOWN) if math.isnan(value) else Cell(f"{value:{digits}}", value)
