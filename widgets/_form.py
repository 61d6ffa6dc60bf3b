"""Makes the controls of an Options dataclass: the declaration in the core is the only one."""

from __future__ import annotations

import contextlib
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ipywidgets as w
import traitlets as t

from widgets._many import Lines, Ticks
from workbench.options import OptionField, make_options, option_fields, to_builtins

LABEL_STYLE = {"description_width": "132px"}
FIELD_WIDTH = "320px"


class OptionsForm(w.VBox):
    """Controls for every field of an Options dataclass; the advanced ones are folded.

    Args:
        cls: The dataclass.
        choices: Values to choose from for fields whose type is just text, e.g. what this machine offers.
        values: Values that differ from the defaults.
        without: Fields that are set elsewhere and have no control here.
        lines: Fields of several texts that have commas or spaces in them: one per line.
    """

    values = t.Dict(help="The value of every option, as plain values.")

    def __init__(
        self,
        cls: type,
        *,
        choices: Mapping[str, Sequence[str]] | None = None,
        values: Mapping[str, Any] | None = None,
        without: Collection[str] = (),
        lines: Collection[str] = (),
    ) -> None:
        self._cls = cls
        self._fields = {field.name: field for field in option_fields(cls) if field.name not in without}
        self._controls = {
            name: _lines(field) if name in lines else _control(field, (choices or {}).get(name, field.choices))
            for name, field in self._fields.items()
        }
        rows = {name: _row(field, self._controls[name]) for name, field in self._fields.items()}
        basic = [row for name, row in rows.items() if not self._fields[name].advanced]
        advanced = [row for name, row in rows.items() if self._fields[name].advanced]
        super().__init__([*basic, *([_folded(advanced)] if advanced else [])])
        for control in self._controls.values():
            control.observe(self._collect, "value")
        self.set(values or {})
        self._collect()

    def __getitem__(self, name: str) -> w.Widget:
        """The control of one option."""
        return self._controls[name]

    def set(self, values: Mapping[str, Any]) -> None:
        """Puts values into the controls, after checking them."""
        checked = to_builtins(make_options(self._cls, {**self._read(), **values}, self._cls.__qualname__))
        for name, control in self._controls.items():
            many = isinstance(control, (Lines, Ticks))
            control.value = tuple(checked[name]) if many else _to_control(self._fields[name], checked[name])

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults: what a recipe has to say."""
        return changed_options(self._cls, self.values)

    def _read(self) -> dict[str, Any]:
        return {name: _from_control(self._fields[name], control.value) for name, control in self._controls.items()}

    def _collect(self, _change: object = None) -> None:
        self.values = self._read()


def changed_options(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ from the defaults of an Options dataclass."""
    defaults = to_builtins(cls())
    return {name: value for name, value in to_builtins(values).items() if value != defaults[name]}


def _lines(field: OptionField) -> Lines:
    return Lines(field.label, field.default, f"e.g. {field.example}" if field.example else "", field.help)


def _control(field: OptionField, choices: Sequence[str]) -> w.Widget:
    if several := _choices_of_several(field):
        return Ticks(field.label, several, field.default, field.help)
    shared: dict[str, Any] = {
        "description": field.label,
        "tooltip": field.help,
        "style": LABEL_STYLE,
        "layout": w.Layout(width=FIELD_WIDTH),
    }
    if choices:
        default = field.default if field.default in choices else choices[0]
        return w.Dropdown(options=list(choices), value=default, **shared)
    if field.type is bool:
        return w.Checkbox(value=field.default, indent=True, **{**shared, "layout": w.Layout(width="360px")})
    if field.type in (int, float) and field.minimum is not None and field.maximum is not None:
        kind = w.BoundedIntText if field.type is int else w.BoundedFloatText
        step = 1 if field.type is int else None
        return kind(value=field.default, min=field.minimum, max=field.maximum, step=step, **shared)
    if field.type in (int, float):
        return (w.IntText if field.type is int else w.FloatText)(value=field.default, **shared)
    return w.Text(value=_to_control(field, field.default), placeholder=_placeholder(field), **shared)


def _row(field: OptionField, control: w.Widget) -> w.HBox:
    unit = "" if field.unit == field.name else field.unit
    row = w.HBox([control, w.HTML(f'<span class="wb-unit">{unit}</span>')])
    row.add_class("wb-field")
    return row


def _folded(rows: Sequence[w.Widget]) -> w.Widget:
    fold = w.Accordion([w.VBox(list(rows))], titles=("More",), selected_index=None)
    return fold


def _placeholder(field: OptionField) -> str:
    if field.example:
        return f"e.g. {field.example}"
    return "comma-separated" if _is_list(field) else "no limit" if _is_optional_number(field) else ""


def _is_list(field: OptionField) -> bool:
    return typing.get_origin(field.type) is tuple


def _choices_of_several(field: OptionField) -> tuple[str, ...]:
    """What may be chosen, where several may."""
    [item, *_] = typing.get_args(field.type) if _is_list(field) else (None,)
    return typing.get_args(item) if typing.get_origin(item) is typing.Literal else ()


def _is_list_of_numbers(field: OptionField) -> bool:
    [item, *_] = typing.get_args(field.type) if _is_list(field) else (None,)
    return getattr(item, "__origin__", item) is int


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text  # what is no number is refused, in words, where it is used


def _is_optional_number(field: OptionField) -> bool:
    return field.optional and bool({int, float} & set(typing.get_args(field.type)))


def _to_control(field: OptionField, value: Any) -> Any:
    if _is_list(field):
        return ", ".join(map(str, value))
    if _is_optional_number(field) and value is not None:
        return f"{value:g}"
    return "" if value is None else value


def _from_control(field: OptionField, value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if _is_list(field):
        parts = re.split(r",(?![^\[]*\])", value)  # a comma between brackets belongs to a shape
        return [_number(part.strip()) if _is_list_of_numbers(field) else part.strip() for part in parts if part.strip()]
    if field.optional and value == "":
        return None
    if _is_optional_number(field):
        with contextlib.suppress(ValueError):  # what is no number is refused, in words, where it is used
            return float(value) if float in typing.get_args(field.type) else int(value)
    return value
