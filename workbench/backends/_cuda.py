"""NVIDIA GPUs: which there are, and streams, events, memory and graphs on one of them. Not run on a GPU yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.backends._cuda_api import Api
from workbench.backends._cuda_pycuda import PyCuda
from workbench.backends._cuda_python import CudaPython
from workbench.backends._cuda_words import driver_version
from workbench.errors import ProviderError


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        index: Its number in CUDA's order.
        name: What its maker calls it, e.g. `NVIDIA L4`.
        capability: Its compute capability, e.g. `SM89`.
        memory_bytes: All its memory.
        driver: Version of the driver and of the CUDA that it knows, e.g. `580.65.06 (CUDA 13.0)`.
    """

    index: int
    name: str
    capability: str
    memory_bytes: int
    driver: str

    def __str__(self) -> str:
        return f"{self.name} ({self.capability})"


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA can use; none without a driver, or where neither cuda-python nor pycuda is installed."""
    try:
        api = load_api()
        return _list_gpus(api)
    except ProviderError:
        return ()


def gpu_names() -> tuple[str, ...]:
    """The kinds of GPUs that CUDA can use, as plans name what they run on: by compute capability, e.g. `SM89`."""
    return tuple(dict.fromkeys(gpu.capability for gpu in gpus()))


def load_api() -> Api:
    """Takes cuda-python, or pycuda where only that is installed.

    Raises:
        ProviderError: Neither is installed, or there is no driver for pycuda to start with.
    """
    try:
        from cuda.bindings import runtime

        return CudaPython(runtime)
    except ImportError:
        pass
    try:
        import pycuda.driver as driver
    except ImportError:
        raise ProviderError(
            "A GPU needs cuda-python or pycuda, and neither is installed.",
            "Install one: pip install 'deployment-workbench[gpu]' or 'deployment-workbench[pycuda]'.",
        ) from None
    return PyCuda(driver)


def _list_gpus(api: Api) -> tuple[Gpu, ...]:
    major, minor = api.driver()
    driver = f"{driver_version()} (CUDA {major}.{minor})".strip()
    return tuple(
        Gpu(index, name, f"SM{capability[0]}{capability[1]}", memory, driver)
        for index, (name, capability, memory) in enumerate(api.gpus())
    )


class Cuda:
    """One GPU. Inside its `with` it is the one that calls of this thread are for; it can be entered again and again.

    Args:
        index: Its number.

    Attributes:
        gpu: Which it is.
        api: The calls of the library that is installed.

    Raises:
        ProviderError: There is no such GPU, no driver, or one that is too old.
    """

    def __init__(self, index: int = 0) -> None:
        self.api = load_api()
        found = _list_gpus(self.api)
        if not 0 <= index < len(found):
            listed = ", ".join(f"{gpu.index} {gpu}" for gpu in found) or "none"
            raise ProviderError(f"There is no GPU {index} here; there are: {listed}.", "Choose one of these.")
        self.gpu = found[index]

    def __enter__(self) -> Cuda:
        self.api.enter(self.gpu.index)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.api.leave()


class Stream:
    """A queue of work for the GPU.

    Args:
        cuda: The GPU.
        blocking: Whether it and CUDA's default stream wait for each other.
    """

    def __init__(self, cuda: Cuda, *, blocking: bool = False) -> None:
        self._api = cuda.api
        self.handle = cuda.api.make_stream(blocking)
        self.address = cuda.api.address_of(self.handle)

    def synchronize(self) -> None:
        """Waits until all work is done."""
        self._api.synchronize(self.handle)

    def copy_in(self, address: int, host: NDArray[Any]) -> None:
        """Queues a copy of pinned memory to the GPU."""
        self._api.copy_in(address, host, self.handle)

    def copy_out(self, host: NDArray[Any], address: int) -> None:
        """Queues a copy from the GPU to pinned memory."""
        self._api.copy_out(host, address, self.handle)

    def close(self) -> None:
        """Gives it back."""
        self._api.close_stream(self.handle)


class Event:
    """A mark on a stream that knows when it was reached."""

    def __init__(self, cuda: Cuda) -> None:
        self._api = cuda.api
        self._event = cuda.api.make_event()

    def record(self, stream: Stream) -> None:
        """Queues the mark."""
        self._api.record(self._event, stream.handle)

    def ms_since(self, begin: Event) -> float:
        """Waits for this mark; the time from another one to it, ms, with a resolution of about half a µs."""
        return self._api.elapsed_ms(begin._event, self._event)

    def close(self) -> None:
        """Gives it back."""
        self._api.close_event(self._event)


class DeviceBuffer:
    """Memory on the GPU that grows and never shrinks."""

    def __init__(self, cuda: Cuda) -> None:
        self._api = cuda.api
        self._memory: Any = None
        self._size = 0

    def reserve(self, size: int) -> int:
        """Makes room; returns the address, aligned to 256 bytes. What was in it is lost if it had to grow.

        Raises:
            ProviderError: There is not so much memory.
        """
        if self._memory is None or size > self._size:
            self.close()
            self._memory = self._api.allocate(max(size, 1))
            self._size = size
        return int(self._memory)

    def close(self) -> None:
        """Gives the memory back."""
        if self._memory is not None:
            memory, self._memory, self._size = self._memory, None, 0
            self._api.free(memory)


class PinnedBuffer:
    """Memory of the host that the GPU copies from and to by itself; it grows and never shrinks."""

    def __init__(self, cuda: Cuda) -> None:
        self._api = cuda.api
        self._raw = np.empty(0, np.uint8)

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The memory as an array, with what happens to be in it; earlier views keep their memory if it had to grow.

        Raises:
            ProviderError: There is not so much memory that could be pinned.
        """
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if max(size, 1) > len(self._raw):
            self._raw = self._api.pinned(max(size, 1))
        return self._raw[:size].view(dtype).reshape(shape)


class Graph:
    """Work that was captured from a stream and is put on it again with one call.

    Raises:
        ProviderError: Something in the work cannot be captured.
    """

    def __init__(self, cuda: Cuda, stream: Stream, work: Callable[[], object]) -> None:
        self._api = cuda.api
        self._stream = stream
        self._graph = cuda.api.capture(stream.handle, work)

    def launch(self) -> None:
        """Queues all of it."""
        self._api.launch(self._graph, self._stream.handle)

    def close(self) -> None:
        """Gives it back."""
        self._api.close_graph(self._graph)


class DeviceTimer:
    """A stream with two events around what is put on it.

    Raises:
        ProviderError: Neither cuda-python nor pycuda is installed, or there is no driver or GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self._cuda = Cuda(index)
        with self._cuda:
            self._stream = Stream(self._cuda, blocking=True)  # libraries may use the default stream beside it
            self._begin, self._end = Event(self._cuda), Event(self._cuda)

    @property
    def stream(self) -> int:
        """Address of the stream, as backends take it."""
        return self._stream.address

    def time(self, call: Callable[[], object]) -> float:
        """Time between the events before and after a call, ms: what the device took, its gaps included."""
        with self._cuda:
            self._begin.record(self._stream)
            call()
            self._end.record(self._stream)
            return self._end.ms_since(self._begin)

    def close(self) -> None:
        """Gives the events and the stream back."""
        with self._cuda:
            self._begin.close()
            self._end.close()
            self._stream.close()
