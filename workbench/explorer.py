"""The engine explorer: what a backend made of a model, layer by layer, what is wrong with it, and how two differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from workbench import jobs
from workbench._engine_diff import EngineDiff as EngineDiff
from workbench._engine_diff import LayerChange as LayerChange
from workbench._engine_diff import diff_layers
from workbench.artifact import Manifest, find_manifest
from workbench.backends import engine_key
from workbench.engine import Engine, Layers
from workbench.errors import EngineError
from workbench.graph import summarize_graph
from workbench.jobs import Progress, silent
from workbench.linters import EngineIssue, Subject, lint
from workbench.measure.environment import read_environment
from workbench.measure.mapping import map_layers, match_layers
from workbench.measure.profile import LayerProfile, ProfiledLayer
from workbench.options import to_builtins
from workbench.plugins import find_plugin, list_plugins
from workbench.workspace import Workspace

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Share:
    """All layers of one precision, kind or operator.

    Attributes:
        name: What they have in common.
        layers: How many they are.
        milliseconds: Time that they take of one inference; None where it was not measured.
        bytes: Size of what they write; None where the backend does not tell.
    """

    name: str
    layers: int
    milliseconds: float | None
    bytes: int | None


@dataclass(frozen=True)
class EngineView:
    """An engine taken apart.

    Attributes:
        model: Name of the model.
        backend: What built it.
        device: What it runs on.
        profile: Its layers with the nodes that they compute, in the order in which they run; times where measured.
        names: A name for each layer that no other has.
        unplaced: Nodes of the model's graph that are in no layer: computed while it was built, or left out.
        memory: Bytes that the engine takes, by what for; empty if the backend does not tell.
        manifest: How it was built; None for what is compiled when it is opened.
        issues: What the linters found, the most time first.
    """

    model: str
    backend: str
    device: str
    profile: LayerProfile
    names: tuple[str, ...]
    unplaced: tuple[str, ...] = ()
    memory: Mapping[str, int] = field(default_factory=dict)
    manifest: Manifest | None = None
    issues: tuple[EngineIssue, ...] = ()

    @property
    def layers(self) -> tuple[ProfiledLayer, ...]:
        """The layers in the order in which they run."""
        return self.profile.layers

    @property
    def by_precision(self) -> tuple[Share, ...]:
        """The layers that compute, by what they compute in; those that do not say under `not known`."""
        computing = [entry for entry in self.layers if entry.layer.kind == "compute"]
        return _shares(computing, lambda entry: entry.layer.precision or "not known")

    @property
    def by_kind(self) -> tuple[Share, ...]:
        """Layers that compute, quantize and reformat."""
        return _shares(self.layers, lambda entry: entry.layer.kind)

    @property
    def by_operator(self) -> tuple[Share, ...]:
        """Layers by the backend's operator, the most first."""
        return _shares(self.layers, lambda entry: entry.layer.operator)

    @property
    def nodes_per_layer(self) -> float:
        """How many nodes of the graph a layer computes on average, of those that compute any; 0 if none does."""
        counts = [len(entry.nodes) for entry in self.layers if entry.nodes]
        return sum(counts) / len(counts) if counts else 0.0


