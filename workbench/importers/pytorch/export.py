"""Runs a PyTorch module and writes it as ONNX."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.engine import Tensors
from workbench.errors import ConversionError
from workbench.importers._source import Source
from workbench.importers.pytorch.errors import chain, explain, is_final, place, sentence
from workbench.importers.pytorch.graph import INSIDE, clean_graph, name_ends
from workbench.importers.pytorch.inputs import Call, as_feed, label
from workbench.importers.pytorch.quiet import quiet
from workbench.jobs import Progress

if TYPE_CHECKING:
    import torch

_AXIS = re.compile(r"inputs'\]\[(\d+)\]\.(?:size\(\)|shape)\[(\d+)\]|flat_args_(\d+)_?'?\]?\.size\(\)\[(\d+)\]")
_LARGE = 1536 * 2**20  # bytes of weights that go beside the file; protobuf ends at 2 GiB


class ModuleSource(Source):
    """A module, in evaluation mode and in main memory, that is the workbench's own to run."""

    def __init__(self, module: torch.nn.Module, call: Call, opset: int, title: str, script: bool = False) -> None:
        import torch

        super().__init__(call.samples)
        self.framework = f"PyTorch {torch.__version__.partition('+')[0]}"
        self._flat = flatten(module, call)
        self._call, self._opset, self._title, self._script = call, opset, title, script
        self._traced = call.tensors
        self._program: Any = None
        self._inner: dict[str, str] = {}  # ONNX name → name in the program
        if call.samples is None:
            self.example = as_feed(call, call.tensors)

    def write_onnx(self, target: Path, progress: Progress) -> None:
        """Exports the module; see `Source`."""
        with quiet():
            progress(0.0, "running the module once")
            names = self._try()
            progress(0.1, "converting")
            if self._script:
                self._write_traced(target, names)
            else:
                self._write_exported(target, names)

    def infer(self, feed: Tensors) -> Sequence[NDArray[Any]]:
        """Runs the module; see `Source`."""
        with quiet():
            return [_array(value) for value in self._run(self._tensors(feed))]

    def value_names(self) -> Collection[str]:
        """Names of the inner values that the exported program knows."""
        return self._inner

    def values(self, feed: Tensors, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Runs the exported program and keeps the inner values asked for."""
        wanted = {self._inner[name]: name for name in names}
        with quiet():
            found = _run_program(self._program, self._tensors(feed), set(wanted))
        return {wanted[name]: _array(value) for name, value in found.items()}

    def _tensors(self, feed: Tensors) -> list[torch.Tensor]:
        import torch

        return [torch.from_numpy(np.array(feed[name])) for name in self._call.names]

    def _run(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        import torch

        # The fast path of TransformerEncoder puts zeros where the padding mask hides a position; no export does.
        fast = torch.backends.mha.get_fastpath_enabled()
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
                torch.seed()  # so that a module with random answers is found out
                return list(self._flat(*(tensor.clone() for tensor in tensors)))
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)

    def _try(self) -> list[str]:
        """Runs the module on the examples, and on a larger batch; returns names for its outputs."""
        try:
            self._run(self._call.tensors)
        except Exception as error:
            shapes = ", ".join(
                f"{name} {list(tensor.shape)}"
                for name, tensor in zip(self._call.names, self._call.tensors, strict=True)
            )
            raise ConversionError(
                f"{self._title} does not run on {shapes}: {sentence(error)}{place(error)}.",
                "Give samples, or `inputs`, of the types and sizes that it takes.",
                traceback.format_exc(),
            ) from None
        names = output_names(self._flat.paths, self._call.names)
        if not names:
            raise ConversionError(
                f"{self._title} returns no tensors.", "Return tensors, or tuples, lists or dictionaries of them."
            )
        if any(0 in free for free in self._call.free):
            try:
                larger = self._call.with_more_samples()
                self._run(larger)
                self._traced = larger  # another batch than the one to compare on, so that a frozen one shows
            except Exception as error:
                self._fix_batch(sentence(error))
        return names

    def _fix_batch(self, reason: str) -> None:
        call = self._call
        self._traced = call.tensors
        narrow = [t[:1] if 0 in free else t for t, free in zip(call.tensors, call.free, strict=True)]
        if call.any_count:
            with contextlib.suppress(Exception):
                self._run(narrow)
                call.tensors = self._traced = narrow
                self.example = as_feed(call, narrow) if call.samples is None else None
        size = next(t.shape[0] for t, free in zip(call.tensors, call.free, strict=True) if 0 in free)
        for free in call.free:
            free.pop(0, None)
        self.notes.append(f"The batch is fixed at {size}: the module does not take another one ({reason}).")

    # --- the exporter of torch.export programs ---

    def _write_exported(self, target: Path, names: Sequence[str]) -> None:
        import onnx_ir as ir

        made = self._export()
        self._program = made.exported_program
        inside = {node.name for node in self._program.graph.nodes}
        kept = [(value, value.name) for node in made.model.graph for value in node.outputs if value.name in inside]
        name_ends(made.model, self._call.names, names)
        clean_graph(made.model, target.stem)
        self._inner = {value.name: name for value, name in kept}
        opset = made.model.opset_imports.get("", 0)
        if opset != self._opset:
            self.notes.append(f"The opset is {opset}: PyTorch's exporter cannot write {self._opset} for this model.")
        weights = sum(value.const_value.nbytes for value in made.model.graph.initializers.values() if value.const_value)
        ir.save(made.model, target, external_data=f"{target.name}.data" if weights > _LARGE else None)

    def _export(self) -> Any:
        import torch

        call = self._call
        try:
            with torch.no_grad():
                return torch.onnx.export(
                    self._flat,
                    tuple(self._traced),
                    dynamo=True,
                    verbose=False,
                    opset_version=self._opset,
                    dynamic_shapes=(tuple(dict(free) for free in call.free),) if any(call.free) else None,
                )
        except Exception as error:
            fixed = self._fixed_axes(error)
            if fixed or (any(0 in free for free in call.free) and not is_final(error)):
                self._fix_batch("its code counts on its size" if fixed else sentence(error))
                return self._export()
            raise explain(error, self._title) from None

    def _fixed_axes(self, error: BaseException) -> bool:
        """Whether the module's code fixes the batch; refuses if it fixes an axis that the user named."""
        found = {(int(a or c), int(b or d)) for a, b, c, d in _AXIS.findall(chain(error))}
        call = self._call
        for number, axis in sorted(found):
            if axis and number < len(call.free) and axis in call.free[number]:
                size = call.tensors[number].shape[axis]
                raise ConversionError(
                    f"Axis '{call.free[number][axis]}' of '{call.names[number]}' cannot be free: "
                    f"the code of {self._title} counts on its size ({size} when it was tried).",
                    "Write the real size in its place in `inputs`, or change the module's code.",
                ) from None
        return any(number < len(call.free) and axis == 0 and 0 in call.free[number] for number, axis in found)

    # --- the exporter of TorchScript ---

    def _write_traced(self, target: Path, names: Sequence[str]) -> None:
        import torch

        args, _ = self._call.arguments(self._traced)
        try:
            torch.onnx.export(
                getattr(self._flat, INSIDE),  # tracing a wrapper around it fails
                args,
                str(target),
                dynamo=False,
                input_names=self._call.names,
                output_names=list(names),
                dynamic_axes={n: free for n, free in zip(self._call.names, self._call.free, strict=True) if free},
                opset_version=self._opset,
            )
        except Exception as error:
            raise explain(error, self._title) from None


def flatten(module: torch.nn.Module, call: Call) -> Any:
    """Wraps a module into one that takes and returns tensors only, each of them once."""
    import torch
    from torch.utils import _pytree

    class Flat(torch.nn.Module):  # type: ignore[misc]
        paths: tuple[Any, ...] = ()

        def __init__(self) -> None:
            super().__init__()
            setattr(self, INSIDE, module)

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            args, kwargs = call.arguments(inputs)
            result = getattr(self, INSIDE)(*args, **kwargs)
            found = [entry for entry in _pytree.tree_flatten_with_path(result)[0] if isinstance(entry[1], torch.Tensor)]
            self.paths = tuple(path for path, _ in found)
            seen = {id(tensor) for tensor in (*inputs, *module.parameters(), *module.buffers())}
            outputs = []
            for _, tensor in found:
                outputs.append(tensor.clone() if id(tensor) in seen else tensor)
                seen.add(id(tensor))
            return tuple(outputs)

    flat = Flat()
    flat.training = False  # not .eval(), which the module of a .pt2 program refuses
    return flat


def output_names(paths: Sequence[Any], inputs: Collection[str]) -> list[str]:
    """Names outputs by their places in what forward returns: keys as they are, `output`, `output_0`."""
    names: list[str] = []
    for path in paths:
        name = label(path)
        name = "_".join(filter(None, ("output", name))) if not name or name[0].isdigit() else name
        while name in inputs or name in names:
            name += "_out"
        names.append(name)
    return names


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    import torch

    tensor = tensor.detach().resolve_conj().resolve_neg()
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(force=True)
    return array


def _run_program(program: Any, tensors: Sequence[torch.Tensor], wanted: set[str]) -> dict[str, torch.Tensor]:
    """Runs an exported program node by node and keeps the tensors of the wanted nodes."""
    import torch

    found: dict[str, torch.Tensor] = {}

    class Recorder(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, node: torch.fx.Node) -> Any:
            value = super().run_node(node)
            if node.name in wanted and isinstance(value, torch.Tensor):
                found[node.name] = value.clone()
            return value

    with torch.no_grad():
        Recorder(program.module()).run(*tensors)
    return found
