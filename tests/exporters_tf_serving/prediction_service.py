"""A stand-in for TensorFlow Serving, which comes from no package registry: its own protocol over the real SavedModel.

Its messages, servicer, schema of models.config and warm-up records are those of tensorflow-serving-api; batching,
metrics and reloading are not here. Run as `python prediction_service.py PACKAGE`; it writes its ports as JSON, and ends
when its input does.
"""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

tf1 = tf.compat.v1


class Version:
    """One version of a model, loaded by its signature."""

    def __init__(self, folder: Path) -> None:
        with tf.Graph().as_default():
            self._session = tf1.Session()
            self.signature = tf1.saved_model.load(self._session, ["serve"], str(folder)).signature_def[
                "serving_default"
            ]
        self.warmed = 0
        for record in tf1.io.tf_record_iterator(str(folder / "assets.extra" / "tf_serving_warmup_requests")):
            log = prediction_log_pb2.PredictionLog.FromString(record)
            self.predict({name: tf.make_ndarray(t) for name, t in log.predict_log.request.inputs.items()})
            self.warmed += 1

    def predict(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Runs it once; ValueError where names, types or shapes are wrong."""
        inputs, outputs = self.signature.inputs, self.signature.outputs
        if set(arrays) != set(inputs):
            raise ValueError(f"it takes {sorted(inputs)}, not {sorted(arrays)}")
        for name, array in arrays.items():
            if array.dtype != tf.as_dtype(inputs[name].dtype).as_numpy_dtype:
                raise ValueError(f"{name} is {array.dtype}")
        fetched = {name: tensor.name for name, tensor in outputs.items()}
        given: dict[str, Any] = self._session.run(fetched, {inputs[name].name: array for name, array in arrays.items()})
        return given


def load(package: Path) -> dict[str, dict[int, Version]]:
    """The models that models.config names, each in its newest versions."""
    config = text_format.Parse(
        (package / "models" / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    models = {}
    for entry in config.model_config_list.config:
        folder = package / entry.base_path.lstrip("/")
        newest = sorted(int(path.name) for path in folder.iterdir())
        kept = newest[-entry.model_version_policy.latest.num_versions :]
        models[entry.name] = {version: Version(folder / str(version)) for version in kept}
    return models


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """Predict over gRPC."""

    def __init__(self, models: dict[str, dict[int, Version]]) -> None:
        self._models = models

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 (the protocol's name)
        versions = self._models.get(request.model_spec.name, {})
        wanted = request.model_spec.version.value or max(versions, default=0)
        if wanted not in versions:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request.model_spec.name}")
        try:
            answer = versions[wanted].predict({name: tf.make_ndarray(t) for name, t in request.inputs.items()})
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = predict_pb2.PredictResponse()
        for name, array in answer.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response


def handler(models: dict[str, dict[int, Version]]) -> type[BaseHTTPRequestHandler]:
    """The columnar form of REST."""

    class Rest(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            path, _, verb = self.path.removeprefix("/v1/models/").partition(":")
            name, _, version = path.partition("/versions/")
            found = models.get(name, {}).get(int(version) if version else max(models.get(name, {0: None})))
            if verb != "predict" or found is None:
                return self._answer(404, {"error": f"Servable not found for request: Latest({name})"})
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                types = {key: tf.as_dtype(t.dtype).as_numpy_dtype for key, t in found.signature.inputs.items()}
                outputs = found.predict({key: np.array(v, types[key]) for key, v in body["inputs"].items()})
            except (ValueError, KeyError) as error:
                return self._answer(400, {"error": str(error)})
            named = {key: array.tolist() for key, array in outputs.items()}
            return self._answer(200, {"outputs": named if len(named) > 1 else next(iter(named.values()))})

        def _answer(self, status: int, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Rest


def main(package: Path) -> None:
    models = load(package)
    server = grpc.server(ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(models), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    rest = ThreadingHTTPServer(("127.0.0.1", 0), handler(models))
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    about = {
        "grpc": f"127.0.0.1:{port}",
        "rest": f"http://127.0.0.1:{rest.server_address[1]}",
        "models": {
            name: {
                version: {
                    "warmed": loaded.warmed,
                    "inputs": described(loaded.signature.inputs),
                    "outputs": described(loaded.signature.outputs),
                }
                for version, loaded in versions.items()
            }
            for name, versions in models.items()
        },
    }
    print(json.dumps(about), flush=True)
    sys.stdin.read()
    rest.shutdown()
    server.stop(None).wait()


def described(tensors: Any) -> dict[str, Any]:
    return {
        name: [
            tf.as_dtype(tensor.dtype).name,
            None if tensor.tensor_shape.unknown_rank else [axis.size for axis in tensor.tensor_shape.dim],
        ]
        for name, tensor in tensors.items()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
