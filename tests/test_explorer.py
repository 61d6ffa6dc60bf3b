"""The engine explorer on real engines: layers and totals, every linter with its fault and without, two compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.backends import build_engine
from workbench.dataset import Dataset
from workbench.errors import Cancelled, EngineError
from workbench.explorer import EngineView, compare_engines, explore_engine
from workbench.explorer_report import engine_diff_text, engine_view_text
from workbench.graph import summarize_graph
from workbench.importers import load_model
from workbench.linters import EngineIssue
from workbench.measure.profile import profile_layers
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.transforms import transform
from workbench.workspace import ROOT_VARIABLE, Workspace

Nodes: TypeAlias = list[onnx.NodeProto]
Net: TypeAlias = Callable[..., Model]
Explore: TypeAlias = Callable[..., EngineView]

SM75, SM89 = {"targets": ["SM75"]}, {"targets": ["SM89"]}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    """Writes `x` float32[batch, channels, 8, 8] → nodes → `y`; the tensors `w1`, `w2` … have the shapes given."""

    def write(nodes: Nodes, channels: int = 32, integer: bool = True, **shapes: tuple[int, ...]) -> Model:
        random = np.random.default_rng(0)
        numbers = {name: random.integers(-127, 128, shape).astype(np.int8) for name, shape in shapes.items()}
        tensors = {name: value if integer else value.astype(np.float32) for name, value in numbers.items()}
        tensors |= {"scale": np.float32(0.01), "zero": np.int8(0)}
        ends = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, 8, 8]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ]
        constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
        graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
        path = tmp_path_factory.mktemp("net") / "net.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        return load_model(path)

    return write


def quantize(name: str, tensor: str) -> Nodes:
    """A QuantizeLinear and a DequantizeLinear behind a tensor; what comes out is called `name`."""
    return [
        helper.make_node("QuantizeLinear", [tensor, "scale", "zero"], [f"{name} int8"], f"{name}/quantize"),
        helper.make_node("DequantizeLinear", [f"{name} int8", "scale", "zero"], [name], f"{name}/dequantize"),
    ]


def conv(name: str, tensor: str, weight: str, integer: bool = True, **attributes: object) -> Nodes:
    """A convolution, its weight dequantized if it is in INT8; the result is called like the node."""
    read = f"{weight} again" if integer else weight
    dequantize = helper.make_node("DequantizeLinear", [weight, "scale", "zero"], [read], f"{weight}/dequantize")
    node = helper.make_node("Conv", [tensor, read], [name], name, pads=[1, 1, 1, 1], **attributes)
    return [dequantize, node] if integer else [node]


def relu(name: str, tensor: str) -> Nodes:
    return [helper.make_node("Relu", [tensor], [name], f"{name}/relu")]


@pytest.fixture(scope="module")
def quantized(net: Net) -> Model:
    """Two convolutions in INT8, as TensorRT wants them."""
    nodes = [*quantize("a", "x"), *conv("first", "a", "w1"), *relu("b", "first"), *quantize("c", "b")]
    return net([*nodes, *conv("second", "c", "w2"), *relu("y", "second")], w1=(32, 32, 3, 3), w2=(32, 32, 3, 3))


@pytest.fixture(scope="module")
def int8(digits: Model, calibration: Dataset, shared_workspace: Workspace) -> Model:
    """The bundled model in INT8, as ONNX Runtime wants it."""
    return transform(digits, "quantize_static", dataset=calibration, workspace=shared_workspace)


@pytest.fixture(scope="module")
def explore(shared_workspace: Workspace) -> Iterator[Explore]:
    """Builds an engine and takes it apart, each once."""
    known: dict[str, EngineView] = {}

    def find(model: Model, backend: str, options: Mapping[str, Any] | None = None) -> EngineView:
        key = f"{model.path} {backend} {options}"
        if key not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(ROOT_VARIABLE, str(shared_workspace.root))
                known[key] = explore_engine(build_engine(model, backend, options), workspace=shared_workspace)
        return known[key]

    yield find
    known.clear()


@pytest.fixture(scope="module")
def view(digits: Model, explore: Explore) -> EngineView:
    """The bundled model as TensorRT-RTX builds it."""
    return explore(digits, "tensorrt", SM89)


def of(rule: str, view: EngineView) -> list[EngineIssue]:
    """The issues that one linter found."""
    return [issue for issue in view.issues if issue.rule == rule]


def test_every_layer_tells_its_nodes_and_every_node_is_in_a_layer(view: EngineView, digits: Model) -> None:
    assert ("stem/conv", "stem/norm", "stem/relu") in [entry.nodes for entry in view.layers]
    assert {name for entry in view.layers for name in entry.nodes} == {n.name for n in summarize_graph(digits).nodes}
    assert view.unplaced == ()
    assert len(set(view.names)) == len(view.layers)
    assert view.nodes_per_layer == pytest.approx(28 / 10)


def test_totals_count_layers_by_precision_and_kind(view: EngineView) -> None:
    assert [(share.name, share.layers, share.milliseconds) for share in view.by_precision] == [("float32", 10, None)]
    assert {share.name: share.layers for share in view.by_kind} == {"compute": 10, "reformat": 1}
    assert sum(share.layers for share in view.by_operator) == len(view.layers)


def test_what_it_takes_and_how_it_was_built_is_told(view: EngineView, digits: Model) -> None:
    assert view.manifest is not None
    assert view.manifest.model_sha256 == digits.sha256
    assert view.memory["weights"] == pytest.approx(digits.size_bytes, rel=0.05)
    sizes = {entry.nodes[0]: entry.layer.output_bytes for entry in view.layers if entry.nodes}
    assert sizes["stem/conv"] == 4 * 16 * 32 * 32  # float32 at batch 1


def test_a_view_in_words(view: EngineView) -> None:
    text = engine_view_text(view)
    assert text.startswith("digits_cnn on tensorrt, for SM89: 11 layers")
    assert "28 nodes in 10 layers, 9 of them fused, 1 layer added by the backend" in text
    assert "stem/conv + 2" in text
    assert "65.5 kB" in text


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_profile_brings_times(digits: Model, backend: str) -> None:
    engine = build_engine(digits, backend, {"threads": 1})
    profile = profile_layers(engine, {"seconds": 0.1})
    view = explore_engine(engine, profile=profile)
    assert sum(share.milliseconds or 0 for share in view.by_kind) == pytest.approx(profile.sum_ms)
    assert view.layers == profile.layers
    assert view.manifest is None
    assert " ms in layers, " in engine_view_text(view)
    moving = [entry.layer.ms or 0 for entry in profile.layers if entry.layer.kind == "reformat"]
    assert [issue.milliseconds for issue in of("reformats", view)] == [pytest.approx(sum(moving))]


def test_layers_are_read_once(digits: Model, workspace: Workspace) -> None:
    engine = build_engine(digits, "openvino")
    first = explore_engine(engine, workspace=workspace)
    [kept] = (workspace.root / "layers").iterdir()
    written = kept.stat().st_mtime_ns
    assert explore_engine(engine, workspace=workspace) == first
    assert kept.stat().st_mtime_ns == written


# Each linter: an engine that has the fault, and one that has not.


def test_float_products_names_what_the_engine_computes_in_float_though_it_is_quantized(
    quantized: Model, explore: Explore
) -> None:
    """TensorRT-RTX has no INT8 convolution for Turing, and says nothing when it takes a float one."""
    [issue] = of("float_products", explore(quantized, "tensorrt", SM75))
    assert issue.what == "2 convolutions ('first' and 'second') compute in float although the model quantizes them."
    assert "no integer kernel for these shapes on SM75" in issue.why
    assert {"first", "second"} <= set(issue.nodes)
    assert of("float_products", explore(quantized, "tensorrt", SM89)) == []


def test_float_products_names_what_the_model_leaves_in_float(net: Net, explore: Explore) -> None:
    nodes = [*quantize("a", "x"), *conv("first", "a", "w1"), *relu("b", "first")]
    nodes += [helper.make_node("DequantizeLinear", ["w2", "scale", "zero"], ["w2 again"], "w2/dequantize")]
    model = net(
        [*nodes, helper.make_node("Conv", ["b", "w2 again"], ["y"], "second")], w1=(32,) * 2 + (3, 3), w2=(9, 32, 1, 1)
    )
    [issue] = of("float_products", explore(model, "tensorrt", SM89))
    assert issue.what == "1 convolution ('second') computes in float in a model that is quantized elsewhere."


def test_a_model_without_quantized_products_has_no_float_ones(digits: Model, explore: Explore) -> None:
    assert of("float_products", explore(digits, "onnxruntime")) == []


def test_float_outputs_names_quantized_layers_that_write_float(quantized: Model, explore: Explore) -> None:
    [issue] = of("float_outputs", explore(quantized, "tensorrt", SM89))
    assert "1 quantized convolution ('first') writes float although the model quantizes the result again" in issue.what
    assert "FP16" in issue.remedy
    # The last one gives what the model gives, which is float.
    assert of("float_outputs", explore(quantized, "onnxruntime")) == []


def test_unfused_qdq_names_what_quantizes_between_quantized_layers(
    quantized: Model, int8: Model, explore: Explore
) -> None:
    [issue] = of("unfused_qdq", explore(quantized, "tensorrt", SM89))
    assert "c/quantize" in issue.nodes
    assert "a/quantize" not in issue.nodes  # at the model's input it does what it is for
    assert of("unfused_qdq", explore(int8, "onnxruntime")) == []


def test_reformats_are_told_apart_by_where_they_are(
    digits: Model, tiny: Model, view: EngineView, explore: Explore
) -> None:
    [at_end] = [issue for issue in view.issues if issue.rule == "reformats"]
    assert "at its ends" in at_end.what
    assert at_end.bytes == 4 * 32 * 32  # the image at batch 1
    [inside] = of("reformats", explore(digits, "onnxruntime"))
    assert "inside the model: 'ReorderOutput'" in inside.what
    assert of("reformats", explore(tiny, "onnxruntime")) == []


def test_unaligned_channels_follow_the_precision(net: Net, quantized: Model, explore: Explore) -> None:
    """Tensor cores take 16 bytes at a time: 16 channels in INT8, 4 in float."""
    shapes = {"w1": (20, 32, 3, 3), "w2": (9, 20, 3, 3)}
    nodes = [*quantize("a", "x"), *conv("first", "a", "w1"), *relu("b", "first"), *quantize("c", "b")]
    [issue] = of("unaligned_channels", explore(net([*nodes, *conv("y", "c", "w2")], **shapes), "tensorrt", SM89))
    assert "no multiples of 16: 'first' and 'y'" in issue.what
    assert of("unaligned_channels", explore(quantized, "tensorrt", SM89)) == []
    model = net([*conv("b", "x", "w1", False), *conv("y", "b", "w2", False)], integer=False, **shapes)
    assert of("unaligned_channels", explore(model, "tensorrt", SM89)) == []
    assert len(of("unaligned_channels", explore(model, "onnxruntime"))) == 1


def test_classes_and_the_channels_of_an_image_are_nobodys_choice(digits: Model, explore: Explore) -> None:
    """One channel in, ten classes out."""
    for backend in ("onnxruntime", "tensorrt"):
        assert of("unaligned_channels", explore(digits, backend)) == []


@pytest.mark.parametrize(("dilation", "slow"), [(1, False), (2, True)])
def test_slow_kernels_names_what_runs_in_a_generic_one(net: Net, dilation: int, slow: bool, explore: Explore) -> None:
    """OpenVINO has no kernel for a ConvTranspose with dilations, and unfolds it into a matrix product."""
    attributes = {"strides": [2, 2], "dilations": [dilation, dilation]}
    model = net(
        [helper.make_node("ConvTranspose", ["x", "w1"], ["y"], "up", **attributes)], integer=False, w1=(32, 32, 3, 3)
    )
    found = of("slow_kernels", explore(model, "openvino"))
    assert [issue.nodes for issue in found] == [("up",)] * slow
    assert all("jit_gemm" in issue.what for issue in found)


def test_times_exceed_says_that_the_layers_add_up_to_more_than_the_whole(tiny: Model) -> None:
    engine = build_engine(tiny, "onnxruntime", {"threads": 1})
    profile = profile_layers(engine, {"seconds": 0.1})
    assert profile.sum_ms is not None
    honest = dataclasses.replace(profile, whole_ms=profile.sum_ms)
    assert of("times_exceed", explore_engine(engine, profile=honest)) == []
    half = dataclasses.replace(profile, whole_ms=profile.sum_ms / 2)
    [issue] = of("times_exceed", explore_engine(engine, profile=half))
    assert "100 % more than" in issue.what


# Two engines.


def test_an_engine_differs_from_itself_in_nothing(digits: Model) -> None:
    engine = build_engine(digits, "tensorrt", SM89)
    diff = compare_engines(engine, engine)
    assert (diff.changes, diff.same, diff.layers, diff.identical) == ((), 11, (11, 11), True)
    assert engine_diff_text(diff) == "The engines have the same 11 layers and the same to the byte."


def test_another_precision_of_the_same_layers_is_told(digits: Model) -> None:
    engines = [build_engine(digits, "openvino", {"precision": precision}) for precision in ("float32", "bfloat16")]
    if "bfloat16" not in {share.name for share in explore_engine(engines[1]).by_precision}:
        pytest.skip("this processor does not compute in bfloat16")
    diff = compare_engines(*engines)
    assert diff.identical is None
    [stem] = [change for change in diff.changes if "stem/conv" in change.nodes]
    assert (stem.kind, stem.what) == ("precision", "float32 → bfloat16")


def test_other_layers_for_the_same_nodes_are_told(digits: Model) -> None:
    engines = [build_engine(digits, "onnxruntime", {"graph_level": level}) for level in ("all", "basic")]
    changes = {change.nodes[0]: change for change in compare_engines(*engines).changes if change.nodes}
    assert changes["stem/conv"].kind == "fusion"
    assert changes["stem/conv"].what == "Conv → Conv + Relu"


def test_a_quantized_model_is_compared_with_its_original(digits: Model, int8: Model) -> None:
    diff = compare_engines(*(build_engine(model, "onnxruntime") for model in (digits, int8)))
    assert [change.what for change in diff.changes if "top/conv" in change.nodes] == ["float32 → int8"]
    assert "stem/conv" in engine_diff_text(diff)


# Refusals.


def test_a_backend_that_tells_nothing_is_refused_unless_there_is_a_profile(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_engine(tiny, "openvino")
    profile = profile_layers(engine, {"seconds": 0.1})
    monkeypatch.delattr(find_plugin("backends", "openvino"), "optimized")
    with pytest.raises(EngineError, match=r"does not tell what it made of tiny\. .* does: .*onnxruntime"):
        explore_engine(engine)
    assert explore_engine(engine, profile=profile).layers == profile.layers


def test_a_cancel_keeps_nothing(digits: Model, workspace: Workspace) -> None:
    def cancel(fraction: float, message: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        explore_engine(build_engine(digits), workspace=workspace, progress=cancel)
    assert list(workspace.root.glob("layers/*")) == []
