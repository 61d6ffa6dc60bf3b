"""The command that raises a canary's weight step by step and rolls it back on a breach."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

import math
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from workbench._flags import flags, show_progress
from workbench.canary import CanaryOptions, CanaryStep, read_canary, run_canary
from workbench.errors import WorkbenchError
from workbench.load_report import format_ms
from workbench.options import to_builtins

CanaryFlags: Any = flags(CanaryOptions)

_KEY = "WORKBENCH_API_KEY"
_ROLLED_BACK, _UNJUDGED, _CANCELLED = 1, 3, 130
_HEADINGS = ("weight", "time", "requests", "failed", "p50", "p99", "stable's p99")
_WIDTHS = (7, 7, 9, 7, 9, 9, 12)


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

    Ends with 1 if the canary was rolled back, with 3 if it was held because a step could not be judged. A key that the
    services want is read from WORKBENCH_API_KEY.
    """
    if show:
        state = read_canary(package, run=run)
        _print_steps(state.steps)
        print(f"{state.phase.replace('_', ' ')}: {state.verdict} Now at {state.weight_percent:g} %.")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who ends it gets the weight of before, as with Ctrl+C
    wanted, key = to_builtins(options), os.environ.get(_KEY, "")
    ended: list[CanaryStep] = []

    def show_step(step: CanaryStep) -> None:
        if step.outcome == "running":
            return
        _print_steps((step,), headed=not ended)  # not before it is known that there is a canary
        ended.append(step)

    try:
        result = run_canary(package, wanted, run=run, key=key, progress=show_progress(), on_step=show_step)
    except (KeyboardInterrupt, WorkbenchError) as error:
        notes = " ".join(getattr(error, "__notes__", ()))  # the weight that the canary has
        if isinstance(error, KeyboardInterrupt):
            print(f"\nCancelled. {notes or 'Nothing was changed.'}", file=sys.stderr)
            raise SystemExit(_CANCELLED) from None
        if notes:
            print(f"\n{notes}", file=sys.stderr)
        raise
    print(f"{result.phase.replace('_', ' ')}: {result.verdict}")
    if result.phase == "rolled_back":
        raise SystemExit(_ROLLED_BACK)
    if result.unjudged:
        raise SystemExit(_UNJUDGED)


def _print_steps(steps: tuple[CanaryStep, ...], *, headed: bool = True) -> None:
    lines: list[tuple[str, ...]] = [(*_HEADINGS, "result")] if headed and steps else []
    lines += [_cells(step) for step in steps]
    for *cells, result in lines:
        aligned = (cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
        print(f"{' '.join(aligned)}  {result}", flush=True)


def _cells(step: CanaryStep) -> tuple[str, ...]:
    seen = step.canary
    return (
        f"{step.weight_percent:g} %",
        f"{step.seconds:.0f} s",
        f"{seen.requests:,.0f}",
        f"{seen.error_ratio:.1%}" if seen.requests else "–",
        _ms(seen.p50_ms),
        _ms(seen.p99_ms),
        _ms(step.stable.p99_ms),
        f"{step.outcome}: {step.verdict}",
    )


def _ms(milliseconds: float) -> str:
    return "–" if math.isnan(milliseconds) else f"{format_ms(milliseconds)} ms"
