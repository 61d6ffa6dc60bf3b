"""LiteRT: what onnx2tf makes of a model, .tflite files as they are, and refusals in words."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.artifact import read_manifest
from workbench.backends import build_engine, check_build, open_runner
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import BuildError, Cancelled, EngineError, MissingDependencyError, ModelError, OptionsError
from workbench.importers import load_model
from workbench.model import Model
from workbench.workspace import ROOT_VARIABLE, Workspace

BARE = str(Path(sys.base_prefix) / "bin" / "python3")  # has no packages of its own


def write(path: Path, nodes: list[onnx.NodeProto], ends: Sequence[Sequence[onnx.ValueInfoProto]]) -> Model:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.company", 1)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=opsets, ir_version=9), path)
    return load_model(path)


def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


@dataclasses.dataclass
class Made:
    """The digits, converted once for all tests here, and what was there before and after."""

    engine: Engine
    lines: list[str]
    before: str
    home: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits: Model, shared_workspace: Workspace) -> Made:
    home, place, lines = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("model"), list[str]()
    (place / "digits_cnn.onnx").write_bytes(digits.path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROOT_VARIABLE, str(shared_workspace.root))
        patch.setenv("HOME", str(home))
        engine = build_engine(load_model(place / "digits_cnn.onnx"), "litert", {"threads": 1}, log=lines.append)
    return Made(engine, lines, digits.sha256, home)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, shared_workspace: Workspace) -> Workspace:
    """The workspace that the digits are kept in."""
    monkeypatch.setenv(ROOT_VARIABLE, str(shared_workspace.root))
    return shared_workspace


def test_an_engine_tells_what_decides_its_result(made: Made) -> None:
    manifest = read_manifest(made.engine.path.parent)

    assert made.engine.options == {"threads": 1, "quantize": "none", "kernels": "xnnpack", "converter": ""}
    assert set(made.engine.versions) == {"ai_edge_litert", "onnx2tf", "tensorflow", "tf_keras"}
    assert made.engine.versions["onnx2tf"] == version("onnx2tf")
    assert {"start", "onnx2tf", "tflite", "check"} == set(manifest.phases)
    assert "differ from those of ONNX by" in manifest.notes[0]
    assert any("Model conversion started" in line for line in made.lines)


def test_a_conversion_leaves_the_model_and_the_home_folder_alone(made: Made) -> None:
    """onnx2tf writes into the file that it is given, and Keras into the home folder."""
    path = made.engine.model.path

    assert hashlib.sha256(hashlib.sha256(path.read_bytes()).digest()).hexdigest() == made.before
    assert [entry.name for entry in path.parent.iterdir()] == ["digits_cnn.onnx"]
    assert list(made.home.iterdir()) == []
    assert sorted(entry.name for entry in made.engine.path.parent.iterdir()) == [
        "ends.json",
        "key.json",
        "manifest.json",
        "model.tflite",
    ]


def test_any_batch_gives_the_answers_of_onnx_runtime(made: Made, digits: Model, evaluation: Dataset) -> None:
    with open_runner(build_engine(digits)) as reference, open_runner(made.engine) as runner:
        assert runner.placement == {"CPU (XNNPACK)": sum(runner.placement.values())}
        for batch in (1, 5, 2, 16):
            feed = evaluation.take(batch).inputs
            np.testing.assert_allclose(
                runner.infer(feed)["logits"], reference.infer(feed)["logits"], rtol=1e-4, atol=1e-4
            )


def test_another_number_of_threads_takes_no_other_conversion(made: Made, shared: Workspace) -> None:
    before = sorted((shared.root / "conversions").iterdir())
    again = build_engine(made.engine.model, "litert", {"threads": 2})

    assert sorted((shared.root / "conversions").iterdir()) == before
    assert again.path.read_bytes() == made.engine.path.read_bytes()
    assert (again.options["threads"], again.path) != (1, made.engine.path)


def test_its_own_kernels_give_the_same_answers(made: Made, shared: Workspace, evaluation: Dataset) -> None:
    feed = evaluation.take(2).inputs
    with open_runner(made.engine) as runner:
        expected = runner.infer(feed)["logits"]
    with open_runner(build_engine(made.engine.model, "litert", {"threads": 1, "kernels": "builtin"})) as runner:
        assert set(runner.placement) == {"CPU (built-in)"}
        np.testing.assert_allclose(runner.infer(feed)["logits"], expected, rtol=1e-4, atol=1e-4)


def test_a_tflite_file_is_run_as_it_is(made: Made, shared: Workspace, evaluation: Dataset) -> None:
    """Imported with its channels moved, as TensorFlow's would be, it still takes what the model takes."""
    model = load_model(made.engine.path, {"nchw": True})
    engine = build_engine(model, "litert", {"threads": 1})
    image = evaluation.take(3).inputs[
        "image"
    ]  # [batch, 1, 32, 32], for TensorFlow one row of 32 pixels with 32 channels
    with open_runner(made.engine) as runner:
        expected = runner.infer({"image": image})["logits"]
    name, given = model.inputs[0].name, np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    with open_runner(engine) as runner:
        [answer] = runner.infer({name: given}).values()
        [bound] = runner.bind({name: given})()  # type: ignore[misc]

    assert model.inputs[0].shape == ("batch", 32, 1, 32)
    assert engine.path.read_bytes() == made.engine.path.read_bytes()
    assert "original" in engine.versions
    np.testing.assert_array_equal(answer, expected)
    np.testing.assert_array_equal(bound, expected)
    assert [check.verdict for check in check_build(model, "litert")] == ["ok"]
    with pytest.raises(OptionsError, match=r"cannot quantize model: it runs the \.tflite file"):
        build_engine(model, "litert", {"quantize": "dynamic"})


