"""Layers of a plan as TensorRT's inspector tells them, and their times by its profiler. Not run on a GPU yet."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, Literal

import numpy as np

from workbench.backends._host import time_calls_for
from workbench.backends._tensorrt_lane import Lane
from workbench.backends._tensorrt_loaded import Plan
from workbench.backends._tensorrt_log import (
    BITS,
    CARRYING,
    GRAPH,
    graphs_of_other_profiles,
    kind_of,
    type_name,
)
from workbench.backends._tensorrt_plan import load_plan
from workbench.backends._tensorrt_runner import pick_profile
from workbench.engine import Engine, Layer, Layers, Tensors
from workbench.jobs import Progress

_WARM_UP = 3
# How the inspector names element types, alone or within a format such as `Row major linear FP32`, and the build log.
_NAMES = {
    "bfloat16": "BFloat16",
    "bf16": "BFloat16",
    "half": "Half",
    "fp16": "Half",
    "float": "Float",
    "fp32": "Float",
    "fp8": "FP8",
    "fp4": "FP4",
    "e8m0": "E8M0",
    "int4": "Int4",
    "int8": "Int8",
    "uint8": "UInt8",
    "int32": "Int32",
    "int64": "Int64",
    "bool": "Bool",
}
_MOVING = frozenset({"copy", "noop", "reformat", "shuffle"})  # types of layers, besides those of fused kernels
_QUANTIZING = frozenset({"dequantize", "quantize"})
_IDLE = frozenset({"shape_call", "signal", "wait"})  # types of layers that compute nothing on tensors


def read_layers(loaded: Any, module: Any, context: Any = None) -> tuple[Layer, ...]:
    """The layers of a plan on the GPU, without times.

    Args:
        loaded: TensorRT's `ICudaEngine`; one built with detailed profiling verbosity tells more than names.
        module: The package that loaded it.
        context: An `IExecutionContext` with shapes; without one, sizes of dynamic axes are not known.
    """
    inspector = loaded.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    return parse_engine_information(inspector.get_engine_information(module.LayerInformationFormat.JSON))


def parse_engine_information(text: str) -> tuple[Layer, ...]:
    """Reads what `IEngineInspector.get_engine_information` tells as JSON.

    `Layers` are names alone where the plan was built without detailed profiling verbosity, else objects with `Name`,
    `LayerType`, `Inputs` and `Outputs` (each `Name`, `Dimensions`, `Format/Datatype`), `TacticName` and `Metadata`,
    which names the ONNX nodes fused into it. Of a plan with several profiles the layers of the first are taken.
    """
    told = json.loads(text, strict=False)  # the metadata part names by control characters
    return tuple(_layers(told.get("Layers", [])))


def _layers(entries: list[Any]) -> Iterator[Layer]:
    layers: list[Mapping[str, Any]] = [{"Name": each} if isinstance(each, str) else each for each in entries]
    others = graphs_of_other_profiles(f"{told['Name']} {told.get('Inputs', '')}" for told in layers)
    for told in layers:
        graph = GRAPH.search(told["Name"])
        other = "[profile " in told["Name"] or (graph is not None and graph[1] in others)
        if not other and told.get("LayerType") not in _IDLE:
            yield _layer(told)


def _layer(told: Mapping[str, Any]) -> Layer:
    name, kind = told["Name"], str(told.get("LayerType", ""))
    fused = re.match(r"__myl_(\w+?)_myl\d+_\d+$", name)  # as in the build log
    operator = fused[1] if fused else kind or name
    inputs, outputs = ([_tensor(each) for each in told.get(part) or [] if each] for part in ("Inputs", "Outputs"))
    sizes = [_bytes(tensor) for tensor in outputs]
    return Layer(
        name=name,
        operator=operator,
        kind=kind_of(operator, inputs, outputs) if fused else _kind_of_type(kind.lower()),
        precision=type_name((inputs or outputs)[0][1]) if inputs or outputs else "",
        sources=tuple(dict.fromkeys(re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(told.get("Metadata", ""))))),
        provider=kind,
        output_precision=type_name(outputs[0][1]) if outputs else "",
        output_bytes=None if None in sizes or not sizes else sum(size or 0 for size in sizes),
    )


def _kind_of_type(kind: str) -> Literal["compute", "quantize", "reformat"]:
    if kind in _QUANTIZING:
        return "quantize"
    return "reformat" if kind in _MOVING | CARRYING else "compute"


def _tensor(told: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    """Sizes of a tensor and its element type as the build log names it; empty where it is not told or not known."""
    words = re.findall(r"[a-z]+\d*", str(told.get("Format/Datatype", told.get("Datatype", ""))).lower())
    sizes = told.get("Dimensions")
    named = next((_NAMES[word] for word in words if word in _NAMES), "")
    return tuple(sizes) if isinstance(sizes, list) else (-1,), named


def _bytes(tensor: tuple[tuple[int, ...], str]) -> int | None:
    sizes, kind = tensor
    bits = BITS.get(kind) or int((re.search(r"\d+$", kind) or ["0"])[0])
    return -(-prod(sizes) * bits // 8) if bits and min(sizes, default=0) >= 0 else None


def profile_plan(
    engine: Engine, feed: Tensors, seconds: float, progress: Progress, listed: tuple[Layer, ...] = ()
) -> Layers:
    """Runs a plan with TensorRT's profiler on.

    The profiler puts an event around each layer and waits after each inference, without a CUDA graph: the whole is
    longer than it is without. The time of a layer is its mean over all inferences, scaled by the median inference over
    the mean one.

    Args:
        engine: What was built.
        feed: Inputs of the model.
        seconds: How long.
        progress: Called with the share done and a short text; may raise to cancel.
        listed: The layers as the build told them; they get the times if the profiler knows any of them by name, else
            the inspector's do.

    Raises:
        EngineError: The plan does not fit this machine.
        ModelError: The feed does not fit it.
        ProviderError: There is no GPU or no driver.
    """
    progress(0.0, f"loading {engine.model.name} onto the GPU")
    with load_plan(engine) as found, found.cuda:
        plan = dataclasses.replace(found, graphs=False)
        lane = Lane(plan, pick_profile(engine.model, plan, feed))
        try:
            for _ in range(_WARM_UP):
                lane.run(feed)
            progress(0.2, f"profiling {engine.model.name} on {plan.package.title}")
            seen = read_layers(plan.loaded, plan.package.module, lane.context)
            wholes, sums = profile_layers_ms(plan.package.module, lane.context, lambda: lane.run(feed), seconds)
            memory = _memory(plan)
        finally:
            lane.close()
    typical = float(np.median(wholes))
    scale = typical / float(wholes.mean()) / len(wholes)
    layers = listed if any(layer.name in sums for layer in listed) else seen
    return Layers(
        layers=with_times(layers, {name: total * scale for name, total in sums.items()}),
        whole_ms=typical,
        iterations=len(wholes),
        caveats=("a CUDA graph hides gaps between layers that the profiler shows",),
        memory=memory,
    )


def profile_layers_ms(
    module: Any, context: Any, run: Callable[[], object], seconds: float
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], dict[str, float]]:
    """Runs a context with a profiler for some seconds.

    Args:
        module: The package.
        context: TensorRT's `IExecutionContext`, already warmed up; it keeps the profiler.
        run: Runs it once and waits for it.
        seconds: How long.

    Returns:
        Time of each inference, ms, and the sum of all times of each layer, ms, by its name.
    """

    class Profiler(module.IProfiler):  # type: ignore[misc]
        """Adds up what each layer took."""

        def __init__(self) -> None:
            module.IProfiler.__init__(self)
            self.sums: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.sums[layer_name] = self.sums.get(layer_name, 0.0) + float(ms)

    profiler = Profiler()
    context.profiler = profiler
    wholes = time_calls_for(run, seconds)
    return wholes, profiler.sums


def with_times(layers: tuple[Layer, ...], times: Mapping[str, float]) -> tuple[Layer, ...]:
    """Layers with their times, by name; what the profiler saw besides comes last, e.g. copies that TensorRT put in.

    A layer that the profiler does not name takes no time of its own.
    """
    names = {layer.name for layer in layers}
    timed = [dataclasses.replace(layer, ms=times.get(layer.name, 0.0)) for layer in layers]
    others = [Layer(name, "not listed", "reformat", ms=ms) for name, ms in times.items() if name not in names]
    return (*timed, *others)


def _memory(plan: Plan) -> dict[str, int]:
    """Bytes on the GPU: weights, and what one context works in."""
    found = {"activations": int(plan.loaded.device_memory_size_v2)}
    if hasattr(plan.package.module, "EngineStat"):
        found["weights"] = int(plan.loaded.get_engine_stat(plan.package.module.EngineStat.TOTAL_WEIGHTS_SIZE))
    return {name: size for name, size in found.items() if size > 0}
