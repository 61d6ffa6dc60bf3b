"""Runs a PyTorch module, eagerly or compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.backends._feeds import check_feed
from workbench.backends._pytorch_module import Call
from workbench.engine import Engine, Tensors
from workbench.errors import ModelError, WorkbenchError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Facts:
    """What the build saw of an engine.

    Attributes:
        eager: Nodes that run one by one: all of a graph or the innermost parts of a module; where it is compiled, the
            places in which the compiler gives up and goes on behind (graph breaks).
        compiled: Operations that are compiled.
        reasons: Why the compiler gave up, in its own words.
        notes: What the build said, in sentences.
    """

    eager: int
    compiled: int = 0
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class ModuleRunner:
    """A live PyTorch module."""

    def __init__(self, engine: Engine, call: Call, facts: Facts) -> None:
        self._engine, self._call = engine, call
        counts = {"eager": facts.eager, "compiled": facts.compiled}
        self._placement = {f"{engine.device} ({how})": count for how, count in counts.items() if count}

    @property
    def placement(self) -> Mapping[str, int]:
        """Nodes by how they run, e.g. `{'cpu (eager)': 28}`; of a compiled module its operations, and its breaks."""
        return self._placement

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        """Runs the model once.

        Raises:
            ModelError: PyTorch cannot run it on these inputs.
        """
        import torch

        tensors = self.tensors(feed)
        with torch.inference_mode():
            outputs = self._run(tensors)
        specs = self._engine.model.outputs
        return {spec.name: as_array(value, spec.dtype) for spec, value in zip(specs, outputs, strict=True)}

    def bind(self, feed: Tensors) -> Callable[[], tuple[torch.Tensor, ...]]:
        """The module's forward on tensors that lie ready on the device; it returns when the device is done."""
        import torch

        tensors, call, inference_mode = self.tensors(feed), self._call, torch.inference_mode
        with inference_mode():
            self._run(tensors)  # a fault shows here, and the compiler does its work, not while the call is timed

        def bound() -> tuple[torch.Tensor, ...]:
            with inference_mode():
                return call(*tensors)

        def bound_on_gpu() -> tuple[torch.Tensor, ...]:  # not run on a GPU yet
            with inference_mode():
                made = call(*tensors)
            torch.cuda.synchronize()
            return made

        return bound_on_gpu if self._engine.device == "cuda" else bound

    def _run(self, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        try:
            return self._call(*tensors)
        except WorkbenchError:
            raise
        except Exception as error:  # kernels, the compiler and the user's module raise anything
            reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
            raise ModelError(
                f"PyTorch cannot run {self._engine.model.name}: {reason}.",
                "Check the inputs' types, shapes and values against what the model takes.",
            ) from error

    def tensors(self, feed: Tensors) -> list[torch.Tensor]:
        """The inputs on the device, in the model's order.

        Raises:
            ModelError: They do not fit the model.
        """
        check_feed(self._engine.model, feed, "PyTorch")
        return [self._tensor(feed[spec.name]) for spec in self._engine.model.inputs]

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """The array in PyTorch: in place for a graph, which only reads it; a copy for a module that may write."""
        import torch

        try:
            if self._engine.options["factory"]:
                tensor = torch.tensor(array)
            else:
                tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        except TypeError:
            raise ModelError(
                f"PyTorch cannot run {self._engine.model.name}: it has no tensors of {array.dtype}.",
                "Use another backend.",
            ) from None
        if self._engine.options["channels_last"] and tensor.ndim == 4:
            tensor = tensor.to(memory_format=torch.channels_last)
        return tensor.to(self._engine.device)


def as_array(value: torch.Tensor, dtype: str) -> NDArray[Any]:
    """A copy in main memory in the model's element type."""
    import torch

    value = value.detach().cpu()
    return np.array((value.float() if value.dtype == torch.bfloat16 else value).numpy(), dtype)
