"""Checks of one manifest by itself: quantities, ports, names, probes and mounts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from workbench.exporters.kubernetes.manifests import Manifest, containers_of, inner, mappings, pod_of

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(m|u|n|k|[MGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_FACTORS = {"": "1", **{unit: f"1e{3 * power}" for power, unit in enumerate(" kMGTPE") if power}}
_FACTORS |= {"m": "1e-3", "u": "1e-6", "n": "1e-9"}
_FACTORS |= {f"{unit}i": str(1024**power) for power, unit in enumerate(" KMGTPE") if power}
_PORTS = ("port", "targetPort", "containerPort", "hostPort", "nodePort", "endPort")
_QUANTITIES = ("sizeLimit", "averageValue")
_FREE_TEXT = ("data", "binaryData", "stringData", "annotations", "labels", "matchLabels")
_ROLES = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")  # their names may hold colons


def field_faults(manifest: Manifest, whole: bool = True) -> Iterator[str]:
    """Yields what is wrong with an object whatever stands beside it.

    Args:
        manifest: The object.
        whole: Whether it is all of it, and not a patch of a part.
    """
    yield from _values(manifest.body)
    yield from _names(manifest)
    yield from _autoscaler(manifest)
    if whole and (pod := pod_of(manifest.body)):
        yield from _pod(pod[1], manifest.kind)


def quantity(text: Any) -> Decimal | None:
    """A quantity as a number; None if it is none, as `512MiB`."""
    found = _QUANTITY.fullmatch(str(text))
    if not found or isinstance(text, bool):
        return None
    number, unit = found.groups("")
    return Decimal(number) * Decimal(_FACTORS.get(unit, f"1{unit}"))


def _values(body: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every quantity and port, wherever it stands."""
    if isinstance(body, list):
        for number, one in enumerate(body):
            yield from _values(one, (*path[:-1], f"{path[-1]}[{number}]") if path else (f"[{number}]",))
    if not isinstance(body, Mapping):
        return
    for key, value in body.items():
        here = (*path, str(key))
        if key == "resources" and isinstance(value, Mapping):
            yield from _resources(value, here)
        elif key in _QUANTITIES and quantity(value) is None:
            yield _no_quantity(here, value)
        elif key in _PORTS and not isinstance(value, (Mapping, list)):
            yield from _port(here, value)
        elif key not in _FREE_TEXT:
            yield from _values(value, here)


def _resources(resources: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    amounts: dict[tuple[str, str], Decimal] = {}
    for part in ("requests", "limits"):
        for what, value in (inner(resources, part) or {}).items():
            amount = quantity(value)
            if amount is None:
                yield _no_quantity((*path, part, str(what)), value)
            elif what == "memory" and str(value).endswith("m"):
                yield f"{'.'.join((*path, part))}.memory is {value}, thousandths of a byte: write M or Mi"
            else:
                amounts[part, str(what)] = amount
    for (part, what), amount in amounts.items():
        if part == "requests" and amount > amounts.get(("limits", what), amount):
            yield f"{'.'.join(path)} requests more {what} than its limit"


def _no_quantity(path: tuple[str, ...], value: Any) -> str:
    return f"{'.'.join(path)} is '{value}', which is no quantity: write it like 500m, 2, 512M or 512Mi"


def _port(path: tuple[str, ...], value: Any) -> Iterator[str]:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= 65535:
            yield f"{'.'.join(path)} is {value}; ports go from 1 to 65535"
    elif not _PORT_NAME.fullmatch(str(value)):
        yield f"{'.'.join(path)} is '{value}', which is neither a port nor a port's name"


def _names(manifest: Manifest) -> Iterator[str]:
    name = manifest.name
    if not name:
        yield "it has no name"
    elif manifest.kind == "Service" and (not _LABEL.fullmatch(name) or name[0].isdigit()):
        yield f"'{name}' is no name of a Service: small letters, digits, hyphens, a letter first, at most 63 (RFC 1035)"
    elif manifest.kind not in _ROLES and (not _SUBDOMAIN.fullmatch(name) or len(name) > 253):
        yield f"the name '{name}' is not valid: small letters, digits, hyphens and dots (RFC 1123)"
    namespace = inner(manifest.body, "metadata", "namespace")
    if namespace is not None and not _LABEL.fullmatch(str(namespace)):
        yield f"the namespace '{namespace}' is not valid: small letters, digits and hyphens (RFC 1123)"
    labels, spec = pod_of(manifest.body) or ({}, {})
    yield from _labels(inner(manifest.body, "metadata", "labels"))
    yield from _labels(labels if manifest.kind != "Pod" else {})
    for one in (*containers_of(spec), *mappings(spec.get("volumes"))):
        if not _LABEL.fullmatch(str(one.get("name"))):
            yield f"the name '{one.get('name')}' inside its pod is not valid: small letters, digits, hyphens (RFC 1123)"


def _labels(labels: Any) -> Iterator[str]:
    for key, value in labels.items() if isinstance(labels, Mapping) else ():
        prefix, _, name = str(key).rpartition("/")
        if not _LABEL_KEY.fullmatch(name) or (prefix and not _SUBDOMAIN.fullmatch(prefix)):
            yield f"the label's key '{key}' is not valid"
        if not isinstance(value, str):
            yield f"the label {key} is {value!r}, which is no text: quote it"
        elif not _LABEL_VALUE.fullmatch(value):
            yield f"the label {key} has the value '{value}', which is not valid"


def _pod(spec: Mapping[str, Any], kind: str) -> Iterator[str]:
    containers = containers_of(spec)
    volumes = {str(volume.get("name")) for volume in mappings(spec.get("volumes"))}
    if not containers and kind != "InferenceService":  # that may leave the container to a serving runtime
        yield "its pods have no container"
    for container in containers:
        yield from _container(container, volumes, f"container {container.get('name')}")


def _container(container: Mapping[str, Any], volumes: set[str], words: str) -> Iterator[str]:
    if not container.get("image"):
        yield f"{words} has no image"
    declared = mappings(container.get("ports"))
    ports = {str(port.get("name")) for port in declared} | {str(port.get("containerPort")) for port in declared}
    for name in (port["name"] for port in declared if "name" in port):
        if not _PORT_NAME.fullmatch(str(name)):
            yield f"{words} has a port named '{name}': small letters, digits and hyphens, at most 15, are valid"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        for way in ("httpGet", "tcpSocket", "grpc"):
            port = inner(container, probe, way, "port")
            if port is not None and str(port) not in ports:
                yield f"the {probe} of {words} asks the port '{port}', which that does not declare"
    paths: list[Any] = []
    for mount in mappings(container.get("volumeMounts")):
        if str(mount.get("name")) not in volumes:
            yield f"{words} mounts the volume '{mount.get('name')}', which its pod does not have"
        if mount.get("mountPath") in paths:
            yield f"{words} mounts two volumes at {mount.get('mountPath')}"
        paths.append(mount.get("mountPath"))


def _autoscaler(manifest: Manifest) -> Iterator[str]:
    if manifest.kind == "HorizontalPodAutoscaler":
        fewest, most = inner(manifest.body, "spec", "minReplicas"), inner(manifest.body, "spec", "maxReplicas")
        if isinstance(fewest, int) and isinstance(most, int) and fewest > most:
            yield f"it has at least {fewest} replicas but at most {most}"