def explore_engine(
    engine: Engine,
    *,
    profile: LayerProfile | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> EngineView:
    """Takes an engine apart: its layers, what was fused, what they compute in, and what is wrong with them.

    Args:
        engine: Of a backend that tells its layers.
        profile: Its layers with times, from `profile_layers`; without one, nothing is run.
        workspace: Where the layers are kept, and found again by a rerun.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        EngineError: The backend does not tell its layers, or the engine cannot be read.
        ModelError: The backend refuses the model.
    """
    told = _read_layers(engine, profile, workspace or Workspace(), progress)
    batch = profile.batch if profile else int(engine.options.get("batch", 1))
    graph = summarize_graph(engine.model, batch=batch)
    if profile is None:
        groups = map_layers(graph.nodes, told.layers)
        entries = tuple(ProfiledLayer(layer, nodes) for layer, nodes in zip(told.layers, groups, strict=True))
        profile = LayerProfile(engine.model.name, engine.backend, entries, None, None, None, 0, batch, told.caveats)
    names = layer_names(profile)
    placed = {name for entry in profile.layers for name in entry.nodes}
    return EngineView(
        model=engine.model.name,
        backend=engine.backend,
        device=engine.device,
        profile=profile,
        names=names,
        unplaced=tuple(n.name for n in graph.nodes if n.name not in placed and n.operator != "Constant"),
        memory=told.memory,
        manifest=find_manifest(engine),
        issues=lint(Subject(engine, graph, profile, names)),
    )


def compare_engines(
    first: Engine, second: Engine, *, workspace: Workspace | None = None, progress: Progress = silent
) -> EngineDiff:
    """Compares what a backend made of a model twice, or of a model and one that was made of it.

    Args:
        first: An engine of a backend that tells its layers.
        second: Another, of the same backend or not.
        workspace: Where the layers are kept, and found again by a rerun.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        EngineError: A backend does not tell its layers, or an engine cannot be read.
        ModelError: A backend refuses its model.
    """
    views = [explore_engine(engine, workspace=workspace, progress=progress) for engine in (first, second)]
    files = [view.manifest.sha256 if view.manifest else None for view in views]
    pairs = match_layers(first.model, views[0].layers, second.model, views[1].layers)
    names = [dict(zip(map(id, view.layers), view.names, strict=True)) for view in views]
    changes, same = diff_layers(pairs, names)
    counts = (len(views[0].layers), len(views[1].layers))
    return EngineDiff(changes, same, counts, files[0] == files[1] if all(files) else None)


def can_explore(backend: str) -> bool:
    """Whether an installed backend tells the layers of an engine without running it."""
    return hasattr(find_plugin("backends", backend), "optimized")


def layer_names(profile: LayerProfile) -> tuple[str, ...]:
    """A name for every layer that no other has: the backend's, numbered where it repeats."""
    names: list[str] = []
    seen: Counter[str] = Counter()
    for entry in profile.layers:
        seen[entry.layer.name] += 1
        count = seen[entry.layer.name]
        names.append(entry.layer.name if count == 1 else f"{entry.layer.name} ({count})")
    return tuple(names)


def _read_layers(engine: Engine, profile: LayerProfile | None, workspace: Workspace, progress: Progress) -> Layers:
    """What the backend tells without running: in a subprocess, as it may compile."""
    if not can_explore(engine.backend):
        if profile is not None:
            return Layers(())
        able = (plugin.name for plugin in list_plugins("backends") if plugin.available and can_explore(plugin.name))
        raise EngineError(
            f"The backend {engine.backend} does not tell what it made of {engine.model.name}.",
            f"Build it on one that does: {', '.join(able)}.",
        )
    key = {"engine": engine_key(engine), "environment": to_builtins(read_environment())}
    return workspace.result("layers", key, Layers, lambda: jobs.run(_optimized, engine, progress=progress), fresh=False)


def _optimized(engine: Engine, progress: Progress) -> Layers:
    """Runs in the worker."""
    progress(0.1, f"reading the layers of {engine.model.name}")
    found: Layers = find_plugin("backends", engine.backend).optimized(engine)
    return found


def _shares(entries: Iterable[ProfiledLayer], key: Callable[[ProfiledLayer], str]) -> tuple[Share, ...]:
    groups: dict[str, list[ProfiledLayer]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    shares = [
        Share(
            name,
            len(group),
            _sum([entry.layer.ms for entry in group]),
            _sum([entry.layer.output_bytes for entry in group]),
        )
        for name, group in groups.items()
    ]
    return tuple(sorted(shares, key=lambda share: (-(share.milliseconds or 0.0), -share.layers)))


def _sum(values: Sequence[T | None]) -> T | None:
    known = [value for value in values if value is not None]
    return sum(known[1:], known[0]) if known else None
