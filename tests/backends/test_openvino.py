"""OpenVINO: what it was asked for, what it says that it does, and how it refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from workbench.artifact import MANIFEST, read_manifest
from workbench.backends import build_engine, check_build, find_unsupported, open_runner
from workbench.backends._openvino_session import load_runtime
from workbench.dataset import Dataset
from workbench.engine import AsyncRunner
from workbench.errors import EngineError, ModelError, OptionsError, ProviderError
from workbench.importers import load_model
from workbench.jobs import silent
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.saved_engine import load_engine, save_engine
from workbench.workspace import write_json


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    kind: int = TensorProto.FLOAT,
) -> Model:
    """A model of tensors [batch, 4]."""
    ends = [[helper.make_tensor_value_info(name, kind, ["batch", 4]) for name in names] for names in (inputs, outputs)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.company", 1)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=opsets, ir_version=9), path)
    return load_model(path)


def test_an_engine_tells_what_decides_its_result(tiny: Model) -> None:
    engine = build_engine(tiny, "openvino", {"threads": 1})

    assert (engine.backend, engine.device, engine.path) == ("openvino", "CPU", tiny.path)
    assert engine.options == {
        "device": "CPU",
        "threads": 1,
        "precision": "auto",
        "hint": "latency",
        "streams": 0,
        "pinning": False,
        "cache": False,
    }
    assert engine.versions == {"openvino": version("openvino")}
    assert build_engine(tiny, "openvino").options["threads"] >= 1


def test_it_says_in_which_type_it_computes(digits: Model) -> None:
    """Left alone, it takes bfloat16 where the processor has it, though the model says float32."""
    with open_runner(build_engine(digits, "openvino")) as runner:
        chosen = runner.placement
    with open_runner(build_engine(digits, "openvino", {"precision": "float32"})) as runner:
        asked = runner.placement
    shorter = "BF16" in load_runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    assert set(asked) == {"CPU (f32)"}
    assert set(chosen) == ({"CPU (bf16)", "CPU (f32)"} if shorter else {"CPU (f32)"})


def test_in_float32_it_answers_like_onnx_runtime(digits: Model, evaluation: Dataset) -> None:
    feed = evaluation.take(8).inputs
    with open_runner(build_engine(digits)) as runner:
        expected = runner.infer(feed)["logits"]
    with open_runner(build_engine(digits, "openvino", {"precision": "float32"})) as runner:
        np.testing.assert_allclose(runner.infer(feed)["logits"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"hint": "throughput"},
        {"hint": "cumulative"},
        {"streams": 2, "threads": 2},
        {"pinning": True},
        {"cache": True},
        {"device": "AUTO", "hint": "cumulative", "threads": 1},
        {"device": "AUTO:CPU"},
    ],
)
def test_options_do_not_change_the_answer(tiny: Model, tiny_data: Dataset, options: dict[str, object]) -> None:
    with open_runner(build_engine(tiny, "openvino", {**options, "precision": "float32"})) as runner:
        np.testing.assert_array_equal(runner.infer(tiny_data.inputs)["scores"], 2 * tiny_data.inputs["x"][:, :3])
        assert {place.partition(" (")[0] for place in runner.placement} == {"CPU"}


@pytest.mark.parametrize("device", ["NPU9", "AUTO:NPU9,CPU"])
def test_a_device_that_is_not_here_is_refused(tiny: Model, device: str) -> None:
    with pytest.raises(ProviderError, match=r"OpenVINO finds no NPU9 here: it finds CPU"):
        build_engine(tiny, "openvino", {"device": device})
    [found] = check_build(tiny, "openvino", {"device": device})
    assert found.verdict == "refused"
    assert "finds no NPU9" in found.what


def test_requests_run_beside_the_caller(tiny: Model) -> None:
    feeds = [{"x": np.full((1 + number % 3, 4), number, np.float32)} for number in range(100)]
    with open_runner(build_engine(tiny, "openvino", {"threads": 1})) as runner:
        assert isinstance(runner, AsyncRunner)
        futures = [runner.submit(feed) for feed in feeds]
        answers = [future.result(10)["scores"] for future in futures]
        with pytest.raises(ModelError, match="cannot run tiny: "):
            runner.submit({"x": np.zeros((1, 5), np.float32)})

    for number, (feed, answer) in enumerate(zip(feeds, answers, strict=True)):
        np.testing.assert_array_equal(answer, np.full((len(feed["x"]), 3), 2 * number, np.float32))


def test_a_request_that_fails_while_it_runs_says_so(tmp_path: Path) -> None:
    """OpenVINO's callback would never come."""
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
        helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
    ]
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "g",
        ends,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    with open_runner(build_engine(load_model(tmp_path / "m.onnx"), "openvino")) as runner:
        assert isinstance(runner, AsyncRunner)
        requests = [runner.submit({"x": x, "shape": np.array([size, size])}) for size in (2, 3, 2)]
        with pytest.raises(ModelError, match=r"cannot run m: .*Reshape"):
            requests[1].result(10)
        for request in requests[::2]:
            np.testing.assert_array_equal(request.result(10)["y"], x.reshape(2, 2))


