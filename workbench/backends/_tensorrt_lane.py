"""A lane: one execution context of a plan with its own stream and memory, which runs one inference at a time.

Not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.backends._cuda import DeviceBuffer, PinnedBuffer, Stream
from workbench.backends._tensorrt_loaded import Plan
from workbench.errors import EngineError, ModelError, ProviderError


@dataclass
class _Port:
    """An input or output of a plan, and its memory on both sides.

    Attributes:
        name: Of the tensor.
        dtype: NumPy's element type.
        is_input: Whether it is fed.
        on_host: Whether TensorRT wants it in the host's memory: it holds a shape, or what one is worked out from.
        pinned: Where the host writes or reads it.
        device: Where the GPU reads or writes it.
        view: The host's side in the shape of now; None of an output whose shape only the run tells.
        allocator: What TensorRT asks for the memory of such an output.
    """

    name: str
    dtype: np.dtype[Any]
    is_input: bool
    on_host: bool
    pinned: PinnedBuffer
    device: DeviceBuffer
    view: NDArray[Any] | None = None
    allocator: Any = field(default=None, repr=False)


class Lane:
    """One execution context with its stream and memory. It must be used with its GPU current, by one thread at a time.

    Args:
        plan: What it runs.
        profile: Number of the optimization profile.

    Raises:
        ProviderError: There is no memory for it.
        EngineError: The plan has inputs or outputs of a type that NumPy has no name for.
    """

    def __init__(self, plan: Plan, profile: int) -> None:
        self._plan = plan
        self._ports: list[_Port] = []
        self._context = plan.make_context()
        self.stream = Stream(plan.cuda)
        if profile and not self._context.set_optimization_profile_async(profile, self.stream.address):
            raise self._failed("cannot take its profile")
        self.stream.synchronize()
        self._ports = [_make_port(plan, place) for place in range(plan.loaded.num_io_tensors)]
        self._shapes: dict[str, tuple[int, ...]] | None = None

    @property
    def context(self) -> Any:
        """TensorRT's own `IExecutionContext`."""
        return self._context

    @property
    def knows_shapes(self) -> bool:
        """Whether the shapes of all outputs follow from those of the inputs, as a CUDA graph needs it."""
        return all(port.view is not None for port in self._ports)

    def load(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """Copies inputs into pinned memory, and gets memory for the outputs.

        The arrays may lie in any order, and may be read-only; they can be changed once this has returned.

        Raises:
            ModelError: TensorRT refuses the shapes or values.
            ProviderError: There is no memory for them.
        """
        inputs = [port for port in self._ports if port.is_input]
        shapes = {port.name: feed[port.name].shape for port in inputs}
        if shapes != self._shapes:
            self._shapes = None  # until all of it is done
            for port in inputs:
                port.view = port.pinned.view(shapes[port.name], port.dtype)
        for port in inputs:
            assert port.view is not None  # set above
            if feed[port.name].dtype != port.dtype:
                raise self._failed(f"takes {port.dtype} for '{port.name}', not {feed[port.name].dtype}")
            np.copyto(port.view, feed[port.name], casting="no")
        # The values of some inputs decide on shapes as well.
        if shapes != self._shapes or any(port.on_host for port in inputs):
            self._take_shapes(inputs)
            self._shapes = shapes

    def enqueue(self) -> None:
        """Queues the copies to the GPU, the inference, and the copies back.

        Raises:
            ModelError: TensorRT cannot run it.
        """
        for port in self._ports:
            if port.is_input and not port.on_host and port.view is not None and port.view.nbytes:
                self.stream.copy_in(port.device.reserve(0), port.view)
        if not self._context.execute_async_v3(self.stream.address):
            raise self._failed("cannot run")
        for port in self._ports:
            if not port.is_input and not port.on_host and port.view is not None and port.view.nbytes:
                self.stream.copy_out(port.view, port.device.reserve(0))

    def collect(self) -> dict[str, NDArray[Any]]:
        """The outputs, as views of memory that the next run writes to; the stream must be done."""
        found = {port.name: port.view for port in self._ports if not port.is_input}
        for port in self._ports:
            if not port.is_input and port.view is None:
                found[port.name] = view = port.pinned.view(port.allocator.shape, port.dtype)
                if view.nbytes:
                    self.stream.copy_out(view, port.device.reserve(0))
        if not self.knows_shapes:
            self.stream.synchronize()
        return {name: view for name, view in found.items() if view is not None}

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Loads, queues and waits; the outputs are as `collect` gives them.

        Raises:
            ModelError: TensorRT refuses the inputs or cannot run them.
            ProviderError: There is no memory for them, or CUDA fails.
        """
        self.load(feed)
        self.enqueue()
        self.stream.synchronize()
        return self.collect()

    def close(self) -> None:
        """Gives memory, stream and context back."""
        self.stream.synchronize()
        for port in self._ports:
            port.device.close()
        self._ports = []
        self._context = None
        self.stream.close()

    def _take_shapes(self, inputs: list[_Port]) -> None:
        for port in inputs:
            assert port.view is not None  # set by the caller
            if not self._context.set_input_shape(port.name, port.view.shape):
                raise self._failed(f"does not take {list(port.view.shape)} for '{port.name}'")
            self._point(port)
        try:
            unknown = self._context.infer_shapes()
        except RuntimeError as error:
            raise self._failed(f"cannot work out shapes ({error})") from None
        if unknown:
            raise self._failed(f"cannot tell the shapes of {', '.join(unknown)}")
        for port in self._ports:
            if port.is_input:
                continue
            shape = tuple(int(size) for size in self._context.get_tensor_shape(port.name))
            if min(shape, default=0) >= 0:
                port.view = port.pinned.view(shape, port.dtype)
                self._point(port)
            elif port.allocator is None:
                port.allocator = _make_allocator(self._plan.package.module, port.device)
                self._context.set_output_allocator(port.name, port.allocator)

    def _point(self, port: _Port) -> None:
        """Tells TensorRT where a tensor lies."""
        assert port.view is not None  # set by the caller
        address = port.view.ctypes.data if port.on_host else port.device.reserve(port.view.nbytes)
        if not self._context.set_tensor_address(port.name, address):
            raise self._failed(f"does not take the memory of '{port.name}'")

    def _failed(self, what: str) -> ModelError:
        # A failed allocation of ours is the reason where TensorRT only says that it got no memory.
        for port in self._ports:
            if port.allocator is not None and port.allocator.error is not None:
                raise port.allocator.error
        return ModelError(
            f"{self._plan.package.title} cannot run {self._plan.name}: it {what}: {self._plan.log.reason()}.",
            "Check the inputs' types, shapes and values against what the engine was built for.",
        )


def _make_port(plan: Plan, place: int) -> _Port:
    module, loaded = plan.package.module, plan.loaded
    name = loaded.get_tensor_name(place)
    return _Port(
        name=name,
        dtype=numpy_type(loaded.get_tensor_dtype(name).name, name),
        is_input=loaded.get_tensor_mode(name) == module.TensorIOMode.INPUT,
        on_host=loaded.get_tensor_location(name) == module.TensorLocation.HOST,
        pinned=PinnedBuffer(plan.cuda),
        device=DeviceBuffer(plan.cuda),
    )


def numpy_type(kind: str, tensor: str) -> np.dtype[Any]:
    """NumPy's element type of one of TensorRT's, by the name of its `DataType`, e.g. `HALF`.

    Raises:
        EngineError: NumPy has none of that size.
    """
    plain = {
        "FLOAT": "float32",
        "HALF": "float16",
        "INT8": "int8",
        "INT32": "int32",
        "INT64": "int64",
        "BOOL": "bool",
        "UINT8": "uint8",
    }
    if kind in plain:
        return np.dtype(plain[kind])
    import ml_dtypes

    short: dict[str, Any] = {
        "BF16": ml_dtypes.bfloat16,
        "FP8": ml_dtypes.float8_e4m3fn,
        "E8M0": ml_dtypes.float8_e8m0fnu,
    }
    if kind in short:
        found: np.dtype[Any] = np.dtype(short[kind])
        return found
    raise EngineError(
        f"The engine's input or output '{tensor}' is of TensorRT's type {kind}, which is no whole byte.",
        "Give the model an input or output of a wider type, cast inside.",
    )


def _make_allocator(module: Any, buffer: DeviceBuffer) -> Any:
    class Allocator(module.IOutputAllocator):  # type: ignore[misc]
        """Gets memory for an output when the run knows how large it is."""

        def __init__(self) -> None:
            module.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] = (0,)
            self.error: ProviderError | None = None

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            self.error = None
            try:
                return buffer.reserve(max(size, 1))
            except ProviderError as error:  # raised once TensorRT has given up: no exception gets through it
                self.error = error
                return 0

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(int(size) for size in shape)

    return Allocator()
