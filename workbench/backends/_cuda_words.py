"""What CUDA answers, put into words; and the versions that it writes as numbers."""

from __future__ import annotations

import re
from pathlib import Path

from workbench.errors import ProviderError

NO_MEMORY, OLD_DRIVER, NO_DEVICE = "cudaErrorMemoryAllocation", "cudaErrorInsufficientDriver", "cudaErrorNoDevice"

_DRIVER_FILE = Path("/proc/driver/nvidia/version")


def split_version(number: int) -> tuple[int, int]:
    """CUDA's `13040` as `(13, 4)`."""
    return number // 1000, number % 1000 // 10


def driver_version(text: str | None = None) -> str:
    """Version of NVIDIA's kernel driver, e.g. `580.65.06`; empty where the system does not tell.

    Args:
        text: What the kernel says of it; read if None.
    """
    if text is None:
        text = _DRIVER_FILE.read_text(encoding="utf-8") if _DRIVER_FILE.is_file() else ""
    found = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else ""


def refusal(
    code: str, said: str, *, driver: tuple[int, int] | None = None, asked: int = 0, free: int = 0
) -> ProviderError:
    """What CUDA answered, in words.

    Args:
        code: Its name of the error.
        said: Its own words.
        driver: Version of CUDA that the driver knows, as far as it is known.
        asked: Bytes that were asked for.
        free: Bytes that were free.
    """
    if code == OLD_DRIVER and not any(driver or ()):
        return ProviderError(
            "There is no NVIDIA driver.", "Run it on a machine with an NVIDIA GPU and its driver (nvidia-smi)."
        )
    if code == OLD_DRIVER and driver:
        return ProviderError(
            f"The NVIDIA driver is too old: it knows CUDA up to {driver[0]}.{driver[1]}, and more is needed.",
            "Update the driver, or install a cuda-python of the driver's version.",
        )
    if code == NO_DEVICE:
        return ProviderError(
            "The NVIDIA driver sees no GPU.", "Check nvidia-smi and the variable CUDA_VISIBLE_DEVICES."
        )
    if code == NO_MEMORY:
        wanted = f"{asked / 1e6:,.1f} MB were asked for and {free / 1e6:,.1f} MB are free" if asked else said
        return ProviderError(
            f"Memory ran out: {wanted}.",
            "Take a smaller batch or model, fewer runners at a time, or end what else holds the GPU's memory "
            "(nvidia-smi lists it).",
        )
    return ProviderError(
        f"CUDA answered with {code}: {said}.",
        "Check the GPU with nvidia-smi. After an error of a kernel CUDA works again in a fresh process only.",
    )
