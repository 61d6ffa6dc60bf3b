"""The proxy before two versions, asked for the canary's weight and told a new one while it runs."""

from __future__ import annotations

import contextlib
import csv
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import psutil

from workbench.errors import ExportError, ServiceError
from workbench.exporters.canary import SETTINGS
from workbench.exporters.canary.settings import CanaryFile
from workbench.workspace import read_json, write_bytes, writing

SOCKET, STATE = "haproxy.sock", "haproxy.state"  # in haproxy's run folder
PID, SHARE = "nginx.pid", "share"  # in nginx's
_NUMBERS, _ALWAYS = tuple(map(str, range(100))), "always"  # files in nginx's folder of who meets the canary
_ANSWER_SECONDS = 5.0
_LONGEST_SOCKET = 100  # characters of a socket's path that systems take


class Weight(NamedTuple):
    """How callers are split: the canary's share in percent, and whether anybody reaches it at all."""

    percent: float
    reachable: bool


class Proxy(Protocol):
    """A running proxy."""

    def read(self) -> Weight:
        """The weight now."""

    def set(self, weight: Weight) -> None:
        """Changes it."""


def read_package_settings(package: Path) -> CanaryFile:
    """What a package of the exporter `canary` says.

    Raises:
        ExportError: The folder holds none.
    """
    try:
        return read_json(package / SETTINGS, CanaryFile)
    except (OSError, msgspec.DecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExportError(
            f"{package} is no package of the exporter canary: {SETTINGS} is missing or damaged ({reason}).",
            "Write one with the exporter canary.",
        ) from None


def run_folder(package: Path) -> Path:
    """The folder beside a package that its proxy writes into."""
    return package.parent / f"{package.name}-run"


def open_proxy(settings: CanaryFile, run: Path) -> Proxy:
    """The proxy of a package that runs in a folder.

    Raises:
        ServiceError: None does.
    """
    proxy: Proxy = Haproxy(run) if settings.proxy == "haproxy" else Nginx(run)
    proxy.read()
    return proxy


def read_run_folder(run: Path) -> Weight:
    """The weight by what a proxy has in its run folder, whichever it is.

    Raises:
        ServiceError: None runs there.
    """
    if (run / SHARE).is_dir():
        return Nginx(run).read()
    if (run / SOCKET).exists():
        return Haproxy(run).read()
    raise ServiceError(
        f"No proxy of a canary runs in {run}.", "Start it as the package's README says, or name the package."
    )


class Haproxy:
    """haproxy by its admin socket: a change holds from the next request on, and nothing is loaded anew.

    Args:
        run: Folder of the socket.
    """

    def __init__(self, run: Path) -> None:
        self._run = run

    def read(self) -> Weight:
        """The canary's weight and state.

        Raises:
            ServiceError: It does not answer.
        """
        lines = self._ask("show servers state canary").splitlines()
        with contextlib.suppress(StopIteration, KeyError, ValueError):
            head = next(line for line in lines if line.startswith("# "))
            rows = csv.DictReader((head[2:], *lines[lines.index(head) + 1 :]), delimiter=" ")
            row = next(row for row in rows if row["srv_name"] == "canary")
            return Weight(float(row["srv_uweight"]), not int(row["srv_admin_state"]))
        raise ServiceError(f"The haproxy in {self._run} has no canary.", "Start it with the package's haproxy.cfg.")

    def set(self, weight: Weight) -> None:
        """Changes the weight; in maintenance, haproxy sends the canary nobody, not even who asks for it.

        Raises:
            ServiceError: It does not answer, or refuses.
            WorkspaceError: The change could not be kept for a haproxy that is started anew.
        """
        percent = round(weight.percent) if weight.reachable else 0
        words = [f"set server canary/canary weight {percent}"]
        words.insert(0 if not weight.reachable else 1, f"set server canary/canary state {_STATES[weight.reachable]}")
        answer = self._ask(";".join(words)).strip()
        if answer:
            raise ServiceError(f"The haproxy in {self._run} refuses the weight: {answer}.", "See its log.")
        write_bytes(self._run / STATE, self._ask("show servers state").encode())

    def _ask(self, command: str) -> str:
        path = self._run / SOCKET
        answer = b""
        try:
            with _short(path) as name, socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_ANSWER_SECONDS)
                connection.connect(name)
                connection.sendall(command.encode() + b"\n")
                while part := connection.recv(65_536):
                    answer += part
        except OSError as error:
            raise ServiceError(
                f"No haproxy answers at {path} ({error.strerror or error}).",
                "Start it as the package's README says, or name its run folder.",
            ) from None
        return answer.decode(errors="replace")


_STATES = {True: "ready", False: "maint"}


class Nginx:
    """nginx by files that it looks for at each request: a change holds at once, and nothing is loaded anew.

    Args:
        run: Its folder, with the folder of these files and the number of its process.
    """

    def __init__(self, run: Path) -> None:
        self._run = run

    def read(self) -> Weight:
        """Which callers meet the canary.

        Raises:
            ServiceError: It does not run.
        """
        try:
            process = psutil.Process(int((self._run / PID).read_text()))
            runs = " ".join(process.cmdline()).startswith("nginx: master")  # the number may be another's by now
        except (OSError, ValueError, psutil.Error):
            runs = False
        if not runs:
            raise ServiceError(
                f"No nginx runs in {self._run}.", "Start it as the package's README says, or name its run folder."
            )
        names = {path.name for path in (self._run / SHARE).glob("*")}
        return Weight(float(len(names & set(_NUMBERS))), _ALWAYS in names)

    def set(self, weight: Weight) -> None:
        """Changes which callers do, one hundredth after the other.

        Raises:
            WorkspaceError: The folder cannot be written.
        """
        share = self._run / SHARE
        meets = {*_NUMBERS[: round(weight.percent)], _ALWAYS} if weight.reachable else set()
        with writing(share):
            share.mkdir(exist_ok=True)
            for name in (*_NUMBERS, _ALWAYS):
                if name in meets:
                    (share / name).touch()
                else:
                    (share / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for a socket that is not too long: systems take about 100 characters."""
    if len(str(path)) <= _LONGEST_SOCKET:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
