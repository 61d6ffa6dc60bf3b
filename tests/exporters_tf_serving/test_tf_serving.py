"""A package for TensorFlow Serving: its files, its numbers, its clients, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from onnx import helper

from tests.exporters_tf_serving.schema import parse
from tests.exporters_tf_serving.serving import BATCHED, FOUR, ONES, contents_of, run_client, write_model
from workbench.backends import build_engine, open_runner
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import ExportError
from workbench.exporters.tf_serving import Options, export
from workbench.exporters.tf_serving._configs import batching_config, find_batching, flags, models_config
from workbench.importers import load_model
from workbench.model import Model
from workbench.serving_measurements import Derived
from workbench.transforms import transform

pytestmark = pytest.mark.heavy  # each makes a SavedModel with onnx2tf
model_server_config_pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")


def models_of(text: str) -> Any:
    """models.config, read with TensorFlow Serving's own schema."""
    (config,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    return config


def test_the_folders_are_those_that_tensorflow_serving_looks_for(package: Path) -> None:
    version = package / "models" / "served" / "4"

    assert (version / "saved_model.pb").is_file()
    assert (version / "variables" / "variables.index").is_file()
    assert (version / "assets.extra" / "tf_serving_warmup_requests").is_file()
    assert sorted(path.name for path in (package / "models").iterdir()) == [
        "batching.config",
        "models.config",
        "monitoring.config",
        "served",
    ]


def test_models_config_says_what_is_served(package: Path) -> None:
    config = models_of((package / "models" / "models.config").read_text())

    assert (config.name, config.base_path, config.model_platform) == ("served", "/models/served", "tensorflow")
    assert config.model_version_policy.latest.num_versions == 2


def test_the_numbers_are_those_of_the_plan_and_say_what_they_come_from(package: Path) -> None:
    text = (package / "models" / "batching.config").read_text()
    batching = parse(text, "BatchingParameters")
    readme = (package / "README.md").read_text()

    assert batching.max_batch_size.value == 8
    assert batching.batch_timeout_micros.value == 1250
    assert batching.max_enqueued_batches.value == 10  # 77 requests in batches of 8
    assert batching.num_batch_threads.value == 3
    for name in ("max_batch", "batch_wait_ms", "queue", "instances"):
        assert BATCHED[name].source in text
    for flag in (
        "--enable_batching=true",
        "--batching_parameters_file=/models/batching.config",
        "--tensorflow_intra_op_parallelism=6",
        "--tensorflow_inter_op_parallelism=3",
        "--rest_api_timeout_in_ms=1500",
    ):
        assert flag in readme
    assert "all requests share them: 3 × 2 threads" in readme
    assert "A request with more than 8 samples is refused" in readme
    assert "| instances | 3 instances |" in readme
    assert "| workers |" not in readme  # those are processes of our own server


def test_metrics_are_switched_on(package: Path) -> None:
    monitoring = parse((package / "models" / "monitoring.config").read_text(), "MonitoringConfig")

    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"
    assert monitoring.prometheus_config.path in (package / "README.md").read_text()


def test_without_a_container_the_paths_are_the_folder_s_own(package: Path) -> None:
    """TensorFlow Serving takes absolute paths only; the README's line makes them."""
    (line,) = (line for line in (package / "README.md").read_text().splitlines() if "sed " in line)
    script = f'{line.strip()}; cat "$config"; rm "$config"'
    ended = subprocess.run(["bash", "-c", script], cwd=package, capture_output=True, text=True, check=True)

    assert Path(models_of(ended.stdout).base_path) == package / "models" / "served"


def test_it_answers_as_the_candidate_does(package: Path) -> None:
    parity = json.loads((package / "parity.json").read_text())
    (sample,) = parity["sample"]

    assert sample["output"] == "logits"
    assert sample["max_abs_error"] < 1e-5
    assert sample["largest_value"] > 0.1
    assert "of their range" in parity["random_inputs"]
    assert f"at most {sample['max_abs_error']:.2g}" in (package / "README.md").read_text()


def test_names_types_and_layout_are_the_onnx_model_s(server: dict[str, Any]) -> None:
    (loaded,) = server["models"]["served"].values()

    assert loaded["inputs"] == {"image": ["float32", [-1, 1, 32, 32]]}
    assert loaded["outputs"] == {"logits": ["float32", [-1, 10]]}


def test_the_warm_up_is_the_sample_alone_and_in_a_full_batch(server: dict[str, Any]) -> None:
    assert server["models"]["served"]["4"]["warmed"] == 2


def test_the_rest_client_finds_the_expected_answer(package: Path, server: dict[str, Any]) -> None:
    for words in ((), ("--version", "4")):
        ended = run_client(package, "client_rest.py", "--url", server["rest"], *words)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith("logits: as expected")
    assert not list(package.rglob("*.pyc"))


def test_the_rest_client_says_what_went_wrong(package: Path, server: dict[str, Any]) -> None:
    refused = run_client(package, "client_rest.py", "--url", server["rest"], "--version", "3")
    nobody = run_client(package, "client_rest.py", "--url", "http://127.0.0.1:9")

    assert (refused.returncode, nobody.returncode) == (1, 1)
    assert "refused: 404" in refused.stdout
    assert "no answer from http://127.0.0.1:9" in nobody.stdout


def test_any_batch_is_answered_as_the_candidate_does(
    server: dict[str, Any], digits: Model, evaluation: Dataset
) -> None:
    seven = evaluation.take(7)
    with open_runner(build_engine(digits)) as runner:
        wanted = runner.infer(seven.inputs)["logits"]
    body = json.dumps({"inputs": {"image": seven.inputs["image"].tolist()}}).encode()
    with urllib.request.urlopen(f"{server['rest']}/v1/models/served:predict", body, timeout=30) as response:
        found = np.array(json.loads(response.read())["outputs"], np.float32)

    assert np.allclose(found, wanted, atol=1e-4)


def test_channels_in_the_last_place_are_refused(server: dict[str, Any], evaluation: Dataset) -> None:
    turned = np.moveaxis(evaluation.take(1).inputs["image"], 1, -1)
    body = json.dumps({"inputs": {"image": turned.tolist()}}).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server['rest']}/v1/models/served:predict", body, timeout=30)
    with refused.value as answer:
        assert answer.code == 400


