"""What a measurement was made on: machine, cores and versions."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """Conditions that decide a measured time.

    Attributes:
        processor: Name of the processor.
        cores: Logical cores that this process may use.
        memory_gb: Main memory, GB (10⁹ bytes).
        system: Kernel and its version.
        python: Version of Python.
        instructions: Instruction sets that decide INT8 and BF16 speed, e.g. `avx512_vnni`.
    """

    processor: str
    cores: int
    memory_gb: float
    system: str
    python: str
    instructions: tuple[str, ...] = ()

    def __str__(self) -> str:
        best = next((words for flag, words in _FOR_INT8.items() if flag in self.instructions), "")
        return f"{self.processor}, {self.cores} cores{f' ({best})' if best else ''}, {self.memory_gb:.0f} GB"


_FOR_INT8 = {"amx_int8": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX-VNNI", "avx2": "AVX2", "i8mm": "I8MM"}
_TELLING_FLAGS = (*_FOR_INT8, "avx512f", "avx512_bf16", "amx_bf16", "asimddp")


def read_environment() -> Environment:
    """Reads the conditions of this machine."""
    import psutil

    fields = _cpuinfo()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return Environment(
        processor=fields.get("model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=psutil.virtual_memory().total / 1e9,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        instructions=tuple(flag for flag in _TELLING_FLAGS if flag in flags),
    )


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
