"""Looks at TensorFlow's files before TensorFlow does: what a .pb file is, and whether a SavedModel is whole."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from workbench.errors import ModelError
from workbench.model_file import shown

_VARINT, _LENGTH = 0, 2  # wire types of protobuf
_WIDTHS = {1: 8, 5: 4}
_AGAIN = "Copy or save it again, and compare sizes if it was copied."


def graph_kind(path: Path) -> str:
    """Says what a protobuf file is by the fields of its outermost message: `frozen` or `saved_model`.

    Raises:
        ModelError: It is neither, or cut short.
    """
    if not path.stat().st_size:
        raise ModelError(f"{path} is empty (0 bytes).", _AGAIN)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            fields = set(_fields(content))
        except (IndexError, ValueError):
            raise ModelError(f"{path} is not a TensorFlow graph, or only a part of one.", _AGAIN) from None
    if (7, _LENGTH) in fields and (1, _VARINT) in fields:
        raise ModelError(f"{path} is an ONNX model.", f"Rename it to {path.stem}.onnx.")
    if (1, _VARINT) in fields and (2, _LENGTH) in fields:
        return "saved_model"
    graph = {(1, _LENGTH), (2, _LENGTH), (3, _VARINT), (4, _LENGTH), (5, _LENGTH)}
    if (1, _LENGTH) not in fields or fields - graph:
        raise ModelError(
            f"{path} is neither a frozen graph nor a SavedModel of TensorFlow.",
            "A checkpoint or a Caffe2 .pb cannot be read: save the model as a SavedModel or as ONNX.",
        )
    return "frozen"


def _fields(content: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Number and wire type of each field of the outermost message."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            _, at = _varint(content, at)
        elif wire == _LENGTH:
            length, at = _varint(content, at)
            at += length
        elif wire in _WIDTHS:
            at += _WIDTHS[wire]
        else:
            raise ValueError
        if not field or at > len(content):
            raise ValueError
        yield field, wire


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError


def check_folder(folder: Path, meta_graph: Any) -> None:
    """Refuses a SavedModel whose weights are missing or whose files lie elsewhere.

    Raises:
        ModelError: On the first thing that is wrong.
    """
    operators = {node.op for node in meta_graph.graph_def.node}
    index = folder / "variables" / "variables.index"
    if operators & {"VarHandleOp", "VariableV2", "Variable"} and not index.is_file():
        raise ModelError(
            f"{folder} has no weights: 'variables/variables.index' is missing.",
            "Copy the whole SavedModel folder, with 'variables' and 'assets'.",
        )
    if index.is_file() and not any(index.parent.glob("variables.data-*")):
        raise ModelError(f"{folder} has no weights: 'variables/variables.data-…' is missing.", "Copy the whole folder.")
    for asset in meta_graph.asset_file_def:
        name = PurePosixPath(asset.filename)
        if name.is_absolute() or ".." in name.parts:
            raise ModelError(
                f"{folder} wants to read '{shown(asset.filename)}', outside its own folder.",
                "Such a file could read anything on this machine, so it is refused; save the model again.",
            )
