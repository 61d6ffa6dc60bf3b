"""The table that every surface shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from workbench.comparison import Candidate, Comparison, Row, choose
from workbench.engine import Engine
from workbench.measure.accuracy import Accuracy, Agreement
from workbench.measure.environment import Environment
from workbench.measure.latency import LatencyStats
from workbench.measure.statistics import Estimate
from workbench.model import Model, Step
from workbench.report import (
    HEADINGS,
    columns,
    comparison_html,
    comparison_text,
    format_estimate,
    format_size,
    table_row,
)


def row(name: str, hits: int, ms: float, size: int, **changes: object) -> Row:
    model = Model(Path("m.onnx"), "m", (), (), 17, size, history=(Step("quantize_static"),) if hits < 980 else ())
    time = Estimate(ms, 0.98 * ms, 1.02 * ms)
    latency = LatencyStats(1, time, time, time, time, None, ms, ms, 1.0, 1.0, 50.0, 400, 100, 2, (ms,) * 10, {})
    made = Row(
        Candidate(name, Engine(model, "onnxruntime", {}, "CPUExecutionProvider", model.path)),
        latency,
        Estimate(2 / ms, 1.9 / ms, 2.1 / ms),
        Accuracy(Estimate(hits / 1000, 0.97, 0.99), 1000, "data"),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


ORIGINAL = row("original", 980, 2.0, 1_000_000)
CHANCE = Agreement(0.99, (1, 2, 3), lost=2, gained=1, p_value=1.0)
REAL = Agreement(0.95, tuple(range(50)), lost=40, gained=10, p_value=0.00002)


def comparison(*rows: Row) -> Comparison:
    return Comparison((ORIGINAL, *rows), "data", 1000, Environment("A processor", 2, 16.0, "Linux", "3.12"))


def cells(other: Row) -> dict[str, str]:
    return dict(zip(HEADINGS, (cell.text for cell in table_row(comparison(other), other)), strict=True))


def test_a_row_reads_as_it_should() -> None:
    assert cells(row("int8 <b>", 979, 0.5, 250_000, agreement=CHANCE)) == {
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
    ("hits", "agreement", "text"),
    [
        (950, REAL, "95.0 % (−3.0)"),
        (975, CHANCE, "97.5 % (−0.5 ns)"),
        (985, CHANCE, "98.5 % (+0.5 ns)"),
        (980, CHANCE, "98.0 % (±0.0)"),
    ],
)
def test_a_difference_that_chance_explains_is_marked(hits: int, agreement: Agreement, text: str) -> None:
    assert cells(row("int8", hits, 0.5, 250_000, agreement=agreement))["top-1"] == text


def test_a_larger_model_says_so() -> None:
    assert cells(row("padded", 980, 2.0, 1_500_000))["size"] == "1.50 MB (1.5× larger)"


def test_without_labels_the_agreement_shows() -> None:
    assert cells(row("int8", 980, 0.5, 1, accuracy=None, agreement=CHANCE))["top-1"] == "99.0 % agree"


def test_the_text_marks_the_choice_the_front_and_what_not_to_trust() -> None:
    shaky = row("int8", 979, 0.5, 250_000, agreement=CHANCE)
    shaky = dataclasses.replace(shaky, latency=dataclasses.replace(shaky.latency, caveats=("noisy machine",)))
    rows = comparison(shaky, row("slow", 950, 3.0, 250_000, agreement=REAL))
    text = comparison_text(rows, choose(rows))
    lines = text.splitlines()

    assert [line[0] for line in lines[1:4]] == ["◆", "★", " "]
    assert lines[2].endswith("○")
    assert "★ int8: the fastest within the budget: it loses 0.10 points." in text
    assert "slow loses 3.00 points, over the budget of 1." in text
    assert "○ int8: do not trust its times, noisy machine." in text
    assert lines[-1] == "data (1000) · batch 1, 2 threads · A processor, 2 cores, 16 GB"


def test_the_html_escapes_names() -> None:
    rows = comparison(row("<script>", 979, 0.5, 250_000, agreement=CHANCE))
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
