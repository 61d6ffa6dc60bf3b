"""Compiles and runs models with OpenVINO, and puts its refusals into words."""

from __future__ import annotations

import functools
import importlib
import re
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.artifact import check_file
from workbench.engine import Engine, Tensors
from workbench.errors import EngineError, ModelError
from workbench.jobs import Progress

COMPILED = ".blob"  # how the name of a file ends that OpenVINO exported
_PRECISIONS = {"bfloat16": "bf16", "float32": "f32"}
_HINTS = {"latency": "LATENCY", "throughput": "THROUGHPUT", "cumulative": "CUMULATIVE_THROUGHPUT"}
_MOST_WAITING = 32  # threads that wait for requests under way; beyond that, requests that have ended wait for a thread
_NOT_RUN = ("Const", "Input", "Output", "Reshape")  # what costs nothing when the model runs


def load_runtime() -> Any:
    """Imports openvino without the package that reports this to its makers; it does as if that were not installed."""
    if "openvino" not in sys.modules:
        package = "openvino_telemetry"
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == package}
        sys.modules[package] = None  # type: ignore[assignment]  # how an import is made to fail
        try:
            importlib.import_module("openvino")
        finally:
            del sys.modules[package]
            sys.modules.update(hidden)
    import openvino

    return openvino


def compile_model(engine: Engine, *, profile: bool = False) -> Any:
    """Compiles an engine's model for its device, or opens what was compiled; outputs stand in the model's order.

    Args:
        engine: What to open.
        profile: Count how long each layer takes.

    Raises:
        ModelError: OpenVINO refuses the model.
        EngineError: What was compiled is damaged, or made by another version or for another processor.
    """
    openvino = load_runtime()
    core, settings = openvino.Core(), {**asked_settings(engine), "PERF_COUNT": profile}
    if engine.path.suffix == COMPILED:
        return _open_compiled(core, engine, settings)
    try:
        return core.compile_model(core.read_model(engine.path), engine.device, settings)
    except RuntimeError as error:
        raise _refusal(engine.model.name, engine.versions["openvino"], str(error)) from error


def asked_settings(engine: Engine) -> dict[str, Any]:
    """The properties that decide what an engine computes and how fast, on any machine."""
    options = engine.options
    settings: dict[str, Any] = {"PERFORMANCE_HINT": _HINTS[options["hint"]]}
    if options["precision"] != "auto":
        settings["INFERENCE_PRECISION_HINT"] = _PRECISIONS[options["precision"]]
    if options["streams"]:
        settings["NUM_STREAMS"] = options["streams"]
    if engine.device.startswith(("CPU", "AUTO")):
        settings["INFERENCE_NUM_THREADS"] = options["threads"]
        settings["ENABLE_CPU_PINNING"] = options["pinning"]
    return settings


def _open_compiled(core: Any, engine: Engine, settings: Mapping[str, Any]) -> Any:
    """OpenVINO notices another version or processor by the head of the file, and most damage, but not all of it."""
    check_file(engine)
    here = {"openvino": version("openvino"), "processor": processor(core, engine.device)}
    for name, built_with in engine.versions.items():
        if here[name] != built_with:
            raise EngineError(
                f"{engine.model.name} was compiled for {name} {built_with}, and here is {here[name]}.",
                "Build the engine again.",
            )
    try:
        # From memory that OpenVINO copies: weights that it reads from a mapped file outlive what keeps that mapped.
        return core.import_model(engine.path.read_bytes(), engine.device, settings)
    except RuntimeError as error:
        raise EngineError(
            f"What OpenVINO compiled of {engine.model.name} cannot be opened here: {reason(str(error))}.",
            "Build the engine again.",
        ) from error


def export_compiled(engine: Engine, path: Path, progress: Progress) -> None:
    """Compiles an engine's model and writes what came of it; runs in a subprocess.

    Raises:
        ModelError: OpenVINO refuses the model.
    """
    progress(0.1, f"compiling {engine.model.name} for {engine.device}")
    path.write_bytes(compile_model(engine).export_model().getvalue())


def processor(core: Any, device: str) -> str:
    """What a compiled model depends on: the device's name and what it can do, e.g. `AMD EPYC (BF16, FP32, INT8)`."""
    able = sorted(core.get_property(device, "OPTIMIZATION_CAPABILITIES"))
    return f"{core.get_property(device, 'FULL_DEVICE_NAME')} ({', '.join(able)})"


