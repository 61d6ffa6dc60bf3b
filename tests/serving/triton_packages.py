"""What the tests on a real tritonserver share: a package of every kind of model, and the client that asks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.exporters.serving import write_model
from tests.serving.tritonserver import Triton, client_environment
from workbench.backends import build_engine, open_runner
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.exporters import Contents
from workbench.exporters.triton import Options, export
from workbench.importers import load_model
from workbench.model import Model
from workbench.serving_measurements import Derived
from workbench.serving_plan import plan_serving
from workbench.transforms import transform

Feed = Mapping[str, NDArray[Any]]


def pack(folder: Path, model: Model, feed: Feed, name: str, options: Options | None = None, **numbers: float) -> Path:
    """Exports a model as `name`; the numbers are some of the plan's."""
    candidate = Candidate(name, build_engine(model, options={"threads": 1}))
    with open_runner(candidate.engine) as runner:
        answer = runner.infer(feed)
    given = {key: Derived(value, "", "given by the test") for key, value in numbers.items()}
    plan = replace(plan_serving(candidate, own_server=False), **given)
    package = folder / name
    package.mkdir(parents=True)
    export(Contents(candidate, name, feed, answer, None, plan), options or Options(), package)
    return package


def pack_all(
    folder: Path, digits: Model, evaluation: Dataset, calibration: Dataset, model_file: Callable[..., Path]
) -> dict[str, Path]:
    """Every kind of model that the exporter tells apart."""
    one = evaluation.take(1).inputs
    fixed = load_model(model_file(folder / "fixed.onnx", batch=5, external="fixed.data"))
    write_model(folder / "looper.onnx")
    write_odd(folder / "odd.onnx")
    x = np.arange(20, dtype=np.float32).reshape(5, 4)
    steps = {"x": x[:2] / 20, "steps": np.array([3], np.int64)}
    packs = {
        "digits": (digits, one, Options(), {"max_batch": 8, "batch_wait_ms": 100}),
        "alone": (digits, one, Options(request_batch=32), {}),
        "quantized": (transform(digits, "quantize_static", dataset=calibration), one, Options(), {"instances": 2}),
        "fixed": (fixed, {"x": x}, Options(), {}),
        "looper": (
            load_model(folder / "looper.onnx"),
            steps,
            Options(queue_limits=True),
            {"queue": 4, "request_seconds": 1.0},
        ),
        "odd": (
            load_model(folder / "odd.onnx"),
            {'a/"é': np.float16([[0.1, 3, -2]]), "factor": np.array([7], np.uint16)},
            Options(version=3),
            {},
        ),
    }
    return {
        name: pack(folder / "packages", model, feed, name, options, **numbers)
        for name, (model, feed, options, numbers) in packs.items()
    }


def write_odd(path: Path) -> None:
    """Names that must be escaped, float16 and uint16, an input and an output with no axis beside the batch's."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["factor"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Constant", [], ["last"], value_ints=[1]),
            helper.make_node("Unsqueeze", ["half", "last"], ["column"]),
            helper.make_node("Mul", ['a/"é', "column"], ["scaled"]),
            helper.make_node("ReduceMax", ["scaled"], ["top"], axes=[1], keepdims=0),
        ],
        "odd",
        [
            helper.make_tensor_value_info('a/"é', TensorProto.FLOAT16, ["batch", "length"]),
            helper.make_tensor_value_info("factor", TensorProto.UINT16, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("scaled", TensorProto.FLOAT16, ["batch", "length"]),
            helper.make_tensor_value_info("top", TensorProto.FLOAT16, ["batch"]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def ask(package: Path, triton: Triton, protocol: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the package's client as its README says."""
    port = triton.http if protocol == "http" else triton.grpc
    command = [
        client_environment() / "python",
        "client.py",
        "--protocol",
        protocol,
        "--url",
        f"127.0.0.1:{port}",
        *words,
    ]
    return subprocess.run(command, cwd=package, capture_output=True, text=True, timeout=60, check=False)


def sample(package: Path) -> tuple[Any, Any]:
    """The package's request and the answer that it expects."""
    request, response = (json.loads((package / f"sample_{kind}.json").read_text()) for kind in ("request", "response"))
    return request, response
