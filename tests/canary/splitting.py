"""Callers who are split between two services by a few lines instead of a proxy, and plans for a canary there."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.exporters.monitored import PLAN
from tests.serving.proxies import ask, request_of
from workbench.canary import CanaryResult
from workbench.canary._proxy import Weight
from workbench.canary._run import Plan, Run
from workbench.canary._verdict import Limits
from workbench.exporters.canary.settings import CanaryFile, canary_settings

PATH = "/v2/models/looper/infer"
# The time that a request may take is one that a busy machine does not take either.
LIMITS = Limits(error_ratio=0.01, refused_ratio=0.01, p99_ms=10_000, p99_factor=0)
QUICK = Plan((20, 100), seconds=1, requests=20, wait_seconds=120, limits=LIMITS, promote=True)
PATIENT = replace(QUICK, seconds=120, wait_seconds=180)  # who rolls back at once is done long before half a step


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


@dataclass
class GrpcSplitter(Splitter):
    """The same over gRPC alone."""

    grpc: Mapping[str, str] = field(default_factory=dict)  # addresses for gRPC by those for HTTP

    def _ask(self, address: str) -> int:
        from tests.serving.grpc_callers import asking, grpc, grpc_request

        with asking(self.grpc[address]) as call:
            try:
                call(grpc_request(2))
            except grpc.RpcError:
                return 502
        return 200


def settings_of(stable: str, canary: str) -> CanaryFile:
    return CanaryFile("looper", "haproxy", "127.0.0.1:1", stable, canary, 0, (1, 100), canary_settings(PLAN))


def go(splitter: Splitter, folder: Path, plan: Plan = QUICK, **callbacks: Any) -> CanaryResult:
    tell = {"progress": lambda share, words: None, "on_step": lambda step: None, **callbacks}
    settings = settings_of(splitter.stable, splitter.canary)
    return Run(settings, plan, splitter, folder, "", tell["progress"], tell["on_step"]).go()
