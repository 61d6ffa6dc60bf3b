"""The serving package in its own process: its limits, how it starts and stops, and what is shipped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from string import Template
from typing import Any

import pytest

from tests.exporters.serving import (
    CODE,
    CONFIG,
    INFER,
    MODEL,
    TEMPLATES,
    Server,
    read_all,
    refusal,
    serving,
    tensors,
    wait_until_busy,
    with_model,
)

INPUTS, OUTPUTS = MODEL["inputs"], MODEL["outputs"]


def test_refuses_a_large_body_before_it_is_sent(server: Server) -> None:
    with server.open() as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 200001\r\n\r\n".encode())
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer
        read_all(connection)


def test_refuses_a_large_body_of_unknown_length(server: Server) -> None:
    with server.open() as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        connection.sendall((b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 4)
        assert read_all(connection).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "start",
    [b"", b"GET /v2 HT", b"GET /v2 HTTP/1.1\r\nX: ", b"GET /v2 HTTP/1.1\r\n\r\nGET /v2 HTTP/1.1\r\nX: "],
    ids=["nothing", "line", "header", "second"],
)
def test_closes_connections_with_slow_heads(hasty: Server, start: bytes) -> None:
    with hasty.open() as connection:
        began = time.monotonic()
        connection.settimeout(0.1)
        connection.sendall(start)
        closed = False
        while not closed and time.monotonic() - began < 60:
            try:
                closed = connection.recv(65536) == b""
                if start:
                    connection.sendall(b"a")
            except TimeoutError:
                continue
            except OSError:
                closed = True
        assert closed
        assert time.monotonic() - began > 0.3


def test_closes_a_connection_with_an_endless_head(server: Server) -> None:
    with server.open() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 1_000_000)
        assert read_all(connection) == b""


@pytest.mark.parametrize("length", [100, 100_000])
def test_gives_up_on_slow_bodies(hasty: Server, length: int) -> None:
    with hasty.open() as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{{".encode())
        assert read_all(connection).startswith(b"HTTP/1.1 408")


def test_refuses_what_exceeds_the_queue(server: Server, steps_per_second: float) -> None:
    statuses: list[int] = []
    slow = {"inputs": tensors(int(1.0 * steps_per_second))}
    threads = [threading.Thread(target=lambda: statuses.append(server.infer(slow)[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until_busy(server)
    status, headers, body = server.call("POST", INFER, json.dumps({"inputs": tensors()}).encode())
    assert (status, headers["retry-after"]) == (503, "1"), body
    for thread in threads:
        thread.join()
    assert statuses == [200, 200]


def test_ends_what_takes_too_long(hasty: Server, steps_per_second: float) -> None:
    assert hasty.infer({"inputs": tensors(int(2.5 * steps_per_second))})[0] == 504
    assert hasty.process.stderr is not None
    assert json.loads(hasty.process.stderr.readline())["log.level"] == "error"


def test_drains_on_sigterm(package: Path, steps_per_second: float, tmp_path: Path) -> None:
    folder = shutil.copytree(package, tmp_path / "package")
    (folder / "config.json").write_text(json.dumps(with_model(queue=1, request_seconds=30)))
    with serving(folder) as server:
        answers: list[int] = []
        slow = {"inputs": tensors(int(1.2 * steps_per_second))}
        thread = threading.Thread(target=lambda: answers.append(server.infer(slow)[0]))
        thread.start()
        wait_until_busy(server)
        server.process.send_signal(signal.SIGTERM)
        while (status := server.call("GET", "/v2/health/ready")[0]) == 200:
            pass
        assert status == 503
        assert server.call("GET", "/v2/health/live")[0] == 200
        assert server.process.wait(60) == 0
        thread.join()
        assert answers == [200]
        assert server.process.stderr is not None
        assert json.loads(server.process.stderr.read().splitlines()[-1])["event.action"] == "stop"


def test_readiness_runs_the_sample_request(package: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(package, tmp_path / "package")
    (folder / "sample_request.json").write_text(json.dumps({"inputs": tensors()}))
    (folder / "config.json").write_text(json.dumps(with_model(sample="sample_request.json")))
    with serving(folder) as server:
        assert server.call("GET", "/v2/health/ready")[0] == 200


FAULTS = [
    (CONFIG | {"colour": "red"}, "unknown field `colour`"),
    (CONFIG | {"limits": {"header_seconds": 2}}, "missing required field `body_bytes`"),
    (CONFIG | {"models": []}, "length >= 1"),
    (CONFIG | {"models": [MODEL, MODEL]}, "a version of a model stands there twice"),
    (with_model(threads=...), "missing required field `threads`"),
    (with_model(threads="one"), "Expected `int`"),
    (with_model(instances=0), "Expected `int` >= 1"),
    (with_model(name="a/b"), "matching regex"),
    (with_model(path="/model.onnx"), "'/model.onnx' leads out of the package"),
    (with_model(sample="../sample.json"), "'../sample.json' leads out of the package"),
    (with_model(buckets_seconds=[0.2, 0.1]), "buckets_seconds must rise"),
    ({**CONFIG, "workers": 0}, "Expected `int` >= 1"),
    ({**CONFIG, "workers": 1000}, "Expected `int` <= 256"),
    (with_model(references=[{"name": "z", "mean": 0, "deviation": 1}]), "'z', which is no input"),
]
READ = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from config import CannotStart, read_config
for path in sys.argv[2:]:
    try:
        read_config(Path(path))
        print("nothing")
    except CannotStart as reason:
        print(reason)
"""


