"""Builds a TensorRT plan; runs in a subprocess of its own. On TensorRT-RTX the GPU need not be there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workbench.artifact import LOG
from workbench.backends._tensorrt_listener import Listener, make_log, make_monitor
from workbench.backends._tensorrt_log import NO_DRIVER, parse_layers, plain, read_memory
from workbench.backends._tensorrt_options import Options, device_of
from workbench.backends._tensorrt_package import Package, find_package, has_gpu
from workbench.backends._tensorrt_profiles import OptimizationProfile
from workbench.engine import Layer, Layers
from workbench.errors import BuildError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.workspace import write_bytes

_LISTED = 5  # nodes named in a refusal


class Made(NamedTuple):
    """What a build tells of its plan: the layers, seconds of its phases, and notes."""

    layers: Layers
    phases: dict[str, float]
    notes: tuple[str, ...]


def build_plan(
    model: Model,
    options: Options,
    profiles: Sequence[OptimizationProfile],
    plan: Path,
    timings: Path,
    tell: Callable[[str], None],
    progress: Progress,
) -> Made:
    """Parses the model and writes the plan, and beside it the whole log.

    Each build takes a process of its own: in one where a build for SM75 has failed, TensorRT-RTX 1.7.1 makes the next
    INT8 plan with float kernels, without a word.

    Args:
        model: What to build.
        options: What for, as `resolve` gives them.
        profiles: Shapes of the dynamic inputs.
        plan: Where to write it.
        timings: File of the timing cache.
        tell: Takes what TensorRT says, line by line.
        progress: Called with the share done and a short text.

    Raises:
        BuildError: TensorRT cannot parse or build the model; the details hold every reason that it gave.
    """
    package = find_package(options.package)
    with (plan.with_name(LOG)).open("w", encoding="utf-8") as stream:
        listener = Listener(stream, tell, progress, f"building for {device_of(options)}")
        return _Build(package, model, options, listener).run(profiles, plan, timings)


class _Build:
    """One build with TensorRT's objects, which live no longer than it."""

    def __init__(self, package: Package, model: Model, options: Options, listener: Listener) -> None:
        self.package, self.trt, self.model, self.options, self.listener = (
            package,
            package.module,
            model,
            options,
            listener,
        )
        self.log = make_log(self.trt, listener.say)
        self.builder = self.trt.Builder(self.log)
        self.network = self.builder.create_network(package.network_flags())

    def run(self, profiles: Sequence[OptimizationProfile], plan: Path, timings: Path) -> Made:
        begun = time.monotonic()
        self.listener.progress(0.05, "parsing the model")
        self._parse()
        parsed = time.monotonic()
        settings = self._configure(profiles)
        cache = _use_timings(settings, timings, self.log) if self.options.timing_cache else None
        self.listener.progress(0.2, self.listener.doing)
        serialized = self.builder.build_serialized_network(self.network, settings)
        if serialized is None:
            raise self._failure()
        built = time.monotonic()
        self.listener.progress(0.97, "writing the plan")
        plan.write_bytes(serialized)
        if cache is not None:
            _keep_timings(cache, timings)
        phases = {"parsing": parsed - begun, "building": built - parsed, **self.listener.phases}
        return Made(self._layers(profiles, plan), phases, tuple(self.listener.warnings))

    def _parse(self) -> None:
        parser = self.trt.OnnxParser(self.network, self.log)
        # What is no model parses as well, to a network of no layers.
        if parser.parse_from_file(str(self.model.path)) and self.network.num_layers:
            return
        errors = [parser.get_error(place) for place in range(parser.num_errors)]
        if not errors:
            raise BuildError(
                f"{self.package.title} finds nothing to run in {self.model.name}.",
                "Check that the file is a complete ONNX model.",
            )
        listed = [f"{_node(error)} ({_reason(error)})" for error in errors]
        for line in listed:
            self.listener.say("ERROR", line)
        more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        raise BuildError(
            f"{self.package.title} cannot parse {self.model.name}: {'; '.join(listed[:_LISTED])}{more}.",
            "Export the model with operators and types that it has; quantized models need signed activations and "
            "biases in float.",
            "\n".join(listed),
        )

    def _configure(self, profiles: Sequence[OptimizationProfile]) -> Any:
        trt, options = self.trt, self.options
        settings = self.builder.create_builder_config()
        settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if hasattr(trt, "IProgressMonitor"):
            settings.progress_monitor = make_monitor(trt, self.listener)
        if options.targets:
            settings.num_compute_capabilities = len(options.targets)
            for place, target in enumerate(options.targets):
                settings.set_compute_capability(getattr(trt.ComputeCapability, target), place)
        if options.workspace_mb is not None:
            settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * 10**6)
        if options.optimization_level is not None:
            settings.builder_optimization_level = options.optimization_level
        if options.hardware_compatibility != "none":
            level = options.hardware_compatibility.upper()
            settings.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
        if not options.tf32 and "TF32" in trt.BuilderFlag.__members__:
            settings.clear_flag(trt.BuilderFlag.TF32)  # on by default, and not what the model says
        for wanted, flag in ((options.refittable, "REFIT"), (options.weight_streaming, "WEIGHT_STREAMING")):
            if wanted:
                settings.set_flag(getattr(trt.BuilderFlag, flag))
        for profile in profiles:
            self._add(profile, settings)
        return settings

    def _add(self, profile: OptimizationProfile, settings: Any) -> None:
        made = self.builder.create_optimization_profile()
        for place in range(self.network.num_inputs):
            tensor = self.network.get_input(place)
            if tensor.is_shape_tensor:
                raise BuildError(
                    f"{self.model.name} takes a shape, '{tensor.name}', as an input, and the workbench builds no plans "
                    "of such models.",
                    "Export it with that shape as a constant.",
                )
            if tensor.name in profile.shapes:
                made.set_shape(tensor.name, *profile.shapes[tensor.name])
        if settings.add_optimization_profile(made) < 0:
            raise BuildError(
                f"{self.package.title} does not take the profile '{profile}' for {self.model.name}: "
                f"{self.listener.reason()}.",
                "Change the profile as it says.",
                self.listener.details(),
            )

    def _failure(self) -> BuildError:
        reason, options = self.listener.reason(), self.options
        remedy = "Choose another target or precision, or keep what it names out of the quantized part."
        if options.refittable and not has_gpu():
            reason = f"a refittable plan takes a GPU to build, and there is none here ({reason})"
            remedy = "Leave 'refittable' out, or build where there is a GPU."
        elif options.workspace_mb is not None and "workspace" in reason.lower():
            reason = f"a workspace of {options.workspace_mb:,} MB is too small ({reason})"
            remedy = "Raise 'workspace_mb', or leave it out."
        elif "shape" in reason and "profile" in reason:
            remedy = "Change the profile as it says."
        return BuildError(
            f"{self.package.title} cannot build {self.model.name} for {device_of(options)}: {reason}.",
            remedy,
            self.listener.details(),
        )

    def _layers(self, profiles: Sequence[OptimizationProfile], plan: Path) -> Layers:
        kept = self.listener.kept
        axes = profiles[0].axes(self.model) if profiles else {}
        layers = _inspect(self.trt, plan, self.log) or parse_layers(kept, _counts(self.model, axes), axes.values())
        return Layers(layers, memory=read_memory(kept))


