"""ONNX's own test models: each loads, shows its graph and runs, or is refused in words; no process dies of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

# ONNX Runtime 1.31 computes these otherwise than ONNX's reference does.
DIFFERENT_IN_ONNX_RUNTIME = (
    "test_attention_4d_",  # masks of minus infinity as the lowest number; half precision
    "test_dft",  # float32 where the reference takes float64
    "test_stft",
    "test_training_dropout",  # random
    "test_maxunpool_export_with_output_shape",
    "test_resize_downsample_scales_",
)


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("sweep")


def check(sweep: Any, every: int, at_least_equal: float) -> None:
    outcomes = sweep.sweep(sweep.all_cases(every))
    shown = sweep.table(outcomes)
    print(shown)

    assert not [outcome for outcome in outcomes if outcome.verdict in ("failed", "died")], shown
    for outcome in outcomes:
        if outcome.verdict == "different":
            assert outcome.name.removeprefix("node/").startswith(DIFFERENT_IN_ONNX_RUNTIME), outcome
    equal = sum(outcome.verdict == "equal" for outcome in outcomes)
    assert equal / len(outcomes) > at_least_equal, shown


def test_a_sample_of_the_models(sweep: Any) -> None:
    check(sweep, every=100, at_least_equal=0.3)


@pytest.mark.models
@pytest.mark.timeout(600)
def test_every_model(sweep: Any) -> None:
    check(sweep, every=1, at_least_equal=0.7)