def test_tells_what_is_wrong_with_its_configuration(package: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"config-{place}.json" for place in range(len(FAULTS))]
    for path, (config, _) in zip(paths, FAULTS, strict=True):
        path.write_text(json.dumps(config))
    command = [sys.executable, "-c", READ, package, package / "config.json", *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    sound, *told = done.stdout.splitlines()
    assert sound == "nothing"
    for words, (_, expected) in zip(told, FAULTS, strict=True):
        assert words.startswith("config-")
        assert expected in words


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (with_model(provider="CUDAExecutionProvider"), "runs it on CPUExecutionProvider"),
        (with_model(path="none.onnx"), "none.onnx cannot be loaded"),
        (with_model(inputs=INPUTS[:1], references=[]), "The inputs in config.json are not those of model.onnx"),
        (with_model(inputs=[{**INPUTS[0], "datatype": "FP16"}, INPUTS[1]]), "The inputs in config.json"),
        (with_model(outputs=[{**OUTPUTS[0], "shape": [-1, 5]}, OUTPUTS[1]]), "The outputs in config.json"),
    ],
)
def test_refuses_to_start(package: Path, tmp_path: Path, config: dict[str, Any], words: str) -> None:
    folder = shutil.copytree(package, tmp_path / "package")
    (folder / "config.json").write_text(json.dumps(config))
    assert words in refusal(folder)


def test_refuses_to_start_with_a_bad_sample(package: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(package, tmp_path / "package")
    (folder / "sample_request.json").write_text('{"inputs": []}')
    (folder / "config.json").write_text(json.dumps(with_model(sample="sample_request.json")))
    assert "with sample_request.json as input: Input 'steps' is missing." in refusal(folder)


def test_refuses_to_start_without_config(package: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(package, tmp_path / "package")
    (folder / "config.json").unlink()
    assert "config.json cannot be used" in refusal(folder)


def test_refuses_a_port_in_use(package: Path, server: Server) -> None:
    words = refusal(package, "--port", str(server.port))
    assert f"127.0.0.1 port {server.port} is in use by another program. Choose another with --port." in words
    assert "80000 is no port: they go from 0 to 65535" in refusal(package, "--port", "80000")


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("module", ["uvloop", "numpy", "onnxruntime", "h2"])
def test_says_in_one_line_what_is_not_installed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, workers: str
) -> None:
    folder = shutil.copytree(package, tmp_path / "package")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "grpc": module == "h2"}))
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = refusal(folder, "--grpc-port", "0", "--workers", workers)
    assert words == f"serve.py cannot start. {module} is not installed. Run: pip install -r requirements.txt\n"


def test_says_in_one_line_what_does_not_load(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "A library does not load: libcudart.so.12: cannot open" in refusal(package)


def test_an_interrupt_while_it_is_imported_ends_without_a_traceback(package: Path, tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(50)\n"
    )
    done = subprocess.run(
        [sys.executable, str(package / "serve.py"), "--port", "0"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("name", CODE)
def test_the_code_stands_alone(name: str) -> None:
    assert not re.search(r"(import|from) workbench", (TEMPLATES / name).read_text())


def test_readme_has_exactly_its_placeholders() -> None:
    template = Template((TEMPLATES / "README.md").read_text())
    names = {"name", "inputs", "outputs", "candidate", "measured", "created", "python"}
    names |= {"numbers", "key", "start", "header", "environment", "grpc", "workers", "hardware", "publish"}
    assert set(template.get_identifiers()) == names
    assert template.is_valid()
    assert "$" not in template.substitute(dict.fromkeys(names, "value"))