def _node(error: Any) -> str:
    """Which node it is, in words; what concerns no node is about the file or its weights."""
    operator, name = error.node_operator(), error.node_name()
    return f"{operator} '{name}'" if operator or name else "the file"


def _reason(error: Any) -> str:
    """Why the parser refuses a node, in its own words without their surroundings."""
    said = [line for line in error.desc().splitlines() if line.strip() and NO_DRIVER not in line]
    reason = plain(said[-1]) if said else ""
    _, asserted, assertion = reason.rpartition("Assertion failed: ")
    if "Plugin not found" in assertion:
        return "there is no such operator in ONNX or TensorRT, and no plugin for it"
    if assertion in ("", "false"):
        return "it has no such operator"
    if not asserted:
        return reason
    quoted = re.search(r'&& "(.+?)"?$', assertion)  # `condition && "what it means"` or `condition: what it means`
    return quoted[1].rstrip(".") if quoted else assertion.partition(": ")[2] or assertion


def _counts(model: Model, axes: dict[str, int]) -> dict[str, int]:
    """Elements of each node's first output and each input, at these sizes of dynamic axes, as far as they are known."""
    from workbench.graph import summarize_graph
    from workbench.graph.shapes import count

    batch = next((axes[str(spec.shape[0])] for spec in model.inputs if spec.shape and spec.shape[0] in axes), 1)
    nodes = summarize_graph(model, batch=batch, axes={name: size for name, size in axes.items() if name != "?"}).nodes
    shapes = {node.name: node.outputs[0].shape for node in nodes if node.outputs}
    for spec in model.inputs:
        shapes[spec.name] = tuple(axes.get(size, size) if isinstance(size, str) else size for size in spec.shape)
    return {name: size for name, shape in shapes.items() if (size := count(shape)) is not None}


def _inspect(trt: Any, plan: Path, log: Any) -> tuple[Layer, ...]:
    """The layers as the plan itself tells them, where a GPU of its target is here. Not run on a GPU yet."""
    if not has_gpu():
        return ()
    from workbench.backends._tensorrt_inspector import read_layers

    loaded = trt.Runtime(log).deserialize_cuda_engine(plan.read_bytes())
    return read_layers(loaded, trt) if loaded else ()


def _use_timings(settings: Any, path: Path, log: Any) -> Any:
    """Gives the builder what earlier builds timed, or nothing where it does not take that. Not run on a GPU yet."""
    cache = settings.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None:
        cache = settings.create_timing_cache(b"")
    settings.set_timing_cache(cache, False)
    return cache


def _keep_timings(cache: Any, path: Path) -> None:
    """Writes what was timed; of two builds at once, the last one's stays. Not run on a GPU yet."""
    write_bytes(path, bytes(cache.serialize()))
