"""The Distil panel: a student learns and is watched, a cancelled run keeps its best epoch and goes on."""

from __future__ import annotations

import html
import importlib.util
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from widgets import Compare, Distil, Transform
from widgets._plots_training import TrainingPlot, TrainingStream, best_epoch, epoch_data
from widgets._student import CHANNELS, FUNCTION, VARIANT
from widgets.distil import CALIBRATION, FILE, SAMPLE
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ModelError, OptionsError
from workbench.importers import load_dataset
from workbench.model import Model
from workbench.training import Epoch
from workbench.workspace import Workspace

FAST = {"epochs": 10, "batch": 1, "threads": 1}
NET = """
import torch

def build():
    return torch.nn.Sequential(
        torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
    )
"""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few digits to learn from, and a function that builds a small student."""
    folder, few = tmp_path_factory.mktemp("training"), load_dataset("sample:digits", "training").take(64)
    np.savez(folder / "few.npz", image=few.inputs["image"], labels=few.labels)  # type: ignore[arg-type]
    (folder / "nets.py").write_text(NET)
    return folder


@pytest.fixture(scope="module")
def make_panel(
    digits: Model, calibration: Dataset, evaluation: Dataset, samples: Path, shared_workspace: Workspace
) -> Callable[[], Distil]:
    """Makes panels that train the function's student on the few digits."""

    def make() -> Distil:
        made = Distil(model=digits, calibration=calibration, evaluation=evaluation, workspace=shared_workspace)
        made.data.value = FILE
        made.file.choose(samples / "few.npz")
        made.student.kind.value = FUNCTION
        made.student.function.value = f"{samples / 'nets.py'}:build"
        made.options.set(FAST)
        return made

    return make


@pytest.fixture
def panel(make_panel: Callable[[], Distil]) -> Iterator[Distil]:
    made = make_panel()
    yield made
    made.close()


@pytest.fixture(scope="module")
def cancelled(make_panel: Callable[[], Distil]) -> Iterator[Distil]:
    """A panel whose training was cancelled after an epoch or more, and whose best epoch was kept."""
    panel, learned = make_panel(), threading.Event()
    report = panel._report

    def watch(fraction: float, message: str) -> None:
        if panel._stream is not None and panel._stream.epochs:
            learned.set()
        report(fraction, message)

    panel._report = watch  # type: ignore[method-assign]
    panel.start()
    assert learned.wait(60)
    panel.cancel()
    panel.wait(60)
    yield panel
    panel.close()


@pytest.fixture(scope="module")
def trained(cancelled: Distil) -> Distil:
    """The same panel after it kept the best epoch and went on to the end."""
    cancelled.start(cancelled.prepare_best).wait()
    cancelled.start().wait()
    return cancelled


def epoch(number: int, score: float, best: bool = True) -> Epoch:
    return Epoch(number, 1 / number, 0.8 / number, 0.2 / number, None, score, 0.5, best)


def columns(plot: TrainingPlot) -> dict[str, Any]:
    """The epochs that a plot shows."""
    return dict(plot._epochs.data)


def test_after_a_cancel_the_best_epoch_is_offered(cancelled: Distil) -> None:
    assert cancelled.state == "cancelled"
    assert 0 < len(cancelled.epochs) < FAST["epochs"]
    last = cancelled.epochs[-1].number
    assert cancelled._status.value == f"cancelled after epoch {last}; Train goes on from there"
    best = best_epoch(cancelled.epochs)
    assert best is not None
    assert cancelled.keep.layout.display == ""
    assert cancelled.keep.description == f"Keep the best so far (epoch {best.number}, {100 * best.score:.1f} %)"
    assert cancelled.variants == ()


@pytest.mark.heavy
def test_the_best_epoch_and_the_whole_training_become_variants(trained: Distil, digits: Model) -> None:
    (kept, _), (name, model) = trained.variants
    assert re.fullmatch(r"student, build of nets.py, epoch \d+", kept)
    assert name == "student, build of nets.py"
    assert model.size_bytes < digits.size_bytes
    assert trained.keep.layout.display == "none"


@pytest.mark.heavy
def test_a_run_that_went_on_shows_all_its_epochs_and_what_came_of_it(trained: Distil) -> None:
    every = list(range(1, FAST["epochs"] + 1))
    assert [each.number for each in trained.epochs] == columns(trained._drawn)["number"] == every
    assert "× smaller" in trained.summary()
    assert "teacher" in trained.summary()


