"""The Distil panel: trains a smaller student, or a pruned variant again, to answer like the original; watched live."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._bokeh import BokehPane
from widgets._files import FilePick
from widgets._form import FIELD_WIDTH, LABEL_STYLE, OptionsForm
from widgets._panel import Panel, Work
from widgets._plots_training import TrainingPlot, TrainingStream, best_epoch
from widgets._student import StudentPick
from workbench.comparison import ORIGINAL
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ModelError
from workbench.importers import load_dataset
from workbench.jobs import Progress
from workbench.model import Model
from workbench.report import format_count, format_size
from workbench.samples import sample_model_path
from workbench.training import Epoch, Trained, TrainingOptions, best_so_far, distil
from workbench.workspace import Workspace, default_root

SAMPLE, CALIBRATION, FILE = "sample:digits", "calibration", "file"
_SOURCES = {"Bundled digits": SAMPLE, "Calibration samples": CALIBRATION, "Own file": FILE}
_NO_TORCH = "Training needs torch, which this environment lacks: pip install 'deployment-workbench[torch]'"


@dataclass(frozen=True)
class _Asked:
    """What a run was given; the same again goes on with it."""

    teacher: Model
    student: Model | str | float
    source: str
    options: dict[str, Any]
    name: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides the run."""
        student = self.student.sha256 if isinstance(self.student, Model) else self.student
        return self.teacher.sha256, student, self.source, self.options


