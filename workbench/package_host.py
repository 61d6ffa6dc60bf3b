"""A package's server that ends with the process that started it, however that ends: also when it is killed.

A process in between starts the server and holds a pipe from the caller; when the pipe closes, it ends the server.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench import errors
from workbench.errors import Cancelled, ExportError, WorkbenchError
from workbench.exporters import Package, read_package
from workbench.jobs import Progress, silent
from workbench.trial import Serving as Serving
from workbench.trial import serve_package

_TICK_SECONDS = 0.1  # how often the caller can cancel
_END_SECONDS = 15.0  # a server that drains


@contextlib.contextmanager
def host_package(package: Package, *, key: str = "", progress: Progress = silent) -> Iterator[Serving]:
    """Runs a package's server on a free port of 127.0.0.1 as long as the block, and this process, last.

    Args:
        package: A package with a `command`.
        key: As for `serve_package`.
        progress: Called while it starts; may raise to cancel.

    Yields:
        As `serve_package`.

    Raises:
        ExportError: As for `serve_package`.
    """
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", "from workbench.package_host import hold; hold()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        yield _start(process, package, key, progress)
    finally:
        _end(process)


def hold() -> None:
    """What the process in between does."""
    asked = json.loads(sys.stdin.readline())

    def check(fraction: float, message: str) -> None:
        if select.select([sys.stdin], [], [], 0)[0]:  # nothing more is written, so that is its end
            raise Cancelled

    try:
        with serve_package(read_package(Path(asked["directory"])), key=asked["key"], progress=check) as serving:
            _say({"host": serving.host, "port": serving.port, **vars(serving)})
            sys.stdin.read()
    except WorkbenchError as error:
        with contextlib.suppress(BrokenPipeError):
            _say({"error": [type(error).__name__, error.message, error.remedy]})


def _say(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def _start(process: subprocess.Popen[bytes], package: Package, key: str, progress: Progress) -> Serving:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"directory": str(package.directory), "key": key}).encode() + b"\n")
    process.stdin.flush()
    while not select.select([process.stdout], [], [], _TICK_SECONDS)[0]:
        progress(0.0, "starting the server")
    answer = json.loads(process.stdout.readline() or b"{}")
    if "port" in answer:
        return Serving(**answer)
    kind, message, remedy = answer.get("error", ("ExportError", f"{package.directory} could not be started.", ""))
    raise getattr(errors, kind, ExportError)(message, remedy)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process.stdout.close()
