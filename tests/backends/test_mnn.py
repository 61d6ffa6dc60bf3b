"""MNN: what it makes of a model, what it says of that, and how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from workbench.artifact import read_manifest
from workbench.backends import build_engine, check_build, find_unsupported, open_runner
from workbench.backends._agreement import Agreement
from workbench.dataset import Dataset
from workbench.engine import BuildCheck
from workbench.errors import EngineError, ModelError
from workbench.importers import load_model
from workbench.jobs import silent
from workbench.model import Model
from workbench.plugins import find_plugin

pytest.importorskip("MNN")


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    **tensors: NDArray[Any],
) -> Model:
    """A model with inputs and outputs of these types and shapes."""
    ends = [
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in ends.items()]
        for ends in (inputs, outputs)
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.company", 1)]
    graph = helper.make_graph(nodes, "g", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return load_model(path)


@pytest.fixture
def words(tmp_path: Path) -> Model:
    """Numbers of words in, the mean of their vectors and its largest place out."""
    return write(
        tmp_path / "words.onnx",
        [
            helper.make_node("Gather", ["vectors", "words: 1"], ["all"]),
            helper.make_node("ReduceMean", ["all"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("ArgMax", ["mean"], ["best"], axis=1, keepdims=0),
        ],
        {"words: 1": (TensorProto.INT64, ["batch", "words"])},
        {"mean": (TensorProto.FLOAT, ["batch", 4]), "best": (TensorProto.INT64, ["batch"])},
        vectors=np.random.default_rng(0).random((10, 4), np.float32),
    )


def test_the_build_says_what_it_did_and_how_near_the_result_is(digits: Model) -> None:
    heard: list[str] = []
    engine = build_engine(digits, "mnn", {"threads": 1}, log=heard.append)
    manifest = read_manifest(engine.path.parent)

    assert engine.options == {"threads": 1, "precision": "normal", "weight_bits": 32}
    assert engine.versions == {"mnn": version("mnn")}
    assert {"convert", "compare"} == set(manifest.phases)
    [note] = manifest.notes
    assert note.startswith("Its answers to random inputs differ from those of ONNX by ")
    assert heard[-1] == note
    assert "Converted Success!" in heard
    assert build_engine(digits, "mnn", {"threads": 1}, log=heard.append).path == engine.path
    assert heard.count(note) == 1  # the second time it is found


def test_in_float32_it_answers_like_onnx_runtime(digits: Model, evaluation: Dataset) -> None:
    feed = evaluation.take(8).inputs
    with open_runner(build_engine(digits)) as runner:
        expected = runner.infer(feed)["logits"]
    with open_runner(build_engine(digits, "mnn", {"precision": "high", "threads": 2})) as runner:
        np.testing.assert_allclose(runner.infer(feed)["logits"], expected, rtol=1e-4, atol=1e-4)
        assert set(runner.placement) == {"CPU (f32)"}


def test_it_says_in_which_type_it_computes(digits: Model, evaluation: Dataset) -> None:
    """Where `low` changes the answers, the placement must name a shorter type."""
    feed = evaluation.take(8).inputs
    answers = []
    for precision in ("high", "low"):
        with open_runner(build_engine(digits, "mnn", {"precision": precision})) as runner:
            answers.append(runner.infer(feed)["logits"])
            placement = set(runner.placement)

    assert ("CPU (f32)" in placement) == np.array_equal(*answers)


@pytest.mark.parametrize(("bits", "share", "wrong"), [(16, 0.52, 0.01), (8, 0.28, 0.05), (4, 0.15, 0.3)])
def test_weights_in_fewer_bits_make_a_smaller_file(
    digits: Model, evaluation: Dataset, bits: int, share: float, wrong: float
) -> None:
    whole, small = (build_engine(digits, "mnn", {"weight_bits": each}) for each in (32, bits))
    with open_runner(whole) as runner:
        expected = runner.infer(evaluation.take(32).inputs)["logits"]
    with open_runner(small) as runner:
        given = runner.infer(evaluation.take(32).inputs)["logits"]

    assert small.path.stat().st_size < share * whole.path.stat().st_size
    assert 0 < np.abs(given - expected).max() < wrong * np.abs(expected).max()
    assert read_manifest(small.path.parent).notes[1].startswith(f"Weights in {bits} bits move them by ")


def test_whole_numbers_go_in_and_come_out_in_the_models_types(words: Model) -> None:
    feed = {"words: 1": np.array([[1, 9, 3], [0, 0, 5]])}
    with open_runner(build_engine(words)) as runner:
        expected = runner.infer(feed)
    with open_runner(build_engine(words, "mnn")) as runner:
        given = runner.infer(feed)

    assert list(given) == ["mean", "best"]
    np.testing.assert_allclose(given["mean"], expected["mean"], rtol=1e-6)
    np.testing.assert_array_equal(given["best"], expected["best"])
    assert given["best"].dtype == np.int64


def test_numbers_beyond_32_bits_are_refused(words: Model) -> None:
    with (
        open_runner(build_engine(words, "mnn")) as runner,
        pytest.raises(ModelError, match="'words: 1' holds numbers beyond 32 bits"),
    ):
        runner.infer({"words: 1": np.array([[2**40]])})


def test_outputs_inside_the_network_keep_their_layout(tmp_path: Path) -> None:
    """MNN packs channels by four or more; five of them show whether that is undone."""
    model = write(
        tmp_path / "five.onnx",
        [helper.make_node("Conv", ["x", "w"], ["inner"]), helper.make_node("Relu", ["inner"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", 3, 8, 8]), "unread": (TensorProto.FLOAT, ["batch", 2])},
        {name: (TensorProto.FLOAT, ["batch", 5, 6, 6]) for name in ("inner", "y")},
        w=np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32),
    )
    feed = {"x": np.random.default_rng(1).random((3, 3, 8, 8), np.float32), "unread": np.zeros((3, 2), np.float32)}
    with open_runner(build_engine(model)) as runner:
        expected = runner.infer(feed)
    with open_runner(build_engine(model, "mnn")) as runner:
        given = runner.infer(feed)

    for name, value in expected.items():
        np.testing.assert_allclose(given[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_bound_call_computes_on_the_same_inputs_each_time(digits: Model, evaluation: Dataset) -> None:
    """MNN overwrites its inputs while it runs."""
    with open_runner(build_engine(digits, "mnn")) as runner:
        call: Callable[[], Any] = runner.bind(evaluation.take(1).inputs)
        first = np.asarray(call()["logits"])
        for _ in range(5):
            call()
        np.testing.assert_array_equal(np.asarray(call()["logits"]), first)
        np.testing.assert_allclose(first, runner.infer(evaluation.take(1).inputs)["logits"], rtol=1e-5, atol=1e-5)


def test_its_layers_name_the_nodes_that_they_are_made_of(digits: Model) -> None:
    layers = find_plugin("backends", "mnn").optimized(build_engine(digits, "mnn")).layers
    stem = next(layer for layer in layers if layer.name == "stem/conv/out")

    assert (stem.operator, stem.precision) == ("Convolution", "float32")
    assert stem.sources == ("stem/conv", "stem/norm", "stem/relu")
    assert {layer.kind for layer in layers if layer.operator == "Raster"} == {"reformat"}


def test_custom_operators_are_refused_by_name(tmp_path: Path) -> None:
    model = write(
        tmp_path / "custom.onnx",
        [
            helper.make_node("Swirl", ["x"], ["a"], "first", domain="my.company"),
            helper.make_node("Relu", ["a"], ["b"], "plain"),
            helper.make_node("Swirl", ["b"], ["y"], "second", domain="my.company"),
        ],
        {"x": (TensorProto.FLOAT, ["batch", 4])},
        {"y": (TensorProto.FLOAT, ["batch", 4])},
    )
    with pytest.raises(ModelError, match=r"custom uses operators that MNN .* does not have.*ONNX::Swirl"):
        build_engine(model, "mnn")

    found = find_unsupported(model)["mnn"]
    assert {problem.operator for problem in found} == {"my.company:Swirl"}
    assert sorted(name for problem in found for name in problem.nodes) == ["first", "second"]


def test_what_runs_is_not_complained_about(digits: Model) -> None:
    plugin = find_plugin("backends", "mnn")

    assert plugin.unsupported(digits) == ()
    assert plugin.checks(digits, plugin.Options()) == ()


def test_quantized_models_are_refused_before_the_converter_breaks_on_them(tmp_path: Path) -> None:
    model = write(
        tmp_path / "rounded.onnx",
        [
            helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["weight"], axis=0),
            helper.make_node("Conv", ["x", "weight"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, ["batch", 3, 8, 8])},
        {"y": (TensorProto.FLOAT, ["batch", 5, 6, 6])},
        w=np.ones((5, 3, 3, 3), np.int8),
        scale=np.linspace(0.1, 1, 5, dtype=np.float32),
        zero=np.zeros(5, np.int8),
    )
    [check] = check_build(model, "mnn")

    assert check.verdict == "refused"
    assert "quantizer is no way out" in check.remedy
    with pytest.raises(ModelError, match=r"rounded is quantized \(DequantizeLinear\)"):
        build_engine(model, "mnn")


def test_what_computes_something_else_is_refused_with_what_was_seen(digits: Model) -> None:
    agreement = Agreement(digits)
    wrong = {name: value + 0.01 * np.abs(value).max() for name, value in agreement.expected.items()}

    assert agreement.check(agreement.expected, "MNN") == (
        "Its answers to random inputs differ from those of ONNX by 0 % of their range."
    )
    with pytest.raises(ModelError, match=r"something else than digits_cnn says.* by 1 % of their range"):
        agreement.check(wrong, "MNN")


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("NonZero", ["x"], ["y"]), "cannot open odd: .* may depend on the values"),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT8), r"y int8\[.*a type that MNN"),
    ],
)
def test_what_it_cannot_hold_is_refused_in_words(tmp_path: Path, node: onnx.NodeProto, words: str) -> None:
    kind, shape = (TensorProto.INT64, [2, "found"]) if node.op_type == "NonZero" else (TensorProto.INT8, ["batch", 4])
    model = write(tmp_path / "odd.onnx", [node], {"x": (TensorProto.FLOAT, ["batch", 4])}, {"y": (kind, shape)})

    with pytest.raises(ModelError, match=words):
        build_engine(model, "mnn")


def test_options_that_change_nothing_here_are_said_before(digits: Model) -> None:
    found: tuple[BuildCheck, ...] = check_build(digits, "mnn", {"precision": "low", "weight_bits": 8})

    assert [check.verdict for check in found] == ["doubt"] * len(found)
    assert "file smaller, not the inference faster" in found[-1].what


def test_a_file_that_was_cut_short_is_refused_and_built_again(tiny: Model) -> None:
    engine = build_engine(tiny, "mnn")
    whole = engine.path.read_bytes()
    engine.path.write_bytes(whole[:-16])

    with pytest.raises(EngineError, match="tiny"), open_runner(engine):
        pass
    again = build_engine(tiny, "mnn").path.read_bytes()
    assert len(again) == len(whole)  # each has a number of its own


def test_a_build_that_is_cancelled_leaves_nothing(tiny: Model, default_workspace: Path) -> None:
    class Stop(Exception):
        pass

    def stop(share: float, text: str) -> None:
        if text:
            raise Stop

    with pytest.raises(Stop):
        build_engine(tiny, "mnn", progress=stop)
    assert list(default_workspace.rglob("model.mnn")) == []
    assert build_engine(tiny, "mnn", progress=silent).path.is_file()


def test_it_installs_nothing_and_prints_nothing(tmp_path: Path) -> None:
    """Its tools install a package for telemetry when they are imported; its import prints a line."""
    code = """
import sys
from workbench import build_engine, load_model, open_runner
with open_runner(build_engine(load_model("sample:digits"), "mnn")):
    print([name for name in sys.modules if name.startswith(("MNN.tools", "aliyun"))])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), check=True, capture_output=True, text=True, cwd=tmp_path
    )

    assert done.stdout == "[]\n"