def test_training_on_the_samples_that_score_is_refused(panel: Distil, digits: Model, samples: Path) -> None:
    panel.evaluation = load_dataset(samples / "few.npz", "evaluation")
    with pytest.raises(DatasetError, match="score the result"):
        panel.start().wait()
    assert panel.variants == ()


def test_what_is_missing_is_said(panel: Distil) -> None:
    assert "Press Train" in panel.summary()
    panel.student.kind.value = VARIANT
    with pytest.raises(ModelError, match="no variant to train"):
        panel.start().wait()
    panel.student.kind.value, panel.student.function.value = FUNCTION, " "
    with pytest.raises(OptionsError, match="No function is named"):
        panel.start().wait()
    panel.file.choose("")
    with pytest.raises(DatasetError, match="No training samples"):
        panel.start().wait()
    with pytest.raises(ModelError, match="Load a model first"):
        Distil().start().wait()


def test_the_bundled_teacher_learns_from_the_bundled_samples(digits: Model, tiny: Model) -> None:
    panel = Distil(model=digits)
    assert panel.data.value == SAMPLE
    panel.model = tiny
    assert panel.data.value == FILE


@pytest.mark.heavy
def test_the_shown_code_trains_the_same(
    panel: Distil, trained: Distil, digits: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_WORKSPACE", str(panel.workspace.root))
    python, recipe = panel.code()
    names: dict[str, Any] = {"model": digits, "variants": {}}
    exec(python, names)
    assert recipe == ""
    assert names["trained"] == trained.trained
    assert list(names["variants"]) == ["student, build of nets.py"]

    panel.data.value, panel.student.kind.value = CALIBRATION, CHANNELS
    assert "training = calibration\n" in panel.code()[0]
    assert "wb.distil(model, 0.5, training, " in panel.code()[0]


@pytest.mark.heavy
def test_a_trained_variant_can_be_measured_and_compressed_but_no_recipe_makes_it(
    trained: Distil, digits: Model
) -> None:
    compare = Compare(model=digits, variants=trained.variants)
    python, recipe = compare.code()
    assert "variants['student, build of nets.py']" in python
    assert "student" not in recipe
    python, recipe = Transform(model=digits, variants=trained.variants).code()
    assert "# variants['student, build of nets.py'] was trained" in python
    assert "student" not in recipe


def test_without_torch_the_panel_says_what_to_install(monkeypatch: pytest.MonkeyPatch, digits: Model) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    panel = Distil(model=digits)
    assert "pip install 'deployment-workbench[torch]'" in html.unescape(panel.summary())
    assert panel._start_button.disabled
    with pytest.raises(ModelError, match="needs torch"):
        panel.start().wait()


def test_the_plot_grows_by_what_is_new_and_marks_the_best() -> None:
    plot = TrainingPlot()
    plot.show([epoch(1, 0.5)])
    stream = TrainingStream(plot, [epoch(1, 0.5)], seconds=0)
    for each in (epoch(1, 0.5), epoch(2, 0.9), epoch(3, 0.8, best=False)):
        stream(each)
    assert columns(plot)["number"] == [1, 2, 3]
    assert columns(plot)["score"] == [50, 90, 80]
    assert dict(plot._best.data) == {"number": [2], "score": [90]}
    assert [item.label.value for item in plot._legend.items] == ["whole", "teacher", "labels"]  # none matches features


def test_updates_of_the_page_are_few_but_none_is_lost() -> None:
    plot = TrainingPlot()
    stream = TrainingStream(plot, seconds=60)
    for number in range(1, 6):
        stream(epoch(number, number / 10))
    assert columns(plot)["number"] == [1]
    stream.flush()
    assert columns(plot)["number"] == [1, 2, 3, 4, 5]
    assert epoch_data([epoch(2, 0.25)])["loss"] == [0.5]


def test_the_share_of_channels_can_be_typed_and_slid() -> None:
    panel = Distil()
    panel.student.share.value = 30
    assert panel.student.read() == pytest.approx(0.3)
    assert panel.student.label == "student, 30 % of channels"
    assert panel.student.code == "0.3"
