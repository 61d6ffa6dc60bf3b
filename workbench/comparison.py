"""Candidates side by side: size, accuracy and latency, each against the original; the front and the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from workbench.backends import engine_key, predict
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import OptionsError
from workbench.jobs import Progress, part_of, silent
from workbench.measure.accuracy import (
    Accuracy,
    Agreement,
    OutputError,
    compare_predictions,
    first_output,
    output_error,
    score,
)
from workbench.measure.environment import Environment, read_environment
from workbench.measure.latency import LatencyOptions, LatencyStats, measure_latency
from workbench.measure.statistics import Estimate, paired_ratio
from workbench.options import make_options, option, to_builtins
from workbench.workspace import Workspace

ORIGINAL = "original"  # name of the candidate that the others are compared with


@dataclass(frozen=True)
class Candidate:
    """A model after given transforms, on a given backend, with given options."""

    name: str
    engine: Engine


@dataclass(frozen=True)
class Row:
    """One candidate and what was measured of it.

    Attributes:
        candidate: What was measured.
        latency: Host time of one inference.
        speedup: How many times faster than the original, paired by rounds; 1 for the original itself.
        accuracy: Top-1; None without labels.
        agreement: Predictions against the original's; None for the original.
        output_error: Outputs against the original's; None for the original.
    """

    candidate: Candidate
    latency: LatencyStats
    speedup: Estimate
    accuracy: Accuracy | None = None
    agreement: Agreement | None = None
    output_error: OutputError | None = None

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.candidate.name

    @property
    def size_bytes(self) -> int:
        """Size of the model."""
        return self.candidate.engine.model.size_bytes

    @property
    def p50_ms(self) -> float:
        """Median latency, ms; the mean where there were too few timings for a median."""
        return self.latency.p50.value if self.latency.p50 else self.latency.mean_ms

    @property
    def quality(self) -> float:
        """Top-1 where there are labels, else the share of predictions that agree with the original's."""
        if self.accuracy:
            return self.accuracy.top1.value
        return self.agreement.share if self.agreement else 1.0


