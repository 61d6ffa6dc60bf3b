"""Candidates side by side: size, accuracy and latency, each against the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.backends import engine_key, predict
from workbench.dataset import Dataset
from workbench.engine import Engine, Tensors
from workbench.errors import Cancelled, OptionsError, WorkbenchError
from workbench.jobs import Progress, part_of, silent
from workbench.measure.accuracy import (
    Accuracy,
    AccuracyChange,
    AccuracyOptions,
    Agreement,
    Metric,
    Scores,
    accuracy_of,
    accuracy_options,
    can_score,
    change_of,
    compare_predictions,
    score,
    scored_output,
)
from workbench.measure.environment import Environment, read_environment
from workbench.measure.latency import LatencyOptions, LatencyStats, measure_latency, speedup
from workbench.measure.output_error import OutputError, output_error
from workbench.measure.statistics import Estimate
from workbench.options import make_options, to_builtins
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
        speedup: How many times faster than the original by the fastest tenths, which hold while other work disturbs the
            machine; paired by launches, 1 for the original itself.
        speedup_p50: The same by the medians.
        speedup_cpu: The same by the processor time of one inference.
        accuracy: The task's metrics; None without labels.
        change: Accuracy against the original's, tested; None for the original and without labels.
        agreement: Predictions against the original's; None for the original.
        output_error: Outputs against the original's; None for the original.
    """

    candidate: Candidate
    latency: LatencyStats
    speedup: Estimate
    speedup_p50: Estimate
    speedup_cpu: Estimate
    accuracy: Accuracy | None = None
    change: AccuracyChange | None = None
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
    def slower(self) -> bool:
        """Whether it measured slower than the original beyond doubt: such a candidate is never chosen."""
        return self.speedup.high < 1

    @property
    def quality(self) -> float:
        """The headline metric where there are labels, else the share of predictions that agree with the original's."""
        if self.accuracy:
            return self.accuracy.value.value
        return self.agreement.share if self.agreement else 1.0


@dataclass(frozen=True)
class Comparison:
    """Measured candidates; the first is the original that all are compared with.

    Attributes:
        rows: One per candidate that could be measured.
        dataset: Name of the evaluation data.
        samples: How many they are.
        environment: The machine.
        failures: Why not, for each candidate that could not be measured.
    """

    rows: tuple[Row, ...]
    dataset: str
    samples: int
    environment: Environment
    failures: Mapping[str, str] = field(default_factory=dict)

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


def compare(
    candidates: Sequence[Candidate],
    dataset: Dataset,
    latency: Mapping[str, Any] | LatencyOptions | None = None,
    *,
    accuracy: Mapping[str, Any] | AccuracyOptions | None = None,
    metric: Metric | None = None,
    workspace: Workspace | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> Comparison:
    """Measures candidates against the first of them; one that fails is left out, and the others go on.

    Args:
        candidates: The original first.
        dataset: Evaluation samples; with labels, accuracy is measured, without, agreement only.
        latency: Fields of `LatencyOptions`.
        accuracy: Fields of `AccuracyOptions`: what the model is for.
        metric: A function of your own that scores outputs, see `measure_accuracy`.
        workspace: Where the result is kept, and found again by a rerun on the same machine.
        fresh: Measure again even if the workspace has the result.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        OptionsError: No candidates, or two of one name.
        DatasetError: The samples do not fit.
        WorkbenchError: The original cannot be measured.
    """
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) != len(names):
        raise OptionsError(
            f"compare needs candidates with different names, but got: {', '.join(names) or 'none'}.",
            "Give the original first, then each variant under a name of its own.",
        )
    options = make_options(LatencyOptions, latency, "compare")
    scoring = accuracy_options(accuracy, metric)
    workspace = workspace or Workspace()
    environment = read_environment()
    key = {
        "candidates": [{"name": candidate.name, **engine_key(candidate.engine)} for candidate in candidates],
        "dataset": dataset.sha256,
        "latency": to_builtins(options),
        "accuracy": to_builtins(scoring),
        "environment": to_builtins(environment),
    }

    def measure() -> Comparison:
        scored, failures = _score_all(candidates, dataset, scoring, metric, workspace, part_of(progress, 0.0, 0.3))
        engines = [one.candidate.engine for one in scored]
        stats = measure_latency(
            engines, options, dataset=dataset, keep_going=True, progress=part_of(progress, 0.3, 1.0)
        )
        rows = _rows(scored, stats, dataset, scoring, failures)
        return Comparison(rows, dataset.name, len(dataset), environment, failures)

    own_code = scoring.task == "custom"  # which decides the result and has no hash
    found = workspace.result(
        "comparisons", key, Comparison, measure, fresh=fresh or own_code, keep=lambda made: not made.failures
    )
    # An earlier run may have had the same models elsewhere.
    now = {candidate.name: candidate for candidate in candidates}
    return replace(found, rows=tuple(replace(row, candidate=now[row.name]) for row in found.rows))


@dataclass(frozen=True)
class _Scored:
    """A candidate with its outputs, and their scores where there are labels."""

    candidate: Candidate
    outputs: Tensors
    scores: Scores | None


def _score_all(
    candidates: Sequence[Candidate],
    dataset: Dataset,
    scoring: AccuracyOptions,
    metric: Metric | None,
    workspace: Workspace,
    progress: Progress,
) -> tuple[list[_Scored], dict[str, str]]:
    scored: list[_Scored] = []
    failures: dict[str, str] = {}
    for number, candidate in enumerate(candidates):
        report = part_of(progress, number / len(candidates), (number + 1) / len(candidates), f"{candidate.name}: ")
        try:
            outputs = predict(candidate.engine, dataset, workspace=workspace, progress=report)
            wanted = can_score(dataset, scoring)
            scores = score(outputs, dataset, scoring, metric=metric, progress=report) if wanted else None
        except Cancelled:
            raise
        except WorkbenchError as error:
            if candidate is candidates[0]:
                raise
            failures[candidate.name] = str(error)
        else:
            scored.append(_Scored(candidate, outputs, scores))
    return scored, failures


def _rows(
    scored: Sequence[_Scored],
    stats: Sequence[LatencyStats | WorkbenchError],
    dataset: Dataset,
    scoring: AccuracyOptions,
    failures: dict[str, str],
) -> tuple[Row, ...]:
    """One row per candidate that could be timed; why the others could not goes into `failures`."""
    original, first = scored[0], stats[0]
    if isinstance(first, WorkbenchError):
        raise first
    rows = []
    for one, timing in zip(scored, stats, strict=True):
        if isinstance(timing, WorkbenchError):
            failures[one.candidate.name] = str(timing)
            continue
        ratio = speedup(first, timing)
        row = Row(
            candidate=one.candidate,
            latency=timing,
            speedup=ratio.p10,
            speedup_p50=ratio.p50,
            speedup_cpu=ratio.cpu,
            accuracy=accuracy_of(one.scores, dataset) if one.scores else None,
        )
        if one is not original:
            both = (original.outputs, one.outputs)
            row = replace(
                row,
                change=_change(original.scores, one.scores, scoring),
                agreement=compare_predictions(*both, scoring),
                output_error=output_error(*(scored_output(each, scoring) for each in both)),
            )
        rows.append(row)
    return tuple(rows)


def _change(before: Scores | None, after: Scores | None, scoring: AccuracyOptions) -> AccuracyChange | None:
    return change_of(before, after, scoring.tolerance) if before and after else None
