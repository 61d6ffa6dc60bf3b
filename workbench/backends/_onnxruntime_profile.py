"""ONNX Runtime's layers: those that a session will run, and how long its own profiler saw each of them take."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from workbench.backends._host import time_calls_for
from workbench.backends._onnxruntime_graph import read_layers
from workbench.backends._onnxruntime_providers import COMPILING
from workbench.backends._onnxruntime_session import SessionRunner, open_session
from workbench.backends._source import SourceGraph
from workbench.engine import Engine, Layer, Layers, Tensors
from workbench.jobs import Progress

_MOST_EVENTS = 60_000  # the profiler keeps them all, about 700 bytes each, and writes them at the end
_FIRST_RUNS = 10  # in which caches and memory arenas are still filled


def optimized(engine: Engine) -> Layers:
    """The layers that ONNX Runtime will run after its optimizations; nothing is run.

    Raises:
        ModelError: ONNX Runtime refuses the model.
    """
    if engine.device in COMPILING:
        return Layers(tuple(_read_parts(open_session(engine), engine)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(engine, optimized=path)
        return Layers(tuple(layer for _, layer in read_layers(path, SourceGraph(engine.model), engine.device)))


def profile(engine: Engine, feed: Tensors, seconds: float, progress: Progress) -> Layers:
    """Runs the engine under ONNX Runtime's own profiler.

    A layer's time is its mean over the faster half of the inferences, so that what disturbed the machine is not put
    down to the layer that it happened to hit. The profiler counts whole microseconds: each layer may have taken one
    more. What runs inside an `If`, `Loop` or `Scan` counts as that node's. Of a provider that compiles parts of the
    graph for itself, ONNX Runtime sees each part as one.

    Args:
        engine: What to run.
        feed: Inputs of the model.
        seconds: How long; less where many layers would make the profile too big.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        ModelError: ONNX Runtime refuses the model, or cannot run it on these inputs.
        ProviderError: The provider that would really run is not the one asked for.
    """
    progress(0.0, f"profiling {engine.model.name} on ONNX Runtime")
    with tempfile.TemporaryDirectory() as folder:
        path = None if engine.device in COMPILING else Path(folder) / "optimized.onnx"
        session = open_session(engine, optimized=path, profile=Path(folder) / "profile")
        runner = SessionRunner(session, engine)
        if path is None:
            return _profile_parts(session, runner, engine, feed, seconds)
        layers = read_layers(path, SourceGraph(engine.model), engine.device)
        runner.infer(feed)
        wholes = time_calls_for(runner.bind(feed), seconds, max(20, _MOST_EVENTS // max(1, len(layers))))
        events = _read_events(Path(session.end_profiling()), {node.name for node, _ in layers})
    skipped = min(len(wholes) // 5, _FIRST_RUNS)
    settled = wholes[skipped:]
    calm = settled <= np.median(settled)
    names = [(node.name, node.op_type) for node, _ in layers]
    timed = []
    for place, (_, layer) in enumerate(layers):
        # Nodes of one name, or of none and one operator, are in the order of the graph.
        found = events[names[place]][names[:place].count(names[place]) :: names.count(names[place])]
        if len(found) != len(wholes) + 1:
            timed.append(layer)
            continue
        times = np.array([event.dur for event in found[1 + skipped :]])[calm]
        timed.append(dataclasses.replace(layer, ms=float(times.mean()) / 1000, provider=found[0].args.provider))
    return Layers(tuple(timed), float(np.median(settled)), int(calm.sum()))


def _read_parts(session: Any, engine: Engine) -> Iterator[Layer]:
    """What each provider was given: parts that it compiles for itself, which cannot be written as ONNX, and nodes."""
    source = SourceGraph(engine.model)
    for number, part in enumerate(session.get_provider_graph_assignment_info()):
        nodes = part.get_nodes()
        names = tuple(dict.fromkeys(found for node in nodes if (found := source.find(node.name))))
        one = nodes[0] if len(nodes) == 1 else None
        yield Layer(
            (one and one.name) or f"part {number}",
            one.op_type if one else f"{len(nodes)} nodes",
            sources=names,
            provider=part.ep_name,
        )


def _profile_parts(session: Any, runner: SessionRunner, engine: Engine, feed: Tensors, seconds: float) -> Layers:
    runner.infer(feed)
    wholes = time_calls_for(runner.bind(feed), seconds, _MOST_EVENTS)
    typical = float(np.median(wholes))
    times: dict[str, list[float]] = defaultdict(list)  # of each part, in the order of the graph
    for event in _read_kernels(Path(session.end_profiling())):
        if event.args.provider == engine.device:
            times[event.name].append(event.dur / 1000)
    medians = iter([float(np.median(each[1:])) for each in times.values()])
    parts = [
        dataclasses.replace(part, ms=next(medians, None)) if part.provider == engine.device else part
        for part in _read_parts(session, engine)
    ]
    caveat = f"{engine.device} compiles whole parts of the graph: their insides are not timed."
    return Layers(tuple(parts), typical, len(wholes), (caveat,))


class _Arguments(msgspec.Struct):
    op_name: str = ""
    provider: str = ""


class _Event(msgspec.Struct):
    cat: str
    name: str
    dur: int
    ts: int
    args: _Arguments = msgspec.field(default_factory=_Arguments)


def _read_events(path: Path, named: Set[str]) -> Mapping[tuple[str, str], list[_Event]]:
    """The runs of each node by its name and operator, in the order in which they began.

    A node without a name is called after its operator and a number, of which only the operator is kept.
    """
    found: dict[tuple[str, str], list[_Event]] = defaultdict(list)
    for event in _read_kernels(path):
        name = event.name.removesuffix("_kernel_time")
        nameless = name not in named and re.fullmatch(rf"{event.args.op_name}_\d+", name)
        found["" if nameless else name, event.args.op_name].append(event)
    return found


def _read_kernels(path: Path) -> list[_Event]:
    """The runs of all nodes in the order in which they began."""
    events = msgspec.json.decode(path.read_bytes(), type=list[_Event])
    kernels = [event for event in events if event.cat == "Node" and event.name.endswith("_kernel_time")]
    return sorted(kernels, key=lambda event: event.ts)
