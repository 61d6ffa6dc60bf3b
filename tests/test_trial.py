"""A package is started, asked and stopped; whatever happens, no server stays behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import Cancelled, ExportError, OptionsError
from workbench.exporters import Package, export_package, read_package
from workbench.model import Model
from workbench.trial import KEY_VARIABLE, Trial, serve_package, try_package
from workbench.workspace import Workspace


@pytest.fixture
def package(tmp_path: Path, digits: Model, evaluation: Dataset, shared_workspace: Workspace) -> Package:
    made = export_package(Candidate("as it is", build_engine(digits)), sample=evaluation, workspace=shared_workspace)
    shutil.copytree(made.directory, tmp_path / "package")
    return read_package(tmp_path / "package")


@pytest.fixture
def keyed(tmp_path: Path, tiny: Model, tiny_data: Dataset) -> Package:
    """A package that wants a key, and answers gRPC too."""
    pytest.importorskip("grpc")
    candidate, options = Candidate("tiny", build_engine(tiny)), {"api_key": "environment", "grpc": True}
    return export_package(candidate, "server", options, sample=tiny_data, directory=tmp_path / "keyed")


def status(host: str, port: int, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("GET", "/v2", headers=headers)
    found = connection.getresponse().status
    connection.close()
    return found


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_lives_as_long_as_the_block(package: Package, processes_in: Callable[[Path], list[str]]) -> None:
    with serve_package(package) as (host, port):
        connection = http.client.HTTPConnection(host, port, timeout=60)
        connection.request("GET", f"/v2/models/{package.name}")
        assert json.loads(connection.getresponse().read())["name"] == package.name
        connection.close()

    assert not answers(port)
    assert not [command for command in processes_in(package.directory.parent) if "serve.py" in command]


def test_a_server_ends_when_the_block_fails(package: Package) -> None:
    with pytest.raises(RuntimeError, match="mine"), serve_package(package) as (_, port):
        raise RuntimeError("mine")
    assert not answers(port)


def test_a_cancel_while_it_starts_ends_it(package: Package, processes_in: Callable[[Path], list[str]]) -> None:
    def cancel(fraction: float, message: str) -> None:
        assert message == "starting the server"
        raise Cancelled

    with pytest.raises(Cancelled):
        try_package(package, progress=cancel)
    assert not [command for command in processes_in(package.directory.parent) if "serve.py" in command]


def test_a_port_that_cannot_be_had_is_an_error_in_words(package: Package) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ExportError, match=rf"^Port {port} of 127\.0\.0\.1 is in use by another program\."),
            serve_package(package, port=port),
        ):
            pass
    with pytest.raises(OptionsError, match=r"^80000 is no port"), serve_package(package, port=80_000):
        pass
    with pytest.raises(OptionsError, match=r"^257 workers cannot be started"), serve_package(package, workers=257):
        pass


def test_a_package_is_named_by_its_folder_too(package: Package) -> None:
    folder = package.directory
    assert try_package(str(folder)).matches
    with serve_package(folder) as serving:
        assert status(*serving, {}) == 200
    with pytest.raises(ExportError, match="holds no package"):
        try_package(folder.parent / "none")


def test_a_request_that_the_server_does_not_take_is_an_error_in_words(package: Package) -> None:
    """The server tries its own sample before it says that it is ready."""
    (package.directory / "sample_request.json").write_text('{"inputs": []}')
    with pytest.raises(ExportError, match=r"It wrote: .*sample_request\.json"):
        try_package(package)


def test_an_answer_for_another_output_does_not_match(package: Package) -> None:
    path = package.directory / "sample_response.json"
    answer = json.loads(path.read_text())
    for change in ({"name": "probabilities"}, {"data": [1.0, 2.0]}):
        path.write_text(json.dumps({**answer, "outputs": [{**answer["outputs"][0], **change}]}))
        assert not try_package(package).matches


def test_a_package_that_wants_a_key_is_given_one(keyed: Package) -> None:
    with serve_package(keyed) as serving:
        host, port = serving
        assert len(serving.key) >= 16
        assert serving.key not in repr(serving)
        assert status(host, port, serving.headers) == 200
        assert status(host, port, {}) == 401
        assert answers(serving.grpc_port)
        first = serving.key
    with serve_package(keyed, key="a-key-of-my-own-choice") as serving:
        assert serving.headers == {"Authorization": "Bearer a-key-of-my-own-choice"} != {"Authorization": first}
        assert status(*serving, serving.headers) == 200

    trial = try_package(keyed)
    assert (trial.status, trial.matches, trial.keyed) == (200, True, True)


def test_a_package_without_a_key_is_asked_without_one(package: Package) -> None:
    with serve_package(package) as serving:
        assert (serving.key, serving.headers, serving.grpc_port) == ("", {}, 0)
        assert status(*serving, {}) == 200


def test_several_workers_answer_and_end_together(package: Package, processes_in: Callable[[Path], list[str]]) -> None:
    with serve_package(package, workers=2) as serving:
        assert status(*serving, {}) == 200
        running = [command for command in processes_in(package.directory.parent) if "serve.py" in command]
        assert len(running) == 3  # and the one that supervises them
    assert not [command for command in processes_in(package.directory.parent) if "serve.py" in command]


SERVE = """
import sys
from workbench.trial import become_service
become_service(sys.argv[1], port=int(sys.argv[2]))
"""


def two_ports() -> int:
    """A port that is free and followed by one that is free."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


@pytest.mark.parametrize("taken", [False, True])
def test_grpc_has_the_port_after_it_or_it_says_where_it_is(keyed: Package, taken: bool) -> None:
    port = two_ports()
    with contextlib.ExitStack() as ends:
        if taken:
            other = ends.enter_context(socket.socket())
            other.bind(("127.0.0.1", port + 1))
            other.listen()
        process = ends.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", SERVE, keyed.directory, str(port)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        ends.callback(process.kill)
        assert process.stdout is not None
        assert process.stderr is not None
        where, grpc = process.stdout.readline(), process.stdout.readline().removeprefix("gRPC: 127.0.0.1:").strip()
        assert f"127.0.0.1:{port}/v2/models/tiny once it is loaded" in where
        found, _, reason = grpc.partition(", ")
        assert (found == str(port + 1)) is not taken
        assert reason == (f"as {port + 1} cannot be had" if taken else "")
        assert json.loads(process.stderr.readline())["labels.grpc_port"] == int(found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_becomes_the_service_and_ends_as_that_does(
    keyed: Package, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, keyed.directory, "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        where, grpc, key = (process.stdout.readline() for _ in range(3))
        port = int(where.split("127.0.0.1:")[1].partition("/")[0])
        header = key.partition("Authorization: ")[2].strip()
        assert "Serving tiny" in process.stderr.readline()
        assert status("127.0.0.1", port, {"Authorization": header}) == 200
        assert status("127.0.0.1", port, {}) == 401
        assert answers(int(grpc.rpartition(":")[2]))
        process.send_signal(number)
        assert process.wait(60) == 0
    assert not answers(port)


def test_the_verdict_tells_the_difference() -> None:
    assert Trial("url", 200, 1.0, 0.00012, True).verdict == "as expected (largest difference 0.00012)"
    assert Trial("url", 400, 1.0, float("inf"), False).verdict == "the request was refused"
