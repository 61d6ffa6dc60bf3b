"""The numbers of the manifests: each from the serving plan, with the words that say from what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from workbench.errors import OptionsError
from workbench.serving_measurements import Derived
from workbench.serving_plan import ServingPlan

_SPARE_CORE = 1.0  # over what the inferences keep busy, for the server's own thread
_BEFORE_STOP_SECONDS = 5  # until every gateway has heard that a pod goes away
_NOTICE_SECONDS = 1  # for which the server still answers after it was asked to stop
_START_SECONDS = 60  # for a pod to become ready
_PATIENCE_SECONDS = 60  # at most, however long a request may take, until a probe counts as missed
_GROWTH = 3  # times the fewest replicas that the autoscaler may go up to


@dataclass(frozen=True)
class Wanted:
    """What the user asks of the whole service.

    Attributes:
        rate: Queries per second that it must take at its quietest size; None if nobody says.
        fewest: Least number of replicas.
        most: Largest number of replicas; None for a multiple of the fewest.
        canary_share: Share of the requests that goes to a canary, 0 to 1.
    """

    rate: float | None
    fewest: int
    most: int | None
    canary_share: float


@dataclass(frozen=True)
class Server:
    """What the server in the image is set to.

    Attributes:
        queue: Requests under way in one worker before it turns others away.
        body_megabytes: Size of the sample request, MB.
        body_seconds: Longest time that it waits for a body, s.
        request_seconds: Longest time that it takes for one request, s.
    """

    queue: int
    body_megabytes: float
    body_seconds: float
    request_seconds: float


def size(plan: ServingPlan, wanted: Wanted, server: Server) -> Mapping[str, Derived]:
    """Numbers of the manifests by the names that the templates have for them.

    Args:
        plan: What was measured, and what follows for one replica.
        wanted: What is asked of all replicas together.
        server: What one replica allows.

    Raises:
        OptionsError: So many replicas are not allowed.
    """
    fewest = _fewest(plan, wanted)
    body_seconds, request_seconds = server.body_seconds, server.request_seconds
    workers = plan.processes
    queued = f"{server.queue} requests" if workers == 1 else f"{workers} workers × {server.queue} requests"
    limit = min(_PATIENCE_SECONDS, math.ceil(request_seconds))
    stop = _BEFORE_STOP_SECONDS + _NOTICE_SECONDS + math.ceil(body_seconds + request_seconds)
    patience = (
        f"the longest time for one request, {request_seconds:g} s: busy is not absent; {_PATIENCE_SECONDS} at most"
    )
    return {
        **_replicas(plan, wanted, fewest),
        "cpu_request": Derived(plan.cpu_cores.value, "cores", plan.cpu_cores.source, plan.cpu_cores.measured),
        "cpu_limit": Derived(
            plan.cpu_cores.value + _SPARE_CORE,
            "cores",
            f"{_SPARE_CORE:g} over the request, so that the server's own thread does not slow the inferences down",
            plan.cpu_cores.measured,
        ),
        "memory": Derived(
            math.ceil(plan.memory_mb.value + workers * server.queue * server.body_megabytes),
            "MB",
            f"{plan.memory_mb.source}, and {queued} of {server.body_megabytes:.2g} MB, like the sample",
            plan.memory_mb.measured,
        ),
        "scratch": Derived(16, "MB", "a usual value; the service writes next to nothing", measured=False),
        "before_stop": Derived(
            _BEFORE_STOP_SECONDS, "s", "a usual time until every gateway knows; not measured", measured=False
        ),
        "grace": Derived(
            stop,
            "s",
            f"{_BEFORE_STOP_SECONDS} s before and {_NOTICE_SECONDS} s after it is asked to stop, {body_seconds:g} s "
            f"for a body under way and {request_seconds:g} s for a request",
            plan.request_seconds.measured,
        ),
        "probe_timeout": Derived(limit, "s", patience, plan.request_seconds.measured),
        "start_seconds": Derived(_START_SECONDS, "s", "a usual time to start; not measured", measured=False),
        "start_period": Derived(2, "s", "a usual value", measured=False),
        "start_failures": Derived(
            _START_SECONDS // 2, "", f"{_START_SECONDS} s to start, a usual time; not measured", measured=False
        ),
        "ready_period": Derived(5, "s", "a usual value", measured=False),
        "ready_failures": Derived(2, "", "a usual value: one miss may be chance", measured=False),
        "live_period": Derived(10, "s", "a usual value", measured=False),
        "live_failures": Derived(3, "", "a usual value: a restart costs more than waiting", measured=False),
    }


def _fewest(plan: ServingPlan, wanted: Wanted) -> Derived:
    if wanted.rate is None:
        return Derived(wanted.fewest, "", "the option `min_replicas`, as no `target_rate` is given", measured=False)
    each = plan.rate_per_replica
    needed = math.ceil(wanted.rate / each.value)
    if needed < wanted.fewest:
        return Derived(wanted.fewest, "", f"the option `min_replicas`; {wanted.rate:g} queries/s take {needed}", False)
    return Derived(
        needed, "", f"{wanted.rate:g} queries/s by the {each.value:g} that one is planned for", each.measured
    )


def _replicas(plan: ServingPlan, wanted: Wanted, fewest: Derived) -> Mapping[str, Derived]:
    """How many replicas there are, at which load more are started, and how many may be away."""
    capacity, rate = plan.capacity, plan.rate_per_replica
    most = Derived(_GROWTH * fewest.value, "", f"{_GROWTH} × the fewest, a usual value", measured=False)
    if wanted.most is not None:
        most = Derived(wanted.most, "", "the option `max_replicas`", measured=False)
    if most.value < fewest.value:
        raise OptionsError(
            f"{most.value:g} replicas at most are fewer than the {fewest.value:g} at least ({fewest.source}).",
            f"Raise max_replicas to {fewest.value:g} or more, or lower min_replicas or target_rate.",
        )
    absent = Derived(1, "", "one at a time, as no `target_rate` is given", measured=False)
    if wanted.rate is not None:
        needed = math.ceil(wanted.rate / capacity.value)
        words = f"{needed} of {fewest.value:g} get through {wanted.rate:g} queries/s at {capacity.value:g} each"
        absent = Derived(max(1, fewest.value - needed), "", words, capacity.measured)
    target = round(100 * rate.value / capacity.value)
    share = wanted.canary_share
    return {
        "min_replicas": fewest,
        "max_replicas": most,
        "absent": absent,
        "cpu_target": Derived(
            target, "%", f"{rate.value:g} of the {capacity.value:g} queries/s of a replica that is full", rate.measured
        ),
        "rate_target": rate,
        "canary_weight": Derived(round(100 * share), "%", "of all requests: the option `canary_weight`", False),
        "stable_weight": Derived(
            100 - round(100 * share), "%", "of all requests: what the option `canary_weight` leaves", False
        ),
        "canary_replicas": Derived(
            max(1, math.ceil(share * fewest.value)), "", f"{share:.0%} of {fewest.value:g} replicas", fewest.measured
        ),
    }
