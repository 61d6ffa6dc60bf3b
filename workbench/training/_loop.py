"""The training loop, in a worker's own process: epochs, validation, and a checkpoint after each epoch.

Each epoch draws from a random state of its own, so that a resumed run goes on exactly as an uncut one would.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.backends._host import physical_cores
from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.training._checkpoint import Checkpoint
from workbench.training._features import feature_loss, make_projections, read_pairs
from workbench.training._losses import are_probabilities
from workbench.training._samples import Samples
from workbench.training._students import StudentSource, check_shapes, write_checked
from workbench.training._teacher import Teacher, in_chunks
from workbench.training.options import Ended, Epoch, TrainingOptions

if TYPE_CHECKING:
    import torch

_WARM_UP = 0.1  # share of the steps in which the learning rate rises
_DECAY = 0.01  # AdamW's own default, of weights but not of biases and scales
_LONGEST = 5.0  # norm of a gradient: one odd batch must not undo an epoch
_ROWS = 4  # samples to try a student with


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and where it stands on disk.

    Attributes:
        teacher: The model to learn from.
        student: Where the student comes from.
        training: Samples.
        options: How it learns.
        folder: Of the checkpoint.
    """

    teacher: Model
    student: StudentSource
    training: Dataset
    options: TrainingOptions
    folder: Path


@dataclass(frozen=True)
class Record:
    """How a run went.

    Attributes:
        epochs: All of them.
        best: Number of the one that was kept.
        ended: Why it ended.
        teacher_score: Of the teacher on the validation samples.
    """

    epochs: tuple[Epoch, ...]
    best: int
    ended: Ended
    teacher_score: float


def train(channel: Connection, job: Job, target: Path) -> None:
    """Trains to the end, from the checkpoint if there is one; writes the best student to `target`.

    Sends each finished epoch as an event, earlier ones too, and in the end a Record.
    """

    def progress(share: float, text: str) -> None:
        channel.send(("progress", (share, text)))

    progress(0.0, "starting PyTorch")
    run = _Training(job, progress)
    for epoch in run.epochs:
        channel.send(("event", epoch))
    while not run.ended:
        channel.send(("event", run.next_epoch()))
    channel.send(("result", run.finish(target)))


def write_best(job: Job, target: Path, progress: Progress) -> Record:
    """Writes the best student of an unfinished run."""
    progress(0.0, "reading the checkpoint")
    return _Training(job, progress).finish(target)


