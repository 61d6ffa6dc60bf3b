"""The Engine explorer panel: layers, issues and differences of real engines, joined with the graph."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bokeh.plotting import figure

from widgets import EngineExplorer
from widgets._engine_data import layer_columns, layer_rows
from widgets._plots_engine import bar_parts, group_color
from workbench.backends import build_engine
from workbench.dataset import Dataset
from workbench.errors import EngineError
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.transforms import transform
from workbench.workspace import ROOT_VARIABLE, Workspace

FLOAT, INT8, PLAN = "original · onnxruntime", "int8 · onnxruntime", "original · tensorrt"


@pytest.fixture(scope="module")
def panel(
    digits: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace
) -> Iterator[EngineExplorer]:
    """A plan, and the bundled model and its INT8 form on ONNX Runtime, the INT8 one timed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROOT_VARIABLE, str(shared_workspace.root))
        int8 = transform(digits, "quantize_static", dataset=calibration, workspace=shared_workspace)
        engines = [(PLAN, build_engine(digits, "tensorrt", {"targets": ["SM89"]}))]
        engines += [(FLOAT, build_engine(digits)), (INT8, build_engine(int8))]
        explorer = EngineExplorer(engines=tuple(engines[:1]), evaluation=evaluation, workspace=shared_workspace)
        explorer.wait()
        explorer.engines = tuple(engines)
        explorer.wait()
        explorer.timed.value = True
        explorer.options.set({"seconds": 0.1})
        explorer.start().wait()
        yield explorer
    explorer.close()


def test_what_was_built_is_shown_at_once(panel: EngineExplorer) -> None:
    assert panel.engine.value == INT8
    assert set(panel.views) == {PLAN, INT8}
    assert panel.views[PLAN].profile.sum_ms is None
    assert panel.views[INT8].profile.sum_ms is not None


def test_columns_are_those_of_which_something_is_known(panel: EngineExplorer) -> None:
    plan, timed = ([column.label for column in layer_columns(panel.views[name])] for name in (PLAN, INT8))
    assert plan == ["layer", "operator", "precision", "writes", "bytes", "nodes"]
    assert "ms" in timed
    for view in panel.views.values():
        assert {len(row) for row in layer_rows(view)} == {len(layer_columns(view))}
        assert [row[0] for row in layer_rows(view)] == list(view.names)


def test_the_bars_count_every_layer_and_have_the_colours_of_the_table(panel: EngineExplorer) -> None:
    view = panel.views[INT8]
    parts = bar_parts(view)
    assert sum(part.value for part in parts["layers"]) == len(view.layers)
    assert sum(part.value for part in parts["time"]) == pytest.approx(view.profile.sum_ms)
    assert isinstance(panel.plot.figure, figure)
    assert set(panel.layers.colors) == set(view.names)
    assert set(panel.layers.colors.values()) == {group_color(part.group) for part in parts["layers"]}
    assert "time" not in bar_parts(panel.views[PLAN])


def test_a_layer_selects_its_node_and_a_node_its_layer(panel: EngineExplorer) -> None:
    view = panel.views[INT8]
    name, nodes = next((n, e.nodes) for n, e in zip(view.names, view.layers, strict=True) if len(e.nodes) > 1)
    panel.layers.selected = name
    assert panel.selected_node == nodes[0]
    panel.layers.selected = panel.selected_node = ""
    panel.selected_node = nodes[1]
    assert panel.layers.selected == name


def test_a_button_of_an_issue_selects_the_layer(panel: EngineExplorer) -> None:
    [issue] = [issue for issue in panel.views[INT8].issues if issue.rule == "reformats"]
    place = panel.views[INT8].issues.index(issue)
    panel.cards.children[place].children[1].children[0].click()
    assert panel.layers.selected == issue.layers[0]


def test_two_engines_are_compared(panel: EngineExplorer) -> None:
    panel.other.value = FLOAT
    assert "Press Explore to compare" in panel._diff.value
    panel.timed.value = False
    panel.start().wait()
    assert "int8 → float32" in panel._diff.value
    panel.other.value = "–"
    assert panel._diff.value == ""


def test_the_static_form_has_facts_issues_and_layers(panel: EngineExplorer) -> None:
    shown = panel.summary()
    assert "on onnxruntime, for CPUExecutionProvider" in shown
    assert "QLinearConv" in shown
    assert "only move data" in shown


def test_the_shown_python_explores_the_same(
    panel: EngineExplorer, evaluation: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"engine": dict(panel.engines)[INT8], "evaluation": evaluation}
    panel.timed.value = True
    exec(panel.code()[0], names)
    assert names["view"].names == panel.views[INT8].names
    assert "QLinearConv" in capsys.readouterr().out
    assert "workbench explore MODEL.onnx --backend onnxruntime" in panel.code()[0]


def test_an_engine_of_a_backend_that_tells_nothing_says_so(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build_engine(tiny)
    monkeypatch.delattr(find_plugin("backends", "onnxruntime"), "optimized")
    panel = EngineExplorer(engines=(("tiny", engine),))
    assert "does not tell its layers: tiny" in panel._empty.value
    assert panel.state == "idle"


def test_exploring_nothing_says_what_comes_first() -> None:
    panel = EngineExplorer()
    assert "Build an engine above" in panel._empty.value
    with pytest.raises(EngineError, match="Build one first"):
        panel.start().wait()