def test_a_file_that_computes_something_else_is_refused(made: Made, tmp_path: Path) -> None:
    proto = onnx.load(made.engine.model.path)
    bias = next(entry for entry in proto.graph.initializer if entry.name == proto.graph.node[-1].input[2])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 9, bias.name))
    onnx.save(proto, tmp_path / "other.onnx")
    other = dataclasses.replace(load_model(tmp_path / "other.onnx"), original=made.engine.path)
    with pytest.raises(ModelError, match=r"does not compute what other says: its answers to random inputs differ by"):
        build_engine(other, "litert")


@pytest.mark.heavy
def test_names_order_and_layout_are_those_of_the_model(tmp_path: Path) -> None:
    """Of a batch that is fixed and looks like pictures, for which onnx2tf would fetch some; an input is not read."""
    nodes = [
        helper.make_node("Sub", ["b", "a"], ["second"]),
        helper.make_node("Add", ["b", "a"], ["first/of:two"]),
        helper.make_node("Identity", ["second"], ["again"]),
    ]
    shape = (2, 5, 4, 3)
    inputs = [tensor(name, *shape) for name in ("b", "unread", "a")]
    model = write(
        tmp_path / "m.onnx", nodes, (inputs, [tensor(name, *shape) for name in ("first/of:two", "second", "again")])
    )
    b, a = np.random.default_rng(0).random((2, *shape), np.float32)
    with open_runner(build_engine(model, "litert")) as runner:
        outputs = runner.infer({"b": b, "unread": a, "a": a})

    assert list(outputs) == ["first/of:two", "second", "again"]
    np.testing.assert_array_equal(outputs["first/of:two"], b + a)
    np.testing.assert_array_equal(outputs["second"], b - a)
    np.testing.assert_array_equal(outputs["again"], b - a)


@pytest.mark.heavy
def test_what_onnx2tf_cannot_convert_is_reported_in_words(tmp_path: Path, shared: Workspace) -> None:
    """Nothing half-made stays."""
    nodes = [helper.make_node("Det", ["x"], ["y"], "volume")]
    model = write(tmp_path / "volumes.onnx", nodes, ([tensor("x", "n", 4, 4)], [tensor("y", "n")]))
    before = sorted(shared.root.glob("*/*"))
    with pytest.raises(BuildError, match=r"onnx2tf 1\.\S+ cannot convert volumes: .*MatrixDeterminant") as caught:
        build_engine(model, "litert")

    assert "This converter is fragile" in caught.value.remedy
    assert "neither a custom op" in caught.value.details
    assert [path for path in sorted(shared.root.glob("*/*")) if path not in before and path.suffix != ".lock"] == []


