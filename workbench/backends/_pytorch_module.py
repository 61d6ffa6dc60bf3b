"""The PyTorch module that an engine runs: its ONNX graph, or the user's own with its weights."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from workbench.engine import Engine
from workbench.errors import MissingDependencyError, ModelError, OptionsError, ProviderError
from workbench.graph_module import make_inference_module
from workbench.model_file import read_whole
from workbench.torch_files import call_factory, kind_of, load_weights, read_content, require_trust
from workbench.workspace import Workspace, fingerprint

if TYPE_CHECKING:
    import torch

Call: TypeAlias = Callable[..., "tuple[torch.Tensor, ...]"]

_COMPILERS = ("g++", "clang++")
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def open_module(engine: Engine) -> torch.nn.Module:
    """Makes the module that an engine's options describe; the user's own code runs if they name a factory.

    Raises:
        ModelError: The graph has an operator that is not known, or the weights are not the module's.
        OptionsError: The factory cannot be used.
        ProviderError: There is no such device here.
    """
    import torch

    options, device = engine.options, engine.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ProviderError(
            f"{engine.model.name} was to run on cuda, but this PyTorch {torch.__version__} finds no GPU.",
            "Install a driver and a PyTorch with CUDA, or choose the device cpu.",
        )
    channels_last = bool(options["channels_last"])
    if not options["factory"]:
        proto = read_whole(engine.model.path)
        return make_inference_module(proto, engine.model.name, device=device, channels_last=channels_last)
    module = call_factory(options["factory"], "")
    if options["weights"]:
        _load(module, Path(options["weights"]).expanduser())
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
    return module.to(device).eval().requires_grad_(False)


def as_call(module: Any, outputs: int) -> Call:
    """A module's forward with its tensors in a flat tuple, whatever it returns them in.

    Raises:
        ModelError: When called, if it does not return as many as the model has.
    """

    def call(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = module(*inputs)
        flat = made if isinstance(made, tuple) and len(made) == outputs else tuple(_tensors(made))
        if len(flat) != outputs:
            raise ModelError(
                f"The module returns {len(flat)} tensors where the model has {outputs} outputs.",
                "Let its forward return the model's outputs in their order.",
            )
        return flat

    return call


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for entry in value:
            yield from _tensors(entry)
    elif value is not None:
        yield value


@contextlib.contextmanager
def imports_restored() -> Iterator[None]:
    """Afterwards, modules are found where they were before: a factory's file may have the name of another module."""
    modules, path = dict(sys.modules), list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        sys.modules.update({name: module for name, module in modules.items() if sys.modules.get(name) is not module})


@contextlib.contextmanager
def compiled_kept(engine: Engine) -> Iterator[None]:
    """For as long as the block lasts, `torch.compile` keeps what it makes in the workspace, and finds it there."""
    before = os.environ.get(_CACHE)
    key = {"torch": engine.versions["torch"], "layout": 1}
    os.environ[_CACHE] = str(Workspace().root / "torch-compile" / fingerprint(key))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_CACHE, None)
        else:
            os.environ[_CACHE] = before


def compile_module(module: torch.nn.Module) -> Any:
    """The module as `torch.compile` makes it: for the first shape when it is called, for other batches when they come.

    One program for all batches from the start took 1.2 times as long for a batch of one.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own parts, when it imports them
        return torch.compile(module)


def find_compiler() -> str | None:
    """The C++ compiler that `torch.compile` would use; None if there is none."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), *_COMPILERS)))), None)


def require_compiler() -> None:
    """Refuses where `torch.compile` cannot work.

    Raises:
        MissingDependencyError: There is no C++ compiler.
    """
    if find_compiler() is None:
        raise MissingDependencyError(
            "torch.compile writes C++, and there is no compiler for it here (g++, clang++, or what CXX names).",
            "Install g++, e.g. with `apt install g++`, or take the mode eager.",
        )


def _load(module: torch.nn.Module, path: Path) -> None:
    """Puts the weights of a file into the module, without running anything in the file."""
    if not path.is_file():
        raise OptionsError(f"`weights` names {path}, which does not exist.", "Name a state_dict file.")
    kind = kind_of(path)
    require_trust(path, kind, trust=False)
    load_weights(module, path, read_content(path, kind, trust=False))
