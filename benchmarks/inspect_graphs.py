"""Seeing a model: a 2 GB one whose weights are never read, and one of 10,000 nodes; onnx's shape inference beside."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH = 32, 4096  # 2.1 GB of float32 weights
NODES = 10_000
ROUNDS = 5

# Each runs in a fresh process, which prints seconds and its peak memory in MB; imports are not timed.
_FRAME = """
import resource, sys, time
{imports}
start = time.perf_counter()
{work}
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
_OURS = """
import onnx, onnxruntime
from pathlib import Path
from workbench.importers import load_model
from workbench.graph import diff_graphs, summarize_graph
from workbench.skeleton import without_weights
path = Path(sys.argv[1])
"""
_THEIRS = "import onnx"
_INFERENCE = "onnx.shape_inference.infer_shapes(onnx.load(sys.argv[1]), data_prop=True)"
# With its weights, a model beyond 2 GB is more than inference takes, so the documented way is from file to file.
_FROM_FILE = "onnx.load(sys.argv[1]); onnx.shape_inference.infer_shapes_path(sys.argv[1], sys.argv[1] + '.inferred')"
_NO_WEIGHTS = "onnx.shape_inference.infer_shapes(onnx.load(sys.argv[1], load_external_data=False), data_prop=True)"


def main() -> None:
    """Prints one line per figure: ours against its target, the peer, their ratio."""
    print(f"{'':50}{'ours':>20}{'target':>16}{'peer':>20}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        path = write_large(Path(folder) / "large.onnx")
        whole = "model = load_model(path); summarize_graph(model); without_weights(path)"
        compare(
            "2 GB: load, summary, skeleton; onnx.load + inference", path, whole, _FROM_FILE, "3 s, 300 MB", rounds=3
        )
        compare("2 GB: the same; inference without weights", path, whole, _NO_WEIGHTS, "3 s, 300 MB", rounds=3)
    with tempfile.TemporaryDirectory() as folder:
        path = write_deep(Path(folder) / "deep.onnx")
        summary, difference = "summarize_graph(model)", "diff_graphs(model, model)"
        compare("10,000 nodes: summary; inference", path, summary, _INFERENCE, "1.5 s")
        compare("10,000 nodes: difference of two; inference", path, difference, _INFERENCE, "3 s")


def compare(what: str, path: Path, ours: str, peer: str, target: str, rounds: int = ROUNDS) -> None:
    """One line of the table: medians of seconds and memory, and the median of the rounds' ratios of seconds."""
    prepared = _OURS + ("model = load_model(path)" if "load_model" not in ours else "")
    programs = (_FRAME.format(imports=prepared, work=ours), _FRAME.format(imports=_THEIRS, work=peer))
    results: tuple[list[list[float]], list[list[float]]] = ([], [])
    for number in range(rounds):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            said = subprocess.check_output([sys.executable, "-c", programs[index], str(path)])
            results[index].append([float(word) for word in said.split()])
    (mine, my_memory), (theirs, their_memory) = (np.median(result, axis=0) for result in results)
    ratio = np.median(np.array(results[0])[:, 0] / np.array(results[1])[:, 0])
    print(
        f"{what:50}{mine:>9.2f} s {my_memory:>6.0f} MB{target:>16}{theirs:>9.2f} s {their_memory:>6.0f} MB{ratio:>8.2f}"
    )


def write_large(path: Path) -> Path:
    """A chain of matrix products over 2.1 GB of weights in another file, which is sparse: it takes no space on disk."""
    size = WIDTH * WIDTH * 4
    weights, nodes = [], []
    for layer in range(LAYERS):
        tensor = TensorProto(name=f"weight{layer}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "large.data"), ("offset", layer * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
        nodes.append(helper.make_node("MatMul", [f"x{layer}", tensor.name], [f"x{layer + 1}"], name=f"product{layer}"))
    save(path, nodes, weights, ["batch", WIDTH], f"x{LAYERS}")
    with path.with_name("large.data").open("wb") as stream:
        stream.truncate(LAYERS * size)
    return path


def write_deep(path: Path, count: int = NODES) -> Path:
    """Residual blocks of convolution, normalization, activation and addition, one after the other."""
    weights, nodes = [numpy_helper.from_array(np.ones(4, np.float32), "vector")], []
    for block in range(count // 4):
        weights.append(numpy_helper.from_array(np.zeros((4, 4, 3, 3), np.float32), f"weight{block}"))
        nodes += [
            helper.make_node("Conv", [f"x{block}", f"weight{block}"], [f"c{block}"], f"conv{block}", pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", [f"c{block}", *["vector"] * 4], [f"n{block}"], f"norm{block}"),
            helper.make_node("Relu", [f"n{block}"], [f"r{block}"], f"relu{block}"),
            helper.make_node("Add", [f"r{block}", f"x{block}"], [f"x{block + 1}"], f"add{block}"),
        ]
    save(path, nodes, weights, ["batch", 4, 8, 8], f"x{count // 4}")
    return path


def save(
    path: Path, nodes: list[onnx.NodeProto], weights: list[TensorProto], shape: list[int | str], result: str
) -> None:
    """Writes a model that takes `x0`."""
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("x0", result))
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


if __name__ == "__main__":
    main()
