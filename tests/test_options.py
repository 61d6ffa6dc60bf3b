"""Options: one declaration, read as data, checked wherever values come in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from workbench.errors import OptionsError
from workbench.options import make_options, option, option_fields, suggest, to_builtins


@dataclass(frozen=True)
class Inner:
    size: Annotated[int, option("How large.", minimum=1, maximum=9, unit="px")] = 3


@dataclass(frozen=True)
class Outer:
    mode: Annotated[Literal["fast", "exact"], option("Which way.")] = "fast"
    limit: Annotated[float, option("Upper end.", minimum=0, unit="ms", advanced=True)] | None = None
    names: Annotated[tuple[str, ...], option("Which ones.")] = ()
    inner: Annotated[Inner, option("The inside.")] = field(default_factory=Inner)
    parts: Annotated[tuple[Inner, ...], option("Several.")] = ()


@dataclass(frozen=True)
class Demanding:
    path: Annotated[str, option("Where it lies.")]


def test_a_form_can_read_everything_it_needs() -> None:
    mode, limit, names, inner, parts = option_fields(Outer)

    assert (mode.choices, mode.default, mode.help, mode.label) == (("fast", "exact"), "fast", "Which way.", "Mode")
    assert (limit.minimum, limit.unit, limit.advanced, limit.optional) == (0, "ms", True, True)
    assert (names.default, inner.default, parts.default) == ((), Inner(), ())


def test_options_are_made_of_plain_values() -> None:
    made = make_options(Outer, {"mode": "exact", "names": ["a"], "inner": {"size": 5}, "parts": [{"size": 2}]}, "it")

    assert made == Outer("exact", None, ("a",), Inner(5), (Inner(2),))
    assert make_options(Outer, to_builtins(made), "it") == made
    assert make_options(Outer, None, "it") == Outer()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mod": "exact"}, ["it has no option 'mod'", "Did you mean 'mode'?"]),
        ({"inner": {"sise": 3}}, ["inner has no option 'sise'", "Did you mean 'size'?"]),
        ({"parts": [{}, {"sise": 3}]}, ["parts 2 has no option 'sise'"]),
        ({1: 2}, ["has no option '1'"]),
        ({"mode": "slow"}, ["mode = 'slow'", "Choose one of fast, exact."]),
        ({"inner": {"size": 12}}, ["inner.size = 12", "Choose a value from 1 to 9 px."]),
        ({"parts": [{}, {"size": "big"}]}, ["parts[1].size = 'big'", "expected int", "from 1 to 9 px"]),
        ({"limit": -1}, ["limit = -1", "at least 0 ms"]),
        ({"names": "abc"}, ["names = 'abc'", "expected array"]),
        ({"names": [1]}, ["names[0] = 1", "expected str"]),
        ({"inner": 4}, ["inner = 4"]),
        ({"inner": Inner(40)}, ["inner.size = 40"]),
        ([1, 2], ["given as list", "{mode, limit, names, inner, parts}"]),
    ],
)
def test_a_wrong_value_is_refused_by_name_with_what_would_be_right(values: Any, words: list[str]) -> None:
    if isinstance(values, dict) and isinstance(values.get("inner"), Inner):
        values = Outer(inner=values["inner"])
    with pytest.raises(OptionsError) as caught:
        make_options(Outer, values, "it")
    for word in words:
        assert word in str(caught.value)


def test_a_missing_value_is_named() -> None:
    with pytest.raises(OptionsError, match=r"it is incomplete: .*path"):
        make_options(Demanding, {}, "it")


def test_a_suggestion_names_the_nearest_and_all() -> None:
    assert suggest("flaot16", ["float16", "prune"]) == "Did you mean 'float16'? Known: float16, prune."
    assert suggest("zzz", ["float16"]) == "Known: float16."
    assert suggest("zzz", []) == "Known: none."
