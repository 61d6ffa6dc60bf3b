"""Signed activations on ONNX Runtime's CPU, which is what onnxruntime's own quantizer writes unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.findings.context import Context, Finding
from workbench.findings.trials import try_static_quantization
from workbench.findings.words import count_of

_WRITES_ACTIVATIONS = ("QuantizeLinear", "QLinearConv", "QLinearMatMul", "QLinearAdd")


def find(context: Context) -> Iterator[Finding]:
    """Looks for tensors quantized to int8, and measures the model with uint8 in their place."""
    engine = context.row.candidate.engine
    if engine.backend != "onnxruntime" or engine.device != "CPUExecutionProvider":
        return
    signed = [
        node.name
        for node in context.graph.nodes
        if node.operator in _WRITES_ACTIVATIONS and node.outputs[0].dtype == "int8"
    ]
    if not signed:
        return
    trial = try_static_quantization(context)
    if trial is None or not trial.is_faster:
        return
    yield Finding(
        rule="signed_activations",
        candidate=context.row.name,
        what=f"Activations are quantized to signed int8 ({count_of(len(signed), 'tensor')}), which ONNX Runtime's CPU "
        "kernels are slow with.",
        evidence=f"{trial.describe('with unsigned activations')}.",
        milliseconds=trial.saved_ms,
        why="Processors multiply unsigned by signed bytes in one instruction, not signed by signed. And symmetric "
        "signed ranges do not cut at zero as a Relu does, so each Relu stays between a convolution and the next, in "
        "float. Signed types are onnxruntime's own default; TensorRT needs them, ONNX Runtime does not.",
        remedy="Quantize with unsigned activations: quantize_static's default for ONNX Runtime.",
        step=trial.step,
        nodes=tuple(signed),
    )
