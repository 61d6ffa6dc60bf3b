"""Readings of a running service: its own page of metrics, or what a Prometheus last scraped."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client.parser import text_string_to_metric_families

from workbench.errors import OptionsError, ServiceError
from workbench.service._words import OtherAnswerError, mistrusted, printable, reason_of, spoken

PREFIX = "workbench_"  # of the series that exported servers have
_LARGEST_PAGE = 16_000_000  # bytes of metrics that are read
_REMEDIES = {
    400: "Check the selector.",
    401: "Give the service's key.",
    403: "Give the service's key.",
    404: "Check the address and the model's name.",
}
_ADDRESS = "Write it like http://127.0.0.1:8000."
_NO_PROXY = urllib.request.ProxyHandler({})  # services are near; one on this machine is nothing to ask a proxy for
_SCRAPED = "workbench_scraped"  # a label of ours on the times at which a Prometheus read its instances

Labels = frozenset[tuple[str, str]]
Source = Literal["service", "prometheus"]


@dataclass(frozen=True)
class Reading:
    """All series of a service at one moment.

    Attributes:
        at: When, in seconds since the epoch.
        series: Value by the series' name and labels.
    """

    at: float
    series: Mapping[tuple[str, Labels], float]

    def models(self) -> tuple[tuple[str, str], ...]:
        """Name and version of everything that is served, in order."""
        named = {(dict(labels).get("model", ""), dict(labels).get("version", "")) for _, labels in self.series}
        return tuple(sorted(pair for pair in named if pair[0]))


Read = Callable[[], Reading]


def find_source(url: str, *, key: str = "", timeout: float = 5.0) -> Source:
    """Tells whether an address is a service's own or that of a Prometheus which watches some.

    Raises:
        ServiceError: Nothing answers there, or neither of the two.
    """
    with contextlib.suppress(ServiceError, ValueError, RecursionError):
        answer = json.loads(get_page(f"{base_url(url)}/api/v1/status/buildinfo", key, timeout))
        if isinstance(answer, dict) and answer.get("status") == "success":
            return "prometheus"
    if PREFIX.encode() in get_page(f"{base_url(url)}/metrics", key, timeout):
        return "service"
    raise ServiceError(
        f"{url} answers, but has none of the metrics that an exported server has ({PREFIX}…).",
        "Give the address of an exported server, or of a Prometheus.",
    )


def read_service(url: str, *, key: str = "", timeout: float = 5.0) -> Reading:
    """Reads `/metrics` of a service.

    Args:
        url: Its address, e.g. `http://127.0.0.1:8000`.
        key: Its API key, if it wants one.
        timeout: Longest wait, s.

    Raises:
        ServiceError: It does not answer, or answers something else.
    """
    page = get_page(f"{base_url(url)}/metrics", key, timeout)
    try:
        families = list(text_string_to_metric_families(page.decode()))
    except (ValueError, LookupError, TypeError) as error:
        said = printable(str(error))
        raise OtherAnswerError(f"{url}/metrics is no page of metrics ({said}).", "Check the address.") from None
    samples = (sample for family in families for sample in family.samples)
    return Reading(time.time(), {(s.name, frozenset(s.labels.items())): float(s.value) for s in samples})


def read_prometheus(url: str, *, key: str = "", selector: str = "", timeout: float = 5.0) -> Reading:
    """Reads the newest values of all series of exported servers from a Prometheus.

    The reading is of the time at which Prometheus read the instances, their mean where it read them one after the
    other: a rate over the time between two questions would be wrong where nothing was scraped meanwhile.

    Args:
        url: Its address, e.g. `http://127.0.0.1:9090`.
        key: Its bearer token, if it wants one.
        selector: Further matchers, e.g. `job="digits"`.
        timeout: Longest wait, s.

    Raises:
        ServiceError: It does not answer, or knows no such series.
    """
    query = urllib.parse.urlencode({"query": _prometheus_query(selector)})
    page = get_page(f"{base_url(url)}/api/v1/query?{query}", key, timeout)
    try:
        found = [(entry["metric"], float(entry["value"][1])) for entry in json.loads(page)["data"]["result"]]
        series = {_name_and_labels(metric): value for metric, value in found if _SCRAPED not in metric}
        scraped = [value for metric, value in found if _SCRAPED in metric]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ServiceError(f"{url} does not answer as a Prometheus does.", "Check the address.") from None
    if not any(name.startswith(PREFIX) for name, _ in series):
        raise ServiceError(
            f"The Prometheus at {url} knows no exported server that runs{f', with {selector}' if selector else ''}.",
            "Start one that it scrapes; the exporter `monitoring` writes its configuration.",
        )
    return Reading(sum(scraped) / len(scraped) if scraped else time.time(), series)


def _prometheus_query(selector: str) -> str:
    """All series, and in the same answer when each instance was scraped, so that the two belong together."""
    every = ", ".join(filter(None, (f'__name__=~"{PREFIX}.+|process_.+"', selector)))
    info = ", ".join(filter(None, (f'__name__="{PREFIX}model_info"', selector)))
    return f'{{{every}}} or label_replace(timestamp({{{info}}}), "{_SCRAPED}", "yes", "", "")'


def _name_and_labels(metric: Mapping[str, Any]) -> tuple[str, Labels]:
    return metric["__name__"], frozenset((name, value) for name, value in metric.items() if name != "__name__")


def reader(url: str, *, key: str = "", selector: str = "", timeout: float = 5.0) -> Read:
    """What reads an address, whichever of the two it is.

    Raises:
        ServiceError: As `find_source`.
    """
    if find_source(url, key=key, timeout=timeout) == "prometheus":
        return lambda: read_prometheus(url, key=key, selector=selector, timeout=timeout)
    return lambda: read_service(url, key=key, timeout=timeout)


def base_url(url: str) -> str:
    """The address without what is at its end, whole even if only `host:port` was given.

    Raises:
        ServiceError: It is no address.
    """
    if not isinstance(url, str):  # a caller in Python may not check its types
        raise ServiceError(f"The address of a service is a text, not {url!r:.80}.", _ADDRESS)
    trimmed = url.strip()
    address = (trimmed if "://" in trimmed else f"http://{trimmed}").rstrip("/")
    try:
        parts = urllib.parse.urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ServiceError(f"'{url}' is no address of a service.", _ADDRESS)
    return address.removesuffix("/metrics")


def authorization(key: str) -> dict[str, str]:
    """The header that brings a key along; none without one.

    Raises:
        OptionsError: No header can have it.
    """
    if not (key.isascii() and key.isprintable()):
        raise OptionsError("The key has characters that no HTTP header can have.", "Check the key.")
    return {"Authorization": f"Bearer {key}"} if key else {}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: the key is for this address only."""

    def redirect_request(self, *_: Any) -> None:
        """Lets the answer be an error."""


