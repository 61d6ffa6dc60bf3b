"""The generator of queries: its schedules, and that a query which waits counts its waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from workbench.measure._traffic import Traffic, arrivals, send


def rest() -> None:
    """An inference of about a millisecond."""
    time.sleep(0.001)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert list(arrivals(Traffic("constant", 0.5, rate=10)) / 1e9) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_poisson_arrivals_come_at_the_rate_at_irregular_times() -> None:
    times = arrivals(Traffic("poisson", 10, rate=1000, seed=1)) / 1e9
    gaps = np.diff(times)

    assert abs(len(times) - 10_000) < 5 * 100  # five standard deviations of a Poisson count
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as of an exponential distribution
    assert times.max() < 10
    assert np.array_equal(times, arrivals(Traffic("poisson", 10, rate=1000, seed=1)) / 1e9)
    assert not np.array_equal(times[:50], arrivals(Traffic("poisson", 10, rate=1000, seed=2))[:50] / 1e9)


def test_a_rate_so_low_that_nothing_would_come_gives_one_query() -> None:
    for pattern in ("constant", "poisson"):
        assert len(arrivals(Traffic(pattern, 0.001, rate=0.01))) == 1


def test_queries_behind_a_stall_count_their_waiting() -> None:
    """What a closed loop hides: it would have sent nothing while it waited (coordinated omission)."""
    calls = count()

    def stall_once() -> None:
        time.sleep(0.4 if next(calls) == 20 else 0.001)

    [notes] = send([stall_once], Traffic("constant", 1.0, rate=100)).callers
    latency, service = notes[:, 3] - notes[:, 0], notes[:, 3] - notes[:, 2]

    assert len(notes) == 100
    assert (latency > 1e8).sum() > 5 * (service > 1e8).sum() > 0


def test_no_query_of_an_open_loop_begins_before_it_is_due() -> None:
    log = send([rest, rest], Traffic("poisson", 0.3, rate=300))
    notes = np.concatenate(log.callers)

    assert (notes[:, 2] >= notes[:, 0]).all()
    assert sorted(notes[:, 0]) == list(log.due)


def test_a_closed_loop_keeps_its_number_under_way() -> None:
    """Little's law: queries under way = sum of the latencies / time.

    Those under way at the end are not noted, and none of them has waited longer than the longest that is noted.
    """
    log = send([rest, rest], Traffic("closed", 0.5, concurrency=6))
    notes = np.concatenate(log.callers)
    latency, took = notes[:, 3] - notes[:, 0], notes[:, 3].max()

    assert 6 * (1 - latency.max() / took) <= latency.sum() / took <= 6


def test_an_overload_stops_by_itself() -> None:
    log = send([rest], Traffic("constant", 60, rate=5000, max_wait_s=0.1))

    assert log.stopped
    assert 0 < len(log.callers[0]) < len(log.due) < 60 * 5000


def test_what_lies_ready_is_shared_out() -> None:
    """The first of each caller ends when all three are under way."""
    together = threading.Barrier(3, timeout=60)

    def caller() -> Callable[[], object]:
        first = iter([together.wait])
        return lambda: next(first, rest)()

    log = send([caller() for _ in range(3)], Traffic("offline", count=60))

    assert sum(map(len, log.callers)) == 60
    assert min(map(len, log.callers)) > 0


def test_an_error_in_a_call_ends_the_run() -> None:
    def fail() -> None:
        raise ZeroDivisionError("in a caller's thread")

    with pytest.raises(ZeroDivisionError, match="in a caller's thread"):
        send([fail, rest], Traffic("closed", 60, concurrency=2))
