"""The list of transforms: in groups, by use, with what is not installed named and greyed."""

from __future__ import annotations

import pytest
import traitlets

from widgets import Transform
from widgets._transform_groups import group_transforms
from workbench.plugins import Plugin, list_plugins


def plugin(name: str, missing: tuple[str, ...] = ()) -> Plugin:
    return Plugin("transforms", name, f"What {name} does.", missing, "nncf" if missing else "")


def test_transforms_stand_below_what_they_are_for_the_usual_ones_first() -> None:
    groups = group_transforms([plugin(name) for name in ("mine", "float16", "simplify", "quantize_static")])
    assert list(groups) == ["Quantize", "Halve", "Tidy up", "Others"]
    everything = group_transforms(list_plugins("transforms"))
    assert everything["Quantize"][0].value == "quantize_static"
    assert [option.label for option in groups["Others"]] == ["mine"]


def test_every_transform_is_listed_once() -> None:
    listed = [option.value for options in group_transforms(list_plugins("transforms")).values() for option in options]
    assert sorted(listed) == [each.name for each in list_plugins("transforms")]


def test_what_is_not_installed_is_named_with_the_reason_and_cannot_be_chosen() -> None:
    [[option]] = group_transforms([plugin("quantize_nncf", ("nncf",))]).values()
    assert (option.label, option.disabled) == ("quantize nncf (not installed)", True)
    assert "pip install 'deployment-workbench[nncf]'" in option.note


def test_a_transform_that_does_not_exist_cannot_be_chosen() -> None:
    panel = Transform()
    with pytest.raises(traitlets.TraitError, match="'magic' cannot be chosen"):
        panel.kind.value = "magic"
    assert panel.kind.value == "quantize_static"
