"""Explanations: why a candidate is as fast as it is, from what was measured, and what to change.

A rule is a module of this package with one function, `find(context)`, that yields findings. It is listed in `RULES`.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from types import ModuleType

from workbench.comparison import Comparison, Row
from workbench.dataset import Dataset
from workbench.errors import Cancelled, WorkbenchError
from workbench.findings import (
    conversion_time,
    dynamic_convolutions,
    fallback,
    float_layers,
    int8_not_faster,
    low_int8_coverage,
    no_effect,
    openvino_bf16,
    precision_transitions,
    signed_activations,
    small_batch,
    too_many_threads,
    unaligned_channels,
    unasked_int8,
    unfused_qdq,
)
from workbench.findings.context import Context as Context
from workbench.findings.context import Finding as Finding
from workbench.findings.text import findings_html as findings_html
from workbench.findings.text import findings_text as findings_text
from workbench.graph import summarize_graph
from workbench.jobs import Progress, part_of, silent
from workbench.measure.profile import LayerProfile, profile_layers
from workbench.workspace import Workspace

NOT_CHECKED = "not_checked"

RULES: tuple[ModuleType, ...] = (
    unfused_qdq,
    signed_activations,
    low_int8_coverage,
    dynamic_convolutions,
    openvino_bf16,
    float_layers,
    unasked_int8,
    conversion_time,
    precision_transitions,
    fallback,
    unaligned_channels,
    no_effect,
    too_many_threads,
    small_batch,
)

PROFILE_SECONDS = 1.0
_NOTHING = LayerProfile("", "", (), None, None, None, 0)  # in place of a profile that could not be made


def explain(
    comparison: Comparison,
    *,
    dataset: Dataset | None = None,
    profiles: Mapping[str, LayerProfile] | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> tuple[Finding, ...]:
    """Looks for reasons in every candidate.

    What is not profiled yet is profiled, and what a rule proposes is measured where that is possible: short trials, in
    turns with the candidate as it is. All of it is kept in the workspace.

    Args:
        comparison: What was measured.
        dataset: Samples for profiles and trials; random values if there are none.
        profiles: Profiles at hand, by the candidate's name.
        workspace: Where profiles and trials are kept, and found again by a rerun.
        progress: Called with the share done and a short text; may raise to cancel.

    Returns:
        The costliest first. What a rule could not look at, because it or the backend failed, is a finding of the rule
        `not_checked`, at the end.
    """
    workspace = workspace or Workspace()
    caller = _Caller(progress)
    findings: list[Finding] = []
    notes: list[Finding] = []
    for number, row in enumerate(comparison.rows):
        start, end = (at / len(comparison.rows) for at in (number, number + 1))
        report = part_of(caller.report, start, end, f"{row.name}: ")
        profile = (profiles or {}).get(row.name)
        try:
            context = make_context(comparison, row, profile, dataset=dataset, workspace=workspace, progress=report)
        except Exception as error:
            notes.append(caller.note("profile", row, error))
            context = make_context(comparison, row, _NOTHING, dataset=dataset, workspace=workspace, progress=report)
        found: list[Finding] = []
        for rule in RULES:
            name = rule.__name__.rpartition(".")[2]
            report(0.3 + 0.7 * RULES.index(rule) / len(RULES), name.replace("_", " "))
            try:
                found += rule.find(context)
            except Exception as error:
                notes.append(caller.note(name, row, error))
        findings += [*found, *int8_not_faster.sum_up(context, _by_cost(found))]
    progress(1.0, "done")
    return (*_by_cost(findings), *notes)


def make_context(
    comparison: Comparison,
    row: Row,
    profile: LayerProfile | None = None,
    *,
    dataset: Dataset | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> Context:
    """Gathers what rules get to see of one candidate.

    Args:
        comparison: What was measured.
        row: The candidate.
        profile: Its profile, if there is one already.
        dataset: Samples for the profile and for trials; random values if there are none.
        workspace: Where profiles and trials are kept.
        progress: Called with the share done and a short text; may raise to cancel.
    """
    workspace = workspace or Workspace()
    batch = row.latency.batch
    models = (candidate.engine.model for candidate in (row.candidate, comparison.original.candidate))
    graph, original_graph = (summarize_graph(model, batch=batch) for model in models)
    if profile is None:
        engine, report = row.candidate.engine, part_of(progress, 0.0, 0.3)
        profile = profile_layers(
            engine, {"batch": batch, "seconds": PROFILE_SECONDS}, dataset=dataset, workspace=workspace, progress=report
        )
    return Context(row, comparison.original, graph, original_graph, profile, dataset, workspace, progress)


class _Caller:
    """The caller's progress, which may raise to cancel: that must not be taken for a rule's failure."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._raised: BaseException | None = None

    def report(self, fraction: float, message: str) -> None:
        try:
            self._progress(fraction, message)
        except BaseException as error:
            self._raised = error
            raise

    def note(self, rule: str, row: Row, error: Exception) -> Finding:
        """Says which rule failed and how, as the others go on."""
        if error is self._raised or isinstance(error, Cancelled):
            raise error
        place = traceback.extract_tb(error.__traceback__)[-1]
        evidence = f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
        remedy = "This is a fault of the workbench: please report it."
        if isinstance(error, WorkbenchError):
            evidence, remedy = error.message, error.remedy
        return Finding(
            rule=NOT_CHECKED,
            candidate=row.name,
            what=f"The rule {rule} could not look.",
            evidence=evidence,
            milliseconds=None,
            why="What it needs failed; the other rules went on.",
            remedy=remedy,
        )


def _by_cost(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: -(finding.milliseconds or 0.0))
