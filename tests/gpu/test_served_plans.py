"""A plan behind the exported server: it answers as the runner does, from several instances, and changes under load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.exporters.callers import Callers
from tests.exporters.serving import serving
from workbench.backends import open_runner
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.exporters import Package, export_package
from workbench.model import Model
from workbench.served_versions import add_version, reload_service

pytestmark = pytest.mark.gpu

Build = Callable[..., Engine]
PATH = "/v2/models/digits_cnn/infer"


def request(images: np.ndarray) -> dict[str, Any]:
    values = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.ravel().tolist()}
    return {"inputs": [values]}


def exported(engine: Engine, evaluation: Dataset, folder: Path, version: str) -> Package:
    candidate = Candidate(f"plan {version}", engine)
    return export_package(candidate, options={"version": version}, sample=evaluation, directory=folder)


def test_the_server_answers_as_the_runner_does(
    build: Build, digits: Model, samples: np.ndarray, evaluation: Dataset, tmp_path: Path
) -> None:
    engine = build(digits)
    package = exported(engine, evaluation, tmp_path / "package", "1")
    with open_runner(engine) as runner, serving(package.directory) as server:
        for batch in (1, 4, 16):
            expected = runner.infer({"image": samples[:batch]})["logits"]
            status, answer = server.infer(request(samples[:batch]), PATH)
            assert status == 200, answer
            given = np.array(answer["outputs"][0]["data"], np.float32).reshape(expected.shape)
            np.testing.assert_array_equal(given, expected)
        status, answer = server.infer(request(np.zeros((64, 1, 32, 32), np.float32)), PATH)
        assert status == 400
        assert "allowed are 1–32×1×32×32" in answer["error"]


def test_a_plan_takes_the_place_of_another_under_load(
    build: Build, digits: Model, samples: np.ndarray, evaluation: Dataset, tmp_path: Path
) -> None:
    engine = build(digits)
    package = exported(engine, evaluation, tmp_path / "one", "1")
    newer = exported(engine, evaluation, tmp_path / "two", "2")
    with serving(package.directory) as server:
        with Callers(server, request(samples[:1]), count=4, path=PATH) as callers:
            callers.wait_for(100)
            add_version(package, newer, keep_old=False)
            reload_service(server.process.pid)
            while server.call("GET", "/v2/models/digits_cnn/versions/2")[0] != 200:
                callers.wait_for(1)
            callers.wait_for(100)
        assert (callers.lost, set(callers.statuses)) == ([], {"200"})
        assert callers.answers[-1][1]["model_version"] == "2"
