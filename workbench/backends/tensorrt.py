"""TensorRT-RTX: builds plans for NVIDIA GPUs, on machines without one too, and tells their layers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from workbench import jobs
from workbench.backends._tensorrt_build import build_plan, load_plan
from workbench.engine import BuildLog, Engine, Layer, Layers, Runner, Tensors, unheard
from workbench.errors import ProviderError, WorkspaceError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option, to_builtins
from workbench.workspace import Workspace, read_json, write_json

REQUIRES = {"tensorrt_rtx": "tensorrt-rtx"}
RUNS = False  # yet: plans are built and looked at


@dataclass(frozen=True)
class Options:
    """What the plan is built for. Its precision is the model's: casts and Q/DQ nodes."""

    target: Annotated[
        Literal["SM75", "SM80", "SM86", "SM89", "SM120", "SM121"],
        option("Compute capability of the GPU: 75 Turing, 80 and 86 Ampere, 89 Ada, 120 and 121 Blackwell."),
    ] = "SM89"
    batch: Annotated[int, option("The batch to make fastest, of a dynamic one.", minimum=1, unit="samples")] = 1
    max_batch: Annotated[int, option("The largest batch, of a dynamic one.", minimum=1, unit="samples")] = 32


def devices() -> tuple[str, ...]:
    """None yet: plans are built and looked at, not run."""
    return ()


def build(model: Model, options: Options, progress: Progress, log: BuildLog = unheard) -> Engine:
    """Builds the plan in a subprocess and keeps it, and the table of its layers, in the workspace.

    Raises:
        ModelError: TensorRT cannot parse or build the model.
    """
    versions = {"tensorrt_rtx": version("tensorrt_rtx")}
    key = {"model": model.sha256, "backend": "tensorrt", "options": to_builtins(options), "versions": versions}

    def make(folder: Path) -> None:
        batches = (options.batch, max(options.batch, options.max_batch))
        layers = jobs.run(build_plan, model, options.target, batches, folder / "model.plan", progress=progress)
        write_json(folder / "layers.json", layers)

    folder = Workspace().artifact("engines", key, make)
    return Engine(model, "tensorrt", to_builtins(options), options.target, folder / "model.plan", versions)


def open_runner(engine: Engine) -> AbstractContextManager[Runner]:
    """Refuses: nobody has run plans through the workbench on a GPU yet.

    Raises:
        ProviderError: Always; it says whether a GPU would have taken the plan.
        WorkspaceError: The plan is gone.
    """
    reason = load_plan(_plan(engine))
    raise ProviderError(
        f"{engine.model.name} cannot run on TensorRT-RTX here: {reason or 'the workbench does not run plans yet'}.",
        "Use the plan on a machine with an NVIDIA GPU of its target, or run the model on another backend.",
    )


def profile(engine: Engine, feed: Tensors, seconds: float, progress: Progress) -> Layers:
    """The layers of the plan, without times: those take a GPU, and nobody has tried that here.

    Args:
        engine: What was built.
        feed: Not used.
        seconds: Not used.
        progress: Called with the share done and a short text; may raise to cancel.
    """
    return optimized(engine)


def optimized(engine: Engine) -> Layers:
    """The layers of the plan, as TensorRT's build log lists them.

    Raises:
        WorkspaceError: The plan is gone.
    """
    return Layers(read_json(_plan(engine).with_name("layers.json"), tuple[Layer, ...]))


def _plan(engine: Engine) -> Path:
    if not engine.path.is_file():
        raise WorkspaceError(f"The plan of {engine.model.name} is gone: {engine.path}.", "Build the engine again.")
    return engine.path
