"""OpenVINO, on the CPU and on whatever other device its plugins find."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Literal

from workbench.backends._host import physical_cores
from workbench.backends._openvino_layers import optimized as optimized
from workbench.backends._openvino_layers import profile as profile
from workbench.backends._openvino_session import RequestRunner, compile_model, load_runtime
from workbench.backends._openvino_support import unsupported as unsupported
from workbench.engine import BuildLog, Engine, unheard
from workbench.errors import ProviderError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option, to_builtins

REQUIRES = {"openvino": "openvino"}


@dataclass(frozen=True)
class Options:
    """How the model is compiled."""

    device: Annotated[str, option("What to run on, in OpenVINO's words.", example="CPU")] = "CPU"
    threads: Annotated[
        int, option("Threads for one inference; 0 takes every core.", minimum=0, maximum=256, unit="threads")
    ] = 0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        option("What float layers compute in; auto is bfloat16 where the processor has it, whatever the model says."),
    ] = "auto"
    hint: Annotated[
        Literal["latency", "throughput"],
        option("What to make best: one inference, or many side by side on several streams.", advanced=True),
    ] = "latency"
    streams: Annotated[
        int, option("Inferences side by side; 0 as the hint says.", minimum=0, maximum=256, advanced=True)
    ] = 0
    pinning: Annotated[
        bool, option("Bind threads to cores; two processes that do so share the first cores.", advanced=True)
    ] = False


def devices() -> tuple[str, ...]:
    """The devices that OpenVINO finds here, e.g. `CPU`."""
    return tuple(load_runtime().Core().available_devices)


def build(model: Model, options: Options, progress: Progress, log: BuildLog = unheard) -> Engine:
    """Describes the model to be compiled; OpenVINO compiles at load, so the artifact is the model itself.

    Raises:
        ProviderError: OpenVINO does not find the device.
    """
    if options.device not in devices():
        raise ProviderError(
            f"OpenVINO finds no {options.device} here: it finds {', '.join(devices())}.",
            "Choose one of these, or install the device's driver.",
        )
    return Engine(
        model=model,
        backend="openvino",
        options={**to_builtins(options), "threads": options.threads or physical_cores()},
        device=options.device,
        path=model.path,
        versions={"openvino": version("openvino")},
    )


@contextlib.contextmanager
def open_runner(engine: Engine) -> Iterator[RequestRunner]:
    """Compiles the model and makes it ready to run.

    Raises:
        ModelError: OpenVINO refuses the model.
    """
    yield RequestRunner(engine, compile_model(engine))
