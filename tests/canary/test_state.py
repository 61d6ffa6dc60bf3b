"""What a run of a canary writes down, and what cannot be run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.canary.splitting import QUICK, Splitter, go, settings_of
from tests.serving.proxies import (
    Service,
)
from workbench.canary import read_canary, read_weight, run_canary
from workbench.canary._state import only_run, read_state
from workbench.errors import ExportError, OptionsError, ServiceError
from workbench.workspace import write_json


def test_a_second_run_on_the_same_proxy_is_refused(tmp_path: Path) -> None:
    with (
        only_run(tmp_path),
        pytest.raises(ServiceError, match="under way already"),
        only_run(tmp_path),
    ):
        pass
    with only_run(tmp_path):
        pass


def test_a_run_whose_process_is_gone_is_not_shown_as_running(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from workbench.canary._state import *\n"
        "folder = Path(sys.argv[1])\n"
        "with only_run(folder):\n"
        "    write_state(folder, CanaryState(25.0, 'running', 'At 25 %.')); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        alive = read_state(tmp_path)
        process.kill()
        process.wait()
    dead = read_state(tmp_path)

    assert alive is not None
    assert dead is not None
    assert (alive.phase, dead.phase) == ("running", "cancelled")
    assert "ended without a word while the canary had 25 %" in dead.verdict


def test_the_history_is_plain_json_and_comes_back_as_it_was(stable: str, canary: Service, tmp_path: Path) -> None:
    with Splitter(stable, canary.address).calling() as splitter:
        result = go(splitter, tmp_path, replace(QUICK, steps=(100,)))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    json.loads((tmp_path / "canary-history.json").read_text(), parse_constant=refuse)
    state = read_state(tmp_path)
    assert state is not None
    assert repr(state.steps) == repr(result.steps)  # NaN is not equal to itself


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"steps": 3}', '{"steps": [], "phase": "idle", "colour": "red"}'])
def test_a_history_that_is_none_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "canary-history.json").write_text(text)
    with pytest.raises(ServiceError, match=r"canary-history.json is no history of a canary .* Remove it"):
        read_state(tmp_path)


def test_a_folder_without_a_proxy_says_how_to_start_one(tmp_path: Path) -> None:
    write_json(tmp_path / "canary.json", settings_of("127.0.0.1:1", "127.0.0.1:2"))
    for reading in (read_weight, read_canary, run_canary):
        with pytest.raises(ServiceError, match=r"No haproxy answers at .*-run/haproxy.sock.*README"):
            reading(tmp_path)
    write_json(tmp_path / "canary.json", replace(settings_of("127.0.0.1:1", "127.0.0.1:2"), proxy="nginx"))
    for reading in (read_weight, read_canary, run_canary):
        with pytest.raises(ServiceError, match=r"No nginx runs in .*-run\..*README"):
            reading(tmp_path)
        with pytest.raises(ServiceError, match=r"No nginx runs in .*elsewhere\."):
            reading(tmp_path, run=tmp_path / "elsewhere")


def test_a_folder_without_a_package_or_a_proxy_says_so(tmp_path: Path) -> None:
    for reading in (read_weight, read_canary):
        with pytest.raises(ServiceError, match=r"There is no folder .*/nothing\. Name the canary's package"):
            reading(tmp_path / "nothing")
        with pytest.raises(ServiceError, match=r"No proxy of a canary runs in "):
            reading(tmp_path)


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    for damage in (None, "[]", '{"model": "looper"}'):
        if damage is not None:
            (tmp_path / "canary.json").write_text(damage)
        with pytest.raises(ExportError, match="no package of the exporter canary"):
            run_canary(tmp_path)


@pytest.mark.parametrize("steps", [(5, 1), (0, 5), (5, 101), (5, 5)])
def test_steps_that_do_not_rise_are_refused(tmp_path: Path, steps: tuple[int, ...]) -> None:
    write_json(tmp_path / "canary.json", settings_of("127.0.0.1:1", "127.0.0.1:2"))
    with pytest.raises(OptionsError, match=r"cannot take steps = .*Write shares from 1 to 100 % that rise"):
        run_canary(tmp_path, {"steps": steps})
