"""Measures what the exported service costs over a bare session.run: python benchmarks/server.py.

One run, in interleaved rounds: the same model and input through `session.run` in this process, and through an exported
package in another one with binary tensors, with JSON and over gRPC. Beside others' servers: benchmarks/serving.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import grpc
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # shared with what starts Triton as the tests do

from _serving_load import Load
from _serving_models import Array, build_net, pack, sample_of
from _serving_peers import Server, running_package
from _serving_rounds import Way, bare, measure, print_table, ways_of

from workbench.exporters.server.grpc_messages import SERVICE, message_classes


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each way of asking in each round")
    parser.add_argument("--connections", type=int, default=1, help="over HTTP")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["WORKBENCH_WORKSPACE"] = f"{name}/workspace"
        model = build_net(Path(name, "net.onnx"))
        array = sample_of(model)
        package = pack(model, Path(name, "package"), options={"grpc": True, "queue": 256})
        with running_package(package, "serve.py") as server:
            ways = [bare(model, array), *ways_of([server], "net", array, arguments.connections)]
            results = measure([*ways, over_grpc(server, array)], arguments.rounds, arguments.seconds)
    print_table(
        f"1x3x224x224 float32 (602 kB), 1 thread, {os.cpu_count()} cores, {arguments.connections} connection(s), "
        f"onnxruntime {ort.__version__}; median of {arguments.rounds} rounds (lowest to highest)",
        results,
    )


def over_grpc(server: Server, array: Array) -> Way:
    """One request after the other over gRPC."""
    messages = message_classes()
    request = messages["ModelInferRequest"](model_name="net", raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
    to_bytes = messages["ModelInferRequest"].SerializeToString
    call = channel.unary_unary(f"/{SERVICE}/ModelInfer", request_serializer=to_bytes)

    def ask(seconds: float) -> Load:
        own, begun, count = time.process_time(), time.perf_counter(), 0
        while (now := time.perf_counter() - begun) < seconds:
            call(request, timeout=30)
            count += 1
        return Load(count, now, time.process_time() - own)

    return Way(f"{server.name}, gRPC", server.pid, ask)


if __name__ == "__main__":
    main()
