"""Pruning a torch module: fewer channels everywhere but at the output, and it goes on learning."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import ModelError, OptionsError, TransformError
from workbench.importers import load_dataset
from workbench.training import prune_module
from workbench.training.module_pruning import PrunedSource, PruneModuleOptions
from workbench.workspace import Workspace

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")

NETS = Path(__file__).with_name("nets.py")
SAMPLES = load_dataset("sample:digits", "training").take(96)


@pytest.mark.heavy
def test_a_module_loses_channels_and_learns(tmp_path: Path, workspace: Workspace) -> None:
    from tests.training.nets import small  # type: ignore[import-not-found, unused-ignore]

    torch.save(small().state_dict(), tmp_path / "weights.pt")
    pruned = prune_module(
        tmp_path / "weights.pt",
        SAMPLES,
        {"share": 50, "align": 4, "importance": "taylor", "factory": f"{NETS}:small"},
        training_options={"epochs": 1, "batch": 16, "threads": 1},
        workspace=workspace,
    )

    assert pruned.macs_after < pruned.macs / 2
    assert pruned.trained.parameters < pruned.trained.teacher_parameters / 1.9
    assert [spec.shape for spec in pruned.model.outputs] == [("batch", 10)]
    assert pruned.model.inputs == pruned.original.inputs
    assert [step.transform for step in pruned.model.history] == ["prune_module", "distil"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"align": 64}, TransformError, "No channel of small can go"),
        ({"keep": ("9",)}, OptionsError, "has no submodule '9'"),
    ],
)
def test_what_cannot_be_pruned_is_said(options: dict[str, object], kind: type[Exception], message: str) -> None:
    from tests.training.nets import small  # type: ignore[import-not-found, unused-ignore]
    from workbench.training._cutting import cut_channels

    if "keep" in options:
        with pytest.raises(kind, match=message):
            PrunedSource(f"{NETS}:small", PruneModuleOptions(keep=("9",)), False).open(None, SAMPLES, SAMPLES)  # type: ignore[arg-type]
        return

    class Flat(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.inside = small()

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (self.inside(x),)

    with pytest.raises(kind, match=message):
        cut_channels(
            Flat(), [torch.zeros(2, 1, 32, 32)], share=0.3, align=64, keep=[], training=None, order=[], title="small"
        )


def test_weights_without_their_module_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "weights.pt")

    with pytest.raises(ModelError, match="Name the function that builds it"):
        PrunedSource(str(tmp_path / "weights.pt"), PruneModuleOptions(), False).load()


def test_a_file_that_runs_code_is_refused_without_trust(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")

    with pytest.raises(ModelError, match="only running code"):
        PrunedSource(str(tmp_path / "whole.pt"), PruneModuleOptions(), False).load()
