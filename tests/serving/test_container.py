"""The exported server's image, built from its Dockerfile and run by the commands of its README.

There is no Docker and no registry where these tests run. What stands in for what:

- `docker` is Debian's podman with runc, a real builder and a real runtime, told to do as Docker does where they differ:
  images in Docker's form, no writable /tmp in a read-only container, nothing of the machine's proxies inside.
- The base image `python:X.Y.Z-slim` is one of the same name with this machine's interpreter, pip, the libraries that it
  loads, glibc's and GCC's, sh, find and chmod: less than the real one has.
- Docker's own timer for the health check is the test, which asks podman to run the check that the image holds.
- Docker's bridge is a network of the container's own behind slirp4netns, which changes nothing of the machine's.
- pip reads this machine's own settings, which are mounted for the build only.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving import containers
from tests.serving.containers import NAME, Docker
from tests.serving.proxies import ask, export_version, free_port
from workbench.dataset import Dataset
from workbench.exporters import Package

pytestmark = [pytest.mark.serving, pytest.mark.timeout(300)]

KEY = "the-key-of-this-container"


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    containers.get_programs()
    with containers.docker() as command:
        yield command


@pytest.fixture(scope="module")
def base(docker: Docker, looper: Package) -> str:
    """The image that packages of this Python start from."""
    [name] = re.findall(r"^FROM (\S+)$", (looper.directory / "Dockerfile").read_text(), re.M)
    containers.import_base(docker, name)
    return str(name)


def test_a_package_that_only_its_owner_may_read_serves_as_its_readme_says(
    docker: Docker, base: str, tmp_path: Path, looper_sample: Dataset
) -> None:
    package = export_version(tmp_path, "1", looper_sample)
    for path in package.directory.rglob("*"):  # as a umask of 077 leaves it
        path.chmod(path.stat().st_mode & 0o700)
    run = _build(docker, package)
    image, layers = docker.inspect("image", package.name), docker.inspect("image", base)["RootFS"]["Layers"]
    port = free_port()
    with docker.running(run.replace(":8000:", f":{port}:"), tmp_path / "log") as process:
        status, answer = _infer(package, port)
        user = docker("exec", NAME, "python", "-c", "import os; print(os.getuid(), os.getgid())")
        rights = docker("exec", NAME, "python", "-c", "print(open('/proc/1/status').read())")
        written = docker("exec", NAME, "python", "-c", TRY_TO_WRITE)
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)

    settings = image["Config"]
    assert image["RootFS"]["Layers"][: len(layers)] == layers
    assert (settings["User"], settings["WorkingDir"], settings["StopSignal"]) == ("65532:65532", "/service", "SIGTERM")
    assert settings["Cmd"] == ["python", "serve.py", "--host", "0.0.0.0", "--open"]
    assert set(settings["ExposedPorts"]) == {"8000/tcp"}
    assert (status, user.split()) == (200, ["65532", "65532"])
    _assert_same(answer, package)
    assert re.search(r"^CapEff:\s*0+$", rights, re.M), rights
    assert written.split() == ["EROFS"] * 4
    assert code == 0
    assert '"event.action":"stop"' in (tmp_path / "log").read_text()


def test_a_package_with_a_key_grpc_and_workers_serves_and_is_found_healthy(
    docker: Docker, base: str, tmp_path: Path, looper_sample: Dataset
) -> None:
    grpc = pytest.importorskip("grpc")
    options = {"grpc": True, "api_key": "environment", "workers": 2}
    package = export_version(tmp_path, "1", looper_sample, **options)
    run = _build(docker, package)
    image = docker.inspect("image", package.name)
    ports = free_port(), free_port()
    # Docker hands its own settings of proxies on to containers; the check must not ask them.
    published = "-e http_proxy=http://127.0.0.1:9 " + " ".join(
        f"-p 127.0.0.1:{port}:{inside}" for port, inside in zip(ports, (8000, 8001), strict=True)
    )
    run = re.sub(r"-p \S+:8000 -p \S+:8001\b", published, run)
    with docker.running(run, tmp_path / "log", WORKBENCH_API_KEY=KEY) as process:
        status, answer = _infer(package, ports[0], Authorization=f"Bearer {KEY}")
        refused, metrics = _infer(package, ports[0])[0], ask(f"127.0.0.1:{ports[0]}", "GET", "/metrics")[0]
        with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
            ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=30)
        checked = docker.try_("healthcheck", "run", NAME)
        health = docker.inspect("container", NAME)["State"]["Health"]["Status"]
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
    check, *words = image["Healthcheck"]["Test"]
    unserved = docker.try_("run", "--rm", package.name, *words)

    assert image["Config"]["Cmd"] == ["python", "serve.py", "--host", "0.0.0.0"]
    assert set(image["Config"]["ExposedPorts"]) == {"8000/tcp", "8001/tcp"}
    assert (status, refused, metrics) == (200, 401, 401)
    _assert_same(answer, package)
    assert ready == b"\x08\x01"  # ServerReadyResponse: ready is true
    assert (checked.returncode, health) == (0, "healthy"), checked.stdout + checked.stderr
    assert (check, unserved.returncode) == ("CMD", 1), unserved.stderr  # it fails where nothing serves
    assert code == 0


TRY_TO_WRITE = """
import errno
for place in ("/", "/service", "/tmp", "/usr/local/lib"):
    try:
        open(place + "/new", "w")
        print("written")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def _build(docker: Docker, package: Package) -> str:
    """Runs the line of the README that builds the image; gives the one that runs it."""
    readme = (package.directory / "README.md").read_text()
    [build], [run] = (re.findall(rf"^ {{4}}(docker {word} .*)$", readme, re.M) for word in ("build", "run"))
    ended = subprocess.run(
        shlex.split(build), cwd=package.directory, env=docker.environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return str(run)


def _infer(package: Package, port: int, **headers: str) -> tuple[int, dict[str, Any]]:
    """Sends the sample request."""
    sample = (package.directory / "sample_request.json").read_bytes()
    status, _, body = ask(f"127.0.0.1:{port}", "POST", f"/v2/models/{package.name}/infer", sample, headers)
    return status, json.loads(body)


def _assert_same(answer: dict[str, Any], package: Package) -> None:
    """The answer is the sample response, up to the last digits."""
    expected = json.loads((package.directory / "sample_response.json").read_bytes())
    for found, wanted in zip(answer["outputs"], expected["outputs"], strict=True):
        assert (found["name"], found["shape"]) == (wanted["name"], wanted["shape"])
        np.testing.assert_allclose(found["data"], wanted["data"], rtol=1e-4, atol=1e-6)
