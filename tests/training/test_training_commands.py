"""`workbench distil` and `workbench prune-module`, called as the command line calls them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tyro

from workbench._training_commands import distil, prune_module
from workbench.errors import ModelError
from workbench.importers import load_model

pytest.importorskip("torch")

NETS = Path(__file__).with_name("nets.py")


@pytest.mark.heavy
def test_distil_prints_epochs_and_writes_the_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "student.onnx"
    words = ["sample:digits", "--student", f"{NETS}:linear", "--data", "sample:digits", "--output", str(output)]
    words += ["--epochs", "1", "--learning-rate", "0.01", "--threads", "1", "--workspace", str(tmp_path / "space")]
    tyro.extras.subcommand_cli_from_dict({"distil": distil, "prune-module": prune_module}, args=["distil", *words])

    printed = capsys.readouterr().out
    assert re.search(r"epoch +1  loss [\d.]+  score [\d.]+ %  best", printed)
    assert re.search(r"weights +217,\d+ +10,250", printed)
    assert [spec.name for spec in load_model(output).outputs] == ["logits"]

    with pytest.raises(ModelError, match="exists already"):
        tyro.extras.subcommand_cli_from_dict({"distil": distil, "prune-module": prune_module}, args=["distil", *words])
