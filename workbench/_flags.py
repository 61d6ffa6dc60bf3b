"""Turns Options dataclasses into command-line flags: same names, help texts, ranges and defaults."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import tyro

from workbench.options import OptionField, option_fields


def flags(cls: type) -> Any:
    """An Options dataclass as tyro reads it."""
    fields = [
        (
            entry.name,
            Annotated[entry.type, tyro.conf.arg(help=_help(entry))],
            dataclasses.field(default=entry.default),
        )
        for entry in option_fields(cls)
    ]
    made = dataclasses.make_dataclass(cls.__qualname__, fields, frozen=True)
    made.__doc__ = cls.__doc__
    return made


def _help(entry: OptionField) -> str:
    low, high, unit = entry.minimum, entry.maximum, entry.unit
    if low is not None and high is not None:
        span = f"{low:g} to {high:g} {unit}".strip()
    elif low is not None:
        span = f"at least {low:g} {unit}".strip()
    else:
        span = unit
    return f"{entry.help} [{span}]" if span else entry.help
