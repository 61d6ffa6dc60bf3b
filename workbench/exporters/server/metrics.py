"""Prometheus metrics of a serving package, in the text exposition format; written by the event loop's thread alone.

An own writer: the format is a page long, and a series is a number in a list. What a request counts takes 0.6 µs; by
prometheus_client, with its locks and lookups of labels, it took 4.3 µs.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .config import ModelConfig, Reference
else:
    from config import ModelConfig, Reference

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
CODES = ("2xx", "4xx", "5xx")
SUBSAMPLE = 1024  # values of an input that are looked at: 3 µs whatever its size
REMEMBERED = 200  # requests that an input's running mean is mostly of
LARGEST_BATCH_BUCKET = 32

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]  # suffix of the name, labels, value


class Histogram:
    """Counts of values up to rising bounds.

    Args:
        bounds: The upper bounds; infinity is added.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = [*map(float, bounds), math.inf]
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, labels: Labels) -> Iterator[Sample]:
        """The series that Prometheus expects of a histogram."""
        for bound, total in zip(self._bounds, accumulate(self._counts), strict=True):
            yield "_bucket", {**labels, "le": _number(bound)}, total
        yield "_sum", labels, self._sum
        yield "_count", labels, sum(self._counts)


class InputMean:
    """Running mean of one input, over about the last 200 requests.

    Args:
        reference: How the input was distributed in the samples that came with the model.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.mean = math.nan  # until there was a request
        self._seen = 0
        self._steps: dict[int, int] = {}

    def add(self, array: NDArray[Any]) -> None:
        """Takes a request's values into account: every k-th of them, in all channels alike."""
        flat = array.reshape(-1)
        part = flat if flat.size <= SUBSAMPLE else flat[:: self._step(flat.size)]
        mean = float(np.add.reduce(part, dtype=np.float64)) / part.size
        if math.isfinite(mean):
            self._seen = min(self._seen + 1, REMEMBERED)
            self.mean = mean if self._seen == 1 else self.mean + (mean - self.mean) / self._seen

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
    """

    def __init__(self, config: ModelConfig, sha256: str, protocols: Sequence[str]) -> None:
        self.labels = {"model": config.name, "version": config.version}
        self.info = {"backend": config.backend, "sha256": sha256}
        # All series are there from the start: the rate of one that appears with the first error misses that error.
        self.requests = {protocol: dict.fromkeys(CODES, 0) for protocol in protocols}
        self.request_seconds = Histogram(config.buckets_seconds)
        self.inference_seconds = Histogram(config.buckets_seconds)
        largest = max(config.max_batch, LARGEST_BATCH_BUCKET)
        self.batch_size = Histogram([2**power for power in range(math.ceil(math.log2(largest)) + 1)])
        self.in_flight = 0
        self.queue_limit = config.queue
        self.inputs = {reference.name: InputMean(reference) for reference in config.references}

    def answered(self, protocol: str, status: int, seconds: float | None = None) -> None:
        """Counts one request.

        Args:
            protocol: `http` or `grpc`.
            status: HTTP status; gRPC's codes are told by the status that they stand for.
            seconds: From the end of its head to its answer; None for one that was turned away unread, which would
                only make the others look fast.
        """
        self.requests[protocol]["2xx" if status < 400 else "4xx" if status < 500 else "5xx"] += 1
        if seconds is not None:
            self.request_seconds.observe(seconds)

    def fed(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Takes the values of one request into account."""
        for name, running in self.inputs.items():
            running.add(feeds[name])


def render(models: Iterable[ModelMetrics]) -> bytes:
    """All metrics as Prometheus reads them."""
    lines: list[str] = []
    for name, kind, words, samples in (*_families(list(models)), *_process()):
        lines += (f"# HELP {name} {words}", f"# TYPE {name} {kind}")
        for suffix, labels, value in samples:
            inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            lines.append(f"{name}{suffix}{{{inner}}} {_number(value)}" if inner else f"{name}{suffix} {_number(value)}")
    return ("\n".join(lines) + "\n").encode()


def _families(models: list[ModelMetrics]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    yield "workbench_requests_total", "counter", "Inference requests that were answered.", [
        ("", {**model.labels, "protocol": protocol, "code": code}, value)
        for model in models
        for protocol, codes in model.requests.items()
        for code, value in codes.items()
    ]  # fmt: skip
    for name, attribute, words in (
        ("workbench_request_seconds", "request_seconds", "Time of a request, from the end of its head to its answer."),
        ("workbench_inference_seconds", "inference_seconds", "Time of one inference alone."),
        ("workbench_batch_size", "batch_size", "Samples in one inference."),
    ):
        histograms = [(model, getattr(model, attribute)) for model in models]
        yield name, "histogram", words, [s for model, histogram in histograms for s in histogram.samples(model.labels)]
    for name, attribute, words in (
        ("workbench_in_flight", "in_flight", "Requests under way, waiting ones included."),
        ("workbench_queue_limit", "queue_limit", "Requests under way above which further ones are refused."),
    ):
        yield name, "gauge", words, [("", model.labels, getattr(model, attribute)) for model in models]
    means = [(model.labels | {"input": name}, mean) for model in models for name, mean in model.inputs.items()]
    yield "workbench_input_mean", "gauge", f"Mean of an input over about the last {REMEMBERED} requests.", [
        ("", labels, running.mean) for labels, running in means
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


def _process() -> Iterator[tuple[str, str, str, list[Sample]]]:
    """What Prometheus' own clients say of a process, by the same names; nothing where there is no /proc."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except (OSError, StopIteration):
        return
    ticks = os.sysconf("SC_CLK_TCK")
    for name, kind, words, value in (
        ("cpu_seconds_total", "counter", "User and system CPU time.", (int(fields[11]) + int(fields[12])) / ticks),
        ("start_time_seconds", "gauge", "Start since the epoch.", int(booted.split()[1]) + int(fields[19]) / ticks),
        ("virtual_memory_bytes", "gauge", "Virtual memory.", float(fields[20])),
        ("resident_memory_bytes", "gauge", "Resident memory.", int(fields[21]) * os.sysconf("SC_PAGE_SIZE")),
        ("open_fds", "gauge", "Open file descriptors.", float(files)),
    ):
        yield f"process_{name}", kind, words, [("", {}, value)]


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
