"""The Explain panel: cards that say what costs time, and what "Apply" hands to Compare."""

from __future__ import annotations

import html
from collections.abc import Iterator

import ipywidgets as w
import pytest
import yaml

from tests.made import latency_of, near
from widgets import Compare, Explain
from workbench.backends import build_engine
from workbench.comparison import Candidate, Comparison, Row
from workbench.errors import ModelError
from workbench.findings import Finding
from workbench.measure.environment import read_environment
from workbench.measure.statistics import Estimate
from workbench.model import Model
from workbench.options import make_options
from workbench.recipe import CandidateRecipe

SIGNED = Finding(
    rule="signed_activations",
    candidate="int8",
    what="Activations are signed.",
    evidence="1.0 ms as it is, 0.4 ms with unsigned ones.",
    milliseconds=0.6,
    why="The kernels are <slow> with them.",
    remedy="Quantize with unsigned activations.",
    step={"name": "int8, unsigned", "transforms": ["quantize_static"]},
    nodes=tuple(f"conv{number}" for number in range(9)),
)
BATCH = Finding("small_batch", "original", "The batch is small.", "4 give more.", None, "Threads idle.", "Use 4.")


@pytest.fixture
def comparison(digits: Model) -> Comparison:
    one = Estimate(1.0, 1.0, 1.0)
    rows = (
        Row(Candidate("original", build_engine(digits)), latency_of(2.0), one, one, one),
        Row(Candidate("int8", build_engine(digits)), latency_of(1.0), near(2.0), near(2.0), near(2.0)),
    )
    return Comparison(rows, "digits", 697, read_environment())


@pytest.fixture
def panel(comparison: Comparison) -> Iterator[Explain]:
    explain = Explain(comparison=comparison)
    yield explain
    explain.close()


def buttons(widget: w.Widget) -> dict[str, w.Button]:
    """Every button below a widget by its text."""
    if isinstance(widget, w.Button):
        return {widget.description: widget}
    return {name: button for child in getattr(widget, "children", ()) for name, button in buttons(child).items()}


def test_not_looked_yet_is_not_the_same_as_nothing_found(panel: Explain) -> None:
    assert "Press Explain" in panel.summary()
    panel.show(())
    assert "Nothing was found" in panel.summary()
    assert "found nothing" in panel.result.value


def test_a_card_says_what_how_much_why_and_what_to_do(panel: Explain) -> None:
    panel.show((SIGNED,))
    [card] = panel.cards.children
    text = card.children[0].value
    for said in (SIGNED.what, SIGNED.evidence, html.escape(SIGNED.why), SIGNED.remedy, "0.600 ms (60 %)"):
        assert said in text
    assert "<slow>" not in text


def test_time_that_was_not_measured_is_not_made_up(panel: Explain) -> None:
    panel.show((BATCH,))
    assert "not timed" in panel.cards.children[0].children[0].value
    assert "Apply" not in buttons(panel.cards)


def test_the_cards_of_one_candidate_can_be_shown_alone(panel: Explain) -> None:
    panel.show((SIGNED, BATCH))
    panel.show_only.value = "original"
    [card] = panel.cards.children
    assert BATCH.what in card.children[0].value


def test_a_node_is_selected_by_a_click_and_only_the_first_ones_are_offered(panel: Explain) -> None:
    panel.show((SIGNED,))
    offered = buttons(panel.cards)
    assert "conv8" not in offered
    offered["conv3"].click()
    assert panel.selected_node == "conv3"


def test_apply_hands_the_remedy_to_compare_once(panel: Explain, digits: Model) -> None:
    compare = Compare(model=digits)
    w.link((panel, "additions"), (compare, "additions"))
    panel.show((SIGNED,))
    buttons(panel.cards)["Apply"].click()
    assert [addition["name"] for addition in compare.additions] == ["int8, unsigned"]
    assert buttons(panel.cards)["Added"].disabled
    panel.apply(SIGNED)
    assert len(compare.additions) == 1
    assert "wb.make_candidate(model, {'name': 'int8, unsigned'" in compare.code()[0]


def test_what_was_applied_is_shown_as_a_recipe_has_it(panel: Explain) -> None:
    assert panel.code()[1] == ""
    panel.show((SIGNED,))
    panel.apply(SIGNED)
    [candidate] = yaml.safe_load(panel.code()[1])["candidates"]
    assert make_options(CandidateRecipe, candidate, "test").transforms == ("quantize_static",)


def test_another_measurement_forgets_the_findings(panel: Explain, comparison: Comparison) -> None:
    panel.show((SIGNED,))
    panel.comparison = Comparison(comparison.rows[:1], "other", 1, comparison.environment)
    assert panel.findings is None
    assert panel.cards.children == ()


def test_explaining_nothing_says_what_comes_first() -> None:
    with pytest.raises(ModelError, match="Measure in Compare first"):
        Explain().start().wait()
