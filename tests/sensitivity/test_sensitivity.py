"""What quantizing each layer costs, measured on the digits and on models made to be awkward."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.sensitivity.spoiled import SPOILED, chain, quantized, spoil
from workbench.dataset import Dataset
from workbench.errors import Cancelled, ModelError, TransformError
from workbench.jobs import silent
from workbench.measure.accuracy import AccuracyOptions
from workbench.model import Model
from workbench.sensitivity import Sensitivity, measure_sensitivity
from workbench.sensitivity._quantized import read_quantized
from workbench.sensitivity._simulation import Simulation
from workbench.sensitivity._trial import Trial, _Bench, decibel
from workbench.sensitivity_report import sensitivity_text
from workbench.transforms._onnxruntime import read_prepared
from workbench.workspace import Workspace

PER_TENSOR = {"per_channel": False}


@pytest.fixture(scope="module")
def spoiled(digits: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return spoil(digits, tmp_path_factory.mktemp("spoiled") / "spoiled.onnx")


@pytest.fixture(scope="module")
def found(spoiled: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace) -> Sensitivity:
    options = {"samples": 32}
    return measure_sensitivity(spoiled, calibration, evaluation, PER_TENSOR, options, workspace=shared_workspace)


def test_the_layers_that_int8_hurts_stand_out_in_noise_and_in_points(found: Sensitivity) -> None:
    worst, second, third = found.worst_first[:3]

    assert (worst.name, second.name) == SPOILED
    assert worst.only_sqnr_db < 5 < 20 < third.only_sqnr_db
    assert worst.all_but_sqnr_db > found.quantized_sqnr_db + 5
    assert worst.only_drop is not None
    assert worst.only_drop > 30
    assert third.only_drop == 0
    assert all(layer.local_sqnr_db > 20 for layer in found.layers if layer.name not in SPOILED)
    assert (found.metric, found.samples, found.original) == ("top-1", 32, 1.0)
    assert found.quantized is not None
    assert found.quantized < 0.7
    assert found.quantization["per_channel"] is False


def test_layers_are_named_in_the_graphs_order_and_followers_are_none(found: Sensitivity) -> None:
    names = [layer.name for layer in found.layers]

    assert names[:3] == ["stem/conv", "widen/conv", "down/conv"]
    assert names[-2:] == ["pool", "head"]
    assert not {"flatten", "stem/relu"} & set(names)


def test_the_text_says_on_what_it_rests(found: Sensitivity) -> None:
    text = sensitivity_text(found)

    assert "on 32 samples" in text
    assert "one sample is 3.1 points" in text
    assert "points lost" in text
    assert text.index("stem/conv") < text.index("widen/conv") < text.index("head")


def test_a_cancelled_run_goes_on_where_it_stood(
    spoiled: Model, calibration: Dataset, evaluation: Dataset, workspace: Workspace
) -> None:
    tried: list[str] = []

    def cancel(share: float, text: str) -> None:
        if text.startswith("layer 9 of 11"):
            raise Cancelled

    def see(share: float, text: str) -> None:
        tried.extend(re.findall(r"^layer (\d+) of 11", text))

    data, space = (spoiled, calibration, evaluation.take(8), PER_TENSOR), workspace
    with pytest.raises(Cancelled):
        measure_sensitivity(*data, workspace=space, progress=cancel)
    assert not [path for path in (space.root / "tmp").iterdir() if path.is_dir()]
    again = measure_sensitivity(*data, workspace=space, progress=see)

    assert set(tried) <= {"9", "10", "11"}
    assert len(again.layers) == 11
    assert again.samples == 8


def test_a_finished_run_starts_no_process(
    spoiled: Model, calibration: Dataset, evaluation: Dataset, found: Sensitivity, shared_workspace: Workspace
) -> None:
    said: list[str] = []
    again = measure_sensitivity(
        spoiled,
        calibration,
        evaluation,
        PER_TENSOR,
        {"samples": 32},
        workspace=shared_workspace,
        progress=lambda share, text: said.append(text),
    )

    assert again == found
    assert said == []


@pytest.fixture
def points() -> Dataset:
    return Dataset({"x": np.random.default_rng(0).random((7, 4), np.float32) + 0.1}, name="points")


def bench(model: Model, data: Dataset, samples: Dataset, folder: Path) -> _Bench:
    graph = read_quantized(read_prepared(model, folder), onnx.load(quantized(model, data, folder / "made.onnx").path))
    return _Bench(model, Simulation(graph, model.name), samples, AccuracyOptions())


def test_a_fixed_batch_is_filled_up_with_samples_that_do_not_count(tmp_path: Path, points: Dataset) -> None:
    weights = {"w": np.random.default_rng(1).standard_normal((4, 3))}
    free, fixed = (
        bench(
            chain(tmp_path / "chain.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], "only")], weights, 3, batch),
            points.take(5),
            points,
            tmp_path,
        ).baseline(silent)
        for batch in ("n", 5)
    )

    assert fixed.signal == pytest.approx(free.signal)
    assert fixed.noise == pytest.approx(free.noise)
    assert 25 < decibel(fixed.signal, fixed.noise) < 60


def test_a_layer_without_any_error_is_told_apart_from_one_without_any_signal(tmp_path: Path, points: Dataset) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "zeros"], ["nothing"], "zero"),
        helper.make_node("MatMul", ["nothing", "w"], ["y"], "only"),
    ]
    model = chain(tmp_path / "zeros.onnx", nodes, {"zeros": np.zeros((4, 4)), "w": np.eye(4)}, 4)
    found: dict[str, Trial] = {}
    tried = bench(model, points, points, tmp_path)
    tried.try_layers(["zero", "only"], found.__setitem__, silent)

    assert tried.baseline(silent).original is None
    assert [decibel(trial.local_signal, trial.local_noise) for trial in found.values()] == [math.inf, math.inf]
    assert decibel(0.0, 1.0) == -math.inf
    assert decibel(100.0, 1.0) == pytest.approx(20)


def test_nan_in_float_is_told_before_layers_are_tried(tmp_path: Path, points: Dataset) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("Log", ["h"], ["y"], "logarithm"),
    ]
    model = chain(tmp_path / "log.onnx", nodes, {"w": np.eye(4)}, 4)
    negative = Dataset({"x": -points.inputs["x"]}, name="negative points")

    with pytest.raises(ModelError, match=r"log gives 28 NaN or infinite values on negative points in float already"):
        bench(model, points, negative, tmp_path).baseline(silent)


def test_a_model_that_keeps_every_layer_in_float_has_none_to_try(
    tiny: Model, tiny_data: Dataset, workspace: Workspace
) -> None:
    with pytest.raises(TransformError):
        measure_sensitivity(tiny, tiny_data, tiny_data, {"keep_float": ("product",)}, workspace=workspace)
