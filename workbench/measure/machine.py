"""The machine while something is measured: its noise, other load on it, its clocks, and a GPU's state."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from workbench.jobs import Worker

_SPIN_SECONDS = 0.15
_SPIN_WORK = 20_000  # additions: about half a millisecond, as long as a small model takes


@dataclass(frozen=True)
class Calibration:
    """A fixed piece of work, timed again and again: what the machine does to times when nothing differs.

    Attributes:
        p10_ms: Its fastest tenth.
        p50_ms: Its median.
    """

    p10_ms: float
    p50_ms: float

    @property
    def spread(self) -> float:
        """How far the median lies above the fastest tenth, as a share."""
        return self.p50_ms / self.p10_ms - 1


@dataclass(frozen=True)
class CpuTimes:
    """Seconds since the system started, all processors together."""

    busy: float
    steal: float
    total: float


@dataclass(frozen=True)
class Clocks:
    """Readings of the system's clocks, s, one right after the other."""

    monotonic: float
    real: float
    boot: float


@dataclass(frozen=True)
class GpuState:
    """A GPU at one moment, as its driver tells it.

    Attributes:
        name: The GPU.
        sm_mhz: Clock of its processors.
        max_sm_mhz: The highest that it can have.
        celsius: Temperature.
        throttling: Why it holds its clock back, in the driver's own bits; `0x0000000000000000` is no reason.
    """

    name: str
    sm_mhz: float
    max_sm_mhz: float
    celsius: float
    throttling: str


@dataclass(frozen=True)
class Surroundings:
    """What else happened on the machine for a while.

    Attributes:
        other_load: Share of all processors' time that other processes took; None where it cannot be read.
        steal: Share that the host took from this virtual machine.
        clock_set_s: By how much the system's clock was set, s.
        suspended_s: How long the machine was asleep, s.
    """

    other_load: float | None
    steal: float
    clock_set_s: float = 0.0
    suspended_s: float = 0.0


@dataclass(frozen=True)
class Conditions:
    """The machine around and during a measurement.

    Attributes:
        before: The calibration loop before it.
        after: The same after it.
        meanwhile: What else happened.
        gpus: Each GPU after it; none where there is no driver.
    """

    before: Calibration
    after: Calibration
    meanwhile: Surroundings
    gpus: tuple[GpuState, ...] = ()


class SurroundingsWatch:
    """Reads the machine's counters and clocks when made, and again when asked what happened since."""

    def __init__(self) -> None:
        self._own = sum(os.times()[:2])
        self._times, self._clocks = read_cpu_times(), read_clocks()

    def finish(self, own_seconds: float) -> Surroundings:
        """What happened since.

        Args:
            own_seconds: Processor time that the measurement's own processes took beside this one.
        """
        times, clocks = read_cpu_times(), read_clocks()
        load, steal = other_load(self._times, times, own_seconds + sum(os.times()[:2]) - self._own)
        slept = (clocks.boot - self._clocks.boot) - (clocks.monotonic - self._clocks.monotonic)
        moved = (clocks.real - self._clocks.real) - (clocks.boot - self._clocks.boot)
        return Surroundings(load, steal, moved, slept)


class ConditionsWatch:
    """The same, with the calibration loop before and after."""

    def __init__(self) -> None:
        self._before = calibrate()
        self._watch = SurroundingsWatch()

    def finish(self, own_seconds: float, *, gpu: bool = False) -> Conditions:
        """What happened since.

        Args:
            own_seconds: Processor time that the measurement's own processes took beside this one.
            gpu: Whether a GPU was measured, and its driver is to be asked.
        """
        meanwhile = self._watch.finish(own_seconds)
        return Conditions(self._before, calibrate(), meanwhile, read_gpus() if gpu else ())


def other_load(before: CpuTimes | None, after: CpuTimes | None, own_seconds: float) -> tuple[float | None, float]:
    """Shares of the processors' time between two readings that others, and the host, took.

    Args:
        before: First reading; None where the system has none.
        after: Second reading.
        own_seconds: Processor time that was ours.
    """
    if before is None or after is None or after.total <= before.total:
        return None, 0.0
    total = after.total - before.total
    others = (after.busy - before.busy - own_seconds) / total
    return min(1.0, max(0.0, others)), (after.steal - before.steal) / total


def calibrate() -> Calibration:
    """Times the calibration loop in a fresh process, as what is measured runs in one."""
    with Worker(_spin) as worker:
        found: Calibration = worker.receive()
        return found


def read_cpu_times() -> CpuTimes | None:
    """Reads the processors' times; None where the system does not tell them."""
    import psutil

    if not Path("/proc/stat").exists():
        return None
    times = psutil.cpu_times()
    idle = times.idle + times.iowait
    # Linux counts a guest's time in user time too.
    total = times.user + times.nice + times.system + times.irq + times.softirq + times.steal + idle
    return CpuTimes(busy=total - idle - times.steal, steal=times.steal, total=total)


def read_clocks() -> Clocks:
    """Reads the clocks; one that the system lacks stands still with the monotonic one."""
    boot = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return Clocks(time.clock_gettime(time.CLOCK_MONOTONIC), time.time(), time.clock_gettime(boot))


def read_gpus() -> tuple[GpuState, ...]:
    """Asks the NVIDIA driver's own tool for the state of each GPU; nothing where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    fields = "name,clocks.sm,clocks.max.sm,temperature.gpu,clocks_throttle_reasons.active"
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(state for line in answer.stdout.splitlines() if (state := _gpu_state(line.split(", "))))


def _gpu_state(fields: Sequence[str]) -> GpuState | None:
    try:
        name, sm, most, celsius, throttling = fields
        return GpuState(name, float(sm), float(most), float(celsius), throttling.strip())
    except ValueError:  # a driver that does not know a field says "[N/A]"
        return None


def _spin(channel: Connection) -> None:
    """Runs in the worker."""
    times: list[float] = []
    end = time.perf_counter() + _SPIN_SECONDS
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        sum(range(_SPIN_WORK))
        times.append((time.perf_counter() - begin) * 1000)
    times.sort()
    channel.send(("result", Calibration(times[len(times) // 10], times[len(times) // 2])))
