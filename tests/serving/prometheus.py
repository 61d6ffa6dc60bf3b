"""Real Prometheus, Alertmanager and promtool for tests: Debian's packages, unpacked beside the environment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PACKAGES = ("prometheus", "prometheus-alertmanager")
UNPACKED = Path(sys.prefix) / "prometheus"  # goes with the environment
_TEMPLATES = Path("usr/share/prometheus/alertmanager")  # where Debian's build looks for them, wherever it lies itself
_START_SECONDS = 20.0


def find_program(*names: str) -> str | None:
    """The path of the first program that is here."""
    places = (*map(shutil.which, names), *(str(UNPACKED / "usr" / "bin" / name) for name in names))
    return next((place for place in places if place and Path(place).exists()), None)


def get_programs() -> None:
    """Unpacks Debian's packages, but for one folder beside the environment: nothing is installed, no service started.

    Raises:
        OSError: They cannot be had here.
    """
    if find_program("promtool") and find_program("alertmanager", "prometheus-alertmanager"):
        return
    if not shutil.which("apt-get") or os.geteuid():
        raise OSError(f"Install {' and '.join(PACKAGES)}: they are not here, and only root can get them.")
    with tempfile.TemporaryDirectory() as scratch:
        download = ["apt-get", "download", "-q", *PACKAGES]
        if _run(download, scratch) and (_run(["apt-get", "update", "-q"], scratch) or _run(download, scratch)):
            raise OSError(f"apt-get gives no {' and no '.join(PACKAGES)}.")
        files = Path(scratch) / "files"
        for package in Path(scratch).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, files], check=True)
        shutil.copytree(files / _TEMPLATES, Path("/") / _TEMPLATES, dirs_exist_ok=True)
        shutil.copytree(files / "usr" / "bin", UNPACKED / "usr" / "bin", dirs_exist_ok=True)


def _run(command: Sequence[str], folder: str) -> int:
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode


def free_address() -> str:
    """An address on this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@dataclass
class Prometheus:
    """A running Prometheus."""

    address: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now, as its API writes them."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def alerts(self) -> dict[str, str]:
        """State of each alert that is pending or fires."""
        return {alert["labels"]["alertname"]: alert["state"] for alert in self._get("alerts")["alerts"]}

    def _get(self, path: str, **values: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(values)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)["data"]


@dataclass
class Message:
    """One alert in a message that came to the webhook."""

    name: str
    status: str
    description: str
    arrived: float


@dataclass
class Webhook:
    """A receiver of alerts."""

    url: str
    messages: list[Message] = field(default_factory=list)

    def wait(self, wanted: set[tuple[str, str]], seconds: float) -> dict[tuple[str, str], Message]:
        """Waits for alerts by name and status; gives those that came, with the first message of each."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = {(message.name, message.status): message for message in reversed(list(self.messages))}
            if wanted <= set(found):
                return found
            time.sleep(0.1)
        raise AssertionError(f"{wanted - set(found)} did not come within {seconds:g} s; {sorted(found)} did")


@contextlib.contextmanager
def webhook() -> Iterator[Webhook]:
    """Listens for alerts while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            now = time.monotonic()
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for alert in body["alerts"]:
                description = alert["annotations"]["description"]
                receiver.messages.append(Message(alert["labels"]["alertname"], alert["status"], description, now))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Webhook(f"http://127.0.0.1:{server.server_port}/alerts")
        thread = threading.Thread(target=server.serve_forever, args=(0.1,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def running(command: Sequence[str | Path], ready: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program until the block ends; enters when a URL of it answers.

    Args:
        command: What to run.
        ready: The URL.
        log: Where its output goes.
    """
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            end = time.monotonic() + _START_SECONDS
            while not _answers(ready):
                assert process.poll() is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
                assert time.monotonic() < end, f"{command[0]} is not ready: {log.read_text()[-2000:]}"
                time.sleep(0.1)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def watching(package: Path, data: Path, prometheus: str, alertmanager: str) -> Iterator[Prometheus]:
    """Starts Prometheus and Alertmanager with the files of an exported `monitoring` package.

    Args:
        package: Its folder.
        data: A folder for what they store.
        prometheus: The address that the package gives Prometheus.
        alertmanager: The address that it gives Alertmanager.
    """
    first = [
        find_program("alertmanager", "prometheus-alertmanager") or "alertmanager",
        f"--config.file={package / 'alertmanager' / 'alertmanager.yml'}",
        f"--storage.path={data / 'alertmanager'}",
        f"--web.listen-address={alertmanager}",
        "--cluster.listen-address=",
    ]
    second = [
        find_program("prometheus") or "prometheus",
        f"--config.file={package / 'prometheus' / 'prometheus.yml'}",
        f"--storage.tsdb.path={data / 'prometheus'}",
        f"--web.listen-address={prometheus}",
    ]
    with (
        running(first, f"http://{alertmanager}/-/ready", data / "alertmanager.log"),
        running(second, f"http://{prometheus}/-/ready", data / "prometheus.log"),
    ):
        yield Prometheus(prometheus)


def main() -> None:
    """Gets the programs and says where they are."""
    get_programs()
    print(
        f"serving tests use {find_program('prometheus')} and {find_program('alertmanager', 'prometheus-alertmanager')}"
    )


if __name__ == "__main__":
    main()
