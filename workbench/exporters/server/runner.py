"""The live model of a serving package: config.json, the session it asks for, and the threads that run it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime reads it while it is imported

import msgspec
import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .limits import Limits, Positive
    from .protocol import DTYPES, Array, Contract, Job, Refusal, Tensor
else:
    from limits import Limits, Positive
    from protocol import DTYPES, Array, Contract, Job, Refusal, Tensor

DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32", "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32", "tensor(int64)": "INT64",
    "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
}  # fmt: skip
MAX_WORKERS = 8

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]+$")]

log = logging.getLogger("serve")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of config.json."""

    name: Name
    version: Name
    model: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    provider: str
    threads: Positive
    limits: Limits
    keep_float_layers: bool = False
    graph_level: Literal["all", "extended", "basic", "disabled"] = "all"
    provider_options: dict[str, str] = {}
    arena: bool = True


_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class CannotStart(Exception):
    """Why the service does not start and what to do about it, in one paragraph."""


def read_config(path: Path) -> Config:
    """Reads config.json; every key must be there and none may be unknown.

    Raises:
        CannotStart: If the file cannot be read or does not hold what it should.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Config)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CannotStart(
            f"{path.name} cannot be used: {error}. Restore the file that came with the package."
        ) from None


class Runner:
    """The live model: a session, the threads that call it, and whether it still answers.

    Args:
        config: What the session must be like.
        folder: Where the model and, if there is one, sample_request.json are.

    Raises:
        CannotStart: If the model cannot be loaded, is not what the config promises, or fails its first inference.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = config.threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = config.arena
        options.graph_optimization_level = _LEVELS[config.graph_level]
        options.log_severity_level = 4  # failed runs raise; the service logs them itself, in its own form
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must cost nothing
        try:
            with warnings.catch_warnings(action="ignore"):  # a missing provider only warns; it is refused below
                # This optimizer computes float layers between quantized ones in INT8 as well.
                unwanted = ["WeightBiasQuantization"] if config.keep_float_layers else []
                providers = [(config.provider, config.provider_options)]
                self._session = ort.InferenceSession(
                    folder / config.model, options, providers=providers, disabled_optimizers=unwanted
                )
        except Exception as error:
            raise CannotStart(f"{config.model} cannot be loaded: {error}.") from None
        self._check(config)
        nodes = self._session.get_inputs()
        axes = {node.name: [size if isinstance(size, str) else None for size in node.shape] for node in nodes}
        self.contract = Contract(config.name, config.version, config.inputs, config.outputs, axes)
        self._pool = ThreadPoolExecutor(max(1, min(MAX_WORKERS, (os.cpu_count() or 1) // config.threads)))
        self._probe = self._first_probe(folder / "sample_request.json")
        self._probing = asyncio.Lock()
        self._healthy, self._seen = True, time.monotonic()

    async def infer(self, job: Job) -> list[Array]:
        """Runs one request in a worker thread; further ones wait for a free thread."""
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._pool, self._run, job)
        except InvalidArgument as error:  # such as an index outside a table: the caller's values, not a fault
            raise Refusal(400, f"The model does not take these values: {str(error)[-300:]}") from None
        self._healthy, self._seen = True, time.monotonic()
        return results

    async def ready(self, timeout: float) -> bool:
        """Whether the model answered within the last second; if none asked it, it is asked now."""
        async with self._probing:
            if time.monotonic() - self._seen >= 1:
                try:
                    async with asyncio.timeout(timeout):
                        await self.infer(self._probe)
                except Exception:
                    log.exception("The model failed its readiness check")
                    self._healthy, self._seen = False, time.monotonic()
            return self._healthy

    def _run(self, job: Job) -> list[Array]:
        return cast(list[Array], self._session.run(job.outputs, job.feeds))

    def _check(self, config: Config) -> None:
        actual = self._session.get_providers()[0]
        if actual != config.provider:
            raise CannotStart(
                f"The model was measured on {config.provider}, but this machine runs it on {actual}: its speed "
                f"would differ. Install the onnxruntime that has {config.provider}, or change provider in config.json."
            )
        for kind, promised, nodes in (
            ("inputs", config.inputs, self._session.get_inputs()),
            ("outputs", config.outputs, self._session.get_outputs()),
        ):
            real = {node.name: (DATATYPES.get(node.type, node.type), _sizes(node.shape)) for node in nodes}
            same = sorted(real) == sorted(tensor.name for tensor in promised) and all(
                tensor.datatype == real[tensor.name][0]
                and _agree(tensor.shape, real[tensor.name][1], either=kind == "outputs")
                for tensor in promised
            )
            if not same:
                listed = "; ".join(f"{name} {datatype} {shape}" for name, (datatype, shape) in real.items())
                raise CannotStart(
                    f"The {kind} in config.json are not those of {config.model}, which has: {listed}. One of the two "
                    "files is of another package: restore both."
                )

    def _first_probe(self, sample: Path) -> Job:
        """The sample request where the package has one: not every model takes zeros in its smallest shape."""
        try:
            if sample.exists():
                probe = self.contract.decode(sample.read_bytes())
            else:
                zeros = {
                    tensor.name: np.zeros([max(1, size) for size in tensor.shape], DTYPES[tensor.datatype])
                    for tensor in self.contract.inputs.values()
                }
                probe = Job(None, zeros, list(self.contract.outputs), set())
            self._run(probe)
        except Exception as error:
            source = sample.name if sample.exists() else "zeros"
            raise CannotStart(f"The model fails its first inference, with {source} as input: {error}") from None
        return probe


def _sizes(shape: Sequence[Any]) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape]


def _agree(promised: Sequence[int], real: Sequence[int], either: bool) -> bool:
    """An input may promise less than the model takes; of an output, either side may leave an axis open."""
    return len(promised) == len(real) and all(
        mine == its or its == -1 or (either and mine == -1) for mine, its in zip(promised, real, strict=True)
    )
