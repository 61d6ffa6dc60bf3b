"""An ONNX file on disk: read, with every constant of it, and the external files that its weights lie in."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import ModelError

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

_LARGEST = 2**31 - 1  # bytes; a protobuf message cannot be larger
_MOST_AXES = 64  # NumPy's limit
_MOST_VALUES = 2**40  # in one tensor: terabytes


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


def parse_model(path: Path) -> onnx.ModelProto:
    """Reads the file itself; external data stays where it is.

    Raises:
        ModelError: The file is missing, empty, truncated, too large to be whole, or not ONNX.
    """
    import onnx
    from google.protobuf.message import DecodeError

    check_file(path)
    size = path.stat().st_size
    if not size:
        raise ModelError(f"{path} is empty (0 bytes).", "Export or copy the model again.")
    if size > _LARGEST:
        raise ModelError(
            f"{path} has {size:,} bytes, but an ONNX file ends at 2 GB.",
            "Save the model again with its weights in an external file (save_as_external_data=True).",
        )
    remedy = "Export it again as ONNX, and compare its size with the original's if it was copied."
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from None
    except DecodeError:
        raise ModelError(f"{path} is not an ONNX model, or only a part of one ({size:,} bytes).", remedy) from None
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{path} holds no graph: it is not an ONNX model, or only a part of one.", remedy)
    if not _is_text(proto):
        raise ModelError(f"{path} holds text that is not UTF-8.", "Export the model again: the file is damaged.")
    return proto


def _is_text(message: Message) -> bool:
    """Whether every text in a message is UTF-8; protobuf gives bytes where it is not."""
    if message.DESCRIPTOR.name == "TensorProto":  # its other fields are weights, and asking for them copies them
        return isinstance(message.name, str) and all(map(_is_text, message.external_data))  # type: ignore[attr-defined]
    for field, value in message.ListFields():
        parts = value if field.is_repeated else (value,)
        if field.message_type is not None:
            if not all(map(_is_text, parts)):
                return False
        elif field.type == field.TYPE_STRING and not all(isinstance(part, str) for part in parts):
            return False
    return True


def read_whole(path: Path) -> onnx.ModelProto:
    """Reads a model with its weights, wherever they lie; `onnx.load` refuses links, as model hubs' caches have them.

    Raises:
        ModelError: As `parse_model` and `check_external_data` do.
    """
    proto = parse_model(path)
    check_types(path, proto)
    check_external_data(path, proto)
    for tensor in all_tensors(proto):
        if tensor.data_location == tensor.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            with (path.parent / entries["location"]).open("rb") as stream:
                stream.seek(int(entries.get("offset", "0") or 0))
                tensor.raw_data = stream.read(int(entries.get("length", "0") or 0) or bytes_of(tensor))
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
    return proto


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a model: initializers and tensor attributes, in subgraphs and functions too."""
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        yield from _of_nodes(function.node)
        yield from _of_attributes(function.attribute_proto)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        yield from _of_attributes(node.attribute)


def _of_attributes(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices) if sparse.dims else ()
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _of_graph(graph)


def check_types(path: Path, proto: onnx.ModelProto) -> None:
    """Refuses element types and shapes that cannot be: others build on them without looking.

    Raises:
        ModelError: A constant, input or output has such a type or shape.
    """
    for tensor in all_tensors(proto):
        _check_type(path, tensor.name, tensor.data_type or -1)  # 0 is for what nobody has set
        if any(size < 0 for size in tensor.dims) or len(tensor.dims) > _MOST_AXES:
            raise _impossible(path, tensor.name, list(tensor.dims[:_MOST_AXES]), "which cannot be")
        size = len(tensor.raw_data) if tensor.HasField("raw_data") else None  # asking for it copies it
        if size is not None and size < bytes_of(tensor):
            raise ModelError(
                f"{path} gives '{shown(tensor.name)}' {size:,} bytes where its shape needs {bytes_of(tensor):,}.",
                "Export the model again: the file is damaged.",
            )
    for value in (value for graph in _all_graphs(proto) for value in (*graph.input, *graph.output, *graph.value_info)):
        for number in _element_types(value.type):
            _check_type(path, value.name, number)
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.dim_value > 0]
        if len(sizes) > _MOST_AXES or math.prod(sizes) > _MOST_VALUES:
            raise _impossible(path, value.name, sizes, "more than any machine holds")


