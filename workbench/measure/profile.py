"""Time per layer: what a backend really ran, mapped back to the nodes of the model's graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from workbench import jobs
from workbench.backends import engine_key, open_runner
from workbench.backends._host import time_calls_for
from workbench.dataset import Dataset
from workbench.engine import Engine, Layer, Layers, Tensors
from workbench.errors import OptionsError
from workbench.graph import summarize_graph
from workbench.jobs import Progress, part_of, silent
from workbench.measure.environment import read_environment
from workbench.measure.feeds import make_feed
from workbench.measure.mapping import map_layers
from workbench.options import make_options, option, to_builtins
from workbench.plugins import find_plugin, list_plugins
from workbench.workspace import Workspace

_TOO_SLOW = 1.2  # times that the profiler may slow an inference down before its figures mislead
_ROUNDING = 1.02  # times that the sum may exceed the whole


@dataclass(frozen=True)
class ProfileOptions:
    """On what and how long is profiled."""

    batch: Annotated[int, option("Samples per inference.", minimum=1, maximum=4096, unit="samples")] = 1
    seconds: Annotated[
        float, option("Time under the profiler, and half of it without.", minimum=0.1, maximum=3600, unit="s")
    ] = 2.0


@dataclass(frozen=True)
class ProfiledLayer:
    """One layer and the nodes of the model's graph that it computes.

    Attributes:
        layer: What the backend ran.
        nodes: Names, as `summarize_graph` gives them, of the nodes that it computes, the one with the most
            multiply-accumulates first; several where they are fused; none for what the backend added.
        share: Share of the sum of all layers' times; 0 where nothing was measured.
    """

    layer: Layer
    nodes: tuple[str, ...]
    share: float = 0.0


@dataclass(frozen=True)
class LayerProfile:
    """Where the time of one inference goes.

    Attributes:
        model: Name of the model.
        backend: What ran it.
        layers: In the order in which they run.
        sum_ms: Sum of the layers' times; None where nothing was measured.
        whole_ms: Median time of one inference while it was profiled, ms.
        plain_ms: Median time of one inference without the profiler, ms.
        iterations: Inferences that the times are the mean of.
        batch: Samples per inference.
        caveats: Why the times may mislead, e.g. that their sum exceeds the whole.
    """

    model: str
    backend: str
    layers: tuple[ProfiledLayer, ...]
    sum_ms: float | None
    whole_ms: float | None
    plain_ms: float | None
    iterations: int
    batch: int = 1
    caveats: tuple[str, ...] = ()

    @property
    def node_ms(self) -> dict[str, float]:
        """Time by node of the graph; the time of a group of fused nodes stands at the one that computes most."""
        return self._sum(lambda entry: entry.nodes[0] if entry.nodes else "")

    @property
    def ms_by_kind(self) -> dict[str, float]:
        """Time of `compute`, `quantize` and `reformat` layers."""
        return self._sum(lambda entry: entry.layer.kind)

    @property
    def ms_by_operator(self) -> dict[str, float]:
        """Time by the backend's operator, largest first."""
        sums = self._sum(lambda entry: entry.layer.operator)
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    @property
    def ms_by_precision(self) -> dict[str, float]:
        """Time by what is computed in, of the layers that compute; those that do not say under `not known`."""
        return self._sum(lambda entry: entry.layer.precision or "not known" if entry.layer.kind == "compute" else "")

    def _sum(self, key: Callable[[ProfiledLayer], str]) -> dict[str, float]:
        """Sums the times that were measured by a key, those with an empty one left out."""
        sums: dict[str, float] = {}
        for entry in self.layers:
            if entry.layer.ms is not None and (name := key(entry)):
                sums[name] = sums.get(name, 0.0) + entry.layer.ms
        return sums


def profile_layers(
    engine: Engine,
    options: Mapping[str, Any] | ProfileOptions | None = None,
    *,
    dataset: Dataset | None = None,
    workspace: Workspace | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> LayerProfile:
    """Profiles an engine in a fresh subprocess and keeps the result in the workspace.

    Args:
        engine: What to profile.
        options: Fields of `ProfileOptions`.
        dataset: Its first samples are fed; random values if there is none.
        workspace: Where the result is kept, and found again by a rerun on the same machine.
        fresh: Profile again even if the workspace has the result.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        OptionsError: The backend tells no time per layer, or an option has a value it cannot have.
        ModelError: The backend refuses the model.
    """
    checked = make_options(ProfileOptions, options, "profile_layers")
    if not can_profile(engine.backend):
        raise OptionsError(
            f"The backend {engine.backend} does not tell what its layers take.",
            f"Profile the model on one that does: {', '.join(filter(can_profile, _installed()))}.",
        )
    feed = make_feed(engine, dataset, checked.batch)
    key = {
        "engine": engine_key(engine),
        "dataset": dataset.sha256 if dataset else None,
        "options": to_builtins(checked),
        "environment": to_builtins(read_environment()),
    }

    def compute() -> LayerProfile:
        found, plain_ms = jobs.run(_profile, engine, feed, checked.seconds, progress=progress)
        return _describe(engine, checked.batch, found, plain_ms)

    return (workspace or Workspace()).result("profiles", key, LayerProfile, compute, fresh=fresh)


def can_profile(backend: str) -> bool:
    """Whether an installed backend tells about its layers."""
    return hasattr(find_plugin("backends", backend), "profile")


def _installed() -> Iterable[str]:
    return (plugin.name for plugin in list_plugins("backends") if plugin.available)


def _profile(engine: Engine, feed: Tensors, seconds: float, progress: Progress) -> tuple[Layers, float | None]:
    """Runs in the worker: the layers, and the median time of an inference without the profiler."""
    found: Layers = find_plugin("backends", engine.backend).profile(engine, feed, seconds, part_of(progress, 0.0, 0.7))
    if found.whole_ms is None:
        return found, None
    progress(0.7, "timing without the profiler")
    with open_runner(engine) as runner:
        times = time_calls_for(runner.bind(feed), seconds / 2)
    return found, float(np.median(times[len(times) // 5 :]))


def _describe(engine: Engine, batch: int, found: Layers, plain_ms: float | None) -> LayerProfile:
    groups = map_layers(summarize_graph(engine.model, batch=batch).nodes, found.layers)
    times = [layer.ms for layer in found.layers if layer.ms is not None]
    total = sum(times) if times else None
    layers = tuple(
        ProfiledLayer(layer, nodes, (layer.ms or 0.0) / total if total else 0.0)
        for layer, nodes in zip(found.layers, groups, strict=True)
    )
    caveats = list(found.caveats)
    if total and found.whole_ms and total > _ROUNDING * found.whole_ms:
        caveats.append(
            f"the layers add up to {total:.3g} ms, more than the {found.whole_ms:.3g} ms of the whole: some ran side "
            "by side, or their times were disturbed"
        )
    if found.whole_ms and plain_ms and found.whole_ms > _TOO_SLOW * plain_ms:
        caveats.append(
            f"the profiler slows an inference from {plain_ms:.3g} to {found.whole_ms:.3g} ms: small layers look "
            "dearer than they are"
        )
    return LayerProfile(
        model=engine.model.name,
        backend=engine.backend,
        layers=layers,
        sum_ms=total,
        whole_ms=found.whole_ms,
        plain_ms=plain_ms,
        iterations=found.iterations,
        batch=batch,
        caveats=tuple(caveats),
    )
