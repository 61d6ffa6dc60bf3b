"""Finds faults in a folder of Kubernetes manifests, without a cluster: schemas, and what schemas cannot see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from workbench.exporters.kubernetes.fields import field_faults
from workbench.exporters.kubernetes.manifests import Manifest, Reader, Unit
from workbench.exporters.kubernetes.references import reference_faults

_TYPE = {"apiVersion": re.compile(r"([a-z0-9.-]+/)?v\d+((alpha|beta)\d+)?"), "kind": re.compile(r"[A-Za-z0-9]+")}
_BUILT_IN = ("", "apps", "autoscaling", "batch", "extensions", "policy", "networking.k8s.io")  # groups of Kubernetes


def check_manifests(folder: str | Path, *, schemas: bool = True) -> tuple[str, ...]:
    """Checks every manifest, kustomization and patch under a folder.

    Schemas are checked where `kubernetes-validate` is installed (extra `kubernetes`); it knows Kubernetes' own kinds,
    not those of Gateway API and KServe.

    Args:
        folder: Where they lie. Nothing outside it is read, nothing is fetched and nothing in it is run.
        schemas: Whether to check schemas too.

    Returns:
        The faults, each with its file, the object and what is wrong; empty if there are none.
    """
    reader = Reader(Path(folder))
    units = reader.units()
    services = [
        Manifest(service.file, unit.renamed(service.name), service.body)
        for unit in units
        for service in unit.of_kind("Service")
    ]
    found = list(reader.faults)
    for unit in units:
        found += _duplicates(unit)
        for manifest in unit.own:
            faults = [*_type_faults(manifest)]
            if schemas and not faults:
                faults += _schema_faults(manifest)
            faults += (*field_faults(manifest), *reference_faults(manifest, unit, services))
            found += [f"{manifest}: {fault}" for fault in faults]
        found += [f"{patch}: {fault}" for patch in unit.patches for fault in field_faults(patch, whole=False)]
    if not any(unit.own for unit in units) and not found:
        found.append(f"{folder}: there are no manifests")
    return tuple(dict.fromkeys(found))


def _duplicates(unit: Unit) -> Iterator[str]:
    seen: dict[tuple[str, ...], Manifest] = {}
    for manifest in unit.manifests:
        metadata = manifest.body.get("metadata")
        namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
        first = seen.setdefault((manifest.kind, manifest.name, str(namespace)), manifest)
        if first is not manifest:
            yield f"{manifest}: it is in {first.file} already"


def _type_faults(manifest: Manifest) -> Iterator[str]:
    for field, form in _TYPE.items():
        if not isinstance(value := manifest.body.get(field), str) or not form.fullmatch(value):
            yield f"its {field} is {value!r:.60}, which is none"


def _schema_faults(manifest: Manifest) -> Iterator[str]:
    try:
        import kubernetes_validate
    except ImportError:
        return
    try:
        kubernetes_validate.validate(dict(manifest.body), kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        place = ".".join(map(str, error.path)) or "it"
        yield f"{place}: {error.message:.200}"
    except kubernetes_validate.SchemaNotFoundError:
        version = str(manifest.body["apiVersion"])
        if version.rpartition("/")[0] in _BUILT_IN:  # others are known only to a cluster that defines them
            yield f"Kubernetes {kubernetes_validate.latest_version()} has no {manifest.kind} in {version}"
