"""What the tests of TensorFlow Serving's packages share: contents, the stand-in for the server, the clients."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from workbench.backends import build_engine, open_runner
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.exporters import Contents
from workbench.importers import load_model
from workbench.serving_measurements import Derived
from workbench.serving_plan import plan_serving

BATCHED = {
    "max_batch": Derived(8, "samples", "1.4 × the throughput of batch 1 in the sweep"),
    "batch_wait_ms": Derived(1.25, "ms", "0.5 × the 2.5 ms of such a batch"),
    "instances": Derived(3, "instances", "the most throughput of 4 measured settings at batch 1"),
    "cpu_cores": Derived(6, "cores", "3 × 2 threads"),
    "queue": Derived(77, "requests", "1 s of 77 queries/s"),
    "request_seconds": Derived(1.5, "s", "20 × the 99th percentile"),
}


FOUR = (TensorProto.FLOAT, ["batch", 4])
ONES = Dataset({"x": np.ones((1, 4), np.float32)}, None, "ones")


def write_model(
    path: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], weights: Sequence[Any] = ()
) -> Candidate:
    """A model of some nodes; its ends are given as (element type, shape)."""
    ends = ([helper.make_tensor_value_info(name, *kind) for name, kind in ends.items()] for ends in (inputs, outputs))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(helper.make_graph(nodes, path.stem, *ends, weights), opset_imports=opsets, ir_version=9)
    onnx.save(proto, path)
    return Candidate(path.stem, build_engine(load_model(path)))


def contents_of(candidate: Candidate, sample: Dataset | Mapping[str, Any], **numbers: Derived) -> Contents:
    """What the verb hands over, with some numbers of the plan as a measurement would have given them."""
    feed = dict(sample.inputs if isinstance(sample, Dataset) else sample)
    with open_runner(candidate.engine) as runner:
        answer = runner.infer(feed)
    plan = replace(plan_serving(candidate, own_server=False), **numbers)
    return Contents(candidate, "served", feed, answer, None, plan)


@contextlib.contextmanager
def serving(package: Path) -> Iterator[dict[str, Any]]:
    """The stand-in, on the SavedModels of a package; gives its addresses and what it loaded."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("prediction_service.py")), str(package)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the stand-in did not start: {process.stderr.read()}")
        try:
            yield json.loads(line)
        finally:
            process.stdin.close()


def run_client(package: Path, client: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a client of the package as its README says."""
    return subprocess.run(
        [sys.executable, client, *words], cwd=package, capture_output=True, text=True, timeout=60, check=False
    )
