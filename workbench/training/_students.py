"""Students: an ONNX graph that goes on learning, or a torch module, and how either becomes an ONNX file."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.graph_module import make_graph_module
from workbench.jobs import silent
from workbench.model import Model, TensorSpec, read_model
from workbench.model_file import read_whole
from workbench.training._teacher import Teacher
from workbench.transforms._onnx import write_whole

if TYPE_CHECKING:
    import onnx
    import torch
    from numpy.typing import NDArray

Feed = Mapping[str, Any]  # tensors by name
_TOLERANCE = 1e-3  # between PyTorch and ONNX Runtime, as a share of the output's range
_OPSET = 18


class Student(Protocol):
    """What is trained.

    Attributes:
        module: Holds the weights.
        fixed_batch: The only number of samples that it takes, if so.
    """

    module: torch.nn.Module
    fixed_batch: int | None

    def answer(self, feed: Feed, wanted: Collection[str] = ()) -> dict[str, torch.Tensor]:
        """Its outputs under the teacher's names, and the features named in `wanted` under theirs."""

    def write(self, target: Path) -> None:
        """Writes it as ONNX, as it is now."""


class StudentSource(Protocol):
    """Where a student comes from; travels to the worker."""

    def open(self, teacher: Model, example: Dataset, training: Dataset) -> Student:
        """Makes the student ready to learn; the random state decides its initial weights."""


@dataclass(frozen=True)
class GraphSource:
    """An ONNX model whose weights are where training starts."""

    model: Model

    def open(self, teacher: Model, example: Dataset, training: Dataset) -> Student:
        """See `StudentSource`."""
        return _GraphStudent(self.model, example)


@dataclass(frozen=True)
class FactorySource:
    """A function of the user's that builds a torch module."""

    factory: str

    def open(self, teacher: Model, example: Dataset, training: Dataset) -> Student:
        """See `StudentSource`."""
        from workbench.torch_files import call_factory

        return TorchStudent(call_factory(self.factory, ""), teacher, example, self.factory)


class _GraphStudent:
    def __init__(self, model: Model, example: Dataset) -> None:
        import torch

        self._model = model
        self.module = make_graph_module(read_whole(model.path), model.name)
        self.fixed_batch = model.fixed_batch
        rows = {name: _rows(array, self.fixed_batch) for name, array in example.inputs.items()}
        with torch.no_grad():
            mine = self.module.eval()({name: torch.from_numpy(array) for name, array in rows.items()})
        theirs = Teacher(model, (), 1).answer(rows)
        if fault := difference({name: mine[name].numpy() for name in theirs}, theirs):
            raise TransformError(
                f"{model.name} gives other answers in training than in ONNX Runtime: {fault}.",
                "Give a torch module as the student instead, and please report the model's graph.",
            )

    def answer(self, feed: Feed, wanted: Collection[str] = ()) -> dict[str, torch.Tensor]:
        """See `Student`."""
        try:
            answers: dict[str, torch.Tensor] = self.module(feed, wanted)
            return answers
        except KeyError as error:
            raise TransformError(
                f"The student {self._model.name} has no tensor {error} to match.",
                "The graph panel shows the names of a node's outputs.",
            ) from None

    def write(self, target: Path) -> None:
        """See `Student`."""
        proto = read_whole(self._model.path)
        self.module.write_weights(proto)
        write_whole(proto, target)


class TorchStudent:
    """A torch module that takes the teacher's inputs, by name or in their order, and gives its outputs in their order.

    Attributes:
        inputs: Names of its inputs in its own order.
        example: A few samples in that order.

    Raises:
        TransformError: It gives something else.
        DatasetError: It does not take the samples.
    """

    fixed_batch: int | None = None

    def __init__(self, module: torch.nn.Module, teacher: Model, example: Dataset, title: str) -> None:
        from workbench.importers.pytorch.export import flatten

        self._inside, self._teacher, self._samples, self._title = module, teacher, example, title
        self._order = [spec.name for spec in teacher.inputs]
        call = self._call()
        self.inputs, self.example = call.names, call.tensors
        self.module = flatten(module, call)
        self._outputs = [spec.name for spec in teacher.outputs]
        self._check()

    def answer(self, feed: Feed, wanted: Collection[str] = ()) -> dict[str, torch.Tensor]:
        """See `Student`."""
        found: dict[str, Any] = {}
        hooks = [self._part(name).register_forward_hook(_keeper(found, name)) for name in wanted]
        try:
            answers = self.module(*(feed[name] for name in self.inputs))
        finally:
            for hook in hooks:
                hook.remove()
        return {**dict(zip(self._outputs, answers, strict=False)), **found}

    def write(self, target: Path) -> None:
        """See `Student`."""
        notes = write_module(copy.deepcopy(self._inside).eval(), self._ordered(), target, self._title)
        proto = read_whole(target)
        _rename_outputs(proto, self._outputs)
        write_whole(proto, target)
        made = read_model(target)
        if self._teacher.fixed_batch is None and made.fixed_batch is not None:
            raise TransformError(
                f"{self._title} takes a batch of {made.fixed_batch} only when exported: {' '.join(notes)}",
                "Write its forward so that it takes any number of samples.",
            )

    def _call(self) -> Any:
        from workbench.importers.pytorch.inputs import make_call

        return make_call(self._inside.forward, (), self._ordered(), True, self._title)

    def _ordered(self) -> Dataset:
        return Dataset({name: self._samples.inputs[name] for name in self._order}, name=self._samples.name)

    def _part(self, name: str) -> Any:
        try:
            return self._inside.get_submodule(name)
        except AttributeError:
            known = ", ".join(key for key, _ in self._inside.named_modules() if key)
            raise TransformError(
                f"The student {self._title} has no submodule '{name}' to match.", f"Known: {known[:500]}."
            ) from None

    def _check(self) -> None:
        import torch

        feed = {name: torch.from_numpy(np.array(array)) for name, array in self._samples.inputs.items()}
        try:
            with torch.no_grad():
                answers = self.module.eval()(*(feed[name] for name in self.inputs))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feed.items())
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise TransformError(
                f"The student {self._title} does not run on {shapes}: {reason}.",
                "Build a module that takes what the teacher takes.",
            ) from None
        got = [tuple(answer.shape) for answer in answers]
        check_shapes(got, Teacher(self._teacher, (), 1).answer(dict(self._samples.inputs)))


