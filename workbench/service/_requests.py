"""Requests for a running service: what its model takes, as whole HTTP requests of the Open Inference Protocol V2."""

from __future__ import annotations

import json
import math
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.errors import DatasetError, ExportError, OptionsError, ServiceError
from workbench.exporters import Package
from workbench.exporters._parts import DATATYPES
from workbench.exporters.server.grpc_messages import message_classes
from workbench.service._pages import authorization, base_url, get_page, read_service
from workbench.service._words import OtherAnswerError

Arrays = Mapping[str, NDArray[Any]]
Tensors = Literal["binary", "json", "grpc"]

MOST_REQUESTS, _MOST_BYTES = 64, 64_000_000  # different ones that are sent in turns, and all of them together
_SAMPLES = ("sample_request.json", "image/sample_request.json")  # the latter of an image's build context
_DTYPES = {name: np.dtype(dtype).newbyteorder("<") for dtype, name in DATATYPES.items()}


@dataclass(frozen=True)
class ServedModel:
    """What a service says of one of its models.

    Attributes:
        name: Its name.
        version: The version that is asked; empty for the one that the service chooses.
        inputs: Name, datatype and shape of each input; -1 stands for a dynamic axis.
    """

    name: str
    version: str
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]

    @property
    def path(self) -> str:
        """Where it is."""
        version = f"/versions/{urllib.parse.quote(self.version, safe='')}" if self.version else ""
        return f"/v2/models/{urllib.parse.quote(self.name, safe='')}{version}"


def find_model(url: str, key: str, name: str, version: str) -> ServedModel:
    """Asks a service what its model takes.

    Args:
        url: Its address.
        key: Its key, if it wants one.
        name: The model's name; the only one if empty.
        version: Its version; the one that the service chooses if empty.

    Raises:
        ServiceError: It does not answer, or there are several models and none is named.
    """
    base, wanted = base_url(url), ServedModel(name or _only_model(url, key), version, ())
    page = get_page(f"{base}{wanted.path}", key, 5.0)
    try:
        inputs = tuple(
            (str(i["name"]), str(i["datatype"]), tuple(map(int, i["shape"]))) for i in json.loads(page)["inputs"]
        )
    except (ValueError, KeyError, TypeError):
        raise ServiceError(
            f"{base}{wanted.path} does not say what the model takes.", "Check the address and the model's name."
        ) from None
    for tensor, kind, _ in inputs:
        if kind not in _DTYPES:
            raise ServiceError(
                f"Input '{tensor}' of {wanted.name} is {kind}, of which no requests can be made.",
                f"Only {', '.join(_DTYPES)} can be sent.",
            )
    return ServedModel(wanted.name, version, inputs)


def _only_model(url: str, key: str) -> str:
    try:
        names = dict.fromkeys(name for name, _ in read_service(url, key=key).models())
    except OtherAnswerError as error:
        more = "Of a proxy, which shows no metrics, name the model with the option `model`."
        raise ServiceError(error.message, f"{error.remedy} {more}") from None
    if len(names) == 1:
        return next(iter(names))
    there = f"serves {', '.join(names)}" if names else "does not say what it serves"
    raise ServiceError(f"{url} {there}.", "Name the model with the option `model`.")


def package_sample(package: Package | Path) -> dict[str, Any]:
    """The sample request of a package.

    Raises:
        ExportError: It has none.
    """
    folder = package.directory if isinstance(package, Package) else package
    path = next((path for path in (folder / name for name in _SAMPLES) if path.is_file()), None)
    if path is None:
        kind = f", a package of the exporter {package.exporter}" if isinstance(package, Package) else ""
        raise ExportError(f"There is no sample request in {folder}{kind}.", "Give a package that serves, or samples.")
    try:
        request: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be used ({error}).", "Export the candidate again.") from None
    return request


def arrays_of(model: ServedModel, request: Mapping[str, Any]) -> Arrays:
    """The arrays in a JSON request of the protocol.

    Raises:
        DatasetError: It is none, or none for this model.
    """
    kinds = {name: kind for name, kind, _ in model.inputs}
    try:
        arrays = {
            tensor["name"]: np.asarray(tensor["data"]).astype(_DTYPES[kinds[tensor["name"]]]).reshape(tensor["shape"])
            for tensor in request["inputs"]
        }
        if missing := [name for name in kinds if name not in arrays]:
            raise KeyError(missing[0])
        return arrays
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"The request is none that {model.name} takes ({type(error).__name__}: {error}).",
            f"It takes {_described(model)}.",
        ) from None


