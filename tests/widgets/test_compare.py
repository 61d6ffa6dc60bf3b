"""The Compare panel beyond the usual flow: several backends, additions from Explain, what fails, the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from widgets import Compare
from widgets._candidates import wanted_candidates
from workbench.dataset import Dataset
from workbench.errors import ModelError, OptionsError
from workbench.importers import load_model
from workbench.model import Model
from workbench.recipe import read_recipe
from workbench.transforms import transform

FAST = {"seconds": 0.2, "launches": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, model_file: Any) -> Model:
    return load_model(model_file(tmp_path_factory.mktemp("model") / "tiny.onnx"))


@pytest.fixture
def panel(tiny: Model, tiny_data: Dataset, tmp_path: Path) -> Iterator[Compare]:
    compare = Compare(model=tiny, evaluation=tiny_data, calibration=tiny_data, workspace=tmp_path)
    compare.latency.set(FAST)
    yield compare
    compare.close()


@pytest.fixture(scope="module")
def measured(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compare]:
    """The original and two additions, of which one cannot be made."""
    labels = np.arange(12) % 3
    data = Dataset({"x": np.eye(4, dtype=np.float32)[labels]}, labels, "corners")
    compare = Compare(model=tiny, evaluation=data, workspace=tmp_path_factory.mktemp("workspace"))
    compare.latency.set(FAST)
    compare.additions = (
        {"name": "strange", "transforms": [{"float16": {"strength": 11}}]},
        {"name": "half", "transforms": ["float16"]},
    )
    compare.start().wait()
    yield compare
    compare.close()


def names(panel: Compare) -> list[str]:
    assert panel.comparison is not None
    return [row.name for row in panel.comparison.rows]


def test_every_model_runs_on_every_ticked_backend(tiny: Model) -> None:
    found = wanted_candidates([("original", tiny), ("int8", tiny)], {"onnxruntime": {"threads": 1}, "openvino": {}})
    assert [(each.name, each.backend, dict(each.options)) for each in found] == [
        ("original", "onnxruntime", {"threads": 1}),
        ("original · openvino", "openvino", {}),
        ("int8", "onnxruntime", {"threads": 1}),
        ("int8 · openvino", "openvino", {}),
    ]


def test_an_addition_runs_as_the_first_backend_does_unless_it_says_otherwise(tiny: Model) -> None:
    additions = [{"name": "half", "transforms": ["float16"]}, {"name": "one", "options": {"threads": 1}}]
    found = wanted_candidates([("original", tiny)], {"onnxruntime": {"threads": 2}}, [*additions, additions[0]])
    assert [(each.name, dict(each.options)) for each in found[1:]] == [
        ("half", {"threads": 2}),
        ("one", {"threads": 1}),
    ]


def test_additions_are_made_and_measured_with_the_others(measured: Compare) -> None:
    assert names(measured) == ["original", "half"]


def test_what_cannot_be_made_is_said_and_the_others_go_on(measured: Compare) -> None:
    assert measured.state == "done"
    assert measured.comparison is not None
    assert "no option 'strength'" in measured.comparison.failures["strange"]
    assert "strange could not be measured" in measured.summary()


def test_the_shown_code_and_recipe_hold_variants_and_additions(panel: Compare, tiny_data: Dataset) -> None:
    assert panel.model is not None
    panel.variants = (("half", transform(panel.model, "float16", workspace=panel.open_workspace())),)
    panel.additions = ({"name": "dynamic", "transforms": ["quantize_dynamic"], "options": {"threads": 1}},)
    python, recipe = panel.code()
    given = {"model": panel.model, "variants": dict(panel.variants), "evaluation": tiny_data, "calibration": tiny_data}
    exec(python, given)
    assert [row.name for row in given["comparison"].rows] == ["original", "half", "dynamic"]  # type: ignore[attr-defined]
    read = read_recipe({**yaml.safe_load(recipe), "model": "m.onnx", "data": "d.npz"})
    assert [(each.name, each.transforms) for each in read.candidates] == [
        ("half", ("float16",)),
        ("dynamic", ("quantize_dynamic",)),
    ]
    assert read.candidates[1].options == {"threads": 1}


def test_no_backend_ticked_is_said_in_the_panel(panel: Compare) -> None:
    panel.backends.tick()
    with pytest.raises(OptionsError, match="Tick what to run on"):
        panel.start().wait()


def test_options_of_the_ticked_backends_are_shown(panel: Compare) -> None:
    panel.backends["onnxruntime"].set({"threads": 1})
    assert panel.backends.chosen == ("onnxruntime",)
    assert panel.backends.options == {"onnxruntime": {"threads": 1}}
    assert panel.options is panel.backends["onnxruntime"]


def test_there_is_no_report_before_anything_is_measured(panel: Compare) -> None:
    with pytest.raises(ModelError, match="Measure first"):
        panel.save_report()


def test_the_report_is_written_into_the_workspace(measured: Compare) -> None:
    path = measured.save_report()
    assert path == measured.open_workspace().root / "reports" / "tiny.html"
    assert "<title>tiny: 2 candidates" in path.read_text("utf-8")


def test_another_model_forgets_what_was_measured_of_the_old_one(measured: Compare, digits: Model) -> None:
    panel = Compare(model=measured.model, additions=measured.additions)
    panel.comparison = measured.comparison
    assert panel.selected in names(measured)
    panel.model = digits
    assert (panel.comparison, panel.choice, panel.additions, panel.selected) == (None, None, (), "")
