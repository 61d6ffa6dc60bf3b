"""Loads a plan onto the GPU: only where it fits, and in words where it does not. Not run on a GPU yet."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.artifact import Manifest, check_file, read_manifest
from workbench.backends._cuda import Cuda, Gpu
from workbench.backends._tensorrt_loaded import REBUILD, Plan, deserialize, stream_weights
from workbench.backends._tensorrt_package import Choice, Package, find_package
from workbench.backends._tensorrt_words import plain
from workbench.engine import Engine
from workbench.errors import EngineError, ProviderError, WorkspaceError
from workbench.workspace import write_bytes

_COMPILED = "compiled.cache"  # beside the plan: kernels that RTX compiled on this GPU


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
        raise EngineError(f"The engine of {engine.model.name} cannot be used here: {reason}.", REBUILD)
    with cuda:
        loaded, log = deserialize(engine.path, package, f"The engine of {engine.model.name}")
        stream_weights(loaded, package, engine.options)
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
        loaded, log = deserialize(plan, package, str(plan))
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


def _clause(message: str) -> str:
    """A message as the end of a sentence."""
    return (message if message.startswith("CUDA") else message[0].lower() + message[1:]).rstrip(".")
