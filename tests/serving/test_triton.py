"""Exported repositories on a real tritonserver: the runner's answers bit by bit, batches, limits and versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.triton_packages import ask, pack_all, sample
from tests.serving.tritonserver import Triton, perf_analyzer, serving
from workbench.dataset import Dataset
from workbench.model import Model
from workbench.service.load import load_service

pytestmark = pytest.mark.serving


@pytest.fixture(scope="module")
def packages(
    tmp_path_factory: pytest.TempPathFactory,
    digits: Model,
    evaluation: Dataset,
    calibration: Dataset,
    model_file: Callable[..., Path],
) -> dict[str, Path]:
    return pack_all(tmp_path_factory.mktemp("triton"), digits, evaluation, calibration, model_file)


@pytest.fixture(scope="module")
def repository(packages: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them in one, unchanged."""
    folder = tmp_path_factory.mktemp("repository")
    for name, package in packages.items():
        shutil.copytree(package / "model_repository" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[Triton]:
    with serving(repository) as server:
        yield server


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("name", ["digits", "alone", "quantized", "fixed", "looper", "odd"])
def test_the_client_gets_the_runner_s_answer_bit_by_bit(
    packages: Mapping[str, Path], triton: Triton, name: str, protocol: str
) -> None:
    ended = ask(packages[name], triton, protocol)
    outputs = sample(packages[name])[1]["outputs"]

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines() == [f"{tensor['name']}: as expected, bit by bit" for tensor in outputs]


@pytest.mark.parametrize("name", ["digits", "alone", "quantized", "fixed", "looper"])
def test_json_gets_the_runner_s_answer_bit_by_bit(packages: Mapping[str, Path], triton: Triton, name: str) -> None:
    request, expected = sample(packages[name])
    status, answer = triton.infer(name, request)

    assert (status, answer["model_version"]) == (200, expected["model_version"])
    for mine, its in zip(expected["outputs"], answer["outputs"], strict=True):
        dtype = {"FP32": np.float32, "INT64": np.int64}[mine["datatype"]]
        assert (mine["name"], mine["shape"]) == (its["name"], its["shape"])
        assert np.array(mine["data"], dtype).tobytes() == np.array(its["data"], dtype).tobytes()


def test_a_wrong_answer_is_noticed_by_the_client(packages: Mapping[str, Path], triton: Triton, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packages["digits"], copy)
    _, answer = sample(copy)
    answer["outputs"][0]["data"][3] += 0.5
    (copy / "sample_response.json").write_text(json.dumps(answer))
    ended = ask(copy, triton, "http")

    assert ended.returncode == 1
    assert "NOT as expected (largest difference 0.5)" in ended.stdout


def inferences(triton: Triton, name: str) -> tuple[int, int]:
    """Requests that a model answered, and inferences that it took."""
    (stats,) = triton.call("GET", f"/v2/models/{name}/stats")[1]["model_stats"]
    return stats["inference_count"], stats["execution_count"]


def at_once(triton: Triton, name: str, request: Any, count: int) -> list[tuple[int, Any]]:
    body = json.dumps(request).encode()
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: triton.infer(name, body), range(count)))


def test_requests_are_put_together_as_the_plan_says(packages: Mapping[str, Path], triton: Triton) -> None:
    request, expected = sample(packages["digits"])
    before = inferences(triton, "digits")
    answers = at_once(triton, "digits", request, 24)
    requests, runs = np.subtract(inferences(triton, "digits"), before)

    assert requests == 24
    assert 3 <= runs <= 12
    for status, answer in answers:
        assert status == 200
        np.testing.assert_allclose(answer["outputs"][0]["data"], expected["outputs"][0]["data"], rtol=1e-4, atol=1e-5)


def test_where_batches_do_not_help_only_a_request_brings_some(packages: Mapping[str, Path], triton: Triton) -> None:
    request, expected = sample(packages["alone"])
    before = inferences(triton, "alone")
    assert {status for status, _ in at_once(triton, "alone", request, 16)} == {200}
    assert tuple(np.subtract(inferences(triton, "alone"), before)) == (16, 16)
    (tensor,) = request["inputs"]
    many = {**tensor, "shape": [32, *tensor["shape"][1:]], "data": tensor["data"] * 32}
    status, answer = triton.infer("alone", {"inputs": [many]})

    assert (status, answer["outputs"][0]["shape"]) == (200, [32, 10])
    got = np.reshape(answer["outputs"][0]["data"], (32, 10))
    np.testing.assert_allclose(got, [expected["outputs"][0]["data"]] * 32, rtol=1e-4, atol=1e-5)


def slow(seconds: float, steps_per_second: float) -> dict[str, Any]:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0.1, 0.2, 0.3, 0.4]}
    steps = int(seconds * steps_per_second)
    return {"inputs": [x, {"name": "steps", "datatype": "INT64", "shape": [1], "data": [steps]}]}


@pytest.fixture(scope="module")
def steps_per_second(triton: Triton) -> float:
    start = time.perf_counter()
    assert triton.infer("looper", slow(20_000, 1))[0] == 200
    return 20_000 / (time.perf_counter() - start)


def test_requests_beyond_the_queue_are_turned_away(triton: Triton, steps_per_second: float) -> None:
    """Where the limits are asked for, a model without batches has the plan's queue too: 1 under way, 4 wait."""
    answers = at_once(triton, "looper", slow(0.1, steps_per_second), 24)
    refused = [answer["error"] for status, answer in answers if status != 200]

    assert len(refused) >= 12
    assert any("Exceeds maximum queue size" in words for words in refused), refused
    assert triton.infer("looper", slow(0.01, steps_per_second))[0] == 200


