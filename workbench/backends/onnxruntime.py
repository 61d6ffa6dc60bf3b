"""ONNX Runtime, on any of its execution providers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from workbench.backends._cuda import DeviceTimer
from workbench.backends._host import physical_cores
from workbench.backends._onnxruntime_checks import check_setting
from workbench.backends._onnxruntime_profile import optimized as optimized
from workbench.backends._onnxruntime_profile import profile as profile
from workbench.backends._onnxruntime_providers import ON_CUDA, read_provider_options
from workbench.backends._onnxruntime_session import SessionRunner, load_runtime, open_session
from workbench.backends._onnxruntime_support import has_float8
from workbench.backends._onnxruntime_support import unsupported as unsupported
from workbench.engine import BuildCheck, BuildLog, Engine, unheard
from workbench.errors import ProviderError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option, to_builtins

REQUIRES = {"onnxruntime": "cpu"}


@dataclass(frozen=True)
class Options:
    """How the session is set up."""

    provider: Annotated[str, option("Execution provider; refused if it would not really run the model.")] = (
        "CPUExecutionProvider"
    )
    threads: Annotated[
        int, option("Threads inside one operator; 0 takes every core.", minimum=0, maximum=256, unit="threads")
    ] = 0
    graph_level: Annotated[
        Literal["all", "extended", "basic", "disabled"],
        option("Graph optimizations at load; models in FP8 get basic ones at most.", advanced=True),
    ] = "all"
    spinning: Annotated[
        bool, option("Waiting threads spin: faster alone, slower beside other work.", advanced=True)
    ] = True
    float_layers: Annotated[
        Literal["auto", "keep", "quantize"],
        option(
            "Float layers between quantized ones: ONNX Runtime computes them in INT8 as well unless told to keep them. "
            "Auto keeps those that a transform was asked to keep.",
            advanced=True,
        ),
    ] = "auto"
    provider_options: Annotated[
        tuple[str, ...],
        option(
            "Options of the provider itself, as name=value; those that set a precision belong to the model.",
            example="gpu_mem_limit=2147483648",
            advanced=True,
        ),
    ] = ()
    arena: Annotated[
        bool,
        option("Keep freed memory for the next inference; without it a batch of 8 took 1.5 × as long.", advanced=True),
    ] = True
    binding: Annotated[
        bool,
        option(
            "Time calls on inputs and outputs that are bound once: leaves out what feeding costs, 2.5 µs on the CPU, "
            "and on a GPU the copies to it and back.",
            advanced=True,
        ),
    ] = False


def devices() -> tuple[str, ...]:
    """The execution providers that this build of ONNX Runtime lists; listing one does not mean that it works here."""
    return tuple(load_runtime().get_available_providers())


def build(model: Model, options: Options, progress: Progress, log: BuildLog = unheard) -> Engine:
    """Describes the session to be opened; ONNX Runtime compiles at load, so the artifact is the model itself.

    Raises:
        ProviderError: This build of ONNX Runtime does not know the provider.
        OptionsError: An option of the provider is not one, or would change the model's precision.
    """
    if options.provider not in devices():
        raise ProviderError(
            f"This ONNX Runtime has no {options.provider}: it knows {', '.join(devices())}.",
            "Choose one of these, or install the extra that brings it (`gpu` for CUDA and TensorRT, "
            "`onnxruntime-openvino` for OpenVINO).",
        )
    read_provider_options(options.provider, options.provider_options)
    float_layers = options.float_layers
    if float_layers == "auto":
        float_layers = "keep" if any(step.options.get("keep_float") for step in model.history) else "quantize"
    graph_level = options.graph_level
    if graph_level in ("all", "extended") and has_float8(model):
        graph_level = "basic"  # above it, 1.31 takes Relu away before an FP8 QuantizeLinear: wrong answers
    chosen = {
        **to_builtins(options),
        "threads": options.threads or physical_cores(),
        "float_layers": float_layers,
        "graph_level": graph_level,
    }
    return Engine(
        model=model,
        backend="onnxruntime",
        options=chosen,
        device=options.provider,
        path=model.path,
        versions={"onnxruntime": load_runtime().__version__},
    )


def checks(model: Model, options: Options) -> tuple[BuildCheck, ...]:
    """Whether the provider works here, knows the model's opset, and runs the model as it is."""
    return check_setting(model, options.provider, options.provider_options, options.graph_level)


@contextlib.contextmanager
def open_runner(engine: Engine) -> Iterator[SessionRunner]:
    """Opens a session and checks what it really runs on.

    Raises:
        ProviderError: No node, or only a fallback, runs on the provider asked for.
        ModelError: ONNX Runtime refuses the model.
    """
    timer = None
    if engine.device in ON_CUDA:
        with contextlib.suppress(ProviderError):  # without a GPU the session is refused; without cuda-python it runs
            timer = DeviceTimer()
    try:
        yield SessionRunner(open_session(engine, stream=timer.stream if timer else None), engine, timer)
    finally:
        if timer:
            timer.close()
