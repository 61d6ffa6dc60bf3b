"""Trials: a variant of a candidate, measured in turns with the candidate as it is, once; later runs find the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.backends import build_engine, engine_key
from workbench.dataset import Dataset
from workbench.engine import Engine, random_feed
from workbench.errors import DatasetError
from workbench.findings.context import Context, is_quantized
from workbench.findings.words import in_ms, in_times
from workbench.measure.environment import read_environment
from workbench.measure.latency import LatencyStats, measure_latency, speedup
from workbench.measure.statistics import Estimate
from workbench.model import Model, Step
from workbench.options import to_builtins
from workbench.plugins import find_plugin, plugin_modules
from workbench.transforms import transform

CLEAR = 1.05  # a trial is short: what it tells apart differs by more than this
SETTINGS = {"seconds": 0.5, "precision": 2.0, "launches": 3}
_CALIBRATION = 32  # samples that quantize a trial: its times hardly depend on the ranges


@dataclass(frozen=True)
class Trial:
    """What a variant would change.

    Attributes:
        engine: The variant.
        step: The variant, as a recipe has it under `candidates`; None if no recipe makes it.
        before: The candidate as it is, in the same rounds.
        after: The variant.
    """

    engine: Engine
    step: Mapping[str, Any] | None
    before: LatencyStats
    after: LatencyStats

    @property
    def ratio(self) -> Estimate:
        """How many times faster the variant is, by the fastest tenths, which other work disturbs least."""
        return speedup(self.before, self.after).p10

    @property
    def is_faster(self) -> bool:
        """Whether the variant is faster beyond doubt."""
        return self.ratio.low > CLEAR

    @property
    def saved_ms(self) -> float:
        """Time of one inference that the variant saves, ms; negative if it costs some."""
        return median_ms(self.before) * (1 - 1 / self.ratio.value)

    def describe(self, variant: str) -> str:
        """Both times in words, e.g. `0.76 ms as it is, 0.32 ms with …, measured in turns: 2.4 × (2.3–2.5) faster`."""
        as_it_is, changed, ratio = median_ms(self.before), median_ms(self.after), self.ratio
        if ratio.value < 1:
            verdict = f"{in_times(Estimate(1 / ratio.value, 1 / ratio.high, 1 / ratio.low))} slower"
        else:
            verdict = f"{in_times(ratio)} faster"
        return f"{in_ms(as_it_is)} as it is, {in_ms(changed)} {variant}, measured in turns: {verdict}"


def try_options(context: Context, title: str, changes: Mapping[str, Any]) -> Trial:
    """Measures the candidate's model with other options of its backend.

    Args:
        context: The candidate.
        title: What is different, for the variant's name.
        changes: The options that differ.
    """
    engine = context.row.candidate.engine
    changed = build_engine(engine.model, engine.backend, {**engine.options, **changes})
    return _measure(context, changed, with_options(context, title, changes))


def with_options(context: Context, title: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The candidate with other options of its backend, as a recipe has it; None if no recipe makes its model."""
    engine, steps = context.row.candidate.engine, own_steps(context)
    changed = build_engine(engine.model, engine.backend, {**engine.options, **changes})
    return None if steps is None else _as_step(context, title, steps, changed)


def try_static_quantization(context: Context) -> Trial | None:
    """Measures the original quantized by `quantize_static` for the candidate's backend.

    Returns:
        None where that is the candidate itself, or the original is quantized already.
    """
    steps = _static_steps(context)
    if steps is None:
        return None
    model = context.original.candidate.engine.model
    samples = _samples(context, model)
    for step in steps:
        model = transform(
            model,
            step.transform,
            step.options,
            dataset=samples,
            workspace=context.workspace,
            progress=context.progress,
        )
    engine = context.row.candidate.engine
    changed = build_engine(model, engine.backend, engine.options)
    return _measure(context, changed, static_quantization(context))


def static_quantization(context: Context) -> dict[str, Any] | None:
    """The original quantized by `quantize_static` for the candidate's backend, as a recipe has it under `candidates`.

    Returns:
        None where that is the candidate itself, or the original is quantized already.
    """
    steps = _static_steps(context)
    return None if steps is None else _as_step(context, "int8 static", steps, context.row.candidate.engine)


