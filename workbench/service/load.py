"""Load on a running service over HTTP or gRPC, in a closed or an open loop: to try it, to watch it under load."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from workbench.dataset import Dataset
from workbench.errors import OptionsError
from workbench.exporters import Package
from workbench.jobs import Progress, run_watched, silent
from workbench.measure._traffic import Traffic
from workbench.measure.load import Batch, LoadPoint, LoadStats, MaxWait, Seed, check_arrivals
from workbench.options import make_options, option
from workbench.service._grpc_wire import GrpcWire
from workbench.service._pages import authorization
from workbench.service._requests import (
    MOST_REQUESTS,
    Arrays,
    ServedModel,
    Tensors,
    arrays_of,
    check_batch,
    find_model,
    make_messages,
    make_requests,
    package_sample,
    random_arrays,
    request_bytes,
    samples_for,
)
from workbench.service._summary import sum_up
from workbench.service._target import find_target
from workbench.service._traffic import send_requests
from workbench.service._trial import try_request
from workbench.service._wires import HttpWire, MakeWire

_RATE = 50.0  # arrivals per second where none are given
_RANDOM = 8  # different requests of random values


@dataclass(frozen=True)
class ServiceLoadOptions:
    """How requests come, and in what form."""

    pattern: Annotated[
        Literal["closed", "poisson", "constant"],
        option("closed: each connection sends when its answer is there. poisson, constant: arrivals at a rate."),
    ] = "closed"
    connections: Annotated[
        int, option("Connections, which are the requests under way at most.", minimum=1, maximum=512)
    ] = 8
    rate: (
        Annotated[
            float,
            option(
                f"Arrivals per second, for poisson and constant; {_RATE:g} if not given.",
                minimum=0.01,
                maximum=50_000,
                unit="requests/s",
                example="200",
            ),
        ]
        | None
    ) = None
    seconds: Annotated[float, option("How long requests come.", minimum=0.2, maximum=600, unit="s")] = 10.0
    tensors: Annotated[
        Tensors,
        option(
            "binary: as bytes after the request's head, which costs the service least. json: as text. grpc: as bytes "
            "over gRPC."
        ),
    ] = "binary"
    grpc_port: (
        Annotated[
            int,
            option(
                "Where the service answers gRPC, for tensors over that; if not given, the port after that of its "
                "address, or the same for https without a port.",
                minimum=1,
                maximum=65535,
                advanced=True,
                example="8001",
            ),
        ]
        | None
    ) = None
    batch: Batch = 1
    model: Annotated[str, option("Name of the model; the only one if empty.", example="digits_cnn")] = ""
    version: Annotated[str, option("Its version; the service's choice if empty.", advanced=True, example="2")] = ""
    warmup_s: Annotated[
        float, option("Untimed traffic of the same kind before.", minimum=0, maximum=60, unit="s", advanced=True)
    ] = 1.0
    max_wait_s: MaxWait = 2.0
    timeout_s: Annotated[
        float, option("An answer that takes longer counts as lost.", minimum=0.1, maximum=600, unit="s", advanced=True)
    ] = 10.0
    seed: Seed = 0
    remote: Annotated[
        bool, option("Send to other machines than this one too; ask whoever runs the service first.", advanced=True)
    ] = False


@dataclass(frozen=True)
class ServiceLoad:
    """What came of load on a service.

    Attributes:
        url: Where it was sent.
        model: The model that was asked, with its version if one was named.
        sent: What was sent, in words.
        tensors: In which form.
        request_kb: Mean size of a request, kB (10³ bytes).
        answer_kb: Mean size of an answer, kB.
        statuses: Answers by HTTP status; over gRPC, by the one that stands for the code.
        lost: Requests without an answer: connections refused or broken, and answers that took too long.
        reasons: Why, with the number of each.
        unsent: Requests that were due but not sent, because those before them waited for too long.
        warmup: Untimed requests before, whatever became of them.
        stats: Latency and throughput of the requests that were answered with 200; None if there was none. An
            instance is a connection, the inference is the time from sending to the whole answer, and processor time and
            memory are those of the sender.
    """

    url: str
    model: str
    sent: str
    tensors: Tensors
    request_kb: float
    answer_kb: float
    statuses: Mapping[int, int]
    lost: int
    reasons: Mapping[str, int]
    unsent: int
    warmup: int
    stats: LoadStats | None

    @property
    def answered(self) -> int:
        """Requests that were answered, refused and failed ones included."""
        return sum(self.statuses.values())

    @property
    def refused(self) -> int:
        """Requests that were refused: statuses 4xx, and 503, by which a service says that it has enough."""
        return sum(count for status, count in self.statuses.items() if 400 <= status < 500 or status == 503)

    @property
    def failed(self) -> int:
        """Requests that failed otherwise."""
        return self.answered - self.refused - self.statuses.get(200, 0)


def load_service(
    url: str,
    options: Mapping[str, Any] | ServiceLoadOptions | None = None,
    *,
    request: Mapping[str, Any] | None = None,
    package: Package | Path | None = None,
    dataset: Dataset | None = None,
    key: str = "",
    progress: Progress = silent,
    watch: Callable[[LoadPoint], None] | None = None,
) -> ServiceLoad:
    """Sends load to a running service, from a fresh subprocess.

    What is sent is the first that is given of `dataset`, `request` and `package`; random values if there is none.
    Latency counts from the moment at which a request was due, so the time that it waits for a connection counts.

    Args:
        url: Its address, e.g. `http://127.0.0.1:8000`; on this machine unless the option `remote` is set.
        options: Fields of `ServiceLoadOptions`.
        request: A request of the Open Inference Protocol V2 as its JSON has it.
        package: An exported package, whose sample request is sent.
        dataset: Samples, which are sent in turns.
        key: The service's API key, if it wants one.
        progress: Called with the share done and a short text; may raise to cancel.
        watch: Called about four times a second with what happened since; may raise to cancel.

    Raises:
        OptionsError: An option has a value it cannot have, or the address is of another machine.
        ServiceError: The service does not answer, or refuses what is sent.
        DatasetError: The samples or the request do not fit the model.
        ExportError: The package has no sample request.
    """
    checked = make_options(ServiceLoadOptions, options, "load_service")
    rate = checked.rate or _RATE
    if checked.pattern != "closed":
        check_arrivals(rate, checked.seconds)
    elif checked.rate is not None:
        raise OptionsError(
            f"rate = {rate:g} is of arrivals, but pattern is closed: each connection sends when its answer is there.",
            "Set pattern to poisson or constant, or leave the rate out.",
        )
    over_grpc = checked.tensors == "grpc"
    if checked.grpc_port is not None and not over_grpc:
        raise OptionsError(
            f"grpc_port = {checked.grpc_port} is where the service answers gRPC, but tensors is {checked.tensors}.",
            "Set tensors to grpc, or leave the port out.",
        )
    target, host = find_target(url, checked.remote, (checked.grpc_port or 0) if over_grpc else None)
    model = find_model(url, key, checked.model, checked.version)
    feeds, words = _choose(model, checked, request, package, dataset)
    make_wire: MakeWire = HttpWire
    if over_grpc:
        metadata = [(name.lower(), value) for name, value in authorization(key).items()]
        make_wire = partial(GrpcWire, host, bool(target.tls), checked.timeout_s, metadata)
        requests = make_messages(model, feeds)
    else:
        requests = make_requests(model, feeds, checked.tensors, host, key)
    progress(0.0, "trying one request")
    try_request(target, make_wire() if over_grpc else HttpWire(keep=True), requests[0], checked.timeout_s)
    traffic = Traffic(
        checked.pattern,
        checked.seconds,
        concurrency=checked.connections,
        rate=rate,
        max_wait_s=checked.max_wait_s,
        seed=checked.seed,
    )
    warm, sent = run_watched(
        send_requests,
        target,
        make_wire,
        requests,
        traffic,
        checked.warmup_s,
        checked.timeout_s,
        watch=watch or (lambda _: None),
        progress=progress,
    )
    batch = len(next(iter(feeds[0].values()))) if model.inputs and model.inputs[0][2] else 1
    return ServiceLoad(
        url=url,
        model=f"{model.name} {model.version}".strip(),
        sent=f"{words}, {len(requests)} different" if len(requests) > 1 else words,
        tensors=checked.tensors,
        request_kb=request_bytes(requests) / 1e3,
        answer_kb=sent.answer_bytes / 1e3 / max(1, sent.statuses.total()),
        statuses=dict(sorted(sent.statuses.items())),
        lost=sent.lost,
        reasons=dict(sent.reasons.most_common()),
        unsent=sent.unsent,
        warmup=1 + warm.statuses.total() + warm.lost,
        stats=sum_up(sent, warm, traffic, batch),
    )


def _choose(
    model: ServedModel,
    options: ServiceLoadOptions,
    request: Mapping[str, Any] | None,
    package: Package | Path | None,
    dataset: Dataset | None,
) -> tuple[list[Arrays], str]:
    """What is sent, and that in words."""
    if dataset is not None:
        feeds = samples_for(model, dataset, check_batch(model, options.batch))
        return list(islice(feeds, MOST_REQUESTS)), dataset.name
    if request is None and package is not None:
        return [arrays_of(model, package_sample(package))], "the package's sample request"
    if request is not None:
        return [arrays_of(model, json.loads(json.dumps(request)))], "the given request"
    batch = check_batch(model, options.batch)
    return [random_arrays(model, batch, options.seed + number) for number in range(_RANDOM)], "random values"
