"""Puts requests of one shape together into one inference: where they stand, or while others run in threads."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .protocol import Array, Job
    from .sessions import Session
else:
    from protocol import Array, Job
    from sessions import Session

RunTogether = Callable[[list[Job]], Awaitable[list[list[Array]]]]
RunHere = Callable[[list[Job], Session], list[list[Array]]]

MOST_SKIPPED = 32  # requests that begin at once before it is seen again whether others come along
ALONE_SECONDS = 0.1  # without anybody else asking


class _Waiting(NamedTuple):
    job: Job
    since: float
    answer: asyncio.Future[list[Array]]


class Alone:
    """Whether one connection alone asks: then nobody waits while a short inference holds up the event loop.

    It is cheaper there than in a thread, to whose core the request's values would have to come.
    """

    def __init__(self) -> None:
        self._caller: object = None
        self._since = math.inf

    def asks(self, caller: object, now: float) -> bool:
        """Notes who asks; returns whether nobody else did for a while, in seconds of any clock."""
        if caller != self._caller:
            self._caller, self._since = caller, now
        return now - self._since > ALONE_SECONDS


class Gatherer:
    """Requests of a model so quick that handing them to a thread and back would take longer than they do.

    They run in the event loop itself. Those that have arrived together run together; nobody waits for others, and a
    caller alone does not even go round the loop.

    Args:
        run: Runs some jobs of one shape in one inference, and gives their results in that order.
        idle: The instances that nobody uses.
        max_batch: Most samples in one inference.
    """

    def __init__(self, run: RunHere, idle: SimpleQueue[Session], max_batch: int) -> None:
        self._run = run
        self._idle = idle
        self._max = max_batch
        self._gathered: list[_Waiting] = []
        self._session: Session | None = None  # kept from the first that is gathered until all have run
        self._skip = self._pause = 0

    async def infer(self, job: Job) -> list[Array] | None:
        """Runs one request, with others where they come along; None if every instance is busy in a thread."""
        if self._session is None:
            try:
                session = self._idle.get_nowait()
            except Empty:
                return None
            if self._max == 1 or self._skip:
                self._skip = max(0, self._skip - 1)
                try:
                    return self._run([job], session)[0]
                finally:
                    self._idle.put(session)
            self._session = session
        loop = asyncio.get_running_loop()
        waiting = _Waiting(job, 0.0, loop.create_future())
        self._gathered.append(waiting)
        if len(self._gathered) == 1:
            loop.call_soon(self._run_gathered, self._session)  # after all that can run now, which may bring others
        return await waiting.answer

    def _run_gathered(self, session: Session) -> None:
        gathered, self._gathered, self._session = self._gathered, [], None
        self._pause = 0 if len(gathered) > 1 else min(2 * self._pause + 1, MOST_SKIPPED)
        self._skip = self._pause
        queues: dict[Hashable, list[_Waiting]] = {}
        try:
            for waiting in gathered:
                if not waiting.answer.done():
                    queues.setdefault(_signature(waiting.job), []).append(waiting)
            for queue in queues.values():
                for batch in _split(queue, self._max):
                    self._answer(batch, session)
        finally:
            self._idle.put(session)

    def _answer(self, batch: Sequence[_Waiting], session: Session) -> None:
        try:
            results = self._run([waiting.job for waiting in batch], session)
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for waiting in batch:  # the values of one caller must not fail the others
                self._answer([waiting], session)
            return
        for waiting, result in zip(batch, results, strict=True):
            waiting.answer.set_result(result)


class Batcher:
    """The requests that wait, and when they begin.

    While every instance is busy, requests gather anyway. When one is free, those that wait begin at once if they are as
    many as came together last time, and else wait for the rest: a caller alone never waits, and callers in step meet.

    Args:
        run: Runs some jobs of one shape in one inference, and gives their results in that order.
        max_batch: Most samples in one inference.
        wait_seconds: Longest time that a request waits for others although an instance is free.
        instances: Inferences side by side.
    """

    def __init__(self, run: RunTogether, max_batch: int, wait_seconds: float, instances: int) -> None:
        self._run = run
        self._max = max_batch
        self._wait = wait_seconds
        self._free = instances
        self._queues: dict[Hashable, list[_Waiting]] = {}
        self._last = 1  # samples in the inference before
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references

    async def infer(self, job: Job) -> list[Array]:
        """Runs one request, with others where that pays."""
        if self._free and not self._queues and job.rows >= min(self._last, self._max):
            # Nobody waits and nobody is waited for: as without batches, in the caller's own task.
            self._free -= 1
            self._last = job.rows
            try:
                return (await self._run([job]))[0]
            finally:
                self._free += 1
                self._begin()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(job, loop.time(), loop.create_future())
        self._queues.setdefault(_signature(job), []).append(waiting)
        self._begin()
        return await waiting.answer

    def _begin(self) -> None:
        """Begins what is due while an instance is free, and comes back when the next is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._free and self._queues:
            signature = min(self._queues, key=lambda key: self._due(self._queues[key]))
            due = self._due(self._queues[signature])
            if due > loop.time():
                self._timer = loop.call_at(due, self._begin)
                return
            if batch := self._take(signature):
                self._free -= 1
                task = loop.create_task(self._finish(batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _due(self, queue: list[_Waiting]) -> float:
        """When a queue begins: enough of them begin before all others, the oldest first."""
        enough = sum(waiting.job.rows for waiting in queue) >= min(self._last, self._max)
        return queue[0].since - self._wait if enough else queue[0].since + self._wait

    def _take(self, signature: Hashable) -> list[_Waiting]:
        """The first of a queue that fit into one inference; those that gave up meanwhile are left out."""
        queue = [waiting for waiting in self._queues.pop(signature) if not waiting.answer.done()]
        batch = next(_split(queue, self._max), [])
        if rest := queue[len(batch) :]:
            self._queues[signature] = rest
        self._last = sum(waiting.job.rows for waiting in batch) or self._last
        return batch

    async def _finish(self, batch: list[_Waiting]) -> None:
        try:
            await self._answer(batch)
        finally:
            self._free += 1
            self._begin()

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            results = await self._run([waiting.job for waiting in batch])
        except Exception as error:
            if len(batch) == 1:
                if not batch[0].answer.done():
                    batch[0].answer.set_exception(error)
                return
            for waiting in batch:  # the values of one caller must not fail the others
                await self._answer([waiting])
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(result)


def _signature(job: Job) -> Hashable:
    """The same for jobs that can share an inference."""
    return (tuple(job.outputs), *((name, array.shape[1:]) for name, array in sorted(job.feeds.items())))


def _split(queue: list[_Waiting], most: int) -> Iterator[list[_Waiting]]:
    """Parts of a queue with as many samples as fit into one inference; what alone is too large is a part too."""
    begin = rows = 0
    for place, waiting in enumerate(queue):
        if rows and rows + waiting.job.rows > most:
            yield queue[begin:place]
            begin, rows = place, 0
        rows += waiting.job.rows
    if queue:
        yield queue[begin:]
