"""The table that every surface shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.made import latency_of, near
from workbench.choice import choose
from workbench.comparison import Candidate, Comparison, Row
from workbench.engine import Engine
from workbench.measure.accuracy import Accuracy, AccuracyChange, Agreement
from workbench.measure.environment import Environment
from workbench.measure.statistics import Estimate
from workbench.measure.trust import Check, Trust
from workbench.model import Model, Step
from workbench.report import (
    columns,
    comparison_html,
    comparison_text,
    format_estimate,
    format_size,
    headings,
    table_row,
)


def row(name: str, hits: int, ms: float, size: int, **changes: object) -> Row:
    model = Model(Path("m.onnx"), "m", (), (), 17, size, history=(Step("quantize_static"),) if hits < 980 else ())
    speedup = near(2 / ms, 0.05)
    made = Row(
        Candidate(name, Engine(model, "onnxruntime", {}, "CPUExecutionProvider", model.path)),
        latency_of(ms, p99=None, iterations=400, threads=2),
        speedup,
        speedup,
        speedup,
        Accuracy("top-1", Estimate(hits / 1000, 0.97, 0.99), 1000, "data"),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


ORIGINAL = row("original", 980, 2.0, 1_000_000)
CHANGED = Agreement(0.95, tuple(range(50)))


def chance(points: float) -> AccuracyChange:
    return AccuracyChange(Estimate(points, points - 1, points + 1), 1.0, "McNemar", lost=2, gained=1)


def real(points: float) -> AccuracyChange:
    return AccuracyChange(Estimate(points, points - 1, points + 1), 0.00002, "McNemar", lost=40, gained=10)


def comparison(*rows: Row) -> Comparison:
    return Comparison((ORIGINAL, *rows), "data", 1000, Environment("A processor", 2, 16.0, "Linux", "3.12"))


def cells(other: Row) -> dict[str, str]:
    rows = comparison(other)
    return dict(zip(headings(rows), (cell.text for cell in table_row(rows, other)), strict=True))


def test_a_row_reads_as_it_should() -> None:
    assert cells(row("int8 <b>", 979, 0.5, 250_000, change=chance(-0.1))) == {
        "candidate": "int8 <b>",
        "backend": "onnxruntime",
        "size": "0.25 MB (4.0× smaller)",
        "top-1": "97.9 % (−0.1 ns)",
        "p50 ms": "0.50",
        "p99 ms": "–",
        "speed-up": "4.00× (3.80–4.20)",
        "trust": "●",
    }


@pytest.mark.parametrize(
    ("hits", "change", "text"),
    [
        (950, real(-3), "95.0 % (−3.0)"),
        (975, chance(-0.5), "97.5 % (−0.5 ns)"),
        (985, chance(0.5), "98.5 % (+0.5 ns)"),
        (980, chance(0), "98.0 % (±0.0)"),
    ],
)
def test_a_difference_that_chance_explains_is_marked(hits: int, change: AccuracyChange, text: str) -> None:
    assert cells(row("int8", hits, 0.5, 250_000, change=change))["top-1"] == text


def test_the_tooltip_holds_the_rest_of_the_accuracy() -> None:
    other = row("int8", 975, 0.5, 1, change=chance(-0.5), agreement=CHANGED)
    other = dataclasses.replace(
        other, accuracy=Accuracy("mIoU", Estimate(0.5, 0.4, 0.6), 8, "data", {"pixel accuracy": 0.91234}, invalid=2)
    )
    note = table_row(comparison(other), other)[3].note

    assert note.startswith(
        "8 samples, 95 % interval 40–60 %; pixel accuracy 0.912; difference -1.5–0.5 points (McNemar)"
    )
    assert "50 predictions changed, 2 of them lost; 2 of 8 samples give NaN or infinite outputs" in note
    assert "int8: 2 of 8 samples give NaN or infinite outputs; they count as wrong." in comparison_text(
        comparison(other)
    )


def test_a_larger_model_says_so() -> None:
    assert cells(row("padded", 980, 2.0, 1_500_000))["size"] == "1.50 MB (1.5× larger)"


def test_without_labels_the_agreement_shows() -> None:
    original = dataclasses.replace(ORIGINAL, accuracy=None)
    other = row("int8", 980, 0.5, 1, accuracy=None, agreement=CHANGED)
    rows = dataclasses.replace(comparison(other), rows=(original, other))

    assert headings(rows)[3] == "agreement"
    assert table_row(rows, other)[3].text == "95.0 %"


def test_the_text_marks_the_choice_the_front_and_what_not_to_trust() -> None:
    shaky = row("int8", 979, 0.5, 250_000, change=chance(-0.1))
    doubt = Trust((Check("noise", "doubt", "noisy machine"),))
    shaky = dataclasses.replace(shaky, latency=dataclasses.replace(shaky.latency, trust=doubt))
    rows = comparison(shaky, row("slow", 950, 3.0, 250_000, change=real(-3)))
    text = comparison_text(rows, choose(rows))
    lines = text.splitlines()

    assert [line[0] for line in lines[1:4]] == ["◆", "★", " "]
    assert lines[2].endswith("○")
    assert "★ int8: the fastest within the budget: it loses 0.10 points." in text
    assert "slow loses 3.00 points, over the budget of 1." in text
    assert "○ int8: do not trust its times, noisy machine." in text
    assert lines[-1] == "data (1000) · batch 1, 2 threads · A processor, 2 cores, 16 GB"


def test_the_html_escapes_names() -> None:
    rows = comparison(row("<script>", 979, 0.5, 250_000, change=chance(-0.1)))
    page = comparison_html(rows, choose(rows))

    assert "<script>" not in page
    assert "★ &lt;script&gt;" in page
    assert page.count("<tr>") == 3


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (None, "–"),
        (Estimate(1.23456, 1.234, 1.235), "1.235"),
        (Estimate(1.23456, 1.1, 1.3), "1.23"),
        (Estimate(123.456, 100, 150), "123.5"),
        (Estimate(123.456, 123.40, 123.50), "123.46"),
    ],
)
def test_a_value_has_the_digits_that_its_interval_allows(estimate: Estimate | None, text: str) -> None:
    assert format_estimate(estimate) == text


def test_sizes_and_columns() -> None:
    assert [format_size(size) for size in (0.876, 9.99, 1234.5)] == ["0.88 MB", "9.99 MB", "1,234 MB"]
    assert columns([("a", "bb"), ("ccc", "d")], left=1) == "a    bb\nccc   d"
