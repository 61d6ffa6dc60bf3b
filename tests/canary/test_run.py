"""A canary between two real exported services: its steps, and where it stays."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.canary.splitting import QUICK, Splitter, go, settings_of
from tests.serving.proxies import (
    Service,
    free_port,
)
from workbench.canary import CanaryStep
from workbench.canary._proxy import Weight
from workbench.canary._run import Run
from workbench.canary._state import CanaryState, read_state, write_state
from workbench.dataset import Dataset
from workbench.errors import Cancelled, OptionsError, ServiceError


def test_a_good_canary_gets_all_callers_step_by_step(stable: str, canary: Service, tmp_path: Path) -> None:
    told: list[CanaryStep] = []
    with Splitter(stable, canary.address).calling() as splitter:
        result = go(splitter, tmp_path, on_step=told.append)

    assert result.promoted
    assert [weight.percent for weight in splitter.weights] == [20, 100]
    assert [step.outcome for step in result.steps] == ["passed", "passed"]
    assert result.steps[0].canary.requests >= 20
    assert result.steps[0].stable.requests > result.steps[0].canary.requests
    assert result.steps[1].stable.requests < result.steps[1].canary.requests / 2  # those that were under way
    assert set(splitter.statuses) == {200}
    assert [step.outcome for step in told if step.weight_percent == 20][-2:] == ["running", "passed"]
    state = read_state(tmp_path)
    assert state is not None
    assert (state.phase, state.verdict, state.weight_percent) == ("promoted", result.verdict, 100)


@pytest.mark.heavy
def test_a_canary_that_too_few_ask_is_held_where_it_was_judged_good(
    stable: str, canary: Service, tmp_path: Path
) -> None:
    plan = replace(QUICK, steps=(20, 100), requests=10**6, wait_seconds=3)
    with Splitter(stable, canary.address, Weight(10.0, True)).calling() as splitter:
        result = go(splitter, tmp_path, plan)

    assert (result.phase, result.weight_percent, splitter.weight) == ("held", 10, Weight(10.0, True))
    assert result.unjudged
    words = r"of the 1,000,000 requests that a step is judged by came in \d+ s; it stays at 10 %"
    assert re.search(words, result.verdict)
    assert result.steps[-1].outcome == "unjudged"


@pytest.mark.heavy
def test_it_stays_at_the_last_step_if_it_is_not_to_be_promoted(stable: str, canary: Service, tmp_path: Path) -> None:
    with Splitter(stable, canary.address).calling() as splitter:
        held = go(splitter, tmp_path, replace(QUICK, steps=(30,), promote=False))
        promoted = go(splitter, tmp_path, replace(QUICK, steps=(10, 30)))

    assert (held.phase, held.weight_percent, held.steps[-1].outcome) == ("held", 30, "passed")
    assert not held.unjudged
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
    assert state.verdict == f"The canary has {before.percent:g} % again."


def test_a_weight_that_cannot_be_put_back_is_told_as_it_is(stable: str, canary: Service, tmp_path: Path) -> None:
    class Deaf(Splitter):
        def set(self, weight: Weight) -> None:
            if self.weights:
                raise ServiceError("No haproxy answers.")
            super().set(weight)

    def stop(share: float, words: str) -> None:
        raise Cancelled

    splitter = Deaf(stable, canary.address, Weight(10.0, True))
    with pytest.raises(Cancelled) as stopped:
        go(splitter, tmp_path, progress=stop)

    state = read_state(tmp_path)
    assert state is not None
    assert (state.phase, state.weight_percent, splitter.weight) == ("cancelled", 20, Weight(20.0, True))
    assert state.verdict == "The canary could not be given 10 % again: No haproxy answers."
    assert stopped.value.__notes__ == [state.verdict]


def test_a_canary_that_has_more_than_every_step_is_not_said_to_have_held_them(tmp_path: Path) -> None:
    written = CanaryState(100.0, "promoted", "Every step held; the canary has all callers.")
    write_state(tmp_path, written)
    splitter = Splitter("127.0.0.1:1", "127.0.0.1:2", Weight(100.0, True))
    with pytest.raises(OptionsError, match=r"has 100 % already, more than every step \(1, 50 %\)\. Roll it back first"):
        go(splitter, tmp_path, replace(QUICK, steps=(1, 50)))

    assert (splitter.weights, read_state(tmp_path)) == ([], written)


def test_a_canary_that_nobody_reaches_has_none_of_the_callers_whatever_its_weight(
    stable: str, canary: Service, tmp_path: Path
) -> None:
    def stop(share: float, words: str) -> None:
        raise Cancelled

    splitter = Splitter(stable, canary.address, Weight(50.0, False))  # as haproxy keeps it in maintenance
    with pytest.raises(Cancelled) as stopped:
        go(splitter, tmp_path, progress=stop)

    assert stopped.value.__notes__ == ["The canary has 0 % again."]
    assert splitter.weight == Weight(50.0, False)


def test_nobody_is_sent_to_what_is_not_there(stable: str, canary: Service, sample: Dataset, tmp_path: Path) -> None:
    other = Splitter(stable, f"127.0.0.1:{free_port()}")
    with pytest.raises(ServiceError, match="does not answer"):
        go(other, tmp_path)
    wrong = replace(settings_of(stable, canary.address), model="digits")
    with pytest.raises(ServiceError, match="serves looper, not digits"):
        Run(wrong, QUICK, other, tmp_path, "", lambda share, words: None, lambda step: None).go()
    deaf = replace(settings_of(stable, canary.address), canary_grpc=f"127.0.0.1:{free_port()}")
    with pytest.raises(ServiceError, match=r"takes no gRPC at 127.0.0.1:\d+ \(Connection refused\)"):
        Run(deaf, QUICK, other, tmp_path, "", lambda share, words: None, lambda step: None).go()
    assert other.weights == []
