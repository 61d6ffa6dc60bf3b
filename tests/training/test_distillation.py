"""Distillation and fine-tuning: what a run gives, that it goes on where it stood, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import ModelFile
from workbench.backends import build_engine, predict
from workbench.dataset import Dataset
from workbench.errors import DatasetError, MissingDependencyError, OptionsError, TransformError, WorkbenchError
from workbench.importers import load_dataset, load_model
from workbench.model import Model
from workbench.training import Epoch, Trained, TrainingOptions, best_so_far, distil
from workbench.training._students import FactorySource, GraphSource
from workbench.workspace import Workspace

pytest.importorskip("torch")

NETS = Path(__file__).with_name("nets.py")
SMALL = f"{NETS}:small"
OPTIONS: dict[str, Any] = {"epochs": 3, "batch": 32, "learning_rate": 5e-3, "threads": 1}


class Stop(Exception):
    """What a user's cancel raises."""


@pytest.fixture(scope="module")
def samples() -> Dataset:
    return load_dataset("sample:digits", "training").take(300)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small network with random weights, as an ONNX file."""
    random = np.random.default_rng(0)
    arrays = {
        "w": random.standard_normal((16, 1, 5, 5)) * 0.2,
        **{"scale": np.ones(16), "shift": np.zeros(16), "mean": np.zeros(16), "variance": np.ones(16)},
        **{"v": random.standard_normal((16 * 36, 10)) * 0.04, "b": np.zeros(10)},
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv", strides=[3, 3], pads=[2, 2, 2, 2]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "v", "b"], ["logits"], "head"),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])]
        for name, shape in (("image", (1, 32, 32)), ("logits", (10,)))
    ]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    path = tmp_path_factory.mktemp("untrained") / "small.onnx"
    graph = helper.make_graph(nodes, "small", *ends, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_model(path)


@pytest.fixture(scope="module")
def told() -> list[Epoch]:
    return []


@pytest.fixture(scope="module")
def trained(
    digits: Model, untrained: Model, samples: Dataset, shared_workspace: Workspace, told: list[Epoch]
) -> Trained:
    return distil(digits, untrained, samples, OPTIONS, workspace=shared_workspace, watch=told.append)


def weights(model: Model) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model.path).graph.initializer}


def test_a_student_learns_from_the_teacher(trained: Trained, digits: Model, evaluation: Dataset) -> None:
    [answers] = predict(build_engine(trained.model), evaluation).values()
    top1 = float((answers.argmax(1) == evaluation.labels).mean())

    assert trained.parameters < trained.teacher_parameters / 20
    assert top1 > 0.6  # after three epochs; guessing gives 0.1
    assert trained.epochs[-1].teacher_loss < trained.epochs[0].teacher_loss
    assert trained.teacher_score > 0.95


def test_a_student_takes_and_gives_what_the_teacher_does(trained: Trained, digits: Model) -> None:
    assert trained.model.inputs == digits.inputs
    assert trained.model.outputs == digits.outputs
    assert trained.model.history[-1].options["teacher"] == digits.name
    assert trained.model.history[-1].options["temperature"] == 4.0


def test_every_epoch_is_told(trained: Trained, told: list[Epoch]) -> None:
    assert tuple(told) == trained.epochs
    assert [epoch.number for epoch in told] == [1, 2, 3]
    assert trained.ended == "finished"
    best = max(epoch.score for epoch in told)
    assert trained.best == max(epoch.number for epoch in told if epoch.score == best)


def test_a_finished_run_is_found_and_nothing_is_trained_again(
    trained: Trained, digits: Model, untrained: Model, samples: Dataset, shared_workspace: Workspace
) -> None:
    seen: list[Epoch] = []
    texts: list[str] = []
    before = trained.model.path.stat().st_mtime_ns
    again = distil(
        digits,
        untrained,
        samples,
        OPTIONS,
        workspace=shared_workspace,
        watch=seen.append,
        progress=lambda _, text: texts.append(text),
    )

    assert texts == []  # a training says first that it starts PyTorch
    assert again.model.path.stat().st_mtime_ns == before
    assert again == trained
    assert tuple(seen) == trained.epochs


@pytest.mark.heavy
def test_a_cancelled_run_keeps_its_best_and_goes_on_to_the_same_weights(
    trained: Trained, digits: Model, untrained: Model, samples: Dataset, workspace: Workspace
) -> None:
    def cancel(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Stop

    assert best_so_far(digits, untrained, samples, OPTIONS, workspace=workspace) is None
    with pytest.raises(Stop):
        distil(digits, untrained, samples, OPTIONS, workspace=workspace, watch=cancel)
    kept = best_so_far(digits, untrained, samples, OPTIONS, workspace=workspace)
    resumed = distil(digits, untrained, samples, OPTIONS, workspace=workspace)

    assert kept is not None
    assert kept.ended == "cancelled"
    assert [dataclasses.replace(e, seconds=0) for e in kept.epochs] == [
        dataclasses.replace(e, seconds=0) for e in trained.epochs[:2]
    ]
    whole, parts = weights(trained.model), weights(resumed.model)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    assert resumed.epochs[:2] == kept.epochs
    assert not list((workspace.root / "training").glob("*/*"))  # no checkpoint stays behind a finished run


def test_a_student_that_is_fine_tuned_keeps_its_graph(trained: Trained, untrained: Model) -> None:
    before, after = onnx.load(untrained.path), onnx.load(trained.model.path)

    assert [node.name for node in before.graph.node] == [node.name for node in after.graph.node]
    assert set(weights(untrained)) == set(weights(trained.model))
    assert not np.array_equal(weights(untrained)["mean"], weights(trained.model)["mean"])  # BatchNormalization learned


@pytest.mark.heavy
def test_a_torch_module_learns_without_labels(digits: Model, samples: Dataset, workspace: Workspace) -> None:
    """With augmentation, features matched through a projection, and an early stop."""
    unlabelled = dataclasses.replace(samples.take(128), labels=None)
    texts: list[str] = []
    options = {
        "epochs": 9,
        "batch": 32,
        "learning_rate": 0.0,  # nothing gets better, so that it stops
        "augment": f"{NETS}:shift",
        "feature_weight": 0.5,
        "features": ["widen/relu/out=2"],
        "patience": 1,
        "threads": 1,
    }
    student = f"{NETS}:wide"
    trained = distil(
        digits, student, unlabelled, options, workspace=workspace, progress=lambda _, text: texts.append(text)
    )

    assert trained.ended == "early"
    assert len(trained.epochs) < 9
    assert trained.teacher_score == 1
    assert trained.epochs[0].label_loss is None
    assert (trained.epochs[0].feature_loss or 0) > 0.1
    assert trained.model.outputs == digits.outputs
    assert any(text.startswith("epoch 1/9: ") for text in texts)


def attempt(teacher: Model, student: Any, data: Dataset, folder: Path, **options: Any) -> Any:
    """Opens a training in this process, as the worker does."""
    import torch

    from workbench.training._loop import Job, _Training

    threads = torch.get_num_threads()
    try:
        checked = TrainingOptions(**{**OPTIONS, **options})
        run = _Training(Job(teacher, student, data, checked, folder), lambda share, text: None)
        return run.next_epoch()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


def test_a_regression_is_distilled_by_its_numbers(model_file: ModelFile, tmp_path: Path) -> None:
    teacher = load_model(model_file(tmp_path / "teacher.onnx"))
    x = np.random.default_rng(0).random((64, 4), np.float32)
    epoch = attempt(
        teacher,
        GraphSource(teacher),
        Dataset({"x": x}, x[:, :3] * 2),
        tmp_path,
        batch=8,
        learning_rate=1e-4,
        validation_share=0.0,
    )

    assert epoch.score > 0.99
    assert epoch.label_loss < 1e-3


@pytest.mark.parametrize(
    ("student", "options", "kind", "message"),
    [
        ("five_classes", {}, TransformError, "gives 4×5 where the teacher gives 4×10"),
        ("other_input", {}, TransformError, r"does not run on image \[4, 1, 32, 32\]"),
        ("softmax", {}, TransformError, "teacher gives scores before softmax and the student probabilities"),
        ("smal", {}, OptionsError, "no function 'smal'. .*Did you mean 'small'"),
        ("no_module", {}, OptionsError, "gives a int, not a torch"),
        ("linear", {"augment": f"{NETS}:spoil"}, TransformError, r"NaN or infinite in epoch 1.* lower"),
        ("linear", {"augment": f"{NETS}:cut"}, OptionsError, "cut does not return what it was given"),
        ("linear", {"feature_weight": 1.0}, OptionsError, "does not say which tensors to match"),
        ("linear", {"feature_weight": 1.0, "features": ("nothing=0",)}, TransformError, "has no tensor 'nothing'"),
        ("linear", {"feature_weight": 1.0, "features": ("flatten/out=8",)}, TransformError, "no submodule '8'"),
        ("linear", {"feature_weight": 1.0, "features": ("stem/relu/out=0",)}, TransformError, "more than their chan"),
    ],
)
def test_a_student_or_option_that_does_not_fit_is_refused(
    student: str,
    options: dict[str, Any],
    kind: type[WorkbenchError],
    message: str,
    digits: Model,
    samples: Dataset,
    tmp_path: Path,
) -> None:
    with pytest.raises(kind, match=message):
        attempt(digits, FactorySource(f"{NETS}:{student}"), samples.take(96), tmp_path, **options)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda data: data.take(40), DatasetError, r"34 samples to learn from .* fewer than two batches of 32"),
        (lambda data: Dataset(data.inputs, data.labels + 5), DatasetError, "run from 5 to 14"),
        (lambda data: Dataset(data.inputs, data.labels / 2), DatasetError, r"have shape 300, the teacher's .*300×10"),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    change: Callable[[Dataset], Dataset],
    kind: type[WorkbenchError],
    message: str,
    trained: Trained,
    samples: Dataset,
    tmp_path: Path,
) -> None:
    with pytest.raises(kind, match=message):
        attempt(trained.model, GraphSource(trained.model), change(samples), tmp_path)


def test_samples_with_other_names_are_refused(digits: Model, untrained: Model, samples: Dataset) -> None:
    with pytest.raises(DatasetError, match="'picture' where digits_cnn takes 'image'"):
        distil(digits, untrained, Dataset({"picture": samples.inputs["image"]}), OPTIONS)


def test_a_share_of_all_channels_is_no_student(digits: Model, samples: Dataset, workspace: Workspace) -> None:
    with pytest.raises(OptionsError, match="no smaller model"):
        distil(digits, 1.0, samples, OPTIONS, workspace=workspace)


def test_a_lack_of_pytorch_is_said(
    digits: Model, samples: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    with pytest.raises(MissingDependencyError, match=r"deployment-workbench\[torch\]"):
        distil(digits, SMALL, samples, OPTIONS, workspace=workspace)
