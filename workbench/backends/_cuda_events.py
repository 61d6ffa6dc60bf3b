"""Device time of a call by CUDA events, on a stream of ours that the backend is told to use. Not yet run on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.errors import ProviderError


class DeviceTimer:
    """A CUDA stream with two events around what is put on it.

    Raises:
        ProviderError: cuda-python is not installed, or there is no driver or GPU.
    """

    def __init__(self) -> None:
        self._stream = _call("cudaStreamCreate")
        self._begin, self._end = _call("cudaEventCreate"), _call("cudaEventCreate")

    @property
    def stream(self) -> int:
        """Address of the stream, as backends take it."""
        return int(self._stream)

    def time(self, call: Callable[[], object]) -> float:
        """Time between the events before and after a call, ms: what the device took, its gaps included."""
        _call("cudaEventRecord", self._begin, self._stream)
        call()
        _call("cudaEventRecord", self._end, self._stream)
        _call("cudaEventSynchronize", self._end)
        return float(_call("cudaEventElapsedTime", self._begin, self._end))

    def close(self) -> None:
        """Gives the events and the stream back."""
        for event in (self._begin, self._end):
            _call("cudaEventDestroy", event)
        _call("cudaStreamDestroy", self._stream)


def _call(name: str, *arguments: Any) -> Any:
    """Calls CUDA's runtime, which answers with a code and, for some calls, a value."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise ProviderError(
            "Device time needs cuda-python, which is not installed.",
            "Install it: pip install 'deployment-workbench[gpu]'.",
        ) from None
    code, *values = getattr(runtime, name)(*arguments)
    if code != runtime.cudaError_t.cudaSuccess:
        raise ProviderError(
            f"CUDA answered {name} with {code.name}.", "Check the driver: nvidia-smi tells which GPUs it sees."
        )
    return values[0] if values else None
