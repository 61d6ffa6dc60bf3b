"""Whether a canary breaches a limit: what two versions did in the same time, compared with what is allowed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from workbench.service.metrics import Reading, ServiceStats, between

_TIMES, _REQUESTS, _START = (
    "workbench_request_seconds_bucket",
    "workbench_requests_total",
    "process_start_time_seconds",
)
_SAME_START = 1.5  # seconds: the kernel tells its own start in whole ones
_SLOW_SHARE = 0.01  # above a 99th percentile
_FEW_FAILURES = 3  # fewer are strays, whatever their share
_FEW_SLOW = 10  # fewer can be one stall of the machine, which holds up all requests under way
_FOR_A_P99 = 100  # fewer requests have no 99th percentile
_IN_BETWEEN, _AT_THE_END = 0.001, 0.05  # chance of a false alarm: a step is judged every second, but ends once


@dataclass(frozen=True)
class Limits:
    """What is a breach.

    Attributes:
        error_ratio: Share of failed requests (5xx).
        refused_ratio: How much larger than the stable version's the share of refused requests (4xx) may be.
        p99_ms: The 99th percentile of a request's time, ms.
        p99_factor: Times the stable version's 99th percentile in the same time; 0 for any.
    """

    error_ratio: float
    refused_ratio: float
    p99_ms: float
    p99_factor: float


@dataclass(frozen=True)
class Pair:
    """The series of both versions at one moment."""

    canary: Reading
    stable: Reading


@dataclass(frozen=True)
class Window:
    """What both versions did between two moments."""

    before: Pair
    after: Pair
    model: str

    @cached_property
    def canary(self) -> ServiceStats:
        """The canary's numbers."""
        return between(self.before.canary, self.after.canary, self.model)

    @cached_property
    def stable(self) -> ServiceStats:
        """The stable version's numbers."""
        return between(self.before.stable, self.after.stable, self.model)

    def slower(self, limit_ms: float) -> tuple[float, float]:
        """The canary's requests that took longer than so many ms, and all that were timed."""
        return _slower(_times(self.before.canary, self.after.canary, self.model), limit_ms / 1000)


def find_breach(window: Window, limits: Limits, *, ended: bool, usual_refused: float = 0.0) -> str:
    """Which limit the canary breaches, in words; empty for none.

    Args:
        window: What was seen.
        limits: What is allowed.
        ended: Whether the step is over: then plain ratios count. Before, only what chance does not explain.
        usual_refused: Share of requests that the stable version refused, where it had none in the window.
    """
    canary, stable = window.canary, window.stable
    if _exceeds(canary.errors, canary.requests, limits.error_ratio, ended):
        return (
            f"{canary.errors:,.0f} of {canary.requests:,.0f} requests failed ({canary.error_ratio:.1%}); "
            f"the limit is {limits.error_ratio:.1%}"
        )
    usual = stable.refused / stable.requests if stable.requests >= _FOR_A_P99 else usual_refused
    if _exceeds(canary.refused, canary.requests, usual + limits.refused_ratio, ended):
        return (
            f"{canary.refused:,.0f} of {canary.requests:,.0f} requests were refused "
            f"({canary.refused / canary.requests:.1%}); the stable version refuses {usual:.1%}, and "
            f"{limits.refused_ratio:.1%} more is the limit"
        )
    if _is_slow(window, limits.p99_ms, ended):
        return f"its 99th percentile is {_shown(canary.p99_ms)} ms; the limit is {limits.p99_ms:g} ms"
    allowed = limits.p99_factor * stable.p99_ms
    if stable.requests >= _FOR_A_P99 and allowed > 0 and _is_slow(window, allowed, ended):
        return (
            f"its 99th percentile is {_shown(canary.p99_ms)} ms; the stable version's is {_shown(stable.p99_ms)} ms "
            f"in the same time, and {limits.p99_factor:g} times that is the limit"
        )
    return ""


def started_anew(before: Reading, after: Reading, model: str) -> bool:
    """Whether another process answers than before: it began later, or a counter fell."""
    begun = [_start(reading) for reading in (before, after)]
    if begun[1] - begun[0] > _SAME_START:
        return True
    return any(
        name == _REQUESTS and dict(labels).get("model") == model and after.series.get((name, labels), 0.0) < value
        for (name, labels), value in before.series.items()
    )


def _start(reading: Reading) -> float:
    return reading.series.get((_START, frozenset()), 0.0)


def _exceeds(count: float, total: float, share: float, ended: bool) -> bool:
    if count < _FEW_FAILURES or count <= share * total:
        return False
    return ended or chance_of(count, share * total) < _IN_BETWEEN


def _is_slow(window: Window, limit_ms: float, ended: bool) -> bool:
    slow, timed = window.slower(limit_ms)
    return slow >= _FEW_SLOW and chance_of(slow, _SLOW_SHARE * timed) < (_AT_THE_END if ended else _IN_BETWEEN)


def chance_of(count: float, expected: float) -> float:
    """Chance that a Poisson count is at least so large where so many are expected."""
    if count <= expected or expected <= 0:
        return 1.0 if count <= expected else 0.0
    number = math.ceil(count)
    term = math.exp(number * math.log(expected) - expected - math.lgamma(number + 1))
    total = 0.0
    while term > 1e-12 * total:
        total += term
        number += 1
        term *= expected / number
    return total


def _times(before: Reading, after: Reading, model: str) -> Mapping[float, float]:
    """Growth of the histogram of request times: cumulative counts by upper bound, s."""
    counts: dict[float, float] = defaultdict(float)
    for (name, labels), value in after.series.items():
        own = dict(labels)
        if name == _TIMES and own.get("model") == model:
            earlier = before.series.get((name, labels), 0.0)
            counts[float(own["le"])] += value - earlier if value >= earlier else value
    return dict(sorted(counts.items()))


def _slower(buckets: Mapping[float, float], limit: float) -> tuple[float, float]:
    """How many lie above a limit, linear within its bucket; above the last bound, what lies there."""
    if not buckets:
        return 0.0, 0.0
    total = list(buckets.values())[-1]
    low, below = 0.0, 0.0
    for bound, count in buckets.items():
        if math.isinf(bound):
            break
        if bound > limit:
            return total - below - (count - below) * (limit - low) / (bound - low), total
        low, below = bound, count
    return total - below, total


def _shown(milliseconds: float) -> str:
    return f"{milliseconds:.3g}" if milliseconds < 1000 else f"{milliseconds:.0f}"
