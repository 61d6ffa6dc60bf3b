"""A Triton backend in Python named `onnxruntime`: it stands in for NVIDIA's, which no wheel holds, so that a real
tritonserver loads an exported repository unchanged. Copied to `backends/onnxruntime/model.py`; runs on NumPy 1."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read while it is imported

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as triton

LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
DATATYPES = {"tensor(float16)": "TYPE_FP16", "tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64"}
DATATYPES |= {f"tensor({kind})": f"TYPE_{kind.upper()}" for kind in ("bool", "int8", "int16", "int32", "int64")}
DATATYPES |= {f"tensor({kind})": f"TYPE_{kind.upper()}" for kind in ("uint8", "uint16", "uint32", "uint64")}


class TritonPythonModel:
    """One instance of a model."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Adds nothing: the configuration under test is whole."""
        return config

    def initialize(self, arguments: Mapping[str, str]) -> None:
        """Opens the session that the configuration asks for; refuses tensors that are not the model's."""
        if np.__version__.startswith("2"):
            raise triton.TritonModelException("this server's Python stub is made for NumPy 1; 2 would corrupt tensors")
        config = json.loads(arguments["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(parameters["intra_op_thread_count"])
        options.enable_cpu_mem_arena = parameters.get("enable_mem_arena", "1") == "1"
        options.graph_optimization_level = LEVELS[config.get("optimization", {}).get("graph", {}).get("level", 0)]
        path = Path(arguments["model_repository"], arguments["model_version"], config["default_model_filename"])
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.batched = config["max_batch_size"] > 0
        self.outputs = [output["name"] for output in config["output"]]
        self._check(config["input"], self.session.get_inputs())
        self._check(config["output"], self.session.get_outputs())

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers requests, in one inference where the model has a batch axis."""
        feeds = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        if not self.batched or len(requests) == 1:
            return [self._answer(feed) for feed in feeds]
        whole = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        try:
            results = self.session.run(self.outputs, whole)
        except Exception as error:  # onnxruntime raises classes of its own
            return [refusal(error) for _ in requests]
        ends = np.cumsum([len(next(iter(feed.values()))) for feed in feeds])[:-1]
        parts = [np.split(result, ends) for result in results]
        return [self._response(part) for part in zip(*parts, strict=True)]

    def _answer(self, feed: Mapping[str, Any]) -> Any:
        try:
            return self._response(self.session.run(self.outputs, dict(feed)))
        except Exception as error:
            return refusal(error)

    def _response(self, arrays: Sequence[Any]) -> Any:
        pairs = zip(self.outputs, arrays, strict=True)
        return triton.InferenceResponse([triton.Tensor(name, np.ascontiguousarray(array)) for name, array in pairs])

    def _check(self, declared: Sequence[Mapping[str, Any]], nodes: Sequence[Any]) -> None:
        """As NVIDIA's backend does: names, element types and shapes."""
        real = {node.name: node for node in nodes}
        for tensor in declared:
            node = real.get(tensor["name"])
            if node is None or DATATYPES[node.type] != tensor["data_type"]:
                raise triton.TritonModelException(f"{tensor} is not among {[(n.name, n.type) for n in nodes]}")
            sizes = [size if isinstance(size, int) else -1 for size in node.shape]
            dims = tensor["reshape"]["shape"] if "reshape" in tensor else tensor["dims"]
            wanted = [-1] * self.batched + [int(size) for size in dims]
            same = all(-1 in pair or pair[0] == pair[1] for pair in zip(wanted, sizes, strict=False))
            if len(wanted) != len(sizes) or not same or (self.batched and sizes[0] != -1):
                raise triton.TritonModelException(f"{tensor['name']} is {sizes}, and {wanted} in the configuration")


def refusal(error: Exception) -> Any:
    """The answer where the model does not take the values."""
    return triton.InferenceResponse(error=triton.TritonError(str(error)))
