"""CUDA through pycuda, for users who have it in place of cuda-python. Not run on a GPU yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.backends._cuda_words import NO_DEVICE, NO_MEMORY, refusal, split_version
from workbench.errors import ProviderError


class PyCuda:
    """CUDA's driver through pycuda, in the context that TensorRT's runtime uses as well."""

    def __init__(self, driver: Any) -> None:
        self._cuda = driver
        self._contexts: dict[int, Any] = {}
        self._try(driver.init)

    def gpus(self) -> list[tuple[str, tuple[int, int], int]]:
        devices = [self._cuda.Device(index) for index in range(self._try(self._cuda.Device.count))]
        return [(each.name(), each.compute_capability(), each.total_memory()) for each in devices]

    def driver(self) -> tuple[int, int]:
        return split_version(self._cuda.get_driver_version())

    def enter(self, index: int) -> None:
        if index not in self._contexts:
            self._contexts[index] = self._try(self._cuda.Device(index).retain_primary_context)
        self._contexts[index].push()

    def leave(self) -> None:
        self._cuda.Context.pop()  # pycuda ends the process of a thread that leaves one behind

    def free_bytes(self) -> int:
        return int(self._cuda.mem_get_info()[0])

    def allocate(self, size: int) -> Any:
        return self._try(self._cuda.mem_alloc, size, asked=size)

    def free(self, memory: Any) -> None:
        memory.free()

    def pinned(self, size: int) -> NDArray[np.uint8]:
        flags = self._cuda.host_alloc_flags.PORTABLE
        made: NDArray[np.uint8] = self._try(self._cuda.pagelocked_empty, size, np.uint8, "C", flags, asked=size)
        return made

    def copy_in(self, address: int, host: NDArray[Any], stream: Any) -> None:
        self._try(self._cuda.memcpy_htod_async, address, _bytes(host), stream)

    def copy_out(self, host: NDArray[Any], address: int, stream: Any) -> None:
        self._try(self._cuda.memcpy_dtoh_async, _bytes(host), address, stream)

    def make_stream(self, blocking: bool) -> Any:
        return self._try(self._cuda.Stream, 0 if blocking else 1)  # CU_STREAM_NON_BLOCKING

    def address_of(self, stream: Any) -> int:
        return int(stream.handle)

    def synchronize(self, stream: Any) -> None:
        self._try(stream.synchronize)

    def close_stream(self, stream: Any) -> None:
        """Nothing: pycuda gives it back with the object."""

    def make_event(self) -> Any:
        return self._try(self._cuda.Event)

    def record(self, event: Any, stream: Any) -> None:
        self._try(event.record, stream)

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        self._try(end.synchronize)
        return float(self._try(end.time_since, begin))

    def close_event(self, event: Any) -> None:
        """Nothing: pycuda gives it back with the object."""

    def capture(self, stream: Any, work: Callable[[], object]) -> Any:
        raise ProviderError("pycuda has no CUDA graphs.", "Install cuda-python, which is taken in its place.")

    def launch(self, graph: Any, stream: Any) -> None:
        """Never called: there are no graphs."""

    def close_graph(self, graph: Any) -> None:
        """Never called: there are no graphs."""

    def _try(self, call: Callable[..., Any], *arguments: Any, asked: int = 0) -> Any:
        try:
            return call(*arguments)
        except self._cuda.MemoryError as error:
            raise refusal(NO_MEMORY, str(error), asked=asked, free=self.free_bytes()) from None
        except self._cuda.Error as error:  # the words of the driver's codes, e.g. `cuInit failed: no CUDA-capable …`
            said = str(error)
            name = NO_DEVICE if "no CUDA-capable device" in said else type(error).__name__
            raise refusal(name, said, driver=self.driver()) from None


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The array's memory as bytes: pycuda asks for a buffer, which arrays of ml_dtypes are not."""
    return array.reshape(-1).view(np.uint8)
