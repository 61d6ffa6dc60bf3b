"""The libraries that run a model: each is opened once per instance and answers `run(outputs, feeds)`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .config import CannotStart, ModelConfig
    from .missing import say_missing
    from .protocol import Array
    from .sessions import BadValues, Node, Session
else:
    from config import CannotStart, ModelConfig
    from missing import say_missing
    from protocol import Array
    from sessions import BadValues, Node, Session

_ONNXRUNTIME_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32", "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32", "tensor(int64)": "INT64",
    "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
}  # fmt: skip
_OPENVINO_TYPES = {
    "boolean": "BOOL",
    "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64",
    "i8": "INT8", "i16": "INT16", "i32": "INT32", "i64": "INT64",
    "f16": "FP16", "f32": "FP32", "f64": "FP64",
}  # fmt: skip
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}


def open_sessions(config: ModelConfig, path: Path) -> Sequence[Session]:
    """Loads a model with the library that it was measured with, a session for each instance.

    Raises:
        CannotStart: If the library, the model or its device cannot be used.
    """
    try:
        return _open_sessions(config, path)
    except ImportError as error:
        raise CannotStart(say_missing(error)) from None


def _open_sessions(config: ModelConfig, path: Path) -> Sequence[Session]:
    if config.backend == "tensorrt":  # packages of other backends lack what that needs
        if TYPE_CHECKING:
            from .plans import open_plan
        else:
            from plans import open_plan
        return open_plan(config, path)
    kind = OnnxRuntimeSession if config.backend == "onnxruntime" else OpenvinoSession
    return [kind(config, path) for _ in range(config.instances)]


class OnnxRuntimeSession:
    """A model in ONNX Runtime, set up as the workbench did when it measured it."""

    def __init__(self, config: ModelConfig, path: Path) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime reads it while it is imported
        import onnxruntime as ort
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

        options = ort.SessionOptions()
        options.intra_op_num_threads = config.threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = config.arena
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[config.graph_level])
        options.log_severity_level = 4  # failed runs raise; the service logs them itself, in its own form
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must cost nothing
        try:
            with warnings.catch_warnings(action="ignore"):  # a missing provider only warns; it is refused below
                # This optimizer computes float layers between quantized ones in INT8 as well.
                unwanted = ["WeightBiasQuantization"] if config.keep_float_layers else []
                providers = [(config.provider, config.provider_options)]
                self._session = ort.InferenceSession(path, options, providers=providers, disabled_optimizers=unwanted)
        except Exception as error:
            raise CannotStart(f"{config.path} cannot be loaded: {error}.") from None
        actual = self._session.get_providers()[0]
        if actual != config.provider:
            raise CannotStart(
                f"The model was measured on {config.provider}, but this machine runs it on {actual}: its speed "
                f"would differ. Install the onnxruntime that has {config.provider}, or change provider in config.json."
            )
        self.inputs = [_onnxruntime_node(node) for node in self._session.get_inputs()]
        self.outputs = [_onnxruntime_node(node) for node in self._session.get_outputs()]
        self._refused = InvalidArgument

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Runs the model once."""
        try:
            results: list[Array] = self._session.run(outputs, feeds)
        except self._refused as error:
            raise BadValues(str(error)[-300:]) from None
        return results

    def close(self) -> None:
        """Nothing: the library's own objects end with the last reference."""


class OpenvinoSession:
    """A model in OpenVINO, compiled with the settings that it was measured with."""

    def __init__(self, config: ModelConfig, path: Path) -> None:
        sys.modules.setdefault("openvino_telemetry", cast(Any, None))  # openvino does as if it were not installed
        import openvino

        core = openvino.Core()
        if config.provider not in core.available_devices:
            raise CannotStart(
                f"The model was measured on {config.provider}, but OpenVINO finds {', '.join(core.available_devices)} "
                "here: its speed would differ. Install the device's driver, or change provider in config.json."
            )
        try:
            self._compiled = core.compile_model(core.read_model(path), config.provider, config.provider_options)
        except RuntimeError as error:
            raise CannotStart(f"{config.path} cannot be loaded: {str(error)[-600:]}.") from None
        known = {tensor.name for tensor in (*config.inputs, *config.outputs)}
        self.inputs = [_openvino_node(port, known) for port in self._compiled.inputs]
        self.outputs = [_openvino_node(port, known) for port in self._compiled.outputs]
        self._request = self._compiled.create_infer_request()
        self._tensor = openvino.Tensor

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Runs the model once."""
        # OpenVINO reads the arrays in place, and does not keep them alive.
        lent = {name: np.require(array, requirements=["C", "W"]) for name, array in feeds.items()}
        for name, array in lent.items():
            self._request.set_tensor(name, self._tensor(array, shared_memory=True))
        self._request.infer(share_outputs=True)
        return [np.array(self._request.get_tensor(name).data) for name in outputs]

    def close(self) -> None:
        """Nothing: the library's own objects end with the last reference."""


def _openvino_node(port: Any, known: set[str]) -> Node:
    kind = port.get_element_type().to_string()
    shape = [None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
    name = next(iter(port.names & known), port.any_name)  # a port can have further names, of casts that were folded in
    return Node(name, _OPENVINO_TYPES.get(kind, kind), shape)


def _onnxruntime_node(node: Any) -> Node:
    shape = [size if isinstance(size, int | str) else None for size in node.shape]
    return Node(node.name, _ONNXRUNTIME_TYPES.get(node.type, node.type), shape)
