"""The panels one by one and joined: what a user clicks, done headless on the bundled model."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bokeh.plotting import figure

from widgets import Compare, Export, Graph, Load, Transform, Workbench, front_data, front_figure, static_html
from widgets._plots import source_of
from workbench.errors import DatasetError, ExportError, ModelError, WorkspaceError
from workbench.model import Step
from workbench.recipe import read_recipe
from workbench.workspace import ROOT_VARIABLE

FAST = {"seconds": 0.3, "launches": 1}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    """The whole flow, clicked through once."""
    workbench = Workbench(str(tmp_path_factory.mktemp("workspace")))
    workbench.load.start().wait()
    workbench.transform.start().wait()
    workbench.transform.kind.value = "float16"
    workbench.transform.name.value = "half"
    workbench.transform.start().wait()
    workbench.compare.latency.set(FAST)
    workbench.compare.options.set({"threads": 1})
    workbench.compare.start().wait()
    workbench.predictions.wait()  # it began by itself
    workbench.export.start().wait()
    yield workbench
    workbench.close()


def test_load_describes_the_model_and_hands_it_on(app: Workbench) -> None:
    assert app.load.model is not None
    assert "217,626" in app.load.summary()
    assert app.graph.model == app.load.model == app.transform.model
    assert "digits_cnn" in app.summary()


def test_each_press_of_apply_makes_one_variant(app: Workbench) -> None:
    assert [name for name, _ in app.transform.variants] == ["quantize static", "half"]
    assert "0.24 MB" in app.transform.summary()
    assert app.graph.variants == app.transform.variants


def test_the_graph_panel_shows_any_variant(app: Workbench) -> None:
    assert app.graph.view.name == "digits_cnn.onnx"
    app.graph.show("half")
    assert app.graph.view.status in ("ready", "opened")
    assert "0.44 MB" in app.graph.summary()


def test_compare_marks_the_choice_in_table_and_plot(app: Workbench) -> None:
    assert app.compare.comparison is not None
    assert app.compare.choice is not None
    starred = [row["name"] for row in app.compare.table.rows if row["mark"] == "★"]
    assert starred == [app.compare.choice.name] == [app.compare.selected]
    json.dumps(app.compare.table.rows, allow_nan=False)


def test_table_and_plot_select_the_same_candidate(app: Workbench) -> None:
    app.compare.table.selected = "half"
    assert app.compare.selected == "half"
    plot = app.compare.plots.pane.figure
    assert isinstance(plot, figure)
    source = source_of(plot)
    assert source.selected.indices == [2]
    source.selected.indices = [0]
    assert app.compare.table.selected == "original"


def test_the_choice_follows_the_budget_without_measuring_again(app: Workbench) -> None:
    before = app.compare.comparison
    app.compare.limits.set({"prefer": "size"})
    assert app.compare.choice is not None
    assert app.compare.choice.name == "quantize static"
    assert app.compare.comparison is before
    app.compare.limits.set({"prefer": "latency"})


def test_what_misses_a_limit_is_faded_in_table_and_plots(app: Workbench) -> None:
    app.compare.limits["max_size_mb"].value = "0.3"
    assert [row["name"] for row in app.compare.table.rows if row["faded"]] == ["original", "half"]
    for kind in app.compare.plots.kind.options:
        app.compare.plots.kind.value = kind
        plot = app.compare.plots.pane.figure
        assert isinstance(plot, figure)
        drawn = dict(zip(source_of(plot).data["name"], source_of(plot).data["alpha"], strict=True))
        assert drawn["quantize static"] == 1
        assert drawn["half"] < 0.5
    app.compare.limits["max_size_mb"].value = ""
    assert not [row["name"] for row in app.compare.table.rows if row["faded"]]


def test_a_limit_that_is_no_number_is_refused_until_it_is_mended(app: Workbench) -> None:
    app.compare.limits["max_p99_ms"].value = "fast"
    assert "max_p99_ms = 'fast'" in app.compare.error
    app.compare.limits["max_p99_ms"].value = ""
    assert app.compare.error == ""


def test_the_selected_candidate_shows_what_its_badge_rests_on(app: Workbench) -> None:
    app.compare.table.selected = "half"
    comparison = app.compare.comparison
    assert comparison is not None
    for check in comparison["half"].latency.trust.checks:
        assert html.escape(check.reason) in app.compare.details.value
    assert "float16" in app.compare.details.value


def test_the_same_candidate_has_the_same_colour_in_table_and_plot(app: Workbench) -> None:
    assert app.compare.comparison is not None
    in_table = [row["color"] for row in app.compare.table.rows]
    assert in_table == front_data(app.compare.comparison)["color"]


def test_export_writes_a_package_that_answers(app: Workbench) -> None:
    assert app.export.package is not None
    assert (app.export.package.directory / "serve.py").is_file()
    app.export.start_trial().wait()
    assert "200 in" in app.export.summary()
    assert "as expected" in app.export.summary()


def test_steps_that_are_done_are_ticked(app: Workbench) -> None:
    assert [title for title in app.steps.titles if title.startswith("✓")] == [
        "✓ Load",
        "✓ Compress",
        "✓ Compare",
        "✓ Predictions",
        "✓ Export",
    ]


def test_shown_recipe_steps_together_are_a_recipe(app: Workbench) -> None:
    parts = [yaml.safe_load(panel.code()[1]) or {} for panel in (app.load, app.transform, app.compare, app.export)]
    recipe = read_recipe({key: value for part in parts for key, value in part.items()})
    assert recipe.model == "sample:digits"
    assert recipe.candidates[0].transforms
    assert recipe.latency.seconds == FAST["seconds"]


def test_shown_python_does_what_was_clicked(
    app: Workbench, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(app.compare.workspace))
    app.export.directory.value = str(tmp_path / "package")
    names: dict[str, Any] = {}
    for panel in (app.load, app.transform, app.compare, app.export):
        exec(panel.code()[0], names)  # what a user pastes into cells one after the other
    app.export.directory.value = ""
    assert names["comparison"] == app.compare.comparison  # found again in the workspace: exactly the same was asked for
    assert names["choice"] == app.compare.choice
    assert (tmp_path / "package" / "serve.py").is_file()
    assert "matches=True" in capsys.readouterr().out


def test_shown_code_of_a_chain_names_every_step(app: Workbench) -> None:
    assert app.load.model is not None
    chained = replace(app.load.model, history=(Step("float16"), Step("quantize_dynamic", {"convolutions": True})))
    python, recipe = Transform(model=app.load.model, variants=(("both", chained),)).code()
    assert "wb.transform(variants['both'], 'quantize_dynamic', {'convolutions': True})" in python
    [candidate] = yaml.safe_load(recipe)["candidates"]
    assert candidate["transforms"] == ["float16", {"quantize_dynamic": {"convolutions": True}}]


def test_a_new_model_forgets_the_variants_of_the_old_one(app: Workbench, tmp_path: Path) -> None:
    transform = Transform(model=app.load.model, variants=app.transform.variants)
    transform.model = None
    assert transform.variants == ()


def test_transforms_can_be_chained(app: Workbench, tmp_path: Path) -> None:
    transform = Transform(model=app.load.model, variants=app.transform.variants, workspace=tmp_path)
    transform.kind.value = "simplify"
    transform.base.value = "half"
    assert transform.start().wait().state == "done"
    assert [step.transform for step in transform.variants[-1][1].history] == ["float16", "simplify"]


@pytest.mark.parametrize(
    ("panel", "error", "word"),
    [
        (Transform, ModelError, "Load one first"),
        (Compare, ModelError, "Load one first"),
        (Export, ExportError, "Measure in Compare first"),
    ],
)
def test_a_step_taken_too_early_says_what_comes_first(panel: type, error: type[Exception], word: str) -> None:
    too_early = panel().start()
    with pytest.raises(error, match=word):
        too_early.wait()
    assert word in too_early.error


def test_static_quantization_without_samples_says_so(app: Workbench, tmp_path: Path) -> None:
    panel = Transform(model=app.load.model, workspace=tmp_path).start()
    with pytest.raises(DatasetError, match="calibration samples"):
        panel.wait()
    assert panel.variants == ()


def test_a_broken_file_is_explained_in_the_load_panel(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    panel = Load(workspace=tmp_path)
    panel.source.value = ""
    panel.model_file.choose(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="not an ONNX model"):
        panel.start().wait()
    assert panel.model is None


def test_own_files_are_loaded_with_their_samples(app: Workbench, tmp_path: Path) -> None:
    assert app.load.model is not None
    np.savez(tmp_path / "some.npz", image=np.zeros((3, 1, 32, 32), np.float32), labels=np.array([0, 1, 2]))
    panel = Load(workspace=tmp_path)
    panel.source.value = ""
    panel.model_file.choose(app.load.model.path)
    panel.evaluation_file.choose(tmp_path / "some.npz")
    panel.start().wait()
    assert panel.evaluation is not None
    assert len(panel.evaluation) == 3
    assert "3 samples with labels" in panel.summary()


def test_an_unwritable_workspace_is_explained_in_the_panel(app: Workbench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    panel = Transform(model=app.load.model, calibration=app.load.calibration, workspace=tmp_path / "file" / "space")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        panel.start().wait()
    assert "Choose a folder" in panel.error


def test_cancelling_a_measurement_ends_its_processes(app: Workbench, tmp_path: Path) -> None:
    panel = Compare(model=app.load.model, evaluation=app.load.evaluation, workspace=tmp_path)
    panel.latency.set({"seconds": 600, "precision": 0.1})
    panel.start()
    panel.cancel()
    assert panel.wait(60).state == "cancelled"
    assert panel.comparison is None
    assert not list((tmp_path / "comparisons").glob("*")) if (tmp_path / "comparisons").exists() else True


def test_the_plot_lives_without_kernel_or_network(app: Workbench) -> None:
    assert app.compare.comparison is not None
    page = static_html(front_figure(app.compare.comparison))
    assert "cdn.bokeh.org" not in page
    assert "BokehJS" in page or "Bokeh" in page


def test_an_empty_graph_panel_says_what_to_do() -> None:
    assert Graph().view.status == "empty"