def test_a_cancelled_conversion_takes_its_process_along(
    digits: Model, default_workspace: Path, processes_in: Callable[[Path], list[str]]
) -> None:
    seen: list[str] = []

    def stop(fraction: float, message: str) -> None:
        seen[:] = seen or [command for command in processes_in(default_workspace) if "_litert_onnx2tf.py" in command]
        if seen:
            raise Cancelled

    with pytest.raises(Cancelled):
        build_engine(digits, "litert", progress=stop)

    assert seen
    assert [command for command in processes_in(default_workspace) if "_litert_onnx2tf.py" in command] == []
    for kept in ("conversions", "engines", "tmp"):
        assert list((default_workspace / kept).iterdir()) == []


def test_checks_tell_what_is_known_to_fail(tmp_path: Path, digits: Model) -> None:
    ends = ([tensor("x", "n", 4)], [tensor("y", "n", 4)])
    quantizing = [
        helper.make_node("Constant", [], ["scale"], value_float=0.1),
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"]),
    ]
    quantized = write(tmp_path / "q.onnx", quantizing, ends)
    custom = write(tmp_path / "c.onnx", [helper.make_node("Swirl", ["x"], ["y"], domain="my.company")], ends)

    assert [check.verdict for check in check_build(digits, "litert")] == ["doubt"]
    [_, check] = check_build(quantized, "litert")
    assert (check.verdict, "is quantized" in check.what, "quantize='dynamic'" in check.remedy) == (
        "refused",
        True,
        True,
    )
    [_, check] = check_build(custom, "litert")
    assert (check.verdict, "does not know: my.company:Swirl" in check.what) == ("refused", True)


def test_an_environment_without_onnx2tf_is_told_from_none(digits: Model, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"needs onnx2tf, tensorflow, .*python3 lacks") as caught:
        build_engine(digits, "litert", {"converter": BARE})
    assert "deployment-workbench[litert,tensorflow]" in caught.value.remedy
    assert [check.verdict for check in check_build(digits, "litert", {"converter": BARE})] == ["refused"]
    with pytest.raises(OptionsError, match=r"nowhere is no Python that can be started here"):
        build_engine(digits, "litert", {"converter": str(tmp_path / "nowhere")})


def test_damage_is_found_when_it_is_opened_and_mended_when_it_is_built(
    made: Made, shared: Workspace, evaluation: Dataset
) -> None:
    engine = build_engine(made.engine.model, "litert", {"threads": 3})
    engine.path.write_bytes(engine.path.read_bytes()[:1000])
    with pytest.raises(EngineError, match=r"cannot be used: .*has 1,000 bytes"), open_runner(engine):
        pass
    with open_runner(build_engine(made.engine.model, "litert", {"threads": 3})) as runner:
        assert runner.infer(evaluation.take(1).inputs)["logits"].shape == (1, 10)


def test_running_takes_no_tensorflow_and_prints_nothing(made: Made, evaluation: Dataset, tmp_path: Path) -> None:
    code = """
import dataclasses, os, pickle, sys
import numpy as np
from workbench import open_runner
engine = pickle.load(open(sys.argv[1], "rb"))
with open_runner(engine) as runner:
    runner.infer({"image": np.zeros((1, 1, 32, 32), np.float32)})
os.write(2, b"heard\\n")
print("tensorflow" in sys.modules)
"""
    (tmp_path / "engine.pickle").write_bytes(pickle.dumps(made.engine))
    command = [sys.executable, "-c", code, str(tmp_path / "engine.pickle")]
    done = subprocess.run(command, env=os.environ, check=True, capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("False\n", "heard\n")


@pytest.mark.heavy
@pytest.mark.parametrize(("kind", "share"), [("float16", 0.6), ("dynamic", 0.5)])
def test_weights_can_be_made_smaller(digits: Model, made: Made, evaluation: Dataset, kind: str, share: float) -> None:
    part = evaluation.take(100)
    with open_runner(made.engine) as runner:
        exact = runner.infer(part.inputs)["logits"]
    engine = build_engine(digits, "litert", {"quantize": kind})
    with open_runner(engine) as runner:
        rounded = runner.infer(part.inputs)["logits"]

    assert engine.path.stat().st_size < share * made.engine.path.stat().st_size
    assert np.mean(rounded.argmax(1) == exact.argmax(1)) > 0.97
    assert "of their range" in read_manifest(engine.path.parent).notes[0]