class _Training:
    """A student that learns, epoch by epoch."""

    def __init__(self, job: Job, progress: Progress) -> None:
        import torch

        options = job.options
        self._job, self._options, self._progress = job, options, progress
        threads = options.threads or physical_cores()
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        self._pairs = read_pairs(options.features) if options.feature_weight else []
        teacher = Teacher(job.teacher, [wanted for wanted, _ in self._pairs], threads)
        self._seed(0)
        self._student = job.student.open(job.teacher, job.training.take(_ROWS), job.training)
        self._batch = self._student.fixed_batch or options.batch
        self._samples = Samples(job.training, teacher, options, self._batch, bool(self._pairs), progress)
        self._task = self._samples.task
        projections = self._try_student(teacher)
        self._all = torch.nn.ModuleDict({"student": self._student.module, "projections": projections})
        trained = [weight for weight in self._all.parameters() if weight.requires_grad]
        groups = [[w for w in trained if w.ndim > 1], [w for w in trained if w.ndim < 2]]
        self._optimizer = torch.optim.AdamW(
            [{"params": group, "weight_decay": decay} for group, decay in zip(groups, (_DECAY, 0.0), strict=True)]
        )
        self._checkpoint = Checkpoint(job.folder, self._all, self._optimizer)
        self.epochs, self._best = self._checkpoint.load()

    @property
    def ended(self) -> Ended | None:
        """Why it is over; None if it is not."""
        if len(self.epochs) >= self._options.epochs:
            return "finished"
        top = max((epoch.score for epoch in self.epochs), default=0.0)
        first = next((epoch.number for epoch in self.epochs if epoch.score == top), 0)
        waited = len(self.epochs) - first
        return "early" if self._options.patience and waited >= self._options.patience else None

    def _try_student(self, teacher: Teacher) -> torch.nn.ModuleDict:
        """Compares the student with the teacher on a few samples; makes projections of features that differ."""
        import torch

        feed = self._samples.feed(self._samples.learned[: self._student.fixed_batch or _ROWS])
        self._student.module.eval()
        with torch.no_grad():
            mine = self._student.answer(feed, [name for _, name in self._pairs])
        theirs = teacher.answer({name: value.numpy() for name, value in feed.items()})
        if missing := [name for name in teacher.outputs if name not in mine]:
            raise TransformError(
                f"The student has no output {', '.join(map(repr, missing))}, which the teacher has.",
                "Give a student with the teacher's outputs.",
            )
        shapes = [tuple(mine[name].shape) for name in teacher.outputs]
        check_shapes(shapes, {name: theirs[name] for name in teacher.outputs})
        first = mine[self._task.outputs[0]]
        if self._task.kind == "classification" and are_probabilities(first) != self._task.probabilities:
            kinds = ("probabilities", "scores before softmax")
            given, made = kinds if self._task.probabilities else kinds[::-1]
            raise TransformError(
                f"The teacher gives {given} and the student {made}.", "Let both end alike: with softmax or without."
            )
        return make_projections(self._pairs, mine, theirs)

    # --- learning ---

    def next_epoch(self) -> Epoch:
        """One pass over the samples, with its score and its checkpoint."""
        import torch

        start, number, learned = time.perf_counter(), len(self.epochs) + 1, self._samples.learned
        self._seed(number)
        order = torch.randperm(len(learned)).numpy()
        steps = len(order) // self._batch
        sums = np.zeros(4)
        self._all.train()
        for step in range(steps):
            self._report(number, step, steps)
            self._set_rate(((number - 1) * steps + step) / (self._options.epochs * steps))
            parts = self._step(learned[order[step * self._batch : (step + 1) * self._batch]])
            if not math.isfinite(parts[0]):
                raise self._diverged(number)
            sums += parts
        total, follow, label, feature = (sums / steps).tolist()
        score = self._score()
        epoch = Epoch(
            number=number,
            loss=total,
            teacher_loss=follow,
            label_loss=label if self._task.labelled else None,
            feature_loss=feature if self._pairs else None,
            score=score,
            seconds=time.perf_counter() - start,
            best=score >= max((earlier.score for earlier in self.epochs), default=0.0),
        )
        self.epochs.append(epoch)
        if epoch.best:
            self._best = {key: value.clone() for key, value in self._all.state_dict().items()}
        self._checkpoint.save(self.epochs, self._best)
        self._progress(number / self._options.epochs, f"{self._place(number)}: {self._measure(epoch)}")
        return epoch

    def _step(self, rows: Any) -> tuple[float, float, float, float]:
        """One step; the whole loss and its parts: teacher, labels, features."""
        import torch

        feed, teacher, labels = self._samples.batch(rows)
        student = self._student.answer(feed, [name for _, name in self._pairs])
        follow, label = self._task.loss(student, teacher, labels)
        loss, feature = self._task.total(follow, label), torch.zeros(())
        if self._pairs:
            feature = feature_loss(self._pairs, student, teacher, self._all["projections"])
            loss = loss + self._options.feature_weight * feature
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._all.parameters(), _LONGEST)
        self._optimizer.step()
        return loss.item(), follow.item(), 0.0 if label is None else label.item(), feature.item()

    def _set_rate(self, share: float) -> None:
        """Linear warm-up, then half a cosine down to 0 (Loshchilov and Hutter, 2017)."""
        if share < _WARM_UP:
            factor = max(share / _WARM_UP, 0.01)
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP)))
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.learning_rate * factor

    def _score(self) -> float:
        import torch

        self._all.eval()
        first = self._task.outputs[0]

        def answer(part: Mapping[str, Any]) -> dict[str, torch.Tensor]:
            return {first: self._student.answer(part)[first]}

        with torch.no_grad():
            feed = self._samples.feed(self._samples.held)
            return self._samples.score(in_chunks(feed, self._student.fixed_batch, answer, torch.cat)[first])

    def _seed(self, epoch: int) -> None:
        import torch

        seed = (self._options.seed * 1_000_003 + epoch) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def _diverged(self, number: int) -> TransformError:
        rate = self._options.learning_rate
        kept = "The best epoch before it is kept. " if self.epochs else ""
        return TransformError(
            f"The loss became NaN or infinite in epoch {number} at a learning rate of {rate:g}.",
            f"{kept}Use a lower one, for instance {rate / 10:.1g}, and look at the augmentation if there is one.",
        )

    # --- telling ---

    def _report(self, number: int, step: int, steps: int) -> None:
        share = (number - 1 + step / steps) / self._options.epochs
        text = f"{self._place(number)}: step {step + 1}/{steps}"
        self._progress(share, f"{text}, {self._measure(self.epochs[-1])} before" if self.epochs else text)

    def _place(self, number: int) -> str:
        return f"epoch {number}/{self._options.epochs}"

    def _measure(self, epoch: Epoch) -> str:
        if self._task.kind == "regression":
            return f"R² {epoch.score:.3f}"
        return f"{'accuracy' if self._task.labelled else 'agreement'} {100 * epoch.score:.1f} %"

    def finish(self, target: Path) -> Record:
        """Writes the student of the best epoch."""
        if not self.epochs:
            raise TransformError("No epoch was finished, so there is no student.", "Train it first.")
        self._progress(0.99, "writing the student")
        self._all.load_state_dict(self._best)
        write_checked(self._student, self._job.teacher, self._job.training.take(_ROWS), target)
        best = max(epoch.number for epoch in self.epochs if epoch.best)
        return Record(tuple(self.epochs), best, self.ended or "cancelled", self._samples.teacher_score)