class Distil(Panel):
    """Trains with the original as teacher; the best epoch becomes a variant, after a cancel too."""

    title = "Train"
    hint = (
        "A smaller student learns to answer like the original, its teacher. Cancel keeps the best epoch; pressing "
        "Train again goes on."
    )
    verb = "Train"
    icon = "graduation-cap"

    model = t.Instance(Model, allow_none=True, help="The teacher.")
    calibration = t.Instance(Dataset, allow_none=True)
    evaluation = t.Instance(Dataset, allow_none=True, help="Samples that score the result, never to train on.")
    variants = t.Tuple(help="Named models, those trained here at the end: (name, Model) each.")
    trained = t.Instance(Trained, allow_none=True, help="The last student.")
    epochs = t.Tuple(help="Epoch each, of the run that is shown.")

    def __init__(self, **traits: Any) -> None:
        root = traits.get("workspace") or default_root()
        uploads = Path(root.root if isinstance(root, Workspace) else root) / "uploads"
        field: dict[str, Any] = {"style": LABEL_STYLE, "layout": w.Layout(width=FIELD_WIDTH)}
        self.data = w.Dropdown(description="Learn from", options=list(_SOURCES.items()), value=FILE, **field)
        self.file = FilePick(suffixes=(".npz",), uploads=uploads, label="Training")
        self.student = StudentPick()
        self.options = OptionsForm(TrainingOptions)
        self.name = w.Text(description="Name", placeholder="automatic", **field)
        self.keep = w.Button(
            icon="bookmark", tooltip="Makes a variant of the best epoch", layout=w.Layout(display="none")
        )
        self.plot = BokehPane()
        self._view = w.HTML()
        self._drawn: TrainingPlot | None = None
        self._stream: TrainingStream | None = None
        self._asked: _Asked | None = None
        form = w.VBox(
            [
                w.HTML(_markup.group("Student")),
                self.student,
                w.HTML(_markup.group("Training samples")),
                self.data,
                self.file,
                w.HTML(_markup.group("Training")),
                self.options,
                self.name,
            ]
        )
        super().__init__(form, w.VBox([self._view, self.plot]), **traits)
        self.add_action(self.keep)
        self._join()
        self._forget()

    def _join(self) -> None:
        self.keep.on_click(lambda _: self.start(self.prepare_best))
        t.dlink((self, "variants"), (self.student, "variants"))
        self.data.observe(lambda _: self._swap(), "value")
        self.observe(lambda _: self._forget(), "model")
        self.observe(self.guard(self._draw), ("trained", "calibration"))
        self.observe(lambda _: self._follow(), "state")
        self._swap()

    def prepare(self) -> Work:
        """Reads the form."""
        asked = self._read()
        earlier = self.epochs if self._asked is not None and asked.key == self._asked.key else ()
        self._asked, self._drawn = asked, TrainingPlot()
        self._drawn.show(earlier)
        self._stream = stream = TrainingStream(self._drawn, earlier, self.update_seconds)
        self.trained, self.epochs = None, earlier
        self._draw()

        def work(progress: Progress) -> tuple[str, Trained]:
            progress(0.0, "reading the samples")
            training, space = self._load(asked), self.open_workspace()
            options = {"workspace": space, "watch": stream, "progress": progress}
            made = distil(asked.teacher, asked.student, training, asked.options, **options)
            return self._free_name(asked.name), made

        return work

    def prepare_best(self) -> Work:
        """What keeps the best epoch of the run that was cancelled."""
        asked = self._asked or self._read()

        def work(progress: Progress) -> tuple[str, Trained]:
            progress(0.1, "reading the best epoch")
            training, space = self._load(asked), self.open_workspace()
            made = best_so_far(asked.teacher, asked.student, training, asked.options, workspace=space)
            if made is None:
                raise ModelError("No epoch was finished with these settings.", "Press Train to go on.")
            return self._free_name(f"{asked.name}, epoch {made.best}"), made

        return work

    def show(self, result: tuple[str, Trained]) -> None:
        """Adds the student to the variants and shows how it learned."""
        name, trained = result
        if self._stream is not None:
            self._stream.flush()  # nothing may come after the whole
        self._drawn = TrainingPlot() if self._drawn is None else self._drawn
        self._drawn.show(trained.epochs, trained.teacher_score)
        self.epochs = trained.epochs
        self.variants = (*self.variants, (name, trained.model))
        self.trained = trained

    def cancelled_words(self) -> str:
        """Which epochs are kept, in words."""
        if not self.epochs:
            return "cancelled before the first epoch was finished"
        return f"cancelled after epoch {self.epochs[-1].number}; Train goes on from there"

    def code(self) -> tuple[str, str]:
        """Training as Python; a recipe has no step for it."""
        changed, source = self.options.changed(), self._source()
        training = "calibration" if source == CALIBRATION else f'wb.load_dataset({source!r}, "training")'
        name = self._free_name(self._wanted_name())
        lines = [
            "import workbench as wb",
            "",
            f"training = {training}",
            f"trained = wb.distil(model, {self.student.code}, training, {changed!r})",
            "print(trained.ended, trained.best, trained.parameters, trained.teacher_parameters)",
            f"variants[{name!r}] = trained.model",
        ]
        return "\n".join(lines), ""

    def summary(self) -> str:
        """The last student in numbers."""
        return self._view.value

    def _read(self) -> _Asked:
        if importlib.util.find_spec("torch") is None:
            raise ModelError(f"{_NO_TORCH}.")
        if self.model is None:
            raise ModelError("There is no teacher.", "Load a model first.")
        if self.data.value == FILE and self.file.error:
            raise DatasetError(self.file.error)
        source = self._source()
        if not source:
            raise DatasetError(
                "No training samples are chosen.", "Choose an .npz file of samples like the evaluation's."
            )
        return _Asked(self.model, self.student.read(), source, self.options.values, self._wanted_name())

    def _wanted_name(self) -> str:
        return str(self.name.value).strip() or self.student.label

    def _source(self) -> str:
        return str(self.file.path if self.data.value == FILE else self.data.value)

    def _load(self, asked: _Asked) -> Dataset:
        if asked.source != CALIBRATION:
            training = load_dataset(asked.source, "training")
        elif self.calibration is not None:
            training = self.calibration
        else:
            raise DatasetError("There are no calibration samples.", "Load some with the model.")
        if self.evaluation is not None and training.sha256 == self.evaluation.sha256:
            raise DatasetError(
                f"{training.name} are the samples that score the result: a student that learned them scores too well.",
                "Choose other samples to train on.",
            )
        return training

    def _free_name(self, wanted: str) -> str:
        taken = {ORIGINAL, *(name for name, _ in self.variants)}
        numbered = (wanted if number == 1 else f"{wanted} ({number})" for number in range(1, len(taken) + 2))
        return next(name for name in numbered if name not in taken)

    def _swap(self) -> None:
        self.file.layout.display = "" if self.data.value == FILE else "none"

    def _forget(self) -> None:
        """Another teacher: what was learned belongs to the one before."""
        self.trained, self.epochs, self._asked, self._drawn, self._stream = None, (), None, None, None
        if self.model is not None:
            bundled = self.model.path == sample_model_path(SAMPLE)
            self.data.value = SAMPLE if bundled else FILE
        self._offer_best()
        self._draw()

    def _follow(self) -> None:
        """What came of a run, however it ended."""
        if self.state != "running" and self._stream is not None:
            self._stream.flush()
            self.epochs = tuple(self._stream.epochs.values()) if self.trained is None else self.trained.epochs
        self._offer_best()
        self._draw()

    def _offer_best(self) -> None:
        best = best_epoch(self.epochs) if self.state in ("cancelled", "failed") else None
        self.keep.layout.display = "" if best else "none"
        if best:
            self.keep.description = f"Keep the best so far ({_epoch_words(best)})"

    def _draw(self) -> None:
        shown = self._drawn is not None and (self.state == "running" or bool(self.epochs))
        self.plot.layout.display = "" if shown else "none"
        if shown and self._drawn is not None and self.plot.figure is not self._drawn.layout:
            self.plot.show(self._drawn.layout, label="Loss and validation score by epoch")
        if importlib.util.find_spec("torch") is None:
            self._view.value = _markup.empty(f"{_NO_TORCH}.")
            self._start_button.disabled = True
        elif self.trained is not None:
            self._view.value = _markup.facts(_facts(self.trained, self.model))
        elif shown:
            self._view.value = ""
        else:
            waiting = "Press Train to watch a smaller student learn." if self.model else "Load a model first."
            self._view.value = _markup.empty(waiting)


