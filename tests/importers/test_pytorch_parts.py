"""What the PyTorch importer is told: factories and the weights for them, samples and descriptions of inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.dataset import Dataset
from workbench.errors import DatasetError, ModelError, OptionsError
from workbench.importers.pytorch import Options, open_source
from workbench.importers.pytorch.inputs import InputText, make_call, parse_input
from workbench.torch_files import call_factory, describe_weights, load_weights

torch = pytest.importorskip("torch")
nn = torch.nn

FACTORY = """
import torch

class Body(torch.nn.Sequential):
    pass

def build(classes=3):
    return Body(torch.nn.Embedding(20, 6), torch.nn.Flatten(), torch.nn.Linear(24, classes))
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(FACTORY)
    return tmp_path / "nets.py"


# --- weights and their module --------------------------------------------------------------------------------------


def test_weights_alone_ask_for_a_factory_and_say_what_they_are(tmp_path: Path) -> None:
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"2 tensors: weight float32\[2, 4\], bias float32\[2\]\) but not") as caught:
        open_source(tmp_path / "w.pt", Options(), None, False)
    assert "factory" in caught.value.remedy


def test_weights_of_another_module_are_refused_with_what_differs() -> None:
    weights = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2)).state_dict()
    other = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    with pytest.raises(ModelError) as caught:
        load_weights(other, Path("w.pt"), weights)

    said = caught.value.message
    assert "2 missing in the file: 1.running_mean, 1.running_var" in said
    assert "0.weight ([2, 4] in the file, [3, 4] in the module)" in said


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_prefixes_of_wrappers_are_left_out(prefix: str) -> None:
    module, trained = nn.Linear(4, 2), nn.Linear(4, 2)
    weights = {prefix + name: value for name, value in trained.state_dict().items()}

    notes = load_weights(module, Path("w.pt"), {"state_dict": weights, "lr": 0.1})

    assert torch.equal(module.weight, trained.weight)
    assert f"'{prefix}'" in notes[-1]


def test_tied_weights_may_stand_in_the_file_once() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    weights = {name: value for name, value in module.state_dict().items() if name != "1.weight"}

    assert load_weights(module, Path("w.pt"), weights) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"state": {}, "param_groups": []}, "it is the state of an optimizer"),
        ([1, 2], "it holds a list"),
        ({"epoch": 3}, "its entries are 'epoch'"),
        ({}, "it is empty"),
    ],
)
def test_a_file_without_weights_is_refused(content: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=rf"w\.pt holds no weights by name: {reason}"):
        describe_weights(Path("w.pt"), content)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("build", "[1]", "`arguments` is no JSON object"),
        ("build", "{", "`arguments` is no JSON object"),
        ("build", '{"klasses": 2}', "unexpected keyword argument 'klasses'"),
        ("bild", "", "has no function 'bild'"),
        ("Body.fork", "", "has no function"),
    ],
)
def test_a_factory_that_does_not_work_is_named(name: str, arguments: str, reason: str, factory: Path) -> None:
    with pytest.raises(OptionsError, match=reason) as caught:
        call_factory(f"{factory}:{name}", arguments)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("nothing", "names no function"),
        ("no_such_package.nets:build", "cannot be imported: ModuleNotFoundError"),
        ("/no/such/file.py:build", "does not exist"),
        ("json:dumps", "fails: TypeError"),
        ("random:random", "gives a float, not a torch.nn.Module"),
    ],
)
def test_a_factory_that_is_not_there_is_named(factory: str, reason: str) -> None:
    with pytest.raises(OptionsError, match=reason):
        call_factory(factory, "")


# --- descriptions of inputs ----------------------------------------------------------------------------------------


def test_a_description_is_read_as_models_show_their_inputs() -> None:
    assert parse_input("image float32[batch, 3, height=64, 224]") == InputText(
        "image", "float32", (("batch", 0), ("", 3), ("height", 64), ("", 224))
    )
    assert parse_input(" t int64[] ") == InputText("t", "int64", ())


@pytest.mark.parametrize(
    "text", ["", "image", "image[3]", "image float[3]", "image float32[3", "x float32[0]", "x int64[a b]"]
)
def test_what_is_no_description_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(OptionsError, match="does not describe an input") as caught:
        parse_input(text)
    assert "image float32[batch, 3, 224, 224]" in caught.value.remedy


def forward(image: Any, mask: Any = None, *, scale: Any = 1.0) -> None:
    """What a module may have."""


def test_samples_are_matched_to_parameters_by_name_or_a_single_one_by_order() -> None:
    image, mask = np.zeros((5, 3), np.float32), np.ones((5, 3), np.int64)

    by_name = make_call(forward, (), Dataset({"mask": mask, "image": image}), True, "Net")
    assert dict(zip(by_name.names, by_name.free, strict=True)) == {"image": {0: "batch"}, "mask": {0: "batch"}}
    assert make_call(forward, (), {"photo": image}, True, "Net").names == ["photo"]
    with pytest.raises(DatasetError, match=r"Net takes \(image, mask, scale\) where \(image, maks\) is given"):
        make_call(forward, (), {"image": image, "maks": mask}, True, "Net")
    with pytest.raises(DatasetError, match=r"'image' is float32\[2, 3\] in the samples and float32\[batch, 4\]"):
        make_call(forward, ("image float32[batch, 4]",), Dataset({"image": image}), True, "Net")


def test_only_inputs_that_share_the_first_ones_length_get_a_free_batch() -> None:
    call = make_call(forward, (), (torch.zeros(4, 3), torch.zeros(9)), True, "Net")
    assert call.free == [{0: "batch"}, {}]
    assert make_call(forward, (), (torch.zeros(4, 3),), False, "Net").free == [{}]
