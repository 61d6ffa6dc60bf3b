"""The options of a measurement of serving numbers, as far as what it found tells them: for a package's recipe."""

from __future__ import annotations

import math
from typing import Any

from workbench.measure.load import LoadStats
from workbench.measure.sweep import Sweep
from workbench.serving_measure import MeasureServingOptions
from workbench.serving_measurements import Measurements

_SHORTEST, _LONGEST = 0.2, 600.0  # s; what the option takes


def measuring_of(found: Measurements) -> dict[str, Any] | None:
    """What a recipe has under `export.measure`, to measure the same again; None if nothing of it was measured.

    What cannot be told, such as how long a query may wait, is left out and has its default then.
    """
    if not found.curve and found.sweep is None:
        return None
    told = {
        "batches": sorted({point.batch for point in found.sweep.points}) if found.sweep else None,
        "seconds": _seconds(found),
        "steps": _steps(found.curve),
        "rounds": _rounds(found.sweep) if found.sweep else None,
    }
    return {name: value for name, value in told.items() if value}


def _seconds(found: Measurements) -> float | None:
    """How long queries came: exact where some came at a rate; a closed loop ends with its last query, a bit later."""
    exact = [
        (stats.completed + stats.unfinished) / stats.offered_per_second
        for stats in found.curve
        if stats.kept_up and stats.offered_per_second
    ]
    closed = [point.stats.seconds for point in found.sweep.points if point.stats] if found.sweep else []
    if not exact and not closed:
        return None
    return round(min(_LONGEST, max(_SHORTEST, exact[0] if exact else min(closed))), 3 if exact else 1)


def _steps(curve: tuple[LoadStats, ...]) -> int | None:
    """Rates that were tried; of a curve that ended early, as two in a row were too high, only if more than usual."""
    ended_early = not any(stats.kept_up for stats in curve[-2:])
    usual = MeasureServingOptions.steps
    return len(curve) if len(curve) > (usual if ended_early else 1) else None


def _rounds(sweep: Sweep) -> int | None:
    """How often points were measured again; some may have been more than once, when other work disturbed them."""
    return math.gcd(*(len(point.rates) - 1 for point in sweep.points if point.confirmed)) or None
