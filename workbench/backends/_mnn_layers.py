"""MNN's layers: what it runs, and how long each takes, told by the calls that it makes before and after each."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import numpy as np

from workbench.artifact import check_file
from workbench.backends._host import time_calls_for
from workbench.backends._mnn_session import FACTS, Facts, Session
from workbench.backends._source import SourceGraph
from workbench.engine import Engine, Layer, Layers, Tensors, random_feed
from workbench.jobs import Progress
from workbench.workspace import read_json

_DECORATION = re.compile(r"(__matmul_converted)?(_raster_\d+)?$")  # behind the name of the tensor that a layer makes
_MOVING = ("Raster", "ConvertTensor")
_PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_FOLDED = ("BatchNormalization", "Clip", "Relu", "Mul", "Add")  # what the converter computes along with a convolution
_FIRST_RUNS = 3


def optimized(engine: Engine) -> Layers:
    """The layers that MNN makes of the model for one sample. It tells them while it runs: that is done once.

    Raises:
        EngineError: The engine's file is damaged.
        ModelError: MNN refuses the model.
    """
    check_file(engine)
    session = Session(engine)
    session.set_inputs(random_feed(engine.model, 1))
    return Layers(_layers(engine, read_layers(session)))


def profile(engine: Engine, feed: Tensors, seconds: float, progress: Progress) -> Layers:
    """Runs the engine with a call before and after each layer.

    A layer's time is its median. The calls themselves take some microseconds between the layers.

    Args:
        engine: What to run.
        feed: Inputs of the model.
        seconds: How long.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        EngineError: The engine's file is damaged.
        ModelError: MNN refuses the model, or cannot run it on these inputs.
    """
    progress(0.0, f"profiling {engine.model.name} on MNN")
    check_file(engine)
    session = Session(engine)
    session.set_inputs(feed)
    for _ in range(_FIRST_RUNS):
        session.run()
    layers = _layers(engine, read_layers(session))
    times: list[list[float]] = []
    wholes = time_calls_for(lambda: times.append([taken for _, _, taken in read_layers(session)]), seconds)
    medians = np.median(np.array(times), axis=0)
    timed = tuple(dataclasses.replace(layer, ms=float(ms)) for layer, ms in zip(layers, medians, strict=True))
    return Layers(timed, float(np.median(wholes)), len(times))


def read_layers(session: Session) -> list[tuple[str, str, float]]:
    """Runs a session once; name, type and milliseconds of each layer, in their order."""
    begun: list[tuple[str, str, int]] = []
    ended: list[int] = []

    def before(tensors: Any, layer: Any) -> bool:
        begun.append((layer.getName(), layer.getType(), time.perf_counter_ns()))
        return True

    def after(tensors: Any, layer: Any) -> bool:
        ended.append(time.perf_counter_ns())
        return True

    session.run(before, after)
    return [(name, kind, (end - start) / 1e6) for (name, kind, start), end in zip(begun, ended, strict=True)]


def _layers(engine: Engine, found: list[tuple[str, str, float]]) -> tuple[Layer, ...]:
    source = SourceGraph(engine.model)
    precision = _PRECISIONS[read_json(engine.path.with_name(FACTS), Facts).computes]
    named = [source.find(_DECORATION.sub("", name)) for name, _, _ in found]
    own = {node for node in named if node}
    return tuple(
        Layer(
            name=name,
            operator=operator,
            kind="reformat" if operator in _MOVING else "compute",
            precision=precision,
            sources=_sources(node, own, source) if node and operator not in _MOVING else tuple(filter(None, [node])),
            provider="CPU",
        )
        for (name, operator, _), node in zip(found, named, strict=True)
    )


def _sources(node: str, own: set[str], source: SourceGraph) -> tuple[str, ...]:
    """The node that a layer is named after, and those behind it that no layer is named after."""
    sources = [node]
    while (after := source.only_reader(sources[-1])) and after not in own and source.nodes[after].op_type in _FOLDED:
        sources.append(after)
    return tuple(sources)
