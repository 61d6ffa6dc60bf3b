"""SavedModels and frozen graphs become ONNX, and graphs that reach beyond themselves are refused."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest

from workbench.errors import ModelError
from workbench.importers import load_model
from workbench.workspace import Workspace


def test_a_saved_model_becomes_a_checked_model(tensorflow_files: Path, shared_workspace: Workspace) -> None:
    model = load_model(tensorflow_files / "net", workspace=shared_workspace)
    again = load_model(tensorflow_files / "net" / "saved_model.pb", workspace=shared_workspace)

    assert again == model  # the file inside stands for its folder
    assert model.name == "net"
    assert [str(spec) for spec in model.inputs] == ["image float32[batch, 16, 16, 3]"]
    assert [str(spec) for spec in model.outputs] == ["output_0 float32[batch, 5]"]
    assert model.conversion
    assert model.conversion.framework.startswith("TensorFlow 2.")
    assert model.conversion.checks[0].max_abs_error < 1e-5
    assert model.conversion.notes[0] == "Signature 'serving_default' is converted; there are also serve."


@pytest.mark.parametrize(
    ("case", "inputs", "outputs"),
    [
        ("saved channels first", ["image float32[batch, 3, 16, 16]"], ["output_0 float32[batch, 5]"]),
        (
            "both",
            ["a float32[batch, 4]", "b float32[batch, 4]"],
            ["product float32[batch, 4]", "sum float32[batch, 3]"],
        ),
        ("look", ["words object[batch]"], ["ids int64[batch]"]),
        ("first", ["features float32[batch, 4]"], ["scores float32[batch, 2]"]),
        ("frozen", ["image float32[batch, 16, 16, 3]"], ["Identity float32[batch, 5]"]),
        ("shape given", ["x float32[batch, 4]"], ["half float32[batch, 4]"]),
    ],
)
def test_signatures_of_every_age_and_frozen_graphs(
    tensorflow_answers: Mapping[str, Any], case: str, inputs: list[str], outputs: list[str]
) -> None:
    answer = tensorflow_answers[case]

    assert answer.error is None
    assert [str(spec) for spec in answer.model.inputs] == inputs
    assert [str(spec) for spec in answer.model.outputs] == outputs
    assert max(check.max_abs_error for check in answer.conversion.checks) < 1e-5


@pytest.mark.parametrize(
    ("case", "message", "remedy"),
    [
        ("no signature", "several signatures and none is serving_default", "Known: both, look"),
        ("other signature", "has no signature 'bith'", "Did you mean 'both'?"),
        ("other tags", "no graph with the tags 'train'", "Known: serve"),
        ("unclear", "2 nodes could be its outputs: half, other", "option `outputs`"),
        ("no axes", "does not say how many axes its input 'x' has", "inputs='x[-1,224,224,3]'"),
        ("no such node", "has no node 'hal'", "Did you mean 'half'?"),
        ("unfrozen", "is not frozen: the values of w are not in it", "SavedModel"),
        ("no weights", "'variables/variables.index' is missing", "Copy the whole SavedModel folder"),
        ("reads", "reach files, the network or code outside the model: ReadFile", "trust=True"),
        ("writes", "WriteFile ('WriteFile')", "trust=True"),
        ("writes on load", "WriteFile ('WriteFile')", "trust=True"),
    ],
)
def test_refusals_say_what_and_how_to_mend_it(
    tensorflow_answers: Mapping[str, Any], case: str, message: str, remedy: str
) -> None:
    answer = tensorflow_answers[case]

    assert message in answer.error.message
    assert remedy in answer.error.remedy
    assert not answer.harmed


def test_a_file_under_another_name_is_recognized(tmp_path: Path, tensorflow_files: Path) -> None:
    shutil.copy(tensorflow_files / "net" / "saved_model.pb", tmp_path / "net.pb")
    (tmp_path / "net").mkdir()
    shutil.copy(tensorflow_files / "frozen.pb", tmp_path / "net" / "saved_model.pb")
    graph = onnx.parser.parse_model('<ir_version: 9, opset_import: ["": 17]> g (float[2] x) => (float[2] y) {y=Neg(x)}')
    onnx.save(graph, tmp_path / "onnx.pb")

    with pytest.raises(ModelError, match=r"is the saved_model\.pb of a SavedModel under another name"):
        load_model(tmp_path / "net.pb")
    with pytest.raises(ModelError, match="holds a frozen graph, not a SavedModel"):
        load_model(tmp_path / "net")
    with pytest.raises(ModelError, match="is an ONNX model") as caught:
        load_model(tmp_path / "onnx.pb")
    assert "Rename it to onnx.onnx" in caught.value.remedy
