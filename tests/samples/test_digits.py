"""The bundled sample: its data splits, the network that ships with it, and the script that trained it."""

import hashlib
import itertools
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from workbench.errors import DatasetError
from workbench.samples import train_digits
from workbench.samples.digits import CLASSES, MODEL_PATH, Split, load_split


def top1(path: Path) -> float:
    images, labels = load_split("evaluation")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    return float((logits.argmax(axis=1) == labels).mean())


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(MODEL_PATH)


@pytest.mark.parametrize(("name", "count"), [("training", 972), ("calibration", 128), ("evaluation", 697)])
def test_a_split_has_its_size_and_every_class_in_proportion(name: Split, count: int) -> None:
    images, labels = load_split(name)

    assert images.shape == (count, 1, 32, 32)
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(labels) == pytest.approx(count / len(CLASSES), rel=0.1)


def test_no_image_is_in_two_splits() -> None:
    contents = [{image.tobytes() for image in load_split(name)[0]} for name in get_args(Split)]

    assert all(first.isdisjoint(second) for first, second in itertools.combinations(contents, 2))
    assert sum(map(len, contents)) == 1797


def test_an_unknown_split_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DatasetError, match="training"):
        load_split("validation")  # type: ignore[arg-type]


def test_the_network_has_the_stages_that_transforms_need(model: onnx.ModelProto) -> None:
    groups = [a.i for node in model.graph.node if node.op_type == "Conv" for a in node.attribute if a.name == "group"]

    assert {"Conv", "BatchNormalization", "Add", "Relu", "GlobalAveragePool", "Gemm"} <= {
        node.op_type for node in model.graph.node
    }
    assert max(groups) > 1
    assert MODEL_PATH.stat().st_size < 1_000_000
    assert "residual/first/conv" in {node.name for node in model.graph.node}


def test_the_network_takes_any_batch() -> None:
    session = onnxruntime.InferenceSession(MODEL_PATH, providers=["CPUExecutionProvider"])
    images, _ = load_split("calibration")

    assert [(value.name, value.shape) for value in session.get_inputs()] == [("image", ["batch", 1, 32, 32])]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("logits", ["batch", 10])]
    together = session.run(None, {"image": images[:3]})[0]
    alone = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images[:3]])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_the_network_says_what_it_was_trained_on_and_scores_what_it_says(model: onnx.ModelProto) -> None:
    facts = {entry.key: entry.value for entry in model.metadata_props}

    assert facts["training_sha256"] == hashlib.sha256(load_split("training")[0].tobytes()).hexdigest()
    assert top1(MODEL_PATH) == pytest.approx(float(facts["evaluation_top1"]), abs=0.002)
    assert top1(MODEL_PATH) >= 0.98


def test_int8_costs_less_than_a_point(tmp_path: Path) -> None:
    class Calibration(CalibrationDataReader):
        batches = iter(np.split(load_split("calibration")[0], 8))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({"image": batch} for batch in self.batches), None)

    prepared, quantized = tmp_path / "prepared.onnx", tmp_path / "int8.onnx"
    quant_pre_process(MODEL_PATH, prepared)
    quantize_static(
        prepared,
        quantized,
        Calibration(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )

    assert top1(quantized) >= top1(MODEL_PATH) - 0.01
    assert quantized.stat().st_size < MODEL_PATH.stat().st_size / 3


def test_training_without_torch_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    assert train_digits.main([]) == 1
    message = capsys.readouterr().err
    assert message.startswith("Training the sample model needs torch,")
    assert "pip install 'deployment-workbench[torch]'" in message
