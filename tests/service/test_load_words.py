"""What is said of load on a service: times in one style, and no check mark for what is hardly known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from workbench.measure._load_stats import Setting, summarize
from workbench.measure._traffic import Log, Traffic
from workbench.measure.load import LoadStats
from workbench.measure.statistics import Estimate
from workbench.service._summary import sum_up
from workbench.service._traffic import Sent
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


def test_what_was_not_sent_or_not_answered_is_told_with_its_numbers() -> None:
    reasons = {"Connection refused": 1200, "no answer in time": 3}
    none = replace(load_with(stats_of([1.0])), stats=None, statuses={503: 9}, lost=1203, reasons=reasons, unsent=1)
    said = service_load_facts(none)
    assert said["Answers"] == (
        "0 of 1,212 with 200; 9 with 503; 1,203 lost (1,200 × Connection refused, 3 × no answer in time)"
    )
    assert said["Too much"] == "the service did not keep up; 1 request was due but not sent"
    nothing = service_load_facts(replace(none, statuses={}, lost=0, reasons={}, unsent=0))
    assert nothing["Answers"] == "none: no request was sent"
    assert "Too much" not in nothing


def test_one_connection_is_one() -> None:
    assert service_load_facts(load_with(stats_of([1.0] * 9)))["Answered well"].endswith(" on 1 connection")


def test_the_senders_share_of_a_core_is_that_of_the_whole_time() -> None:
    """The only answer with 200 came after 1 ms; most of the work was for what was refused after."""
    log = Log((np.array([[0, 0, 0, 1_000_000]]),), np.array([], np.int64), 0.5, False)
    sent = Sent(log, Counter({200: 1, 503: 5000}), 0, 0, 10.0, seconds=1.0)
    stats = sum_up(sent, sent, Traffic("closed", 1.0), 1)
    assert stats is not None
    assert "✓ sender: the sender took 50 % of a core" in str(stats.trust)


def test_a_percentile_that_is_hardly_known_has_no_check_mark() -> None:
    known = service_load_text(load_with(stats_of([1.0] * 2000)))
    assert "✓ samples: 2,000 queries; the 99th percentile is known to ±0 %" in known

    rest = [1.0] * 199
    few = stats_of([*rest, 90.0, *rest, 30.0, *rest, 9.0, *rest, 3.0, *rest, 200.0, *rest, 60.0, 400.0, 2.0, 5.0, 7.0])
    assert few.p99 is not None
    assert few.p99.spread > 0.5
    assert "✗ samples: 1,204 queries; the 99th percentile is known to ±" in service_load_text(load_with(few))
