"""OpenVINO's layers: what it compiled the model into, and how long its counters saw each of them take."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

import numpy as np

from workbench.backends._host import time_calls_for
from workbench.backends._openvino_session import RequestRunner, compile_model, read_layers
from workbench.backends._source import SourceGraph
from workbench.engine import Engine, Layer, Layers, Tensors
from workbench.jobs import Progress

_TYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64", "boolean": "bool"}
_DECORATION = re.compile(r"/(WithoutBiases|DequantizationMultiply|fq_weights_\d+).*$")  # behind the name of a node
_EIGHT_BITS = ("i8", "u8")
_FIRST_RUNS = 5


def optimized(engine: Engine) -> Layers:
    """The layers that OpenVINO compiles the model into; nothing is run.

    Raises:
        ModelError: OpenVINO refuses the model.
    """
    source = SourceGraph(engine.model)
    return Layers(tuple(_layer(info, source) for info in read_layers(compile_model(engine))))


def profile(engine: Engine, feed: Tensors, seconds: float, progress: Progress) -> Layers:
    """Runs the engine with OpenVINO's counters on.

    The counters give a layer's mean over all inferences so far, in whole microseconds. The first inferences, in which
    kernels are still made, are taken off. The mean holds whatever disturbed the machine, which hits each layer by its
    length, so all are scaled by the median inference over the mean one. Each layer may have taken a microsecond more
    than it says; one of 0 ms took less than that, or was skipped, as where a change of layout turns out to be none.

    Args:
        engine: What to run.
        feed: Inputs of the model.
        seconds: How long.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        ModelError: OpenVINO refuses the model, or cannot run it on these inputs.
    """
    progress(0.0, f"profiling {engine.model.name} on OpenVINO")
    compiled = compile_model(engine, profile=True)
    runner = RequestRunner(engine, compiled)
    runner.infer(feed)
    call = runner.bind(feed)
    for _ in range(_FIRST_RUNS - 1):
        call()
    first = [_microseconds(info) * _FIRST_RUNS for info in read_layers(compiled)]
    wholes = time_calls_for(call, seconds)
    source = SourceGraph(engine.model)
    typical = float(np.median(wholes))
    scale = typical / float(wholes.mean()) / len(wholes) / 1000
    layers = []
    for info, before in zip(read_layers(compiled), first, strict=True):
        after = _microseconds(info) * (_FIRST_RUNS + len(wholes))
        layers.append(dataclasses.replace(_layer(info, source), ms=max(0, after - before) * scale))
    return Layers(tuple(layers), typical, len(wholes))


def _layer(info: dict[str, str], source: SourceGraph) -> Layer:
    names = [_DECORATION.sub("", name) for name in info["originalLayersNames"].split(",")]
    sources = tuple(dict.fromkeys(found for name in names if (found := source.find(name))))
    kind = _kind(info, sources, source)
    types = (info["runtimePrecision"], info["outputPrecisions"].partition(",")[0])
    integer = types[0] in _EIGHT_BITS or (kind == "quantize" and types[1] in _EIGHT_BITS)
    return Layer(
        name=info["name"],
        operator=info["layerType"],
        kind=kind,
        precision="int8" if integer else _type(types[0]),
        sources=sources,
        provider=info["primitiveType"],
        output_precision=_type(types[1]),
    )


def _type(name: str) -> str:
    return "int8" if name in _EIGHT_BITS else _TYPES.get(name, name.replace("i", "int", 1))


def _microseconds(info: dict[str, str]) -> int:
    return int(info["execTimeMcs"]) if info["execTimeMcs"].isdigit() else 0  # `not_executed`


def _kind(
    info: dict[str, str], sources: tuple[str, ...], source: SourceGraph
) -> Literal["compute", "quantize", "reformat"]:
    operator = info["layerType"]
    if operator == "FakeQuantize" or source.only_quantize(sources):
        return "quantize"
    if operator == "Convert":
        ends = (info["runtimePrecision"], info["outputPrecisions"])
        if all("f" in end for end in ends):
            return "reformat"
        return "quantize" if any(end in _EIGHT_BITS for end in ends) else "compute"
    if operator == "Reorder" or (operator == "Transpose" and not sources):
        return "reformat"
    return "compute"
