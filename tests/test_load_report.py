"""Loads, curves and sweeps in words: what a reader must be told, and no figure that was not measured."""

from __future__ import annotations

import pytest

from tests.loads import load_of, point_of, sweep_of
from workbench.load_report import (
    LOAD_HEADINGS,
    SWEEP_HEADINGS,
    curve_text,
    curve_words,
    format_ms,
    format_rate,
    left_out,
    load_row,
    load_text,
    load_words,
    sweep_row,
    sweep_text,
    sweep_words,
)
from workbench.measure.sweep import SweepPoint
from workbench.measure.trust import Check, Trust

DOUBT = Trust((Check("other load", "doubt", "other processes took 60 % of the processors"),))


def test_every_heading_has_its_cell() -> None:
    assert len(load_row(load_of(100, 2))) == len(LOAD_HEADINGS)
    for point in (point_of(4, 100, 2), SweepPoint(1, 1, 1, "failed", "it hung")):
        assert len(sweep_row(point)) == len(SWEEP_HEADINGS)


def test_a_load_says_throughput_latency_and_waiting_apart() -> None:
    stats = load_of(1234.5, 2.5, batch=4, queueing_ms=1.25)

    words = "1,234 queries/s (4,938 samples/s): latency p50 2.50 ms, p99 2.50 ms; waiting 1.2 ms and inference 2.5 ms"
    assert load_words(stats).startswith(words)


def test_a_percentile_that_is_not_known_is_no_number() -> None:
    stats = load_of(20, 50, p99=None, worst_ms=88.0)

    assert load_row(stats)[4].text == "–"
    assert "the slowest took 88.0 ms" in load_row(stats)[4].note
    assert "slowest 88.0 ms" in load_words(stats)


def test_an_overload_is_called_one() -> None:
    stopped = load_of(80, 50, offered_per_second=200.0, kept_up=False, unfinished=300)

    assert load_words(stopped) == "Too much: of 200 queries/s only 80 were served; 300 were not served."
    assert "the queue grew to the end" in load_words(load_of(80, 50, kept_up=False))
    assert load_words(load_of(80, 50, pattern="offline")) == "80 queries/s when all 80 queries lie ready at once."


def test_a_curve_names_its_knee_what_it_keeps_up_with_and_where_it_stops() -> None:
    curve = [load_of(100, 1), load_of(200, 1.2), load_of(300, 4), load_of(400, 90, kept_up=False)]

    assert "The knee is at 200 queries/s: latency p50 1.20 ms" in curve_words(curve)
    assert "It keeps up to 300 queries/s, with p50 4.00 ms" in curve_words(curve)
    assert "At 400 queries/s the queue only grows." in curve_words(curve)
    [marked] = [line for line in curve_text(curve).splitlines() if line.startswith("◆")]
    assert " 200 " in marked
    assert "choose lower rates" in curve_words(curve[-1:])


def test_doubts_are_told_once_with_how_often() -> None:
    curve = [load_of(100, 1, trust=DOUBT), load_of(200, 1.2, trust=DOUBT), load_of(300, 4)]

    assert curve_text(curve).endswith("○ other load, at 2 of 3 rates: other processes took 60 % of the processors")
    assert "✗ other load: other processes took 60 %" in load_text(curve[0])


def test_a_sweep_names_the_best_and_the_best_within_the_limit() -> None:
    small, large = point_of(1, 100, 10, instances=2), point_of(16, 200, 80)
    skipped = [SweepPoint(batch, 1, 1, "skipped", "a step towards it did not gain 3 %") for batch in (32, 64)]
    found = sweep_of(small, large, *skipped, SweepPoint(64, 1, 2, "failed", "It took 9.0 GB."))

    assert "Highest throughput: 200 samples/s at batch 16, 1 thread, 1 instance" in sweep_words(found)
    limited = sweep_words(found, 20)
    assert "With at most 20 ms for 99 of 100 inferences: 100 samples/s at batch 1, 1 thread, 2 instances" in limited
    assert "2 of 5 settings measured in 5 s, 1 failed." in limited
    assert "no setting that was measured keeps that" in sweep_words(found, 1)
    assert left_out(found).splitlines() == [
        "✗ batch 64, 1 thread, 2 instances failed: It took 9.0 GB.",
        "– 2 left out: a step towards it did not gain 3 %",
    ]
    [marked] = [line for line in sweep_text(found, 20).splitlines() if line.startswith("★")]
    assert "batch 1," in marked
    assert sweep_words(sweep_of(*skipped)) == "Nothing could be measured: the table says why."


@pytest.mark.parametrize(
    ("value", "rate", "time"),
    [(0.0, "0", "0"), (0.0123, "0.0123", "0.012"), (7.04, "7.04", "7.0"), (1e4, "10,000", "10,000")],
)
def test_figures_have_sensible_digits(value: float, rate: str, time: str) -> None:
    assert (format_rate(value), format_ms(value)) == (rate, time)
