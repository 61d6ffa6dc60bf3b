"""More threads than the work of one operator can keep busy."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.findings.context import Context, Finding
from workbench.findings.trials import CLEAR, Trial, try_options
from workbench.findings.words import count_of, in_ms
from workbench.measure.latency import speedup

_SMALL_MS = 0.1  # an operator this short is not worth waking other threads for
_WASTE = 1.2  # processor time at which threads that wait have become a cost


def find(context: Context) -> Iterator[Finding]:
    """Measures with fewer threads, where the layers are so short that more can hardly help."""
    threads = context.row.latency.threads or 1
    typical = typical_layer_ms(context)
    if threads < 2 or not 0 < typical < _SMALL_MS:
        return
    trials = {fewer: try_options(context, _threads(fewer), {"threads": fewer}) for fewer in {1, threads // 2}}
    fewer, best = max(trials.items(), key=lambda item: item[1].ratio.value)
    if not _is_waste(best):
        return
    yield Finding(
        rule="too_many_threads",
        candidate=context.row.name,
        what=f"{threads} threads are more than the work keeps busy.",
        evidence=f"{best.describe(f'with {_threads(fewer)}')}; processor time {in_ms(best.before.cpu_ms)} against "
        f"{in_ms(best.after.cpu_ms)}. Half of the time is in layers of {in_ms(typical)} or less.",
        milliseconds=max(0.0, best.saved_ms),
        why="Handing a part of an operator to another thread and waiting for it takes some microseconds; the threads "
        "spin meanwhile and take the processor from other work.",
        remedy=f"Use {_threads(fewer)}, and run several instances side by side where throughput counts.",
        step=best.step,
    )


def typical_layer_ms(context: Context) -> float:
    """Half of the time is spent in layers that take no longer than this, ms; 0 where nothing was measured."""
    times = sorted(context.time_of(entry) for entry in context.profile.layers)
    spent, total = 0.0, sum(times)
    for time in times:
        spent += time
        if spent >= total / 2:
            return time
    return 0.0


def _is_waste(trial: Trial) -> bool:
    """Whether fewer threads are faster, or as fast for clearly less processor time."""
    as_fast = trial.ratio.low > 1 / CLEAR
    return trial.is_faster or (as_fast and speedup(trial.before, trial.after).cpu.low > _WASTE)


def _threads(count: int) -> str:
    return count_of(count, "thread")