@dataclass(frozen=True)
class Comparison:
    """Measured candidates; the first is the original that all are compared with."""

    rows: tuple[Row, ...]
    dataset: str
    samples: int
    environment: Environment

    @property
    def original(self) -> Row:
        """What the others are compared with."""
        return self.rows[0]

    def __getitem__(self, name: str) -> Row:
        """The row of that name.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def accuracy_drop(self, row: Row) -> float:
        """Quality lost against the original, percentage points; negative where it rose."""
        return 100 * (self.original.quality - row.quality)


@dataclass(frozen=True)
class ChoiceOptions:
    """What to look for."""

    max_accuracy_drop: Annotated[
        float, option("Accuracy budget: largest loss against the original.", minimum=0, maximum=100, unit="points")
    ] = 1.0
    prefer: Annotated[Literal["latency", "size"], option("What to make smallest within the budget.")] = "latency"


@dataclass(frozen=True)
class Choice:
    """The candidate to ship, and why not the others.

    Attributes:
        name: The chosen candidate; the original if nothing better kept the budget.
        reason: Why, in words.
        rejected: Why not, for each candidate that was not eligible.
    """

    name: str
    reason: str
    rejected: Mapping[str, str]


def compare(
    candidates: Sequence[Candidate],
    dataset: Dataset,
    latency: Mapping[str, Any] | LatencyOptions | None = None,
    *,
    workspace: Workspace | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> Comparison:
    """Measures candidates against the first of them.

    Args:
        candidates: The original first.
        dataset: Evaluation samples; with labels, accuracy is measured, without, agreement only.
        latency: Fields of `LatencyOptions`.
        workspace: Where the result is kept, and found again by a rerun on the same machine.
        fresh: Measure again even if the workspace has the result.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        OptionsError: No candidates, or two of one name.
        DatasetError: The samples do not fit.
    """
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) != len(names):
        raise OptionsError(
            f"compare needs candidates with different names, but got: {', '.join(names) or 'none'}.",
            "Give the original first, then each variant under a name of its own.",
        )
    options = make_options(LatencyOptions, latency, "compare")
    workspace = workspace or Workspace()
    environment = read_environment()
    key = {
        "candidates": [{"name": candidate.name, **engine_key(candidate.engine)} for candidate in candidates],
        "dataset": dataset.sha256,
        "latency": to_builtins(options),
        "environment": to_builtins(environment),
    }

    def measure() -> Comparison:
        return _measure(candidates, dataset, options, workspace, environment, progress)

    found = workspace.result("comparisons", key, Comparison, measure, fresh=fresh)
    # An earlier run may have had the same models elsewhere.
    rows = tuple(replace(row, candidate=now) for row, now in zip(found.rows, candidates, strict=True))
    return replace(found, rows=rows)


def _measure(
    candidates: Sequence[Candidate],
    dataset: Dataset,
    options: LatencyOptions,
    workspace: Workspace,
    environment: Environment,
    progress: Progress,
) -> Comparison:
    scores = []
    for number, candidate in enumerate(candidates):
        start, end = 0.3 * number / len(candidates), 0.3 * (number + 1) / len(candidates)
        report = part_of(progress, start, end, f"{candidate.name}: ")
        outputs = predict(candidate.engine, dataset, workspace=workspace, progress=report)
        scores.append(first_output(candidate.engine, outputs))
    engines = [candidate.engine for candidate in candidates]
    stats = measure_latency(engines, options, dataset=dataset, progress=part_of(progress, 0.3, 1.0))
    rows = []
    for candidate, values, timing in zip(candidates, scores, stats, strict=True):
        is_original = candidate is candidates[0]
        rows.append(
            Row(
                candidate=candidate,
                latency=timing,
                speedup=paired_ratio(stats[0].round_medians, timing.round_medians),
                accuracy=score(values, dataset) if dataset.labels is not None else None,
                agreement=None if is_original else compare_predictions(scores[0], values, dataset),
                output_error=None if is_original else output_error(scores[0], values),
            )
        )
    return Comparison(tuple(rows), dataset.name, len(dataset), environment)


def pareto_front(comparison: Comparison) -> tuple[str, ...]:
    """Names of the candidates that no other beats in both latency and quality, fastest first."""
    front: list[Row] = []
    for row in sorted(comparison.rows, key=lambda row: (row.p50_ms, -row.quality)):
        if not front or row.quality > front[-1].quality:
            front.append(row)
    return tuple(row.name for row in front)


def choose(comparison: Comparison, options: Mapping[str, Any] | ChoiceOptions | None = None) -> Choice:
    """Picks the best candidate within an accuracy budget; never one that is not faster than the original.

    Args:
        comparison: What was measured.
        options: Fields of `ChoiceOptions`.
    """
    wanted = make_options(ChoiceOptions, options, "choose")
    original = comparison.original
    rejected: dict[str, str] = {}
    eligible = [original]
    for row in comparison.rows[1:]:
        drop = comparison.accuracy_drop(row)
        if drop > wanted.max_accuracy_drop + 1e-9:
            rejected[row.name] = f"loses {drop:.2f} points, over the budget of {wanted.max_accuracy_drop:g}"
        elif row.speedup.high < 1:
            verdict = "slower" if row.speedup.value < 0.99 else "not faster"
            rejected[row.name] = f"is {verdict} than the original ({row.speedup.value:.2f} ×)"
        elif wanted.prefer == "latency" and row.speedup.low <= 1:
            rejected[row.name] = f"is not clearly faster than the original ({row.speedup.value:.2f} ×)"
        else:
            eligible.append(row)
    by_size = wanted.prefer == "size"
    best = min(eligible, key=lambda row: row.size_bytes if by_size else row.p50_ms)
    if best is original:
        return Choice(original.name, "no candidate is better within the accuracy budget", rejected)
    what = "smallest" if by_size else "fastest"
    loss = max(0.0, comparison.accuracy_drop(best))
    return Choice(best.name, f"the {what} within the budget: it loses {loss:.2f} points", rejected)
