"""What every backend must do, those of other packages too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from workbench.backends import build_engine, engine_key, open_runner
from workbench.dataset import Dataset
from workbench.errors import OptionsError, WorkbenchError
from workbench.importers import load_model
from workbench.jobs import silent
from workbench.model import Model
from workbench.options import option_fields
from workbench.plugins import find_plugin, list_plugins

NAMES = [plugin.name for plugin in list_plugins("backends") if plugin.available]


@pytest.fixture(scope="session", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def reference(digits: Model, evaluation: Dataset) -> np.ndarray:
    """What ONNX's own interpreter answers to the first four samples."""
    [logits] = ReferenceEvaluator(onnx.load(digits.path)).run(None, dict(evaluation.take(4).inputs))
    return np.asarray(logits)


def test_the_file_explains_itself(name: str) -> None:
    plugin = find_plugin("backends", name)

    assert plugin.__doc__
    assert plugin.__doc__.splitlines()[0].endswith(".")
    assert isinstance(plugin.REQUIRES, dict)
    assert plugin.Options.__dataclass_params__.frozen
    assert plugin.Options.__doc__
    assert [field.name for field in option_fields(plugin.Options) if not field.help] == []
    assert plugin.Options() == plugin.Options()


def test_it_lists_its_devices(name: str) -> None:
    devices = find_plugin("backends", name).devices()

    assert devices
    assert all(isinstance(device, str) and device for device in devices)


@pytest.mark.parametrize("batch", [1, 4])
def test_it_answers_as_the_standard_says(
    name: str, digits: Model, evaluation: Dataset, reference: np.ndarray, batch: int
) -> None:
    with open_runner(build_engine(digits, name)) as runner:
        outputs = runner.infer(evaluation.take(batch).inputs)

    assert list(outputs) == ["logits"]
    np.testing.assert_allclose(outputs["logits"], reference[:batch], rtol=1e-3, atol=1e-3)
    assert sum(runner.placement.values()) > 0
    assert set(runner.placement) <= set(find_plugin("backends", name).devices())


def test_a_runner_answers_again_and_again(name: str, digits: Model, evaluation: Dataset) -> None:
    with open_runner(build_engine(digits, name)) as runner:
        first = runner.infer(evaluation.take(2).inputs)["logits"].copy()
        runner.infer(evaluation.take(7).inputs)
        np.testing.assert_array_equal(runner.infer(evaluation.take(2).inputs)["logits"], first)


def test_an_engine_is_known_by_its_content_not_its_place(
    name: str, tmp_path: Path, model_file: Callable[..., Path]
) -> None:
    here, there = (load_model(model_file(tmp_path / folder / "m.onnx")) for folder in "ab")
    engine = build_engine(here, name)

    assert engine_key(engine) == engine_key(build_engine(there, name))
    assert engine.backend == name
    assert engine.device in find_plugin("backends", name).devices()
    assert engine.versions
    assert {field.name for field in option_fields(find_plugin("backends", name).Options)} <= set(engine.options)


def test_building_with_the_plugin_itself_is_the_same(name: str, tiny: Model) -> None:
    plugin = find_plugin("backends", name)

    assert plugin.build(tiny, plugin.Options(), silent) == build_engine(tiny, name)


def test_an_unknown_option_is_refused_by_name(name: str, tiny: Model) -> None:
    with pytest.raises(OptionsError, match=f"{name} has no option 'no_such_option'"):
        build_engine(tiny, name, {"no_such_option": 1})


def test_a_file_that_has_become_unusable_is_refused_in_words(name: str, tiny: Model) -> None:
    engine = build_engine(tiny, name)
    tiny.path.write_bytes(b"no model any more")
    with pytest.raises(WorkbenchError, match="tiny"), open_runner(engine):
        pass
