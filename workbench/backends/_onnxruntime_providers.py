"""Options of ONNX Runtime's execution providers: which a user may give, and which the workbench sets by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.engine import Engine
from workbench.errors import OptionsError
from workbench.workspace import Workspace, writing

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT, OPENVINO = "TensorrtExecutionProvider", "OpenVINOExecutionProvider"
ON_CUDA = (CUDA, TENSORRT)
COMPILING = (TENSORRT, OPENVINO)  # parts of the graph for themselves, which ONNX Runtime then cannot write down

# Options by which a provider would compute in other types than the model's; `load_config` may, without a word of it.
_PRECISION = ("trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable", "trt_dla_enable", "precision", "load_config")
_OURS = {
    "num_of_threads": "Give it as the option threads.",
    "user_compute_stream": "Leave it out: the workbench gives its own stream, on which it measures.",
    "has_user_compute_stream": "Leave it out: the workbench gives its own stream, on which it measures.",
}


def read_provider_options(provider: str, given: Sequence[str]) -> dict[str, str]:
    """Reads the options of a provider that a user gave.

    Args:
        provider: The execution provider.
        given: Options as `name=value`.

    Raises:
        OptionsError: One is not written so, stands there twice, is the workbench's to set, or changes the precision.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise OptionsError(
                f"'{text}' is no option of {provider}.", "Write it like gpu_mem_limit=2147483648, one for each option."
            )
        if name in found:
            raise OptionsError(f"{provider} is given {name} twice: {found[name]} and {value}.", "Leave one out.")
        if name in _PRECISION or (name == "device_type" and "_FP" in value):
            raise OptionsError(
                f"{name} changes what {provider} computes in, whatever the model says.",
                "Precision belongs to the model: convert or quantize it with a transform (float16, quantize_static).",
            )
        if name in _OURS:
            raise OptionsError(f"{name} is not given among the options of {provider}.", _OURS[name])
        found[name] = value
    if found and provider == CPU:
        raise OptionsError(
            f"{CPU} has no options of its own and would pass over {', '.join(found)} without a word.",
            "Leave provider_options empty, or choose the provider that they belong to.",
        )
    return found


def asked_settings(engine: Engine) -> dict[str, str]:
    """The options of an engine's provider that decide what it computes and how fast, on any machine.

    OpenVINO gets the number of threads, and keeps to the model's own types on devices where it would else take shorter
    ones.
    """
    given = read_provider_options(engine.device, engine.options.get("provider_options", ()))
    if engine.device == OPENVINO:
        return {"num_of_threads": str(engine.options["threads"]), "precision": "ACCURACY", **given}
    return given


def provider_settings(engine: Engine, stream: int | None) -> Mapping[str, str]:
    """All options that an engine's provider is opened with here; TensorRT keeps plans and timings in the workspace.

    Args:
        engine: What is opened.
        stream: Address of the CUDA stream to run on; its own if None.
    """
    on_stream = {} if stream is None else {"user_compute_stream": str(stream)}
    caches = _tensorrt_caches(engine) if engine.device == TENSORRT else {}
    return {**caches, **on_stream, **asked_settings(engine)}


def _tensorrt_caches(engine: Engine) -> dict[str, str]:
    """A folder for each model. Not run on a GPU yet."""
    folder = Workspace().root / "tensorrt-provider" / engine.model.sha256
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    caches = {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1"}
    return {**caches, "trt_engine_cache_path": str(folder), "trt_timing_cache_path": str(folder)}
