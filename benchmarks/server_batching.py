"""Measures what batches do to the exported service: python benchmarks/server_batching.py.

Two models are measured as a user does, exported, and served with the batches that follow from that and with none, in
interleaved rounds of the same load.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from server import build_model, http_request, load, processor_seconds, running

import workbench as wb
from workbench.dataset import Dataset
from workbench.serving_measure import measure_serving
from workbench.serving_plan import Measurements


def build_mlp(path: Path) -> None:
    """Writes a small perceptron of 64 inputs, for which batches pay."""
    random, nodes, weights = np.random.default_rng(0), [], []
    for i, size in enumerate(((64, 512), (512, 512), (512, 10))):
        weights.append(numpy_helper.from_array(random.normal(0, 0.1, size).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"r{i - 1}" if i else "x", f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"]))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", size]) for n, size in (("x", 64), ("r2", 10)))
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def compare_batching(folder: Path, source: str, rounds: int, count: int) -> None:
    """Prints the requests per second with the batches that a measurement chose, over those without."""
    model = wb.load_model(source)
    data = Dataset({i.name: np.random.default_rng(2).random((16, *i.shape[1:]), np.float32) for i in model.inputs})
    engine = wb.build_engine(model, "onnxruntime", {"threads": 1})
    curve, swept = measure_serving(engine, data, {"seconds": 0.3, "steps": 3, "rounds": 1})
    found = Measurements(None, curve, swept)
    package = wb.export_package(
        wb.Candidate("it", engine), sample=data, measured=found, directory=folder / "on"
    ).directory
    config = json.loads((package / "config.json").read_text())
    [entry] = config["models"]
    chosen = f"batches of {entry['max_batch']}, wait {entry['batch_wait_ms']:g} ms, {entry['instances']} instance(s)"
    print(f"\n{model.name}: {chosen}; by connections, with them over without: requests/s, and processor time for one")
    (folder / "off").mkdir()
    shutil.copytree(package, folder / "off", dirs_exist_ok=True)
    entry |= {"max_batch": 1, "batch_wait_ms": 0}
    (folder / "off" / "config.json").write_text(json.dumps(config))
    name, array = next(iter(data.take(1).inputs.items()))
    tensor = {"name": name, "datatype": "FP32", "shape": array.shape, "parameters": {"binary_data_size": array.nbytes}}
    asking = http_request({"inputs": [tensor], "parameters": {"binary_data_output": True}}, array.tobytes())
    asking = asking.replace(b"/models/net/", f"/models/{entry['name']}/".encode())
    with running(folder / "on") as on, running(folder / "off") as off:
        for connections in (1, 8, 32):
            rates: list[list[float]] = [[], []]
            costs: list[list[float]] = [[], []]
            for round_ in range(-1, rounds):
                both = list(zip((on, off), rates, costs, strict=True))
                for (pid, said), rate, cost in both if round_ % 2 else both[::-1]:
                    before = processor_seconds(pid)
                    seconds = load(said["server.port"], asking, count, connections)
                    if round_ >= 0:
                        rate.append(count / seconds)
                        cost.append((processor_seconds(pid) - before) / count * 1e6)
            print(
                f"{connections:>4}{statistics.median(rates[0]):>8.0f} /s {_ratio(rates)}"
                f"{statistics.median(costs[0]):>8.0f} µs {_ratio(costs)}"
            )


def _ratio(pair: list[list[float]]) -> str:
    ratios = [with_ / without for with_, without in zip(*pair, strict=True)]
    return f"{statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """Measures and prints a block for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=960, help="requests per round, a multiple of 32")
    arguments = parser.parse_args()
    for name, build in (("mlp", build_mlp), ("net", build_model)):
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder) / f"{name}.onnx")
            compare_batching(Path(folder), f"{folder}/{name}.onnx", arguments.rounds, arguments.count)


if __name__ == "__main__":
    main()
