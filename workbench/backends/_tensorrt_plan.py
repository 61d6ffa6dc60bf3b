"""Loads a plan onto the GPU: only where it fits, and in words where it does not. Not run on a GPU yet."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from workbench.artifact import Manifest, check_file, read_manifest
from workbench.backends._cuda import Cuda, Gpu
from workbench.backends._tensorrt_log import NO_DRIVER, plain
from workbench.backends._tensorrt_package import Choice, Package, find_package
from workbench.engine import Engine
from workbench.errors import EngineError, ProviderError, WorkspaceError
from workbench.workspace import write_bytes

Range: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # smallest, usual, largest shape

_COMPILED = "compiled.cache"  # beside the plan: kernels that RTX compiled on this GPU
_REBUILD = "Build the engine again from its model on this machine, or with this GPU among its targets."
# What RTX says of a plan before it loads it, by the name of the flag.
_INVALID = {
    "VERSION_MISMATCH": "another version built it",
    "UNSUPPORTED_CC": "it was built for other GPUs",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "the file is no plan",
    "CUDA_ERROR": "CUDA does not work here",
}


@dataclass(frozen=True)
class Plan:
    """A plan that lies on the GPU.

    Attributes:
        name: Of its model.
        package: What loaded it.
        cuda: Where it lies.
        loaded: TensorRT's own `ICudaEngine`.
        log: What TensorRT says.
        graphs: Whether CUDA graphs are asked for.
        compiled: RTX's own `IRuntimeCache` of the kernels that it compiles on this GPU; None for TensorRT.
    """

    name: str
    package: Package
    cuda: Cuda
    loaded: Any
    log: Any
    graphs: bool
    compiled: Any = None

    @cached_property
    def profiles(self) -> list[dict[str, Range]]:
        """The shapes that each of its optimization profiles allows, by input."""
        loaded, modes = self.loaded, self.package.module.TensorIOMode
        names = [loaded.get_tensor_name(place) for place in range(loaded.num_io_tensors)]
        inputs = [name for name in names if loaded.get_tensor_mode(name) == modes.INPUT]
        return [
            {name: _range(loaded, name, number) for name in inputs}
            for number in range(loaded.num_optimization_profiles)
        ]

    @property
    def captures_itself(self) -> bool:
        """Whether TensorRT makes its own CUDA graphs: RTX does, and knows when its kernels for a shape are ready."""
        return self.graphs and hasattr(self.package.module, "CudaGraphStrategy")

    def make_context(self) -> Any:
        """A context that runs it; each has its own memory for activations.

        Raises:
            ProviderError: There is no memory for it.
        """
        module, settings = self.package.module, None
        if hasattr(module, "DynamicShapesKernelSpecializationStrategy"):
            settings = self.loaded.create_runtime_config()
            # Kernels for a shape are compiled before it runs, not beside it: what is timed would change meanwhile.
            kinds = module.DynamicShapesKernelSpecializationStrategy
            settings.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER
            if self.compiled is not None:
                settings.set_runtime_cache(self.compiled)
            if self.captures_itself:
                settings.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        made = self.loaded.create_execution_context(settings) if settings else self.loaded.create_execution_context()
        if made is None:
            needed = self.loaded.device_memory_size_v2 / 1e6
            raise ProviderError(
                f"{self.package.title} cannot run another inference at a time: {self.log.reason()}. Each takes "
                f"{needed:,.0f} MB of the GPU for what it works out in between.",
                "Use fewer callers or a profile with smaller shapes, or end what else holds the GPU's memory.",
            )
        return made


@contextlib.contextmanager
def load_plan(engine: Engine) -> Iterator[Plan]:
    """Checks an engine and loads its plan, for as long as the block lasts.

    Raises:
        EngineError: The file is damaged, or the plan was built by another version or for another GPU.
        ProviderError: There is no GPU or no driver, or the driver is too old.
        MissingDependencyError: The package that built it is not installed.
    """
    check_file(engine)
    manifest = read_manifest(engine.path.parent)
    choice: Choice = "tensorrt_rtx" if "tensorrt_rtx" in manifest.versions else "tensorrt"
    package = find_package(choice)
    try:
        cuda = Cuda(int(engine.options.get("gpu", 0)))
    except ProviderError as error:
        raise ProviderError(
            f"{engine.model.name} cannot run on {package.title} here: {_clause(error.message)}.",
            f"{error.remedy} A plan runs on an NVIDIA GPU of its target ({manifest.device}) only.",
        ) from error
    if reason := misfit(manifest, package, cuda.gpu):
        raise EngineError(f"The engine of {engine.model.name} cannot be used here: {reason}.", _REBUILD)
    with cuda:
        loaded, log = _deserialize(engine.path, package, f"The engine of {engine.model.name}")
        _stream_weights(loaded, package, engine.options)
        kept = engine.path.with_name(_COMPILED)
        compiled = _read_compiled(loaded, kept) if package.runtime_cache else None
    yield Plan(engine.model.name, package, cuda, loaded, log, bool(engine.options.get("cuda_graphs", True)), compiled)
    if compiled is not None:
        with cuda, contextlib.suppress(WorkspaceError):  # what cannot be kept is compiled again
            _keep_compiled(compiled, kept)


def misfit(manifest: Manifest, package: Package, gpu: Gpu) -> str:
    """Why a plan cannot run here by what is written of it, both sides named; empty if nothing speaks against it.

    Args:
        manifest: What it was built with and for.
        package: What would load it.
        gpu: Where it would run.
    """
    built_with = manifest.versions.get(package.name, "")
    if built_with and built_with != package.version:
        return f"it was built with {package.name} {built_with}, and here is {package.version}"
    targets = re.findall(r"SM\d+", manifest.device)
    # A plan for several kinds of GPUs does not list them; TensorRT itself knows whether this is one of them.
    wider = manifest.options.get("hardware_compatibility", "none") != "none"
    if targets and gpu.capability not in targets and not wider:
        return f"it was built for {' and '.join(targets)}, and the GPU here is {gpu}"
    return ""


def refit_plan(plan: Path, onnx: Path, target: Path, choice: Choice = "auto") -> None:
    """Gives a plan the weights of another ONNX file of the same graph, without building it again.

    Args:
        plan: One that was built to be refitted.
        onnx: Where the new weights are.
        target: Where to write the new plan.
        choice: The package that built it.

    Raises:
        EngineError: The plan takes no new weights, or the file does not have all that it needs.
        ProviderError: There is no GPU or no driver.
    """
    package = find_package(choice)
    module = package.module
    with Cuda():
        loaded, log = _deserialize(plan, package, str(plan))
        if not loaded.refittable:
            raise EngineError(f"{plan} takes no new weights.", "Build it with the option 'refittable'.")
        parser = module.OnnxParserRefitter(module.Refitter(loaded, log), log)
        if not parser.refit_from_file(str(onnx)):
            told = [parser.get_error(place).desc() for place in range(parser.num_errors)]
            raise EngineError(
                f"{plan} cannot take the weights of {onnx}: {plain(told[0]) if told else log.reason()}.",
                "Only the values of the weights may differ from the model that it was built from.",
            )
        settings = loaded.create_serialization_config()
        settings.set_flag(module.SerializationFlag.INCLUDE_REFIT)
        serialized = loaded.serialize_with_config(settings)
    if serialized is None:
        raise EngineError(f"{plan} with new weights cannot be written: {log.reason()}.", "Build the engine again.")
    write_bytes(target, bytes(serialized))


def _deserialize(path: Path, package: Package, what: str) -> tuple[Any, Any]:
    """TensorRT's engine and log; the GPU must be current."""
    module, data = package.module, path.read_bytes()
    log = _make_log(module)
    runtime = module.Runtime(log)
    if reason := _said_invalid(runtime, module, data):
        raise EngineError(f"{what} cannot be used here: {package.title} says that {reason}.", _REBUILD)
    loaded = runtime.deserialize_cuda_engine(data)
    if loaded is None:
        raise EngineError(f"{what} cannot be loaded by {package.title}: {log.reason()}.", _REBUILD)
    return loaded, log