def write_module(module: torch.nn.Module, example: Dataset, target: Path, title: str) -> list[str]:
    """Writes a module as ONNX with free batch, as the importer of PyTorch does.

    Args:
        module: In evaluation mode.
        example: Samples, named like the parameters of forward or in their order.
        target: The ONNX file.
        title: The module, for messages.

    Returns:
        What was changed or assumed on the way, in sentences.

    Raises:
        ConversionError: It cannot become ONNX.
        TransformError: It computes something else there.
    """
    from workbench.importers.pytorch.export import ModuleSource
    from workbench.importers.pytorch.inputs import make_call

    source = ModuleSource(module, make_call(module.forward, (), example, True, title), _OPSET, title)
    source.write_onnx(target, silent)
    made = read_model(target)
    rows = {name: _rows(array, made.fixed_batch) for name, array in example.inputs.items()}
    names = [spec.name for spec in made.outputs]
    if fault := difference(dict(zip(names, source.infer(rows), strict=True)), Teacher(made, (), 1).answer(rows)):
        raise TransformError(
            f"{title} written as ONNX answers otherwise than in PyTorch: {fault}.",
            "Convert the module with load_model to see which layer differs.",
        )
    return source.notes


def check_shapes(got: Sequence[tuple[int, ...]], wanted: Mapping[str, NDArray[Any]]) -> None:
    """Compares a student's outputs with the teacher's.

    Raises:
        TransformError: There are other ones, or one has another shape.
    """
    shapes = [array.shape for array in wanted.values()]
    if got != shapes:
        gives, takes = (", ".join("×".join(map(str, shape)) for shape in found) for found in (got, shapes))
        raise TransformError(
            f"The student gives {gives or 'nothing'} where the teacher gives {takes}.",
            "Give the student the teacher's outputs, in their order.",
        )


def write_checked(student: Student, teacher: Model, example: Dataset, target: Path) -> Model:
    """Writes a student as ONNX, and compares the file with the teacher's interface and the student's answers.

    Raises:
        TransformError: They differ.
    """
    import torch

    student.module.eval()
    student.write(target)
    made = read_model(target)
    for kind in ("inputs", "outputs"):
        old, new = ([_interface(spec) for spec in getattr(model, kind)] for model in (teacher, made))
        if old != new:
            raise TransformError(
                f"The student's {kind} are {', '.join(map(str, getattr(made, kind)))} where the teacher has "
                f"{', '.join(map(str, getattr(teacher, kind)))}.",
                "Give a student that takes and gives what the teacher does.",
            )
    rows = {name: _rows(array, student.fixed_batch) for name, array in example.inputs.items()}
    with torch.no_grad():
        mine = student.answer({name: torch.from_numpy(array) for name, array in rows.items()})
    theirs = Teacher(made, (), 1).answer(rows)
    if fault := difference({name: mine[name].numpy() for name in theirs}, theirs):
        raise TransformError(
            f"The student written as ONNX answers otherwise than in training: {fault}.",
            "Please report the student's layers; convert the module with load_model to see where they differ.",
        )
    return made


def difference(mine: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> str:
    """Says which output differs by more than rounding; empty if none does."""
    for name, wanted in theirs.items():
        if mine[name].shape != wanted.shape:
            return f"'{name}' has shape {list(mine[name].shape)} instead of {list(wanted.shape)}"
        error = float(np.abs(mine[name].astype(np.float64) - wanted).max(initial=0))
        if not error <= _TOLERANCE * max(float(np.abs(wanted).max(initial=0)), 1e-3):
            return f"'{name}' differs by {error:.2g}"
    return ""


def _interface(spec: TensorSpec) -> tuple[str, str]:
    return spec.name, spec.dtype


def _rows(array: NDArray[Any], fixed: int | None) -> NDArray[Any]:
    return np.resize(array, (fixed, *array.shape[1:])) if fixed else np.array(array)


def _keeper(found: dict[str, Any], name: str) -> Any:
    def keep(module: Any, inputs: Any, output: Any) -> None:
        found[name] = output

    return keep


def _rename_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    """Gives the outputs new names; inner tensors that have one of them make way."""
    renamed = {value.name: name for value, name in zip(proto.graph.output, names, strict=True)}
    known = {name for node in proto.graph.node for name in node.output} | {t.name for t in proto.graph.initializer}
    for name in set(names) & known - set(renamed):
        renamed[name] = f"{name}_inner"
    for node in proto.graph.node:
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                places[place] = renamed.get(name, name)
    named: list[Any] = [*proto.graph.output, *proto.graph.initializer, *proto.graph.value_info]
    for value in named:
        value.name = renamed.get(value.name, value.name)
