"""PyTorch: modules, weights with the function that builds their module, .pt2 programs and TorchScript."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from workbench.dataset import Dataset
from workbench.errors import ConversionError, ModelError
from workbench.importers._source import ConversionOptions, Source
from workbench.importers.pytorch.export import ModuleSource
from workbench.importers.pytorch.inputs import EXAMPLE, make_call
from workbench.options import option
from workbench.torch_files import (
    call_factory,
    describe_weights,
    kind_of,
    load_weights,
    read_content,
    require_trust,
)

if TYPE_CHECKING:
    import torch

SUFFIXES = (".pt", ".pth", ".pt2", ".safetensors")
REQUIRES = {"torch": "torch", "onnxscript": "torch", "safetensors": "torch"}
TYPES = ("torch.nn.modules.module.Module",)


@dataclass(frozen=True)
class Options(ConversionOptions):
    """How to build the module and what it takes."""

    factory: Annotated[
        str,
        option(
            "Function that builds the module of a file of weights: package.module:function or file.py:function.",
            example="nets.py:build",
        ),
    ] = ""
    arguments: Annotated[str, option("Keyword arguments of the factory as JSON.", example='{"classes": 10}')] = ""
    inputs: Annotated[
        tuple[str, ...], option("Inputs where no samples are given; named axes are free.", example=EXAMPLE)
    ] = ()
    dynamic_batch: Annotated[bool, option("Free the first axis, so that the model takes any number of samples.")] = True


def reads_code(options: Options) -> bool:
    """Whether the result depends on the user's code."""
    return bool(options.factory)


def open_source(path: Path, options: Options, samples: Dataset | None, trust: bool) -> Source:
    """Opens a file; what runs code that came with it is refused without trust.

    Raises:
        ModelError: It is damaged, refused, or does not fit the module that the factory builds.
        OptionsError: The factory or the description of the inputs cannot be used.
    """
    kind = kind_of(path)
    require_trust(path, kind, trust)
    if kind == "program":
        return _open_program(path, options, samples)
    if kind == "torchscript":
        return _open_script(path, options, samples)
    content = read_content(path, kind, trust)
    notes: list[str] = []
    if not _is_module(content):
        if not options.factory:
            raise ModelError(
                f"{path} holds weights ({describe_weights(path, content)}) but not the module that they belong to.",
                'Name the function that builds it: options={"factory": "package.module:function"}, '
                'or "folder/file.py:function".',
            )
        module = call_factory(options.factory, options.arguments)
        notes = load_weights(module, path, content)
    else:
        module = content
    return _source(module, options, samples, path.name, notes)


def open_object(value: torch.nn.Module, options: Options, samples: Any) -> Source:
    """Opens a module from memory; a copy is worked on, the caller's stays as it is.

    Raises:
        ConversionError: It cannot be copied.
        DatasetError: The samples do not fit its forward.
    """
    for wrapper, inside in (("OptimizedModule", "_orig_mod"), ("DataParallel", "module")):
        if type(value).__name__.endswith(wrapper):
            value = getattr(value, inside)
    return _source(_copied(value), options, samples, type(value).__name__, [])


def _source(module: torch.nn.Module, options: Options, samples: Any, title: str, notes: list[str]) -> ModuleSource:
    import torch

    script = isinstance(module, torch.jit.ScriptModule)
    signature = _script_parameters(module) if script else module.forward
    call = make_call(signature, options.inputs, samples, options.dynamic_batch, title)
    halves = {t.dtype for t in (*module.parameters(), *module.buffers())} & {torch.float16, torch.bfloat16}
    if halves:
        module = module.float()
        kinds = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in halves))
        notes = [*notes, f"Weights were {kinds} and are float32 now; the float16 transform makes them small again."]
    source = ModuleSource(module.eval(), call, options.opset, title, script)
    source.notes += notes
    return source


def _open_program(path: Path, options: Options, samples: Dataset | None) -> Source:
    import torch

    try:
        program: Any = torch.export.load(path)
    except Exception as error:  # bytes that are not what they should be raise anything
        raise _unreadable(path, "a .pt2 program", error) from None
    module = program.module()
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    shapes = [value.shape for value in values if isinstance(value, torch.Tensor)]
    batch = next((shape[0] for shape in shapes if len(shape)), 0)
    given: Any = samples
    if samples is None and not options.inputs and program.example_inputs is not None:
        args, kwargs = program.example_inputs
        given = inspect.signature(module.forward).bind(*args, **kwargs).args
    rows = batch if isinstance(batch, int) else 0
    call = make_call(module.forward, options.inputs, given, not rows, path.name, rows)
    call.free = [
        {
            axis: names.get(axis, str(size) if axis else "batch")
            for axis, size in enumerate(shape)
            if isinstance(size, torch.SymInt)
        }
        for shape, names in zip(shapes, call.free, strict=True)
    ]
    if samples is None:  # its own examples may be any values
        call.samples = None
    source = ModuleSource(module, call, options.opset, path.name)
    if rows and options.dynamic_batch:
        source.notes.append(f"The file fixes the batch at {rows}; export it with dynamic_shapes to free it.")
    return source


def _open_script(path: Path, options: Options, samples: Dataset | None) -> Source:
    import torch

    try:
        module = torch.jit.load(path, map_location="cpu")
    except Exception as error:
        raise _unreadable(path, "a TorchScript archive", error) from None
    return _source(module, options, samples, path.name, [])


def _script_parameters(module: Any) -> Sequence[str]:
    return [argument.name for argument in module.forward.schema.arguments[1:] if not argument.has_default_value()]


def _unreadable(path: Path, what: str, error: Exception) -> ModelError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ModelError(
        f"{path} cannot be read as {what} ({lines[0].strip()[:200] if lines else type(error).__name__}).",
        "It is damaged or was saved by another version of PyTorch; save it again.",
    )


def _is_module(content: Any) -> bool:
    import torch

    return isinstance(content, torch.nn.Module)


def _copied(module: torch.nn.Module) -> torch.nn.Module:
    """A copy in main memory; tensors on a GPU are not doubled there."""
    import torch

    tensors = [
        value
        for part in module.modules()
        for values in (part._parameters, part._buffers, vars(part))
        for value in values.values()
        if isinstance(value, torch.Tensor)
    ]
    copies: dict[int, Any] = {}
    for tensor in tensors:
        if id(tensor) not in copies:
            plain = tensor.detach().to("cpu", copy=True)
            copies[id(tensor)] = (
                torch.nn.Parameter(plain, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else plain
            )
    try:
        return copy.deepcopy(module, copies).cpu()
    except Exception as error:
        raise ConversionError(
            f"{type(module).__name__} cannot be copied: {error}.",
            "Save model.state_dict() and load that with a factory that builds the module.",
        ) from None
