"""OpenVINO: what it was asked for, what it says that it does, and how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from workbench.backends import build_engine, find_unsupported, open_runner
from workbench.backends._openvino_session import load_runtime
from workbench.dataset import Dataset
from workbench.errors import ModelError, OptionsError, ProviderError
from workbench.importers import load_model
from workbench.model import Model
from workbench.plugins import find_plugin


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


@pytest.mark.parametrize("options", [{"hint": "throughput"}, {"streams": 2, "threads": 2}, {"pinning": True}])
def test_options_do_not_change_the_answer(tiny: Model, tiny_data: Dataset, options: dict[str, object]) -> None:
    with open_runner(build_engine(tiny, "openvino", {**options, "precision": "float32"})) as runner:
        np.testing.assert_array_equal(runner.infer(tiny_data.inputs)["scores"], 2 * tiny_data.inputs["x"][:, :3])


def test_a_device_that_is_not_here_is_refused(tiny: Model) -> None:
    with pytest.raises(ProviderError, match=r"OpenVINO finds no NPU9 here: it finds CPU"):
        build_engine(tiny, "openvino", {"device": "NPU9"})


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