def _facts(trained: Trained, teacher: Model | None) -> dict[str, str]:
    share = trained.teacher_parameters / max(1, trained.parameters)
    weights = f"{format_count(trained.parameters)}, as many as the teacher has"
    if share >= 1.05:
        weights = (
            f"{format_count(trained.parameters)} of {format_count(trained.teacher_parameters)}: {share:.1f}× smaller"
        )
    size = format_size(trained.model.size_bytes / 1e6)
    if teacher is not None:
        size += f"; the teacher {format_size(teacher.size_bytes / 1e6)}"
    best = next((epoch for epoch in trained.epochs if epoch.number == trained.best), None)
    validation = f"teacher {100 * trained.teacher_score:.1f} %"
    if best is not None:
        points = 100 * (best.score - trained.teacher_score)
        difference = "the same" if abs(points) < 0.05 else f"{points:+.1f} points".replace("-", "−")
        validation = f"{100 * best.score:.1f} % at epoch {best.number}; {validation} ({difference})"
    ended = {"finished": "all of them done", "early": "no better score for long enough", "cancelled": "cancelled"}
    count = len(trained.epochs)
    seconds = sum(epoch.seconds for epoch in trained.epochs)
    return {
        "Weights": weights,
        "Size": size,
        "Validation": validation,
        "Training": f"{count} epoch{'s' if count != 1 else ''} in {seconds:.3g} s; {ended[trained.ended]}",
    }


def _epoch_words(epoch: Epoch) -> str:
    return f"epoch {epoch.number}, {100 * epoch.score:.1f} %"