def get_page(url: str, key: str, timeout: float) -> bytes:
    """What is at an address.

    Raises:
        ServiceError: Nothing answers there, or not with what was asked for.
    """
    shown = url.partition("?")[0]
    request = urllib.request.Request(url, headers=authorization(key))
    try:
        with urllib.request.build_opener(_NoRedirect, _NO_PROXY).open(request, timeout=timeout) as answer:
            page: bytes = answer.read(_LARGEST_PAGE + 1)
    except urllib.error.HTTPError as error:
        error.close()
        remedy = _REMEDIES.get(error.code, "Check the address.")
        kind = ServiceError if error.code in (401, 403) else OtherAnswerError
        raise kind(f"{shown} answers with status {error.code}.", remedy) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise mistrusted(shown, reason) from None
        raise ServiceError(
            f"{shown} does not answer ({_why(reason)}).", "Check that the service runs, and its address."
        ) from None
    if len(page) > _LARGEST_PAGE:
        raise OtherAnswerError(f"{shown} answers with more than {_LARGEST_PAGE // 10**6} MB.", "Check the address.")
    return page


def _why(reason: BaseException | str) -> str:
    if isinstance(reason, http.client.BadStatusLine) and not isinstance(reason, ConnectionError):
        line = str(reason)
        return spoken(line.encode("latin-1", "replace")) or f"no HTTP, but '{printable(line, 60)}'"
    return reason_of(reason) if isinstance(reason, BaseException) else printable(reason)
