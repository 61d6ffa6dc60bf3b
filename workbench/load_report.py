"""Loads, curves and sweeps in words and columns: the same for the terminal, the notebook and the panel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from workbench.measure.load import LoadStats, knee
from workbench.measure.loadgen import LoadGenStats
from workbench.measure.statistics import Estimate
from workbench.measure.sweep import Sweep, SweepPoint, sweet_spot
from workbench.report import Cell, columns, format_estimate, format_size

LOAD_HEADINGS = ("load", "offered /s", "achieved /s", "p50 ms", "p99 ms", "waiting ms", "cores", "trust")
LOADGEN_HEADINGS = ("scenario", "achieved /s", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "queries", "valid")
SWEEP_HEADINGS = ("setting", "samples/s", "p50 ms", "p99 ms", "cores", "memory", "trust")
_UNKNOWN = float("inf")


def load_row(stats: LoadStats) -> tuple[Cell, ...]:
    """The cells of one load, in the order of `LOAD_HEADINGS`."""
    offered, trust = stats.offered_per_second, stats.trust
    return (
        Cell(_pattern(stats), stats.queries_per_second, f"{stats.completed:,} queries in {stats.seconds:.1f} s"),
        Cell("–", _UNKNOWN, "as fast as others ended") if offered is None else Cell(format_rate(offered), offered),
        Cell(format_rate(stats.queries_per_second), stats.queries_per_second, f"{stats.unfinished:,} not served"),
        _estimate_cell(stats.p50),
        _estimate_cell(stats.p99, stats.worst_ms),
        Cell(format_ms(stats.queueing_ms), stats.queueing_ms, f"inference itself {format_ms(stats.service_ms)} ms"),
        Cell(f"{100 * stats.cores_busy:.0f} %", stats.cores_busy, "processor time, as a share of all cores"),
        Cell("●" if trust.good else "○", len(trust.caveats), str(trust)),
    )


def load_words(stats: LoadStats) -> str:
    """One load in sentences."""
    rate = f"{format_rate(stats.queries_per_second)} queries/s"
    if stats.batch > 1:
        rate += f" ({format_rate(stats.samples_per_second)} samples/s)"
    if stats.pattern == "offline":
        return f"{rate} when all {stats.completed:,} queries lie ready at once."
    latency = f"latency p50 {format_estimate(stats.p50)} ms, {_tail(stats)}"
    if not stats.kept_up:
        served = f"{stats.unfinished:,} were not served" if stats.unfinished else "the queue grew to the end"
        offered = format_rate(stats.offered_per_second or 0)
        return f"Too much: of {offered} queries/s only {format_rate(stats.queries_per_second)} were served; {served}."
    waiting = f"waiting {format_ms(stats.queueing_ms)} ms and inference {format_ms(stats.service_ms)} ms on average"
    return f"{rate}: {latency}; {waiting}."


def curve_words(curve: Sequence[LoadStats]) -> str:
    """Where latency starts to rise, and where the queue does."""
    best = knee(curve)
    if best is None:
        return "Even the lowest rate was too much: choose lower rates."
    kept = max((one for one in curve if one.kept_up), key=lambda one: one.queries_per_second)
    lost = next((one for one in curve if not one.kept_up), None)
    words = [
        f"The knee is at {format_rate(best.queries_per_second)} queries/s: latency p50 {format_estimate(best.p50)} ms, "
        f"{_tail(best)}. Beyond it latency rises faster than throughput."
    ]
    if kept is not best:
        rate = format_rate(kept.queries_per_second)
        words.append(f"It keeps up to {rate} queries/s, with p50 {format_estimate(kept.p50)} ms and {_tail(kept)}.")
    if lost is not None and lost.offered_per_second:
        words.append(f"At {format_rate(lost.offered_per_second)} queries/s the queue only grows.")
    return " ".join(words)


def curve_text(curve: Sequence[LoadStats]) -> str:
    """A curve for the terminal; `◆` marks the knee."""
    best = knee(curve)
    lines: list[tuple[str, ...]] = [("", *LOAD_HEADINGS)]
    lines += [("◆" if one is best else "", *(cell.text for cell in load_row(one))) for one in curve]
    return f"{columns(lines, left=2)}\n\n{curve_words(curve)}\n{curve_doubts(curve)}".rstrip()


def load_text(stats: LoadStats) -> str:
    """One load for the terminal, with everything that was checked."""
    lines = [LOAD_HEADINGS, tuple(cell.text for cell in load_row(stats))]
    return f"{columns(lines, left=1)}\n\n{load_words(stats)}\n\n{stats.trust}"


def loadgen_row(stats: LoadGenStats) -> tuple[Cell, ...]:
    """The cells of what LoadGen measured, in the order of `LOADGEN_HEADINGS`."""
    times = (stats.p50_ms, stats.p90_ms, stats.p95_ms, stats.p99_ms)
    return (
        Cell(stats.scenario, stats.scenario, f"LoadGen {stats.version}"),
        Cell(format_rate(stats.queries_per_second), stats.queries_per_second),
        *(Cell(format_ms(value), value) for value in times),
        Cell(f"{stats.completed:,}", stats.completed),
        Cell("yes" if stats.valid else "no", int(stats.valid), "by LoadGen's own rules"),
    )


def loadgen_text(stats: LoadGenStats) -> str:
    """What LoadGen measured, for the terminal."""
    rate = f"{format_rate(stats.queries_per_second)} queries/s"
    latency = ", ".join(
        f"p{share} {format_ms(value)} ms"
        for share, value in ((50, stats.p50_ms), (90, stats.p90_ms), (95, stats.p95_ms), (99, stats.p99_ms))
    )
    verdict = "valid" if stats.valid else "not valid by its own rules"
    return f"LoadGen {stats.version}, {stats.scenario}: {rate}, {latency} ({stats.completed:,} queries, {verdict})"


def sweep_row(point: SweepPoint) -> tuple[Cell, ...]:
    """The cells of one setting, in the order of `SWEEP_HEADINGS`."""
    stats, name = point.stats, str(point)
    if stats is None:
        return (
            Cell(name, name),
            *(Cell("–", _UNKNOWN) for _ in range(5)),
            Cell(point.state, point.state, point.reason),
        )
    each = ", ".join(map(format_rate, point.rates))
    times = f"measured {len(point.rates)} times: {each}" if len(point.rates) > 1 else "measured once"
    trust = stats.trust
    return (
        Cell(name, name),
        Cell(format_rate(point.samples_per_second), point.samples_per_second, times),
        _estimate_cell(stats.p50),
        _estimate_cell(stats.p99, stats.worst_ms),
        Cell(f"{100 * stats.cores_busy:.0f} %", stats.cores_busy),
        Cell(format_size(stats.peak_memory_mb), stats.peak_memory_mb),
        Cell("●" if trust.good else "○", len(trust.caveats), str(trust)),
    )


def sweep_words(sweep: Sweep, max_latency_ms: float | None = None) -> str:
    """The best setting, the best within a latency limit, and what was left out."""
    best = sweep.best
    if best is None or best.stats is None:
        return "Nothing could be measured: the table says why."
    words = [f"Highest throughput: {_spot(best)}."]
    if max_latency_ms is not None:
        spot = sweet_spot(sweep, max_latency_ms)
        limit = f"With at most {max_latency_ms:g} ms for 99 of 100 inferences"
        words.append(f"{limit}: {_spot(spot)}." if spot else f"{limit}: no setting that was measured keeps that.")
    counts = {state: sum(point.state == state for point in sweep.points) for state in ("measured", "skipped", "failed")}
    tried = f"{counts['measured']} of {len(sweep.points)} settings measured in {sweep.seconds:.0f} s"
    words.append(f"{tried}, {counts['failed']} failed." if counts["failed"] else f"{tried}.")
    return " ".join(words)


def tried_points(sweep: Sweep) -> list[SweepPoint]:
    """The settings that were measured or failed, the fastest first."""
    tried = (point for point in sweep.points if point.state != "skipped")
    return sorted(tried, key=lambda point: -point.samples_per_second)


def left_out(sweep: Sweep) -> str:
    """Why settings failed, and why others were skipped, one line for each reason."""
    failed = [f"✗ {point} failed: {point.reason}" for point in sweep.points if point.state == "failed"]
    reasons = Counter(point.reason for point in sweep.points if point.state == "skipped")
    return "\n".join([*failed, *(f"– {count} left out: {reason}" for reason, count in reasons.most_common())])


def sweep_text(sweep: Sweep, max_latency_ms: float | None = None) -> str:
    """A sweep for the terminal, the fastest first; `★` marks the choice."""
    spot = sweet_spot(sweep, max_latency_ms)
    lines: list[tuple[str, ...]] = [("", *SWEEP_HEADINGS)]
    lines += [("★" if one is spot else "", *(cell.text for cell in sweep_row(one))) for one in tried_points(sweep)]
    return f"{columns(lines, left=2)}\n\n{sweep_words(sweep, max_latency_ms)}\n{left_out(sweep)}".rstrip()


def format_rate(value: float) -> str:
    """A rate with three significant digits or all before the point."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def format_ms(value: float) -> str:
    """A time with two or three significant digits; below half a microsecond it is none."""
    if value < 0.0005:
        return "0"
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2g}"


