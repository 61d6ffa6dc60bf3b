"""Runs plans on NVIDIA GPUs: streams, pinned memory, CUDA graphs, optimization profiles. Not run on a GPU yet."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from workbench.backends._cuda import Event, Graph
from workbench.backends._feeds import check_feed
from workbench.backends._tensorrt_lane import Lane
from workbench.backends._tensorrt_loaded import Plan, choose_profile, misfits
from workbench.backends._tensorrt_plan import load_plan
from workbench.engine import Engine, Tensors
from workbench.errors import EngineError, ModelError, ProviderError
from workbench.model import Model

_WARM_UP = 3  # runs before a call is timed: RTX makes its CUDA graph in the second and launches it from the third on


@contextlib.contextmanager
def open_plan(engine: Engine) -> Iterator[PlanRunner]:
    """Loads an engine onto the GPU, for as long as the block lasts.

    Raises:
        EngineError: The file is damaged, or the plan was built by another version or for another GPU.
        ProviderError: There is no GPU or no driver, the driver is too old, or there is no memory.
        MissingDependencyError: The package that built it, or cuda-python, is not installed.
    """
    with load_plan(engine) as plan:
        runner = PlanRunner(engine, plan)
        try:
            yield runner
        finally:
            runner.close()


class PlanRunner:
    """A live plan. Callers side by side each get a lane of their own: a context, a stream, memory."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self._model, self._plan = engine.model, plan
        self._outputs = [spec.name for spec in engine.model.outputs]
        self._placement = {f"{engine.device} ({plan.cuda.gpu.name})": max(1, plan.loaded.num_layers)}
        self._lock = threading.Lock()  # around the lists below, and around the making of contexts
        self._free: dict[int, list[Lane]] = {}
        self._bound: list[BoundCall] = []

    @property
    def placement(self) -> Mapping[str, int]:
        """Layers of the plan by what runs them, e.g. `{'SM89 (NVIDIA L4)': 24}`: a plan runs on the GPU alone."""
        return self._placement

    @property
    def device_timer(self) -> Callable[[Callable[[], object]], float]:
        """What measures a bound call's time on the device, ms: copies and inference, from the first to the last."""
        return _device_ms

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        """Runs the model once.

        Raises:
            ModelError: The inputs do not fit the model or any of its profiles, or TensorRT cannot run them.
            ProviderError: There is no memory for them on the GPU.
        """
        profile = pick_profile(self._model, self._plan, feed)
        with self._plan.cuda, self._lane(profile) as lane:
            outputs = lane.run(feed)
            return {name: outputs[name].copy() for name in self._outputs}

    def bind(self, feed: Tensors) -> BoundCall:
        """A call that copies the feed from pinned memory to the GPU, runs it and copies the outputs back.

        The copies and the inference are one CUDA graph where that can be captured; the outputs stay in pinned memory,
        where the next call writes to.

        Raises:
            ModelError: The inputs do not fit the model or any of its profiles, or TensorRT cannot run them.
            ProviderError: There is no memory for them on the GPU.
        """
        profile = pick_profile(self._model, self._plan, feed)
        with self._plan.cuda:
            with self._lock:
                lane = Lane(self._plan, profile)
            try:
                for _ in range(_WARM_UP):
                    outputs = lane.run(feed)
                graph = self._capture(lane)
            except BaseException:
                lane.close()
                raise
            call = BoundCall(self._plan, lane, graph, {name: outputs[name] for name in self._outputs})
        with self._lock:
            self._bound.append(call)
        return call

    def close(self) -> None:
        """Gives all memory back; bound calls refuse to run from now on."""
        with self._plan.cuda, self._lock:
            for call in self._bound:
                call.close()
            for lanes in self._free.values():
                for lane in lanes:
                    lane.close()
            self._bound, self._free = [], {}

    @contextlib.contextmanager
    def _lane(self, profile: int) -> Iterator[Lane]:
        """A lane that nobody else uses meanwhile."""
        with self._lock:
            free = self._free.setdefault(profile, [])
            lane = free.pop() if free else Lane(self._plan, profile)
        try:
            yield lane
        except BaseException:
            with contextlib.suppress(ProviderError):  # what went wrong first is what counts
                lane.close()
            raise
        with self._lock:
            free.append(lane)

    def _capture(self, lane: Lane) -> Graph | None:
        """The lane's work as a graph; None where there is none to be had, or TensorRT makes its own."""
        if not self._plan.graphs or self._plan.captures_itself or not lane.knows_shapes:
            return None
        capturable = getattr(lane.context, "is_stream_capturable", None)
        if capturable is not None and not capturable(lane.stream.address):
            return None
        try:
            with self._lock:
                graph = Graph(self._plan.cuda, lane.stream, lane.enqueue)
            graph.launch()
            lane.stream.synchronize()
        except (ModelError, ProviderError):  # some layers wait for the GPU in between: such a plan runs without
            self._plan.log.reason()
            return None
        return graph


class BoundCall:
    """An inference whose inputs lie in pinned memory. Called, it returns when the outputs do too."""

    def __init__(self, plan: Plan, lane: Lane, graph: Graph | None, outputs: Mapping[str, NDArray[Any]]) -> None:
        self._cuda, self._lane, self._graph, self._outputs = plan.cuda, lane, graph, outputs
        self._name = plan.name
        self._enqueue = graph.launch if graph else lane.enqueue
        self._knows_shapes = lane.knows_shapes
        self._lock = threading.Lock()
        self._begin, self._end = Event(plan.cuda), Event(plan.cuda)

    @property
    def has_graph(self) -> bool:
        """Whether it is one CUDA graph of ours."""
        return self._graph is not None

    def __call__(self) -> Mapping[str, NDArray[Any]]:
        """Runs once.

        Returns:
            The outputs by name, in memory that the next call writes to.
        """
        with self._lock, self._cuda:
            self._enqueue()
            self._lane.stream.synchronize()
            return self._outputs if self._knows_shapes else self._lane.collect()

    def device_ms(self) -> float:
        """Runs once; the time on the device from the first copy to the last, ms."""
        with self._lock, self._cuda:
            self._begin.record(self._lane.stream)
            self._enqueue()
            self._end.record(self._lane.stream)
            return self._end.ms_since(self._begin)

    def close(self) -> None:
        """Gives everything back; the GPU must be current."""
        with self._lock:
            self._lane.stream.synchronize()
            for part in (self._graph, self._begin, self._end, self._lane):
                if part is not None:
                    part.close()
            self._graph, self._enqueue = None, self._refuse

    def _refuse(self) -> None:
        raise EngineError(f"The runner of {self._name} is closed.", "Call it inside the block that opened it.")


def _device_ms(call: Callable[[], object]) -> float:
    if not isinstance(call, BoundCall):
        raise TypeError("Only what `bind` gave can be timed on the device.")
    return call.device_ms()


def pick_profile(model: Model, plan: Plan, feed: Tensors) -> int:
    """The number of the optimization profile to run a feed with.

    Raises:
        ModelError: The feed does not fit the model, or none of the profiles.
    """
    check_feed(model, feed, plan.package.title)
    shapes = {name: array.shape for name, array in feed.items()}
    if (found := choose_profile(shapes, plan.profiles)) is not None:
        return found
    raise ModelError(
        f"{plan.package.title} cannot run {model.name}: {misfits(shapes, plan.profiles)}.",
        "Run it within that range, or build the engine with a profile that covers it ('max_batch' or 'profiles').",
    )
