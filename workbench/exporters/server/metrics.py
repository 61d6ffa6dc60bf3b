"""Prometheus metrics of a serving package, in the text exposition format; written by the event loop's thread alone.

An own writer: the format is a page long, and a series is a number in a list. What a request counts takes 0.8 µs; by
prometheus_client, with its locks and lookups of labels, it took 4.3 µs.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .board import GAUGES, LOAD, RESTARTS, Board
    from .config import ModelConfig, Reference
    from .process import process_figures
else:
    from board import GAUGES, LOAD, RESTARTS, Board
    from config import ModelConfig, Reference
    from process import process_figures

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
CODES = ("2xx", "4xx", "5xx")
SUBSAMPLE = 1024  # values of an input that are looked at: 3 µs whatever its size
REMEMBERED = 200  # requests that an input's running mean is mostly of
LARGEST_BATCH_BUCKET = 32
IN_FLIGHT, QUEUE_LIMIT = 0, 1  # cells of the gauges, which who has the model sets

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]  # suffix of the name, labels, value
Family = tuple[str, str, str, list[Sample]]  # name, kind, words, samples


class Histogram:
    """Counts of values up to rising bounds.

    Args:
        board: Where they are counted.
        key: What for.
        bounds: The upper bounds; infinity is added.
    """

    __slots__ = ("_board", "_bounds", "_cells", "_key", "_sum")

    def __init__(self, board: Board, key: str, bounds: Sequence[float]) -> None:
        self._board, self._key = board, key
        self._bounds = [*map(float, bounds), math.inf]
        self._sum = len(self._bounds)  # the cell after the counts
        self._cells = board.take(key, self._sum + 1)

    def observe(self, value: float) -> None:
        """Counts one value."""
        self._cells[bisect_left(self._bounds, value)] += 1
        self._cells[self._sum] += value

    def samples(self, labels: Labels) -> Iterator[Sample]:
        """The series that Prometheus expects of a histogram, over all workers."""
        *counts, summed = _sums(self._board.all(self._key))
        for bound, total in zip(self._bounds, accumulate(counts), strict=True):
            yield "_bucket", {**labels, "le": _number(bound)}, total
        yield "_sum", labels, summed
        yield "_count", labels, sum(counts)


class InputMean:
    """Running mean of one input, over about the last 200 requests of each worker.

    Args:
        board: Where it is kept.
        key: What for.
        reference: How the input was distributed in the samples that came with the model.
    """

    def __init__(self, board: Board, key: str, reference: Reference) -> None:
        self.reference = reference
        self._board, self._key = board, key
        self._cells = board.take(key, 2)  # the mean, and of how many requests
        self._mean, self._seen = self._cells
        self._steps: dict[int, int] = {}

    def add(self, array: NDArray[Any]) -> None:
        """Takes a request's values into account: every k-th of them, in all channels alike."""
        flat = array.reshape(-1)
        part = flat if flat.size <= SUBSAMPLE else flat[:: self._step(flat.size)]
        mean = float(np.add.reduce(part, dtype=np.float64)) / part.size
        if math.isfinite(mean):
            self._seen = min(self._seen + 1, REMEMBERED)
            self._mean += (mean - self._mean) / self._seen
            self._cells[0] = self._mean
            self._cells[1] = self._seen

    def mean(self) -> float:
        """The mean over all workers, each weighted with the requests that its own is of; NaN until there was one."""
        parts = [(mean, seen) for mean, seen in self._board.all(self._key) if seen]
        return sum(mean * seen for mean, seen in parts) / sum(seen for _, seen in parts) if parts else math.nan

    def _step(self, size: int) -> int:
        """A step that has no divisor in common with the size: another could meet one channel or column only."""
        if size not in self._steps:
            if len(self._steps) > 100:  # callers choose the sizes
                self._steps.clear()
            self._steps[size] = next(step for step in count(size // SUBSAMPLE) if math.gcd(step, size) == 1)
        return self._steps[size]


class ModelMetrics:
    """Everything that is counted of one version of one model.

    Args:
        config: The model.
        sha256: Hash of the model file that was loaded.
        protocols: What it can be asked by.
        board: Where it is counted. What is there of the same version, buckets and inputs is gone on with.
    """

    def __init__(self, config: ModelConfig, sha256: str, protocols: Sequence[str], board: Board) -> None:
        self.labels = {"model": config.name, "version": config.version}
        self.info = {"backend": config.backend, "sha256": sha256}
        self.board = board
        largest = max(config.max_batch, LARGEST_BATCH_BUCKET)
        sizes = [2**power for power in range(math.ceil(math.log2(largest)) + 1)]
        layout = repr((config.buckets_seconds, sizes)).encode()
        self._key = f"{config.name} {config.version} {hashlib.sha256(layout).hexdigest()[:12]}"
        # All series are there from the start: the rate of one that appears with the first error misses that error.
        self._requests = {protocol: board.take(f"{self._key} {protocol}", len(CODES)) for protocol in protocols}
        self.request_seconds = Histogram(board, f"{self._key} request_seconds", config.buckets_seconds)
        self.inference_seconds = Histogram(board, f"{self._key} inference_seconds", config.buckets_seconds)
        self.batch_size = Histogram(board, f"{self._key} batch_size", sizes)
        self.inputs = {
            reference.name: InputMean(board, f"{self._key} input {reference.name!r}", reference)
            for reference in config.references
        }
        self.gauges = board.take(f"{self._key} {GAUGES}", 2)

    def answered(self, protocol: str, status: int, seconds: float | None = None) -> None:
        """Counts one request.

        Args:
            protocol: `http` or `grpc`.
            status: HTTP status; gRPC's codes are told by the status that they stand for.
            seconds: From the end of its head to its answer; None for one that was turned away unread, which would
                only make the others look fast.
        """
        self._requests[protocol][0 if status < 400 else 1 if status < 500 else 2] += 1
        if seconds is not None:
            self.request_seconds.observe(seconds)

    def fed(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Takes the values of one request into account."""
        for name, running in self.inputs.items():
            running.add(feeds[name])

    def requests(self) -> Iterator[tuple[str, str, float]]:
        """Protocol, code and requests, over all workers."""
        for protocol in self._requests:
            for code, total in zip(CODES, _sums(self.board.all(f"{self._key} {protocol}")), strict=True):
                yield protocol, code, total

    def gauge(self, cell: int) -> float:
        """A gauge, over all workers."""
        return _sums(self.board.all(f"{self._key} {GAUGES}"))[cell]


def render(models: Iterable[ModelMetrics], board: Board) -> bytes:
    """All metrics as Prometheus reads them."""
    lines: list[str] = []
    for name, kind, words, samples in (*_families(list(models)), *_service(board)):
        lines += (f"# HELP {name} {words}", f"# TYPE {name} {kind}")
        for suffix, labels, value in samples:
            inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            lines.append(f"{name}{suffix}{{{inner}}} {_number(value)}" if inner else f"{name}{suffix} {_number(value)}")
    return ("\n".join(lines) + "\n").encode()


def _families(models: list[ModelMetrics]) -> Iterator[Family]:
    yield "workbench_requests_total", "counter", "Inference requests that were answered.", [
        ("", {**model.labels, "protocol": protocol, "code": code}, value)
        for model in models
        for protocol, code, value in model.requests()
    ]  # fmt: skip
    for name, attribute, words in (
        ("workbench_request_seconds", "request_seconds", "Time of a request, from the end of its head to its answer."),
        ("workbench_inference_seconds", "inference_seconds", "Time of one inference alone."),
        ("workbench_batch_size", "batch_size", "Samples in one inference."),
    ):
        histograms = [(model, getattr(model, attribute)) for model in models]
        yield name, "histogram", words, [s for model, histogram in histograms for s in histogram.samples(model.labels)]
    for name, cell, words in (
        ("workbench_in_flight", IN_FLIGHT, "Requests under way, waiting ones included."),
        ("workbench_queue_limit", QUEUE_LIMIT, "Requests under way above which further ones are refused."),
    ):
        yield name, "gauge", words, [("", model.labels, model.gauge(cell)) for model in models]
    means = [(model.labels | {"input": name}, mean) for model in models for name, mean in model.inputs.items()]
    yield "workbench_input_mean", "gauge", f"Mean of an input over about the last {REMEMBERED} requests.", [
        ("", labels, running.mean()) for labels, running in means
    ]  # fmt: skip
    yield "workbench_input_reference_mean", "gauge", "Mean of the input in the samples that came with the model.", [
        ("", labels, running.reference.mean) for labels, running in means
    ]  # fmt: skip
    yield "workbench_input_reference_deviation", "gauge", "Standard deviation of those samples' own means.", [
        ("", labels, running.reference.deviation) for labels, running in means
    ]  # fmt: skip
    yield "workbench_model_info", "gauge", "What is served; sha256 is the model file's.", [
        ("", model.labels | model.info, 1) for model in models
    ]  # fmt: skip


def _service(board: Board) -> Iterator[Family]:
    rows = [board.own(row) for row in range(board.workers)]
    alive = sum(1 for row in rows if row[LOAD]) if board.workers > 1 else 1
    yield "workbench_workers", "gauge", "Processes that answer.", [("", {}, alive)]
    yield "workbench_worker_restarts_total", "counter", "Workers that were started again.", [
        ("", {}, sum(row[RESTARTS] for row in rows))
    ]  # fmt: skip
    for name, kind, words, value in process_figures(board):
        yield f"process_{name}", kind, words, [("", {}, value)]


def _sums(parts: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) for values in zip(*parts, strict=True)]


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
