"""Reads an `Options` dataclass as data: the one declaration behind forms, command-line flags and recipes.

An option is a dataclass field annotated with `msgspec.Meta`, which carries its range and help text; `option`
below adds the unit and whether it belongs to the basic or the folded part of a form.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import operator
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from workbench.errors import OptionsError

T = TypeVar("T")
_SPELLED = {"api": "API", "grpc": "gRPC", "nan": "NaN", "ab": "A/B", "nchw": "NCHW", "tf32": "TF32"}


def option(
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str = "",
    advanced: bool = False,
    example: str = "",
) -> msgspec.Meta:
    """Describes one option; goes into `Annotated[type, option(...)]`.

    Args:
        help: One sentence for tooltips and `--help`.
        minimum: Smallest allowed number.
        maximum: Largest allowed number.
        unit: Unit shown behind the value, e.g. `ms`.
        advanced: Folded away in forms until asked for.
        example: What a value looks like, where text is free.
    """
    return msgspec.Meta(
        description=help, ge=minimum, le=maximum, extra={"unit": unit, "advanced": advanced, "example": example}
    )


@dataclasses.dataclass(frozen=True)
class OptionField:
    """One option as a form or a command line needs it."""

    name: str
    type: Any
    default: Any
    help: str = ""
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    advanced: bool = False
    example: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values, where they are listed."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()

    @property
    def optional(self) -> bool:
        """Whether `None` is allowed."""
        return isinstance(self.type, types.UnionType) and type(None) in typing.get_args(self.type)

    @property
    def label(self) -> str:
        """The name in words, without a unit at its end: that is shown behind the value."""
        name = self.name.removesuffix(f"_{self.unit.lower()}") if self.unit else self.name
        first, *others = name.split("_")
        return " ".join((_SPELLED.get(first, first.capitalize()), *(_SPELLED.get(word, word) for word in others)))


def option_fields(cls: type) -> tuple[OptionField, ...]:
    """Lists the fields of an `Options` dataclass in the order of their declaration."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = []
    for field in dataclasses.fields(cls):
        bare, meta = _split(hints[field.name])
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        extra = meta.extra or {}
        fields.append(
            OptionField(
                name=field.name,
                type=bare,
                default=default,
                help=meta.description or "",
                minimum=meta.ge,
                maximum=meta.le,
                unit=extra.get("unit", ""),
                advanced=extra.get("advanced", False),
                example=extra.get("example", ""),
            )
        )
    return tuple(fields)


def _split(hint: Any) -> tuple[Any, msgspec.Meta]:
    """A type hint as its bare type and its description; `Annotated[float, …] | None` keeps its `None`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        parts = [_split(part) for part in typing.get_args(hint)]
        described = (meta for _, meta in parts if meta.description)
        return functools.reduce(operator.or_, (bare for bare, _ in parts)), next(described, msgspec.Meta())
    if not hasattr(hint, "__metadata__"):
        return hint, msgspec.Meta()
    return hint.__origin__, next((m for m in hint.__metadata__ if isinstance(m, msgspec.Meta)), msgspec.Meta())


def make_options(cls: type[T], values: Mapping[str, Any] | T | None, where: str) -> T:
    """Makes checked options from untrusted values.

    Args:
        cls: The `Options` dataclass.
        values: A mapping, an instance (checked again, since dataclasses do not check), or None for the defaults.
        where: What the options belong to, for the message, e.g. `quantize_static`.

    Raises:
        OptionsError: On an unknown name, a wrong type or a value out of range.
    """
    if isinstance(values, cls):
        values = to_builtins(values)
    if values is not None and not isinstance(values, Mapping):
        raise OptionsError(
            f"The options of {where} are given as {type(values).__name__}, not as names with values.",
            f"Write them like this: {{{', '.join(f.name for f in option_fields(cls))}}}.",
        )
    given = dict(values or {})
    _check_names(cls, given, where)
    try:
        converted: T = _completed(msgspec.convert(given, cls))
        return converted
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at ")
        name = place.partition("$")[2].strip("`.")
        if not name:
            raise OptionsError(f"{where} is incomplete: {_plain(reason)}.") from None
        field, value = _locate(cls, given, name)
        raise OptionsError(f"{where} cannot take {name} = {value!r:.80}: {_plain(reason)}.", _allowed(field)) from None


def to_builtins(value: Any) -> Any:
    """Turns dataclasses into plain dicts, lists, numbers and strings, as JSON or YAML would hold them."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))


def suggest(name: str, known: Sequence[str]) -> str:
    """Says which names exist, the nearest first if one is near."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {', '.join(known) or 'none'}."


def _completed(value: Any) -> Any:
    """Calls the constructors: `convert` leaves defaults on the class, where encoders do not see them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _completed(getattr(value, f.name)) for f in dataclasses.fields(value)})
    return tuple(map(_completed, value)) if isinstance(value, tuple) else value


def _check_names(cls: Any, values: Any, where: str) -> None:
    """Refuses unknown names, in nested dataclasses too; msgspec would pass them over."""
    if isinstance(values, (list, tuple)):
        [inner] = set(typing.get_args(cls)) - {Ellipsis} or {None}
        for number, value in enumerate(values, 1):
            _check_names(inner, value, f"{where} {number}")
    elif dataclasses.is_dataclass(cls) and isinstance(values, Mapping):
        fields = {field.name: field for field in option_fields(cls)}  # type: ignore[arg-type]
        for name, value in values.items():
            if name not in fields:
                raise OptionsError(f"{where} has no option '{name}'.", suggest(str(name), list(fields)))
            for kind in (fields[name].type, *typing.get_args(fields[name].type)):
                if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is tuple:
                    _check_names(kind, value, f"{where}: {name}")


def _locate(cls: Any, values: Any, place: str) -> tuple[OptionField | None, Any]:
    """The option at a place like `candidates[0].name`, and the value given there."""
    field = None
    for word in re.findall(r"\w+", place):
        if word.isdigit():
            values = values[int(word)]
            continue
        field, values = next(f for f in option_fields(cls) if f.name == word), values[word]
        cls = next((kind for kind in (field.type, *typing.get_args(field.type)) if dataclasses.is_dataclass(kind)), cls)
    return field, values


def _plain(reason: str) -> str:
    plain = reason.replace("`", "").replace("Expected", "expected")
    return plain.replace("Invalid enum value", "not one of its values:")


def _allowed(field: OptionField | None) -> str:
    """What the field takes, in words."""
    if field is None:
        return ""
    if field.choices:
        return f"Choose one of {', '.join(map(str, field.choices))}."
    low, high = field.minimum, field.maximum
    if low is not None and high is not None:
        return f"Choose a value from {low:g} to {high:g}{' ' + field.unit if field.unit else ''}."
    if low is not None:
        return f"Choose a value of at least {low:g}{' ' + field.unit if field.unit else ''}."
    return f"{field.help}" if field.help else ""