def test_what_was_compiled_is_kept_and_does_the_same(digits: Model, evaluation: Dataset) -> None:
    said: list[str] = []
    plain = build_engine(digits, "openvino", {"threads": 1})
    kept = build_engine(digits, "openvino", {"threads": 1, "cache": True}, log=said.append)
    again = build_engine(digits, "openvino", {"threads": 1, "cache": True}, log=said.append)
    feed, plugin = evaluation.take(8).inputs, find_plugin("backends", "openvino")
    with open_runner(plain) as runner, open_runner(kept) as opened:
        np.testing.assert_array_equal(opened.infer(feed)["logits"], runner.infer(feed)["logits"])
        assert opened.placement == runner.placement
    with open_runner(again) as opened:
        assert opened.infer(feed)["logits"].shape == (8, 10)

    assert again == kept
    assert len(said) == 1
    assert re.fullmatch(r"compiling digits_cnn with OpenVINO \S+ for .+", said[0])
    counted, untimed = plugin.profile(kept, feed, 0.1, silent).layers, plugin.optimized(kept).layers
    assert sum(layer.ms for layer in counted) > 0
    layers = [[(layer.operator, layer.precision, layer.sources) for layer in each] for each in (counted, untimed)]
    assert layers[0] == layers[1] == [(e.operator, e.precision, e.sources) for e in plugin.optimized(plain).layers]


def test_what_was_compiled_and_then_damaged_is_refused_and_built_again(tiny: Model, tiny_data: Dataset) -> None:
    engine = build_engine(tiny, "openvino", {"cache": True})
    content = engine.path.read_bytes()
    engine.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    words = r"tiny cannot be used: .* was changed since it was built"
    with pytest.raises(EngineError, match=words), open_runner(engine):
        pass
    with open_runner(build_engine(tiny, "openvino", {"cache": True})) as runner:
        np.testing.assert_allclose(runner.infer(tiny_data.inputs)["scores"], 2 * tiny_data.inputs["x"][:, :3])


@pytest.mark.parametrize("name", ["openvino", "processor"])
def test_what_was_compiled_elsewhere_is_refused_and_built_again(tiny: Model, tmp_path: Path, name: str) -> None:
    engine = build_engine(tiny, "openvino", {"cache": True})
    foreign = replace(engine, versions={**engine.versions, name: "another"})
    words = rf"tiny was compiled for {name} another, and here is {re.escape(engine.versions[name])}.*Build"
    with pytest.raises(EngineError, match=words), open_runner(foreign):
        pass

    saved = save_engine(engine, tmp_path / "saved")
    assert load_engine(saved).rebuilt == ""
    manifest = read_manifest(saved)
    write_json(saved / MANIFEST, replace(manifest, versions={**manifest.versions, name: "another"}))
    loaded = load_engine(saved)
    assert re.search(rf"built (with|for) ({name} )?another, and here is|compiled for another, and", loaded.rebuilt)
    with open_runner(loaded.engine) as runner:
        assert runner.placement


