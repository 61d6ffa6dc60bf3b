"""Tries a PyTorch engine in a subprocess: whether it answers as ONNX does, and what the compiler makes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.backends._agreement import Agreement
from workbench.backends._pytorch_module import as_call, compile_module, compiled_kept, open_module
from workbench.backends._pytorch_runner import Facts, ModuleRunner
from workbench.engine import Engine
from workbench.jobs import Progress

if TYPE_CHECKING:
    import torch

_MOST_REASONS = 3


def try_engine(engine: Engine, progress: Progress, tell: Callable[[str], None]) -> Facts:
    """Runs an engine once and compares; what it compiles is kept for those who open it.

    Raises:
        ModelError: It cannot be run, or computes something else than the model.
        OptionsError: The factory cannot be used.
        ProviderError: There is no such device here.
    """
    import torch

    torch.set_num_threads(engine.options["threads"])
    progress(0.1, "making the module")
    module = open_module(engine)
    progress(0.2, "asking ONNX")
    compiling = engine.options["mode"] == "compile"
    # A compiled module is made for one batch first; for others only when they come.
    agreement = Agreement(engine.model, 1 if compiling else 2)
    title = "The module" if engine.options["factory"] else f"PyTorch {engine.versions['torch']}"
    progress(0.3, "compiling and comparing" if compiling else "comparing")
    with compiled_kept(engine):
        facts = _explained(engine, module, agreement) if compiling else Facts(count_nodes(module))
        for reason in facts.reasons:
            tell(f"Not compiled: {reason}")
        run = compile_module(module) if compiling else module
        begun = time.monotonic()
        runner = ModuleRunner(engine, as_call(run, len(engine.model.outputs)), facts)
        answers = runner.infer(agreement.feed)
        notes = [agreement.check(answers, title)]
        if compiling:
            took = time.monotonic() - begun
            notes.append(
                f"Compiling for a batch of {agreement.batch} took {took:.1f} s; the first use of another does."
            )
    if facts.reasons:
        notes.append(f"The compiler leaves {facts.eager} places to eager execution.")
    for note in notes:
        tell(note)
    return Facts(facts.eager, facts.compiled, facts.reasons, tuple(notes))


def _explained(engine: Engine, module: torch.nn.Module, agreement: Agreement) -> Facts:
    """What the compiler takes, and where it gives up."""
    import torch

    inputs = ModuleRunner(engine, as_call(module, 0), Facts(0)).tensors(agreement.feed)
    with torch.inference_mode():
        found: Any = torch._dynamo.explain(module)(*inputs)
    torch._dynamo.reset()
    reasons = [" ".join(str(entry.reason).split())[:200] for entry in found.break_reasons]
    return Facts(found.graph_break_count, found.op_count, tuple(dict.fromkeys(reasons))[:_MOST_REASONS])


def count_nodes(module: Any) -> int:
    """The calls of a graph's function, or the innermost parts of another module."""
    import torch

    if isinstance(module, torch.fx.GraphModule):
        return sum(node.op == "call_function" for node in module.graph.nodes)
    return sum(not any(part.children()) for part in module.modules())
