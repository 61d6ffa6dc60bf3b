"""Time per layer: real profiles of real models, found again, and honest about what they are worth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.backends import build_engine
from workbench.dataset import Dataset
from workbench.engine import Layer, random_feed
from workbench.errors import Cancelled, ModelError, OptionsError
from workbench.graph import summarize_graph
from workbench.importers import load_model
from workbench.measure.profile import LayerProfile, ProfiledLayer, profile_layers
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.profile_report import profile_text
from workbench.transforms import transform
from workbench.workspace import Workspace

SHORT = {"seconds": 0.1}
ONE = {"threads": 1}


@pytest.fixture(scope="module")
def int8(digits: Model, calibration: Dataset, shared_workspace: Workspace) -> Model:
    return transform(digits, "quantize_static", dataset=calibration, workspace=shared_workspace)


@pytest.fixture(scope="module")
def profile(digits: Model, evaluation: Dataset, shared_workspace: Workspace) -> LayerProfile:
    """The model in float on ONNX Runtime."""
    engine = build_engine(digits, options=ONE)
    return profile_layers(engine, {"seconds": 0.4}, dataset=evaluation, workspace=shared_workspace)


def test_a_profile_says_where_the_time_goes(profile: LayerProfile) -> None:
    assert (profile.model, profile.backend, profile.batch) == ("digits_cnn", "onnxruntime", 1)
    assert profile.sum_ms == pytest.approx(sum(entry.layer.ms or 0 for entry in profile.layers))
    assert sum(entry.share for entry in profile.layers) == pytest.approx(1)
    assert profile.whole_ms is not None
    assert profile.plain_ms is not None
    assert profile.iterations > 5
    # One thread runs one layer after the other.
    assert 0.5 * profile.whole_ms < (profile.sum_ms or 0) < 1.1 * profile.whole_ms
    convolutions = profile.ms_by_operator["Conv"]
    assert next(iter(profile.ms_by_operator)) == "Conv"
    assert convolutions > 0.8 * (profile.sum_ms or 0)
    assert set(profile.ms_by_precision) == {"float32"}


def test_fused_nodes_are_one_group_with_the_time_at_the_convolution(digits: Model, profile: LayerProfile) -> None:
    groups = {entry.nodes[0]: set(entry.nodes) for entry in profile.layers if entry.nodes}

    assert groups["stem/conv"] == {"stem/conv", "stem/norm", "stem/relu"}
    assert {name for names in groups.values() for name in names} == {n.name for n in summarize_graph(digits).nodes}
    assert profile.node_ms["residual/first/conv"] > profile.node_ms["flatten"]
    assert "stem/relu" not in profile.node_ms


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_quantized_layers_are_told_by_precision_and_kind(int8: Model, workspace: Workspace, backend: str) -> None:
    profile = profile_layers(build_engine(int8, backend, ONE), SHORT, workspace=workspace)
    convolutions = [entry for entry in profile.layers if entry.nodes and entry.nodes[0].endswith("/conv")]

    assert len(convolutions) == 8
    assert {entry.layer.precision for entry in convolutions} == {"int8"}
    assert {entry.layer.kind for entry in convolutions} == {"compute"}
    [stem] = [entry for entry in convolutions if entry.nodes[0] == "stem/conv"]
    assert "ConvBnFusion_W_stem/conv/weight_DequantizeLinear" in stem.nodes
    assert "stem/relu/out_QuantizeLinear" in stem.nodes
    kinds = {entry.nodes[0]: entry.layer.kind for entry in profile.layers if entry.nodes}
    assert kinds["image_QuantizeLinear"] == kinds["logits_DequantizeLinear"] == "quantize"
    added = [entry for entry in profile.layers if not entry.nodes]
    assert "reformat" in {entry.layer.kind for entry in added}
    assert set(profile.ms_by_kind) == {"compute", "quantize", "reformat"}


def test_what_will_run_is_told_without_running(digits: Model, int8: Model) -> None:
    """Which products stay in float after optimization: what explains slow INT8 models."""
    plugin = find_plugin("backends", "onnxruntime")

    def precisions(model: Model, **options: object) -> list[str]:
        layers = plugin.optimized(build_engine(model, options={**ONE, **options})).layers
        assert {layer.ms for layer in layers} == {None}
        return [layer.precision for layer in layers if "Conv" in layer.operator or layer.operator.endswith("Gemm")]

    assert precisions(digits) == ["float32"] * 9
    assert precisions(int8) == ["int8"] * 9
    assert precisions(int8, graph_level="disabled") == ["float32"] * 9


def test_a_float16_model_runs_in_float16_only_where_a_kernel_does(digits: Model, shared_workspace: Workspace) -> None:
    half = transform(digits, "float16", workspace=shared_workspace)
    layers = find_plugin("backends", "onnxruntime").optimized(build_engine(half, options=ONE)).layers

    assert {layer.kind for layer in layers if layer.operator == "Cast"} == {"reformat"}
    assert {layer.precision for layer in layers if layer.operator == "Conv"} <= {"float16", "float32"}


def test_a_rerun_finds_the_profile(tiny: Model, workspace: Workspace) -> None:
    engine = build_engine(tiny, options=ONE)
    first = profile_layers(engine, SHORT, workspace=workspace)

    assert profile_layers(engine, SHORT, workspace=workspace) == first
    assert profile_layers(engine, SHORT, workspace=workspace, fresh=True) != first
    assert profile_layers(engine, {**SHORT, "batch": 4}, workspace=workspace).batch == 4


@pytest.fixture
def residual(tmp_path: Path) -> Model:
    """A block with a shortcut of its own, a choice between two branches, and nodes without names."""
    generator = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32) / 9, name)

    inner = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)
    branches = {
        branch: helper.make_graph([helper.make_node(operator, ["summed"], ["chosen"])], branch, [], [inner])
        for branch, operator in (("then_branch", "Sin"), ("else_branch", "Cos"))
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "rectify"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "w3"], ["d"], "shortcut"),
        helper.make_node("Add", ["c", "d"], ["e"], "add"),
        helper.make_node("Relu", ["e"], ["f"], "last"),
        helper.make_node("ReduceMean", ["f"], ["g"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceSum", ["g"], ["h"], keepdims=0),
        helper.make_node("Greater", ["h", "zero"], ["positive"]),
        helper.make_node("Tanh", ["g"], ["summed"]),
        helper.make_node("If", ["positive"], ["i"], "choose", **branches),
        helper.make_node("Tanh", ["i"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16, 24, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 32])],
        [weight("w1", 32, 16, 3, 3), weight("w2", 32, 32, 3, 3), weight("w3", 32, 16, 1, 1), weight("zero")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "residual.onnx"
    )
    return load_model(tmp_path / "residual.onnx")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_node_of_a_residual_net_finds_its_layer(residual: Model, workspace: Workspace, backend: str) -> None:
    profile = profile_layers(build_engine(residual, backend, ONE), SHORT, workspace=workspace)
    groups = {entry.nodes[0]: entry for entry in profile.layers if entry.nodes}

    assert "rectify" in groups["first"].nodes
    assert groups["second"].nodes[1:] == ("add", "last") or groups["shortcut"].nodes[1:] == ("add", "last")
    # Two nodes without a name, told apart by what they give.
    assert {"summed", "y"} <= {name for entry in profile.layers for name in entry.nodes}
    assert all(entry.layer.ms is not None for entry in profile.layers)


def test_what_runs_inside_a_choice_counts_once(residual: Model) -> None:
    engine = build_engine(residual, options=ONE)
    found = find_plugin("backends", "onnxruntime").profile(
        engine, random_feed(residual, 1), 0.2, lambda fraction, message: None
    )

    operators = [layer.operator for layer in found.layers]
    assert operators.count("If") == 1
    assert not {"Sin", "Cos"} & set(operators)


def test_a_backend_that_tells_nothing_is_refused(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(find_plugin("backends", "openvino"), "profile")
    with pytest.raises(OptionsError, match=r"The backend openvino does not tell .* one that does: .*onnxruntime"):
        profile_layers(build_engine(tiny, "openvino"))


@pytest.mark.parametrize(("name", "value"), [("seconds", 0), ("batch", 0)])
def test_an_option_it_cannot_have_is_refused(tiny: Model, name: str, value: object) -> None:
    with pytest.raises(OptionsError, match=f"{name} = {value}"):
        profile_layers(build_engine(tiny), {name: value})


def test_a_model_that_became_unusable_is_refused_and_nothing_kept(tiny: Model, workspace: Workspace) -> None:
    engine = build_engine(tiny)
    tiny.path.write_bytes(b"no model any more")
    with pytest.raises(ModelError, match="tiny"):
        profile_layers(engine, SHORT, workspace=workspace)
    assert list(workspace.root.glob("profiles/*")) == []


def test_a_cancel_keeps_nothing(digits: Model, workspace: Workspace) -> None:
    def cancel(fraction: float, message: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        profile_layers(build_engine(digits), {"seconds": 30}, workspace=workspace, progress=cancel)
    assert list(workspace.root.glob("profiles/*")) == []


def test_a_profile_in_words(profile: LayerProfile) -> None:
    text = profile_text(dataclasses.replace(profile, caveats=("of no use",)))

    assert text.startswith("digits_cnn on onnxruntime: 12 layers, mean of ")
    assert "Note: of no use" in text
    assert "By precision: float32 100.0 %" in text
    assert "By kind: compute" in text
    assert "stem/conv + 2" in text
    assert "(ReorderOutput" in text


def test_what_is_not_known_is_said() -> None:
    """A layer whose type its backend does not tell."""
    layers = (ProfiledLayer(Layer("mystery", "Thing", ms=0.5), (), 1.0),)
    profile = LayerProfile("m", "b", layers, 0.5, 0.6, 0.55, 10)

    assert profile.ms_by_precision == {"not known": 0.5}
    assert profile.node_ms == {}