def _pattern(stats: LoadStats) -> str:
    if stats.pattern == "closed":
        return f"closed, {stats.concurrency} under way"
    return "Poisson" if stats.pattern == "poisson" else stats.pattern


def _estimate_cell(estimate: Estimate | None, worst_ms: float | None = None) -> Cell:
    if estimate is None:
        note = "too few queries" if worst_ms is None else f"too few queries; the slowest took {format_ms(worst_ms)} ms"
        return Cell("–", _UNKNOWN, note)
    interval = f"95 % interval {estimate.low:.3g}–{estimate.high:.3g} ms"
    return Cell(format_estimate(estimate), estimate.value, interval)


def _tail(stats: LoadStats) -> str:
    return f"p99 {format_estimate(stats.p99)} ms" if stats.p99 else f"slowest {format_ms(stats.worst_ms)} ms"


def _spot(point: SweepPoint) -> str:
    assert point.stats is not None
    latency = f"p50 {format_estimate(point.stats.p50)} ms, {_tail(point.stats)}"
    return f"{format_rate(point.samples_per_second)} samples/s at {point} ({latency})"


def curve_doubts(curve: Sequence[LoadStats]) -> str:
    """One line for each check that speaks against rates that were kept up with."""
    found: dict[str, list[str]] = {}
    for check in (check for one in curve if one.kept_up for check in one.trust.checks if check.verdict == "doubt"):
        found.setdefault(check.name, []).append(check.reason)
    return "\n".join(f"○ {name}, at {len(each)} of {len(curve)} rates: {each[0]}" for name, each in found.items())
