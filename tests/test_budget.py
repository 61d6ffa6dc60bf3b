"""As much INT8 as an accuracy budget allows, on digits with a channel that INT8 cannot take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from onnx import helper

from tests.sensitivity.spoiled import SPOILED, chain, spoil
from workbench import _compress_commands
from workbench._budget_search import give_back, shortest
from workbench.backends import build_engine
from workbench.budget import BudgetResult, quantize_within_budget
from workbench.dataset import Dataset
from workbench.importers import load_model
from workbench.measure.accuracy import measure_accuracy
from workbench.model import Model
from workbench.sensitivity_report import budget_text
from workbench.workspace import Workspace

PER_TENSOR = {"per_channel": False}
THREADS = {"threads": 1}
QUICK: dict[str, Any] = {"sensitivity": {"samples": 16}, "backend_options": THREADS}


@pytest.fixture(scope="module")
def spoiled(digits: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return spoil(digits, tmp_path_factory.mktemp("spoiled") / "spoiled.onnx")


@pytest.fixture(scope="module")
def found(spoiled: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace) -> BudgetResult:
    limits = {"seconds": 0.1}
    return quantize_within_budget(
        spoiled, calibration, evaluation.take(200), PER_TENSOR, limits, workspace=shared_workspace, **QUICK
    )


def test_what_hurts_stays_in_float_and_nothing_else(
    found: BudgetResult, spoiled: Model, evaluation: Dataset, shared_workspace: Workspace
) -> None:
    assert found.holds
    assert [layer.name for layer in found.kept] == [SPOILED[0]]
    assert found.trials[0].kept == ()
    assert found.trials[0].drop > 30
    original, made = (
        measure_accuracy(build_engine(model, options=THREADS), evaluation.take(200), workspace=shared_workspace).value
        for model in (spoiled, found.model)
    )
    assert found.drop == pytest.approx(100 * (original.value - made.value))


def test_each_layer_kept_has_its_price(found: BudgetResult) -> None:
    for layer in found.kept:
        assert layer.sqnr_db < 5
        assert layer.float_ms is not None
        assert layer.int8_ms is not None
        assert layer.cost_ms == layer.float_ms - layer.int8_ms
    text = budget_text(found)
    assert "with 1 layer in float: the budget of 0.5 holds" in text
    assert "0.5 points are 1 of 200 samples" in text
    assert SPOILED[0] in text


def test_a_budget_that_holds_at_once_keeps_nothing(
    digits: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace
) -> None:
    unlabelled = Dataset(evaluation.inputs).take(200)
    result = quantize_within_budget(
        digits, calibration, unlabelled, options={"max_drop": 2}, workspace=shared_workspace
    )

    assert (result.holds, result.kept, result.sensitivity, len(result.trials)) == (True, (), None, 1)
    assert result.metric == "agreement"
    assert "nothing needs to stay in float" in budget_text(result)


def test_used_up_trials_are_told(
    spoiled: Model, calibration: Dataset, evaluation: Dataset, found: BudgetResult, shared_workspace: Workspace
) -> None:
    limits = {"max_trials": 1, "seconds": 0.1}
    result = quantize_within_budget(
        spoiled, calibration, evaluation.take(200), PER_TENSOR, limits, workspace=shared_workspace, **QUICK
    )

    assert (result.holds, result.complete, len(result.trials)) == (False, False, 1)
    assert result.drop == min(trial.drop for trial in result.trials)
    assert "The one trial was used up: raise max_trials" in budget_text(result)


def test_a_budget_that_cannot_be_kept_gives_the_nearest(tmp_path: Path, workspace: Workspace) -> None:
    weights = np.eye(4, dtype=np.float32)
    weights[:, 3] *= 1e5  # beside which the others are rounded to zero
    model = chain(tmp_path / "one.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], "only")], {"w": weights}, 4)
    classes = np.arange(24) % 3
    samples = Dataset({"x": np.eye(4, dtype=np.float32)[classes]}, classes, "corners")
    result = quantize_within_budget(
        model, samples, samples, PER_TENSOR, {"seconds": 0.1}, workspace=workspace, backend_options=THREADS
    )

    assert (result.holds, result.complete, result.kept) == (False, True, ())
    assert result.drop > 30
    assert "The budget cannot be kept" in budget_text(result)
    assert "not one may be lost" in budget_text(result)


@pytest.mark.parametrize("needed", [{"a"}, {"c"}, {"b", "d"}, {"a", "g"}, {"a", "b", "c", "d", "e", "f", "g"}])
def test_the_search_ends_with_what_is_needed_after_few_trials(needed: set[str]) -> None:
    tried: list[tuple[str, ...]] = []

    def holds(kept: tuple[str, ...]) -> bool:
        tried.append(kept)
        return needed <= set(kept)

    kept = shortest("abcdefg", holds)
    assert kept == tuple("abcdefg"[: "abcdefg".index(max(needed)) + 1])
    assert len(tried) <= 6
    assert set(give_back(kept, dict.fromkeys("abcdefg", 1.0), holds)) == needed


def test_the_search_says_when_nothing_helps() -> None:
    assert shortest("abc", lambda kept: False) == ()
    assert shortest("", lambda kept: True) == ()


def test_the_command_writes_the_model_that_keeps_the_budget(
    spoiled: Model,
    calibration: Dataset,
    evaluation: Dataset,
    found: BudgetResult,
    shared_workspace: Workspace,
    npz: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    part = evaluation.take(200)
    ranges, scores = (
        npz("ranges.npz", **calibration.inputs, labels=calibration.labels),
        npz("s.npz", **part.inputs, labels=part.labels),
    )

    def run(*words: str) -> str:
        commands = {"budget": _compress_commands.budget, "sensitivity": _compress_commands.sensitivity}
        data = ("--data", str(scores), "--calibration", str(ranges), "--workspace", str(shared_workspace.root))
        tyro.extras.subcommand_cli_from_dict(
            commands, args=[words[0], str(spoiled.path), *words[1:], *data, "--quantization.no-per-channel"]
        )
        return capsys.readouterr().out

    output = tmp_path / "int8.onnx"
    limits = ("--seconds", "0.1", "--sensitivity.samples", "16", "--set", "threads=1")
    said = run("budget", "--output", str(output), *limits)
    assert "1 layer in float" in said
    assert str(output) in said
    assert load_model(output).size_bytes < spoiled.size_bytes
    assert SPOILED[0] in run("sensitivity", "--samples", "16")
    with pytest.raises(SystemExit):
        run("budget", "--output", str(tmp_path / "none.onnx"), "--max-trials", "1", *limits)
    assert not (tmp_path / "none.onnx").exists()
