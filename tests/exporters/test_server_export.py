"""What the server exporter writes: the plan's numbers, the runtime that was measured, and the user's choices."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.exporters.serving import serving
from workbench._serving_numbers import buckets
from workbench.backends import build_engine, predict
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import ExportError, OptionsError
from workbench.exporters import Contents, export_package
from workbench.exporters.monitoring.rule_tests import promtool_tests
from workbench.exporters.monitoring.rules import Watch
from workbench.importers import load_model
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.serving_measurements import Derived
from workbench.serving_plan import plan_serving
from workbench.transforms import transform
from workbench.trial import try_package
from workbench.workspace import Workspace

Export = Callable[..., dict[str, Any]]


@pytest.fixture
def export(tiny: Model, tiny_data: Dataset, tmp_path: Path) -> Export:
    """Writes a package for a plan with changes; returns the entry of its model."""

    def write(model: Model = tiny, options: dict[str, Any] | None = None, **changes: Derived) -> dict[str, Any]:
        plugin = find_plugin("exporters", "server")
        candidate = Candidate("it", build_engine(model))
        plan = replace(plan_serving(candidate, sample=tiny_data), **changes)
        sample = tiny_data.take(model.fixed_batch or 1).inputs
        answer = {"scores": np.zeros((1, 3), np.float32)}
        contents = Contents(candidate, "tiny", sample, answer, None, plan)
        (tmp_path / "package").mkdir()
        plugin.export(contents, plugin.Options(**(options or {})), tmp_path / "package")
        entry: dict[str, Any] = json.loads((tmp_path / "package" / "config.json").read_text())["models"][0]
        return entry

    return write


def test_every_number_is_the_plans(export: Export, tmp_path: Path) -> None:
    numbers = {
        "threads": Derived(2, "threads", "a"),
        "instances": Derived(3, "instances", "b"),
        "max_batch": Derived(8, "samples", "c"),
        "batch_wait_ms": Derived(1.5, "ms", "d"),
        "queue": Derived(77, "requests", "e"),
        "request_seconds": Derived(4.5, "s", "twenty times as long as it should be"),
    }
    entry = export(**numbers)
    assert {name: entry[name] for name in numbers} == {name: number.value for name, number in numbers.items()}
    assert entry["buckets_seconds"][0] == 0.001
    assert entry["references"] == [{"name": "x", "mean": 0.25, "deviation": 0.0}]
    assert "twenty times as long as it should be" in (tmp_path / "package" / "README.md").read_text()
    assert (tmp_path / "package" / entry["path"]).is_file()


def test_the_histogram_s_bounds_are_those_that_the_rules_are_tested_with(
    export: Export, tiny: Model, tmp_path: Path
) -> None:
    bounds, source = buckets(Derived(0.943, "ms", "measured"), Derived(3.1, "ms", "measured"))
    assert bounds[0] / 1000 != 0.000471  # but 0.00047099999999999996
    plan = replace(plan_serving(Candidate("it", build_engine(tiny))), buckets_ms=bounds, buckets_source=source)
    entry = export(buckets_ms=bounds, buckets_source=source)
    watch = Watch("tiny", plan, 15, Derived(300, "s", "as chosen"), Derived(60, "s", "as chosen"))
    tested = set(re.findall(r'workbench_request_seconds_bucket{.*?le="(.*?)"', str(promtool_tests(watch))))
    with serving(tmp_path / "package") as server:
        text = server.call("GET", "/metrics")[2].decode()

    shown = re.findall(r'workbench_request_seconds_bucket{.*le="(.*)"', text)
    assert shown == [*(f"{float(f'{bound / 1000:.3g}')}" for bound in bounds), "+Inf"]
    assert [float(bound) for bound in shown[:-1]] == entry["buckets_seconds"]
    assert {"0.000471", "0.0302", "+Inf"} <= tested <= set(shown)


def test_options_come_before_the_plan(export: Export, tmp_path: Path) -> None:
    entry = export(options={"queue": 5, "request_seconds": 2.5, "version": "1.4"})
    assert (entry["queue"], entry["request_seconds"]) == (5, 2.5)
    assert "| queue | 5 requests | as asked |" in (tmp_path / "package" / "README.md").read_text()
    assert (entry["version"], entry["path"]) == ("1.4", "models/tiny/1.4/model.onnx")


def test_what_callers_may_cost_follows_from_the_sample_and_the_queue(export: Export, tmp_path: Path) -> None:
    def limits(**options: Any) -> dict[str, Any]:
        if (tmp_path / "package").exists():
            shutil.rmtree(tmp_path / "package")
        export(options=options)
        config: dict[str, Any] = json.loads((tmp_path / "package" / "config.json").read_text())
        assert config["workers"] == options.get("workers", 1)
        return dict(config["limits"])

    usual = limits()
    assert (usual["body_bytes"], usual["total_body_bytes"], usual["connections"]) == (16_000_000, 64_000_000, 256)
    sample = (tmp_path / "package" / "sample_request.json").stat().st_size
    asked = limits(body_megabytes=0.001, queue=1000, workers=4)
    assert (asked["body_bytes"], asked["total_body_bytes"], asked["connections"]) == (1000, 1000 * sample, 4000)
    readme = (tmp_path / "package" / "README.md").read_text()
    assert "| connections | 4,000 connections | 4 for each request of the queue, at least 256 |" in readme
    assert "**Workers.** It runs 4 workers;" in readme


def test_a_model_with_a_fixed_batch_is_not_batched(
    export: Export, model_file: Callable[..., Path], tmp_path: Path
) -> None:
    fixed = load_model(model_file(tmp_path / "fixed.onnx", batch=1))
    entry = export(fixed, max_batch=Derived(8, "samples", ""), batch_wait_ms=Derived(2, "ms", ""))
    assert (entry["max_batch"], entry["batch_wait_ms"]) == (1, 0)


def test_a_batched_package_with_a_key_and_grpc_starts(tiny: Model, tiny_data: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    options = {"grpc": True, "api_key": "environment", "log_requests": True}
    package = export_package(
        Candidate("it", build_engine(tiny)), "server", options, sample=tiny_data, directory=tmp_path / "package"
    )
    config = json.loads((package.directory / "config.json").read_text())
    assert (config["grpc"], config["api_key"], config["log_requests"]) == (True, "environment", True)
    docker = (package.directory / "Dockerfile").read_text()
    assert "EXPOSE 8000 8001\n" in docker
    assert "--open" not in docker
    assert "USER 65532" in docker
    assert "h2==" in (package.directory / "requirements.txt").read_text()
    key = {"Authorization": "Bearer the-key-of-this-package"}
    sample = (package.directory / "sample_request.json").read_bytes()
    with serving(package.directory, "--grpc-port", "0", WORKBENCH_API_KEY=key["Authorization"].split()[1]) as server:
        assert server.call("POST", "/v2/models/tiny/infer", sample)[0] == 401
        assert server.call("POST", "/v2/models/tiny/infer", sample, key)[0] == 200
        assert "workbench_input_mean,input=x,model=tiny,version=1" in server.metrics()


def test_without_a_key_the_container_is_told_that_it_is_open(export: Export, tmp_path: Path) -> None:
    export()
    docker = (tmp_path / "package" / "Dockerfile").read_text()
    assert '"--host", "0.0.0.0", "--open"]' in docker
    assert "EXPOSE 8000\n" in docker


def test_openvino_is_packed_with_its_own_settings_and_answers(tiny: Model, tiny_data: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    engine = build_engine(tiny, "openvino", {"precision": "float32", "threads": 1})
    package = export_package(Candidate("it", engine), sample=tiny_data, directory=tmp_path / "package")
    entry = json.loads((package.directory / "config.json").read_text())["models"][0]
    assert (entry["backend"], entry["provider"]) == ("openvino", "CPU")
    assert entry["provider_options"]["INFERENCE_PRECISION_HINT"] == "f32"
    requirements = (package.directory / "requirements.txt").read_text()
    assert f"openvino=={engine.versions['openvino']}\n" in requirements
    assert "onnxruntime" not in requirements
    expected = predict(engine, tiny_data.take(1))["scores"]
    with serving(package.directory) as server:
        request = json.loads((package.directory / "sample_request.json").read_text())
        status, answer = server.infer(request, "/v2/models/tiny/infer")
        assert status == 200, answer
        assert answer["outputs"][0]["data"] == expected.ravel().tolist()


def test_openvino_finds_the_inputs_of_a_model_whose_casts_it_folds(
    tiny: Model, tiny_data: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    engine = build_engine(transform(tiny, "float16", workspace=workspace), "openvino")
    package = export_package(Candidate("it", engine), sample=tiny_data, directory=tmp_path / "package")

    assert try_package(package).matches


def test_a_bad_version_and_another_runtime_are_refused(tiny: Model, tiny_data: Dataset, tmp_path: Path) -> None:
    candidate = Candidate("it", build_engine(tiny))
    for version in ("", "a/b", "../1", "1 2"):
        with pytest.raises(ExportError, match="cannot be a version"):
            export_package(candidate, options={"version": version}, sample=tiny_data, directory=tmp_path / "package")
    with pytest.raises(OptionsError, match="api_key"):
        export_package(candidate, options={"api_key": "mine"}, sample=tiny_data, directory=tmp_path / "package")
    plugin = find_plugin("exporters", "server")
    foreign = replace(candidate, engine=replace(candidate.engine, backend="litert"))
    with pytest.raises(ExportError, match="runs ONNX Runtime, OpenVINO and TensorRT only; it is built for litert"):
        plugin.export(Contents(foreign, "tiny", {}, {}, None, plan_serving(candidate)), plugin.Options(), tmp_path)
    assert not (tmp_path / "package").exists()
