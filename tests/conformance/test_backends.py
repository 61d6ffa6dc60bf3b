"""What every backend must do, those of other packages too."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from workbench.backends import build_engine, engine_key, open_runner
from workbench.dataset import Dataset
from workbench.engine import Layers
from workbench.errors import ModelError, OptionsError, WorkbenchError
from workbench.graph import summarize_graph
from workbench.importers import load_model
from workbench.jobs import silent
from workbench.model import Model
from workbench.options import option_fields
from workbench.plugins import find_plugin, list_plugins
from workbench.workspace import ROOT_VARIABLE

NAMES = [plugin.name for plugin in list_plugins("backends") if plugin.available]
RUNNING = [name for name in NAMES if find_plugin("backends", name).devices()]
PROFILING = [name for name in RUNNING if {"optimized", "profile"} <= set(dir(find_plugin("backends", name)))]


@pytest.fixture(autouse=True)
def default_workspace(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One for all of these tests: some backends take seconds to build the same engine."""
    folder = tmp_path_factory.getbasetemp() / "conformance-of-backends"
    monkeypatch.setenv(ROOT_VARIABLE, str(folder))
    return folder


@pytest.fixture(scope="session", params=RUNNING)
def name(request: pytest.FixtureRequest) -> str:
    """Each backend that has something to run on here; those without are built for, and tested apart."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def reference(digits: Model, evaluation: Dataset) -> np.ndarray:
    """What ONNX's own interpreter answers to the first four samples."""
    [logits] = ReferenceEvaluator(onnx.load(digits.path)).run(None, dict(evaluation.take(4).inputs))
    return np.asarray(logits)


@pytest.mark.parametrize("name", NAMES)
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
    # A backend that computes in a shorter type than the model's must say so.
    tolerance = 0.03 * np.abs(reference).max() if any("f16" in place for place in runner.placement) else 1e-3
    np.testing.assert_allclose(outputs["logits"], reference[:batch], rtol=1e-3, atol=tolerance)
    assert outputs["logits"].dtype == np.float32
    assert sum(runner.placement.values()) > 0
    assert {place.partition(" (")[0] for place in runner.placement} <= set(find_plugin("backends", name).devices())


def test_a_runner_answers_again_and_again(name: str, digits: Model, evaluation: Dataset) -> None:
    with open_runner(build_engine(digits, name)) as runner:
        first = runner.infer(evaluation.take(2).inputs)["logits"].copy()
        runner.infer(evaluation.take(7).inputs)
        np.testing.assert_array_equal(runner.infer(evaluation.take(2).inputs)["logits"], first)


def test_what_was_given_out_stays_as_it_was(name: str, digits: Model, evaluation: Dataset) -> None:
    """The outputs are the caller's own, and the inputs are left alone."""
    feed = {"image": evaluation.take(3).inputs["image"].copy()}
    with open_runner(build_engine(digits, name)) as runner:
        outputs = runner.infer(feed)
        before = outputs["logits"].copy()
        runner.infer({"image": np.zeros_like(feed["image"])})

    np.testing.assert_array_equal(outputs["logits"], before)
    np.testing.assert_array_equal(feed["image"], evaluation.take(3).inputs["image"])


def test_a_bound_call_can_be_repeated_beside_others(name: str, digits: Model, evaluation: Dataset) -> None:
    with open_runner(build_engine(digits, name)) as runner:
        expected = runner.infer(evaluation.take(2).inputs)["logits"]
        call = runner.bind(evaluation.take(2).inputs)
        call()
        runner.infer(evaluation.take(5).inputs)
        given = call()

    values = given.values() if hasattr(given, "values") else given
    np.testing.assert_array_equal(np.asarray(next(iter(values))), expected)  # type: ignore[call-overload]


def test_callers_side_by_side_get_their_own_answers(name: str, tiny: Model) -> None:
    feeds = [{"x": np.full((1 + number % 3, 4), number, np.float32)} for number in range(200)]
    with open_runner(build_engine(tiny, name)) as runner, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(runner.infer, feeds))

    for number, (feed, answer) in enumerate(zip(feeds, answers, strict=True)):
        np.testing.assert_array_equal(answer["scores"], np.full((len(feed["x"]), 3), 2 * number, np.float32))


def test_memory_that_may_not_be_written_is_fine(name: str, digits: Model, evaluation: Dataset) -> None:
    image = evaluation.take(2).inputs["image"].copy()
    image.flags.writeable = False
    with open_runner(build_engine(digits, name)) as runner:
        wanted = runner.infer({"image": image.copy()})["logits"]
        np.testing.assert_array_equal(runner.infer({"image": image})["logits"], wanted)
        turned = runner.infer({"image": image[::-1]})["logits"]  # in another place of the batch, rounded otherwise
        np.testing.assert_allclose(turned, wanted[::-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [np.zeros((1, 3, 32, 32), np.float32), np.zeros((1, 1, 32, 32), np.int64)])
def test_inputs_that_do_not_fit_are_refused_in_words(name: str, digits: Model, bad: np.ndarray) -> None:
    with open_runner(build_engine(digits, name)) as runner, pytest.raises(ModelError, match=r"cannot run digits_cnn: "):
        runner.infer({"image": bad})


@pytest.mark.parametrize("name", PROFILING)
def test_a_profile_tells_where_the_time_goes(name: str, digits: Model, evaluation: Dataset) -> None:
    takes_threads = "threads" in {field.name for field in option_fields(find_plugin("backends", name).Options)}
    engine = build_engine(digits, name, {"threads": 1} if takes_threads else {})
    found: Layers = find_plugin("backends", name).profile(engine, evaluation.take(1).inputs, 0.1, silent)

    assert found.whole_ms is not None
    assert found.iterations > 0
    assert all(layer.name and layer.operator and layer.precision for layer in found.layers)
    times = [layer.ms for layer in found.layers if layer.ms is not None]
    assert len(times) == len(found.layers)
    assert sum(times) > 0
    known = {node.name for node in summarize_graph(digits).nodes}
    assert {source for layer in found.layers for source in layer.sources} <= known
    untimed = find_plugin("backends", name).optimized(engine).layers
    assert [(layer.operator, layer.sources) for layer in found.layers] == [
        (layer.operator, layer.sources) for layer in untimed
    ]
    assert {layer.ms for layer in untimed} == {None}


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
    engine.path.write_bytes(b"no model any more")
    with pytest.raises(WorkbenchError, match="tiny"), open_runner(engine):
        pass