def aligned_pruning(context: Context) -> dict[str, Any] | None:
    """The original with whole channels gone, in counts that fill vectors, and the candidate's other steps after that.

    Returns:
        None where that is the candidate itself, it was made in another way, or the original is quantized already.
    """
    own = own_steps(context)
    if own is None or is_quantized(context.original_graph):
        return None
    usual = to_builtins(find_plugin("transforms", "prune_channels").Options())
    given = next((step.options for step in own if step.transform == "prune_channels"), {})
    pruned = Step("prune_channels", {**usual, **given, "align": usual["align"]})
    rest = [step for step in own if step.transform not in ("prune_channels", "sparsify")]
    if given and given["align"] == usual["align"]:
        return None
    return _as_step(context, "whole channels pruned", [pruned, *rest], context.row.candidate.engine)


def measure_once(context: Context, engines: Sequence[Engine], batch: int | None = None) -> tuple[LatencyStats, ...]:
    """Measures engines in turns; what an earlier run measured on this machine is used again.

    Args:
        context: Whose samples and workspace are used.
        engines: What to measure.
        batch: Samples per inference; the candidate's if not given.
    """
    options = {**SETTINGS, "batch": batch or context.batch}
    dataset = context.dataset if all(_fits(context.dataset, engine.model) for engine in engines) else None
    key = {
        "engines": [engine_key(engine) for engine in engines],
        "options": options,
        "dataset": dataset.sha256 if dataset else None,
        "environment": to_builtins(read_environment()),
    }

    def measure() -> tuple[LatencyStats, ...]:
        return measure_latency(engines, options, dataset=dataset, progress=context.progress)

    return context.workspace.result("trials", key, tuple[LatencyStats, ...], measure)


def median_ms(stats: LatencyStats) -> float:
    """Median latency, ms; the mean where there were too few timings for a median."""
    return stats.p50.value if stats.p50 else stats.mean_ms


def own_steps(context: Context) -> tuple[Step, ...] | None:
    """The transforms that lead from the original to the candidate; None if it was made in another way."""
    first, second = context.original.candidate.engine.model, context.row.candidate.engine.model
    count = len(first.history)
    if first.name != second.name or second.history[:count] != first.history:
        return None
    steps = second.history[count:]
    if not {step.transform for step in steps} <= plugin_modules("transforms").keys():  # it was trained
        return None
    return steps if steps or first.sha256 == second.sha256 else None


def _measure(context: Context, engine: Engine, step: Mapping[str, Any] | None) -> Trial:
    before, after = measure_once(context, [context.row.candidate.engine, engine])
    return Trial(engine, step, before, after)


def _as_step(context: Context, title: str, steps: Sequence[Step], engine: Engine) -> dict[str, Any]:
    """A candidate as a recipe has it; options that have their defaults anyway are left out."""
    usual = build_engine(engine.model, engine.backend).options
    return {
        "name": f"{context.row.name}, {title}",
        "transforms": [_step_entry(step) for step in steps],
        "backend": engine.backend,
        "options": {name: value for name, value in engine.options.items() if value != usual.get(name)},
    }


def _static_steps(context: Context) -> list[Step] | None:
    """The candidate's own steps with one that quantizes unsigned in the place of those that quantize."""
    own = own_steps(context) or ()
    if is_quantized(context.original_graph):
        return None
    usual = to_builtins(find_plugin("transforms", "quantize_static").Options())
    given = next((step.options for step in own if step.transform == "quantize_static"), {})
    steps = [step for step in own if not step.transform.startswith("quantize")]
    steps.append(Step("quantize_static", {**usual, **given, "activations": "auto", "target": usual["target"]}))
    same = [(step.transform, step.options) for step in steps] == [(step.transform, step.options) for step in own]
    return None if same else steps


def _step_entry(step: Step) -> str | dict[str, Any]:
    usual = to_builtins(find_plugin("transforms", step.transform).Options())
    given = {name: value for name, value in step.options.items() if value != usual.get(name)}
    return {step.transform: given} if given else step.transform


def _samples(context: Context, model: Model) -> Dataset:
    """A few samples that a trial's quantization can do with."""
    count = max(_CALIBRATION, model.fixed_batch or 1)
    if context.dataset is not None and _fits(context.dataset, model) and len(context.dataset) >= count:
        return context.dataset.take(count)
    return Dataset(random_feed(model, count), name="random values")


def _fits(dataset: Dataset | None, model: Model) -> bool:
    try:
        if dataset is not None:
            dataset.check_fits(model)
    except DatasetError:
        return False
    return dataset is not None
