"""What is looked at before a latency may be believed: one check each, with the figures that decided it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from workbench.measure._limited import Opened
from workbench.measure.machine import Calibration, Conditions, Surroundings
from workbench.measure.statistics import Estimate
from workbench.measure.trust import Check

_NARROW = 0.05  # half the median's interval, as a share of it
_NOISY = 1.25  # median against fastest tenth
_DRIFT = 0.15  # medians of blocks against each other
_CALIBRATION = 0.15  # spread of the calibration loop, and its change
_OTHERS = 0.1  # share of all processors
_BUSY = 0.8  # processor time against wall time of a single thread
_SYNC_FACTOR, _SYNC_MS = 1.5, 0.2
_CLOCK_S = 0.05


def latency_checks(
    opened: Opened,
    *,
    device: str,
    p10: Estimate | None,
    p50: Estimate | None,
    p99: Estimate | None,
    iterations: int,
    medians: Sequence[float],
    busy: Sequence[float],
    threads: int | None,
    launches: int,
    steady: bool,
    synchronised: float | None,
    conditions: Conditions,
) -> tuple[Check, ...]:
    """The checks of one engine's latency.

    Args:
        opened: What opening it showed.
        device: What it was to run on.
        p10: Fastest tenth; None where there were too few timings, and likewise the others.
        p50: Median.
        p99: 99th percentile.
        iterations: Timings.
        medians: Median of each block, ms.
        busy: Processor time of each block as a share of wall time × threads.
        threads: Threads that were asked for; None where the backend has no such option.
        launches: Fresh processes.
        steady: Whether every warm-up ended because the times had settled.
        synchronised: How many times longer an inference takes until all outputs are arrays.
        conditions: The machine meanwhile.
    """
    return (
        check_provider(opened, device),
        check_outputs(opened),
        _synchronised(synchronised, p50),
        _samples(iterations, p50, p99),
        _stable(steady, medians),
        _launches(launches),
        _noise(p10, p50, conditions),
        _processor(busy, threads),
        *check_surroundings(conditions.meanwhile),
        *_gpu(conditions),
    )


def check_provider(opened: Opened, device: str) -> Check:
    ran = ", ".join(f"{name} ({count})" for name, count in opened.placement.items()) or "no node"
    others = {name: count for name, count in opened.placement.items() if not name.startswith(device)}
    if others and len(opened.placement) > 1:
        elsewhere = ", ".join(f"{count} nodes on {name}" for name, count in others.items())
        return Check("provider", "doubt", f"not all of it ran on {device}: {elsewhere}")
    return Check("provider", "ok", f"every node ran where it was asked to: {ran}")


def check_outputs(opened: Opened) -> Check:
    if opened.bad_outputs:
        names = ", ".join(opened.bad_outputs)
        return Check("outputs", "doubt", f"NaN or infinite values in the output {names}")
    return Check("outputs", "ok", "all values of the first inference are finite")


def _synchronised(ratio: float | None, p50: Estimate | None) -> Check:
    if ratio is None or p50 is None:
        return Check("synchronised", "unknown", "too few timings to tell")
    if ratio > _SYNC_FACTOR and (ratio - 1) * p50.value > _SYNC_MS:
        return Check("synchronised", "doubt", f"handing the outputs over takes {ratio:.1f} × what was timed")
    return Check("synchronised", "ok", "each timing ended when the outputs were there")


def _samples(iterations: int, p50: Estimate | None, p99: Estimate | None) -> Check:
    if p50 is None:
        return Check("samples", "doubt", f"only {iterations} timings")
    if p50.spread > _NARROW:
        return Check("samples", "doubt", f"the median is known to ±{100 * p50.spread:.0f} % only")
    enough = "enough for the 99th percentile" if p99 else "too few for the 99th percentile, which is not shown"
    return Check("samples", "ok", f"{iterations:,} timings, {enough}; the median is known to ±{100 * p50.spread:.1f} %")


def _stable(steady: bool, medians: Sequence[float]) -> Check:
    drift = max(medians) / min(medians) - 1
    if drift > _DRIFT:
        return Check("stable", "doubt", f"the median moved by {100 * drift:.0f} % between parts of the measurement")
    if not steady:
        return Check("stable", "doubt", "the times had not settled when the warm-up had to end")
    return Check("stable", "ok", f"settled in the warm-up; medians of the parts within {100 * drift:.1f} %")


def _launches(launches: int) -> Check:
    if launches == 1:
        return Check("launches", "ok", "one process: what differs from process to process is not in the intervals")
    return Check("launches", "ok", f"{launches} fresh processes")


def _noise(p10: Estimate | None, p50: Estimate | None, conditions: Conditions) -> Check:
    if p10 and p50 and p50.value > _NOISY * p10.value:
        ratio = p50.value / p10.value
        return Check("noise", "doubt", f"noisy machine: the median is {ratio:.1f} × the fastest tenth")
    return check_calibration(conditions.before, conditions.after)


def check_calibration(before: Calibration, after: Calibration) -> Check:
    """Whether a fixed loop took as long after a measurement as before it, and always about the same."""
    spread, drift = max(before.spread, after.spread), abs(np.log(after.p10_ms / before.p10_ms))
    found = f"a fixed loop varied by {100 * spread:.0f} % and changed by {100 * drift:.0f} % in between"
    if spread > _CALIBRATION or drift > _CALIBRATION:
        return Check("noise", "doubt", f"noisy machine: {found}")
    return Check("noise", "ok", found)


def check_machine(conditions: Conditions) -> tuple[Check, ...]:
    """Whether the machine was quiet and its clocks right, whatever was measured meanwhile."""
    return check_calibration(conditions.before, conditions.after), *check_surroundings(conditions.meanwhile)


def _processor(busy: Sequence[float], threads: int | None) -> Check:
    """Whether the threads got the cores that they wanted, as far as wall time and processor time tell."""
    share, drift = float(np.median(busy)), max(busy) / min(busy) - 1 if min(busy) > 0 else 0.0
    if threads == 1:
        text = f"the thread ran for {100 * min(share, 1):.0f} % of the time"
        if share < _BUSY:
            return Check("processor", "doubt", f"{text}: other work took the core")
    else:
        text = f"{share * (threads or 1):.1f} cores at work on average"
    if drift > _DRIFT:
        return Check("processor", "doubt", f"{text}, but that changed by {100 * drift:.0f} % between parts")
    return Check("processor", "ok", text)


def check_surroundings(meanwhile: Surroundings) -> tuple[Check, Check]:
    """Whether others had the processors meanwhile, and whether the clocks can be believed."""
    return _other_load(meanwhile), _clock(meanwhile)


def _other_load(meanwhile: Surroundings) -> Check:
    load, steal = meanwhile.other_load, meanwhile.steal
    if load is None:
        return Check("other load", "unknown", "this system does not tell")
    text = f"other processes took {100 * load:.0f} % of the processors"
    if steal > 0.01:
        text += f" and the host {100 * steal:.0f} %"
    return Check("other load", "doubt" if load + steal > _OTHERS else "ok", text)


def _clock(meanwhile: Surroundings) -> Check:
    if meanwhile.suspended_s > _CLOCK_S:
        return Check("clock", "doubt", f"the machine slept for {meanwhile.suspended_s:.1f} s in between")
    if abs(meanwhile.clock_set_s) > _CLOCK_S:
        moved = f"the system's clock was set by {meanwhile.clock_set_s:+.1f} s meanwhile"
        return Check("clock", "ok", f"{moved}; the clock that times are taken with does not follow it")
    return Check("clock", "ok", "monotonic, and the system's clock was not set meanwhile")


def _gpu(conditions: Conditions) -> Iterator[Check]:
    for gpu in conditions.gpus:
        clock = f"{gpu.name} at {gpu.sm_mhz:.0f} of {gpu.max_sm_mhz:.0f} MHz, {gpu.celsius:.0f} °C"
        idle = 0x1  # the driver's bit for "no work": the clock may be low then
        held_back = int(gpu.throttling, 16) & ~idle if gpu.throttling.startswith("0x") else 0
        if held_back:
            yield Check("GPU clock", "doubt", f"{clock}, held back ({gpu.throttling})")
        else:
            yield Check("GPU clock", "ok", clock)
