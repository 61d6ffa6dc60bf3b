"""Which operators stand in quantized models only, and that a model whose weights alone are quantized counts as one."""

from __future__ import annotations

import re

import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.graph.quantized import is_quantizing
from workbench.graph_module import make_graph_module
from workbench.model import Model
from workbench.pruning.graphs import is_quantized
from workbench.transforms import transform


@pytest.mark.parametrize(
    "operator", ["QuantizeLinear", "DequantizeLinear", "QLinearConv", "MatMulInteger", "MatMulNBits", "QGemm"]
)
def test_quantizing_operators_are_known(operator: str) -> None:
    assert is_quantizing(operator)


def test_those_of_onnx_runtime_are_known() -> None:
    names = {schema.name for schema in get_all_operator_schema()}
    named_so = {name for name in names if re.match(r"Q[A-Z]|MatMul(Bnb|Fp|NBits)", name) or "uantize" in name}
    assert len(named_so) > 20
    assert {name for name in named_so if not is_quantizing(name)} == set()


@pytest.mark.parametrize("operator", ["Conv", "MatMul", "Gemm", "Round", "Cast", "Quick", "QuickGelu", "Attention"])
def test_others_are_not_taken_for_them(operator: str) -> None:
    assert not is_quantizing(operator)


def test_a_model_whose_weights_alone_are_behind_dequantize_linear_is_quantized(
    digits: Model, evaluation: Dataset
) -> None:
    rounded = transform(digits, "quantize_weights", {"form": "qdq", "convolutions": True})
    proto = onnx.load(rounded.path)
    assert {node.op_type for node in proto.graph.node if "uantize" in node.op_type} == {"DequantizeLinear"}

    assert is_quantized(proto)
    for name, dataset in (("quantize_static", evaluation), ("quantize_weights", None), ("sparsify", None)):
        with pytest.raises(TransformError, match="is quantized already: it has DequantizeLinear"):
            transform(rounded, name, dataset=dataset)
    with pytest.raises(TransformError, match=r"is quantized .* is DequantizeLinear"):
        make_graph_module(proto)
