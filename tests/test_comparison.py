"""Candidates side by side: the front and the choice by hand, then the real thing."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.faults import Faulty
from tests.made import latency_of, near
from workbench.backends import build_engine
from workbench.choice import choose, find_outside, pareto_front
from workbench.comparison import Candidate, Comparison, Row, compare
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import Cancelled, OptionsError, WorkerError
from workbench.importers import load_model
from workbench.measure.accuracy import Accuracy, Agreement
from workbench.measure.environment import Environment
from workbench.measure.statistics import Estimate
from workbench.model import Model
from workbench.report import comparison_text
from workbench.transforms import transform
from workbench.workspace import Workspace


def row(name: str, top1: float, ms: float, megabytes: float = 1.0, *, original_ms: float = 2.0) -> Row:
    """A row as if it had been measured, its speed-up known to 2 %."""
    model = Model(Path("m.onnx"), name, (), (), 17, int(megabytes * 1e6))
    speedup = near(original_ms / ms)
    accuracy = Accuracy("top-1", Estimate(top1, top1 - 0.01, top1 + 0.01), 1000, "data")
    candidate = Candidate(name, Engine(model, "onnxruntime", {}, "CPU", model.path))
    return Row(candidate, latency_of(ms), speedup, speedup, speedup, accuracy)


def comparison(*rows: Row) -> Comparison:
    return Comparison(rows, "data", 1000, Environment("A processor", 2, 16.0, "Linux", "3.12"))


ORIGINAL = row("original", 0.98, 2.0)


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    rows = comparison(
        ORIGINAL,
        row("fast", 0.95, 0.5),
        row("worse and slower", 0.94, 0.6),
        row("as good and slower", 0.95, 0.7),
        row("middle", 0.97, 1.0),
        row("best", 0.99, 3.0),
    )
    assert pareto_front(rows) == ("fast", "middle", "original", "best")


def test_of_two_alike_in_speed_the_better_is_on_the_front() -> None:
    assert pareto_front(comparison(ORIGINAL, row("better", 0.99, 2.0))) == ("better",)


def test_the_fastest_within_the_budget_is_chosen() -> None:
    rows = comparison(ORIGINAL, row("fastest", 0.95, 0.4), row("fast", 0.975, 0.5), row("small", 0.975, 1.0, 0.2))
    choice = choose(rows)

    assert choice.name == "fast"
    assert choice.reason == "the fastest within the budget: it loses 0.50 points"
    assert choice.rejected == {"fastest": "loses 3.00 points, over the budget of 1"}
    assert choose(rows, {"max_accuracy_drop": 3}).name == "fastest"
    assert choose(rows, {"prefer": "size"}).name == "small"


def test_a_loss_of_exactly_the_budget_keeps_it() -> None:
    """0.98 − 0.97 is a little more than 0.01 in floating point."""
    rows = comparison(ORIGINAL, row("fast", 0.97, 0.5))

    assert rows.accuracy_drop(rows["fast"]) > 1
    assert choose(rows, {"max_accuracy_drop": 1}).name == "fast"


@pytest.mark.parametrize(
    ("ms", "words"), [(2.5, "is slower than the original (0.80 ×)"), (1.98, "is not clearly faster than the original")]
)
def test_what_is_not_clearly_faster_is_never_chosen_for_speed(ms: float, words: str) -> None:
    choice = choose(comparison(ORIGINAL, row("candidate", 0.99, ms, 0.1)))

    assert choice.name == "original"
    assert choice.reason == "no candidate is better within the accuracy budget"
    assert choice.rejected["candidate"].startswith(words)


def test_what_is_slower_is_not_chosen_for_its_size_either() -> None:
    rows = comparison(ORIGINAL, row("slower", 0.98, 4.0, 0.1), row("alike", 0.98, 2.0, 0.5))

    assert choose(rows, {"prefer": "size"}).name == "alike"


def test_limits_on_size_and_tail_narrow_the_choice_and_the_front() -> None:
    rows = comparison(
        ORIGINAL, row("fast", 0.975, 0.5, 0.9), row("small", 0.975, 1.0, 0.2), row("tiny", 0.97, 1.5, 0.1)
    )

    assert choose(rows, {"max_size_mb": 0.5}).name == "small"
    assert choose(rows, {"max_size_mb": 0.5}).rejected == {"fast": "takes 0.90 MB, over the limit of 0.5"}
    assert pareto_front(rows, {"max_size_mb": 0.5}) == ("small",)
    assert choose(rows, {"max_p99_ms": 0.7}).name == "fast"
    missed = choose(rows, {"max_p99_ms": 0.1})
    assert missed.name == "original"
    assert missed.reason.startswith("no candidate keeps every limit, nor does it: it takes 2 ms at the 99th percentile")
    assert set(find_outside(rows, {"max_p99_ms": 0.1})) == {"original", "fast", "small", "tiny"}


def test_a_tail_that_is_not_known_keeps_no_limit() -> None:
    unknown = dataclasses.replace(row("fast", 0.98, 0.5), latency=latency_of(0.5, p99=None))
    choice = choose(comparison(ORIGINAL, unknown), {"max_p99_ms": 5})

    assert choice.rejected == {"fast": "has too few timings to know its 99th percentile"}


def test_an_unknown_wish_is_refused_by_name() -> None:
    with pytest.raises(OptionsError, match=r"choose has no option 'budget'"):
        choose(comparison(ORIGINAL), {"budget": 1})
    with pytest.raises(OptionsError, match=r"prefer = 'speed'.*latency, size"):
        choose(comparison(ORIGINAL), {"prefer": "speed"})


def test_without_labels_agreement_stands_in_for_accuracy() -> None:
    plain = dataclasses.replace(ORIGINAL, accuracy=None)
    other = dataclasses.replace(row("int8", 0.5, 1.0), accuracy=None, agreement=Agreement(0.97, (1, 2, 3)))
    rows = comparison(plain, other)

    assert rows.accuracy_drop(other) == pytest.approx(3)
    assert choose(rows).name == "original"


def test_a_row_is_found_by_its_name() -> None:
    assert comparison(ORIGINAL)["original"] is ORIGINAL
    with pytest.raises(KeyError):
        comparison(ORIGINAL)["int8"]


# --- measured ------------------------------------------------------------------------------------------------------


def test_a_measured_comparison_is_paired_and_kept(
    digits: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace, tmp_path: Path
) -> None:
    copied = load_model(shutil.copyfile(digits.path, tmp_path / "first.onnx"))
    small = transform(copied, "quantize_static", dataset=calibration, workspace=shared_workspace)
    workspace = Workspace(tmp_path / "workspace")
    latency, one_thread = {"seconds": 0.3}, {"threads": 1}

    def run(original: Model, **options: object) -> Comparison:
        candidates = [
            Candidate(name, build_engine(model, options=one_thread))
            for name, model in (("original", original), ("int8", small))
        ]
        return compare(candidates, evaluation, latency, workspace=workspace, **options)  # type: ignore[arg-type]

    first = run(copied)
    original, int8 = first.rows
    assert (original.agreement, original.output_error) == (None, None)
    assert original.speedup == Estimate(1, 1, 1)
    assert int8.agreement is not None
    assert int8.agreement.share > 0.97
    assert int8.output_error is not None
    assert int8.output_error.sqnr_db is not None
    assert int8.output_error.sqnr_db > 20
    assert len(int8.latency.blocks) == len(original.latency.blocks)
    assert first.accuracy_drop(int8) < 1

    assert run(copied) == first
    assert run(copied, fresh=True).rows[0].latency != original.latency

    # The original has moved: what was measured still holds, but the place must be the new one.
    moved = load_model(shutil.move(copied.path, tmp_path / "second.onnx"))
    assert run(moved).original.candidate.engine.path == moved.path


def test_a_candidate_that_fails_is_named_and_the_others_are_measured(
    faulty: Faulty, tiny: Model, tiny_data: Dataset, workspace: Workspace
) -> None:
    candidates = [
        Candidate("original", build_engine(tiny, options={"threads": 1})),
        Candidate("late crash", faulty("crashes")),
        Candidate("again", build_engine(tiny, options={"threads": 1})),
    ]
    found = compare(candidates, tiny_data.take(5), {"seconds": 0.3, "launches": 1}, workspace=workspace)

    assert [row.name for row in found.rows] == ["original", "again"]
    assert "SIGABRT" in found.failures["late crash"]
    assert "✗ late crash could not be measured: tiny on faulty" in comparison_text(found)
    assert not list((workspace.root / "comparisons").glob("*"))  # another try may succeed
    with pytest.raises(WorkerError, match="SIGABRT"):
        compare(candidates[1:], tiny_data.take(5), {"seconds": 0.3}, workspace=workspace)


def test_names_must_differ(tiny: Model, tiny_data: Dataset) -> None:
    twin = Candidate("same", build_engine(tiny))
    with pytest.raises(OptionsError, match=r"different names, but got: same, same"):
        compare([twin, twin], tiny_data)
    with pytest.raises(OptionsError, match="none"):
        compare([], tiny_data)


def test_a_cancel_keeps_no_half_result(tiny: Model, tiny_data: Dataset, workspace: Workspace) -> None:
    def cancel(fraction: float, message: str) -> None:
        if "latency" in message:
            raise Cancelled

    with pytest.raises(Cancelled):
        compare([Candidate("original", build_engine(tiny))], tiny_data, workspace=workspace, progress=cancel)
    assert not (workspace.root / "comparisons").exists()
    assert list((workspace.root / "tmp").iterdir()) == []
