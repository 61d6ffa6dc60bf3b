"""Prunes a torch module's channels where it can still be trained, then lets it learn from the whole module."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from workbench import jobs
from workbench.dataset import Dataset
from workbench.errors import MissingDependencyError, ModelError, OptionsError
from workbench.graph import summarize_graph
from workbench.importers._convert import hash_path
from workbench.jobs import Progress, part_of, silent
from workbench.model import Model, Step, check_file, read_model
from workbench.options import make_options, option, to_builtins
from workbench.training._students import Student, TorchStudent, write_module
from workbench.training.distillation import Run, require_torch
from workbench.training.options import Epoch, Trained, TrainingOptions
from workbench.workspace import Workspace

if TYPE_CHECKING:
    import torch

_FILES = (".pt", ".pth", ".pt2", ".safetensors")
_ROWS = 4


@dataclass(frozen=True)
class PruneModuleOptions:
    """What is taken out of the module, and how it is built."""

    share: Annotated[float, option("Channels to take away.", minimum=1, maximum=95, unit="%")] = 30.0
    align: Annotated[
        int,
        option("Numbers of channels become multiples of this, which kernels are fast with.", minimum=1, maximum=256),
    ] = 16
    importance: Annotated[
        Literal["magnitude", "taylor"],
        option("Which channels matter: those with large weights, or, by labels, those with large gradients."),
    ] = "magnitude"
    keep: Annotated[
        tuple[str, ...],
        option("Submodules that keep all channels that they make.", example="layer1.0.conv2", advanced=True),
    ] = ()
    factory: Annotated[
        str,
        option(
            "Function that builds the module of a file of weights: package.module:function or file.py:function.",
            example="nets.py:build",
        ),
    ] = ""
    arguments: Annotated[str, option("Keyword arguments of the factory as JSON.", example='{"classes": 10}')] = ""


@dataclass(frozen=True)
class ModulePruned:
    """A pruned and trained module beside the whole one, both as ONNX.

    Attributes:
        trained: The pruned module and how it learned.
        original: The whole module, which was its teacher.
        macs: Multiply-accumulates of one sample before.
        macs_after: The same after.
    """

    trained: Trained
    original: Model
    macs: int
    macs_after: int

    @property
    def model(self) -> Model:
        """The pruned module as ONNX."""
        return self.trained.model


def prune_module(
    source: str | Path,
    training: Dataset,
    options: Mapping[str, Any] | PruneModuleOptions | None = None,
    *,
    training_options: Mapping[str, Any] | TrainingOptions | None = None,
    trust: bool = False,
    name: str = "",
    workspace: Workspace | None = None,
    watch: Callable[[Epoch], None] | None = None,
    progress: Progress = silent,
) -> ModulePruned:
    """Prunes a module of your own with torch-pruning and trains it with the whole module as its teacher.

    A cancelled run goes on from its last epoch when called again.

    Args:
        source: A file of weights (with `factory`), a file that holds the whole module (with `trust`), or the text
            that names a function which returns the trained module (`nets.py:build`).
        training: Samples, named like the parameters of forward or in their order; with labels where there are any.
        options: Fields of `PruneModuleOptions`.
        training_options: Fields of `TrainingOptions`.
        trust: Whether the file may run code of its own; only for files of your own.
        name: Of the result; made from the source's if empty.
        workspace: Where checkpoints and the result are kept.
        watch: Called with each epoch, those of earlier runs first.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        ModelError: The file cannot be used.
        TransformError: The module cannot be pruned or trained.
        DatasetError: The samples or labels do not fit, or are too few.
        OptionsError: An option, or the function that one names, cannot be used.
        MissingDependencyError: PyTorch or torch-pruning is not installed.
    """
    workspace = workspace or Workspace()
    checked = make_options(PruneModuleOptions, options, "prune_module")
    require_torch()
    if importlib.util.find_spec("torch_pruning") is None:
        raise MissingDependencyError(
            "Pruning a module needs torch-pruning, which this environment lacks.",
            "Install it: pip install 'deployment-workbench[torch]'.",
        )
    pruned = PrunedSource(str(source), checked, trust)
    original = _export(pruned, training, workspace, part_of(progress, 0.0, 0.1))
    step = Step("prune_module", to_builtins(checked))
    key = {"pruned": to_builtins(checked), "original": original.sha256}
    title = name or f"{original.name} pruned"
    run = Run(original, pruned, key, training, training_options, title, workspace, (step,))
    trained = run.train(watch, part_of(progress, 0.1, 1.0))
    before, after = (summarize_graph(model).macs for model in (original, trained.model))
    return ModulePruned(trained, original, before, after)


@dataclass(frozen=True)
class PrunedSource:
    """A module that loses channels before it learns; see `StudentSource`.

    Attributes:
        source: A file, or the text that names a function.
        options: What it loses.
        trust: Whether the file may run code of its own.
    """

    source: str
    options: PruneModuleOptions
    trust: bool

    @property
    def title(self) -> str:
        """A name for it."""
        return Path(self.source).stem if self._is_file else self.source.rpartition(":")[2]

    @property
    def _is_file(self) -> bool:
        return Path(self.source).suffix.lower() in _FILES

    def load(self) -> torch.nn.Module:
        """The whole module."""
        from workbench.torch_files import call_factory, kind_of, load_weights, read_content

        if not self._is_file:
            return call_factory(self.source, self.options.arguments)
        import torch

        path = Path(self.source).expanduser()
        check_file(path)
        kind = kind_of(path)
        remedy = "Save model.state_dict() instead, and name the function that builds the module as `factory`."
        if kind not in ("weights", "safetensors"):
            raise ModelError(f"{path} holds a program, whose layers cannot be cut.", remedy)
        content = read_content(path, kind, self.trust)
        if isinstance(content, torch.nn.Module):
            return content
        if not self.options.factory:
            raise ModelError(
                f"{path} holds weights but not the module that they belong to.",
                "Name the function that builds it as `factory`: package.module:function or folder/file.py:function.",
            )
        module = call_factory(self.options.factory, self.options.arguments)
        load_weights(module, path, content)
        return module

    def open(self, teacher: Model, example: Dataset, training: Dataset) -> Student:
        """The module without what it loses, ready to learn."""
        from workbench.training._cutting import cut_channels

        module = self.load()
        parts = dict(module.named_modules())
        if unknown := [name for name in self.options.keep if name not in parts]:
            raise OptionsError(
                f"{self.title} has no submodule {', '.join(map(repr, unknown))} to keep.",
                f"Known: {', '.join(filter(None, parts))[:500]}.",
            )
        whole = TorchStudent(module, teacher, example, self.title)
        cut_channels(
            whole.module,
            whole.example,
            share=self.options.share / 100,
            align=self.options.align,
            keep=[inner for name in self.options.keep for inner in parts[name].modules()],
            training=training if self.options.importance == "taylor" else None,
            order=whole.inputs,
            title=self.title,
        )
        return TorchStudent(module, teacher, example, self.title)


def _export(source: PrunedSource, training: Dataset, workspace: Workspace, progress: Progress) -> Model:
    """The whole module as ONNX, known by its content: what its code reads has no hash."""
    with tempfile.TemporaryDirectory(dir=workspace.root / "tmp", prefix=f"{os.getpid()}-") as scratch:
        made = Path(scratch)
        path = made / f"{source.title}.onnx"
        jobs.run(_write_original, source, training.take(_ROWS), path, progress=progress)

        def fill(folder: Path) -> None:
            for part in made.iterdir():
                shutil.copyfile(part, folder / part.name)

        folder = workspace.artifact("imports", {"content": hash_path(made)}, fill)
    [path] = folder.glob("*.onnx")
    return read_model(path, name=source.title, source="pytorch")


def _write_original(source: PrunedSource, example: Dataset, target: Path, progress: Progress) -> None:
    progress(0.1, "exporting the whole module")
    write_module(source.load().eval(), example, target, source.title)
