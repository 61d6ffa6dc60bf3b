"""Reads a folder of Kubernetes manifests as kustomize sees it: what belongs together, and under which names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

KUSTOMIZATION = "kustomization.yaml"


@dataclass(frozen=True)
class Manifest:
    """One object.

    Attributes:
        file: Where it stands, relative to the checked folder.
        name: Its name, with what a kustomization puts before and behind it.
        body: The object as it is written.
    """

    file: str
    name: str
    body: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.body.get("kind"))

    def __str__(self) -> str:
        return f"{self.file}: {self.kind} {self.name}"


@dataclass
class Unit:
    """What is applied together: a kustomization, or a folder without one.

    Attributes:
        own: Manifests that it lists itself.
        manifests: Those and the ones of its bases.
        patches: Pieces of manifests that it changes.
        keys: ConfigMap → its keys.
        prefix: What it puts before every name.
        suffix: What it puts behind every name.
    """

    own: list[Manifest] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    patches: list[Manifest] = field(default_factory=list)
    keys: dict[str, frozenset[str]] = field(default_factory=dict)
    prefix: str = ""
    suffix: str = ""

    def renamed(self, name: str) -> str:
        """A name as those see it who build on this."""
        return f"{self.prefix}{name}{self.suffix}"

    def of_kind(self, kind: str) -> list[Manifest]:
        """Its manifests of one kind."""
        return [manifest for manifest in self.manifests if manifest.kind == kind]


class Reader:
    """Reads a folder; what it cannot read it adds to `faults`.

    Args:
        root: The folder. Nothing outside it is read.
    """

    def __init__(self, root: Path) -> None:
        self.faults: list[str] = []
        self._root = root.resolve()
        self._units: dict[str, Unit] = {}
        self._patch_files: set[str] = set()

    def units(self) -> Sequence[Unit]:
        """Every kustomization and every folder with manifests that no kustomization names."""
        files = sorted(path.relative_to(self._root).as_posix() for path in self._root.rglob("*.y*ml") if path.is_file())
        for file in files:
            if PurePosixPath(file).name == KUSTOMIZATION:
                self._kustomization(file, ())
        named = {manifest.file for unit in self._units.values() for manifest in (*unit.own, *unit.patches)}
        for file in files:
            if PurePosixPath(file).name != KUSTOMIZATION and file not in named | self._patch_files:
                self._loose(file)
        return tuple(self._units.values())

    def _loose(self, file: str) -> None:
        """A manifest beside which there may be others in the same folder, without a kustomization."""
        found = [manifest for manifest in self._read(file, lists=True) if {"apiVersion", "kind"} <= set(manifest.body)]
        unit = self._units.setdefault(f"{PurePosixPath(file).parent}/", Unit())
        self._add(unit, found)

    def _kustomization(self, file: str, above: tuple[str, ...]) -> Unit:
        if file in self._units:
            return self._units[file]
        unit = Unit()
        if file in above:
            self.faults.append(f"{file}: it is its own base, by way of {above[-1]}")
            return unit
        body = next((manifest.body for manifest in self._read(file)), {})
        unit.prefix, unit.suffix = str(body.get("namePrefix") or ""), str(body.get("nameSuffix") or "")
        folder = PurePosixPath(file).parent
        for entry in _strings(body, "resources"):
            self._resource(unit, file, folder, entry, (*above, file))
        for generator in mappings(body.get("configMapGenerator")):
            self._generate(unit, file, folder, generator)
        self._patches(unit, file, folder, body)
        for image in mappings(body.get("images")):
            if not any(_image_name(used) == image.get("name") for used in _images(unit.manifests)):
                self.faults.append(f"{file}: no container has the image '{image.get('name')}' that `images` changes")
        self._units[file] = unit
        return unit

    def _resource(self, unit: Unit, file: str, folder: PurePosixPath, entry: str, above: tuple[str, ...]) -> None:
        path = self._inside(file, folder, entry, "resource")
        if path is None:
            return
        if not path.is_dir():
            self._add(unit, self._read(path.relative_to(self._root).as_posix()))
            return
        if not (path / KUSTOMIZATION).is_file():
            self.faults.append(f"{file}: the resource '{entry}' is a folder without a {KUSTOMIZATION}")
            return
        base = self._kustomization((path / KUSTOMIZATION).relative_to(self._root).as_posix(), above)
        unit.manifests += [dataclasses.replace(one, name=base.renamed(one.name)) for one in base.manifests]
        unit.keys |= {base.renamed(name): keys for name, keys in base.keys.items()}

    def _add(self, unit: Unit, found: Sequence[Manifest]) -> None:
        unit.own += found
        unit.manifests += found
        for manifest in found:
            if manifest.kind == "ConfigMap":
                parts = [inner(manifest.body, part) for part in ("data", "binaryData")]
                unit.keys[manifest.name] = frozenset(
                    str(k) for part in parts if isinstance(part, Mapping) for k in part
                )

    def _generate(self, unit: Unit, file: str, folder: PurePosixPath, generator: Mapping[str, Any]) -> None:
        keys = [literal.partition("=")[0] for literal in _strings(generator, "literals")]
        for entry in _strings(generator, "files"):
            key, _, path = entry.rpartition("=")
            if self._inside(file, folder, path, "file") is not None:
                keys.append(key or PurePosixPath(path).name)
        unit.keys[str(generator.get("name"))] = frozenset(keys)

    def _patches(self, unit: Unit, file: str, folder: PurePosixPath, body: Mapping[str, Any]) -> None:
        """Patches by a file or inline; those that are lists of operations are only asked for their target."""
        entries: list[Mapping[str, Any]] = [{"path": path} for path in _strings(body, "patchesStrategicMerge")]
        for entry in (*mappings(body.get("patches")), *entries):
            target = inner(entry, "target")
            pieces: Sequence[Manifest] = ()
            if "path" in entry:
                path = self._inside(file, folder, str(entry["path"]), "patch")
                if path is None:
                    continue
                self._patch_files.add(path.relative_to(self._root).as_posix())
                pieces = self._read(path.relative_to(self._root).as_posix(), lists=target is not None)
            elif isinstance(entry.get("patch"), str):
                pieces = self._parse(file, entry["patch"], lists=target is not None)
            unit.patches += pieces
            named = [(inner(target, "kind"), inner(target, "name"))]
            wanted = named if target is not None else [(piece.kind, piece.name) for piece in pieces]
            for kind, name in wanted:
                if not any(kind in (None, m.kind) and name in (None, m.name) for m in unit.manifests):
                    self.faults.append(f"{file}: there is no {kind} {name} here that the patch could change")

    def _inside(self, file: str, folder: PurePosixPath, entry: str, what: str) -> Path | None:
        """The path of an entry; None, and a fault, if it is not there or not inside the folder."""
        if "://" in entry:  # from elsewhere: nothing is fetched
            return None
        path = (self._root / folder / entry).resolve()
        if not path.is_relative_to(self._root):
            self.faults.append(f"{file}: the {what} '{entry}' leads out of the folder")
        elif not path.exists():
            self.faults.append(f"{file}: the {what} '{entry}' does not exist")
        else:
            return path
        return None

    def _read(self, file: str, lists: bool = False) -> list[Manifest]:
        try:
            return self._parse(file, (self._root / file).read_text(encoding="utf-8"), lists)
        except (OSError, UnicodeDecodeError) as error:
            self.faults.append(f"{file}: cannot be read ({error})")
            return []

    def _parse(self, file: str, text: str, lists: bool = False) -> list[Manifest]:
        try:
            bodies = [body for body in yaml.load_all(text, _Loader) if body is not None]
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.faults.append(f"{file}: not valid YAML ({' '.join(str(error).split())[:200]})")
            return []
        if any(not isinstance(body, Mapping) for body in bodies):
            if not lists:
                self.faults.append(f"{file}: holds something else than objects")
            return []
        return [Manifest(file, str(inner(body, "metadata", "name") or ""), body) for body in bodies]


class _Loader(yaml.SafeLoader):
    """Safe, without aliases, which can blow a small file up, and without a key that stands twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"the key '{key}' stands twice in line {node.start_mark.line + 1} and below")
        return super().construct_mapping(node, deep)


