"""The canary's package and command with the real programs: its files, its README, its run folder."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.serving.canary_front import readme_commands, standing
from tests.serving.proxies import (
    PROGRAMS,
    ask,
    export_failing_version,
    find_program,
    free_port,
    get_programs,
    request_of,
    running_service,
)
from workbench.backends import build_engine
from workbench.canary import read_canary, read_weight, run_proxy
from workbench.canary._proxy import Weight, open_proxy, read_package_settings
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import ExportError
from workbench.exporters import Package, export_package
from workbench.importers import load_model
from workbench.model import Model

pytestmark = [pytest.mark.serving, pytest.mark.timeout(300)]

BOTH = pytest.mark.parametrize("proxy", PROGRAMS)
COMMAND = (sys.executable, "-m", "workbench", "canary")


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    get_programs()


def test_the_command_tells_each_step_and_ends_with_1_if_it_was_rolled_back(
    tmp_path: Path, looper: Package, looper_sample: Dataset
) -> None:
    bad = export_failing_version(tmp_path / "bad", "2", looper_sample)
    with standing(tmp_path, "haproxy", looper, bad, request_of(2), looper_sample) as front:
        words = [*COMMAND, str(front.package.directory)]
        with front.callers().calling():
            ended = subprocess.run([*words, "--steps", "20", "100"], capture_output=True, text=True, check=False)
        shown = subprocess.run([*words, "--show"], capture_output=True, text=True, check=True)

    assert (ended.returncode, ended.stderr) == (1, "")
    assert re.search(r"^ +20 % .* breached: [\d,]+ of [\d,]+ requests failed", ended.stdout, re.M)
    assert "rolled back: At 20 %" in ended.stdout
    assert "rolled back: At 20 %" in shown.stdout
    assert shown.stdout.splitlines()[0] == ended.stdout.splitlines()[0]  # the headings
    assert shown.stdout.rstrip().endswith("Now at 0 %.")


@BOTH
def test_a_command_that_is_ended_puts_the_weight_back(digits_front: Any, proxy: str) -> None:
    with digits_front(proxy, weight=5) as front:
        with subprocess.Popen(
            [*COMMAND, str(front.package.directory), "--steps", "50"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever started the tests in the background may have told all their children to ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            end = time.monotonic() + 20
            while read_weight(front.run) != 50:
                assert time.monotonic() < end, "the weight was not raised"
                time.sleep(0.1)
            process.send_signal(signal.SIGINT if proxy == "nginx" else signal.SIGTERM)
            output, errors = process.communicate(timeout=10)
        state = read_canary(front.package.directory)

    assert (state.weight_percent, state.phase) == (5, "cancelled")
    assert state.verdict == "The canary has 5 % again."
    assert (process.returncode, errors.strip()) == (130, "Cancelled. The canary has 5 % again.")
    assert "cancelled: before it was judged" in output


def test_the_command_ends_otherwise_if_a_step_was_not_judged_or_there_is_none_to_judge(digits_front: Any) -> None:
    with digits_front("nginx", weight=5) as front:
        words = [*COMMAND, str(front.package.directory)]

        def run(*more: str) -> tuple[int, str, str]:
            ended = subprocess.run([*words, *more], capture_output=True, text=True, check=False)
            return ended.returncode, ended.stdout, " ".join(ended.stderr.split())

        idle = run("--show")
        held = run("--steps", "20", "--seconds", "1", "--wait-seconds", "1")
        shown = run("--show")
        front.set(100)
        nothing = run("--steps", "1", "50")
        after = run("--show")

    assert idle == (0, "idle: No canary was run. Now at 5 %.\n", "")
    assert (held[0], held[2]) == (3, "")
    row, last = held[1].splitlines()[1:]
    assert re.search(r"^ +20 % .* 0 +– +– +– +–  unjudged: only 0 of the [\d,]+ requests .* came in \d s$", row)
    assert last.startswith("held: At 20 %")
    assert last.endswith("; it stays at 5 %.")
    assert shown == (0, f"{held[1].rstrip()} Now at 5 %.\n", "")
    assert (nothing[0], nothing[1]) == (2, "")
    assert "The canary has 100 % already, more than every step (1, 50 %). Roll it back first" in nothing[2]
    assert after == (0, shown[1].replace("Now at 5 %", "Now at 100 %"), "")  # the history is still there


@BOTH
def test_the_socket_of_a_deep_folder_is_found(digits_front: Any, tmp_path: Path, proxy: str) -> None:
    with digits_front(proxy, weight=5) as front:
        deep = tmp_path / ("deep" * 20) / ("deeper" * 10)
        front_settings = front.package.directory
    with run_proxy(front_settings, deep):
        assert read_weight(deep) == 5


@BOTH
@pytest.mark.parametrize("weight", [Weight(100.0, True), Weight(0.0, False)], ids=["promoted", "rolled back"])
def test_a_proxy_that_is_started_anew_goes_on_with_its_weight(
    tmp_path: Path, digits: Model, evaluation: Dataset, proxy: str, weight: Weight
) -> None:
    candidate = Candidate("as it is", build_engine(digits))
    addresses = {"listen": f"127.0.0.1:{free_port()}", "weight": 30}
    package = export_package(
        candidate, "canary", {"proxy": proxy, **addresses}, sample=evaluation, directory=tmp_path / "package"
    )
    settings = read_package_settings(package.directory)
    with run_proxy(package) as run:
        first = open_proxy(settings, run).read()
        open_proxy(settings, run).set(weight)
    with run_proxy(package) as run:
        second = open_proxy(settings, run).read()

    assert (first, second) == (Weight(30.0, True), weight)


@BOTH
def test_an_address_that_is_taken_is_told_with_what_the_program_wrote(
    tmp_path: Path, looper: Package, looper_sample: Dataset, proxy: str
) -> None:
    with (
        standing(tmp_path, proxy, looper, looper, request_of(2), looper_sample) as front,
        pytest.raises(ExportError, match=rf"{proxy} does not start in .*(in use|cannot bind)"),
        run_proxy(front.package, tmp_path / "second"),
    ):
        pass


OPTIONS: list[dict[str, Any]] = [
    {},
    {"sticky": False, "weight": 100},
    {"stable": "[::1]:8000", "listen": "[::1]:8080", "body_megabytes": 2000},
    {"listen": "0.0.0.0:8080", "open": True, "weight": 1},
    {"listen_grpc": "127.0.0.1:9080", "stable_grpc": "127.0.0.1:9000", "canary_grpc": "localhost:9001"},
    {"listen_grpc": "[::1]:9080", "stable_grpc": "[::1]:9000", "canary_grpc": "[::1]:9001", "stable": "[::1]:8000"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options) or "usual")
@BOTH
def test_the_program_itself_takes_the_file(
    tmp_path: Path, digits: Model, evaluation: Dataset, proxy: str, options: dict[str, Any]
) -> None:
    candidate = Candidate("as it is", build_engine(digits))
    package = export_package(
        candidate, "canary", {"proxy": proxy, **options}, sample=evaluation, directory=tmp_path / "package"
    )
    if proxy == "haproxy":
        command = ["-c", "-V", "-f", package.directory / "haproxy.cfg"]
    else:
        shutil.copy(package.directory / "nginx.conf", tmp_path)
        command = ["-t", "-p", tmp_path, "-c", "nginx.conf", "-e", "stderr"]
    ended = subprocess.run([find_program(proxy), *command], capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = re.sub(
        r".*(haproxy.state'|Warnings were found).*", "", ended.stdout + ended.stderr
    )  # there is none at first
    assert not re.search(r"warn|alert|emerg", said, re.I), said


@BOTH
def test_the_readmes_commands_run_as_another_user_on_a_read_only_package(
    looper: Package, looper_sample: Dataset, proxy: str
) -> None:
    ports = [free_port() for _ in range(3)]
    addresses = dict(zip(("stable", "canary", "listen"), (f"127.0.0.1:{port}" for port in ports), strict=True))
    with tempfile.TemporaryDirectory() as place, running_service(looper, ports[0]), running_service(looper, ports[1]):
        folder = Path(place)
        candidate = Candidate("canary", build_engine(load_model(next(looper.directory.rglob("*.onnx")))))
        package = export_package(
            candidate,
            "canary",
            {"proxy": proxy, "weight": 30, **addresses},
            sample=looper_sample,
            directory=folder / "package",
        ).directory
        for path in (*package.rglob("*"), package):
            path.chmod(0o555 if path.is_dir() else 0o444)
        user: dict[str, Any] = {}
        if os.getuid() == 0:
            os.chown(folder, 65534, 65534)
            user = {"user": 65534, "group": 65534}
        start, back = readme_commands(package)
        environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
        with subprocess.Popen(
            ["bash", "-ec", start.replace("\n    ha", "\n    exec ha").replace("\n    ng", "\n    exec ng")],
            cwd=package,
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **user,
        ) as process:
            try:
                end = time.monotonic() + 10
                while not _reads(package):
                    assert time.monotonic() < end, "it is not there"
                    time.sleep(0.1)
                started, answered = read_weight(package), ask(addresses["listen"], "GET", "/v2")[0]
                owner = (folder / "package-run").stat()
                subprocess.run(["bash", "-ec", back], cwd=package, env=environment, check=True, **user)
                assert read_weight(package) == 0
                socket = folder / "package-run" / "haproxy.sock"
                assert proxy == "nginx" or socket.stat().st_mode & 0o777 == 0o600
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(10)

    assert (started, answered) == (30, 200)
    assert (owner.st_uid, owner.st_mode & 0o777) == (65534 if os.getuid() == 0 else os.getuid(), 0o700)


@BOTH
def test_who_rolls_back_by_hand_as_the_readme_says_sees_the_callers_leave_the_canary(
    digits_front: Any, proxy: str
) -> None:
    with digits_front(proxy, weight=50) as front:
        before = Counter(front.ask()[0] for _ in range(40))
        _, back = readme_commands(front.package.directory)
        ended = subprocess.run(
            ["bash", "-ec", back], cwd=front.package.directory, capture_output=True, text=True, check=False
        )
        after = Counter(front.ask()[0] for _ in range(40))
        asked_for = front.ask(X_Canary="always")[0]
    with run_proxy(front.package):  # a proxy that is started anew goes on with it
        anew = read_weight(front.package.directory)

    assert (ended.returncode, ended.stderr, ended.stdout.strip()) == (0, "", "")
    assert 5 <= before["2"] <= 35  # of 40; chance gives less or more once in five million times
    assert after == {"1": 40}
    assert asked_for == "1"
    assert anew == 0


def _reads(package: Path) -> bool:
    try:
        read_weight(package)
    except OSError:
        return False
    return True
