"""Trains a student in a worker process, keeps what it learned in the workspace, and goes on where it stood."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from workbench import jobs
from workbench.dataset import Dataset
from workbench.errors import MissingDependencyError, OptionsError
from workbench.graph import summarize_graph
from workbench.jobs import Progress, part_of, silent
from workbench.model import Model, Step, read_model
from workbench.options import make_options, to_builtins
from workbench.training._checkpoint import CHECKPOINT
from workbench.training._features import read_pairs
from workbench.training._loop import Job, Record, train, write_best
from workbench.training._students import FactorySource, GraphSource, StudentSource
from workbench.training.options import Epoch, Trained, TrainingOptions
from workbench.transforms import transform
from workbench.workspace import Workspace, fingerprint, read_json, write_json

Watch = Callable[[Epoch], None]
_KIND, _RUNNING = "trained", "training"  # folders of the workspace: finished students, checkpoints
_RECORD = "trained.json"
_ALIGN = 8  # numbers of channels of a scaled student are multiples of this
_LAYOUT = 1  # goes up when the loop learns in another way
_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "torch-pruning")


def distil(
    teacher: Model,
    student: Model | str | float,
    training: Dataset,
    options: Mapping[str, Any] | TrainingOptions | None = None,
    *,
    name: str = "",
    workspace: Workspace | None = None,
    watch: Watch | None = None,
    progress: Progress = silent,
) -> Trained:
    """Trains a student to answer like the teacher; a cancelled run goes on from its last epoch when called again.

    The student keeps the teacher's inputs, outputs and free axes. Code that `student` or `augment` names runs in the
    worker; a change of its file makes another run of it, a change of what that file imports does not.

    Args:
        teacher: The model to learn from; it stays as it is.
        student: A smaller model: an ONNX model (its weights are where training starts: this is fine-tuning), the text
            that names a function which builds a `torch.nn.Module` (`nets.py:build`), or a number below 1: a copy of
            the teacher with that share of its channels.
        training: Samples, with labels where there are any; never those that score the result.
        options: Fields of `TrainingOptions`.
        name: The student's name; made from the teacher's if empty.
        workspace: Where checkpoints and the result are kept.
        watch: Called with each epoch, those of earlier runs first.
        progress: Called with the share done and a short text; may raise to cancel: the best epoch is kept, and
            `best_so_far` gives it.

    Raises:
        TransformError: The student cannot be trained or does not fit the teacher, or the loss became infinite.
        DatasetError: The samples or labels do not fit the teacher, or are too few.
        OptionsError: An option, or the function that one names, cannot be used.
        MissingDependencyError: PyTorch is not installed.
    """
    workspace = workspace or Workspace()
    scaled = isinstance(student, float | int)
    source, key = _student(teacher, student, training, workspace, part_of(progress, 0.0, 0.05) if scaled else progress)
    run = Run(teacher, source, key, training, options, name, workspace)
    return run.train(watch, part_of(progress, 0.05, 1.0) if scaled else progress)


def best_so_far(
    teacher: Model,
    student: Model | str | float,
    training: Dataset,
    options: Mapping[str, Any] | TrainingOptions | None = None,
    *,
    name: str = "",
    workspace: Workspace | None = None,
) -> Trained | None:
    """The best epoch of a run that was cancelled, by the same arguments; None if no epoch was finished."""
    workspace = workspace or Workspace()
    source, key = _student(teacher, student, training, workspace, silent)
    return Run(teacher, source, key, training, options, name, workspace).best_so_far()


class Run:
    """One student's training: what decides it, and what of it is on disk.

    Args:
        teacher: The model to learn from.
        source: Where the student comes from.
        key: What decides that source, as plain values.
        training: Samples.
        options: Fields of `TrainingOptions`.
        name: Of the student; made from the teacher's if empty.
        workspace: Where it is kept.
        history: Steps before this one.

    Raises:
        DatasetError: The samples do not fit the teacher.
        OptionsError: An option cannot be used.
        MissingDependencyError: PyTorch is not installed.
    """

    def __init__(
        self,
        teacher: Model,
        source: StudentSource,
        key: Mapping[str, Any],
        training: Dataset,
        options: Mapping[str, Any] | TrainingOptions | None,
        name: str,
        workspace: Workspace,
        history: tuple[Step, ...] | None = None,
    ) -> None:
        checked = make_options(TrainingOptions, options, "training")
        require_torch()
        training.check_fits(teacher)
        if checked.feature_weight:
            read_pairs(checked.features)
        self._teacher, self._workspace = teacher, workspace
        self._name = name or f"{teacher.name} student"
        step = Step("distil", to_builtins({"teacher": teacher.name, **to_builtins(checked)}))
        before = history if history is not None else (source.model.history if isinstance(source, GraphSource) else ())
        self._history = (*before, step)
        self._key = {
            "training": _LAYOUT,
            "teacher": teacher.sha256,
            "student": key,
            "samples": training.sha256,
            "options": to_builtins(checked),
            "augment": code_hash(checked.augment),
            "versions": _versions(),
        }
        folder = workspace.root / _RUNNING / fingerprint(self._key)
        self._job = Job(teacher, source, training, checked, folder)

    def train(self, watch: Watch | None, progress: Progress) -> Trained:
        """Trains to the end, or finds what an earlier run made."""
        told = 0

        def tell(epoch: Epoch) -> None:
            nonlocal told
            told += 1
            if watch is not None:
                watch(epoch)

        def make(folder: Path) -> None:
            with jobs.Worker(train, self._job, folder / "student.onnx") as worker:
                record: Record = worker.receive(progress, tell)
            write_json(folder / _RECORD, record)

        folder = self._workspace.artifact(_KIND, self._key, make)
        shutil.rmtree(self._job.folder, ignore_errors=True)
        trained = self._read(folder)
        if watch is not None and not told:
            for epoch in trained.epochs:
                watch(epoch)
        return trained

    def best_so_far(self) -> Trained | None:
        """What a cancelled run had learned."""
        checkpoint = self._job.folder / CHECKPOINT
        if not checkpoint.is_file():
            with contextlib.suppress(_NothingYet):
                return self._read(self._workspace.artifact(_KIND, self._key, _make_nothing))
            return None
        key = {**self._key, "checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest()}

        def make(folder: Path) -> None:
            write_json(folder / _RECORD, jobs.run(write_best, self._job, folder / "student.onnx", progress=silent))

        return self._read(self._workspace.artifact(_KIND, key, make))

    def _read(self, folder: Path) -> Trained:
        [path] = folder.glob("*.onnx")
        model = read_model(path, name=self._name, history=self._history, source=self._teacher.source)
        record = read_json(folder / _RECORD, Record)
        sizes = [summarize_graph(each).parameters for each in (model, self._teacher)]
        return Trained(model, record.epochs, record.best, record.ended, record.teacher_score, *sizes)


class _NothingYet(Exception):
    """No earlier run has finished this."""


def _make_nothing(folder: Path) -> None:
    raise _NothingYet


def _student(
    teacher: Model, student: Model | str | float, training: Dataset, workspace: Workspace, progress: Progress
) -> tuple[StudentSource, Mapping[str, Any]]:
    """Where a student comes from, and what decides it."""
    if isinstance(student, Model):
        return GraphSource(student), {"model": student.sha256}
    if isinstance(student, str):
        return FactorySource(student), {"factory": student, "code": code_hash(student)}
    if not 0 < student < 1:
        raise OptionsError(
            f"A student of {student:g} times the teacher's channels is no smaller model.",
            "Give a share above 0 and below 1, a model, or the text that names a function which builds a module.",
        )
    cut = {"share": 100 * (1 - student), "align": _ALIGN}
    scaled = transform(teacher, "prune_channels", cut, dataset=training, workspace=workspace, progress=progress)
    return GraphSource(scaled), {"model": scaled.sha256}


def code_hash(text: str) -> str:
    """Hash of the file in which a function is named, found without running anything; empty if there is none."""
    place = text.rpartition(":")[0]
    if not place:
        return ""
    if place.endswith(".py"):
        candidates = [Path(place).expanduser()]
    else:
        inner = Path(*place.split("."))
        roots = [Path(root or ".") for root in (*sys.path, ".")]
        candidates = [root / file for root in roots for file in (inner.with_suffix(".py"), inner / "__init__.py")]
    found = next((path for path in candidates if path.is_file()), None)
    return hashlib.sha256(found.read_bytes()).hexdigest() if found else ""


def require_torch() -> None:
    """Refuses to start what cannot work.

    Raises:
        MissingDependencyError: PyTorch is not installed.
    """
    missing = [name for name in ("torch", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"Training needs {' and '.join(missing)}, which this environment lacks.",
            "Install it: pip install 'deployment-workbench[torch]'.",
        )


def _versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
