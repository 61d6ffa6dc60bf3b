"""Plans of TensorRT and TensorRT-RTX, run by the workbench's own code, shipped beside this. Not run on a GPU yet."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # type checkers find these files in the workbench; they are shipped, and run, side by side
    from ...backends._cuda import Cuda
    from ...backends._tensorrt_lane import Lane
    from ...backends._tensorrt_loaded import Plan, choose_profile, deserialize, misfits, stream_weights
    from ...backends._tensorrt_package import find_package
    from ...errors import WorkbenchError
    from .config import CannotStart, ModelConfig
    from .protocol import Array
    from .sessions import BadValues, Node, Session
else:
    from _cuda import Cuda
    from _tensorrt_lane import Lane
    from _tensorrt_loaded import Plan, choose_profile, deserialize, misfits, stream_weights
    from _tensorrt_package import find_package
    from config import CannotStart, ModelConfig
    from errors import WorkbenchError
    from protocol import Array
    from sessions import BadValues, Node, Session

_TYPES = {
    "BOOL": "BOOL", "UINT8": "UINT8", "INT8": "INT8", "INT32": "INT32", "INT64": "INT64",
    "HALF": "FP16", "FLOAT": "FP32",
}  # fmt: skip


def open_plan(config: ModelConfig, path: Path) -> Sequence[Session]:
    """Loads a plan onto the GPU once, with a session for each instance.

    Raises:
        CannotStart: If the plan, the GPU or what runs it cannot be used.
    """
    options = config.provider_options
    try:
        package = find_package(cast(Any, options["package"]))
        if package.version != options["version"]:
            raise CannotStart(
                f"{config.path} was built with {package.name} {options['version']}, and here is {package.version}, "
                "which cannot load it. Install the one of requirements.txt."
            )
        cuda = Cuda(int(options.get("gpu", 0)))
        with cuda:
            loaded, log = deserialize(path, package, config.path)
            stream_weights(loaded, package, options)
        plan = Plan(config.name, package, cuda, loaded, log, graphs=bool(options.get("cuda_graphs", True)))
        lock = threading.Lock()
        return [PlanSession(plan, lock) for _ in range(config.instances)]
    except WorkbenchError as error:
        raise CannotStart(
            f"{config.path} cannot be run here: {error.message} It takes an NVIDIA GPU of its kind ({config.provider}) "
            "with its driver, and what requirements.txt names."
        ) from None


class PlanSession:
    """A plan with execution contexts and streams of this session's own, one for each optimization profile.

    Args:
        plan: What it runs; all sessions share it.
        lock: Around the making of contexts.
    """

    def __init__(self, plan: Plan, lock: threading.Lock) -> None:
        self._plan, self._lock = plan, lock
        self._lanes: dict[int, Lane] = {}
        modes, loaded = plan.package.module.TensorIOMode, plan.loaded
        self.inputs: list[Node] = []
        self.outputs: list[Node] = []
        for name in (loaded.get_tensor_name(place) for place in range(loaded.num_io_tensors)):
            kind = loaded.get_tensor_dtype(name).name
            shape = [int(size) if size >= 0 else None for size in loaded.get_tensor_shape(name)]
            nodes = self.inputs if loaded.get_tensor_mode(name) == modes.INPUT else self.outputs
            nodes.append(Node(name, _TYPES.get(kind, kind), cast(list[int | str | None], shape)))

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Runs the model once."""
        shapes = {name: array.shape for name, array in feeds.items()}
        profile = choose_profile(shapes, self._plan.profiles)
        if profile is None:
            raise BadValues(f"{misfits(shapes, self._plan.profiles)}.")
        with self._plan.cuda:
            if profile not in self._lanes:
                with self._lock:
                    self._lanes[profile] = Lane(self._plan, profile)
            try:
                results = self._lanes[profile].run(feeds)
                return [results[name].copy() for name in outputs]
            except BaseException:
                self._lanes.pop(profile).close()  # nobody knows what state it is in
                raise

    def close(self) -> None:
        """Gives the memory of this session back; the plan's own goes with the last of them."""
        with self._plan.cuda:
            while self._lanes:
                self._lanes.popitem()[1].close()
