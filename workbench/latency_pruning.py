"""Pruning to a latency: finds the share of channels to take away that brings a model to the time it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench import jobs
from workbench.backends import build_engine
from workbench.dataset import Dataset
from workbench.errors import OptionsError
from workbench.jobs import Progress, part_of, silent
from workbench.measure.latency import LatencyOptions, LatencyStats, measure_latency
from workbench.model import Model
from workbench.model_file import read_whole
from workbench.options import make_options, to_builtins
from workbench.plugins import find_plugin
from workbench.pruning import distinct_shares
from workbench.transforms import transform
from workbench.transforms.prune_channels import named
from workbench.workspace import Workspace

_SHARES = range(1, 91)  # %; beyond, hardly any net still answers
_TRIALS = 9  # at most, as a rule: the two ends, halvings of 90 shares down to one, and the model that is given
_QUICK = {"seconds": 1.0, "launches": 2}


@dataclass(frozen=True)
class LatencyTrial:
    """One share that was tried.

    Attributes:
        share: Channels taken away, %.
        ms: Median latency, ms.
    """

    share: float
    ms: float


@dataclass(frozen=True)
class LatencyPruning:
    """The model that is fast enough, or the fastest there is.

    Attributes:
        model: The pruned model; the original where that is fast enough.
        share: Channels that were taken away, %; 0 for the original.
        latency: What was measured of it.
        target_ms: What it was to take, ms.
        holds: Whether its median is within the target.
        trials: Every share that was measured, in order; the first is the original, the last the model as it is given.
    """

    model: Model
    share: float
    latency: LatencyStats
    target_ms: float
    holds: bool
    trials: tuple[LatencyTrial, ...] = field(default_factory=tuple)


def prune_to_latency(
    model: Model,
    target_ms: float,
    calibration: Dataset,
    options: Mapping[str, Any] | None = None,
    *,
    backend: str = "onnxruntime",
    backend_options: Mapping[str, Any] | None = None,
    latency: Mapping[str, Any] | LatencyOptions | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> LatencyPruning:
    """Takes away as few channels as bring the median latency within the target.

    The share is found by halving the range that is left: what takes too long needs more, what is fast enough may need
    less. Every share on the way is really pruned and measured, without the repair that changes no time; the one chosen
    is pruned as the options say and measured again. Pruned models are kept in the workspace. The target is for this
    machine under the load that it has meanwhile: `latency.trust` of the result says whether it was quiet.

    Args:
        model: The float model.
        target_ms: Longest median of one inference, ms.
        calibration: Samples for prune_channels, and what is fed; no labels needed.
        options: Options of prune_channels; `share` is what is looked for.
        backend: What runs the model.
        backend_options: Options of that backend, such as `threads`.
        latency: Fields of `LatencyOptions`; a second in two launches for each trial if nothing is said.
        workspace: Where pruned models are kept.
        progress: Called with the share done and a short text; may raise to cancel.

    Returns:
        The model that keeps the target with the fewest channels gone; the fastest one, with `holds` false, where none
        keeps it.

    Raises:
        OptionsError: The target is not above 0, `options` has a share, or another option cannot be.
        TransformError: No channel of the model can go, and it is too slow as it is.
        DatasetError: The samples do not fit the model.
    """
    given = dict(to_builtins(options or {}))
    if target_ms <= 0:
        raise OptionsError(f"A model cannot take {target_ms:g} ms.", "Give a target above 0 ms.")
    if "share" in given:
        raise OptionsError("The share is what pruning to a latency looks for.", "Leave share out of its options.")
    make_options(find_plugin("transforms", "prune_channels").Options, given, "prune_channels")
    search = _Search(
        model,
        calibration,
        given,
        backend,
        backend_options or {},
        make_options(LatencyOptions, latency or _QUICK, "measure_latency"),
        workspace or Workspace(),
    )
    return search.run(target_ms, progress)


@dataclass(frozen=True)
class _Measured:
    model: Model
    share: float
    stats: LatencyStats

    @property
    def ms(self) -> float:
        return self.stats.p50.value if self.stats.p50 else self.stats.mean_ms


class _Search:
    """The shares tried so far."""

    def __init__(
        self,
        model: Model,
        calibration: Dataset,
        options: Mapping[str, Any],
        backend: str,
        backend_options: Mapping[str, Any],
        latency: LatencyOptions,
        workspace: Workspace,
    ) -> None:
        self._model, self._calibration, self._options = model, calibration, options
        self._backend, self._backend_options = backend, backend_options
        self._latency, self._workspace = latency, workspace
        self._tried: list[_Measured] = []

    def run(self, target_ms: float, progress: Progress) -> LatencyPruning:
        """Measures the original and the smallest net, then halves what lies between."""
        original = self._try(0.0, progress)
        if original.ms <= target_ms:
            return self._result(original, target_ms)
        shares = jobs.run(_distinct_shares, self._model, self._options, progress=silent)
        smallest = self._try(shares[-1], progress)
        low, high = 0, len(shares) - 1  # places: below `low` is too slow, at `high` fast enough
        while smallest.ms <= target_ms and low < high:
            middle = (low + high) // 2
            fast_enough = self._try(shares[middle], progress).ms <= target_ms
            low, high = (low, middle) if fast_enough else (middle + 1, high)
        fast = sorted((one for one in self._tried if one.ms <= target_ms), key=lambda one: one.share)
        chosen = fast or [min(self._tried[1:], key=lambda one: one.ms)]
        for one in chosen:  # the next one where noise had let the first pass
            final = self._try(one.share, progress, final=True)
            if final.ms <= target_ms:
                break
        return self._result(final, target_ms)

    def _try(self, share: float, progress: Progress, *, final: bool = False) -> _Measured:
        done = min(len(self._tried), _TRIALS - 1)
        report = part_of(progress, done / _TRIALS, (done + 1) / _TRIALS, f"{share:.4g} % of channels: ")
        model = self._prune(share, final, part_of(report, 0.0, 0.5)) if share else self._model
        twin = next((one for one in self._tried if one.model.sha256 == model.sha256), None)
        if twin is not None:  # the same numbers of channels
            measured = _Measured(model, share, twin.stats)
        else:
            engine = build_engine(model, self._backend, self._backend_options)
            [stats] = measure_latency(
                [engine], self._latency, dataset=self._calibration, progress=part_of(report, 0.5, 1.0)
            )
            measured = _Measured(model, share, stats)
        self._tried.append(measured)
        return measured

    def _prune(self, share: float, final: bool, progress: Progress) -> Model:
        options = {**self._options, "share": share}
        if not final:
            options["recover"] = False
            if options.get("ranking", "layer") == "layer":
                options["importance"] = (
                    "magnitude"  # which channels go does not change the time then, and this is quick
                )
        return transform(
            self._model,
            "prune_channels",
            options,
            dataset=self._calibration,
            workspace=self._workspace,
            progress=progress,
        )

    def _result(self, best: _Measured, target_ms: float) -> LatencyPruning:
        trials = tuple(LatencyTrial(one.share, one.ms) for one in self._tried)
        return LatencyPruning(best.model, best.share, best.stats, target_ms, best.ms <= target_ms, trials)


def _distinct_shares(model: Model, options: Mapping[str, Any], *, progress: Progress) -> tuple[float, ...]:
    """Runs in a worker: the shares that give different numbers of channels."""
    checked = make_options(find_plugin("transforms", "prune_channels").Options, options, "prune_channels")
    plan = checked.plan()
    return distinct_shares(named(read_whole(model.path), model.path), plan, map(float, _SHARES))
