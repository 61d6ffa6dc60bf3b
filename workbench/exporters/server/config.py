"""What config.json of a serving package says, checked before anything is loaded."""

from __future__ import annotations

import itertools
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .limits import Limits, Positive, Seconds
    from .protocol import Tensor
else:
    from limits import Limits, Positive, Seconds
    from protocol import Tensor

KEY_VARIABLE = "WORKBENCH_API_KEY"
SHORTEST_KEY = 16
MOST_WORKERS = 256
USUAL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]+$")]


class CannotStart(Exception):
    """Why the service does not start and what to do about it, in one paragraph."""


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an input was distributed in the samples that came with the model: what drift is told by."""

    name: str
    mean: float
    deviation: float  # standard deviation of the samples' own means


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version of one model, and how it is run."""

    name: Name
    version: Name
    path: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    provider: str  # ONNX Runtime's execution provider, or OpenVINO's device
    threads: Positive
    backend: Literal["onnxruntime", "openvino", "tensorrt"] = "onnxruntime"
    sample: str = ""  # a request that readiness is told by; zeros if there is none
    instances: Positive = 1
    max_batch: Positive = 1  # 1: requests are not put together
    batch_wait_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    queue: Positive = 64
    request_seconds: Seconds = 30.0
    buckets_seconds: tuple[Seconds, ...] = USUAL_BUCKETS
    references: tuple[Reference, ...] = ()
    keep_float_layers: bool = False
    graph_level: Literal["all", "extended", "basic", "disabled"] = "all"
    provider_options: dict[str, str | int | bool] = {}  # OpenVINO's are its properties
    arena: bool = True

    def __post_init__(self) -> None:
        for path in (self.path, self.sample):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"{path!r} leads out of the package")
        if any(low >= high for low, high in itertools.pairwise(self.buckets_seconds)):
            raise ValueError("buckets_seconds must rise")
        if unknown := {reference.name for reference in self.references} - {tensor.name for tensor in self.inputs}:
            raise ValueError(f"references names {sorted(unknown)[0]!r}, which is no input")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of config.json; of several versions, the last answers requests that name none."""

    models: Annotated[list[ModelConfig], msgspec.Meta(min_length=1)]
    limits: Limits
    api_key: Literal["none", "environment"] = "none"
    allow_nan: bool = False
    log_requests: bool = False
    grpc: bool = False
    workers: Annotated[int, msgspec.Meta(ge=1, le=MOST_WORKERS)] = 1  # processes; what is said of models is for each

    def __post_init__(self) -> None:
        versions = [(model.name, model.version) for model in self.models]
        if len(set(versions)) < len(versions):
            raise ValueError("a version of a model stands there twice")


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


def read_key(config: Config) -> bytes | None:
    """The key that callers must send; None if the service has none by choice.

    Raises:
        CannotStart: If there should be one, and the environment holds none that is any good.
    """
    if config.api_key == "none":
        return None
    key = os.environ.get(KEY_VARIABLE, "")
    if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable()) or " " in key:
        raise CannotStart(
            f"The environment variable {KEY_VARIABLE} must hold the key that callers send: at least {SHORTEST_KEY} "
            "ASCII characters without spaces. Set it, or set api_key to none in config.json."
        )
    return key.encode()