class RequestRunner:
    """A live OpenVINO model."""

    def __init__(self, engine: Engine, compiled: Any) -> None:
        self._model = engine.model
        self._compiled = compiled
        self._requests = threading.local()  # one for each thread that calls: a request runs once at a time
        self._placement = _placement(engine, compiled)
        self._bound: list[Tensors] = []  # what requests outside of `infer` still read
        self._idle: deque[Any] = deque()  # requests of `submit`
        self._waiting = ThreadPoolExecutor(_MOST_WAITING, thread_name_prefix="openvino")

    @property
    def placement(self) -> Mapping[str, int]:
        """Layers that the device runs, by the type that OpenVINO chose to compute in, e.g. `{'CPU (bf16)': 9}`."""
        return self._placement

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        """Runs the model once.

        Raises:
            ModelError: OpenVINO cannot run it on these inputs.
        """
        lent = _lend(feed)
        try:
            request = self._own_request()
            self._set_inputs(request, lent)
            request.infer(share_outputs=True)
            return self._outputs(request)
        except RuntimeError as error:
            raise self._refused(error) from error

    def bind(self, feed: Tensors) -> Callable[[], Any]:
        """`InferRequest.infer` on inputs that were set before; the outputs stay in OpenVINO's memory."""
        request = self._compiled.create_infer_request()
        self._bound.append(_lend(feed))
        self._set_inputs(request, self._bound[-1])
        return functools.partial(request.infer, None, False, True)

    def submit(self, feed: Tensors) -> Future[dict[str, NDArray[Any]]]:
        """`InferRequest.start_async` on an idle request, or a new one if none is.

        A thread waits for its end: OpenVINO calls back when a request ends well, and not when it fails, so that neither
        a callback nor `AsyncInferQueue` would ever tell of that.

        Raises:
            ModelError: The inputs do not fit the model.
        """
        lent = _lend(feed)
        try:
            try:
                request = self._idle.pop()
            except IndexError:
                request = self._compiled.create_infer_request()
            self._set_inputs(request, lent)
            request.start_async()
        except RuntimeError as error:
            raise self._refused(error) from error
        return self._waiting.submit(self._finish, request, lent)

    def close(self) -> None:
        """Waits for the requests under way, and gives the threads that wait for them back."""
        self._waiting.shutdown()

    def _finish(self, request: Any, lent: Tensors) -> dict[str, NDArray[Any]]:
        try:
            request.wait()
            outputs = self._outputs(request)
        except RuntimeError as error:
            raise self._refused(error) from error
        self._idle.append(request)
        return outputs

    def _outputs(self, request: Any) -> dict[str, NDArray[Any]]:
        return {
            spec.name: np.array(request.get_output_tensor(place).data) for place, spec in enumerate(self._model.outputs)
        }

    def _refused(self, error: Exception) -> ModelError:
        return ModelError(
            f"OpenVINO cannot run {self._model.name}: {reason(str(error))}.",
            "Check the inputs' types, shapes and values against what the model takes.",
        )

    def _own_request(self) -> Any:
        if not hasattr(self._requests, "request"):
            self._requests.request = self._compiled.create_infer_request()
        return self._requests.request

    def _set_inputs(self, request: Any, arrays: Tensors) -> None:
        openvino = load_runtime()
        for name, array in arrays.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))


def _lend(feed: Tensors) -> Tensors:
    """The arrays as OpenVINO can read them in place; it does not keep them alive."""
    return {name: np.require(array, requirements=["C", "W"]) for name, array in feed.items()}


def read_layers(compiled: Any) -> list[dict[str, str]]:
    """What OpenVINO says of each layer that it runs again and again, in their order.

    Left out is what is computed once, on constants alone, and what only names data.

    Returns:
        Its own names and values, e.g. `layerType`, `primitiveType`, `runtimePrecision`, `execTimeMcs`,
        `originalLayersNames`; and `name`.
    """
    layers: list[dict[str, str]] = []
    constant: set[str] = set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {name: str(value.value) for name, value in node.get_rt_info().items()}
        name = node.get_friendly_name()
        before = [entry.get_source_output().get_node().get_friendly_name() for entry in node.inputs()]
        if info["layerType"] == "Const" or (before and constant.issuperset(before)):
            constant.add(name)
        elif info["layerType"] not in _NOT_RUN:
            layers.append({**info, "name": name})
    return layers


def _placement(engine: Engine, compiled: Any) -> dict[str, int]:
    devices = engine.device
    if devices.startswith("AUTO"):
        devices = "+".join(compiled.get_property("EXECUTION_DEVICES"))
    return dict(Counter(f"{devices} ({info['runtimePrecision']})" for info in read_layers(compiled)))


def _refusal(model: str, release: str, said: str) -> ModelError:
    if found := re.search(r"No conversion rule found for operations: (.+)", said):
        return ModelError(
            f"{model} uses operators that OpenVINO {release} does not have: {found[1].strip()}.",
            "Use another backend, or export the model with other operators.",
        )
    return ModelError(
        f"OpenVINO {release} refuses {model}: {reason(said)}.",
        "Check that the model runs on ONNX Runtime, and use another backend if it does.",
    )


def reason(said: str) -> str:
    """What OpenVINO says, without the places in its source that it puts before."""
    lines = [line.strip() for line in said.splitlines()]
    told = [line for line in lines if line and not re.match(r"Exception from |Check '|FrontEnd API failed", line)]
    return "".join(letter for letter in " ".join(told or lines)[:400] if letter.isprintable()).strip(" .")
