"""Starts the proxy of a canary's package, haproxy or nginx, for as long as it is needed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from workbench.canary._proxy import SHARE, Nginx, Weight, open_proxy, read_package_settings, run_folder
from workbench.errors import ExportError, ServiceError
from workbench.exporters import Package
from workbench.exporters.canary.settings import CanaryFile

_START_SECONDS = 10.0
_PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # which the PATH of Debian's users lacks


@contextlib.contextmanager
def run_proxy(package: Package | str | Path, run: str | Path | None = None) -> Iterator[Path]:
    """Runs the proxy of a package of the exporter `canary` for as long as the block lasts, as this user.

    Args:
        package: The package; it is only read.
        run: Folder for what the proxy writes; the one beside the package if None. It is made if it is missing.

    Yields:
        The run folder.

    Raises:
        ExportError: The folder holds no such package, the program is not installed, or it does not start; the message
            holds the last lines that it wrote.
    """
    folder = package.directory if isinstance(package, Package) else Path(package).expanduser().absolute()
    settings = read_package_settings(folder)
    place = Path(run).expanduser().absolute() if run else run_folder(folder)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = shutil.which(settings.proxy, path=os.pathsep.join((os.environ.get("PATH", ""), *_PLACES)))
    if program is None:
        raise ExportError(
            f"{settings.proxy} is not installed here.", f"Install it, e.g. with apt-get install {settings.proxy}."
        )
    log = place / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(program, settings, folder, place),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + _START_SECONDS
            while not _runs(folder, place):
                if process.poll() is not None or time.monotonic() > end:
                    last = " ".join(log.read_text(errors="replace")[-600:].split())
                    raise ExportError(
                        f"{settings.proxy} does not start in {place}. It wrote: {last or 'nothing'}.",
                        "Mend what it names; most often, another program listens at the same address.",
                    )
                time.sleep(0.05)
            yield place
        finally:
            _end(process)


def _command(program: str, settings: CanaryFile, folder: Path, place: Path) -> Sequence[str]:
    if settings.proxy == "haproxy":
        return (program, "-W", "-db", "-C", str(place), "-f", str(folder / "haproxy.cfg"))
    shutil.copyfile(folder / "nginx.conf", place / "nginx.conf")
    if not (place / SHARE).exists():  # otherwise it goes on with the weight that it ended with
        Nginx(place).set(Weight(float(settings.start_percent), True))
    # Root's nginx would give its work to a user who cannot read the run folder.
    user = f" user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
    return (program, "-p", str(place), "-c", "nginx.conf", "-e", "stderr", "-g", f"daemon off;{user}")


def _runs(folder: Path, place: Path) -> bool:
    try:
        open_proxy(read_package_settings(folder), place)
    except ServiceError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
