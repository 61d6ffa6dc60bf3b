"""The report as a page of its own: everything in it, nothing from elsewhere, nothing that runs but the plots."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.made import latency_of, near
from widgets import report_page
from workbench.backends import build_engine
from workbench.choice import choose
from workbench.comparison import Candidate, Comparison, Row
from workbench.engine import Layer
from workbench.findings import Finding
from workbench.measure.environment import read_environment
from workbench.measure.profile import LayerProfile, ProfiledLayer
from workbench.measure.statistics import Estimate
from workbench.measure.trust import Check, Trust
from workbench.model import Model

HOSTILE = "</script><img src=x onerror=alert(1)>"


def made(model: Model, name: str = "int8") -> Comparison:
    one, two = Estimate(1.0, 1.0, 1.0), near(2.0)
    doubt = Trust((Check("provider", "ok", "every node ran there"), Check("noise", "doubt", "the machine is noisy")))
    rows = (
        Row(Candidate("original", build_engine(model)), latency_of(2.0), one, one, one),
        Row(Candidate(name, build_engine(model)), latency_of(1.0, trust=doubt), two, two, two),
    )
    return Comparison(rows, "digits", 697, read_environment(), {"broken": "It crashed."})


def profile(model: Model) -> LayerProfile:
    layers = (
        ProfiledLayer(Layer("conv", "Conv", precision="float32", ms=1.5), ("stem/conv",), 0.75),
        ProfiledLayer(Layer("reorder", "Reorder", "reformat", ms=0.5), (), 0.25),
    )
    return LayerProfile(model.name, "onnxruntime", layers, 2.0, 2.1, 2.0, 100, caveats=("small layers look dearer",))


FINDING = Finding(
    "unfused_qdq", "int8", "Pairs did not fuse.", "They take 0.4 ms.", 0.4, "No kernel.", "Quantize anew."
)


def test_the_report_holds_table_plots_badges_findings_and_layers(digits: Model) -> None:
    comparison = made(digits)
    page = report_page(comparison, choose(comparison), [FINDING], {"int8": profile(digits)})
    for text in ("broken could not be measured", "the machine is noisy", "Pairs did not fuse.", "0.400 ms (40 %)"):
        assert text in page
    for text in ("Layers of int8", "small layers look dearer", "stem/conv", "Inferences that take no longer"):
        assert text in page
    assert not re.search(r"<!--(?!\[)[a-z]", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))  # all filled in


def test_the_report_needs_no_network_and_holds_bokeh_once(digits: Model) -> None:
    page = report_page(made(digits))
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "default-src 'none'" in markup
    assert not re.search(r"(src|href|url)[=(]", markup)
    assert len(page) < 2_000_000  # one BokehJS is 1.1 MB


@pytest.mark.parametrize(("findings", "said"), [(None, False), ((), True)])
def test_nothing_found_is_not_the_same_as_not_looked(
    findings: tuple[Finding, ...] | None, said: bool, digits: Model
) -> None:
    assert ("Nothing was found" in report_page(made(digits), None, findings)) == said


def test_names_from_strangers_do_not_run(digits: Model) -> None:
    comparison = made(digits, HOSTILE)
    hostile = replace(FINDING, candidate=HOSTILE, what=HOSTILE, nodes=(HOSTILE,))
    page = report_page(comparison, choose(comparison), [hostile], {HOSTILE: profile(digits)})
    assert "<img src=x" not in page
