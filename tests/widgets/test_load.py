"""The Load panel with files of other frameworks: what it says of them, asks for, and shows of the conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from widgets import Load
from widgets._import_form import ImportForm
from workbench.errors import ModelError

NETS = "import torch\n\n\ndef build():\n    return torch.nn.Linear(4, 3)\n"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of a linear layer beside the function that builds it."""
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file(
        {"weight": np.eye(3, 4, dtype=np.float32), "bias": np.zeros(3, np.float32)}, tmp_path / "net.safetensors"
    )
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "net.safetensors"


def test_a_chosen_file_is_named_with_its_importer_and_its_options(tmp_path: Path, weights: Path) -> None:
    form = ImportForm()
    assert form.layout.display == "none"

    form.path = str(weights)
    assert form.importer == "pytorch"
    assert form.options is not None
    assert "PyTorch" in form.children[0].value
    form.trust.value = True

    (tmp_path / "net.onnx").write_bytes(b"anything")
    form.path = str(tmp_path / "net.onnx")
    assert (form.importer, form.options, form.trust.layout.display) == ("onnx", None, "none")
    assert not form.trust.value  # it was given for another file

    form.path = str(tmp_path / "none.caffe")
    assert form.importer == ""
    assert "no file" in form.children[0].value


def test_a_shape_in_brackets_is_one_entry_of_a_list(weights: Path) -> None:
    form = ImportForm()
    form.path = str(weights)
    assert form.options is not None
    form.options["inputs"].value = "image float32[batch, 3, 8, 8], mask int64[batch, 8]"

    assert form.changed == {"inputs": ["image float32[batch, 3, 8, 8]", "mask int64[batch, 8]"]}


@pytest.mark.heavy
def test_a_conversion_is_checked_shown_and_said_in_code(tmp_path: Path, weights: Path) -> None:
    panel = Load(workspace=tmp_path / "space")
    panel.source.value = ""
    panel.model_file.choose(weights)
    with pytest.raises(ModelError, match="factory"):  # it asks for what it needs
        panel.start().wait()

    assert panel.importing.options is not None
    panel.importing.options.set({"factory": f"{tmp_path / 'nets.py'}:build", "inputs": ["x float32[batch, 4]"]})
    panel.start().wait()
    assert panel.model is not None
    assert panel.model.conversion is not None
    assert panel.original == str(weights)
    for words in ("Conversion check", "Converted from PyTorch", "max abs error", "100.0 %", "x float32[batch, 4]"):
        assert words in panel.summary()

    python, recipe = panel.code()
    said = yaml.safe_load(recipe)
    assert said["importer"] == panel.importing.changed
    assert python.endswith(f"model = wb.load_model({str(weights)!r}, {panel.importing.changed!r})")
