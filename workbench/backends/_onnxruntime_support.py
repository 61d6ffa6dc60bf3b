"""What ONNX Runtime does not run, from its own refusals."""

from __future__ import annotations

from workbench.model import Model
from workbench.support import Probe, Unsupported, make_probes

_FIRST_WITH_FLOAT8 = 19  # opset
_TOO_NEW = ("ValidateOpsetForDomain", "Unsupported model IR version")


def unsupported(model: Model) -> tuple[Unsupported, ...]:
    """Opens a session on each operator of the model alone, without graph optimizations, on the CPU."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # its refusals are the answer, not news
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    version = onnxruntime.__version__
    found = []
    for probe in make_probes(model):
        try:
            onnxruntime.InferenceSession(probe.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own C++ exception classes
            said = " ".join(str(error).split())
            if any(sign in said for sign in _TOO_NEW):
                return (_too_new(probe, version),)
            found += [problem for problem in [_explain(probe, said, version)] if problem]
    return tuple(found)


def has_float8(model: Model) -> bool:
    """Whether some constant of the model is in FP8, as the zero points behind its QuantizeLinear nodes are."""
    import onnx

    if model.opset < _FIRST_WITH_FLOAT8:
        return False
    kinds = (
        onnx.TensorProto.FLOAT8E4M3FN,
        onnx.TensorProto.FLOAT8E4M3FNUZ,
        onnx.TensorProto.FLOAT8E5M2,
        onnx.TensorProto.FLOAT8E5M2FNUZ,
    )
    graph = onnx.load(str(model.path), load_external_data=False).graph
    return any(tensor.data_type in kinds for tensor in graph.initializer)


def _explain(probe: Probe, said: str, version: str) -> Unsupported | None:
    """None for complaints about what a lone node lacks: only the whole model tells whether they hold."""
    if "is not a registered function/op" in said or "No Op registered for" in said:
        custom = ":" in probe.operator
        return Unsupported(
            probe.operator,
            f"ONNX Runtime {version} knows no such operator: {'it is a custom one' if custom else 'ONNX has it not'}.",
            probe.nodes,
            "Export the model with ONNX's own operators, or use a runtime that has this one."
            if custom
            else "Raise the model's opset with upgrade_opset if a newer one has it, or update ONNX Runtime.",
        )
    types = ", ".join(dict.fromkeys(dtype for dtype in probe.types if dtype not in ("", "-")))
    if probe.certain and ("NOT_IMPLEMENTED" in said or "Type Error" in said):
        return Unsupported(
            probe.operator,
            f"ONNX Runtime {version} does not compute {probe.operator} in {types} on the CPU.",
            probe.nodes,
            "Convert the model to another precision, or use a backend that has it.",
        )
    return None


def _too_new(probe: Probe, version: str) -> Unsupported:
    opsets = ", ".join(f"{entry.domain or 'opset'} {entry.version}" for entry in probe.proto.opset_import)
    return Unsupported(
        opsets,
        f"ONNX Runtime {version} is older than the model, which has {opsets} and IR version {probe.proto.ir_version}.",
        (),
        "Update ONNX Runtime, or export the model with an older opset.",
    )
