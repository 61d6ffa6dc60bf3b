"""Tensors of the Open Inference Protocol V2 over HTTP: a request becomes checked arrays, arrays become a response."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"
]

# The binary extension is little-endian whatever the machine is.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip


class Refusal(Exception):
    """A request that gets an error answer: an HTTP status and one sentence for the caller."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, datatype and shape of one input or output; -1 stands for a dynamic axis."""

    name: str
    datatype: Datatype
    shape: list[int]


_Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]  # larger ones could not even be written into an error message


class _InputParameters(msgspec.Struct):
    binary_data_size: _Size | None = None


class Input(msgspec.Struct):
    """One input of a request, not yet checked."""

    name: str
    shape: list[_Size]
    datatype: str
    data: list[Any] | None = None
    parameters: _InputParameters = msgspec.field(default_factory=_InputParameters)


class _OutputParameters(msgspec.Struct):
    binary_data: bool | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: _OutputParameters = msgspec.field(default_factory=_OutputParameters)


class _RequestParameters(msgspec.Struct):
    binary_data_output: bool = False


class _Request(msgspec.Struct):
    inputs: list[Input]
    id: str | None = None
    outputs: list[_Output] = []
    parameters: _RequestParameters = msgspec.field(default_factory=_RequestParameters)


class Job(msgspec.Struct):
    """One checked request: the arrays to feed, the outputs to return, and which of those as binary data."""

    id: str | None
    feeds: dict[str, Array]
    outputs: list[str]
    binary: set[str]

    @property
    def rows(self) -> int:
        """Size of the first axis of the first input: the samples, where the model has a batch axis."""
        array = next(iter(self.feeds.values()))
        return array.shape[0] if array.ndim else 1


class Contract:
    """What the model takes and gives; whatever does not keep to it is refused before it reaches the model.

    Args:
        name: The model's name in the answers.
        version: The model's version in the answers.
        inputs: The tensors that a request must hold.
        outputs: The tensors that it may ask for.
        axes: For each input its axis names, None where an axis has no name. Axes of one name must have one size.
        allow_nan: Whether inputs may hold NaN and Infinity.
    """

    def __init__(
        self,
        name: str,
        version: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        axes: Mapping[str, Sequence[str | None]],
        allow_nan: bool = False,
    ) -> None:
        self.name = name
        self.version = version
        self.inputs = {tensor.name: tensor for tensor in inputs}
        self.outputs = {tensor.name: tensor for tensor in outputs}
        self.axes = axes
        self._allow_nan = allow_nan
        self._decoder = msgspec.json.Decoder(_Request)
        self._encoder = msgspec.json.Encoder()

    def decode(self, body: bytes | memoryview, json_length: int | None = None) -> Job:
        """Reads and checks one request.

        Args:
            body: The request's body: JSON, followed by the binary tensors where there are any.
            json_length: Value of Inference-Header-Content-Length; None when the whole body is JSON.

        Returns:
            The checked request.

        Raises:
            Refusal: With status 400 and what is wrong.
        """
        if json_length is not None and not 0 < json_length <= len(body):
            raise Refusal(400, f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} bytes.")
        try:
            request = self._decoder.decode(body if json_length is None else memoryview(body)[:json_length])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(400, f"The body is not an inference request in JSON: {error}.") from None

        offset = len(body) if json_length is None else json_length
        parts: list[tuple[Input, bytes | memoryview | None]] = []
        for tensor in request.inputs:
            size = tensor.parameters.binary_data_size
            if size is None:
                parts.append((tensor, None))
                continue
            if tensor.data is not None:
                raise Refusal(400, f"Input {tensor.name[:80]!r} has both data and binary_data_size.")
            if size > len(body) - offset:
                raise Refusal(
                    400, f"Input {tensor.name[:80]!r}: binary_data_size is {size}, {len(body) - offset} bytes left."
                )
            parts.append((tensor, memoryview(body)[offset : offset + size]))
            offset += size
        feeds = self.feeds(parts)
        if offset != len(body):
            raise Refusal(400, f"The body has {len(body) - offset} bytes that belong to no input.")
        names, binary = self.wanted([output.name for output in request.outputs]), set()
        own = {output.name: output.parameters.binary_data for output in request.outputs}
        for name in names:
            chosen = own.get(name)
            if request.parameters.binary_data_output if chosen is None else chosen:
                binary.add(name)
        return Job(request.id, feeds, names, binary)

    def feeds(self, parts: Sequence[tuple[Input, bytes | memoryview | None]]) -> dict[str, Array]:
        """Checks the inputs of one request.

        Args:
            parts: Each input, with its bytes where it has no data of its own.

        Returns:
            The arrays to feed; those made of bytes share their memory where that is aligned.

        Raises:
            Refusal: With status 400 and what is wrong.
        """
        feeds: dict[str, Array] = {}
        for tensor, data in parts:
            if tensor.name in feeds:
                raise Refusal(400, f"Input {tensor.name!r} is given twice.")
            self._check(tensor)
            array = _from_json(tensor) if data is None else _from_bytes(tensor, data)
            if not self._allow_nan:
                _refuse_nan(tensor, array)
            feeds[tensor.name] = array
        if missing := sorted(set(self.inputs) - set(feeds)):
            raise Refusal(400, f"Input {missing[0]!r} is missing.")
        self._check_shared_axes(feeds)
        return feeds

    def wanted(self, names: list[str]) -> list[str]:
        """The outputs that a request asks for; all if it names none.

        Raises:
            Refusal: If it names one that is not among them, or one twice.
        """
        if unknown := [name for name in names if name not in self.outputs]:
            raise Refusal(400, f"The model has no output {unknown[0][:80]!r}; it has {', '.join(self.outputs)}.")
        if len(set(names)) < len(names):
            raise Refusal(400, "An output is asked for twice.")
        return names or list(self.outputs)

    def encode(self, job: Job, results: Sequence[Array]) -> tuple[bytes, int | None]:
        """Writes the response of one request.

        Args:
            job: The request.
            results: The arrays of `job.outputs`, in that order.

        Returns:
            The body, and the length of its JSON part when binary tensors follow it.

        Raises:
            Refusal: If a value cannot be written as JSON.
        """
        outputs: list[dict[str, Any]] = []
        tail: list[memoryview] = []
        for name, array in zip(job.outputs, results, strict=True):
            output: dict[str, Any] = {"name": name, "datatype": self.outputs[name].datatype, "shape": array.shape}
            if name in job.binary:
                data = np.ascontiguousarray(array, DTYPES[output["datatype"]]).reshape(-1).view(np.uint8).data
                output["parameters"] = {"binary_data_size": data.nbytes}
                tail.append(data)
            else:
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise Refusal(500, f"Output {name!r} holds NaN or Infinity, which JSON lacks: ask for binary_data.")
                output["data"] = array.ravel().tolist()
            outputs.append(output)
        answer = {"model_name": self.name, "model_version": self.version, "outputs": outputs}
        if job.id is not None:
            answer["id"] = job.id
        head = self._encoder.encode(answer)
        return (b"".join([head, *tail]), len(head)) if tail else (head, None)

    def _check(self, tensor: Input) -> None:
        expected = self.inputs.get(tensor.name)
        if expected is None:
            raise Refusal(400, f"The model has no input {tensor.name[:80]!r}; it has {', '.join(self.inputs)}.")
        if tensor.datatype != expected.datatype:
            raise Refusal(400, f"Input {tensor.name!r} must be {expected.datatype}, not {tensor.datatype[:20]}.")
        fits = len(tensor.shape) == len(expected.shape) and all(
            size > 0 and wanted in (size, -1) for size, wanted in zip(tensor.shape, expected.shape, strict=True)
        )
        if not fits:
            raise Refusal(400, f"Input {tensor.name!r} must have shape {expected.shape}, not {str(tensor.shape)[:80]}.")

    def _check_shared_axes(self, feeds: Mapping[str, Array]) -> None:
        sizes: dict[str, int] = {}
        for name, array in feeds.items():
            for axis, size in zip(self.axes[name], array.shape, strict=True):
                if axis is not None and sizes.setdefault(axis, size) != size:
                    raise Refusal(400, f"Axis {axis!r} has size {sizes[axis]} in one input and {size} in {name!r}.")


