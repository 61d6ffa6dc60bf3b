"""A drop-down list in groups, in which what cannot be chosen here is named and greyed."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import anywidget
import traitlets as t


class Option(NamedTuple):
    """One entry: its value, how it reads, a tooltip, and whether it cannot be chosen."""

    value: str
    label: str
    note: str = ""
    disabled: bool = False


class GroupedChoice(anywidget.AnyWidget):
    """Chooses one of several values that stand below the headings of their groups.

    Args:
        description: The label.
        groups: Heading and what stands below it.
        value: What is chosen first.

    Attributes:
        value: What is chosen; one of the options that are not disabled.
    """

    _esm = pathlib.Path(__file__).with_suffix(".js")

    description = t.Unicode().tag(sync=True)
    value = t.Unicode().tag(sync=True)
    groups = t.List(t.Dict()).tag(sync=True)

    def __init__(self, description: str, groups: Mapping[str, Sequence[Option]], value: str) -> None:
        shown = [{"label": name, "options": [each._asdict() for each in options]} for name, options in groups.items()]
        self._known = {option.value for options in groups.values() for option in options if not option.disabled}
        super().__init__(description=description, groups=shown, value=value)

    @t.validate("value")
    def _check(self, proposal: t.Bunch) -> str:
        if proposal.value not in self._known:
            raise t.TraitError(f"'{proposal.value}' cannot be chosen. Known: {', '.join(sorted(self._known))}.")
        return str(proposal.value)
