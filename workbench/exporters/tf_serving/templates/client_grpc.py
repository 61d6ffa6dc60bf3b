"""Sends the sample to TensorFlow Serving by gRPC and compares the answer; exits with 1 if it differs."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

if TYPE_CHECKING:  # type checkers find it in a package, but it is shipped and run beside this file
    from .sample import compare, read, to_arrays
else:
    sys.dont_write_bytecode = True  # a package stays as its checksums say
    from sample import compare, read, to_arrays

LARGEST = [("grpc.max_receive_message_length", -1)]  # 4 MB otherwise


def main() -> int:
    """Asks the server that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="127.0.0.1:8500", help="host:port of gRPC")
    parser.add_argument("--seconds", type=float, default=10.0, help="longest time to wait for the answer")
    parser.add_argument("--version", type=int, default=0, help="version of the model; the newest if not given")
    arguments = parser.parse_args()
    signature = read("signature.json")
    request = predict_pb2.PredictRequest()
    request.model_spec.name = signature["model_name"]
    request.model_spec.signature_name = signature["signature_name"]
    if arguments.version:
        request.model_spec.version.value = arguments.version
    for name, array in to_arrays(signature["inputs"], read("sample_request.json")["inputs"]).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))  # its numbers travel as bytes
    with grpc.insecure_channel(arguments.target, LARGEST) as channel:
        service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            answer = service.Predict(request, timeout=arguments.seconds)
        except grpc.RpcError as error:
            print(f"no answer from {arguments.target}: {error.code().name} {error.details()}")
            return 1
    return compare(signature, {name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()})


if __name__ == "__main__":
    sys.exit(main())
