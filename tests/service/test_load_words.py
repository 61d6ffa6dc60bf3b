"""What is said of load on a service: times in one style, and no check mark for what is hardly known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from workbench.measure._load_stats import Setting, summarize
from workbench.measure._traffic import Log, Traffic
from workbench.measure.load import LoadStats
from workbench.measure.statistics import Estimate
from workbench.service.load import ServiceLoad
from workbench.service.report import service_load_facts, service_load_text


def stats_of(latencies_ms: Sequence[float]) -> LoadStats:
    """Of one connection, whose requests took so long."""
    ended = np.cumsum([int(1e6 * each) for each in latencies_ms])
    begun = np.concatenate([[0], ended[:-1]])
    log = Log((np.stack([begun, begun, begun, ended], axis=1),), np.array([], np.int64), 0.1, False)
    return summarize(log, Traffic("closed", 1.0), Setting(1, None, 2, 9, True, {}, "shared"), 10.0)


def load_with(stats: LoadStats) -> ServiceLoad:
    return ServiceLoad("http://127.0.0.1", "tiny 1", "x", "binary", 1.0, 1.0, {200: 600}, 0, {}, 0, 1, stats)


def test_times_are_told_in_one_style() -> None:
    slow, rare = Estimate(1240.61, 1240.6, 1240.62), Estimate(2130.62, 2130.6, 2130.7)
    stats = replace(stats_of([1.0] * 600), pattern="poisson", p50=slow, p99=rare, queueing_ms=1202.3)
    said = service_load_facts(load_with(stats))["Latency"]
    assert said == "p50 1,241 ms, p99 2,131 ms, of which 1,202 ms waiting to be sent on average"


def test_a_percentile_that_is_hardly_known_has_no_check_mark() -> None:
    known = service_load_text(load_with(stats_of([1.0] * 2000)))
    assert "✓ samples: 2,000 queries; the 99th percentile is known to ±0 %" in known

    rest = [1.0] * 199
    few = stats_of([*rest, 90.0, *rest, 30.0, *rest, 9.0, *rest, 3.0, *rest, 200.0, *rest, 60.0, 400.0, 2.0, 5.0, 7.0])
    assert few.p99 is not None
    assert few.p99.spread > 0.5
    assert "✗ samples: 1,204 queries; the 99th percentile is known to ±" in service_load_text(load_with(few))
