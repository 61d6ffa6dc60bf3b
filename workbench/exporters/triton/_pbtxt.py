"""Writes Triton's model configuration in protobuf's text format, and reads it back with Triton's own schema."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, TypeAlias

from workbench.errors import ExportError


class Word(str):
    """A value that is written without quotes: a constant of the schema, e.g. `TYPE_FP32`."""


Value: TypeAlias = "str | int | Word | Sequence[int] | tuple[Field, ...]"


@dataclass(frozen=True)
class Field:
    """A field of a message.

    Attributes:
        name: Its name in the schema.
        value: A text, a number, a constant, numbers in a list, or a message: its fields.
        comment: What the number was derived from.
    """

    name: str
    value: Value
    comment: str = ""


def write_pbtxt(fields: Sequence[Field], title: str) -> str:
    """The text of a message, with a comment above it."""
    return "\n".join([f"# {title}", *_lines(fields, "")]) + "\n"


def check_config(text: str) -> Any:
    """Reads a model configuration with the schema that tritonclient brings.

    Returns:
        The message; None where tritonclient is not installed.

    Raises:
        ExportError: It is not what Triton's schema allows.
    """
    client = find_spec("tritonclient")
    if client is None or not client.submodule_search_locations:
        return None
    from google.protobuf import text_format

    # From its file: the package around it would want gRPC, which nothing here needs.
    schema = Path(client.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    spec = spec_from_file_location("tritonclient_model_config", schema)
    assert spec is not None
    assert spec.loader is not None
    model_config_pb2 = module_from_spec(spec)
    spec.loader.exec_module(model_config_pb2)
    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ExportError(
            f"The configuration breaks Triton's schema: {error}.", "Report it with the model's inputs and outputs."
        ) from None


def _lines(fields: Sequence[Field], indent: str) -> Iterator[str]:
    for field in fields:
        comment = f"  # {' '.join(field.comment.split())}" if field.comment else ""
        if _is_message(field.value):
            yield f"{indent}{field.name} {{{comment}"
            yield from _lines(field.value, f"{indent}  ")  # type: ignore[arg-type] # which is what was asked
            yield f"{indent}}}"
        else:
            yield f"{indent}{field.name}: {_scalar(field.value)}{comment}"


def _is_message(value: Value) -> bool:
    """An empty list of numbers is written as one; an empty message is not needed."""
    return isinstance(value, tuple) and all(isinstance(part, Field) for part in value)


def _scalar(value: Value) -> str:
    if isinstance(value, Word | int):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    return f"[{', '.join(map(str, value))}]"


def _quoted(text: str) -> str:
    """A string of the text format; what is not plain ASCII is written as octal bytes."""
    safe = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(safe)}"'
