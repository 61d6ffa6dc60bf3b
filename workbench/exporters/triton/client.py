"""Sends the sample request to Triton and compares the answer with the expected one; exits with 1 if it differs."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
FLOATS = {"FP16": "float16", "FP32": "float32", "FP64": "float64"}
PORTS = {"http": 8000, "grpc": 8001}
TOLERANCE = 1e-3  # of the largest value: another version of the runtime may round otherwise


def main() -> int:
    """Asks the server that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", choices=PORTS, default="http")
    parser.add_argument("--url", help="host:port; Triton's usual port on this machine if not given")
    parser.add_argument("--seconds", type=float, default=10.0, help="longest time to wait for the answer")
    parser.add_argument("--version", default="", help="version of the model; the newest if not given")
    arguments = parser.parse_args()
    triton: Any = importlib.import_module(f"tritonclient.{arguments.protocol}")
    request, expected = (json.loads((HERE / f"sample_{name}.json").read_bytes()) for name in ("request", "response"))
    inputs = [make_input(triton, tensor) for tensor in request["inputs"]]
    outputs = [triton.InferRequestedOutput(tensor["name"]) for tensor in expected["outputs"]]
    url, seconds = arguments.url or f"127.0.0.1:{PORTS[arguments.protocol]}", arguments.seconds
    of_client = {"connection_timeout": seconds, "network_timeout": seconds} if arguments.protocol == "http" else {}
    of_call = {"client_timeout": seconds} if arguments.protocol == "grpc" else {}
    try:
        with triton.InferenceServerClient(url, **of_client) as client:
            answer = client.infer(expected["model_name"], inputs, arguments.version, outputs, **of_call)
    except Exception as error:  # each of the two clients has classes of its own
        print(f"no answer from {url}: {error or type(error).__name__}")
        return 1
    return max(compare(answer, tensor) for tensor in expected["outputs"])


def make_input(triton: Any, tensor: dict[str, Any]) -> Any:
    """An input of the request; its numbers travel as bytes, which is many times faster than JSON."""
    one = triton.InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
    one.set_data_from_numpy(to_array(tensor))
    return one


def compare(answer: Any, expected: dict[str, Any]) -> int:
    """Says how far an output is from the expected one; 1 if too far."""
    wanted, found = to_array(expected), answer.as_numpy(expected["name"])
    if found is None or found.shape != wanted.shape or found.dtype != wanted.dtype:
        got = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
        print(f"{expected['name']}: NOT as expected: {got} in place of {wanted.dtype} {list(wanted.shape)}")
        return 1
    if not wanted.size or found.tobytes() == wanted.tobytes():
        print(f"{expected['name']}: as expected, bit by bit")
        return 0
    error = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
    fits = error <= TOLERANCE * max(1.0, float(np.abs(wanted.astype(np.float64)).max()))  # not so for NaN
    print(f"{expected['name']}: {'as expected' if fits else 'NOT as expected'} (largest difference {error:.2g})")
    return 0 if fits else 1


def to_array(tensor: dict[str, Any]) -> Any:
    """The array that a tensor of the sample files stands for."""
    datatype = tensor["datatype"]
    return np.array(tensor["data"], FLOATS.get(datatype, datatype.lower())).reshape(tensor["shape"])


if __name__ == "__main__":
    sys.exit(main())
