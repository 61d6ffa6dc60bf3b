"""What is known of a session before it is opened: whether its provider works here, and whether it knows the opset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from workbench import jobs
from workbench.backends._onnxruntime_providers import CPU, read_provider_options
from workbench.backends._onnxruntime_session import explain_refusal, load_runtime, reason
from workbench.backends._onnxruntime_support import has_float8
from workbench.engine import BuildCheck
from workbench.errors import OptionsError
from workbench.jobs import Progress
from workbench.model import Model


def check_setting(
    model: Model, provider: str, provider_options: Sequence[str], graph_level: str
) -> tuple[BuildCheck, ...]:
    """Looks at the provider, then at the model.

    A provider other than the CPU's is tried on a model of one node, in a subprocess, since it may take a GPU.
    """
    return (*_check_provider(provider, provider_options), *_check_opset(model), *_check_float8(model, graph_level))


def _check_provider(provider: str, given: Sequence[str]) -> Iterator[BuildCheck]:
    listed = load_runtime().get_available_providers()
    if provider not in listed:
        yield BuildCheck(
            "refused",
            f"This ONNX Runtime has no {provider}: it knows {', '.join(listed)}.",
            "Choose one of these, or install the extra that brings it.",
        )
        return
    try:
        options = read_provider_options(provider, given)
    except OptionsError as error:
        yield BuildCheck("refused", error.message, error.remedy)
        return
    if provider == CPU:
        return
    if fault := jobs.run(try_provider, provider, options, progress=jobs.silent):
        yield BuildCheck(
            "refused",
            f"{provider} is listed but does not work here: {fault}.",
            "Check the driver and its libraries, or choose a provider that works.",
        )
    else:
        yield BuildCheck("ok", f"{provider} works here: it ran a model of one node.")


def try_provider(provider: str, options: Mapping[str, str], progress: Progress) -> str:
    """Opens a model of one node on a provider; returns why that failed, empty if it did not."""
    progress(0.1, f"trying {provider}")
    ort = load_runtime()
    ort.set_default_logger_severity(3)
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [(provider, dict(options)), (CPU, {})]
    try:
        session = ort.InferenceSession(_one_node(), settings, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime raises its own C++ exception classes
        return reason(str(error))
    placed = {part.ep_name for part in session.get_provider_graph_assignment_info()}
    return "" if provider in placed else f"ONNX Runtime placed everything on {', '.join(placed)}"


def _check_opset(model: Model) -> Iterator[BuildCheck]:
    """Opens a model of one node with the IR version and the standard opset of this one."""
    import onnx

    ort = load_runtime()
    ort.set_default_logger_severity(4)  # its refusal is the answer, not news
    version = onnx.load(str(model.path), load_external_data=False).ir_version
    try:
        ort.InferenceSession(_one_node(model.opset, version), providers=[CPU])
    except Exception as error:  # onnxruntime raises its own C++ exception classes
        yield BuildCheck("refused", *explain_refusal(model.name, str(error)))


def _check_float8(model: Model, graph_level: str) -> Iterator[BuildCheck]:
    if graph_level in ("all", "extended") and has_float8(model):
        yield BuildCheck(
            "doubt",
            f"{model.name} holds FP8, which ONNX Runtime gets wrong under graph optimizations above basic: "
            f"it will be opened with basic ones in place of {graph_level}.",
            "Expect it to be slow on the CPU; FP8 is meant for GPUs.",
        )


def _one_node(opset: int = 13, ir_version: int = 8) -> bytes:
    import onnx

    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one_node", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return bytes(model.SerializeToString())
