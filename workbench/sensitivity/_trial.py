"""Tries layers one by one, in a process of its own: quantized alone, and alone in float."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.errors import ModelError
from workbench.jobs import Progress, part_of
from workbench.measure.accuracy import AccuracyOptions, can_score, score, scored_output
from workbench.model import Model
from workbench.sensitivity._quantized import read_quantized
from workbench.sensitivity._simulation import Simulation, State, share_resources

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STATE_BYTES = 2**28  # of the values between the layers, for the samples that run together; three times that are kept
_MOST_TOGETHER = 16  # samples
_OUTPUT_BYTES = 2**28  # of the outputs that wait to be scored
_MOST_LAYERS = 8  # tried together: what lies before them is computed once for all, and lost if the run is cancelled
_BROKEN = 1e300  # noise of an output that is not finite; JSON has no infinity


@dataclass(frozen=True)
class Baseline:
    """The model in float, and with every layer quantized.

    Attributes:
        layers: Operator by name, in the graph's order.
        signal: Sum of the squares of the float model's output.
        noise: Sum of the squares of what quantizing every layer changes in it.
        metric: Name of the task's metric; empty without labels.
        original: That metric of the float model.
        quantized: The same with every layer quantized.
    """

    layers: dict[str, str]
    signal: float
    noise: float
    metric: str = ""
    original: float | None = None
    quantized: float | None = None


@dataclass(frozen=True)
class Trial:
    """One layer: sums of squares as in `Baseline`, and the metric."""

    local_signal: float
    local_noise: float
    only_noise: float
    all_but_noise: float
    only: float | None = None
    all_but: float | None = None


def decibel(signal: float, noise: float) -> float:
    """Signal over noise, dB; infinite where there is no noise, minus infinite where there is nothing else."""
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal and noise < _BROKEN else -math.inf


def serve(
    channel: Connection,
    model: Model,
    quantized: Model,
    samples: Dataset,
    scoring: AccuracyOptions,
    scratch: Path,
) -> None:
    """Runs in the worker: answers None with the baseline; a list of layers with an event for each, and then None.

    Args:
        channel: Where it is asked.
        model: The float model.
        quantized: What quantize_static made of it.
        samples: Evaluation samples.
        scoring: What the model is for.
        scratch: A folder for what is needed meanwhile.
    """
    import onnx

    from workbench.transforms._onnxruntime import read_prepared

    def report(fraction: float, message: str) -> None:
        channel.send(("progress", (fraction, message)))

    tempfile.tempdir = str(scratch)  # what libraries leave behind when they are ended goes with the folder
    report(0.0, "preparing the graph")
    proto = read_prepared(model, scratch)
    share_resources()  # only now: no other session can be opened from here on
    told = quantized.history[-1].options
    graph = read_quantized(proto, onnx.load(str(quantized.path)), told["keep_float"], told["operators"])
    bench = _Bench(model, Simulation(graph, model.name, shared=True), samples, scoring)
    while True:
        wanted = channel.recv()
        if wanted is None:
            channel.send(("result", bench.baseline(report)))
        else:
            bench.try_layers(wanted, lambda name, trial: channel.send(("event", (name, trial))), report)
            channel.send(("result", None))


class _Bench:
    """Runs the samples through the simulation, some at a time."""

    def __init__(self, model: Model, simulation: Simulation, samples: Dataset, scoring: AccuracyOptions) -> None:
        self._model, self._simulation, self._samples, self._scoring = model, simulation, samples, scoring
        self._layers = list(simulation.layers)
        self._last: tuple[int, tuple[int, State, State]] | None = None
        self._size = 0

    def baseline(self, progress: Progress) -> Baseline:
        """Runs the model in float and with every layer quantized.

        Raises:
            ModelError: The float model gives NaN or infinite values, or cannot be run.
            DatasetError: The labels are not what the task needs.
        """
        exact, full, signal, noise = _Outputs(), _Outputs(), 0.0, 0.0
        if not self._layers:
            return Baseline({}, 0.0, 0.0)
        for count, first, second in self._batches(part_of(progress, 0.0, 1.0, "every layer at once: ")):
            signal += _power(self._scored(first, count))
            noise += _noise(self._scored(first, count), self._scored(second, count))
            exact.add(self._simulation.outputs(first), count)
            full.add(self._simulation.outputs(second), count)
        wrong = int((~np.isfinite(scored_output(exact.whole(), self._scoring))).sum())
        if wrong:
            raise ModelError(
                f"{self._model.name} gives {wrong:,} NaN or infinite values on {self._samples.name} in float already: "
                "there is nothing to hold its quantized layers against.",
                "Check the samples' scaling, or the model's weights.",
            )
        metric, original = self._score(exact)
        _, quantized = self._score(full)
        return Baseline(dict(self._simulation.layers), signal, noise, metric, original, quantized)

    def try_layers(self, names: Sequence[str], found: Callable[[str, Trial], None], progress: Progress) -> None:
        """Tries layers in groups, and tells of each as soon as its group is through."""
        size = self._group()
        for start in range(0, len(names), size):
            group = names[start : start + size]
            share = part_of(progress, start / len(names), (start + len(group)) / len(names))
            for name, trial in self._try_group(group, share).items():
                found(name, trial)

    def _try_group(self, names: Sequence[str], progress: Progress) -> dict[str, Trial]:
        sums = {name: np.zeros(4) for name in names}
        only, all_but = ({name: _Outputs() for name in names} for _ in range(2))
        done, steps = 0, len(names) * math.ceil(len(self._samples) / self._size)
        for count, exact, full in self._batches():
            for name in names:
                progress(done / steps, f"layer {self._layers.index(name) + 1} of {len(self._layers)}: {name}")
                done += 1
                alone = self._simulation.change(exact, [name])
                others = self._simulation.change(full, {*self._layers} - {name})
                own, result = exact[self._simulation.results[name]], self._scored(exact, count)
                sums[name] += (
                    _power(own),
                    _noise(own, alone[self._simulation.results[name]]),
                    _noise(result, self._scored(alone, count)),
                    _noise(result, self._scored(others, count)),
                )
                if self._labelled:
                    only[name].add(self._simulation.outputs(alone), count)
                    all_but[name].add(self._simulation.outputs(others), count)
        trials = {}
        for name in names:
            local_signal, local_noise, only_noise, all_but_noise = sums[name].tolist()
            scores = self._score(only[name])[1], self._score(all_but[name])[1]
            trials[name] = Trial(local_signal, local_noise, only_noise, all_but_noise, *scores)
        return trials

    @property
    def _labelled(self) -> bool:
        return can_score(self._samples, self._scoring)

    def _score(self, outputs: _Outputs) -> tuple[str, float | None]:
        if not self._labelled:
            return "", None
        scores = score(outputs.whole(), self._samples, self._scoring)
        return scores.metric, float(scores.value)

    def _scored(self, state: State, count: int) -> NDArray[Any]:
        output = scored_output(self._simulation.outputs(state), self._scoring)[:count]
        return output if output.dtype.kind == "f" else output.astype(np.float64)

    def _batches(self, progress: Progress = lambda fraction, message: None) -> Iterator[tuple[int, State, State]]:
        """The samples in float and with every layer quantized, and how many they are; the last ones are kept."""
        size = self._size = self._size or self._together()
        for start in range(0, len(self._samples), size):
            progress(start / len(self._samples), f"{start}/{len(self._samples)} samples")
            if self._last is None or self._last[0] != start:
                self._last = None  # before the next ones take memory
                count = min(size, len(self._samples) - start)
                feed = {name: self._feed(array[start : start + size]) for name, array in self._samples.inputs.items()}
                exact, full = (self._simulation.start(feed, layers) for layers in ((), self._layers))
                self._last = start, (count, exact, full)
            yield self._last[1]

    def _feed(self, array: NDArray[Any]) -> NDArray[Any]:
        """Some samples; those of a model with a fixed batch are filled up with the last one."""
        missing = (self._model.fixed_batch or 0) - len(array)
        return np.ascontiguousarray(np.concatenate([array, np.repeat(array[-1:], max(0, missing), axis=0)]))

    def _together(self) -> int:
        """How many samples run together, by what the first one takes."""
        if self._model.fixed_batch:
            return self._model.fixed_batch
        [feed] = self._samples.take(1).batches(1)
        taken = self._simulation.start(feed, ()).size_bytes
        return max(1, min(_MOST_TOGETHER, len(self._samples), _STATE_BYTES // max(1, taken)))

    def _group(self) -> int:
        """How many layers are tried together, by what their outputs take."""
        count, exact, _ = next(self._batches())
        if not self._labelled:
            return _MOST_LAYERS
        each = sum(array.nbytes for array in self._simulation.outputs(exact).values()) / count
        return max(1, min(_MOST_LAYERS, int(_OUTPUT_BYTES / (2 * each * len(self._samples) or 1))))


class _Outputs:
    """A model's outputs, batch by batch."""

    def __init__(self) -> None:
        self._parts: list[Tensors] = []

    def add(self, outputs: Tensors, count: int) -> None:
        """Adds those of the first `count` samples."""
        self._parts.append({name: array[:count] for name, array in outputs.items()})

    def whole(self) -> dict[str, NDArray[Any]]:
        """All of them, samples along the first axis."""
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}


def _power(array: NDArray[Any]) -> float:
    flat = array.ravel()
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))  # it converts piece by piece


def _noise(exact: NDArray[Any], other: NDArray[Any]) -> float:
    noise = _power(exact - other) if exact.shape == other.shape else math.nan
    return noise if math.isfinite(noise) else _BROKEN