def _said_invalid(runtime: Any, module: Any, data: bytes) -> str:
    """What RTX has against a plan, from its header alone; TensorRT itself does not tell."""
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    validity, found = runtime.get_engine_validity(data)
    if validity != module.EngineValidity.INVALID:
        return ""
    flags = module.EngineInvalidityDiagnostics.__members__
    return " and ".join(words for name, words in _INVALID.items() if name in flags and int(found) & int(flags[name]))


def _read_compiled(loaded: Any, kept: Path) -> Any:
    """The cache of compiled kernels, with what an earlier run kept; TensorRT-RTX refuses what does not fit this GPU."""
    compiled = loaded.create_runtime_config().create_runtime_cache()
    if compiled is not None and kept.is_file():
        compiled.deserialize(kept.read_bytes())
    return compiled


def _keep_compiled(compiled: Any, kept: Path) -> None:
    """Writes the cache where it has grown: each fresh process would else compile the same again."""
    serialized = compiled.serialize()
    if serialized is not None and (not kept.is_file() or serialized.nbytes != kept.stat().st_size):
        write_bytes(kept, bytes(serialized))


def _stream_weights(loaded: Any, package: Package, options: Mapping[str, Any]) -> None:
    """Sets how much of the weights stays on the GPU: what is asked for, or what TensorRT thinks that there is room for.

    It must be set before there is a context. At or above the size of the weights nothing is streamed.
    """
    if not (package.weight_streaming and options.get("weight_streaming")):
        return
    asked = options.get("weight_budget_mb")
    loaded.weight_streaming_budget_v2 = (
        loaded.get_weight_streaming_automatic_budget() if asked is None else int(asked * 1e6)
    )


def _make_log(module: Any) -> Any:
    class Log(module.ILogger):  # type: ignore[misc]
        """Keeps the errors: TensorRT's reasons are nowhere else."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= module.ILogger.Severity.ERROR:
                self.errors.append(text)

        def reason(self) -> str:
            """The first error since it was last asked for one: what follows is what that led to."""
            errors, self.errors = self.errors, []
            told = [text for text in errors if NO_DRIVER not in text]
            if errors and not told:
                return "there is no NVIDIA driver"
            return plain(told[0]) if told else "it does not say why"

    return Log()


def _range(loaded: Any, name: str, profile: int) -> Range:
    """What an optimization profile allows for an input; fixed shapes stand in none."""
    shape = _sizes(loaded.get_tensor_shape(name))
    if min(shape, default=0) >= 0:
        return shape, shape, shape
    smallest, usual, largest = map(_sizes, loaded.get_tensor_profile_shape(name, profile))
    return smallest, usual, largest


def _sizes(shape: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in shape)


def _clause(message: str) -> str:
    """A message as the end of a sentence."""
    return (message if message.startswith("CUDA") else message[0].lower() + message[1:]).rstrip(".")