def test_what_was_compiled_by_another_version_is_noticed_by_openvino_itself(tiny: Model) -> None:
    """Its own check stands behind ours: the head of the file names version and processor."""
    openvino = load_runtime()
    content = build_engine(tiny, "openvino", {"cache": True}).path.read_bytes()
    other = content.replace(f"ov={version('openvino')}".encode(), b"ov=" + b"0" * len(version("openvino")), 1)

    assert other != content
    with pytest.raises(RuntimeError, match="different runtime configuration"):
        openvino.Core().import_model(other, "CPU", {})


def test_what_is_not_there_before_the_device_is_chosen_cannot_be_kept(tiny: Model) -> None:
    with pytest.raises(OptionsError, match="AUTO chooses a device at load"):
        build_engine(tiny, "openvino", {"device": "AUTO", "cache": True})


def test_bfloat16_that_nobody_asked_for_is_known_before_the_build(digits: Model) -> None:
    shorter = "BF16" in load_runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    found = check_build(digits, "openvino")
    assert [check.verdict for check in found] == ["doubt"] * shorter
    assert all("bfloat16" in check.what for check in found)
    [told] = check_build(digits, "openvino", {"precision": "float32", "hint": "cumulative"})
    assert "cumulative does the same as throughput" in told.what


def test_a_precision_that_it_has_not_is_refused(tiny: Model) -> None:
    with pytest.raises(OptionsError, match=r"precision = 'float8'.*"):
        build_engine(tiny, "openvino", {"precision": "float8"})


def test_inputs_and_outputs_have_the_names_of_the_model(tmp_path: Path) -> None:
    """Also an input that nothing reads, and an output that is another one under a second name."""
    nodes = [
        helper.make_node("Neg", ["x"], ["y"]),
        helper.make_node("Abs", ["x"], ["z"]),
        helper.make_node("Identity", ["y"], ["again"]),
    ]
    model = write(tmp_path / "m.onnx", nodes, inputs=("x", "unread"), outputs=("z", "y", "again"))
    x = np.arange(8, dtype=np.float32).reshape(2, 4) - 3
    with open_runner(build_engine(model, "openvino")) as runner:
        outputs = runner.infer({"x": x, "unread": x})

    assert list(outputs) == ["z", "y", "again"]
    np.testing.assert_array_equal(outputs["z"], np.abs(x))
    np.testing.assert_array_equal(outputs["y"], -x)
    np.testing.assert_array_equal(outputs["again"], -x)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "int8"])
def test_numbers_of_any_type_come_back_in_it(tmp_path: Path, dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = write(tmp_path / "m.onnx", [helper.make_node("Abs", ["x"], ["y"])], kind=kind)
    x = np.array([[-1, 2, -3, 4]], dtype)
    with open_runner(build_engine(model, "openvino")) as runner:
        given = runner.infer({"x": x})["y"]

    assert given.dtype == x.dtype
    np.testing.assert_array_equal(given, np.abs(x))


def test_operators_that_it_lacks_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Swirl", ["x"], ["a"], "first", domain="my.company"),
        helper.make_node("Relu", ["a"], ["b"], "plain"),
        helper.make_node("Swirl", ["b"], ["y"], "second", domain="my.company"),
    ]
    model = write(tmp_path / "m.onnx", nodes)
    words = r"m uses operators that OpenVINO \S+ does not have: my\.company\.Swirl\."
    with pytest.raises(ModelError, match=words), open_runner(build_engine(model, "openvino")):
        pass

    refused = [check for check in check_build(model, "openvino") if check.verdict == "refused"]
    assert [check.what.partition(":")[0] for check in refused] == ["my.company"] * len(refused)
    assert refused
    found = find_unsupported(model)["openvino"]
    assert {problem.operator for problem in found} == {"my.company:Swirl"}
    assert sorted(name for problem in found for name in problem.nodes) == ["first", "second"]


def test_what_runs_is_not_complained_about(digits: Model) -> None:
    assert find_plugin("backends", "openvino").unsupported(digits) == ()


def test_it_reports_its_use_to_nobody(tmp_path: Path) -> None:
    """On import it would keep an identifier in the home folder and send it along with a word of the import."""
    code = """
import sys
from workbench import build_engine, load_model, open_runner
with open_runner(build_engine(load_model("sample:digits"), "openvino")):
    print([name for name in sys.modules if "telemetry" in name and "openvino_" in name])
"""
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | places
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)

    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []
