"""What a serving package serves: the versions of its models, the places in their queues, and how versions change."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from asyncio import timeout
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .board import Board, BoardFull
    from .config import CannotStart, Config, ModelConfig, read_config
    from .limits import ClientGone
    from .metrics import IN_FLIGHT, QUEUE_LIMIT
    from .protocol import Array, Job, Refusal
    from .runner import Runner
else:
    from board import Board, BoardFull
    from config import CannotStart, Config, ModelConfig, read_config
    from limits import ClientGone
    from metrics import IN_FLIGHT, QUEUE_LIMIT
    from protocol import Array, Job, Refusal
    from runner import Runner

Files = tuple[tuple[str, int, int, int], ...]  # of each: name, size, time of its last change, inode

log = logging.getLogger("serve")


class Place:
    """One request and its place in a model's queue, counted whatever becomes of it; a context manager.

    It has the place from `take` on, once its body is there: slow callers hold none.

    Args:
        served: The model.
        protocol: What it was asked by.

    Raises:
        Refusal: On entering and by `take`, with status 503, if the queue is full.
    """

    __slots__ = ("_begun", "_protocol", "_served", "_taken")

    def __init__(self, served: Served, protocol: str) -> None:
        self._served = served
        self._protocol = protocol
        self._taken = False
        self._begun = time.perf_counter()

    def __enter__(self) -> Place:
        served = self._served
        if served.in_flight >= served.config.queue:
            served.metrics.answered(self._protocol, 503)
            raise self._full()
        served.users += 1
        return self

    def take(self) -> None:
        """Takes the place."""
        served = self._served
        if served.in_flight >= served.config.queue:
            raise self._full()
        self._taken = True
        served.in_flight += 1
        served.metrics.gauges[IN_FLIGHT] += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = 200 if error is None else getattr(error, "status", 500)
        if isinstance(error, asyncio.CancelledError):
            status = ClientGone.status
        served = self._served
        served.users -= 1
        if self._taken:
            served.in_flight -= 1
            served.metrics.gauges[IN_FLIGHT] -= 1
        served.metrics.answered(self._protocol, status, time.perf_counter() - self._begun)

    def _full(self) -> Refusal:
        return Refusal(503, f"{self._served.in_flight} requests are in progress, which is the limit; try again.")


class Served:
    """One version of one model that can be asked.

    Args:
        config: The model.
        runner: The same, live.
        files: What it was loaded from.
    """

    def __init__(self, config: ModelConfig, runner: Runner, files: Files = ()) -> None:
        self.config = config
        self.runner = runner
        self.files = files
        self.contract = runner.contract
        self.metrics = runner.metrics
        self.in_flight = 0  # requests whose bodies are there
        self.users = 0  # these, and those that still arrive

    async def infer(self, job: Job, alone: bool = False) -> list[Array]:
        """Runs one request within its time.

        Args:
            job: The request.
            alone: Whether nobody else asks.

        Raises:
            Refusal: If it takes too long, or the model does not take its values.
        """
        self.metrics.fed(job.feeds)
        if (results := await self.runner.infer_here(job, alone)) is not None:  # so quick that no clock is needed
            return results
        try:
            async with timeout(self.config.request_seconds):
                return await self.runner.infer(job)
        except TimeoutError:
            log.error("A request took more than %s s", self.config.request_seconds)
            raise Refusal(504, f"The inference took more than {self.config.request_seconds} s.") from None

    async def ready(self) -> bool:
        """Whether the model answers."""
        return await self.runner.ready(self.config.request_seconds)

    async def retire(self) -> None:
        """Waits for the requests that still have it, and gives everything back."""
        while self.users:
            await asyncio.sleep(0.05)
        await self.runner.close()


class Loader:
    """Makes configured models live.

    Args:
        folder: Where the package is.
        config: What holds for all models; it stays as it is when versions change.
        board: Where is counted.
    """

    def __init__(self, folder: Path, config: Config, board: Board) -> None:
        self.board = board
        self._folder = folder
        self._config = config
        self._protocols = ("http", "grpc") if config.grpc else ("http",)

    def load(self, model: ModelConfig) -> Served:
        """Loads one model.

        Raises:
            CannotStart: If it cannot be used.
        """
        files = self._files(model)
        try:
            runner = Runner(model, self._folder, self._config.allow_nan, self._protocols, self.board)
        except BoardFull:
            raise CannotStart("So many versions were loaded that no counters are left: start it again.") from None
        return Served(model, runner, files)

    def load_again(self, current: Sequence[Served]) -> list[Served]:
        """Reads config.json again and loads what is new in it; what is as it was, files included, stays live.

        Raises:
            CannotStart: If the file or a model in it cannot be used; then nothing new stays loaded.
        """
        config = read_config(self._folder / "config.json")
        fixed = [name for name in config.__struct_fields__ if name != "models"]
        if changed := [name for name in fixed if getattr(config, name) != getattr(self._config, name)]:
            log.warning("Changes of %s are for the next start; only models change meanwhile", ", ".join(changed))
        kept = {(old.config.name, old.config.version): old for old in current}
        found = []
        for model in config.models:
            old = kept.get((model.name, model.version))
            same = old is not None and (_without_sample(old.config), old.files) == (
                _without_sample(model),
                self._files(model),
            )
            found.append(old if old is not None and same else self.load(model))
        return found

    def _files(self, model: ModelConfig) -> Files:
        """The model's file, and those beside it that may hold its weights; its samples are for the start alone."""
        path = self._folder / model.path
        beside = path.parent.rglob("*") if path.parent != self._folder else [path]
        found = sorted(one for one in beside if one.is_file() and not one.name.startswith("sample_"))
        told = [(one, one.stat()) for one in found]
        return tuple((str(one), stat.st_size, stat.st_mtime_ns, stat.st_ino) for one, stat in told)


class Models:
    """All that is served.

    Args:
        served: Every version of every model; of several versions, the last answers requests that name none.
        key: What callers must send; None if the service has no key.
        board: Where is counted.
    """

    def __init__(self, served: Sequence[Served], key: bytes | None, board: Board) -> None:
        self.board = board
        self.draining = False
        self._key = key
        self._retiring: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references
        self._take(served)

    def find(self, name: str, version: str = "") -> Served:
        """A model by its name, and its version if the caller says one.

        Raises:
            Refusal: With status 404 and what there is.
        """
        versions = self._versions.get(name)
        if versions is None:
            raise Refusal(404, f"There is no model {name[:80]!r} here; there is {', '.join(self._versions)}.")
        if version and version not in versions:
            raise Refusal(404, f"There is no version {version[:80]!r} of {name!r}; there is {', '.join(versions)}.")
        return versions[version or next(reversed(versions))]

    def versions(self, name: str) -> list[str]:
        """The versions of a model that was found; it may be gone since."""
        return list(self._versions.get(name, ()))

    def authorize(self, header: bytes) -> None:
        """Checks a caller's Authorization header.

        Raises:
            Refusal: With status 401 if it does not hold the key.
        """
        scheme, _, given = header.partition(b" ")
        if self._key and not (scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key)):
            raise Refusal(401, "The request needs the service's key, in the header Authorization: Bearer KEY.")

    async def ready(self) -> bool:
        """Whether every model answers, and the service is not about to end."""
        return not self.draining and all([await model.ready() for model in self.all])

    def patience(self) -> float:
        """Longest time that a request may take, s."""
        return max(model.config.request_seconds for model in self.all)

    async def change(self, loader: Loader) -> str:
        """Reads config.json again: new versions answer from the moment that all are ready, and the old ones retire.

        Returns:
            Why everything stays as it was; empty if it is as the file says now.
        """
        before = self.all
        try:
            served = await asyncio.to_thread(loader.load_again, before)
        except CannotStart as reason:
            log.error("The models stay as they were. %s", reason, extra={"fields": {"event.action": "reload"}})
            return str(reason)
        self._take(served)
        old = [model for model in before if model not in served]
        new = [model for model in served if model not in before]
        log.info(
            "Serving %s; new: %s; gone: %s",
            *(", ".join(_named(some)) or "nothing" for some in (served, new, old)),
            extra={"fields": {"event.action": "reload"}},
        )
        for model in old:  # none waits for the slow requests of another, nor does the next change
            task = asyncio.get_running_loop().create_task(model.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        return ""

    def _take(self, served: Sequence[Served]) -> None:
        versions: dict[str, dict[str, Served]] = {}
        for model in served:
            versions.setdefault(model.config.name, {})[model.config.version] = model
            model.metrics.gauges[QUEUE_LIMIT] = model.config.queue
        self.all, self._versions = served, versions


def _without_sample(model: ModelConfig) -> ModelConfig:
    """Without the sample that it was tried with."""
    return msgspec.structs.replace(model, sample="")


def _named(models: Sequence[Served]) -> Iterator[str]:
    return (f"{model.config.name} {model.config.version}" for model in models)
