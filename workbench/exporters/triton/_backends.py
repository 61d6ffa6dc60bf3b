"""Which of Triton's backends runs a candidate, with which settings, and what it does otherwise than the workbench."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.backends._onnxruntime_providers import CPU, CUDA, TENSORRT, asked_settings
from workbench.comparison import Candidate
from workbench.engine import Engine
from workbench.errors import ExportError
from workbench.exporters.triton._pbtxt import Field
from workbench.options import make_options
from workbench.serving_plan import ServingPlan

_LEVELS = {"extended": 1, "basic": -1, "disabled": 2}  # Triton's numbers of them; without one, it does all
_TENSORRT_NAMES = {"trt_max_workspace_size": "max_workspace_size_bytes"}  # what Triton calls otherwise
_HINTS = {"latency": "LATENCY", "throughput": "THROUGHPUT", "cumulative": "CUMULATIVE_THROUGHPUT"}


@dataclass(frozen=True)
class Target:
    """How Triton runs a candidate.

    Attributes:
        backend: Name of Triton's backend.
        source: The file that it loads.
        file: What it is called in the repository.
        kind: What an instance runs on.
        batches: Largest batch of the backend; 0 where it cannot put requests together, None where any will do.
        settings: Fields of the configuration that are this backend's own.
        profiles: Optimization profiles to choose from, by number.
        differences: What will be otherwise than it was measured, in sentences.
    """

    backend: str
    source: Path
    file: str
    kind: Literal["KIND_CPU", "KIND_GPU"]
    batches: int | None = None
    settings: tuple[Field, ...] = ()
    profiles: int = 0
    differences: tuple[str, ...] = ()


def find_target(candidate: Candidate, plan: ServingPlan) -> Target:
    """How Triton runs a candidate.

    Raises:
        ExportError: It has no backend that does, or the candidate's settings cannot be given to it.
    """
    engine = candidate.engine
    if engine.backend not in _MAKERS:
        raise ExportError(
            f"Triton has no backend that runs {candidate.name} as {engine.backend} does.",
            "Choose a candidate on ONNX Runtime, OpenVINO or TensorRT.",
        )
    return _MAKERS[engine.backend](engine, plan)


def _onnxruntime(engine: Engine, plan: ServingPlan) -> Target:
    if engine.device not in (CPU, CUDA, TENSORRT):
        raise ExportError(
            f"Triton's ONNX Runtime does not take the settings of {engine.device}.",
            f"Choose a candidate on {CPU}, {CUDA} or {TENSORRT}, or one of the backend openvino or tensorrt.",
        )
    options, settings, differences = engine.options, [], []
    optimization = []
    if level := _LEVELS.get(options["graph_level"]):
        optimization.append(Field("graph", (Field("level", level, f"{options['graph_level']} optimizations"),)))
    optimization += _accelerators(engine)
    if optimization:
        settings.append(Field("optimization", tuple(optimization)))
    settings.append(_parameter("intra_op_thread_count", int(plan.threads.value), plan.threads.source))
    if not options.get("arena", True):
        settings.append(_parameter("enable_mem_arena", 0, "as the candidate was measured"))
    if options.get("float_layers") == "keep" and options["graph_level"] == "all":
        differences.append(
            "The candidate keeps some layers in float, for which the workbench turns ONNX Runtime's optimizer "
            "WeightBiasQuantization off. Triton has no setting for that: a newer ONNX Runtime may compute these layers "
            "in INT8, and answer and last otherwise than measured. client.py shows by how much."
        )
    if not options.get("spinning", True):
        differences.append(
            "The candidate was measured with threads that sleep while they wait. Triton has no setting for that: they "
            "spin, which costs processor time beside other work."
        )
    kind: Literal["KIND_CPU", "KIND_GPU"] = "KIND_CPU" if engine.device == CPU else "KIND_GPU"
    return Target(
        "onnxruntime", engine.model.path, "model.onnx", kind, None, tuple(settings), differences=tuple(differences)
    )


def _accelerators(engine: Engine) -> list[Field]:
    """What a provider on a GPU is given; CUDA itself comes with the kind of the instances."""
    given = asked_settings(engine)
    if engine.device == CPU or (engine.device == CUDA and not given):
        return []
    if engine.device == TENSORRT:
        given = {_TENSORRT_NAMES.get(key, key): value for key, value in given.items()}
    name = Field("name", "cuda" if engine.device == CUDA else "tensorrt")
    parameters = (Field("parameters", (Field("key", key), Field("value", value))) for key, value in given.items())
    return [Field("execution_accelerators", (Field("gpu_execution_accelerator", (name, *parameters)),))]


def _openvino(engine: Engine, plan: ServingPlan) -> Target:
    if engine.device != "CPU":
        raise ExportError(
            f"Triton's OpenVINO runs on the CPU only; the candidate is built for {engine.device}.",
            "Build it for the device CPU.",
        )
    options, differences = engine.options, []
    threads, instances = plan.threads, plan.instances
    # All instances share one compiled model, so that it needs a stream, and threads, for each.
    settings = [
        _parameter("INFERENCE_NUM_THREADS", int(plan.cpu_cores.value), plan.cpu_cores.source),
        _parameter("NUM_STREAMS", int(instances.value), f"one for each instance: {instances.source}"),
        _parameter("PERFORMANCE_HINT", _HINTS[options["hint"]], "as the candidate was measured"),
    ]
    if options["precision"] == "bfloat16":
        settings.append(_parameter("HINT_BF16", "YES", "as the candidate was measured"))
    if options["precision"] == "float32":
        differences.append(
            "The candidate computes in float32. Triton has no setting for that: on a processor that has bfloat16, "
            "float layers are computed in it, faster and less exactly. client.py shows by how much."
        )
    if options["streams"] not in (0, instances.value):
        differences.append(
            f"The candidate was built with {options['streams']} streams; here there is one of {threads.value:g} "
            f"threads for each of {instances.value:g} instances."
        )
    return Target(
        "openvino", engine.model.path, "model.onnx", "KIND_CPU", 0, tuple(settings), differences=tuple(differences)
    )


def _tensorrt(engine: Engine, plan: ServingPlan) -> Target:
    if "tensorrt_rtx" in engine.versions:
        raise ExportError(
            "The plan is one of TensorRT-RTX, and Triton's backend loads those of TensorRT only.",
            "Build it with the package tensorrt on a machine with the GPU that it is to run on, or choose a candidate "
            "on ONNX Runtime.",
        )
    from workbench.backends._tensorrt_options import Options as PlanOptions
    from workbench.backends._tensorrt_profiles import resolve_profiles

    profiles = resolve_profiles(engine.model, make_options(PlanOptions, engine.options, "the candidate's plan"))
    batches = [min(largest[0] for _, _, largest in profile.shapes.values()) for profile in profiles]
    version = engine.versions.get("tensorrt", "its version")
    differences = [
        f"The plan was built by TensorRT {version} for {engine.device}: Triton's image must have the same TensorRT, "
        "and the machine the same kind of GPU."
    ]
    if engine.options.get("weight_streaming"):
        differences.append("Triton leaves no weights in the host's memory: the GPU must have room for all.")
    return Target(
        "tensorrt",
        engine.path,
        "model.plan",
        "KIND_GPU",
        max(batches, default=None),
        profiles=len(profiles),
        differences=tuple(differences),
    )


def _parameter(key: str, value: int | str, comment: str) -> Field:
    return Field("parameters", (Field("key", key), Field("value", (Field("string_value", str(value)),))), comment)


_MAKERS = {"onnxruntime": _onnxruntime, "openvino": _openvino, "tensorrt": _tensorrt}
TAKEN = tuple(_MAKERS)  # backends whose candidates Triton runs
