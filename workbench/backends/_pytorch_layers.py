"""The layers of an ONNX graph that PyTorch runs eagerly, each timed as it is called."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from workbench.backends._host import time_calls_for
from workbench.backends._pytorch_module import as_call, open_module
from workbench.backends._pytorch_runner import Facts, ModuleRunner
from workbench.backends._source import SourceGraph
from workbench.engine import Engine, Layer, Layers, Tensors
from workbench.errors import OptionsError
from workbench.graph_module.inference import SOURCE
from workbench.jobs import Progress

_FIRST_RUNS = 3
_QUANTIZING = ("DequantizeLinear", "QuantizeLinear")


def optimized(engine: Engine) -> Layers:
    """The nodes that PyTorch runs: those of the graph that depend on its inputs. Nothing is run.

    Raises:
        OptionsError: The engine is compiled, or a module of the user's own.
        ModelError: The graph has an operator that is not known.
    """
    return Layers(tuple(_layer(engine, entry, SourceGraph(engine.model)) for entry in _nodes(_graph(engine))))


def profile(engine: Engine, feed: Tensors, seconds: float, progress: Progress) -> Layers:
    """Runs the graph node by node; a layer's time is its median. On a GPU each is waited for; not run on a GPU yet.

    Args:
        engine: What to run.
        feed: Inputs of the model.
        seconds: How long.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        OptionsError: The engine is compiled, or a module of the user's own.
        ModelError: The graph has an operator that is not known.
    """
    import torch

    progress(0.0, f"profiling {engine.model.name} on PyTorch")
    module = _graph(engine)
    inputs = ModuleRunner(engine, as_call(module, len(engine.model.outputs)), Facts(0)).tensors(feed)
    before = torch.get_num_threads()
    torch.set_num_threads(engine.options["threads"])
    try:
        with torch.inference_mode():
            timer = _timer(module, engine.device)
            for _ in range(_FIRST_RUNS):
                timer.run(*inputs)
            timer.times.clear()
            wholes = time_calls_for(lambda: timer.run(*inputs), seconds)
    finally:
        torch.set_num_threads(before)
    source = SourceGraph(engine.model)
    layers = tuple(_layer(engine, entry, source, float(np.median(timer.times[entry]))) for entry in _nodes(module))
    return Layers(layers, float(np.median(wholes)), len(wholes))


def _graph(engine: Engine) -> Any:
    if engine.options["factory"] or engine.options["mode"] == "compile":
        what = "a module of your own" if engine.options["factory"] else "a compiled graph"
        raise OptionsError(
            f"PyTorch tells no layers of {what}.", "Build the engine with the mode eager and without a factory."
        )
    return open_module(engine)


def _nodes(module: Any) -> list[Any]:
    return [entry for entry in module.graph.nodes if SOURCE in entry.meta]


def _timer(module: Any, device: str) -> Any:
    import torch

    class Timer(torch.fx.Interpreter):  # type: ignore[misc]
        """Calls the nodes of a graph one by one and keeps how long each takes, ms."""

        def __init__(self) -> None:
            super().__init__(module)
            self.times: dict[Any, list[float]] = {}

        def run_node(self, entry: Any) -> Any:
            if entry.op != "call_function":
                return super().run_node(entry)
            args, kwargs = self.fetch_args_kwargs_from_env(entry)
            begun = time.perf_counter_ns()
            made = entry.target(*args, **kwargs)
            if device == "cuda":
                torch.cuda.synchronize()
            self.times.setdefault(entry, []).append((time.perf_counter_ns() - begun) / 1e6)
            return made

    return Timer()


def _layer(engine: Engine, entry: Any, source: SourceGraph, ms: float | None = None) -> Layer:
    operator, output = entry.meta[SOURCE]
    node = source.find(output)
    return Layer(
        name=node or output,
        operator=operator,
        kind="quantize" if operator in _QUANTIZING else "compute",
        precision=source.types.get(output, ""),
        ms=ms,
        sources=(node,) if node else (),
        provider=engine.device,
    )
