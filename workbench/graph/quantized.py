"""Which operators quantize, or compute with quantized numbers."""

from __future__ import annotations


def is_quantizing(operator: str) -> bool:
    """Whether an operator of ONNX or ONNX Runtime stands in quantized models only, weight-only ones included."""
    named = operator.startswith(("QLinear", "QGemm", "QAttention")) or operator == "MatMulNBits"
    return named or "Quantize" in operator or "Integer" in operator
