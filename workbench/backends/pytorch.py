"""PyTorch, eager or compiled: the reference that most models come from."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from workbench import jobs
from workbench.backends._host import physical_cores
from workbench.backends._pytorch_build import count_nodes, try_engine
from workbench.backends._pytorch_layers import optimized as optimized
from workbench.backends._pytorch_layers import profile as profile
from workbench.backends._pytorch_module import (
    as_call,
    compile_module,
    compiled_kept,
    find_compiler,
    imports_restored,
    open_module,
    require_compiler,
)
from workbench.backends._pytorch_runner import Facts, ModuleRunner
from workbench.engine import BuildCheck, BuildLog, Engine, unheard
from workbench.errors import ModelError, OptionsError, ProviderError
from workbench.graph_module import known_operators
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option, to_builtins
from workbench.support import Unsupported, make_probes
from workbench.workspace import Workspace

REQUIRES = {"torch": "torch"}

_WAY_AROUND = "Name the function that builds the torch module as `factory`, or use another backend."


@dataclass(frozen=True)
class Options:
    """What is run and how. Its precision is the model's."""

    mode: Annotated[
        Literal["eager", "compile"],
        option(
            "Call one operator after another, or let torch.compile make one program of them: that takes a C++ "
            "compiler, and from seconds to a minute for each new shape.",
        ),
    ] = "eager"
    threads: Annotated[
        int, option("Threads inside one operator; 0 takes every core.", minimum=0, maximum=256, unit="threads")
    ] = 0
    device: Annotated[Literal["cpu", "cuda"], option("What to run on.")] = "cpu"
    factory: Annotated[
        str,
        option(
            "Your function that builds the module, called without arguments; without one, the ONNX graph itself is "
            "run with PyTorch's operators.",
            example="nets.py:build",
        ),
    ] = ""
    weights: Annotated[
        str, option("File of the module's state_dict, .pth or .safetensors.", example="weights.safetensors")
    ] = ""
    channels_last: Annotated[
        bool, option("Keep channels innermost in memory, which some convolutions are faster with.", advanced=True)
    ] = False


def devices() -> tuple[str, ...]:
    """The processor, and CUDA where PyTorch finds a GPU."""
    import torch

    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def checks(model: Model, options: Options) -> tuple[BuildCheck, ...]:
    """Says which operators are not known and whether there is a compiler."""
    found = []
    if options.mode == "compile" and find_compiler() is None:
        found.append(BuildCheck("refused", "torch.compile needs a C++ compiler, and there is none.", "Install g++."))
    if not options.factory:
        for problem in unsupported(model):
            found.append(BuildCheck("refused", f"{problem.operator}: {problem.reason}", problem.remedy))
    return tuple(found)


def build(model: Model, options: Options, progress: Progress, log: BuildLog = unheard) -> Engine:
    """Checks the operators of a graph; tries a module of the user's, and what is compiled, in a subprocess.

    The artifact is the model itself: PyTorch makes of it what it runs when it is opened. What was compiled is kept in
    the workspace and found again then.

    Raises:
        ModelError: The graph has an operator that is not known, or the module computes something else.
        OptionsError: The factory or the weights cannot be used.
        ProviderError: There is no such device here.
        MissingDependencyError: There is no C++ compiler to compile with.
    """
    if options.device not in devices():
        raise ProviderError(
            f"PyTorch {version('torch')} finds no {options.device} here: it finds {', '.join(devices())}.",
            "Choose one of these, or install a driver and a PyTorch with CUDA.",
        )
    if options.weights and not options.factory:
        raise OptionsError("`weights` are given without the module that they belong to.", "Name its `factory` too.")
    if options.mode == "compile":
        require_compiler()
    if not options.factory and (problems := unsupported(model)):
        names = ", ".join(f"{problem.operator} ({', '.join(problem.nodes)})" for problem in problems)
        raise ModelError(f"{model.name} has operators that are not known to run in PyTorch: {names}.", _WAY_AROUND)
    options = dataclasses.replace(options, threads=options.threads or physical_cores())
    engine = Engine(
        model=model,
        backend="pytorch",
        options=to_builtins(options),
        device=options.device,
        path=model.path,
        versions={"torch": version("torch"), **_contents(options)},
    )
    if _is_tried(engine):
        _facts(engine, progress, log)
    return engine


@contextlib.contextmanager
def open_runner(engine: Engine) -> Iterator[ModuleRunner]:
    """Makes the module ready to run; PyTorch's threads are as they were when the block ends.

    Raises:
        ModelError: The graph has an operator that is not known, or the weights are not the module's.
        OptionsError: The factory cannot be used.
        ProviderError: There is no such device here.
    """
    import torch

    before = torch.get_num_threads()
    with imports_restored(), contextlib.ExitStack() as stack:
        module = open_module(engine)
        facts = _facts(engine) if _is_tried(engine) else Facts(count_nodes(module))
        stack.callback(torch.set_num_threads, before)
        torch.set_num_threads(engine.options["threads"])
        if engine.options["mode"] == "compile":
            stack.enter_context(compiled_kept(engine))
            module = compile_module(module)
        yield ModuleRunner(engine, as_call(module, len(engine.model.outputs)), facts)


def unsupported(model: Model) -> tuple[Unsupported, ...]:
    """Compares the operators with those that the graph can be run with."""
    known = known_operators()
    return tuple(
        Unsupported(
            probe.operator,
            "It is not among the operators that an ONNX graph is run with in PyTorch.",
            probe.nodes,
            _WAY_AROUND,
        )
        for probe in make_probes(model)
        if probe.operator not in known
    )


def _is_tried(engine: Engine) -> bool:
    return bool(engine.options["factory"]) or engine.options["mode"] == "compile"


def _facts(engine: Engine, progress: Progress = jobs.silent, log: BuildLog = unheard) -> Facts:
    """What a try of the engine showed, perhaps in an earlier run: what a factory's file imports is not in the key."""
    key = {"engine": {"model": engine.model.sha256, "options": dict(engine.options), "versions": dict(engine.versions)}}

    def compute() -> Facts:
        return jobs.run_watched(try_engine, engine, progress=progress, watch=log)

    return Workspace().result("pytorch", key, Facts, compute)


def _contents(options: Options) -> dict[str, str]:
    """Hashes of the user's own files, which decide the result as versions do."""
    found = {}
    for name, place in (("factory", options.factory.rpartition(":")[0]), ("weights", options.weights)):
        path = Path(place).expanduser()
        if place and path.is_file():
            with path.open("rb") as stream:
                found[name] = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    return found
