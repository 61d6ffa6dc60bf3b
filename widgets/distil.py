"""The Distil panel: trains a smaller student, or a pruned variant again, to answer like the original; watched live."""

from __future__ import annotations

import importlib.util
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
        self._asked: tuple[Any, ...] = ()  # what the last run was given: the same again goes on with it
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
        model, source, student, options = self._given()
        name = self._free_name(self.name.value.strip() or self.student.label)
        asked = (model.sha256, source, getattr(student, "sha256", student), options)
        earlier = self.epochs if asked == self._asked else ()
        self._asked, self._drawn = asked, TrainingPlot()
        self._drawn.show(earlier)
        self._stream = stream = TrainingStream(self._drawn, earlier, self.update_seconds)
        self.trained, self.epochs = None, earlier
        self._draw()

        def work(progress: Progress) -> tuple[str, Trained]:
            training = self._load(source, model)
            space = self.open_workspace()
            made = distil(model, student, training, options, workspace=space, watch=stream, progress=progress)
            stream.flush()
            return name, made

        return work

    def prepare_best(self) -> Work:
        """Reads the form for keeping the best epoch of the run that was cancelled."""
        model, source, student, options = self._given()
        wanted = self.name.value.strip() or self.student.label

        def work(progress: Progress) -> tuple[str, Trained]:
            progress(0.1, "reading the best epoch")
            made = best_so_far(model, student, self._load(source, model), options, workspace=self.open_workspace())
            if made is None:
                raise ModelError("No epoch was finished with these settings.", "Press Train to go on.")
            return self._free_name(f"{wanted}, epoch {made.best}"), made

        return work

    def show(self, result: tuple[str, Trained]) -> None:
        """Adds the student to the variants and shows how it learned."""
        name, trained = result
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
        name = self._free_name(self.name.value.strip() or self.student.label)
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

    def _given(self) -> tuple[Model, str, Any, dict[str, Any]]:
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
        return self.model, source, self.student.read(), self.options.values

    def _source(self) -> str:
        return str(self.file.path if self.data.value == FILE else self.data.value)

    def _load(self, source: str, model: Model) -> Dataset:
        if source == CALIBRATION:
            if self.calibration is None:
                raise DatasetError("There are no calibration samples.", "Load some with the model.")
            training = self.calibration
        else:
            training = load_dataset(source, "training")
        training.check_fits(model)
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
        self.trained, self.epochs, self._asked, self._drawn, self._stream = None, (), (), None, None
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
    best = next((epoch for epoch in trained.epochs if epoch.number == trained.best), None)
    ended = {"finished": "all epochs done", "early": "no better score for long enough", "cancelled": "cancelled"}
    size = f", {format_size(trained.model.size_bytes / 1e6)}"
    if teacher is not None:
        size += f" of {format_size(teacher.size_bytes / 1e6)}"
    facts = {
        "Weights": f"{format_count(trained.parameters)} of {format_count(trained.teacher_parameters)}: "
        f"{share:.1f}× smaller{size}",
        "Validation": f"teacher {100 * trained.teacher_score:.1f} %",
        "Training": f"{len(trained.epochs)} epochs in {sum(epoch.seconds for epoch in trained.epochs):.0f} s; "
        f"{ended[trained.ended]}",
    }
    if best is not None:
        points = 100 * (best.score - trained.teacher_score)
        facts["Validation"] = (
            f"{100 * best.score:.1f} % at epoch {best.number}; teacher {100 * trained.teacher_score:.1f} % "
            f"({points:+.1f} points)".replace("-", "−")
        )
    return facts


def _epoch_words(epoch: Epoch) -> str:
    return f"epoch {epoch.number}, {100 * epoch.score:.1f} %"
