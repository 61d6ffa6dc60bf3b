"""Which operators stand in quantized models only."""

from __future__ import annotations

import pytest

from workbench.graph.quantized import is_quantizing


@pytest.mark.parametrize(
    "operator", ["QuantizeLinear", "DequantizeLinear", "QLinearConv", "MatMulInteger", "MatMulNBits", "QGemm"]
)
def test_quantizing_operators_are_known(operator: str) -> None:
    assert is_quantizing(operator)


@pytest.mark.parametrize("operator", ["Conv", "MatMul", "Gemm", "Round", "Cast", "Quick"])
def test_others_are_not_taken_for_them(operator: str) -> None:
    assert not is_quantizing(operator)
