"""Forms made from Options dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import ipywidgets as w
import pytest

from widgets._form import OptionsForm
from workbench.errors import OptionsError
from workbench.options import option


@dataclass(frozen=True)
class Options:
    """One option of every kind."""

    samples: Annotated[int, option("How many.", minimum=1, maximum=100, unit="images")] = 8
    share: Annotated[float, option("How much.", minimum=0, maximum=1)] = 0.5
    method: Annotated[Literal["minmax", "entropy"], option("How.")] = "minmax"
    exact: Annotated[bool, option("Whether.")] = False
    provider: Annotated[str, option("Where.")] = "cpu"
    keep: Annotated[tuple[str, ...], option("Which.", advanced=True)] = ()


def test_every_field_has_a_control_with_its_range_and_help() -> None:
    form = OptionsForm(Options)
    samples = form["samples"]
    assert (samples.min, samples.max, samples.value) == (1, 100, 8)
    assert samples.tooltip == "How many."
    assert form["method"].options == ("minmax", "entropy")
    assert form.values == {
        "samples": 8,
        "share": 0.5,
        "method": "minmax",
        "exact": False,
        "provider": "cpu",
        "keep": [],
    }


def test_values_follow_the_controls_and_changed_names_what_differs() -> None:
    form = OptionsForm(Options)
    form["samples"].value = 9
    form["keep"].value = "stem/conv, head"
    assert form.changed() == {"samples": 9, "keep": ["stem/conv", "head"]}


def test_a_text_field_becomes_a_choice_where_the_machine_says_what_there_is() -> None:
    form = OptionsForm(Options, choices={"provider": ("gpu", "cpu")})
    assert isinstance(form["provider"], w.Dropdown)
    assert form["provider"].value == "cpu"


def test_advanced_options_are_folded() -> None:
    form = OptionsForm(Options)
    fold = form.children[-1]
    assert isinstance(fold, w.Accordion)
    assert fold.selected_index is None


def test_values_are_checked_before_they_reach_the_controls() -> None:
    form = OptionsForm(Options)
    with pytest.raises(OptionsError, match="samples"):
        form.set({"samples": 1000})
    with pytest.raises(OptionsError, match="sampels"):
        form.set({"sampels": 2})
    assert form["samples"].value == 8


@dataclass(frozen=True)
class Limits:
    """Options that may be left open."""

    max_p99_ms: Annotated[float, option("Largest.", minimum=0, unit="ms")] | None = None


def test_a_limit_is_open_until_a_number_is_typed_and_its_unit_stands_behind_it() -> None:
    form = OptionsForm(Limits)
    assert (form.values, form["max_p99_ms"].description) == ({"max_p99_ms": None}, "Max p99")
    form["max_p99_ms"].value = "2.5"
    assert form.changed() == {"max_p99_ms": 2.5}
    form.set({"max_p99_ms": 4})
    assert form["max_p99_ms"].value == "4"
    form["max_p99_ms"].value = ""
    assert form.values == {"max_p99_ms": None}
