"""A trained model as an ONNX file on disk, checked before anything else touches it."""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of one input or output.

    Attributes:
        name: The tensor's name in the graph.
        dtype: NumPy's name of the element type, e.g. `float32`.
        shape: One entry per axis: a size, the name of a dynamic axis, or `?` where the model says nothing.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def dynamic_batch(self) -> bool:
        """Whether the first axis takes any number of samples."""
        return bool(self.shape) and isinstance(self.shape[0], str)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Step:
    """One transform that was applied to a model, with every option it ran with."""

    transform: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """An ONNX model on disk and what was done to it.

    Attributes:
        path: The ONNX file; weights may lie in external files beside it.
        name: Short name for tables and packages.
        inputs: Inputs that the caller feeds (initializers are not among them).
        outputs: Outputs in the graph's order.
        opset: Version of the default operator set.
        size_bytes: Size of the file and its external data.
        external_files: External data files, relative to the ONNX file's folder.
        history: The transforms applied since the file was loaded, oldest first.
        source: Format that it was loaded from.
    """

    path: Path
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    size_bytes: int
    external_files: tuple[str, ...] = ()
    history: tuple[Step, ...] = ()
    source: str = "onnx"

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the model takes; None if it takes any."""
        sizes = (spec.shape[0] for spec in self.inputs if spec.shape)
        return next((size for size in sizes if isinstance(size, int)), None)

    @cached_property
    def sha256(self) -> str:
        """Hash of the file and its external data: what caches and manifests know the model by."""
        digest = hashlib.sha256()
        for part in (self.path, *(self.path.parent / name for name in self.external_files)):
            with part.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def read_model(path: Path, *, name: str = "", history: tuple[Step, ...] = (), source: str = "onnx") -> Model:
    """Checks an ONNX file and describes it; weights in external files are not read.

    Raises:
        ModelError: The file is missing, empty, truncated or not ONNX, breaks ONNX's rules, or its external data is
            missing, too short or outside its folder.
    """
    path = path.expanduser().absolute()
    proto = _parse(path)
    external = _check_external_data(path, proto)
    _check_rules(path, proto)
    _check_types(path, proto)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    return Model(
        path=path,
        name=name or path.stem,
        inputs=tuple(_spec(value) for value in proto.graph.input if value.name not in initializers),
        outputs=tuple(_spec(value) for value in proto.graph.output),
        opset=next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0),
        size_bytes=path.stat().st_size + sum((path.parent / name).stat().st_size for name in external),
        external_files=external,
        history=history,
        source=source,
    )


def check_file(path: Path) -> None:
    """Refuses what is no file, before anything tries to read it.

    Raises:
        ModelError: There is nothing, a folder, or something that is not a file.
    """
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"There is no file {path}.", "Check the path, or choose the file with Browse.") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if stat.S_ISDIR(kind):
        raise ModelError(f"{path.absolute()} is a folder, not a model file.", "Give the model file inside it.")
    if not stat.S_ISREG(kind):
        raise ModelError(f"{path} is not a regular file.", "Copy the model into a file first.")


def _unreadable(path: Path, error: OSError) -> ModelError:
    return ModelError(
        f"{path} cannot be read: {error.strerror}.", "Change its permissions, or copy it to a folder of yours."
    )


def _parse(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    check_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    if not content:
        raise ModelError(f"{path} is empty (0 bytes).", "Export or copy the model again.")
    remedy = "Export it again as ONNX, and compare its size with the original's if it was copied."
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError:
        raise ModelError(
            f"{path} is not an ONNX model, or only a part of one ({len(content):,} bytes).", remedy
        ) from None
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{path} holds no graph: it is not an ONNX model, or only a part of one.", remedy)
    return proto


def _check_external_data(path: Path, proto: onnx.ModelProto) -> tuple[str, ...]:
    """Names the external files, none of which may be missing, too short or outside the model's folder."""
    folder = path.parent.resolve()
    needed: dict[str, int] = {}
    for tensor in all_tensors(proto):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if not _lies_in(folder, location):
            raise ModelError(
                f"{path} keeps the weights of '{tensor.name}' in '{location}', outside its own folder.",
                "Such a file could read anything on this machine, so it is refused; "
                "save the model again with its weights beside it.",
            )
        try:
            offset = int(entries.get("offset", "0") or 0)
            length = int(entries.get("length", "0") or 0) or _least_bytes(tensor)
            if offset < 0 or length < 0:
                raise ValueError
        except ValueError:
            raise ModelError(
                f"{path} gives no sensible place in '{location}' for the weights of '{tensor.name}'.",
                "Save the model again.",
            ) from None
        needed[location] = max(needed.get(location, 0), offset + length)
    for location, size in needed.items():
        target = folder / location
        if not target.is_file():
            raise ModelError(
                f"{path} keeps its weights in '{location}', which is not beside it in {folder}.",
                f"Copy '{location}' into that folder, or save the model again in one file.",
            )
        if target.stat().st_size < size:
            raise ModelError(
                f"'{location}', which holds the weights of {path.name}, has {target.stat().st_size:,} bytes "
                f"where {size:,} are needed: it is cut short.",
                "Copy it again.",
            )
    return tuple(sorted(needed))


def _lies_in(folder: Path, location: str) -> bool:
    """Whether a relative path stays in the folder, symbolic links followed."""
    try:
        target = (folder / location).resolve()
    except (OSError, ValueError, RuntimeError):  # a loop of links, or no path at all
        return False
    return bool(location) and not Path(location).is_absolute() and target.is_relative_to(folder)


def _least_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor takes at least; types below a byte are packed."""
    import onnx

    width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return math.prod(tensor.dims) * width if width > 1 else 0


def _check_rules(path: Path, proto: onnx.ModelProto) -> None:
    import onnx

    try:
        # The path form follows external data, which _check_external_data has cleared.
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:400].rstrip(".")
        raise ModelError(
            f"{path} breaks the rules of ONNX: {reason}.", "Export the model again, with another opset if need be."
        ) from None
    for node in proto.graph.node:
        if not node.op_type:
            raise ModelError(f"{path} has a node without an operator.", "Export the model again.")


def _check_types(path: Path, proto: onnx.ModelProto) -> None:
    """ONNX's own checker lets element types pass that do not exist."""
    import onnx

    known = set(onnx.TensorProto.DataType.values())
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type not in known:
            raise ModelError(
                f"{path} gives '{value.name}' the element type {value.type.tensor_type.elem_type}, "
                "which ONNX does not have.",
                "Export the model again: the file is damaged, or newer than this program.",
            )


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a model: initializers and tensor attributes, in subgraphs and functions too."""

    def of_nodes(nodes: Any) -> Iterator[onnx.TensorProto]:
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices) if sparse.dims else ()
                for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    yield from of_graph(graph)

    def of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from of_nodes(graph.node)

    yield from of_graph(proto.graph)
    for function in proto.functions:
        yield from of_nodes(function.node)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.elem_type:
        return TensorSpec(value.name, "not a tensor", ())
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or "?") for dim in tensor.shape.dim)
    return TensorSpec(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)
