"""What every transform must keep, those of other packages too."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from workbench.backends import build_engine, open_runner
from workbench.dataset import Dataset
from workbench.errors import Cancelled, OptionsError
from workbench.importers import load_model
from workbench.model import Model
from workbench.options import make_options, option_fields, to_builtins
from workbench.plugins import find_plugin, list_plugins
from workbench.samples.digits import MODEL_PATH
from workbench.transforms import transform
from workbench.workspace import ROOT_VARIABLE, Workspace

# Where the defaults refuse the digits, which are nearly all convolutions, or change the answers.
OPTIONS: dict[str, dict[str, Any]] = {"quantize_dynamic": {"convolutions": True}, "sparsify": {"share": 10}}
# Where the result runs, if not on ONNX Runtime as it is.
BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bfloat16": ("openvino", {}),
    "quantize_fp8": ("onnxruntime", {"graph_level": "basic"}),
}
NAMES = [plugin.name for plugin in list_plugins("transforms") if plugin.available]


@pytest.fixture(scope="session", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def transformed(name: str, digits: Model, calibration: Dataset, shared_workspace: Workspace) -> Model:
    return transform(digits, name, OPTIONS.get(name), dataset=calibration, workspace=shared_workspace)


def test_the_file_explains_itself(name: str) -> None:
    plugin = find_plugin("transforms", name)

    assert plugin.__doc__
    assert plugin.__doc__.splitlines()[0].endswith(".")
    assert isinstance(plugin.REQUIRES, dict)
    assert isinstance(plugin.NEEDS_DATASET, bool)
    assert plugin.Options.__dataclass_params__.frozen
    assert plugin.Options.__doc__
    assert plugin.Options() == plugin.Options()
    assert [field.name for field in option_fields(plugin.Options) if not field.help] == []
    assert all(field.default is not dataclasses.MISSING for field in option_fields(plugin.Options))


def test_the_model_takes_and_gives_the_same(transformed: Model, digits: Model) -> None:
    assert (transformed.inputs, transformed.outputs) == (digits.inputs, digits.outputs)
    assert transformed.inputs[0].dynamic_batch


def test_the_file_says_what_was_done(name: str, transformed: Model, digits: Model) -> None:
    [text] = [
        entry.value for entry in onnx.load(transformed.path).metadata_props if entry.key == "workbench.transforms"
    ]
    [step] = json.loads(text)

    assert (step["transform"], step["model"]) == (name, digits.sha256)
    assert step["options"] == to_builtins(
        make_options(find_plugin("transforms", name).Options, OPTIONS.get(name), name)
    )
    assert ("dataset" in step) == find_plugin("transforms", name).NEEDS_DATASET


@pytest.mark.parametrize("batch", [1, 4])
def test_the_result_runs_on_any_batch_and_answers_alike(
    name: str, transformed: Model, digits: Model, evaluation: Dataset, batch: int
) -> None:
    answers = []
    for engine in (build_engine(digits), build_engine(transformed, *BACKENDS.get(name, ()))):
        with open_runner(engine) as runner:
            answers.append(runner.infer(evaluation.take(batch).inputs)["logits"])

    assert answers[1].shape == (batch, 10)
    assert answers[1].dtype == np.float32
    np.testing.assert_array_equal(answers[1].argmax(axis=1), answers[0].argmax(axis=1))


def test_the_original_stays_as_it_was(transformed: Model, digits: Model) -> None:
    assert transformed.path != digits.path
    assert load_model(MODEL_PATH).sha256 == hash_of(MODEL_PATH) == digits.sha256


def hash_of(path: Path) -> str:
    return hashlib.sha256(hashlib.sha256(path.read_bytes()).digest()).hexdigest()


def test_the_history_holds_every_option(name: str, transformed: Model) -> None:
    [step] = transformed.history

    assert step.transform == name
    assert set(step.options) == {field.name for field in option_fields(find_plugin("transforms", name).Options)}


def test_a_rerun_finds_the_result(
    name: str, transformed: Model, digits: Model, calibration: Dataset, shared_workspace: Workspace
) -> None:
    heard: list[str] = []
    again = transform(
        digits,
        name,
        OPTIONS.get(name),
        dataset=calibration,
        workspace=Workspace(shared_workspace.root),
        progress=lambda _, message: heard.append(message),
    )
    assert again == transformed
    assert heard == []


def test_an_unknown_option_is_refused_by_name(
    name: str, digits: Model, calibration: Dataset, workspace: Workspace
) -> None:
    with pytest.raises(OptionsError, match=f"{name} has no option 'no_such_option'"):
        transform(digits, name, {"no_such_option": 1}, dataset=calibration, workspace=workspace)


def test_a_cancel_leaves_neither_file_nor_process(
    name: str,
    digits: Model,
    calibration: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes_in: Callable[[Path], list[str]],
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "here"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "system"))
    (tmp_path / "system").mkdir()
    ran: list[list[str]] = []

    def cancel(fraction: float, message: str) -> None:
        if fraction > 0:  # the transform itself reports: it is in the middle of its work
            ran.append(processes_in(tmp_path / "here"))
            raise Cancelled

    with pytest.raises(Cancelled):
        transform(digits, name, OPTIONS.get(name), dataset=calibration, progress=cancel)

    assert len(ran[0]) == 1
    assert processes_in(tmp_path / "here") == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
