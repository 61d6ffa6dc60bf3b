"""Raises a canary's weight in steps while the metrics of both versions are watched, and rolls it back on a breach."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from workbench.canary._programs import run_proxy as run_proxy
from workbench.canary._proxy import open_proxy, read_package_settings, read_run_folder, run_folder
from workbench.canary._run import OnStep, Plan, Run
from workbench.canary._state import CanaryResult as CanaryResult
from workbench.canary._state import CanaryState as CanaryState
from workbench.canary._state import CanaryStep as CanaryStep
from workbench.canary._state import only_run, read_state
from workbench.canary._verdict import Limits
from workbench.errors import OptionsError, ServiceError
from workbench.exporters import Package
from workbench.exporters.canary import SETTINGS
from workbench.exporters.canary.settings import CanaryFile
from workbench.jobs import Progress, silent
from workbench.options import make_options, option


@dataclass(frozen=True)
class CanaryOptions:
    """How fast the weight is raised, and what is a breach; what is not given comes from the package."""

    steps: Annotated[
        tuple[int, ...], option("Shares of the callers, rising; the package's if none is given.", unit="%")
    ] = ()
    seconds: (
        Annotated[float, option("How long each step holds at least.", minimum=1, maximum=86_400, unit="s")] | None
    ) = None
    requests: (
        Annotated[int, option("Requests of the canary without which a step is not judged.", minimum=1, maximum=10**9)]
        | None
    ) = None
    wait_seconds: (
        Annotated[float, option("How long a step waits for them.", minimum=1, maximum=604_800, unit="s", advanced=True)]
        | None
    ) = None
    error_ratio: (
        Annotated[float, option("Share of failed requests that is a breach.", minimum=0, maximum=1, advanced=True)]
        | None
    ) = None
    refused_ratio: (
        Annotated[
            float,
            option(
                "How much larger than the stable version's the share of refused requests may be.",
                minimum=0,
                maximum=1,
                advanced=True,
            ),
        ]
        | None
    ) = None
    p99_ms: (
        Annotated[float, option("99th percentile that is a breach.", minimum=0.001, unit="ms", advanced=True)] | None
    ) = None
    p99_factor: (
        Annotated[
            float,
            option("Times the stable version's 99th percentile that is a breach; 0 for any.", minimum=0, advanced=True),
        ]
        | None
    ) = None
    promote: Annotated[
        bool, option("Give the canary all callers after the last step; otherwise it stays at that step.")
    ] = True


def run_canary(
    package: Package | str | Path,
    options: Mapping[str, Any] | CanaryOptions | None = None,
    *,
    run: str | Path | None = None,
    key: str = "",
    progress: Progress = silent,
    on_step: OnStep | None = None,
) -> CanaryResult:
    """Raises the weight of a running canary step by step, and rolls it back by itself on a breach.

    A step holds for its seconds and until the canary has answered enough requests to be judged. On a breach nobody
    reaches the canary any more. If too few requests come, or the stable version stops answering, the canary is held:
    it keeps the last weight that was judged good. A cancel, or any exception, puts the weight back to what it was; a
    note of the exception says so.

    Args:
        package: What the exporter `canary` wrote; its proxy and both services must run.
        options: Fields of `CanaryOptions`.
        run: Folder that the proxy was started in; the one beside the package if None.
        key: The services' API key, where they ask for one.
        progress: Called with the share done and a short text; may raise to cancel.
        on_step: Called every second with the step under way, and once with its outcome.

    Raises:
        OptionsError: An option has a value it cannot have, or the canary has more than every step already.
        ExportError: The folder holds no such package.
        ServiceError: The proxy or a service does not answer at the start, or the proxy later; or another run is on.
        WorkspaceError: The run folder cannot be written.
    """
    folder = _folder(package)
    settings = read_package_settings(folder)
    plan = _plan(settings, make_options(CanaryOptions, options, "canary"))
    place = Path(run).expanduser().absolute() if run else run_folder(folder)
    proxy = open_proxy(settings, place)
    with only_run(place):
        return Run(settings, plan, proxy, place, key, progress, on_step or (lambda step: None)).go()


def read_weight(folder: str | Path, *, run: str | Path | None = None) -> float:
    """The share of the callers that the canary gets now, %.

    Args:
        folder: The package, or the folder that its proxy runs in.
        run: That folder, where it is not the one beside the package.

    Raises:
        ServiceError: No proxy runs there.
        ExportError: The package's settings are damaged.
    """
    place, settings = _place(folder, run)
    weight = open_proxy(settings, place).read() if settings else read_run_folder(place)
    return weight.percent if weight.reachable else 0.0


def read_canary(folder: str | Path, *, run: str | Path | None = None) -> CanaryState:
    """How a canary stands: its weight now, and the last run's steps.

    Args:
        folder: The package, or the folder that its proxy runs in.
        run: That folder, where it is not the one beside the package.

    Raises:
        ServiceError: There is neither a proxy nor a history.
        ExportError: The package's settings are damaged.
    """
    place, _ = _place(folder, run)
    known = read_state(place)
    try:
        weight = read_weight(folder, run=run)
        return dataclasses.replace(known or CanaryState(0.0), weight_percent=weight)
    except ServiceError:
        if known is None:
            raise
        return known


def _folder(package: Package | str | Path) -> Path:
    return package.directory if isinstance(package, Package) else Path(package).expanduser().absolute()


def _place(folder: str | Path, run: str | Path | None) -> tuple[Path, CanaryFile | None]:
    """The folder that the proxy runs in, and the settings of the package, if it is one that is named."""
    named = Path(folder).expanduser().absolute()
    if not named.is_dir():
        raise ServiceError(
            f"There is no folder {named}.", "Name the canary's package, or the folder that its proxy runs in."
        )
    settings = read_package_settings(named) if (named / SETTINGS).is_file() else None
    if run is not None:
        return Path(run).expanduser().absolute(), settings
    return (named if settings is None else run_folder(named)), settings


def _plan(settings: CanaryFile, options: CanaryOptions) -> Plan:
    steps = options.steps or settings.steps_percent
    if list(steps) != sorted({*steps}) or not steps or not 1 <= steps[0] <= steps[-1] <= 100:
        raise OptionsError(
            f"canary cannot take steps = {', '.join(map(str, steps))}.", "Write shares from 1 to 100 % that rise."
        )
    given = {name: getattr(options, name) for name in ("error_ratio", "refused_ratio", "p99_ms", "p99_factor")}
    known = settings.limits
    limits = Limits(**{n: known.numbers[n].value if value is None else value for n, value in given.items()})
    seconds = known.seconds_per_step.value if options.seconds is None else options.seconds
    wait = known.wait_seconds.value if options.wait_seconds is None else options.wait_seconds
    requests = known.requests_per_step.value if options.requests is None else options.requests
    return Plan(steps, seconds, requests, max(seconds, wait), limits, options.promote)
