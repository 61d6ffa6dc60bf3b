"""The command that raises a canary's weight step by step and rolls it back on a breach."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

import os
import signal
from pathlib import Path
from typing import Annotated, Any

import tyro

from workbench._flags import flags, show_progress
from workbench.canary import CanaryOptions, CanaryStep, read_canary, run_canary
from workbench.options import to_builtins

CanaryFlags: Any = flags(CanaryOptions)

_KEY = "WORKBENCH_API_KEY"


def canary(
    package: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="What the exporter canary wrote.")],
    options: Annotated[CanaryFlags, tyro.conf.OmitArgPrefixes] = CanaryFlags(),
    run: Annotated[
        Path | None,
        tyro.conf.arg(help="Folder that the proxy runs in; the one beside the package if not given."),
    ] = None,
    show: Annotated[bool, tyro.conf.arg(help="Only show how the canary stands.")] = False,
) -> None:
    """Raise a canary's share of the callers in steps while its metrics hold; roll it back if they do not.

    Ends with 1 if the canary was rolled back. A key that the services want is read from WORKBENCH_API_KEY.
    """
    if show:
        state = read_canary(run or package)
        for step in state.steps:
            _print(step)
        print(f"{state.phase.replace('_', ' ')}: {state.verdict} Now at {state.weight_percent:g} %.")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who ends it gets the weight of before, as with Ctrl+C
    wanted, key = to_builtins(options), os.environ.get(_KEY, "")
    ended: list[CanaryStep] = []

    def show_step(step: CanaryStep) -> None:
        if step.outcome == "running":
            return
        if not ended:  # not before it is known that there is a canary
            print(f"{'weight':>7} {'time':>7}  {'requests':>8} {'failed':>7} {'p50':>8} {'p99':>8}   stable's p99")
        ended.append(step)
        _print(step)

    result = run_canary(package, wanted, run=run, key=key, progress=show_progress(), on_step=show_step)
    print(f"{result.phase.replace('_', ' ')}: {result.verdict}")
    if result.phase == "rolled_back":
        raise SystemExit(1)


def _print(step: CanaryStep) -> None:
    canary, stable = step.canary, step.stable
    print(
        f"{step.weight_percent:>5g} % {step.seconds:>5.0f} s  {canary.requests:>8g} {canary.error_ratio:>7.1%} "
        f"{canary.p50_ms:>5.3g} ms {canary.p99_ms:>5.3g} ms   {stable.p99_ms:.3g} ms   {step.outcome}: {step.verdict}",
        flush=True,
    )
