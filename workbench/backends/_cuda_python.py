"""CUDA through cuda-python. Not run on a GPU yet."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.backends._cuda_words import NO_MEMORY, refusal, split_version
from workbench.errors import ProviderError


class CudaPython:
    """CUDA's runtime through cuda-python. Each of its calls answers with a code and, some, a value."""

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        kinds = runtime.cudaMemcpyKind
        self._in, self._out = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost

    def gpus(self) -> list[tuple[str, tuple[int, int], int]]:
        found = []
        for index in range(self._value(self._cuda.cudaGetDeviceCount())):
            told = self._value(self._cuda.cudaGetDeviceProperties(index))
            name = told.name.decode(errors="replace").rstrip("\0")
            found.append((name, (told.major, told.minor), int(told.totalGlobalMem)))
        return found

    def driver(self) -> tuple[int, int]:
        return split_version(self._value(self._cuda.cudaDriverGetVersion()))

    def enter(self, index: int) -> None:
        self._value(self._cuda.cudaSetDevice(index))

    def leave(self) -> None:
        """Nothing: the runtime remembers one GPU for each thread."""

    def free_bytes(self) -> int:
        code, free, _ = self._cuda.cudaMemGetInfo()
        return int(free) if code == 0 else 0

    def allocate(self, size: int) -> Any:
        return self._value(self._cuda.cudaMalloc(size), size)

    def free(self, memory: Any) -> None:
        self._value(self._cuda.cudaFree(memory))

    def pinned(self, size: int) -> NDArray[np.uint8]:
        address = self._value(self._cuda.cudaHostAlloc(size, self._cuda.cudaHostAllocPortable), size)
        raw = (ctypes.c_ubyte * size).from_address(int(address))
        weakref.finalize(raw, self._cuda.cudaFreeHost, address).atexit = False  # the driver may be gone by then
        return np.frombuffer(memoryview(raw), np.uint8)

    def copy_in(self, address: int, host: NDArray[Any], stream: Any) -> None:
        self._value(self._cuda.cudaMemcpyAsync(address, host.ctypes.data, host.nbytes, self._in, stream))

    def copy_out(self, host: NDArray[Any], address: int, stream: Any) -> None:
        self._value(self._cuda.cudaMemcpyAsync(host.ctypes.data, address, host.nbytes, self._out, stream))

    def make_stream(self, blocking: bool) -> Any:
        flag = self._cuda.cudaStreamDefault if blocking else self._cuda.cudaStreamNonBlocking
        return self._value(self._cuda.cudaStreamCreateWithFlags(flag))

    def address_of(self, stream: Any) -> int:
        return int(stream)

    def synchronize(self, stream: Any) -> None:
        self._value(self._cuda.cudaStreamSynchronize(stream))

    def close_stream(self, stream: Any) -> None:
        self._value(self._cuda.cudaStreamDestroy(stream))

    def make_event(self) -> Any:
        return self._value(self._cuda.cudaEventCreate())

    def record(self, event: Any, stream: Any) -> None:
        self._value(self._cuda.cudaEventRecord(event, stream))

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        self._value(self._cuda.cudaEventSynchronize(end))
        return float(self._value(self._cuda.cudaEventElapsedTime(begin, end)))

    def close_event(self, event: Any) -> None:
        self._value(self._cuda.cudaEventDestroy(event))

    def capture(self, stream: Any, work: Callable[[], object]) -> Any:
        # Thread-local: what other threads do meanwhile, e.g. allocate, does not spoil the capture.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._value(self._cuda.cudaStreamBeginCapture(stream, mode))
        try:
            work()
        except BaseException:
            _, graph = self._cuda.cudaStreamEndCapture(stream)
            if graph:
                self._cuda.cudaGraphDestroy(graph)
            self._cuda.cudaGetLastError()  # else the next library that asks for it takes the error for its own
            raise
        try:
            graph = self._value(self._cuda.cudaStreamEndCapture(stream))
            launchable = self._value(self._cuda.cudaGraphInstantiate(graph, 0))
        except ProviderError:
            self._cuda.cudaGetLastError()
            raise
        self._value(self._cuda.cudaGraphDestroy(graph))
        return launchable

    def launch(self, graph: Any, stream: Any) -> None:
        self._value(self._cuda.cudaGraphLaunch(graph, stream))

    def close_graph(self, graph: Any) -> None:
        self._value(self._cuda.cudaGraphExecDestroy(graph))

    def _value(self, answer: tuple[Any, ...], asked: int = 0) -> Any:
        """The value of an answer; an error that is not 0 is put into words."""
        code = answer[0]
        if code != 0:
            _, said = self._cuda.cudaGetErrorString(code)
            free = self.free_bytes() if code.name == NO_MEMORY else 0
            self._cuda.cudaGetLastError()
            raise refusal(code.name, said.decode(), driver=self.driver(), asked=asked, free=free)
        return answer[1] if len(answer) > 1 else None
