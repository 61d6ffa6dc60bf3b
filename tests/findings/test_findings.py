"""The whole: profiles, trials, order, what happens when a rule fails, and findings as text and HTML."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from workbench import findings as package
from workbench.comparison import Candidate, Comparison
from workbench.dataset import Dataset
from workbench.errors import Cancelled
from workbench.findings import Context, Finding, explain, fallback, findings_html, findings_text
from workbench.measure.environment import read_environment
from workbench.model import Model
from workbench.recipe import make_candidate
from workbench.workspace import Workspace


@pytest.fixture(scope="module")
def comparison(quantized: Mapping[str, Context]) -> Comparison:
    rows = tuple(quantized[name].row for name in ("original", "dynamic"))
    return Comparison(rows, "digits", 697, read_environment())


@pytest.fixture(scope="module")
def settings(quantized: Mapping[str, Context], evaluation: Dataset, shared_workspace: Workspace) -> dict[str, Any]:
    """One profile is given; the other is made."""
    profiles = {"dynamic": quantized["dynamic"].profile}
    return {"dataset": evaluation, "profiles": profiles, "workspace": shared_workspace}


@pytest.fixture(scope="module")
def findings(comparison: Comparison, settings: dict[str, Any]) -> tuple[Finding, ...]:
    return explain(comparison, **settings)


def test_the_costliest_comes_first_with_the_step_that_mends_it(
    findings: tuple[Finding, ...],
    comparison: Comparison,
    digits: Model,
    calibration: Dataset,
    shared_workspace: Workspace,
) -> None:
    costs = [finding.milliseconds or 0.0 for finding in findings]
    assert costs == sorted(costs, reverse=True)
    # The original has no fault; how it does at a larger batch is measured at another time, so it may look better.
    assert {finding.candidate for finding in findings if finding.rule != "small_batch"} == {"dynamic"}
    assert {"dynamic_convolutions", "int8_not_faster", "float_layers"} <= {finding.rule for finding in findings}

    step = next(finding.step for finding in findings if finding.rule == "dynamic_convolutions")
    assert step is not None
    mended = make_candidate(digits, step, calibration=calibration, workspace=shared_workspace)
    assert [one.transform for one in mended.engine.model.history] == ["quantize_static"]
    assert mended.engine.options == comparison["dynamic"].candidate.engine.options


def test_what_was_measured_is_found_again(
    findings: tuple[Finding, ...], comparison: Comparison, settings: dict[str, Any]
) -> None:
    seen: list[str] = []
    assert explain(comparison, **settings, progress=lambda share, text: seen.append(text)) == findings
    assert not any("measuring" in text or "profiling" in text for text in seen)


def test_a_rule_that_fails_is_told_and_the_others_go_on(
    comparison: Comparison, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(context: Context) -> Iterator[Finding]:
        yield from ()
        raise ZeroDivisionError("no layers")

    broken = SimpleNamespace(find=find, __name__="workbench.findings.broken")
    monkeypatch.setattr(package, "RULES", (broken, package.float_layers))
    findings = explain(comparison, **settings)

    assert [finding.rule for finding in findings if finding.candidate == "original"] == ["not_checked"]
    assert "float_layers" in {finding.rule for finding in findings}
    assert findings[-1].what == "The rule broken could not look."
    assert findings[-1].evidence.startswith("ZeroDivisionError: no layers (find, line ")


def test_a_backend_that_tells_nothing_of_its_layers_is_told(
    comparison: Comparison, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "RULES", (fallback,))
    engine = dataclasses.replace(comparison.original.candidate.engine, backend="none_of_them")
    row = dataclasses.replace(comparison.original, candidate=Candidate("original", engine))
    [note] = explain(dataclasses.replace(comparison, rows=(row,)), **settings)

    assert note.rule == "not_checked"
    assert note.what == "The rule profile could not look."
    assert "There is no 'none_of_them' among the backends" in note.evidence


@pytest.mark.parametrize("error", [Cancelled(), KeyError("a caller's own")])
def test_a_cancel_goes_through(error: Exception, comparison: Comparison, settings: dict[str, Any]) -> None:
    def progress(share: float, text: str) -> None:
        if share > 0.3:
            raise error

    with pytest.raises(type(error)):
        explain(comparison, **settings, progress=progress)


def test_a_graph_on_two_providers_is_found(quantized: Mapping[str, Context]) -> None:
    """This machine has one provider that runs anything, so a real profile is dealt out to two by hand."""
    context = quantized["original"]
    layers = tuple(
        dataclasses.replace(entry, layer=dataclasses.replace(entry.layer, provider="CUDAExecutionProvider"))
        if place in (1, 2, 6)
        else entry
        for place, entry in enumerate(context.profile.layers)
    )
    placement = {"CUDAExecutionProvider": 3, "CPUExecutionProvider": len(layers) - 3}
    engine = dataclasses.replace(context.row.candidate.engine, device="CUDAExecutionProvider")
    row = dataclasses.replace(
        context.row,
        candidate=Candidate("original", engine),
        latency=dataclasses.replace(context.row.latency, placement=placement),
    )
    profile = dataclasses.replace(context.profile, layers=layers)
    [finding] = fallback.find(dataclasses.replace(context, row=row, profile=profile))

    assert (
        finding.what
        == f"CUDAExecutionProvider does not run the whole model: {len(layers) - 3} nodes on CPUExecutionProvider."
    )
    assert "changes sides 4 times" in finding.evidence
    assert finding.milliseconds is not None
    assert 0 < finding.milliseconds < context.total_ms
    assert list(fallback.find(context)) == []


def test_findings_are_words() -> None:
    finding = Finding(
        rule="a_rule",
        candidate="<b>mine</b>",
        what="Layers wait.",
        evidence="0.5 ms of 2 ms.",
        milliseconds=0.5,
        why="So it is.",
        remedy="Use <script>less</script>.",
        step={"name": "mine, less", "transforms": ["simplify"], "backend": "onnxruntime", "options": {"threads": 1}},
    )
    text = findings_text([finding, dataclasses.replace(finding, milliseconds=None, step=None)])
    assert text.startswith(
        "<b>mine</b>: Layers wait.  [0.500 ms, a_rule]\n  Measured: 0.5 ms of 2 ms.\n  Why: So it is.\n"
    )
    assert "- name: mine, less\n      transforms: [simplify]\n" in text
    assert "[not timed, a_rule]" in text

    page = findings_html([finding])
    assert "&lt;b&gt;mine&lt;/b&gt;" in page
    assert "<script>" not in page
    assert "transforms: [simplify]" in page
    assert findings_text([]) == "Nothing was found that costs time and could be changed."
    assert "Nothing was found" in findings_html([])
