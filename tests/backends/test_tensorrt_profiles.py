"""Optimization profiles: proposed for any model, read as users write them, refused with the place, and built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.backends.tensorrt_models import node, write
from workbench.artifact import LOG
from workbench.backends import build_engine
from workbench.backends._tensorrt_profiles import parse_profiles, propose_profile
from workbench.errors import OptionsError
from workbench.model import Model

TEXT = "ids: 1x1 1x128 8x512; mask: 1x1 1x128 8x512"


@pytest.fixture
def text_model(tmp_path: Path) -> Model:
    """Two inputs [batch, sequence] and one of a fixed shape."""
    nodes = [node("Mul", "ids mask", "m"), node("Add", "m bias", "y")]
    inputs = {"ids": ["batch", "sequence"], "mask": ["batch", "sequence"], "bias": [1, 1]}
    return write(tmp_path / "text.onnx", nodes, inputs)


@pytest.mark.parametrize(
    ("shape", "proposed"),
    [
        (["batch", 3, "height", "width"], "x: 1x3x32x32 4x3x224x224 16x3x512x512"),
        (["N", "seq_len", 8], "x: 1x1x8 4x128x8 16x512x8"),
        (["sequence", "batch_size"], "x: 1x1 128x4 512x16"),
        (["batch", "num_tokens", "boxes"], "x: 1x1x1 4x128x16 16x512x64"),
        ([None, None], "x: 1x1 4x16 16x64"),
        ([2, 8], ""),
    ],
)
def test_sizes_are_guessed_from_names(tmp_path: Path, shape: list[int | str], proposed: str) -> None:
    model = write(tmp_path / "m.onnx", [node("Relu", "x", "y")], {"x": shape})

    assert propose_profile(model, batch=4, max_batch=16) == proposed
    if proposed:
        assert str(parse_profiles(model, [proposed])[0]) == proposed


def test_a_profile_is_read_as_it_is_written(text_model: Model) -> None:
    [profile] = parse_profiles(text_model, ["mask:1x1  1x128 8x512 ;ids: 1x1 1x128 8x512;"])

    assert profile.shapes == dict.fromkeys(("ids", "mask"), ((1, 1), (1, 128), (8, 512)))
    assert str(profile) == TEXT
    assert profile.axes(text_model) == {"batch": 1, "sequence": 128}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ids: 1x1 1x128 8x512", r"Profile 2 leaves out mask .*Give every dynamic input, e\.g\. 'ids: 1x1 1x128"),
        (f"{TEXT}; ids: 1x1 1x128 8x512", "Profile 2 names 'ids' twice"),
        (f"{TEXT}; masks: 1x1 1x128 8x512", "Profile 2 names 'masks', which is no input of text. Did you mean 'mask'"),
        ("ids: 1x1 1x128; mask: 1x1 1x128 8x512", "Profile 2, ids cannot be read at 'ids: 1x1 1x128'"),
        ("ids 1x1 1x128 8x512", "Profile 2 cannot be read at 'ids 1x1"),
        ("ids: 1x1 1x-8 8x512", "Profile 2, ids cannot be read"),
        ("ids: 1 8 512; mask: 1x1 1x128 8x512", "ids: the smallest shape has 1 axes, and the model's .* has 2"),
        ("ids: 1x1 1x600 8x512; mask: 1x1 1x128 8x512", "ids: axis 1 goes from 1 by way of 600 to 512"),
        ("ids: 1x1 0x128 8x512; mask: 1x1 1x128 8x512", "ids: axis 0 of the usual shape is 0"),
        ("ids: 1x1 1x8 8x9999999999; mask: 1x1 1x8 8x8", "ids: axis 1 of the largest shape is 9,999,999,999"),
        ("ids: 1x1 1x128 8x512; mask: 1x1 1x64 8x512", "'sequence' is 1/128/512 in 'ids' and 1/64/512 in 'mask'"),
        (f"{TEXT}; bias: 1x1 1x1 1x2", "bias: axis 1 of the largest shape is 2, and the model's is always 1"),
    ],
)
def test_a_wrong_profile_is_refused_with_the_place(text_model: Model, text: str, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        parse_profiles(text_model, [TEXT, text])


def test_what_has_nothing_dynamic_takes_no_profile(tmp_path: Path) -> None:
    model = write(tmp_path / "m.onnx", [node("Relu", "x", "y")], {"x": [2, 8]})
    with pytest.raises(OptionsError, match="Profile 1 is for nothing: m has no dynamic axes"):
        build_engine(model, "tensorrt", {"profiles": ["x: 2x8 2x8 2x8"]})


def test_other_dynamic_axes_need_a_profile(text_model: Model) -> None:
    with pytest.raises(OptionsError, match=r"other dynamic axes than the batch.*ids float32") as caught:
        build_engine(text_model, "tensorrt", {"max_batch": 8})

    [proposal] = re.findall("'([^']+:[^']+)'", caught.value.remedy)
    assert proposal == TEXT
    with pytest.raises(OptionsError, match="Profiles and a batch are given"):
        build_engine(text_model, "tensorrt", {"max_batch": 8, "profiles": [proposal]})


def test_the_plan_is_built_for_all_profiles_as_given(text_model: Model) -> None:
    other = "ids: 0x1 2x16 4x16; mask: 0x1 2x16 4x16"
    engine = build_engine(text_model, "tensorrt", {"targets": ["SM86"], "profiles": [TEXT, other]})

    assert engine.options["profiles"] == [TEXT, other]
    log = (engine.path.parent / LOG).read_text()
    [ids] = re.findall(r"Name: ids, IOMode.*ProfileInfo: \[(.*)\]", log)
    assert re.findall(r"(\w+)Shape: \[([\d,]+)\]", ids) == [
        *zip(("Min", "Opt", "Max"), ("1,1", "1,128", "8,512"), strict=True),
        *zip(("Min", "Opt", "Max"), ("0,1", "2,16", "4,16"), strict=True),
    ]
