"""Watches a running service: its metrics read again and again, and what happened between each two readings."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from workbench.errors import OptionsError, ServiceError
from workbench.jobs import Progress, silent
from workbench.options import make_options, option
from workbench.report import format_seconds
from workbench.service.metrics import Reading, ServiceStats, between, reader

_TICK_SECONDS = 0.1  # how often the caller can cancel
_MOST_MOMENTS = 100_000  # that are kept: a day at one a second

T = TypeVar("T")


@dataclass(frozen=True)
class WatchOptions:
    """How long, how often, and of what."""

    seconds: Annotated[
        float, option("How long; 0 is until it is stopped.", minimum=0, maximum=604_800, unit="s", advanced=True)
    ] = 30.0
    every: Annotated[float, option("Time between two readings.", minimum=0.2, maximum=3600, unit="s")] = 2.0
    model: Annotated[str, option("One model only; all of them if empty.", example="digits_cnn")] = ""
    version: Annotated[str, option("One version of it only; all of them if empty.", example="2")] = ""
    selector: Annotated[str, option("Of a Prometheus: further matchers.", advanced=True, example='job="digits"')] = ""
    timeout_s: Annotated[
        float, option("Longest wait for a reading.", minimum=0.1, maximum=60, unit="s", advanced=True)
    ] = 5.0


@dataclass(frozen=True)
class Moment:
    """What was seen at one time.

    Attributes:
        seconds: Time since the first reading, s.
        stats: What happened since the reading before; None if there was no answer.
        served: Name and version of all that is served there.
        trouble: Why there was no answer, in words.
    """

    seconds: float
    stats: ServiceStats | None
    served: tuple[tuple[str, str], ...] = ()
    trouble: str = ""


def watch_service(
    url: str,
    options: Mapping[str, Any] | WatchOptions | None = None,
    *,
    key: str = "",
    progress: Progress = silent,
    watch: Callable[[Moment], None] | None = None,
) -> tuple[Moment, ...]:
    """Watches a service, or all that a Prometheus watches, for some time.

    A service that stops answering is no error: those moments say so, and watching goes on until it is back. What
    happened meanwhile is in the first moment after.

    Args:
        url: Address of a service, e.g. `http://127.0.0.1:8000`, or of a Prometheus.
        options: Fields of `WatchOptions`.
        key: The service's API key, if it wants one.
        progress: Called several times a second with the share done and a short text; may raise to cancel at once.
        watch: Called with each moment; may raise to cancel.

    Returns:
        The moments, one for each `every` seconds; of a Prometheus, one for each time that it has scraped.

    Raises:
        OptionsError: An option has a value it cannot have.
        ServiceError: Nothing answers at the address in the beginning, or something that is neither of the two, or what
            is served there is not the wanted model.
    """
    checked = make_options(WatchOptions, options, "watch_service")

    def say(text: str) -> None:
        progress(min(1.0, (time.monotonic() - begun) / checked.seconds) if checked.seconds else 0.0, text)

    begun = time.monotonic()
    selector, timeout = checked.selector, checked.timeout_s
    read = _patiently(lambda: reader(url, key=key, selector=selector, timeout=timeout), say, f"asking {url}")
    last = _patiently(read, say, "reading for the first time")
    _check_served(url, last, checked.model, checked.version)
    begun = time.monotonic()
    moments: deque[Moment] = deque(maxlen=_MOST_MOMENTS)
    text, asked = "watching", begun
    while not checked.seconds or time.monotonic() - begun < checked.seconds:
        asked = max(asked + checked.every, time.monotonic())
        while (left := asked - time.monotonic()) > 0:
            say(text)
            time.sleep(min(left, _TICK_SECONDS))
        try:
            now = _patiently(read, say, text)
        except ServiceError as error:
            moment = Moment(time.monotonic() - begun, None, trouble=error.message)
        else:
            if now.at <= last.at:  # Prometheus has not scraped since
                continue
            stats = between(last, now, checked.model, checked.version)
            moment, last = Moment(time.monotonic() - begun, stats, now.models()), now
        moments.append(moment)
        text = _describe(moments)
        if watch is not None:
            watch(moment)
    return tuple(moments)


def read_key(variable: str) -> str:
    """The API key in an environment variable; empty if none is named.

    Raises:
        OptionsError: The variable is not set.
    """
    if variable and not os.environ.get(variable):
        raise OptionsError(f"The environment variable {variable} is not set.", "Put the service's key into it.")
    return os.environ[variable] if variable else ""


def _patiently(work: Callable[[], T], say: Callable[[str], None], text: str) -> T:
    """Does what may wait for the network in a thread of its own, so that the caller can cancel meanwhile."""
    found: list[T] = []
    failed: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    while not done.wait(_TICK_SECONDS):
        say(text)
    if failed:
        raise failed[0]
    return found[0]


def _check_served(url: str, reading: Reading, model: str, version: str) -> None:
    served = reading.models()
    if not (model or version) or any(model in ("", name) and version in ("", own) for name, own in served):
        return
    there = ", ".join(f"{name} {own}" for name, own in served) or "nothing"
    wanted = " of ".join(filter(None, (f"version {version}" if version else "", model or "any model")))
    raise ServiceError(f"{url} does not serve {wanted}; it serves {there}.", "Choose one of these, or leave it empty.")


def _describe(moments: deque[Moment]) -> str:
    last = moments[-1]
    if last.stats is not None:
        return "watching"
    since = next((moment.seconds for moment in reversed(moments) if moment.stats is not None), 0.0)
    return f"no answer for {format_seconds(last.seconds - since)}"
