"""One run of a canary: a weight is set, both versions are looked at every second, and the next step or end follows."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.canary._proxy import Proxy, Weight
from workbench.canary._state import CanaryResult, CanaryState, CanaryStep, Outcome, Phase, write_state
from workbench.canary._verdict import Limits, Pair, Window, find_breach, started_anew
from workbench.errors import OptionsError, ServiceError, WorkbenchError
from workbench.exporters.canary.settings import CanaryFile
from workbench.jobs import Progress
from workbench.service.metrics import Reading, read_service

OnStep = Callable[[CanaryStep], None]

_POLL_SECONDS = 1.0
_TICK_SECONDS = 0.1  # how often a waiting caller can cancel
_READ_SECONDS = 2.0
_RECENT = 6  # looks: the last five seconds are judged on their own too, so that a long step does not hide a fault
_MISSES = 2  # looks in a row without an answer: one may be chance


@dataclass(frozen=True)
class Plan:
    """What a run does, with every number decided.

    Attributes:
        steps: Weights in order, %.
        seconds: How long each holds at least.
        requests: Of the canary, without which a step is not judged.
        wait_seconds: How long a step waits for them.
        limits: What is a breach.
        promote: Whether the canary gets all callers in the end.
    """

    steps: tuple[int, ...]
    seconds: float
    requests: float
    wait_seconds: float
    limits: Limits
    promote: bool


class _Ended(Exception):
    """The run is over: what it came to, and what became of the step."""

    def __init__(self, phase: Phase, outcome: Outcome, verdict: str) -> None:
        super().__init__(verdict)
        self.phase, self.outcome, self.verdict = phase, outcome, verdict


class Run:
    """One run.

    Args:
        settings: Which services there are.
        plan: What to do.
        proxy: What splits the callers.
        folder: Where the history goes.
        key: The services' API key, if they want one.
        progress: Called with the share done and a short text; may raise to cancel.
        on_step: Called with each step as it stands.
    """

    def __init__(
        self,
        settings: CanaryFile,
        plan: Plan,
        proxy: Proxy,
        folder: Path,
        key: str,
        progress: Progress,
        on_step: OnStep,
    ) -> None:
        self._settings, self._plan, self._proxy, self._folder = settings, plan, proxy, folder
        self._key, self._progress, self._on_step = key, progress, on_step
        self._steps: list[CanaryStep] = []
        self._canary_misses = self._stable_misses = 0
        self._refused = 0.0  # the stable version's share in the last step in which it was asked

    def go(self) -> CanaryResult:
        """Goes through the steps; whatever happens, the weight is one that was judged good, or the one of before.

        Raises:
            OptionsError: The canary has more than every step already.
            ServiceError: A service does not answer at the start, or the proxy.
            BaseException: What ended it early, with a note that says which weight the canary has.
        """
        begun, start = time.monotonic(), self._proxy.read()
        before = start.percent if start.reachable else 0.0
        good = Weight(before, True)
        weights = [Weight(float(step), True) for step in self._plan.steps if step >= good.percent]
        if not weights:  # nothing would be judged, and the history of what was would be lost
            steps = ", ".join(map(str, self._plan.steps))
            raise OptionsError(
                f"The canary has {good.percent:g} % already, more than every step ({steps} %).",
                "Roll it back first, as the package's README says, or name a larger step.",
            )
        self._check_services()
        phase: Phase = "held"
        try:
            for number, weight in enumerate(weights):
                self._hold(weight, number, len(weights))
                good = weight
            verdict = f"Every step held; the canary stays at {good.percent:g} %, as asked."
            if self._plan.promote or good.percent == 100:
                good, phase = Weight(100.0, True), "promoted"
                verdict = "Every step held; the canary has all callers."
        except _Ended as ended:
            phase = ended.phase
            good = Weight(0.0, False) if phase == "rolled_back" else good
            self._proxy.set(good)  # before anything is written: callers come first
            words = "nobody reaches it any more" if phase == "rolled_back" else f"it stays at {good.percent:g} %"
            verdict = f"At {self._steps[-1].weight_percent:g} %, {ended.verdict}; {words}."
            self._conclude(ended.outcome, ended.verdict)
        except BaseException as error:
            error.add_note(self._put_back(start, before))
            raise
        if self._proxy.read() != good:
            self._proxy.set(good)
        seconds = time.monotonic() - begun
        result = CanaryResult(good.percent, phase, verdict, tuple(self._steps), before, seconds)
        write_state(self._folder, result)
        return result

    def _put_back(self, start: Weight, percent: float) -> str:
        """Gives the canary the weight of before, writes that down and says what came of it."""
        words = f"The canary has {percent:g} % again."
        try:
            self._proxy.set(start)
        except WorkbenchError as fault:
            words = f"The canary could not be given {percent:g} % again: {fault.message}"
            percent = self._steps[-1].weight_percent if self._steps else percent
        with contextlib.suppress(Exception):  # the first error is the one to tell
            self._conclude("cancelled", "before it was judged")
            write_state(self._folder, CanaryState(percent, "cancelled", words, tuple(self._steps)))
        return words

    def _check_services(self) -> None:
        """Both must answer before anybody is sent anywhere."""
        self._seen = Pair(self._read(self._settings.canary), self._read(self._settings.stable))
        connection = http.client.HTTPConnection(self._settings.canary, timeout=10)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/v2/health/ready")
                fault = "" if (status := connection.getresponse().status) == 200 else f"status {status}"
            except (OSError, http.client.HTTPException) as error:
                fault = str(error) or type(error).__name__
        if fault:
            raise ServiceError(f"The canary at {self._settings.canary} is not ready ({fault}).", "See its log.")
        if grpc := self._settings.canary_grpc:  # else the stable version would answer for it, and nobody would notice
            host, _, port = grpc.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            except OSError as error:
                reason = error.strerror or str(error) or type(error).__name__
                raise ServiceError(
                    f"The canary takes no gRPC at {grpc} ({reason}).", "Start it with gRPC at that port."
                ) from None

    def _hold(self, weight: Weight, number: int, total: int) -> None:
        """Lets one weight hold until it is judged.

        Raises:
            _Ended: It is a breach, or cannot be judged.
        """
        plan, begun, first = self._plan, time.monotonic(), self._seen
        looks = deque([first], maxlen=_RECENT)
        self._proxy.set(weight)
        seconds, step = 0.0, Window(first, first, self._settings.model)
        self._tell(CanaryStep(weight.percent, seconds, step.canary, step.stable, "running", "under way"))
        while True:
            self._wait((number + min(1.0, seconds / plan.seconds)) / total, weight)
            if not self._look():
                continue
            previous, pair = looks[-1], self._seen
            looks.append(pair)
            seconds, step = time.monotonic() - begun, Window(first, pair, self._settings.model)
            count = step.canary.requests
            ended = seconds >= plan.seconds and count >= plan.requests
            self._tell(CanaryStep(weight.percent, seconds, step.canary, step.stable, "running", "under way"))
            self._judge(previous, Window(looks[0], pair, self._settings.model), step, ended)
            if ended:
                self._conclude("passed", f"{count:,.0f} requests within all limits")
                return
            if seconds >= plan.wait_seconds:
                needed = f"the {plan.requests:,.0f} requests that a step is judged by"
                raise _Ended("held", "unjudged", f"only {count:,.0f} of {needed} came in {seconds:.0f} s")

    def _judge(self, previous: Pair, recent: Window, step: Window, ended: bool) -> None:
        if started_anew(previous.canary, step.after.canary, self._settings.model):
            raise _Ended("rolled_back", "breached", "it was started anew")
        if step.stable.requests:
            self._refused = step.stable.refused / step.stable.requests
        limits = self._plan.limits
        for window, over in ((step, ended), (recent, False)):
            breach = find_breach(window, limits, ended=over, usual_refused=self._refused)
            if breach:
                raise _Ended("rolled_back", "breached", breach)

    def _look(self) -> bool:
        """Reads both versions' series; False if one did not answer this once.

        Raises:
            _Ended: One does not answer any more.
        """
        stable = canary = None
        reason = ""
        try:
            stable, self._stable_misses = self._read(self._settings.stable), 0
        except ServiceError:
            self._stable_misses += 1
        try:
            canary, self._canary_misses = self._read(self._settings.canary), 0
        except ServiceError as error:
            self._canary_misses, reason = self._canary_misses + 1, error.message.rstrip(".")
        if self._stable_misses >= _MISSES:  # then there is nothing to roll back to
            raise _Ended("held", "unjudged", "the stable version shows no metrics any more")
        if self._canary_misses >= _MISSES and stable is not None:
            raise _Ended("rolled_back", "breached", f"its metrics are gone: {reason}")
        if canary is None or stable is None:
            return False
        self._seen = Pair(canary, stable)
        return True

    def _read(self, address: str) -> Reading:
        """The series of one version.

        Raises:
            ServiceError: It does not answer, or is something else.
        """
        reading = read_service(f"http://{address}", key=self._key, timeout=_READ_SECONDS)
        names = {name for name, _ in reading.models()}
        if self._settings.model not in names:
            raise ServiceError(
                f"http://{address} serves {', '.join(sorted(names)) or 'nothing'}, not {self._settings.model}.",
                "Start the services that the package names.",
            )
        return reading

    def _wait(self, share: float, weight: Weight) -> None:
        end = time.monotonic() + _POLL_SECONDS
        while time.monotonic() < end:
            self._progress(share, f"canary at {weight.percent:g} %")
            time.sleep(_TICK_SECONDS)

    def _tell(self, step: CanaryStep) -> None:
        if self._steps and self._steps[-1].outcome == "running":
            self._steps.pop()
        self._steps.append(step)
        words = f"At {step.weight_percent:g} % for {step.seconds:.0f} s."
        write_state(self._folder, CanaryState(step.weight_percent, "running", words, tuple(self._steps)))
        self._on_step(step)

    def _conclude(self, outcome: Outcome, verdict: str) -> None:
        """Says what became of the step under way."""
        if self._steps and self._steps[-1].outcome == "running":
            self._steps[-1] = replace(self._steps[-1], outcome=outcome, verdict=verdict)
            self._on_step(self._steps[-1])
