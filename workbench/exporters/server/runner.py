"""The live model of a serving package: its sessions, the threads that run them, and whether it still answers."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .batching import Batcher, Gatherer
    from .board import Board
    from .config import CannotStart, ModelConfig
    from .metrics import ModelMetrics
    from .protocol import DTYPES, Array, Contract, Job, Refusal
    from .runtimes import open_sessions
    from .sessions import BadValues, Node, Session
else:
    from batching import Batcher, Gatherer
    from board import Board
    from config import CannotStart, ModelConfig
    from metrics import ModelMetrics
    from protocol import DTYPES, Array, Contract, Job, Refusal
    from runtimes import open_sessions
    from sessions import BadValues, Node, Session

PROBE_SECONDS = 1.0  # an answer that is not older tells that the model is well
QUICK_SECONDS = 30e-6  # of a sample: less than it takes to hand a request to a thread and back
STALL_SECONDS = 1e-3  # longest time that an inference may hold up everything else
ALONE_SECONDS = 5e-3  # the same where a caller is alone, and what is held up are health and metrics
PAYS = 0.9  # of the time that the samples of a batch take one by one: a batch that takes more is not worth the wait
TRIES, TRIAL_SECONDS = 9, 0.5  # how often a time is taken, and when that is often enough
MIXED = 0.05  # of the largest output: a difference above says that samples of a batch change each other

log = logging.getLogger("serve")


class Runner:
    """The live model: a session for each instance, the threads that call them, and whether it still answers.

    Args:
        config: What the sessions must be like.
        folder: Where the package is.
        allow_nan: Whether requests may hold NaN and Infinity.
        protocols: What it can be asked by.
        board: Where is counted.

    Raises:
        CannotStart: If the model cannot be loaded, is not what the config promises, or fails its first inference.
    """

    def __init__(
        self, config: ModelConfig, folder: Path, allow_nan: bool, protocols: Sequence[str], board: Board
    ) -> None:
        self._sessions: Sequence[Session] = open_sessions(config, folder / config.path)
        self._idle: SimpleQueue[Session] = SimpleQueue()
        for session in self._sessions:
            self._idle.put(session)
        self._check(config, self._sessions[0])
        axes = {node.name: [s if isinstance(s, str) else None for s in node.shape] for node in self._sessions[0].inputs}
        self.contract = Contract(config.name, config.version, config.inputs, config.outputs, axes, allow_nan)
        self._pool = ThreadPoolExecutor(config.instances, thread_name_prefix="inference")
        self._probe = self._first_probe(folder / config.sample if config.sample else None)
        self._batcher = self._make_batcher(config)
        self._quick_rows, self._short_rows = self._count_rows(config.max_batch if self._batcher else 1)
        self._gatherer = Gatherer(self._run_here, self._idle, config.max_batch if self._batcher else 1)
        self._probing = asyncio.Lock()
        self._healthy, self._seen = True, time.monotonic()
        with (folder / config.path).open("rb") as stream:  # last: what fails before is not counted
            self.metrics = ModelMetrics(config, hashlib.file_digest(stream, "sha256").hexdigest(), protocols, board)

    async def infer(self, job: Job) -> list[Array]:
        """Runs one request in a thread, for which further ones wait."""
        results = await self._batcher.infer(job) if self._batcher else (await self._run_together([job]))[0]
        self._healthy, self._seen = True, time.monotonic()
        return results

    async def infer_here(self, job: Job, alone: bool = False) -> list[Array] | None:
        """Runs one request where it stands; None if it is not that quick, or every instance is busy in a thread.

        Args:
            job: The request.
            alone: Whether nobody else asks, who would have to wait meanwhile.
        """
        most = self._short_rows if alone else self._quick_rows
        results = await self._gatherer.infer(job) if job.rows <= most else None
        if results is not None:
            self._healthy, self._seen = True, time.monotonic()
        return results

    async def ready(self, timeout: float) -> bool:
        """Whether the model answered within the last second; if none asked it, it is asked now."""
        async with self._probing:
            if self._sessions and time.monotonic() - self._seen >= PROBE_SECONDS:
                try:
                    async with asyncio.timeout(timeout):
                        await self.infer(self._probe)
                except Exception:
                    log.exception("The model failed its readiness check")
                    self._healthy, self._seen = False, time.monotonic()
            return self._healthy

    async def close(self) -> None:
        """Gives the threads and the model back; nobody may ask it any more."""
        async with self._probing:
            await asyncio.to_thread(self._pool.shutdown)
            sessions, self._sessions, self._batcher, self._quick_rows, self._short_rows = self._sessions, [], None, 0, 0
            while not self._idle.empty():
                self._idle.get()
        for session in sessions:
            session.close()

    async def _run_together(self, jobs: list[Job]) -> list[list[Array]]:
        try:
            results, seconds = await asyncio.get_running_loop().run_in_executor(self._pool, self._run_idle, jobs)
        except BadValues as error:
            raise _refusal(error) from None
        self._observe(jobs, seconds)
        return results

    def _run_here(self, jobs: list[Job], session: Session) -> list[list[Array]]:
        try:
            results, seconds = self._run(jobs, session)
        except BadValues as error:
            raise _refusal(error) from None
        self._observe(jobs, seconds)
        return results

    def _observe(self, jobs: list[Job], seconds: float) -> None:
        self.metrics.inference_seconds.observe(seconds)
        self.metrics.batch_size.observe(sum(job.rows for job in jobs))

    def _run_idle(self, jobs: list[Job]) -> tuple[list[list[Array]], float]:
        """Runs jobs on an instance that is idle, or soon is: there is one for each thread, but for quick inferences."""
        session = self._idle.get()
        try:
            return self._run(jobs, session)
        finally:
            self._idle.put(session)

    def _run(self, jobs: list[Job], session: Session) -> tuple[list[list[Array]], float]:
        """Runs jobs of one shape in one inference; returns their results and the seconds that the model took."""
        feeds = jobs[0].feeds
        if len(jobs) > 1:
            feeds = {name: np.concatenate([job.feeds[name] for job in jobs]) for name in feeds}
        begun = time.perf_counter()
        results = session.run(jobs[0].outputs, feeds)
        seconds = time.perf_counter() - begun
        if len(jobs) == 1:
            return [results], seconds
        ends = list(itertools.accumulate((job.rows for job in jobs), initial=0))
        return [[result[low:high] for result in results] for low, high in itertools.pairwise(ends)], seconds

    def _count_rows(self, most: int) -> tuple[int, int]:
        """Most samples of a request that runs where it stands, whoever asks, and of one whose caller is alone."""
        shapes = [tensor.shape for tensor in self.contract.inputs.values()]
        if any(-1 in shape[1:] for shape in shapes):
            return 0, 0  # how long a request takes does not follow from how long the probe does
        jobs = self._full_batch(most)
        rows, seconds = len(jobs) * self._probe.rows, self._shortest(jobs)
        quick = all(shape[:1] == [-1] for shape in shapes) and seconds < min(STALL_SECONDS, rows * QUICK_SECONDS)
        return rows if quick else 0, int(rows * ALONE_SECONDS / seconds)

    def _full_batch(self, most: int) -> list[Job]:
        return [self._probe] * max(1, most // self._probe.rows)

    def _shortest(self, jobs: list[Job]) -> float:
        """Shortest time of some tries, s: what else the machine does can only make them longer."""
        seconds, begun = math.inf, time.perf_counter()
        for _ in range(TRIES):
            started = time.perf_counter()
            self._run_idle(jobs)
            seconds = min(seconds, time.perf_counter() - started)
            if time.perf_counter() - begun > TRIAL_SECONDS:
                break
        return seconds

    def _make_batcher(self, config: ModelConfig) -> Batcher | None:
        if config.max_batch == 1:
            return None
        if reason := self._why_not_together(config.max_batch):
            log.warning("Requests are not put together, although config.json asks for it: %s", reason)
            return None
        return Batcher(self._run_together, config.max_batch, config.batch_wait_ms / 1000, config.instances)

    def _why_not_together(self, most: int) -> str:
        """Why samples of several callers cannot share an inference; empty if they can, which is tried out."""
        contract, probe = self.contract, self._probe
        tensors = [*contract.inputs.values(), *contract.outputs.values()]
        if fixed := [tensor.name for tensor in tensors if not tensor.shape or tensor.shape[0] != -1]:
            return f"the first axis of {fixed[0]!r} is no batch."
        if len({axes[0] for axes in contract.axes.values()}) > 1:
            return "the first axes of the inputs have different names."
        # Other values beside the probe must leave its answer as it is; what reduces over the batch would not.
        other = {name: array * 0.5 if array.dtype.kind == "f" else array for name, array in probe.feeds.items()}
        other = {name: array.astype(probe.feeds[name].dtype, copy=False) for name, array in other.items()}
        batch = self._full_batch(most)
        try:
            [alone], _ = self._run_idle([probe])
            both, _ = self._run_idle([probe, Job(None, other, probe.outputs, set())])
            together, one_by_one = self._shortest(batch), len(batch) * self._shortest([probe])
        except Exception as error:
            return f"samples together fail: {error}"
        for name, one, beside in zip(probe.outputs, alone, both[0], strict=True):
            if one.shape != beside.shape:
                return f"{name!r} has another shape when two samples run together."
            if one.dtype.kind == "f" and not np.allclose(one, beside, 0, MIXED * np.abs(one).max(initial=0)):
                return f"the samples of a batch change each other's {name!r}."
        if len(batch) > 1 and together > PAYS * one_by_one:
            times = f"{together * 1e3:.3g} ms together here, {one_by_one * 1e3:.3g} ms one by one"
            return f"{len(batch) * probe.rows} samples take {times}."
        return ""

    def _check(self, config: ModelConfig, session: Session) -> None:
        for kind, promised, nodes in (
            ("inputs", config.inputs, session.inputs),
            ("outputs", config.outputs, session.outputs),
        ):
            real = {node.name: node for node in nodes}
            same = sorted(real) == sorted(tensor.name for tensor in promised) and all(
                tensor.datatype == real[tensor.name].datatype
                and _agree(tensor.shape, _sizes(real[tensor.name]), either=kind == "outputs")
                for tensor in promised
            )
            if not same:
                listed = "; ".join(f"{node.name} {node.datatype} {_sizes(node)}" for node in nodes)
                raise CannotStart(
                    f"The {kind} in config.json are not those of {config.path}, which has: {listed}. One of the two "
                    "files is of another package: restore both."
                )

    def _first_probe(self, sample: Path | None) -> Job:
        """The sample request where the package has one: not every model takes zeros in its smallest shape."""
        try:
            if sample is not None:
                probe = self.contract.decode(sample.read_bytes())
            else:
                zeros = {
                    tensor.name: np.zeros([max(1, size) for size in tensor.shape], DTYPES[tensor.datatype])
                    for tensor in self.contract.inputs.values()
                }
                probe = Job(None, zeros, list(self.contract.outputs), set())
            for session in self._sessions:
                session.run(probe.outputs, probe.feeds)
        except Exception as error:
            source = sample.name if sample is not None else "zeros"
            raise CannotStart(f"The model fails its first inference, with {source} as input: {error}") from None
        return probe


def _refusal(error: BadValues) -> Refusal:
    return Refusal(400, f"The model does not take these values: {error}")


def _sizes(node: Node) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in node.shape]


def _agree(promised: Sequence[int], real: Sequence[int], either: bool) -> bool:
    """An input may promise less than the model takes; of an output, either side may leave an axis open."""
    return len(promised) == len(real) and all(
        mine == its or its == -1 or (either and mine == -1) for mine, its in zip(promised, real, strict=True)
    )
