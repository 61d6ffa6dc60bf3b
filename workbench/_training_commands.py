"""Commands that train: distil a smaller student, prune a torch module and fine-tune it."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from workbench._flags import Model, Root, flags, show_progress
from workbench.errors import ModelError
from workbench.importers import load_dataset, load_model
from workbench.options import to_builtins
from workbench.report import columns
from workbench.saving import save_model
from workbench.training import Epoch, PruneModuleOptions, Trained, TrainingOptions
from workbench.training import distil as distil_student
from workbench.training import prune_module as prune_torch_module
from workbench.workspace import Workspace

TrainingFlags: Any = flags(TrainingOptions)
PruneModuleFlags: Any = flags(PruneModuleOptions)

Training = Annotated[
    str, tyro.conf.arg(help="Samples to learn from, never those that score: an .npz file, or sample:digits.")
]
Output = Annotated[Path, tyro.conf.arg(help="The .onnx file to write; nothing is overwritten.")]
StudentText = Annotated[
    str,
    tyro.conf.arg(
        help="An ONNX file to go on training, a function that builds a torch module (nets.py:build), or the share "
        "of the teacher's channels, e.g. 0.5."
    ),
]
ModuleText = Annotated[
    tyro.conf.Positional[str],
    tyro.conf.arg(help="A file of weights (with --factory), or a function that returns the trained module."),
]
Trust = Annotated[bool, tyro.conf.arg(help="Let the file run code of its own; only for files of your own.")]


def distil(
    teacher: Model,
    student: StudentText,
    data: Training,
    output: Output,
    options: Annotated[TrainingFlags, tyro.conf.OmitArgPrefixes] = TrainingFlags(),
    workspace: Root = None,
) -> None:
    """Train a smaller student to answer like a model. Called again after a cancel, it goes on where it stood."""
    _check_free(output)
    loaded = load_model(teacher, progress=show_progress())
    trained = distil_student(
        loaded,
        _read_student(student),
        load_dataset(data, "training"),
        to_builtins(options),
        name=output.stem,
        workspace=Workspace(workspace),
        watch=_print_epoch(),
        progress=show_progress(),
    )
    _finish(trained, loaded.size_bytes, output)


def prune_module(
    module: ModuleText,
    data: Training,
    output: Output,
    prune: Annotated[PruneModuleFlags, tyro.conf.OmitArgPrefixes] = PruneModuleFlags(),
    options: Annotated[TrainingFlags, tyro.conf.OmitArgPrefixes] = TrainingFlags(),
    trust: Trust = False,
    workspace: Root = None,
) -> None:
    """Prune the channels of a torch module of your own and train it, with the whole module as its teacher."""
    _check_free(output)
    pruned = prune_torch_module(
        module,
        load_dataset(data, "training"),
        to_builtins(prune),
        training_options=to_builtins(options),
        trust=trust,
        name=output.stem,
        workspace=Workspace(workspace),
        watch=_print_epoch(),
        progress=show_progress(),
    )
    _finish(pruned.trained, pruned.original.size_bytes, output)
    print(f"multiply-accumulates  {pruned.macs:,} → {pruned.macs_after:,}")


def _check_free(output: Path) -> None:
    """Says so before the training, not after it."""
    if output.exists():
        raise ModelError(f"{output} exists already, and nothing is overwritten.", "Choose another name or folder.")


def _read_student(text: str) -> Any:
    """A share, the name of a function, or a model."""
    try:
        return float(text)
    except ValueError:
        return text if ":" in text and not text.startswith("sample:") else load_model(text)


def _print_epoch() -> Callable[[Epoch], None]:
    """A line for each epoch."""

    def show(epoch: Epoch) -> None:
        mark = "  best" if epoch.best else ""
        print(f"epoch {epoch.number:>4}  loss {epoch.loss:.4f}  score {100 * epoch.score:.1f} %{mark}", flush=True)

    return show


def _finish(trained: Trained, before: int, output: Path) -> None:
    saved = save_model(trained.model, output)
    rows = [
        ("", "teacher", "student"),
        ("validation score", f"{100 * trained.teacher_score:.1f} %", f"{100 * _best(trained).score:.1f} %"),
        ("weights", f"{trained.teacher_parameters:,}", f"{trained.parameters:,}"),
        ("size", f"{before / 1e6:.3g} MB", f"{saved.size_bytes / 1e6:.3g} MB"),
    ]
    ended = "stopped early, " if trained.ended == "early" else ""
    print(f"\n{columns(rows, left=1)}\n{saved.path}: {ended}best epoch {trained.best} of {len(trained.epochs)}")


def _best(trained: Trained) -> Epoch:
    return next(epoch for epoch in trained.epochs if epoch.number == trained.best)
