"""Whole channels gone, and the answers kept: on the bundled model, with samples that have no labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from workbench.backends import build_engine, predict
from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.graph import summarize_graph
from workbench.importers import load_dataset, load_model
from workbench.model import Model
from workbench.transforms import transform
from workbench.workspace import Workspace


@pytest.fixture(scope="module")
def unlabelled() -> Dataset:
    return Dataset(load_dataset("sample:digits", "calibration").take(32).inputs)


def top1(model: Model, evaluation: Dataset, workspace: Workspace) -> float:
    scores = predict(build_engine(model), evaluation, workspace=workspace)["logits"]
    return float((scores.argmax(axis=1) == evaluation.labels).mean())


def widths(model: Model) -> dict[str, int]:
    proto = onnx.load(str(model.path))
    sizes = {tensor.name: tensor.dims[0] for tensor in proto.graph.initializer}
    return {node.name: sizes[node.input[1]] for node in proto.graph.node if node.op_type == "Conv"}


def test_a_third_of_the_channels_gone_without_loss(
    digits: Model, unlabelled: Dataset, evaluation: Dataset, shared_workspace: Workspace
) -> None:
    pruned = transform(digits, "prune_channels", dataset=unlabelled, workspace=shared_workspace)

    assert top1(pruned, evaluation, shared_workspace) > top1(digits, evaluation, shared_workspace) - 0.01
    assert widths(pruned) == {
        "stem/conv": 16,
        "widen/conv": 16,
        "down/conv": 48,
        "residual/first/conv": 48,
        "residual/second/conv": 48,
        "separable/depthwise/conv": 48,
        "separable/pointwise/conv": 64,
        "top/conv": 96,
    }
    before, after = (summarize_graph(model) for model in (digits, pruned))
    assert after.parameters < 0.55 * before.parameters
    [step] = pruned.history
    assert "parameters are gone (48 %)" in step.notes[0]
    assert "stem/conv (the nearest multiple of 16" in step.notes[1]


def test_without_repair_the_answers_are_lost(
    digits: Model, unlabelled: Dataset, evaluation: Dataset, shared_workspace: Workspace
) -> None:
    raw = transform(digits, "prune_channels", {"recover": False}, dataset=unlabelled, workspace=shared_workspace)
    assert top1(raw, evaluation, shared_workspace) < 0.5


@pytest.mark.heavy
def test_a_folded_net_is_repaired_too(
    digits: Model, unlabelled: Dataset, evaluation: Dataset, shared_workspace: Workspace
) -> None:
    folded = transform(digits, "simplify", workspace=shared_workspace)
    pruned = transform(folded, "prune_channels", {"share": 50}, dataset=unlabelled, workspace=shared_workspace)

    assert "BatchNormalization" not in summarize_graph(folded).operators
    assert top1(pruned, evaluation, shared_workspace) > 0.97


def test_a_quantized_model_is_refused(
    digits: Model, calibration: Dataset, unlabelled: Dataset, shared_workspace: Workspace
) -> None:
    int8 = transform(digits, "quantize_static", dataset=calibration, workspace=shared_workspace)
    with pytest.raises(TransformError, match=r"quantized already.*Prune first, and quantize after"):
        transform(int8, "prune_channels", dataset=unlabelled, workspace=shared_workspace)


def test_a_share_that_takes_nothing_is_refused(digits: Model, unlabelled: Dataset, shared_workspace: Workspace) -> None:
    with pytest.raises(TransformError, match=r"No layer of digits_cnn can lose channels.*larger share than 2 %"):
        transform(digits, "prune_channels", {"share": 2}, dataset=unlabelled, workspace=shared_workspace)


def test_a_model_without_channels_to_take_is_refused_with_the_reason(
    tmp_path: Path, model_file: Callable[..., Path], tiny_data: Dataset, workspace: Workspace
) -> None:
    model = load_model(model_file(tmp_path / "net.onnx"))
    with pytest.raises(TransformError, match="product: they are the model's output 'scores'"):
        transform(model, "prune_channels", dataset=tiny_data, workspace=workspace)


def test_weights_in_other_files_and_a_fixed_batch_are_no_obstacle(tmp_path: Path, workspace: Workspace) -> None:
    from tests.pruning import nets

    proto = nets.residual()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    path = tmp_path / "net.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
    image = np.random.default_rng(0).standard_normal((6, 3, 8, 8), np.float32)
    options = {"share": 50, "align": 1, "importance": "magnitude"}
    pruned = transform(
        load_model(path), "prune_channels", options, dataset=Dataset({"image": image}), workspace=workspace
    )

    assert widths(pruned) == {"conv0": 8, "conv2": 6, "conv4": 8, "conv8": 8, "conv10": 4}
    [before], [after] = (nets.run(onnx.load(str(model)), image[:2]) for model in (path, pruned.path))
    np.testing.assert_allclose(after, before, atol=1e-3)