def test_requests_that_wait_too_long_are_given_up(triton: Triton, steps_per_second: float) -> None:
    """The plan's second of patience holds for a request that waits."""
    answers = at_once(triton, "looper", slow(0.8, steps_per_second), 4)
    given_up = [answer["error"] for status, answer in answers if status != 200]

    assert 1 <= len(given_up) <= 3
    assert all("timeout" in words.lower() for words in given_up), given_up


GOOD = {"name": "image", "datatype": "FP32", "shape": [1, 1, 32, 32], "data": [0.5] * 1024}


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [{**GOOD, "name": "picture"}]},
        {"inputs": [{**GOOD, "datatype": "INT32", "data": [1] * 1024}]},
        {"inputs": [{**GOOD, "shape": [1, 1, 64, 16]}]},
        {"inputs": [{**GOOD, "shape": [1, 1024]}]},
        {"inputs": [{**GOOD, "shape": [-1, 1, 32, 32]}]},
        {"inputs": [{**GOOD, "shape": [1 << 12, 1, 32, 32]}]},
        {"inputs": [{**GOOD, "data": [0.5] * 1023}]},
        {"inputs": [{**GOOD, "shape": [9, 1, 32, 32], "data": [0.5] * 9216}]},
        {"inputs": [GOOD, GOOD]},
        {"inputs": []},
        json.dumps({"inputs": [GOOD]}).encode()[:-9],
        b"",
    ],
    ids=[
        *("name", "datatype", "shape", "axes", "negative", "huge", "short", "batch", "twice", "none"),
        *("truncated", "empty"),
    ],
)
def test_a_bad_request_is_refused_and_the_next_is_answered(triton: Triton, body: Any) -> None:
    status, answer = triton.infer("digits", body)

    assert 400 <= status <= 500, answer  # some of Triton's refusals are 500
    assert answer["error"]
    assert triton.infer("digits", {"inputs": [GOOD]})[0] == 200


def test_a_new_version_takes_over_under_load_and_no_request_is_lost(
    packages: Mapping[str, Path], tmp_path: Path
) -> None:
    """As the README says: with one version served, a folder of the next number replaces it."""
    folder = tmp_path / "repository"
    shutil.copytree(packages["quantized"] / "model_repository", folder)
    shutil.copytree(folder / "quantized" / "1", tmp_path / "2")
    request, _ = sample(packages["quantized"])
    seen: list[tuple[int, str]] = []
    done = threading.Event()
    with serving(folder, "--model-control-mode=poll", "--repository-poll-secs=1") as triton:

        def load() -> None:
            while not done.is_set():
                status, answer = triton.infer("quantized", request)
                seen.append((status, answer.get("model_version", str(answer))))

        callers = [threading.Thread(target=load) for _ in range(3)]
        for caller in callers:
            caller.start()
        time.sleep(1)
        (tmp_path / "2").rename(folder / "quantized" / "2")
        deadline = time.monotonic() + 30
        while seen[-1][1] != "2" and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        done.set()
        for caller in callers:
            caller.join()

    assert {status for status, _ in seen} == {200}
    assert {number for _, number in seen} == {"1", "2"}
    assert seen[-1][1] == "2"


def test_a_damaged_model_ends_the_server(packages: Mapping[str, Path], tmp_path: Path) -> None:
    shutil.copytree(packages["digits"] / "model_repository", tmp_path / "repository")
    (tmp_path / "repository/digits/1/model.onnx").write_bytes(b"damaged")
    with (
        pytest.raises(AssertionError, match=r"(?s)ended with 1.*failed to load 'digits'"),
        serving(tmp_path / "repository"),
    ):
        pass


def test_the_client_notices_a_dead_backend_where_readiness_does_not(
    packages: Mapping[str, Path], tmp_path: Path
) -> None:
    with serving(packages["digits"] / "model_repository", "--exit-timeout-secs=1") as triton:
        assert ask(packages["digits"], triton, "http").returncode == 0
        children = Path(f"/proc/{triton.process.pid}/task/{triton.process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        time.sleep(0.5)

        assert triton.ready
        for protocol in ("http", "grpc"):
            ended = ask(packages["digits"], triton, protocol, "--seconds", "2")
            assert (len(children), ended.returncode) == (1, 1)
            assert ended.stdout.startswith("no answer from 127.0.0.1:"), ended.stdout + ended.stderr


@pytest.mark.parametrize("tensors", ["binary", "json", "grpc"])
def test_load_of_ours_is_answered(triton: Triton, evaluation: Dataset, tensors: str) -> None:
    options = {"model": "digits", "tensors": tensors, "seconds": 0.5, "connections": 3}
    options |= {"grpc_port": triton.grpc} if tensors == "grpc" else {}
    found = load_service(f"http://127.0.0.1:{triton.http}", options, dataset=evaluation)

    assert found.statuses == {200: found.answered}
    assert found.lost == 0


def test_perf_analyzer_runs_as_the_readme_says(packages: Mapping[str, Path], triton: Triton) -> None:
    readme = (packages["digits"] / "README.md").read_text()
    commands = re.findall(r"^    (perf_analyzer .*)$", readme, re.MULTILINE)

    assert len(commands) == 2
    for command in commands:
        words = command.replace("127.0.0.1:8001", f"127.0.0.1:{triton.grpc}").split()
        short = ["--measurement-interval=500", "--max-trials=3", "--stability-percentage=999"]
        ended = perf_analyzer([*words[1:], *short], packages["digits"])
        assert ended.returncode == 0, ended.stdout + ended.stderr
        found = re.search(r"p99 latency: (\d+) usec", ended.stdout)
        assert found, ended.stdout
        assert int(found[1]) < 400_000, "Triton's queue paused for half a second, as it does with limits"
