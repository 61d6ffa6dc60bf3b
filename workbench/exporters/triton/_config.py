"""The model configuration: tensors, batching, instances and warm-up, each number from the plan of the package."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import ExportError
from workbench.exporters import Contents
from workbench.exporters._parts import DATATYPES, datatype, why_no_batches
from workbench.exporters.triton._backends import Target
from workbench.exporters.triton._pbtxt import Field, Word
from workbench.model import TensorSpec
from workbench.serving_measurements import Derived


@dataclass(frozen=True)
class Batching:
    """How requests are put together.

    Attributes:
        limit: Largest batch that Triton takes; 0 where the batch is an axis like others to it.
        source: Why.
        preferred: Batch to put requests together to; 0 where it does not.
    """

    limit: int
    source: str
    preferred: int = 0


def find_batching(contents: Contents, target: Target, request_batch: int) -> Batching:
    """How requests are put together: as the plan says, where model and backend can.

    Args:
        contents: What is packed.
        target: What runs it.
        request_batch: Largest batch that one request may bring, where that is more than is put together.
    """
    wanted = contents.plan.max_batch
    if not _has_batch_axis(contents):
        return Batching(0, why_no_batches(contents.candidate.engine.model) or "not every tensor has a batch axis")
    if target.batches == 0:
        return Batching(
            0, f"Triton's {target.backend} backend puts no requests together; any batch in a request will do"
        )
    most = math.inf if target.batches is None else target.batches
    preferred = int(min(wanted.value, most))
    limit = int(min(max(preferred, request_batch), most))
    source = wanted.source if preferred == wanted.value else f"the plan of the model was built for at most {most:g}"
    if limit > preferred:
        source = f"the option request_batch; put together to {preferred}: {source}"
    return Batching(limit, source, preferred if preferred > 1 else 0)


def make_config(
    contents: Contents, target: Target, batching: Batching, served_versions: int, queue_limits: bool
) -> tuple[Field, ...]:
    """The fields of config.pbtxt.

    Args:
        contents: What is packed.
        target: What runs it.
        batching: How requests are put together.
        served_versions: Newest versions that are served side by side.
        queue_limits: Whether requests are turned away that are too many, or wait too long.

    Raises:
        ExportError: A tensor is one that Triton does not carry.
    """
    model, plan = contents.candidate.engine.model, contents.plan
    instances = [Field("kind", Word(target.kind)), _number("count", plan.instances)]
    instances += [Field("profile", str(number)) for number in range(target.profiles if target.profiles > 1 else 0)]
    queue = tuple(_queue(contents, batching, queue_limits))
    return (
        Field("name", contents.name),
        Field("backend", target.backend),
        Field("default_model_filename", target.file),
        Field("version_policy", (Field("latest", (Field("num_versions", served_versions),)),)),
        Field("max_batch_size", batching.limit, batching.source),
        *(Field("input", _tensor(spec, contents.sample[spec.name], batching)) for spec in model.inputs),
        *(Field("output", _tensor(spec, contents.answer[spec.name], batching)) for spec in model.outputs),
        Field("instance_group", tuple(instances)),
        *((Field("dynamic_batching", queue),) if queue else ()),
        *target.settings,
        *_warm_up(contents, batching),
    )


def warm_up_files(contents: Contents) -> dict[str, str]:
    """Input → name of the file with its sample; the input's own name wherever files can be called so."""
    names = list(contents.sample)
    plain = all(re.fullmatch(r"[\w:-][\w.:-]*", name, re.ASCII) for name in names)
    return {name: name if plain else f"input-{number}" for number, name in enumerate(names)}


def sent_shape(array: NDArray[Any], spec: TensorSpec, batching: Batching) -> list[int]:
    """The shape under which a tensor travels: Triton knows none without axes beside the batch's."""
    shape = list(array.shape)
    return [*shape, 1] if not _dims(spec, array, batching) else shape


def _has_batch_axis(contents: Contents) -> bool:
    """Whether every tensor has the batch as its first axis, which takes any size."""
    model = contents.candidate.engine.model
    batch = {len(array) for array in contents.sample.values() if array.ndim}
    return (
        len(batch) == 1
        and not why_no_batches(model)
        and {contents.answer[spec.name].shape[:1] for spec in model.outputs} == {(*batch,)}
    )


def _tensor(spec: TensorSpec, array: NDArray[Any], batching: Batching) -> tuple[Field, ...]:
    kind = Word(f"TYPE_{datatype(spec, 'the protocol')}")
    dims = _dims(spec, array, batching)
    if 0 in dims:
        raise ExportError(f"'{spec.name}' has an axis of size 0, which Triton refuses.", "Leave it out of the model.")
    if not dims and not batching.limit:
        raise ExportError(
            f"'{spec.name}' has no axes, and Triton has no tensors of that kind.",
            "Give it an axis of size 1 inside the model.",
        )
    fields = (
        Field("name", spec.name),
        Field("data_type", kind),
        Field("dims", dims or [1]),
    )
    return fields if dims else (*fields, Field("reshape", (Field("shape", []),)))


def _dims(spec: TensorSpec, array: NDArray[Any], batching: Batching) -> list[int]:
    """The axes beside the batch's, -1 for any size."""
    shape = ("?",) * array.ndim if spec.shape == ("...",) else spec.shape
    return [size if isinstance(size, int) else -1 for size in shape][1 if batching.limit else 0 :]


def _queue(contents: Contents, batching: Batching, limits: bool) -> Iterator[Field]:
    """How requests wait. Without anything here, Triton neither puts them together nor limits them."""
    plan = contents.plan
    if batching.preferred:
        yield Field("preferred_batch_size", [batching.preferred])
        wait = plan.batch_wait_ms
        yield Field("max_queue_delay_microseconds", round(1000 * wait.value), wait.source)
    elif batching.limit > 1 and limits:
        yield Field("preferred_batch_size", [1], plan.max_batch.source)
    if limits:
        patience = plan.request_seconds
        timeout = Field("default_timeout_microseconds", round(1e6 * patience.value), patience.source)
        policy = (Field("timeout_action", Word("REJECT")), timeout, _number("max_queue_size", plan.queue))
        yield Field("default_queue_policy", policy)


def _warm_up(contents: Contents, batching: Batching) -> Iterator[Field]:
    """The sample as Triton sends it to each instance before it says that it is ready: alone, and in a full batch."""
    model, files = contents.candidate.engine.model, warm_up_files(contents)
    sizes = {1: "sample", batching.preferred: "batch"} if batching.preferred else {1: "sample"}
    for size, name in sizes.items():
        inputs = []
        for spec in model.inputs:
            shape = sent_shape(contents.sample[spec.name], spec, batching)[1 if batching.limit else 0 :]
            value = (
                Field("data_type", Word(f"TYPE_{DATATYPES[spec.dtype]}")),
                Field("dims", shape),
                Field("input_data_file", files[spec.name]),
            )
            inputs.append(Field("inputs", (Field("key", spec.name), Field("value", value))))
        yield Field("model_warmup", (Field("name", name), Field("batch_size", size), *inputs))


def _number(name: str, number: Derived) -> Field:
    return Field(name, int(np.ceil(number.value)), number.source)
