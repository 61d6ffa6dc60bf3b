"""TensorRT and TensorRT-RTX: plans for NVIDIA GPUs; RTX builds them on machines without one too."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

from workbench import jobs
from workbench.artifact import Built, Manifest, Misfit, build_artifact, check_file
from workbench.backends._cuda import gpu_names, gpus
from workbench.backends._tensorrt_build import build_plan
from workbench.backends._tensorrt_checks import find_checks, silent_fault
from workbench.backends._tensorrt_options import Options as Options
from workbench.backends._tensorrt_options import device_of, option_faults, resolve
from workbench.backends._tensorrt_package import Choice, Package, find_package, has_gpu
from workbench.backends._tensorrt_profiles import propose_profile as propose_profile
from workbench.backends._tensorrt_profiles import resolve_profiles
from workbench.engine import BuildCheck, BuildLog, Engine, Layers, Runner, Tensors, unheard
from workbench.errors import BuildError, OptionsError, ProviderError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.workspace import Workspace, read_json, write_json

REQUIRES = {"tensorrt_rtx|tensorrt": "tensorrt-rtx"}
_LAYERS = "layers.json"


def devices() -> tuple[str, ...]:
    """The NVIDIA GPUs that are here; none where plans can only be built."""
    return gpu_names()


def runs() -> bool:
    """Whether a GPU is here; without one plans are built and looked at."""
    return has_gpu()


def build(model: Model, options: Options, progress: Progress, log: BuildLog = unheard) -> Engine:
    """Builds the plan in a subprocess and keeps it, its build log and the table of its layers in the workspace.

    Raises:
        OptionsError: The package has no use for an option, or a profile does not fit the model.
        BuildError: TensorRT cannot parse or build the model.
        ProviderError: Building takes a GPU, and there is none here.
        MissingDependencyError: The package is not installed.
    """
    package = find_package(options.package)
    for fault in option_faults(options, package):
        raise OptionsError(fault.what, fault.remedy)
    if not package.targets and not has_gpu():
        raise _without_gpu(package, f"cannot build {model.name}")
    profiles = resolve_profiles(model, options)
    if silent := silent_fault(model):
        raise BuildError(silent.what, silent.remedy)
    resolved = resolve(options, package)
    device = device_of(resolved)
    timings = Workspace().root / "timing-caches" / f"{package.name}-{package.version}-{device}.cache"

    def make(folder: Path) -> Built:
        plan = folder / "model.plan"
        made = jobs.run_watched(build_plan, model, resolved, profiles, plan, timings, progress=progress, watch=log)
        write_json(folder / _LAYERS, made.layers)
        return Built(made.phases, made.notes)

    versions = {package.name: package.version}
    return build_artifact(model, "tensorrt", resolved, device, versions, "model.plan", make, progress)


def checks(model: Model, options: Options) -> tuple[BuildCheck, ...]:
    """What is known of a build before it is begun: precision, targets, profiles, and what will be refused."""
    return tuple(find_checks(model, options, find_package(options.package)))


def open_runner(engine: Engine) -> AbstractContextManager[Runner]:
    """Loads the plan onto the GPU. Not run on a GPU yet.

    Raises:
        ProviderError: There is no GPU or no driver.
        EngineError: The plan is damaged, or was built for another GPU or version.
    """
    check_file(engine)
    if not has_gpu():
        raise _without_gpu(find_package(engine.options["package"]), f"cannot run {engine.model.name}")
    from workbench.backends._tensorrt_runner import open_plan

    return open_plan(engine)


def misfit(manifest: Manifest) -> Misfit | None:
    """Why a plan that was built elsewhere cannot be used here, and with which options it would be; None if it can.

    Where there is no GPU, a plan fits that could be built here.
    """
    from workbench.backends._tensorrt_plan import misfit as told

    name: Choice = "tensorrt" if "tensorrt" in manifest.versions else "tensorrt_rtx"
    anew = {**manifest.options, "package": "auto", "targets": []}
    if find_spec(name) is None:
        return Misfit(f"it was built with {name} {manifest.versions.get(name, '')}, which is not installed here", anew)
    wanted = manifest.options.get("gpu", 0)
    gpu = next((gpu for gpu in gpus() if gpu.index == wanted), None)
    reason = told(manifest, find_package(name), gpu) if gpu else ""
    return Misfit(reason, anew) if reason else None


def profile(engine: Engine, feed: Tensors, seconds: float, progress: Progress) -> Layers:
    """The layers of the plan, with times where there is a GPU. Not run on a GPU yet.

    Args:
        engine: What was built.
        feed: What to run on.
        seconds: How long to measure.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        EngineError: The plan is damaged, or does not fit this machine.
        ModelError: The feed does not fit the plan.
    """
    if not has_gpu():
        return optimized(engine)
    from workbench.backends._tensorrt_inspector import profile_plan

    return profile_plan(engine, feed, seconds, progress, optimized(engine).layers)


def optimized(engine: Engine) -> Layers:
    """The layers of the plan and its memory, as TensorRT's inspector or, without a GPU, its build log lists them.

    Raises:
        EngineError: The plan is gone or damaged.
    """
    check_file(engine)
    return read_json(engine.path.with_name(_LAYERS), Layers)


def _without_gpu(package: Package, what: str) -> ProviderError:
    return ProviderError(
        f"{package.title} {what} here: there is no NVIDIA GPU, or no driver for it.",
        "Take it to a machine with an NVIDIA GPU and its driver, or use another backend.",
    )