def _from_bytes(tensor: Input, data: bytes | memoryview) -> Array:
    dtype = DTYPES[tensor.datatype]
    expected = math.prod(tensor.shape) * dtype.itemsize
    if len(data) != expected:
        raise Refusal(400, f"Input {tensor.name!r} has {len(data)} bytes, its shape and datatype make {expected}.")
    if dtype.kind == "b" and np.frombuffer(data, np.uint8).max() > 1:
        raise Refusal(400, f"Input {tensor.name!r} has a BOOL that is neither 0 nor 1.")
    # The JSON before it has any length, so the data may lie across element boundaries; kernels may need it aligned.
    return np.require(np.frombuffer(data, dtype), requirements="A").reshape(tensor.shape)


def _from_json(tensor: Input) -> Array:
    dtype, count = DTYPES[tensor.datatype], math.prod(tensor.shape)
    if tensor.data is None:
        raise Refusal(400, f"Input {tensor.name!r} has no data.")
    if len(tensor.data) > count:
        raise Refusal(400, f"Input {tensor.name!r} has {len(tensor.data)} values, its shape has {count}.")
    try:
        found: Array = np.array(tensor.data)
    except ValueError:
        raise Refusal(400, f"Input {tensor.name!r}: the lists in data are not of equal length.") from None
    if found.size != count or (found.ndim > 1 and found.shape != tuple(tensor.shape)):
        raise Refusal(400, f"Input {tensor.name!r}: data has shape {list(found.shape)}, expected {tensor.shape}.")
    # Numpy would turn "1" into 1, 1.5 into 1 and true into 1.0 without a word.
    if found.dtype.kind not in {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]:
        raise Refusal(400, f"Input {tensor.name!r} holds values that are not {tensor.datatype}.")
    if dtype.kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if int(found.min()) < low or int(found.max()) > high:
            raise Refusal(400, f"Input {tensor.name!r} holds values outside {low} to {high}.")
    with np.errstate(over="ignore"):  # what overflows becomes Infinity, which is refused whatever is allowed
        array = found.astype(dtype, copy=False).reshape(tensor.shape)
    if dtype.kind == "f" and np.isfinite(found).all():
        _refuse_nan(tensor, array)
    return array


def _refuse_nan(tensor: Input, array: Array) -> None:
    # One NaN makes both extremes NaN; two reductions cost half of a test per element.
    if array.dtype.kind == "f" and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise Refusal(400, f"Input {tensor.name!r} holds NaN, Infinity or a number too large for {tensor.datatype}.")