@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_the_client_notices_a_wrong_answer(package: Path, server: dict[str, Any], tmp_path: Path, wrong: float) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    expected = json.loads((copy / "sample_response.json").read_text())
    expected["outputs"][0][3] += wrong
    (copy / "sample_response.json").write_text(json.dumps(expected))
    ended = run_client(copy, "client_rest.py", "--url", server["rest"])

    assert ended.returncode == 1
    assert ended.stdout.startswith("logits: NOT as expected (largest difference")


@pytest.mark.heavy
def test_the_grpc_client_finds_the_expected_answer(package: Path, server: dict[str, Any]) -> None:
    ended = run_client(package, "client_grpc.py", "--target", server["grpc"])
    refused = run_client(package, "client_grpc.py", "--target", server["grpc"], "--version", "3")

    assert (ended.returncode, ended.stdout[:20]) == (0, "logits: as expected ")
    assert refused.returncode == 1
    assert "NOT_FOUND" in refused.stdout


@pytest.fixture
def candidate(tiny: Model) -> Candidate:
    return Candidate("as it is", build_engine(tiny, options={"threads": 1}))


def test_without_batches_there_is_no_batching(candidate: Candidate, tiny_data: Dataset) -> None:
    contents = contents_of(candidate, tiny_data.take(1))
    batching = find_batching(contents)

    assert (batching.size, batching.source) == (1, "off, as larger batches were not measured")
    assert not [flag for flag in flags(contents, batching) if "batching" in flag]


def test_a_fixed_batch_is_not_put_together(tmp_path: Path, model_file: Callable[..., Path], tiny_data: Dataset) -> None:
    fixed = Candidate("fixed", build_engine(load_model(model_file(tmp_path / "m.onnx", batch=5))))
    batching = find_batching(contents_of(fixed, tiny_data.take(5), **BATCHED))

    assert (batching.size, batching.source) == (1, "the model's batch is fixed at 5")


def test_a_source_of_several_lines_stays_a_comment(candidate: Candidate, tiny_data: Dataset) -> None:
    odd = {**BATCHED, "max_batch": Derived(4, "samples", "said in\ntwo lines")}
    contents = contents_of(candidate, tiny_data.take(1), **odd)
    text = batching_config(contents, find_batching(contents))

    assert parse(text, "BatchingParameters").max_batch_size.value == 4


def test_models_config_that_breaks_the_schema_is_noticed() -> None:
    with pytest.raises(ExportError, match=r"models.config breaks TensorFlow Serving's schema"):
        models_config('a" no_such_field: "b', 1)


def test_a_quantized_model_is_refused_before_it_is_converted(
    digits: Model, calibration: Dataset, evaluation: Dataset, tmp_path: Path
) -> None:
    int8 = Candidate("int8", build_engine(transform(digits, "quantize_static", dataset=calibration)))
    with pytest.raises(ExportError, match=r"is quantized.*before it was quantized.*triton"):
        export(contents_of(int8, evaluation.take(1)), Options(), tmp_path)
    assert list(tmp_path.rglob("saved_model.pb")) == []


def test_operators_of_others_are_refused_before_a_conversion(tmp_path: Path) -> None:
    gelu = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    contents = contents_of(write_model(tmp_path / "gelu.onnx", [gelu], {"x": FOUR}, {"y": FOUR}), ONES)
    with pytest.raises(ExportError, match=r"does not know: com.microsoft.Gelu.*ONNX's own operators"):
        export(contents, Options(), tmp_path / "package")


def test_a_model_that_no_savedmodel_holds_is_refused(candidate: Candidate, tmp_path: Path) -> None:
    contents = contents_of(candidate, ONES)
    large = replace(candidate.engine, model=replace(candidate.engine.model, size_bytes=3_000_000_000))
    with pytest.raises(ExportError, match=r"has 3.0 GB.*2 GB at most.*triton"):
        export(replace(contents, candidate=replace(candidate, engine=large)), Options(), tmp_path)
