"""Compiles and runs models with OpenVINO, and puts its refusals into words."""

from __future__ import annotations

import functools
import importlib
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.engine import Engine, Tensors
from workbench.errors import ModelError

_PRECISIONS = {"bfloat16": "bf16", "float32": "f32"}
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
    """Reads and compiles an engine's model for its device; its outputs stand in the model's order.

    Args:
        engine: What to compile.
        profile: Count how long each layer takes.

    Raises:
        ModelError: OpenVINO refuses the model.
    """
    openvino = load_runtime()
    options = engine.options
    settings: dict[str, Any] = {"PERFORMANCE_HINT": options["hint"].upper(), "PERF_COUNT": profile}
    if options["precision"] != "auto":
        settings["INFERENCE_PRECISION_HINT"] = _PRECISIONS[options["precision"]]
    if options["streams"]:
        settings["NUM_STREAMS"] = options["streams"]
    if engine.device == "CPU":
        settings["INFERENCE_NUM_THREADS"] = options["threads"]
        settings["ENABLE_CPU_PINNING"] = options["pinning"]
    core = openvino.Core()
    try:
        return core.compile_model(core.read_model(engine.path), engine.device, settings)
    except RuntimeError as error:
        raise _refusal(engine.model.name, engine.versions["openvino"], str(error)) from error


class RequestRunner:
    """A live OpenVINO model."""

    def __init__(self, engine: Engine, compiled: Any) -> None:
        self._model = engine.model
        self._compiled = compiled
        self._requests = threading.local()  # one for each thread that calls: a request runs once at a time
        self._placement = _placement(engine, compiled)
        self._bound: list[Tensors] = []  # what requests outside of `infer` still read

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
            return {
                spec.name: np.array(request.get_output_tensor(place).data)
                for place, spec in enumerate(self._model.outputs)
            }
        except RuntimeError as error:
            raise ModelError(
                f"OpenVINO cannot run {self._model.name}: {reason(str(error))}.",
                "Check the inputs' types, shapes and values against what the model takes.",
            ) from error

    def bind(self, feed: Tensors) -> Callable[[], Any]:
        """`InferRequest.infer` on inputs that were set before; the outputs stay in OpenVINO's memory."""
        request = self._compiled.create_infer_request()
        self._bound.append(_lend(feed))
        self._set_inputs(request, self._bound[-1])
        return functools.partial(request.infer, None, False, True)

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
    return dict(Counter(f"{engine.device} ({info['runtimePrecision']})" for info in read_layers(compiled)))


def _refusal(model: str, version: str, said: str) -> ModelError:
    if found := re.search(r"No conversion rule found for operations: (.+)", said):
        return ModelError(
            f"{model} uses operators that OpenVINO {version} does not have: {found[1].strip()}.",
            "Use another backend, or export the model with other operators.",
        )
    return ModelError(
        f"OpenVINO {version} refuses {model}: {reason(said)}.",
        "Check that the model runs on ONNX Runtime, and use another backend if it does.",
    )


def reason(said: str) -> str:
    """What OpenVINO says, without the places in its source that it puts before."""
    lines = [line.strip() for line in said.splitlines()]
    told = [line for line in lines if line and not re.match(r"Exception from |Check '|FrontEnd API failed", line)]
    return "".join(letter for letter in " ".join(told or lines)[:400] if letter.isprintable()).strip(" .")