def inner(value: Any, *keys: str) -> Any:
    """What lies under those keys; None where there is nothing, or something else than a mapping on the way."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings of a list; none if it is no list."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def pod_of(body: Mapping[str, Any]) -> tuple[Mapping[str, str], Mapping[str, Any]] | None:
    """Labels and specification of the pods that an object makes; None if it makes none."""
    kind = body.get("kind")
    if kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"):
        labels, spec = inner(body, "spec", "template", "metadata", "labels"), inner(body, "spec", "template", "spec")
    elif kind == "Pod":
        labels, spec = inner(body, "metadata", "labels"), body.get("spec")
    elif kind == "InferenceService":
        labels, spec = {}, inner(body, "spec", "predictor")
    else:
        return None
    return (labels if isinstance(labels, Mapping) else {}, spec if isinstance(spec, Mapping) else {})


def containers_of(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The containers of a pod."""
    return [*mappings(spec.get("initContainers")), *mappings(spec.get("containers"))]


def _images(manifests: Sequence[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        for container in containers_of((pod_of(manifest.body) or ({}, {}))[1]):
            yield str(container.get("image"))


def _image_name(reference: str) -> str:
    """An image without its tag and digest; the colon of a registry's port is no tag."""
    name, _, last = reference.partition("@")[0].rpartition("/")
    return f"{name}/{last.partition(':')[0]}" if name else last.partition(":")[0]


def _strings(body: Mapping[str, Any], key: str) -> list[str]:
    value = body.get(key)
    return [str(one) for one in value] if isinstance(value, list) else []
