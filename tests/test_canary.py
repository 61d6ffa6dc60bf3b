"""A canary between two real exported services, split by a few lines instead of a proxy: steps, verdicts and ends."""

from __future__ import annotations

import contextlib
import json
import math
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.exporters.monitored import PLAN
from tests.serving.proxies import (
    Service,
    ask,
    export_failing_version,
    export_renamed_version,
    export_version,
    free_port,
    request_of,
    running_service,
)
from workbench.canary import CanaryResult, CanaryStep, read_canary, read_weight, run_canary
from workbench.canary._proxy import Weight
from workbench.canary._run import Plan, Run
from workbench.canary._state import only_run, read_state
from workbench.canary._verdict import Limits, chance_of
from workbench.dataset import Dataset
from workbench.errors import Cancelled, ExportError, OptionsError, ServiceError
from workbench.exporters import Package
from workbench.exporters.canary.settings import CanaryFile, canary_settings
from workbench.workspace import write_json

PATH = "/v2/models/looper/infer"
LIMITS = Limits(error_ratio=0.01, refused_ratio=0.01, p99_ms=250, p99_factor=0)
QUICK = Plan((20, 100), seconds=1, requests=20, wait_seconds=30, limits=LIMITS, promote=True)


@dataclass
class Splitter:
    """Callers who are split by a weight, as a proxy does; what the canary fails is answered by the stable version."""

    stable: str
    canary: str
    weight: Weight = field(default=Weight(0.0, True))
    weights: list[Weight] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    body: bytes = request_of(2)

    def read(self) -> Weight:
        return self.weight

    def set(self, weight: Weight) -> None:
        self.weight = weight
        self.weights.append(weight)

    @contextlib.contextmanager
    def calling(self, count: int = 2) -> Iterator[Splitter]:
        stop = threading.Event()

        def call() -> None:
            dice = random.Random()
            while not stop.wait(0.004):
                chosen = self.weight.reachable and dice.uniform(0, 100) < self.weight.percent
                status = self._ask(self.canary) if chosen else 500
                self.statuses[self._ask(self.stable) if status >= 500 else status] += 1

        threads = [threading.Thread(target=call) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _ask(self, address: str) -> int:
        try:
            return ask(address, "POST", PATH, self.body)[0]
        except OSError:
            return 502


@pytest.fixture(scope="module")
def sample() -> Dataset:
    return Dataset({"x": np.array([[0.1, -0.2, 0.3, 0.4]], np.float32)})


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> Package:
    return export_version(tmp_path_factory.mktemp("good"), "2", sample)


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> Iterator[str]:
    package = export_version(tmp_path_factory.mktemp("stable"), "1", sample)
    with running_service(package, free_port()) as service:
        yield service.address


@pytest.fixture
def canary(good: Package) -> Iterator[Service]:
    with running_service(good, free_port()) as service:
        yield service


def settings_of(stable: str, canary: str) -> CanaryFile:
    return CanaryFile("looper", "haproxy", "127.0.0.1:1", stable, canary, 0, (1, 100), canary_settings(PLAN))


def go(splitter: Splitter, folder: Path, plan: Plan = QUICK, **callbacks: Any) -> CanaryResult:
    tell = {"progress": lambda share, words: None, "on_step": lambda step: None, **callbacks}
    settings = settings_of(splitter.stable, splitter.canary)
    return Run(settings, plan, splitter, folder, "", tell["progress"], tell["on_step"]).go()


def test_a_good_canary_gets_all_callers_step_by_step(stable: str, canary: Service, tmp_path: Path) -> None:
    told: list[CanaryStep] = []
    with Splitter(stable, canary.address).calling() as splitter:
        result = go(splitter, tmp_path, on_step=told.append)

    assert result.promoted
    assert [weight.percent for weight in splitter.weights] == [20, 100]
    assert [step.outcome for step in result.steps] == ["passed", "passed"]
    assert result.steps[0].canary.requests >= 20
    assert result.steps[0].stable.requests > result.steps[0].canary.requests
    assert result.steps[1].stable.requests < result.steps[1].canary.requests / 5  # those that were under way
    assert set(splitter.statuses) == {200}
    assert [step.outcome for step in told if step.weight_percent == 20][-2:] == ["running", "passed"]
    state = read_state(tmp_path)
    assert state is not None
    assert (state.phase, state.verdict, state.weight_percent) == ("promoted", result.verdict, 100)


def test_a_canary_that_fails_is_rolled_back_and_no_caller_notices(stable: str, sample: Dataset, tmp_path: Path) -> None:
    bad = export_failing_version(tmp_path / "bad", "2", sample)
    with running_service(bad, free_port()) as service, Splitter(stable, service.address).calling() as splitter:
        result = go(splitter, tmp_path, replace(QUICK, seconds=20))

    assert (result.phase, splitter.weight) == ("rolled_back", Weight(0.0, False))
    assert "requests failed (100.0%); the limit is 1.0%; nobody reaches it any more" in result.verdict
    assert result.steps[-1].seconds < 10  # at once, not at the end of the step
    assert result.steps[-1].outcome == "breached"
    assert set(splitter.statuses) == {200}


@pytest.mark.heavy
def test_a_canary_that_refuses_what_the_stable_version_takes_is_rolled_back(
    stable: str, canary: Service, tmp_path: Path
) -> None:
    with Splitter(stable, canary.address, body=b"{}").calling() as splitter:
        same = go(splitter, tmp_path)
    other = export_renamed_version(tmp_path / "other", "2")
    with running_service(other, free_port()) as service, Splitter(stable, service.address).calling() as splitter:
        result = go(splitter, tmp_path)

    assert same.promoted  # the callers are at fault, not the canary
    assert result.phase == "rolled_back"
    assert "requests were refused (100.0%); the stable version refuses 0.0%" in result.verdict


@pytest.mark.heavy
def test_a_slow_canary_is_rolled_back_by_its_limit_or_by_the_stable_versions_time(
    stable: str, sample: Dataset, tmp_path: Path
) -> None:
    slow = export_version(tmp_path / "slow", "2", sample, steps=40_000)
    with running_service(slow, free_port()) as service, Splitter(stable, service.address).calling() as splitter:
        alone = go(splitter, tmp_path, replace(QUICK, seconds=20, limits=replace(LIMITS, p99_ms=30)))
        splitter.set(Weight(0.0, True))
        beside = go(splitter, tmp_path, replace(QUICK, seconds=20, limits=replace(LIMITS, p99_ms=2000, p99_factor=2)))

    assert alone.phase == beside.phase == "rolled_back"
    assert "ms; the limit is 30 ms" in alone.verdict
    assert "in the same time, and 2 times that is the limit" in beside.verdict
    assert max(alone.steps[-1].seconds, beside.steps[-1].seconds) < 15


def test_a_canary_that_is_killed_is_rolled_back(stable: str, canary: Service, tmp_path: Path) -> None:
    def kill(step: CanaryStep) -> None:
        if step.canary.requests:
            canary.kill()

    with Splitter(stable, canary.address).calling() as splitter:
        result = go(splitter, tmp_path, replace(QUICK, seconds=30), on_step=kill)

    assert result.phase == "rolled_back"
    assert "its metrics are gone" in result.verdict
    assert result.seconds < 10
    assert set(splitter.statuses) == {200}


@pytest.mark.heavy
def test_a_canary_that_was_started_anew_is_rolled_back(
    stable: str, canary: Service, good: Package, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:

        def restart(step: CanaryStep) -> None:
            if step.canary.requests > 5 and canary.process.poll() is None:
                canary.kill()
                stack.enter_context(running_service(good, canary.port))

        splitter = stack.enter_context(Splitter(stable, canary.address).calling())
        result = go(splitter, tmp_path, replace(QUICK, seconds=30), on_step=restart)

    assert result.phase == "rolled_back"
    assert "it was started anew" in result.verdict


@pytest.mark.heavy
def test_a_stable_version_that_is_gone_leaves_nothing_to_roll_back_to(good: Package, tmp_path: Path) -> None:
    with (
        running_service(good, free_port()) as stable,
        running_service(good, free_port()) as canary,
        Splitter(stable.address, canary.address, Weight(20.0, True)).calling() as splitter,
    ):
        result = go(splitter, tmp_path, replace(QUICK, seconds=30), on_step=lambda step: stable.kill())

    assert (result.phase, result.weight_percent) == ("held", 20)
    assert "the stable version shows no metrics any more" in result.verdict


@pytest.mark.heavy
def test_a_canary_that_too_few_ask_is_held_where_it_was_judged_good(
    stable: str, canary: Service, tmp_path: Path
) -> None:
    plan = replace(QUICK, steps=(20, 100), requests=10**6, wait_seconds=3)
    with Splitter(stable, canary.address, Weight(10.0, True)).calling() as splitter:
        result = go(splitter, tmp_path, plan)

    assert (result.phase, result.weight_percent, splitter.weight) == ("held", 10, Weight(10.0, True))
    assert "of the 1e+06 requests that a step is judged by came in 3 s; it stays at 10 %" in result.verdict
    assert result.steps[-1].outcome == "unjudged"


@pytest.mark.heavy
def test_it_stays_at_the_last_step_if_it_is_not_to_be_promoted(stable: str, canary: Service, tmp_path: Path) -> None:
    with Splitter(stable, canary.address).calling() as splitter:
        held = go(splitter, tmp_path, replace(QUICK, steps=(30,), promote=False))
        promoted = go(splitter, tmp_path, replace(QUICK, steps=(10, 30)))

    assert (held.phase, held.weight_percent, held.steps[-1].outcome) == ("held", 30, "passed")
    assert [step.weight_percent for step in promoted.steps] == [30]  # a weight is never taken back to raise it
    assert (promoted.phase, splitter.weight) == ("promoted", Weight(100.0, True))


@pytest.mark.parametrize("error", [Cancelled, KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("before", [Weight(10.0, True), Weight(0.0, False)])
def test_whatever_stops_it_puts_the_weight_back(
    stable: str, canary: Service, tmp_path: Path, error: type[BaseException], before: Weight
) -> None:
    splitter = Splitter(stable, canary.address, before)
    seen: list[Weight] = []

    def stop(share: float, words: str) -> None:
        seen.append(splitter.weight)
        raise error

    with pytest.raises(error):
        go(splitter, tmp_path, progress=stop)

    assert (seen, splitter.weight) == ([Weight(20.0, True)], before)
    state = read_state(tmp_path)
    assert state is not None
    assert (state.phase, state.steps[-1].outcome) == ("cancelled", "cancelled")
    assert f"the canary has {before.percent:g} % again" in state.verdict


def test_nobody_is_sent_to_what_is_not_there(stable: str, canary: Service, sample: Dataset, tmp_path: Path) -> None:
    other = Splitter(stable, f"127.0.0.1:{free_port()}")
    with pytest.raises(ServiceError, match="does not answer"):
        go(other, tmp_path)
    wrong = replace(settings_of(stable, canary.address), model="digits")
    with pytest.raises(ServiceError, match="serves looper, not digits"):
        Run(wrong, QUICK, other, tmp_path, "", lambda share, words: None, lambda step: None).go()
    assert other.weights == []


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
    with pytest.raises(ServiceError, match=r"No nginx runs in .*-run"):
        run_canary(tmp_path)


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


@pytest.mark.parametrize(("count", "expected"), [(1, 0.5), (3, 0.2), (9, 3.0), (30, 12.0), (1200, 1000.0)])
def test_the_chance_of_a_count_is_poissons(count: int, expected: float) -> None:
    below = math.fsum(math.exp(k * math.log(expected) - expected - math.lgamma(k + 1)) for k in range(count))
    assert chance_of(count, expected) == pytest.approx(1 - below, rel=1e-6, abs=1e-11)
