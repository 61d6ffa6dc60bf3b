"""How a canary stands: its steps with the numbers of both versions, kept in a file that panels read."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.errors import ServiceError
from workbench.service.metrics import ServiceStats
from workbench.workspace import write_bytes

HISTORY = "canary-history.json"
_LOCK = "canary.lock"

Phase = Literal["idle", "running", "promoted", "rolled_back", "held", "cancelled"]
Outcome = Literal["running", "passed", "breached", "unjudged", "cancelled"]


@dataclass(frozen=True)
class CanaryStep:
    """One weight, and what both versions did while it held.

    Attributes:
        weight_percent: Share of the callers that the canary got, %.
        seconds: How long the weight held, s.
        canary: What the canary did.
        stable: What the stable version did in the same time.
        outcome: What became of the step; `unjudged` if too few requests came, or the stable version failed.
        verdict: The same in words.
    """

    weight_percent: float
    seconds: float
    canary: ServiceStats
    stable: ServiceStats
    outcome: Outcome
    verdict: str


@dataclass(frozen=True)
class CanaryState:
    """How a canary stands.

    Attributes:
        weight_percent: Share of the callers that the canary gets now, %.
        phase: What the last run is doing or came to; `idle` if there was none.
        verdict: The same in words.
        steps: Its steps in order, the one under way last.
    """

    weight_percent: float
    phase: Phase = "idle"
    verdict: str = "No canary was run."
    steps: tuple[CanaryStep, ...] = ()


@dataclass(frozen=True)
class CanaryResult(CanaryState):
    """What a run came to.

    Attributes:
        started_percent: The weight before it, %.
        seconds: How long it took, s.
    """

    started_percent: float = 0.0
    seconds: float = 0.0

    @property
    def promoted(self) -> bool:
        """Whether the canary serves all callers now."""
        return self.phase == "promoted"

    @property
    def unjudged(self) -> bool:
        """Whether it was held because its last step could not be judged, and not because that was asked for."""
        return self.phase == "held" and any(step.outcome == "unjudged" for step in self.steps[-1:])


def write_state(folder: Path, state: CanaryState) -> None:
    """Writes the history into the run folder, whole or not at all.

    Raises:
        WorkspaceError: The folder cannot be written.
    """
    values = {field.name: getattr(state, field.name) for field in dataclasses.fields(CanaryState)}
    values["steps"] = [dataclasses.asdict(step) for step in state.steps]
    write_bytes(folder / HISTORY, json.dumps(_plain(values), indent=1).encode() + b"\n")


def read_state(folder: Path) -> CanaryState | None:
    """Reads the history; None if there is none.

    A run whose process is gone is `cancelled`, whatever the file says.

    Raises:
        ServiceError: The file holds something else.
    """
    path = folder / HISTORY
    try:
        values = json.loads(path.read_bytes())
        steps = tuple(_step(step) for step in values.pop("steps"))
        state = CanaryState(**values, steps=steps)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ServiceError(f"{path} is no history of a canary ({error}).", "Remove it.") from None
    if state.phase == "running" and not _is_held(folder):
        words = f"The run ended without a word while the canary had {state.weight_percent:g} %."
        return dataclasses.replace(state, phase="cancelled", verdict=words)
    return state


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keeps a second run from raising the same weight.

    Raises:
        ServiceError: One is under way.
    """
    with (folder / _LOCK).open("ab") as lock:
        for wait in (0.05, 0.05, 0.0):  # a reader holds it for a moment to see whether anybody does
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(wait)
        else:
            raise ServiceError(f"A canary is under way already in {folder}.", "Wait for its end, or cancel it.")
        yield


def _is_held(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity: the first becomes null, the second a key as text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step(values: dict[str, Any]) -> CanaryStep:
    return CanaryStep(**{**values, "canary": _stats(values["canary"]), "stable": _stats(values["stable"])})


def _stats(values: dict[str, Any]) -> ServiceStats:
    plain: dict[str, Any] = {key: math.nan if value is None else value for key, value in values.items()}
    batches = {float(bound): count for bound, count in values["batches"].items()}
    drift = {name: math.nan if off is None else off for name, off in values["drift"].items()}
    return ServiceStats(**plain | {"batches": batches, "drift": drift})
