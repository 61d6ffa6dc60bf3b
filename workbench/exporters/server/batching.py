"""Puts requests of one shape together into one inference, while others run and for no longer than it pays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .protocol import Array, Job
else:
    from protocol import Array, Job

RunTogether = Callable[[list[Job]], Awaitable[list[list[Array]]]]


class _Waiting(NamedTuple):
    job: Job
    since: float
    answer: asyncio.Future[list[Array]]


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
        signature = (tuple(job.outputs), *((n, a.shape[1:]) for n, a in sorted(job.feeds.items())))
        self._queues.setdefault(signature, []).append(waiting)
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
        rows = taken = 0
        while taken < len(queue) and (taken == 0 or rows + queue[taken].job.rows <= self._max):
            rows += queue[taken].job.rows
            taken += 1
        if queue[taken:]:
            self._queues[signature] = queue[taken:]
        self._last = rows or self._last
        return queue[:taken]

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
