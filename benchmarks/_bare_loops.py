"""A runner's bare call against the same library called by hand, in one process, round by round in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from workbench.backends import open_runner
from workbench.engine import Engine, Tensors
from workbench.jobs import Progress

_ROUNDS, _ROUND_SECONDS = 60, 0.05


def compare(engine: Engine, feed: Tensors, progress: Progress) -> tuple[float, float, tuple[float, ...]]:
    """Times both ways; runs in a subprocess.

    Args:
        engine: One of a backend that has a bare loop here.
        feed: Inputs of the model.
        progress: Called with the share done and a short text.

    Returns:
        Milliseconds of our call and of the bare one in the fastest tenth of the rounds, which what else runs on the
        machine has not disturbed, and the ratio of each round.
    """
    with open_runner(engine) as runner:
        calls = (runner.bind(feed), BARE[engine.backend](engine, feed))
        count = max(1, round(_ROUND_SECONDS / min(_seconds(call, 2) for call in calls for _ in range(2))))
        rounds = []
        for number in range(_ROUNDS):
            progress(number / _ROUNDS, f"{engine.model.name} on {engine.backend}")
            took = {place: _seconds(calls[place], count) for place in ((0, 1) if number % 2 else (1, 0))}
            rounds.append((took[0], took[1]))
    ours, bare = np.array(rounds).T
    return 1000 * float(np.percentile(ours, 10)), 1000 * float(np.percentile(bare, 10)), tuple(ours / bare)


def _seconds(call: Callable[[], object], count: int) -> float:
    """Mean time of one call of several in a row."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def _onnxruntime(engine: Engine, feed: Tensors) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = engine.options["threads"]
    session = onnxruntime.InferenceSession(str(engine.path), options, providers=["CPUExecutionProvider"])
    names, inputs = [output.name for output in session.get_outputs()], dict(feed)
    return lambda: session.run(names, inputs)


def _openvino(engine: Engine, feed: Tensors) -> Callable[[], object]:
    import openvino

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": engine.options["threads"]}
    request = core.compile_model(core.read_model(engine.path), "CPU", settings).create_infer_request()
    for name, array in feed.items():
        request.set_tensor(name, openvino.Tensor(array))
    return lambda: request.infer(share_outputs=True)


def _litert(engine: Engine, feed: Tensors) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(engine.path), num_threads=engine.options["threads"])
    [entry] = interpreter.get_input_details()
    [array] = feed.values()
    if tuple(entry["shape"][1:]) != array.shape[1:]:
        array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))  # LiteRT has channels last
    interpreter.resize_tensor_input(entry["index"], array.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], array.astype(entry["dtype"]))
    return interpreter.invoke


def _mnn(engine: Engine, feed: Tensors) -> Callable[[], object]:
    import MNN

    net = MNN.Interpreter(str(engine.path))
    session = net.createSession({"backend": "CPU", "numThread": engine.options["threads"]})
    [(name, array)] = feed.items()
    entry = net.getSessionInput(session, name)
    net.resizeTensor(entry, array.shape)
    net.resizeSession(session)
    held = array.astype(np.int32) if array.dtype.kind == "i" else array
    kind = MNN.Halide_Type_Int if array.dtype.kind == "i" else MNN.Halide_Type_Float
    tensor = MNN.Tensor(array.shape, kind, held, MNN.Tensor_DimensionType_Caffe)

    def call(kept: Any = held) -> None:
        entry.copyFrom(tensor)  # MNN overwrites its inputs
        net.runSession(session)

    return call


def _pytorch(engine: Engine, feed: Tensors) -> Callable[[], object]:
    import torch

    from workbench.backends._pytorch_module import open_module

    module, inputs = open_module(engine), [torch.from_numpy(array) for array in feed.values()]

    def call() -> None:
        with torch.inference_mode():
            module(*inputs)

    return call


BARE: dict[str, Callable[[Engine, Tensors], Callable[[], object]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "litert": _litert,
    "mnn": _mnn,
    "pytorch": _pytorch,
}
