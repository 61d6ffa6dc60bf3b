"""Layers and nodes: which belong together, and what stands beside what in another model."""

from __future__ import annotations

import pytest

from workbench.backends import build_engine
from workbench.dataset import Dataset
from workbench.engine import Layer
from workbench.graph import NodeSummary
from workbench.measure.mapping import MatchedLayers, map_layers, match_profiles
from workbench.measure.profile import profile_layers
from workbench.model import Model, TensorSpec
from workbench.profile_report import match_text
from workbench.transforms import transform
from workbench.workspace import Workspace

SHORT = {"seconds": 0.1}


def node(name: str, inputs: str, operator: str = "Relu", macs: int = 0) -> NodeSummary:
    """A node that gives the tensor of its own name."""
    return NodeSummary(name, operator, tuple(inputs.split()), (TensorSpec(name, "float32", (1,)),), 0, 0, macs, 4, "")


CHAIN = (node("conv", "x", "Conv", 9), node("norm", "conv"), node("relu", "norm"), node("tail", "relu", "Gemm", 5))


def test_a_layer_computes_what_lies_before_its_sources() -> None:
    layers = [Layer("one", "Conv", sources=("relu",)), Layer("two", "Gemm", sources=("tail",))]

    assert map_layers(CHAIN, layers) == [("conv", "norm", "relu"), ("tail",)]


def test_what_a_backend_adds_computes_no_node() -> None:
    layers = [Layer("reorder", "Reorder", "reformat"), Layer("all", "Fused", sources=("tail", "gone"))]

    assert map_layers(CHAIN, layers) == [(), ("conv", "norm", "relu", "tail")]


def test_a_node_that_several_name_goes_to_the_one_of_its_name() -> None:
    layers = [
        Layer("quantize", "kernel", "quantize", sources=("conv", "norm")),
        Layer("conv_1", "convolution", sources=("conv",)),
        Layer("rest", "kernel", sources=("conv", "norm", "relu", "tail")),
    ]

    assert map_layers(CHAIN, layers) == [(), ("conv",), ("tail", "norm", "relu")]


def test_constants_compute_nothing() -> None:
    nodes = (node("constant", "", "Constant"), node("sum", "x constant", "Add"))

    assert map_layers(nodes, [Layer("sum", "Add", sources=("sum",))]) == [("sum",)]


@pytest.fixture(scope="module")
def int8(digits: Model, calibration: Dataset, shared_workspace: Workspace) -> Model:
    return transform(digits, "quantize_static", dataset=calibration, workspace=shared_workspace)


def matched(before: Model, after: Model, workspace: Workspace, backend: str, **options: object) -> list[MatchedLayers]:
    first = profile_layers(build_engine(before, options={"threads": 1, **options}), SHORT, workspace=workspace)
    second = profile_layers(build_engine(after, backend, {"threads": 1}), SHORT, workspace=workspace)
    rows = match_profiles(before, first, after, second)
    # Nothing is lost and nothing counted twice.
    assert sum(row.ms or 0 for row in rows) == pytest.approx(first.sum_ms)
    assert sum(row.other_ms or 0 for row in rows) == pytest.approx(second.sum_ms)
    return list(rows)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_original_stands_beside_its_quantized_form(
    digits: Model, int8: Model, shared_workspace: Workspace, backend: str
) -> None:
    rows = matched(digits, int8, shared_workspace, backend)
    convolutions = [row for row in rows if row.nodes and row.nodes[0].endswith("/conv")]

    assert len(convolutions) == 8
    assert all(row.ms is not None and row.other_ms is not None for row in convolutions)
    assert all(row.nodes[0] in row.others for row in convolutions)
    added = [row for row in rows if not row.nodes]
    assert ("image_QuantizeLinear",) in [row.others for row in added]
    assert all(row.ms is None or row.others == () for row in added)


def test_what_one_of_them_fuses_stands_in_one_row(digits: Model, int8: Model, shared_workspace: Workspace) -> None:
    """Without optimization, each of the original's nodes is a layer of its own."""
    rows = matched(digits, int8, shared_workspace, "onnxruntime", graph_level="disabled")
    [stem] = [row for row in rows if "stem/conv" in row.nodes]

    assert set(stem.nodes) == {"stem/conv", "stem/norm", "stem/relu"}
    assert stem.nodes[0] == "stem/conv"
    assert stem.operator == "Conv"


def test_a_model_stands_beside_itself(digits: Model, shared_workspace: Workspace) -> None:
    rows = matched(digits, digits, shared_workspace, "onnxruntime")

    assert all(row.nodes == row.others for row in rows)
    assert all(row.ms == row.other_ms for row in rows if row.nodes)


def test_both_in_words() -> None:
    rows = [
        MatchedLayers(("conv", "relu"), ("conv",), "Conv", 0.4, 0.1),
        MatchedLayers((), ("quantize",), "QuantizeLinear", None, 0.02),
        MatchedLayers((), (), "Reorder", 0.01, None),
    ]

    assert match_text(rows).splitlines() == [
        "layer                   operator            ms    then  change",
        "conv                    Conv             0.400   0.100   4.0 ×",
        "quantize                QuantizeLinear       –  0.0200       –",
        "(added by the backend)  Reorder         0.0100       –       –",
    ]
