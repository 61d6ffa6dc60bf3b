"""The plots of a comparison: what their data say, on figures that are known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.made import latency_of, near
from widgets import ecdf_data, front_data, histogram_data, speedup_data
from widgets._plots import candidate_color, fade, name_rows, new_figure, source_of
from widgets._plots_front import front_figure
from widgets._plots_latency import ecdf_figure, histogram_figure, spans_ratios
from widgets._plots_speedup import speedup_figure
from workbench.backends import build_engine
from workbench.comparison import Candidate, Comparison, Row
from workbench.measure.environment import read_environment
from workbench.measure.statistics import Estimate
from workbench.model import Model


def compared(model: Model, *timings: tuple[float, ...]) -> Comparison:
    """An original and candidates with these timings, in ms."""
    rows = []
    for number, times in enumerate(timings):
        quantiles = tuple(float(value) for value in np.quantile(times, np.linspace(0, 1, 201)))
        p50 = float(np.median(times))
        ratio = near(float(np.median(timings[0])) / p50) if number else Estimate(1.0, 1.0, 1.0)
        name = f"candidate {number}" if number else "original"
        latency = latency_of(p50, quantiles_ms=quantiles)
        rows.append(Row(Candidate(name, build_engine(model)), latency, ratio, ratio, ratio))
    return Comparison(tuple(rows), "made up", 12, read_environment())


@pytest.fixture
def comparison(digits: Model) -> Comparison:
    """Two of three take the same time all the time; the original's times spread evenly from 2 to 4 ms."""
    return compared(digits, tuple(np.linspace(2, 4, 1001)), (1.0,) * 100, (6.0,) * 100)


def test_half_of_the_inferences_take_no_longer_than_the_median(comparison: Comparison) -> None:
    data = ecdf_data(comparison)
    xs, ys = data["xs"][0], data["ys"][0]
    assert np.interp(3.0, xs, ys) == pytest.approx(50)
    assert (ys[0], ys[-1]) == (0, 100)


def test_a_histogram_holds_every_timing_once(comparison: Comparison) -> None:
    data = histogram_data(comparison, bins=40)
    for ys in data["ys"]:
        assert (ys[0], ys[-1]) == (0, 0)
        assert sum(ys[1:-1:2]) == pytest.approx(100, abs=0.5)


def test_equal_timings_fill_one_bin(comparison: Comparison) -> None:
    [bars] = [ys for name, ys in zip(*(histogram_data(comparison)[key] for key in ("name", "ys")), strict=True)][1:2]
    assert sorted(bars[1:-1:2])[-2:] == [0, 100]


def test_one_slow_timing_does_not_squash_the_others(digits: Model) -> None:
    usual = tuple(np.linspace(1, 2, 999))
    plot = histogram_figure(compared(digits, (*usual, 500.0)))
    assert plot.x_range.end < 3


def test_an_axis_shows_ratios_where_latencies_differ_much(digits: Model) -> None:
    assert not spans_ratios(compared(digits, (1.0, 1.2), (2.0, 2.2)))
    far_apart = compared(digits, (20.0, 21.0), (0.3, 0.4))
    assert spans_ratios(far_apart)
    ticks = ecdf_figure(far_apart).xaxis.ticker.ticks
    assert {0.5, 1, 2, 5, 10, 20} <= {round(tick, 6) for tick in ticks}


def test_speed_ups_are_those_of_the_rows_without_the_original(comparison: Comparison) -> None:
    data = speedup_data(comparison)
    assert data["name"] == ["candidate 1", "candidate 2"]
    assert data["x"] == pytest.approx([3, 0.5])
    assert all(low < value < high for low, value, high in zip(data["x_low"], data["x"], data["x_high"], strict=True))
    assert data["text"] == ["3.00 ×", "0.50 ×, slower"]


def test_an_original_alone_can_be_drawn(digits: Model) -> None:
    alone = compared(digits, (1.0, 2.0))
    assert speedup_data(alone)["name"] == []
    for draw in (front_figure, ecdf_figure, histogram_figure, speedup_figure):
        draw(alone)


def test_the_same_candidate_has_the_same_colour_in_every_plot(comparison: Comparison) -> None:
    wanted = {row.name: candidate_color(number) for number, row in enumerate(comparison.rows)}
    for data in (f(comparison) for f in (front_data, ecdf_data, histogram_data, speedup_data)):
        assert dict(zip(data["name"], data["color"], strict=True)).items() <= wanted.items()


@pytest.mark.parametrize("draw", [front_figure, ecdf_figure, histogram_figure, speedup_figure])
def test_any_plot_can_fade_candidates_and_show_them_again(draw: type, comparison: Comparison) -> None:
    plot = draw(comparison)
    fade(plot, {"candidate 1"})
    alphas = dict(zip(source_of(plot).data["name"], source_of(plot).data["alpha"], strict=True))
    assert (alphas["candidate 1"] < 0.5, alphas["candidate 2"]) == (True, 1)
    fade(plot, ())
    assert set(source_of(plot).data["alpha"]) == {1}


def test_long_names_lose_their_middle() -> None:
    plot = new_figure("", "", "", height=100)
    name_rows(plot, ["short", "backbone/stage_1/block_2/conv_QuantizeLinear"], longest=20)
    assert list(plot.yaxis.major_label_overrides.values()) == ["short", "backbone/…tizeLinear"]