def _check_type(path: Path, name: str, number: int) -> None:
    import onnx

    if number not in onnx.TensorProto.DataType.values():
        raise ModelError(
            f"{path} gives '{shown(name)}' the element type {number}, which ONNX does not have.",
            "Export the model again: the file is damaged, or newer than this program.",
        )


def _impossible(path: Path, name: str, sizes: list[int], why: str) -> ModelError:
    return ModelError(
        f"{path} gives '{shown(name)}' the shape {shown(str(sizes))}, {why}.",
        "Export the model again: the file is damaged.",
    )


def _all_graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    def inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
        for node in nodes:
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    if graph.node or graph.output:
                        yield graph
                        yield from inside(graph.node)

    yield proto.graph
    yield from inside(proto.graph.node)
    for function in proto.functions:
        yield from inside(function.node)


def _element_types(kind: onnx.TypeProto) -> Iterator[int]:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        yield getattr(kind, which).elem_type
    elif which in ("sequence_type", "optional_type"):
        yield from _element_types(getattr(kind, which).elem_type)
    elif which == "map_type":
        yield kind.map_type.key_type
        yield from _element_types(kind.map_type.value_type)


def check_external_data(path: Path, proto: onnx.ModelProto) -> tuple[str, ...]:
    """Names the external files.

    Raises:
        ModelError: One is missing, too short or outside the model's folder.
    """
    # Where the file is a link, as in the caches of model hubs, the folder that really holds it counts as well.
    # ONNX Runtime draws the same border.
    folders = {path.parent.resolve(), path.resolve().parent}
    needed: dict[str, int] = {}
    for tensor in all_tensors(proto):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location, name = entries.get("location", ""), shown(tensor.name)
        if not _lies_in(folders, path.parent, location):
            raise ModelError(
                f"{path} keeps the weights of '{name}' in '{shown(location)}', outside its own folder.",
                "Such a file could read anything on this machine, so it is refused; "
                "save the model again with its weights beside it.",
            )
        try:
            offset = int(entries.get("offset", "0") or 0)
            length = int(entries.get("length", "0") or 0) or bytes_of(tensor)
            if offset < 0 or length < bytes_of(tensor):
                raise ValueError
        except ValueError:
            raise ModelError(
                f"{path} gives no sensible place in '{location}' for the weights of '{name}'.", "Save the model again."
            ) from None
        needed[location] = max(needed.get(location, 0), offset + length)
    for location, size in needed.items():
        _check_size(path, location, size)
    return tuple(sorted(needed))


def _check_size(path: Path, location: str, size: int) -> None:
    target = path.parent / location
    if not target.is_file():
        raise ModelError(
            f"{path} keeps its weights in '{location}', which is not beside it in {path.parent}.",
            f"Copy '{location}' into that folder, or save the model again in one file.",
        )
    if target.stat().st_size < size:
        raise ModelError(
            f"'{location}', which holds the weights of {path.name}, has {target.stat().st_size:,} bytes "
            f"where {size:,} are needed: it is cut short.",
            "Copy it again.",
        )


def _lies_in(folders: Iterable[Path], base: Path, location: str) -> bool:
    """Whether a relative path ends in one of the folders, symbolic links followed."""
    try:
        target = (base / location).resolve()
        target.is_file()
    except (OSError, ValueError, RuntimeError):  # a loop of links, or no path at all
        return False
    inside = any(target.is_relative_to(folder) for folder in folders)
    return bool(location) and not Path(location).is_absolute() and inside


def bytes_of(tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor's values take, those of less than a byte packed."""
    import onnx

    kinds = onnx.TensorProto
    packed: dict[int, int] = {kinds.UINT4: 4, kinds.INT4: 4, kinds.FLOAT4E2M1: 4, kinds.UINT2: 2, kinds.INT2: 2}
    bits: int = packed.get(tensor.data_type, 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return (math.prod(tensor.dims) * bits + 7) // 8


def shown(text: str) -> str:
    """Text from a file, fit for a message: neither endless nor able to steer a terminal."""
    printable = "".join(letter if letter.isprintable() else "�" for letter in text[:100])
    return f"{printable}…" if len(text) > 100 else printable
