"""The numbers of a proxy before two versions and of a canary's steps, each with what it was derived from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from workbench.serving_measurements import Derived
from workbench.serving_plan import ServingPlan

STEPS = (1, 5, 25, 50, 100)  # % of the callers
_HEAD_BYTES = 16_384  # of a request's head, as haproxy's own usual buffer has room for
_UPLOAD_SECONDS = 10  # in which exported servers want a whole request
_IDLE_SECONDS = 60  # below the 75 s of exported servers: the proxy is the one who closes a connection
_LEAST_CONNECTIONS = 1024
_MOST_CONNECTIONS = 4000  # each takes two files, of which systems often allow 10,000 or 20,000
_LEAST_SECONDS = 30.0
_LONGEST_SECONDS = 3600.0
_RULE_OF_THREE = 3.0  # no failure in 3 / limit requests: with 95 % the ratio is below the limit
_TIMES_STABLE = 2.0


@dataclass(frozen=True)
class ProxySettings:
    """Limits of the proxy.

    Attributes:
        per_version: Requests under way at one version; further ones wait in the proxy.
        connections: Callers that are connected at once.
        buffer: Largest request, head and body, that is kept to be tried again.
        body: Largest body that is taken.
        request_seconds: Longest wait for an answer.
        queue_seconds: Longest wait for a place.
        upload_seconds: In which a whole request must arrive.
        idle_seconds: For which an idle caller stays connected.
        connect_seconds: In which a version must take a connection.
        check_seconds: Between two looks at a version's readiness.
    """

    per_version: Derived
    connections: Derived
    buffer: Derived
    body: Derived
    request_seconds: Derived
    queue_seconds: Derived
    upload_seconds: Derived
    idle_seconds: Derived
    connect_seconds: Derived
    check_seconds: Derived


def proxy_settings(plan: ServingPlan, sample_bytes: int, body_megabytes: float | None) -> ProxySettings:
    """Derives the proxy's limits.

    Args:
        plan: The numbers of the service.
        sample_bytes: Size of the sample request.
        body_megabytes: Largest body as the user wants it; None for the one of exported servers.
    """
    queue, patience = plan.queue, plan.request_seconds
    body = round(1e6 * (body_megabytes or max(16.0, 8 * sample_bytes / 1e6)))
    buffer = 2 ** math.ceil(math.log2(sample_bytes + _HEAD_BYTES))
    asked = "as asked" if body_megabytes else f"8 × the sample request of {sample_bytes} bytes, at least 16 MB"
    return ProxySettings(
        per_version=Derived(
            queue.value, "requests", f"what a version takes in: {queue.source}", measured=queue.measured
        ),
        connections=Derived(
            min(max(_LEAST_CONNECTIONS, 4 * queue.value), _MOST_CONNECTIONS),
            "connections",
            f"4 × {queue.value:g}: what both versions take in, and as many callers that are idle; {_LEAST_CONNECTIONS} "
            f"to {_MOST_CONNECTIONS}",
            queue.measured,
        ),
        buffer=Derived(
            buffer,
            "bytes",
            f"a power of two above the sample request of {sample_bytes} bytes and {_HEAD_BYTES} of head",
        ),
        body=Derived(body, "bytes", asked, measured=False),
        request_seconds=Derived(
            patience.value + 1,
            "s",
            f"1 s more than a version gives a request, so that it answers itself: {patience.source}",
            patience.measured,
        ),
        queue_seconds=Derived(
            patience.value, "s", f"what a version gives a request: {patience.source}", patience.measured
        ),
        upload_seconds=Derived(_UPLOAD_SECONDS, "s", "what exported servers give a request to arrive", measured=False),
        idle_seconds=Derived(_IDLE_SECONDS, "s", "less than the 75 s of exported servers", measured=False),
        connect_seconds=Derived(1, "s", "usual, for a version that is near", measured=False),
        check_seconds=Derived(1, "s", "how often exported servers try their model at most", measured=False),
    )


@dataclass(frozen=True)
class CanarySettings:
    """How fast a canary is raised, and when it is rolled back.

    Attributes:
        seconds_per_step: How long a weight holds at least.
        requests_per_step: Requests of the canary without which a step is not judged.
        wait_seconds: How long a step waits for them.
        error_ratio: Share of failed requests above which it is rolled back.
        refused_ratio: How much larger than the stable version's its share of refused requests may be.
        p99_ms: 99th percentile above which it is rolled back.
        p99_factor: Times the stable version's 99th percentile above which it is rolled back.
    """

    seconds_per_step: Derived
    requests_per_step: Derived
    wait_seconds: Derived
    error_ratio: Derived
    refused_ratio: Derived
    p99_ms: Derived
    p99_factor: Derived

    @property
    def numbers(self) -> Mapping[str, Derived]:
        """Each by its name."""
        return dict(vars(self))


def canary_settings(plan: ServingPlan) -> CanarySettings:
    """Derives a canary's steps and limits."""
    errors, rate, p99, last = plan.alert_error_ratio, plan.rate_per_replica, plan.alert_p99_ms, max(plan.buckets_ms)
    requests = math.ceil(_RULE_OF_THREE / errors.value)
    first = 100 * requests / (rate.value * STEPS[0])
    if p99.value > last:
        p99 = Derived(last, "ms", f"the last bound of the histogram; {p99.source} is beyond", p99.measured)
    return CanarySettings(
        seconds_per_step=Derived(_LEAST_SECONDS, "s", "a usual value: faults that come with time need some", False),
        requests_per_step=Derived(
            requests,
            "requests",
            f"{_RULE_OF_THREE:g} / the error limit of {errors.value:g}: if none of them fails, the ratio is below it",
            errors.measured,
        ),
        wait_seconds=Derived(
            min(_LONGEST_SECONDS, max(4 * _LEAST_SECONDS, float(f"{4 * first:.2g}"))),
            "s",
            f"4 × the {_digits(first)} s that {requests} requests take at {STEPS[0]} % of {rate.value:g} queries/s, "
            f"from {4 * _LEAST_SECONDS:g} to {_LONGEST_SECONDS:g} s",
            rate.measured,
        ),
        error_ratio=errors,
        refused_ratio=Derived(errors.value, "", f"as the error ratio: {errors.source}", errors.measured),
        p99_ms=p99,
        p99_factor=Derived(_TIMES_STABLE, "", "a usual value: half as fast is another service", measured=False),
    )


def _digits(value: float) -> str:
    """A number of any size with three significant digits, and without an exponent where it is large."""
    return f"{float(f'{value:.3g}'):.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class CanaryFile:
    """What `canary.json` of a package holds.

    Attributes:
        model: Name of the model that both versions serve.
        proxy: The program before them.
        listen: Address that callers ask.
        stable: Address of the version that serves.
        canary: Address of the version that is tried.
        start_percent: Weight that the proxy starts with, %.
        steps_percent: Weights in order, %.
        limits: When a step is judged, and when it is a breach.
        listen_grpc: Address that callers ask over gRPC; empty if it is not split.
        stable_grpc: The stable version's address for gRPC.
        canary_grpc: The canary's.
    """

    model: str
    proxy: Literal["haproxy", "nginx"]
    listen: str
    stable: str
    canary: str
    start_percent: int
    steps_percent: tuple[int, ...]
    limits: CanarySettings
    listen_grpc: str = ""
    stable_grpc: str = ""
    canary_grpc: str = ""
