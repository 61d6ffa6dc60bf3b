"""A batch too small to fill the device: more samples at a time would take hardly longer."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.findings.context import Context, Finding
from workbench.findings.trials import measure_once
from workbench.findings.words import in_ms

_FACTOR = 4  # times the candidate's batch
_GAIN = 1.25  # in throughput; less is not worth the wait for a batch to fill


def find(context: Context) -> Iterator[Finding]:
    """Measures throughput at the candidate's batch and at four times as many samples."""
    engine = context.row.candidate.engine
    if engine.model.fixed_batch is not None or context.row.speedup.high < 1:  # nobody will serve what is slower
        return
    larger = _FACTOR * context.batch
    # Not in turns, since a batch belongs to a whole measurement: hence fastest tenths, and a gain well above noise.
    now, then = (measure_once(context, [engine], batch)[0].p10 for batch in (context.batch, larger))
    if now is None or then is None or _FACTOR * now.low / then.high < _GAIN:
        return
    gain = _FACTOR * now.value / then.value
    figures = "; ".join(
        f"batch {batch} takes {in_ms(time.value)}, {1000 * batch / time.value:,.0f} samples/s"
        for batch, time in ((context.batch, now), (larger, then))
    )
    yield Finding(
        rule="small_batch",
        candidate=context.row.name,
        what=f"A batch of {context.batch} does not fill the device: {larger} give {gain:.1f} × the throughput.",
        evidence=f"{figures} (fastest tenths).",
        milliseconds=context.row.p50_ms * (1 - 1 / gain),
        why="Calls, waking threads and reading the weights from memory cost the same for one sample as for several.",
        remedy=f"Where requests may wait for each other, run {larger} at a time (dynamic batching in the server); each "
        f"then waits {in_ms(then.value)} for its answer instead of {in_ms(now.value)}.",
    )
