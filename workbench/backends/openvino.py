"""OpenVINO, on the CPU and on whatever other device its plugins find."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from workbench import jobs
from workbench.artifact import Built, Manifest, Misfit, build_artifact
from workbench.backends._host import physical_cores
from workbench.backends._openvino_checks import check_setting, missing_devices
from workbench.backends._openvino_layers import optimized as optimized
from workbench.backends._openvino_layers import profile as profile
from workbench.backends._openvino_session import (
    COMPILED,
    RequestRunner,
    compile_model,
    export_compiled,
    load_runtime,
    processor,
)
from workbench.backends._openvino_support import unsupported as unsupported
from workbench.engine import BuildCheck, BuildLog, Engine, unheard
from workbench.errors import OptionsError, ProviderError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option, to_builtins

REQUIRES = {"openvino": "openvino"}

_FILE = f"model{COMPILED}"


@dataclass(frozen=True)
class Options:
    """How the model is compiled."""

    device: Annotated[str, option("What to run on, in OpenVINO's words; AUTO leaves it the choice.", example="CPU")] = (
        "CPU"
    )
    threads: Annotated[
        int, option("Threads for one inference; 0 takes every core.", minimum=0, maximum=256, unit="threads")
    ] = 0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        option("What float layers compute in; auto is bfloat16 where the processor has it, whatever the model says."),
    ] = "auto"
    hint: Annotated[
        Literal["latency", "throughput", "cumulative"],
        option(
            "What to make best: one inference, or many side by side on several streams; cumulative spreads them over "
            "all devices of AUTO.",
            advanced=True,
        ),
    ] = "latency"
    streams: Annotated[
        int, option("Inferences side by side; 0 as the hint says.", minimum=0, maximum=256, advanced=True)
    ] = 0
    pinning: Annotated[
        bool, option("Bind threads to cores; two processes that do so share the first cores.", advanced=True)
    ] = False
    cache: Annotated[
        bool,
        option(
            "Keep what was compiled in the workspace, on as much disk as the model takes: big quantized models open "
            "faster.",
            advanced=True,
        ),
    ] = False


def devices() -> tuple[str, ...]:
    """The devices that OpenVINO finds here, e.g. `CPU`."""
    return tuple(load_runtime().Core().available_devices)


def checks(model: Model, options: Options) -> tuple[BuildCheck, ...]:
    """Whether the device is here, what float layers will really be computed in, and which operators are missing."""
    return check_setting(model, options.device, options.precision, options.hint)


def build(model: Model, options: Options, progress: Progress, log: BuildLog = unheard) -> Engine:
    """Describes the model to be compiled; with `cache`, compiles it in a subprocess and keeps what comes of it.

    Otherwise OpenVINO compiles at load, and the artifact is the model itself.

    Raises:
        ProviderError: OpenVINO does not find the device.
        ModelError: OpenVINO refuses the model, which it does at load without `cache`.
    """
    core = load_runtime().Core()
    if missing := missing_devices(options.device, core.available_devices):
        raise ProviderError(
            f"OpenVINO finds no {', '.join(missing)} here: it finds {', '.join(core.available_devices)}.",
            "Choose one of these, or install the device's driver.",
        )
    chosen = replace(options, threads=options.threads or physical_cores())
    versions = {"openvino": version("openvino")}
    engine = Engine(model, "openvino", to_builtins(chosen), options.device, model.path, versions)
    if not options.cache:
        return engine
    if options.device.startswith("AUTO"):
        raise OptionsError("AUTO chooses a device at load, so that nothing can be compiled before.", "Name the device.")
    versions["processor"] = processor(core, options.device)

    def make(folder: Path) -> Built:
        log(f"compiling {model.name} with OpenVINO {versions['openvino']} for {versions['processor']}")
        jobs.run(export_compiled, engine, folder / _FILE, progress=progress)
        return Built()

    return build_artifact(model, "openvino", chosen, options.device, versions, _FILE, make, progress)


def misfit(manifest: Manifest) -> Misfit | None:
    """Whether a compiled model was made for another processor."""
    core = load_runtime().Core()
    missing = missing_devices(manifest.device, core.available_devices)
    here = f"no {manifest.device}" if missing else processor(core, manifest.device)
    built_for = manifest.versions.get("processor", here)
    return (
        Misfit(f"it was compiled for {built_for}, and here is {here}", manifest.options) if here != built_for else None
    )


@contextlib.contextmanager
def open_runner(engine: Engine) -> Iterator[RequestRunner]:
    """Compiles the model, or opens what was compiled, and makes it ready to run.

    Raises:
        ModelError: OpenVINO refuses the model.
        EngineError: What was compiled is damaged, or made by another version or for another processor.
    """
    runner = RequestRunner(engine, compile_model(engine))
    try:
        yield runner
    finally:
        runner.close()
