"""Which of NVIDIA's two packages is used here, `tensorrt` or `tensorrt_rtx`, and what that version of it can do."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias

from workbench.backends._cuda import gpus
from workbench.errors import MissingDependencyError

Choice: TypeAlias = Literal["auto", "tensorrt", "tensorrt_rtx"]

_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_EXTRAS = {"tensorrt": "gpu", "tensorrt_rtx": "tensorrt-rtx"}


@dataclass(frozen=True)
class Package:
    """A package that builds and runs plans; its features are found by looking at its classes, not at its version.

    Attributes:
        name: `tensorrt` or `tensorrt_rtx`.
        module: The package itself.
        version: Its version.
        targets: It builds for compute capabilities that are not here, and chooses kernels where the plan is run.
        timing_cache: It keeps what it timed while it built.
        optimization_level: How long it looks for a fast plan can be chosen.
        hardware_compatibility: A plan can be made to run on newer GPUs than the one that it was built on.
        runtime_cache: What it compiles where the plan is run can be kept.
        refit: Plans can take new weights.
        weight_streaming: Plans can leave weights in the host's memory.
        strongly_typed: Networks must be asked to take every type from the model; where it is False they always do.
    """

    name: str
    module: ModuleType
    version: str
    targets: bool
    timing_cache: bool
    optimization_level: bool
    hardware_compatibility: bool
    runtime_cache: bool
    refit: bool
    weight_streaming: bool
    strongly_typed: bool

    @property
    def title(self) -> str:
        """How it is called in messages, e.g. `TensorRT-RTX 1.7.1.116`."""
        return f"{_TITLES[self.name]} {self.version}"

    def network_flags(self) -> int:
        """What `create_network` takes, so that precision is the model's on every version.

        TensorRT 10 chooses types by builder flags unless it is told otherwise; 11 and RTX have no such flags.
        """
        return 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if self.strongly_typed else 0


def find_package(choice: Choice = "auto") -> Package:
    """Imports the package to use.

    Args:
        choice: The one to use; `auto` takes `tensorrt` where it can be imported and a GPU is here, else `tensorrt_rtx`.

    Raises:
        MissingDependencyError: It is not installed, or cannot be imported.
    """
    if choice != "auto":
        return _describe(choice)
    installed = [name for name in _TITLES if importlib.util.find_spec(name) is not None]
    faults = []
    for name in installed if has_gpu() else reversed(installed):
        try:
            return _describe(name)
        except MissingDependencyError as error:
            faults.append(error)
    raise faults[0] if faults else _missing("tensorrt_rtx", "which this environment lacks")


def has_gpu() -> bool:
    """Whether an NVIDIA GPU and its driver are here."""
    return bool(gpus())


def gpu_target(index: int = 0) -> str:
    """Compute capability of a GPU, e.g. `SM89`; empty where there is none of that number. Not run on a GPU yet."""
    return next((gpu.capability for gpu in gpus() if gpu.index == index), "")


def _describe(name: str) -> Package:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        lacking = isinstance(error, ModuleNotFoundError) and error.name == name
        raise _missing(
            name, "which this environment lacks" if lacking else f"which cannot be imported ({error})"
        ) from None
    settings: Any = module.IBuilderConfig
    flags = module.BuilderFlag.__members__
    targets = hasattr(module, "ComputeCapability") and hasattr(settings, "set_compute_capability")
    return Package(
        name=name,
        module=module,
        version=module.__version__,
        targets=targets,
        # RTX, which is known by its targets, has these three as well, but they do nothing: its own notes on the timing
        # cache say so, it warns of the compatibility level, and every optimization level gave the same plan.
        timing_cache=hasattr(settings, "create_timing_cache") and not targets,
        optimization_level=hasattr(settings, "builder_optimization_level") and not targets,
        hardware_compatibility=hasattr(module, "HardwareCompatibilityLevel") and not targets,
        runtime_cache=hasattr(module, "IRuntimeCache"),
        refit="REFIT" in flags,
        weight_streaming="WEIGHT_STREAMING" in flags,
        strongly_typed="FP16" in flags,  # a builder that chooses types by flags
    )


def _missing(name: str, why: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"The backend 'tensorrt' needs {name}, {why}.",
        f"Install it: pip install 'deployment-workbench[{_EXTRAS[name]}]'.",
    )
