"""Checks of manifests against each other: selectors, ports, targets, keys and routes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.exporters.kubernetes.manifests import Manifest, Unit, containers_of, inner, mappings, pod_of

_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")


def reference_faults(manifest: Manifest, unit: Unit, services: Sequence[Manifest]) -> Iterator[str]:
    """Yields what an object names and does not find.

    Args:
        manifest: The object.
        unit: What is applied together with it.
        services: The Services of the whole package: a canary's route leads to two that are applied apart.
    """
    pods = [(other, *pod) for other in unit.manifests if (pod := pod_of(other.body))]
    spec = inner(manifest.body, "spec")
    if pod := pod_of(manifest.body):
        yield from _workload(manifest, *pod)
        yield from _config_maps(pod[1], unit)
    if manifest.kind == "Service" and (selector := inner(spec, "selector")):
        chosen = [pod for pod in pods if _chooses({"matchLabels": selector}, pod[1])]
        yield from _nothing_chosen(chosen, "its selector", selector)
        names = [port.get("targetPort", port.get("port")) for port in mappings(inner(spec, "ports"))]
        yield from _ports(names, chosen, "its targetPort")
    if manifest.kind == "PodDisruptionBudget" and (selector := inner(spec, "selector")):
        chosen = [pod for pod in pods if _chooses(selector, pod[1])]
        yield from _nothing_chosen(chosen, "its selector", selector)
        yield from _budget(spec, chosen, unit)
    if manifest.kind == "NetworkPolicy" and (selector := inner(spec, "podSelector")):
        chosen = [pod for pod in pods if _chooses(selector, pod[1])]
        yield from _nothing_chosen(chosen, "its podSelector", selector)
        rules = mappings(inner(spec, "ingress"))
        yield from _ports([p.get("port") for r in rules for p in mappings(r.get("ports"))], chosen, "its port")
    if manifest.kind == "HorizontalPodAutoscaler":
        yield from _autoscaler(spec, unit)
    if manifest.kind == "HTTPRoute":
        yield from _route(spec, services)


def _workload(manifest: Manifest, labels: Mapping[str, str], spec: Mapping[str, Any]) -> Iterator[str]:
    selector = inner(manifest.body, "spec", "selector")
    if manifest.kind in _WORKLOADS and not _chooses(selector, labels):
        yield f"its selector {_words(selector)} does not choose its own pods, which are labelled {_words(labels)}"
    for constraint in mappings(spec.get("topologySpreadConstraints")):
        if not _chooses(constraint.get("labelSelector"), labels):
            yield f"its topologySpreadConstraints choose {_words(constraint.get('labelSelector'))}: not its own pods"


def _chooses(selector: Any, labels: Mapping[str, Any]) -> bool:
    """Whether a label selector chooses pods with those labels; one that is missing chooses none."""
    if not isinstance(selector, Mapping):
        return False
    if any(labels.get(key) != value for key, value in (inner(selector, "matchLabels") or {}).items()):
        return False
    for rule in mappings(selector.get("matchExpressions")):
        value, values = labels.get(str(rule.get("key"))), rule.get("values") or ()
        holds = {"In": value in values, "NotIn": value not in values}
        holds |= {"Exists": value is not None, "DoesNotExist": value is None}
        if not holds.get(str(rule.get("operator")), False):
            return False
    return True


def _nothing_chosen(chosen: Sequence[Any], words: str, selector: Any) -> Iterator[str]:
    if not chosen:
        yield f"{words} {_words(selector)} chooses no pods of this package"


def _ports(names: Sequence[Any], chosen: Sequence[tuple[Manifest, Any, Any]], words: str) -> Iterator[str]:
    """Ports by number or name that the chosen pods do not declare."""
    declared: set[str] = set()
    for _, _, spec in chosen:
        for port in (port for container in containers_of(spec) for port in mappings(container.get("ports"))):
            declared |= {str(port.get("name")), str(port.get("containerPort"))}
    for name in names:
        if chosen and name is not None and str(name) not in declared:
            yield f"{words} '{name}' is none that its pods declare"


def _budget(spec: Any, chosen: Sequence[tuple[Manifest, Any, Any]], unit: Unit) -> Iterator[str]:
    """A budget that never lets a pod go, so that no node can be emptied."""
    if inner(spec, "maxUnavailable") in (0, "0", "0%") or inner(spec, "minAvailable") == "100%":
        yield "no pod may ever be taken away, so that no node can be emptied"
    fewest = inner(spec, "minAvailable")
    for workload, _, _ in chosen:
        for scaler in unit.of_kind("HorizontalPodAutoscaler"):
            replicas = inner(scaler.body, "spec", "minReplicas")
            target = inner(scaler.body, "spec", "scaleTargetRef", "name")
            if target == workload.name and isinstance(fewest, int) and isinstance(replicas, int) and fewest >= replicas:
                yield f"{fewest} pods must stay of {replicas}, so that no node can be emptied"


def _autoscaler(spec: Any, unit: Unit) -> Iterator[str]:
    kind, name = inner(spec, "scaleTargetRef", "kind"), inner(spec, "scaleTargetRef", "name")
    target = next((one for one in unit.manifests if (one.kind, one.name) == (kind, name)), None)
    if target is None:
        yield f"it scales the {kind} {name}, which is not here"
        return
    if inner(spec, "scaleTargetRef", "apiVersion") != target.body.get("apiVersion"):
        yield f"it scales the {kind} {name} under another apiVersion than that has"
    for metric in mappings(inner(spec, "metrics")):
        resource = inner(metric, "resource", "name")
        relative = inner(metric, "resource", "target", "type") == "Utilization"
        for container in containers_of((pod_of(target.body) or ({}, {}))[1]) if relative else ():
            if resource not in (inner(container, "resources", "requests") or {}):
                yield f"it scales by a share of the {resource} that container {container.get('name')} does not request"


def _config_maps(spec: Mapping[str, Any], unit: Unit) -> Iterator[str]:
    """ConfigMaps and keys that a pod takes; Secrets may well come from elsewhere."""
    volumes: dict[str, frozenset[str]] = {}
    for volume in mappings(spec.get("volumes")):
        source = inner(volume, "configMap")
        if source is not None and not inner(source, "optional"):
            items = mappings(inner(source, "items"))
            yield from _keys(inner(source, "name"), [str(item.get("key")) for item in items], unit)
            paths = frozenset(str(item.get("path")) for item in items)
            volumes[str(volume.get("name"))] = paths or unit.keys.get(str(inner(source, "name")), frozenset())
    for container in containers_of(spec):
        for mount in mappings(container.get("volumeMounts")):
            has = volumes.get(str(mount.get("name")))
            if has and "subPath" in mount and mount["subPath"] not in has:
                yield f"the subPath '{mount['subPath']}' is no key of the ConfigMap in volume {mount.get('name')}"
        for variable in mappings(container.get("env")):
            source = inner(variable, "valueFrom", "configMapKeyRef")
            if source is not None and not inner(source, "optional"):
                yield from _keys(inner(source, "name"), [str(inner(source, "key"))], unit)
        for source in mappings(container.get("envFrom")):
            if inner(source, "configMapRef", "name") and not inner(source, "configMapRef", "optional"):
                yield from _keys(inner(source, "configMapRef", "name"), [], unit)


def _keys(name: Any, keys: Sequence[str], unit: Unit) -> Iterator[str]:
    if str(name) not in unit.keys:
        yield f"it takes the ConfigMap {name}, which is not here"
        return
    for key in keys:
        if key not in unit.keys[str(name)]:
            yield f"it takes '{key}' of the ConfigMap {name}, which has no such key"


def _route(spec: Any, services: Sequence[Manifest]) -> Iterator[str]:
    if not mappings(inner(spec, "parentRefs")):
        yield "it is attached to no Gateway"
    for number, rule in enumerate(mappings(inner(spec, "rules")), 1):
        backends = mappings(rule.get("backendRefs"))
        if not backends and not rule.get("filters"):
            yield f"rule {number} leads nowhere"
        for backend in backends:
            if backend.get("kind", "Service") == "Service" and "namespace" not in backend:
                yield from _backend(backend, number, services)
        weights = [backend.get("weight", 1) for backend in backends]
        if wrong := [w for w in weights if not isinstance(w, int) or isinstance(w, bool) or not 0 <= w <= 1_000_000]:
            yield f"rule {number} has the weight {wrong[0]!r}; weights are whole numbers from 0"
        elif weights and sum(weights) == 0:
            yield f"rule {number} has no weight but 0, so that every request fails"
        elif len({"weight" in backend for backend in backends}) > 1:
            yield f"rule {number} gives weights to some backends only; the others count as 1"


def _backend(backend: Mapping[str, Any], number: int, services: Sequence[Manifest]) -> Iterator[str]:
    name = backend.get("name")
    found = [service for service in services if service.name == name]
    if not found:
        yield f"rule {number} leads to the Service {name}, which is not in this package"
    elif not any(
        port.get("port") == backend.get("port")
        for service in found
        for port in mappings(inner(service.body, "spec", "ports"))
    ):
        yield f"rule {number} leads to port {backend.get('port')}, which the Service {name} does not have"


def _words(labels: Any) -> str:
    """Labels, or a selector by them, as one reads them."""
    if isinstance(labels, Mapping) and isinstance(labels.get("matchLabels"), Mapping):
        labels = labels["matchLabels"]
    return ", ".join(f"{key}={value}" for key, value in labels.items()) if isinstance(labels, Mapping) else str(labels)
