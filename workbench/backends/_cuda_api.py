"""What the workbench needs of CUDA, whichever library brings it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Api(Protocol):
    """Calls to one library. Streams, events, memory and graphs are whatever it gives."""

    def gpus(self) -> list[tuple[str, tuple[int, int], int]]:
        """Name, compute capability and bytes of memory of each GPU."""

    def driver(self) -> tuple[int, int]:
        """Version of CUDA that the driver knows; zeros without a driver."""

    def enter(self, index: int) -> None:
        """Makes a GPU the one that calls of this thread are for."""

    def leave(self) -> None:
        """Ends what `enter` began."""

    def free_bytes(self) -> int:
        """Memory that is left on the GPU."""

    def allocate(self, size: int) -> Any:
        """Memory on the GPU; `int` of it is its address."""

    def free(self, memory: Any) -> None:
        """Gives memory on the GPU back."""

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Memory of the host that the GPU reaches by itself; it lives as long as the array and views of it."""

    def copy_in(self, address: int, host: NDArray[Any], stream: Any) -> None:
        """Puts a copy of pinned memory to the GPU on a stream."""

    def copy_out(self, host: NDArray[Any], address: int, stream: Any) -> None:
        """Puts a copy from the GPU to pinned memory on a stream."""

    def make_stream(self, blocking: bool) -> Any:
        """A stream; a blocking one waits for CUDA's default stream, and that for it."""

    def address_of(self, stream: Any) -> int:
        """Address of a stream, as other libraries take it."""

    def synchronize(self, stream: Any) -> None:
        """Waits until a stream is done."""

    def close_stream(self, stream: Any) -> None:
        """Gives a stream back."""

    def make_event(self) -> Any:
        """An event that tells the time."""

    def record(self, event: Any, stream: Any) -> None:
        """Puts an event on a stream."""

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        """Time between two events, once the second has come to pass."""

    def close_event(self, event: Any) -> None:
        """Gives an event back."""

    def capture(self, stream: Any, work: Callable[[], object]) -> Any:
        """What `work` puts on a stream, as a graph that can be launched; nothing of it is run.

        Raises:
            ProviderError: Something in it cannot be captured, or the library has no graphs.
        """

    def launch(self, graph: Any, stream: Any) -> None:
        """Puts a graph on a stream."""

    def close_graph(self, graph: Any) -> None:
        """Gives a graph back."""