def samples_for(model: ServedModel, dataset: Dataset, batch: int) -> Iterator[Arrays]:
    """Samples, `batch` at a time and each other than the one before, as long as there are any.

    Raises:
        DatasetError: They do not fit the model.
    """
    for name, kind, shape in model.inputs:
        array = dataset.inputs.get(name)
        fits = array is not None and DATATYPES.get(str(array.dtype)) == kind and array.ndim == len(shape)
        if not fits or any(size not in (-1, own) for size, own in zip(shape[1:], array.shape[1:], strict=True)):  # type: ignore[union-attr]
            there = ", ".join(f"'{own}' {each.dtype}{list(each.shape[1:])}" for own, each in dataset.inputs.items())
            raise DatasetError(
                f"{dataset.name} does not fit {model.name}, which takes {_described(model)}; the samples have {there}.",
                "Give the samples that the model was evaluated with.",
            )
    for start in range(0, len(dataset), batch):
        numbers = np.arange(start, start + batch) % len(dataset)
        yield {name: dataset.inputs[name][numbers] for name, _, _ in model.inputs}


def random_arrays(model: ServedModel, batch: int, seed: int) -> Arrays:
    """Values of the right types and shapes; dynamic axes other than the first become 1."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for name, kind, shape in model.inputs:
        sizes = [size if size >= 0 else batch if axis == 0 else 1 for axis, size in enumerate(shape)]
        floating = _DTYPES[kind].kind == "f"
        values = generator.random(sizes) if floating else generator.integers(0, 2, sizes)
        arrays[name] = values.astype(_DTYPES[kind])
    return arrays


def check_batch(model: ServedModel, batch: int) -> int:
    """The samples of a request: the model's own number where that is fixed.

    Raises:
        OptionsError: It is fixed at another number than the one asked for.
    """
    firsts = {shape[0] for _, _, shape in model.inputs if shape}
    if not firsts or -1 in firsts:
        return batch
    if batch not in (1, *firsts):
        raise OptionsError(
            f"{model.name} takes {min(firsts)} samples at a time, not {batch}.", f"Set batch to {min(firsts)}."
        )
    return max(firsts)


def make_requests(model: ServedModel, feeds: Sequence[Arrays], tensors: Tensors, host: str, key: str) -> list[bytes]:
    """Whole HTTP requests, as many different ones as is sensible.

    Raises:
        OptionsError: The key has characters that a header cannot have.
    """
    key_line = "".join(f"{name}: {value}\r\n" for name, value in authorization(key).items())
    made: list[bytes] = []
    for arrays in feeds:
        body, headers = _encode(model, arrays, tensors)
        head = f"POST {model.path}/infer HTTP/1.1\r\nHost: {host}\r\n{key_line}{headers}"
        made.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body)
        if _enough(made):
            break
    return made


def make_messages(model: ServedModel, feeds: Sequence[Arrays]) -> list[bytes]:
    """Messages of gRPC's `ModelInfer`, as many different ones as is sensible."""
    kind = message_classes()["ModelInferRequest"]
    made: list[bytes] = []
    for arrays in feeds:
        message = kind(model_name=model.name, model_version=model.version)
        for name, datatype, _ in model.inputs:
            array = np.ascontiguousarray(arrays[name], _DTYPES[datatype])
            message.inputs.add(name=name, datatype=datatype, shape=array.shape)
            message.raw_input_contents.append(array.tobytes())
        made.append(message.SerializeToString())
        if _enough(made):
            break
    return made


def _enough(made: Sequence[bytes]) -> bool:
    return len(made) == MOST_REQUESTS or sum(map(len, made)) > _MOST_BYTES


def _encode(model: ServedModel, arrays: Arrays, tensors: Tensors) -> tuple[bytes, str]:
    heads: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, kind, _ in model.inputs:
        array = np.ascontiguousarray(arrays[name], _DTYPES[kind])
        heads.append({"name": name, "datatype": kind, "shape": list(array.shape)})
        if tensors == "json":
            heads[-1]["data"] = array.ravel().tolist()
        else:
            parts.append(array.tobytes())
            heads[-1]["parameters"] = {"binary_data_size": len(parts[-1])}
    if tensors == "json":
        return json.dumps({"inputs": heads}).encode(), "Content-Type: application/json\r\n"
    head = json.dumps({"inputs": heads, "parameters": {"binary_data_output": True}}).encode()
    headers = f"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {len(head)}\r\n"
    return head + b"".join(parts), headers


def _described(model: ServedModel) -> str:
    return ", ".join(
        f"'{name}' {kind}[{', '.join('any' if size < 0 else str(size) for size in shape)}]"
        for name, kind, shape in model.inputs
    )


def request_bytes(requests: Sequence[bytes]) -> float:
    """Mean size of requests, bytes; NaN if there are none."""
    return sum(map(len, requests)) / len(requests) if requests else math.nan
