"""The serving package in its own process, asked over gRPC by Triton's own client and by raw calls."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.exporters.serving import CONFIG, MODEL, Server, X, refusal, serving, tensors, with_model, write_package

grpc = pytest.importorskip("grpc")
client = pytest.importorskip("tritonclient.grpc")
STEPS = np.array([2])


@pytest.fixture(scope="module")
def folder(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {**with_model(request_seconds=20), "grpc": True}
    folder = write_package(tmp_path_factory.mktemp("grpc"), config)
    (folder / "model.onnx").write_bytes((package / "model.onnx").read_bytes())
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> Iterator[Server]:
    with serving(folder, "--grpc-port", "0") as running:
        yield running


@pytest.fixture(scope="module")
def triton(both: Server) -> Iterator[Any]:
    with client.InferenceServerClient(address(both)) as connected:
        yield connected


def address(server: Server) -> str:
    return f"127.0.0.1:{server.log[-1]['labels.grpc_port']}"


def inputs(x: Any = X, steps: Any = STEPS, datatype: str = "FP32", name: str = "x") -> list[Any]:
    first = client.InferInput(name, x.shape, datatype)
    first.set_data_from_numpy(x)
    second = client.InferInput("steps", steps.shape, "INT64")
    second.set_data_from_numpy(steps)
    return [first, second]


def test_describes_itself_and_the_model(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("looper")
    assert triton.is_model_ready("looper", "3")
    assert triton.get_server_metadata().name == "serve.py"
    about = triton.get_model_metadata("looper", as_json=True)
    assert (about["versions"], about["platform"]) == (["3"], "onnxruntime_onnx")
    assert [(one["name"], one["datatype"]) for one in about["inputs"]] == [("x", "FP32"), ("steps", "INT64")]
    assert about["outputs"][0]["shape"] == ["-1", "4"]


def test_gives_what_onnxruntime_and_http_give(triton: Any, both: Server, session: ort.InferenceSession) -> None:
    expected = session.run(None, {"x": X, "steps": STEPS})
    answer = triton.infer("looper", inputs(), request_id="seven")
    np.testing.assert_array_equal(answer.as_numpy("y"), expected[0])
    np.testing.assert_array_equal(answer.as_numpy("taken"), expected[1])
    assert (answer.get_response().id, answer.get_response().model_version) == ("seven", "3")
    over_http = both.infer({"inputs": tensors()})[1]["outputs"][0]["data"]
    np.testing.assert_array_equal(answer.as_numpy("y").ravel(), np.array(over_http, np.float32))
    chosen = triton.infer("looper", inputs(), "3", outputs=[client.InferRequestedOutput("taken")])
    assert [output.name for output in chosen.get_response().outputs] == ["taken"]


def request_of(steps: int) -> Any:
    request = client.service_pb2.ModelInferRequest(model_name="looper")
    request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    request.inputs.add(name="steps", datatype="INT64", shape=[1])
    request.raw_input_contents.extend([X.tobytes(), np.array([steps]).tobytes()])
    return request


def raw_call(server: Server, fill: Any) -> Any:
    """A ModelInfer whose message the test fills itself."""
    request = client.service_pb2.ModelInferRequest(model_name="looper")
    fill(request)
    with grpc.insecure_channel(address(server)) as channel:
        return client.service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)


def typed(request: Any) -> None:
    x = request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    x.contents.fp32_contents.extend(X.ravel().tolist())
    request.inputs.add(name="steps", datatype="INT64", shape=[1]).contents.int64_contents.append(2)


def test_typed_contents_are_answered_in_typed_contents(both: Server, session: ort.InferenceSession) -> None:
    response = raw_call(both, typed)
    expected = session.run(["y"], {"x": X, "steps": STEPS})[0]
    np.testing.assert_array_equal(np.array(response.outputs[0].contents.fp32_contents, np.float32), expected.ravel())
    assert list(response.outputs[1].contents.int64_contents) == [2]
    assert not response.raw_output_contents


def without_data(request: Any) -> None:
    typed(request)
    request.inputs[0].contents.Clear()


def negative(request: Any) -> None:
    typed(request)
    request.inputs[0].shape[0] = -2


def huge(request: Any) -> None:
    typed(request)
    request.inputs[0].shape[0] = 2**62


def elsewhere(request: Any) -> None:
    typed(request)
    request.inputs[0].contents.fp64_contents.append(1)


def too_few_raw(request: Any) -> None:
    typed(request)
    request.raw_input_contents.append(X.tobytes())


def cut_raw(request: Any) -> None:
    typed(request)
    request.raw_input_contents.extend([X.tobytes()[:-1], STEPS.tobytes()])


def no_such_output(request: Any) -> None:
    typed(request)
    request.outputs.add(name="z")


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (without_data, "data has shape"),
        (negative, "negative size"),
        (huge, "data has shape"),
        (elsewhere, "FP32 belongs into fp32_contents"),
        (too_few_raw, "2 inputs, but 1 raw_input_contents"),
        (cut_raw, "has 31 bytes"),
        (no_such_output, "no output 'z'"),
        (lambda request: None, "'steps' is missing"),
    ],
)
def test_refuses_wrong_messages(both: Server, fill: Any, words: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        raw_call(both, fill)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in refused.value.details()


def test_refuses_wrong_tensors_and_names(triton: Any) -> None:
    bad = X.copy()
    bad[0, 0] = np.nan
    for wrong, words in (
        (inputs(bad), "NaN"),
        (inputs(X.astype(np.float64), datatype="FP64"), "must be FP32"),
        (inputs(X[:, :3].copy()), "must have shape"),
        (inputs(name="z"), "no input 'z'"),
    ):
        with pytest.raises(client.InferenceServerException, match=words):
            triton.infer("looper", wrong)
    for name, version in (("other", ""), ("looper", "4")):
        with pytest.raises(client.InferenceServerException, match="There is no"):
            triton.infer(name, inputs(), version)


def test_refuses_a_large_message(triton: Any, both: Server) -> None:
    with pytest.raises(client.InferenceServerException, match="larger than the limit of 200000 bytes"):
        triton.infer("looper", inputs(np.zeros((20_000, 4), np.float32)))
    assert triton.is_server_ready()


def test_counts_by_protocol(folder: Path) -> None:
    labels = "model=looper,protocol=grpc,version=3"
    with serving(folder, "--grpc-port", "0") as server, client.InferenceServerClient(address(server)) as asking:
        assert server.metrics()[f"workbench_requests_total,code=2xx,{labels}"] == 0
        asking.infer("looper", inputs())
        with pytest.raises(client.InferenceServerException):
            asking.infer("looper", inputs(name="z"))
        metrics = server.metrics()
    assert [metrics[f"workbench_requests_total,code={code},{labels}"] for code in ("2xx", "4xx", "5xx")] == [1, 1, 0]
    assert metrics["workbench_requests_total,code=2xx,model=looper,protocol=http,version=3"] == 0


def test_needs_the_key_and_drains(package: Path, tmp_path: Path, steps_per_second: float) -> None:
    config = {**CONFIG, "models": [{**MODEL, "request_seconds": 20}], "grpc": True, "api_key": "environment"}
    folder = write_package(tmp_path / "package", config)
    (folder / "model.onnx").write_bytes((package / "model.onnx").read_bytes())
    key = "a-key-of-26-characters-long"
    slow = np.array([int(1.3 * steps_per_second)])
    answers = []
    with (
        serving(folder, "--grpc-port", "0", WORKBENCH_API_KEY=key) as server,
        client.InferenceServerClient(address(server)) as asking,
    ):
        assert asking.is_server_ready()
        for headers in ({}, {"authorization": "Bearer wrong"}):
            with pytest.raises(client.InferenceServerException, match="needs the service's key"):
                asking.infer("looper", inputs(), headers=headers)

        def ask() -> None:
            answers.append(asking.infer("looper", inputs(steps=slow), headers={"authorization": f"Bearer {key}"}))

        caller = threading.Thread(target=ask)
        caller.start()
        while server.metrics()["workbench_in_flight,model=looper,version=3"] < 1:
            pass
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        caller.join(60)
    assert answers[0].as_numpy("taken").tolist() == slow.tolist()


def test_a_call_that_is_taken_back_is_no_failure(both: Server, steps_per_second: float) -> None:
    before = both.metrics()
    request = request_of(int(2 * steps_per_second))
    with grpc.insecure_channel(address(both)) as channel:
        call = client.service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request)
        while both.metrics()["workbench_in_flight,model=looper,version=3"] < 1:
            pass
        call.cancel()
        while (after := both.metrics())["workbench_in_flight,model=looper,version=3"]:
            pass
    labels = "model=looper,protocol=grpc,version=3"
    names = [f"workbench_requests_total,code={code}xx,{labels}" for code in "245"]
    assert [after[name] - before[name] for name in names] == [0, 1, 0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_under_load_loses_no_call(folder: Path, tmp_path: Path, workers: str) -> None:
    """Whoever is told to go elsewhere goes: nobody is refused who was let in, until nobody listens any more."""
    codes: Counter[str] = Counter()
    roomy = write_package(tmp_path / "package", {**with_model(queue=64, request_seconds=20), "grpc": True})
    (roomy / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())

    def call(target: str) -> None:
        with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            ask = client.service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            while not codes["UNAVAILABLE: failed to connect"]:
                try:
                    ask(request_of(2), timeout=60)
                    codes["OK"] += 1
                except grpc.RpcError as error:
                    codes[f"{error.code().name}: {error.details()[:17]}"] += 1

    with serving(roomy, "--grpc-port", "0", "--workers", workers) as server:
        callers = [threading.Thread(target=call, args=(address(server),)) for _ in range(6)]
        for caller in callers:
            caller.start()
        while codes["OK"] < 200:
            pass
        server.process.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.join(60)
        assert server.process.wait(60) == 0
    assert set(codes) == {"OK", "UNAVAILABLE: failed to connect"}, codes


def test_refuses_a_port_in_use(folder: Path, both: Server) -> None:
    assert "is in use by another program. Choose another with --grpc-port." in refusal(
        folder, "--grpc-port", address(both).split(":")[1]
    )
