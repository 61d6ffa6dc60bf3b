"""A plan that lies on the GPU: what it takes, and the contexts that run it. Not run on a GPU yet.

Like what it imports, it is shipped with exported servers, and so needs nothing else of the workbench.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from workbench.backends._cuda import Cuda
from workbench.backends._tensorrt_package import Package
from workbench.backends._tensorrt_words import NO_DRIVER, plain
from workbench.errors import EngineError, ProviderError

Range: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # smallest, usual, largest shape

REBUILD = "Build the engine again from its model on this machine, or with this GPU among its targets."
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


def deserialize(path: Path, package: Package, what: str) -> tuple[Any, Any]:
    """TensorRT's engine and log; the GPU must be current."""
    module, data = package.module, path.read_bytes()
    log = make_log(module)
    runtime = module.Runtime(log)
    if reason := said_invalid(runtime, module, data):
        raise EngineError(f"{what} cannot be used here: {package.title} says that {reason}.", REBUILD)
    loaded = runtime.deserialize_cuda_engine(data)
    if loaded is None:
        raise EngineError(f"{what} cannot be loaded by {package.title}: {log.reason()}.", REBUILD)
    return loaded, log


def said_invalid(runtime: Any, module: Any, data: bytes) -> str:
    """What RTX has against a plan, from its header alone; TensorRT itself does not tell."""
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    validity, found = runtime.get_engine_validity(data)
    if validity != module.EngineValidity.INVALID:
        return ""
    flags = module.EngineInvalidityDiagnostics.__members__
    return " and ".join(words for name, words in _INVALID.items() if name in flags and int(found) & int(flags[name]))


def stream_weights(loaded: Any, package: Package, options: Mapping[str, Any]) -> None:
    """Sets how much of the weights stays on the GPU: what is asked for, or what TensorRT thinks that there is room for.

    It must be set before there is a context. At or above the size of the weights nothing is streamed.
    """
    if not (package.weight_streaming and options.get("weight_streaming")):
        return
    asked = options.get("weight_budget_mb")
    loaded.weight_streaming_budget_v2 = (
        loaded.get_weight_streaming_automatic_budget() if asked is None else int(asked * 1e6)
    )


def choose_profile(shapes: Mapping[str, tuple[int, ...]], profiles: Sequence[Mapping[str, Range]]) -> int | None:
    """The optimization profile to run shapes with: of those that allow them, the one made for shapes nearest to them.

    Args:
        shapes: Of each input.
        profiles: Smallest, usual and largest shape of each input.

    Returns:
        Its number; None if no profile allows them.
    """
    fitting = [number for number, profile in enumerate(profiles) if not _outside(shapes, profile)]
    return min(fitting, key=lambda number: _distance(shapes, profiles[number]), default=None)


def misfits(shapes: Mapping[str, tuple[int, ...]], profiles: Sequence[Mapping[str, Range]]) -> str:
    """What no profile allows, with the ranges that they do, e.g. `'image' is 64×3×8×8, allowed are 1–32×3×8×8`."""
    names = dict.fromkeys(name for profile in profiles for name in _outside(shapes, profile))
    told = []
    for name in names:
        allowed = " or ".join(dict.fromkeys(_spoken(profile[name]) for profile in profiles))
        told.append(f"'{name}' is {'×'.join(map(str, shapes[name])) or 'a scalar'}, allowed are {allowed}")
    return "; ".join(told)


def _outside(shapes: Mapping[str, tuple[int, ...]], profile: Mapping[str, Range]) -> list[str]:
    """The inputs that a profile does not allow."""
    return [
        name
        for name, (smallest, _, largest) in profile.items()
        if len(shapes[name]) != len(smallest)
        or any(not low <= size <= high for size, low, high in zip(shapes[name], smallest, largest, strict=True))
    ]


def _distance(shapes: Mapping[str, tuple[int, ...]], profile: Mapping[str, Range]) -> float:
    """How far shapes are from those that a profile was made for: the sum of how many times larger or smaller."""
    return sum(
        abs(math.log((size or 1) / (usual or 1)))
        for name, (_, shape, _) in profile.items()
        for size, usual in zip(shapes[name], shape, strict=True)
    )


def _spoken(bounds: Range) -> str:
    smallest, _, largest = bounds
    sizes = (f"{low}" if low == high else f"{low}–{high}" for low, high in zip(smallest, largest, strict=True))
    return "×".join(sizes) or "scalars"


def make_log(module: Any) -> Any:
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
