"""What a backend makes of a model (Engine) and what runs it (Runner)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from workbench.errors import ModelError
from workbench.model import Model

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
BuildLog: TypeAlias = Callable[[str], None]  # takes what a backend says while it builds, line by line

_NUMBERS = {"bool", *(np.dtype(code).name for code in np.typecodes["AllInteger"] + np.typecodes["Float"])}


@dataclass(frozen=True)
class Engine:
    """A model made ready for one backend on one device.

    Attributes:
        model: The model that it was built from.
        backend: Name of the plugin in `workbench.backends`.
        options: Every option it was built with, as plain values.
        device: What it runs on, in the backend's own words, e.g. `CPUExecutionProvider`.
        path: The artifact that the backend loads.
        versions: Version of each library that decides the result.
    """

    model: Model
    backend: str
    options: Mapping[str, Any]
    device: str
    path: Path
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildCheck:
    """What is known of a build before it is begun.

    Attributes:
        verdict: `refused` will fail; `doubt` will build, but perhaps not to what is wanted; `ok` is as it should be.
        what: What was looked at and found, in a sentence.
        remedy: What to do about it, in a sentence; empty where nothing is to be done.
    """

    verdict: Literal["ok", "doubt", "refused"]
    what: str
    remedy: str = ""


def unheard(line: str) -> None:
    """The log of a caller that does not want to read it."""


class Runner(Protocol):
    """A live executor. It is closed by the context manager that opened it."""

    @property
    def placement(self) -> Mapping[str, int]:
        """Nodes that each provider really runs, as `{provider: count}`."""

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        """Runs the model once; arrays have the model's dtypes and the batch as first axis."""

    def bind(self, feed: Tensors) -> Callable[[], object]:
        """A call that runs the model once on `feed` and returns when the outputs are there.

        This is what is timed: it adds nothing to the backend's own call, and leaves the outputs in the backend's form.
        """


@runtime_checkable
class AsyncRunner(Runner, Protocol):
    """A runner that also takes a request and runs it on threads of its own while the caller goes on."""

    def submit(self, feed: Tensors) -> Future[dict[str, NDArray[Any]]]:
        """Begins to run the model once; the future gives what `infer` would, or raises what that would.

        The feed's arrays must stay as they are until then. Several requests may be under way at once.

        Raises:
            EngineError: The engine was built so that it cannot run on threads of its own.
            ModelError: The backend sees at once that it cannot run the model on these inputs.
        """


@dataclass(frozen=True)
class Layer:
    """One step of what a backend really runs.

    Attributes:
        name: The backend's own name of it.
        operator: What the backend runs, in its own words, e.g. `QLinearConv`.
        kind: `quantize` changes between float and integer, `reformat` changes the layout or copies; all else computes.
        precision: Element type that it computes in, e.g. `int8`, `bfloat16`; empty if the backend does not say.
        ms: Time of one inference that it takes; None where it was not measured.
        sources: Nodes or tensors of the engine's model that the backend says it was made of; empty for its additions.
        provider: What runs it, where a backend has several.
        output_precision: Element type of its first output; empty if the backend does not say.
        output_bytes: Size of all its outputs at the shapes that it was built or run for; None if that is not known.
    """

    name: str
    operator: str
    kind: Literal["compute", "quantize", "reformat"] = "compute"
    precision: str = ""
    ms: float | None = None
    sources: tuple[str, ...] = ()
    provider: str = ""
    output_precision: str = ""
    output_bytes: int | None = None


@dataclass(frozen=True)
class Layers:
    """What a backend's `profile` gives.

    Attributes:
        layers: In the order in which they run.
        whole_ms: Median time of one inference while it was profiled; None where nothing was run.
        iterations: Inferences that the times are the mean of.
        caveats: Why the times may mislead.
        memory: Bytes that the engine takes, by what for, e.g. `{"weights": …, "activations": …}`; empty if not told.
    """

    layers: tuple[Layer, ...]
    whole_ms: float | None = None
    iterations: int = 0
    caveats: tuple[str, ...] = ()
    memory: Mapping[str, int] = field(default_factory=dict)


def random_feed(model: Model, batch: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Makes inputs of the right shape for timing where no samples are at hand.

    Args:
        model: Any model; its dynamic axes other than the first become 1.
        batch: Size of a dynamic first axis.
        seed: The same seed gives the same inputs.

    Raises:
        ModelError: It takes something else than tensors of numbers.
    """
    generator = np.random.default_rng(seed)
    feed: dict[str, NDArray[Any]] = {}
    for spec in model.inputs:
        if spec.dtype not in _NUMBERS or "..." in spec.shape:
            raise ModelError(
                f"{model.name} takes '{spec}', for which no random values can be made up.", "Give samples instead."
            )
        shape = [size if isinstance(size, int) else (batch if axis == 0 else 1) for axis, size in enumerate(spec.shape)]
        if np.issubdtype(np.dtype(spec.dtype), np.floating):
            feed[spec.name] = generator.random(shape).astype(spec.dtype)
        else:
            feed[spec.name] = generator.integers(0, 2, shape).astype(spec.dtype)
    return feed
