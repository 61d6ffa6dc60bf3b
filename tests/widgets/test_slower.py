"""A candidate that is slower than the original beyond doubt is marked wherever candidates are shown."""

from __future__ import annotations

import pytest

from tests.made import latency_of, near
from widgets import Compare, front_data, front_figure, report_page
from workbench.backends import build_engine
from workbench.comparison import Candidate, Comparison, Row
from workbench.measure.environment import read_environment
from workbench.measure.statistics import Estimate
from workbench.model import Model
from workbench.report import SLOWER, comparison_text


@pytest.fixture(scope="module")
def comparison(digits: Model) -> Comparison:
    """The original, a slower candidate, and one of which nobody knows."""
    engine, one = build_engine(digits), Estimate(1.0, 1.0, 1.0)
    unclear = Estimate(0.98, 0.9, 1.05)
    rows = (
        Row(Candidate("original", engine), latency_of(2.0), one, one, one),
        Row(Candidate("dynamic", engine), latency_of(6.0), near(0.33), near(0.33), near(0.33)),
        Row(Candidate("near", engine), latency_of(2.02), unclear, unclear, unclear),
    )
    return Comparison(rows, "digits", 697, read_environment())


def test_only_what_is_slower_beyond_doubt_is_marked(comparison: Comparison) -> None:
    assert [row.slower for row in comparison.rows] == [False, True, False]
    [line] = [line for line in comparison_text(comparison).splitlines() if f"({SLOWER})" in line]
    assert "dynamic" in line


@pytest.mark.parametrize("prefer", ["latency", "size"])
def test_the_panel_labels_it_and_never_chooses_it(comparison: Comparison, prefer: str) -> None:
    panel = Compare(comparison=comparison)
    panel.limits.set({"prefer": prefer})
    assert [row["label"] for row in panel.table.rows] == ["", SLOWER, ""]
    assert panel.choice is not None
    assert panel.choice.name != "dynamic"
    assert f"{SLOWER}</small>" in panel.summary()


def test_the_plot_draws_it_in_another_form(comparison: Comparison) -> None:
    assert front_data(comparison)["marker"] == ["circle", "inverted_triangle", "circle"]
    assert front_data(comparison)["speed"][1] == f"0.33×, {SLOWER}"
    assert [item.label.value for item in front_figure(comparison).legend[0].items][1] == "dynamic (slower)"


def test_the_report_says_it(comparison: Comparison) -> None:
    assert f"{SLOWER}</small>" in report_page(comparison)
