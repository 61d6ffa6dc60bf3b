"""The Sensitivity panel: layers that INT8 hurts, ticks in table and plot, and the variants that keep some in float."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import yaml
from bokeh.plotting import figure

from widgets import Sensitivity
from widgets._plots_sensitivity import layers_of, sensitivity_figure
from widgets._sensitivity_data import (
    Entry,
    budget_words,
    format_db,
    format_points,
    kept_words,
    plot_data,
    sensitivity_words,
    shortened,
    table_rows,
)
from workbench.budget import BudgetResult, BudgetTrial, KeptLayer
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ModelError
from workbench.model import Model
from workbench.options import make_options
from workbench.recipe import CandidateRecipe
from workbench.sensitivity import LayerSensitivity
from workbench.sensitivity import Sensitivity as Measured
from workbench.workspace import Workspace

BAD = LayerSensitivity("net/first", "Conv", 30.0, 20.0, 40.0, 1.5, 0.5)
FAIR = LayerSensitivity("net/second", "Gemm", 50.0, 40.0, 21.0, 0.0, 0.0)
EXACT = LayerSensitivity("net/third", "Add", math.inf, math.inf, 20.0)
MEASURED = Measured("net", {}, (FAIR, BAD, EXACT), 64, "top-1", 0.98, 0.95, 19.5)
ENTRIES = [Entry(BAD, 0.3, 0.1), Entry(FAIR, 0.1, 0.15), Entry(EXACT, None, 0.01)]


@pytest.fixture(scope="module")
def panel(
    digits: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace
) -> Iterator[Sensitivity]:
    """The bundled network, looked at once."""
    made = Sensitivity(model=digits, calibration=calibration, evaluation=evaluation, workspace=shared_workspace)
    made.quantization.set({"samples": 16})
    made.options.set({"samples": 8})
    made.timing.set({"seconds": 0.1})
    made.start().wait()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def untick(panel: Sensitivity) -> None:
    panel.kept = []


def selected(panel: Sensitivity) -> list[str]:
    """The layers whose points are selected in the plot."""
    assert isinstance(panel.plot.figure, figure)
    source = layers_of(panel.plot.figure)
    return [source.data["name"][number] for number in source.selected.indices]


def test_every_layer_has_a_row_and_the_worst_is_the_first(panel: Sensitivity) -> None:
    assert panel.sensitivity is not None
    shown = [row["name"] for row in panel.table.rows]
    assert sorted(shown) == sorted(layer.name for layer in panel.sensitivity.layers)
    noise = [row["cells"][3]["value"] for row in panel.table.rows]
    assert noise == sorted(noise)
    assert panel.table.rows[0]["cells"][3]["share"] == 1.0
    json.dumps(panel.table.rows, allow_nan=False)


def test_layers_have_their_times_in_both_forms(panel: Sensitivity) -> None:
    timed = [row for row in panel.table.rows if row["cells"][7]["text"] != "–"]
    assert len(timed) >= 8  # the others are computed together with their neighbours
    before, after, cost = (float(timed[0]["cells"][column]["text"].replace("−", "-")) for column in (5, 6, 7))
    assert cost == pytest.approx(before - after, abs=0.002)


def test_ticks_in_the_table_and_points_in_the_plot_are_one(panel: Sensitivity) -> None:
    names = [row["name"] for row in panel.table.rows]
    panel.table.ticked = [names[0]]
    assert selected(panel) == [names[0]]
    assert "1 layer in float: about" in panel._kept_words.value

    assert isinstance(panel.plot.figure, figure)
    source = layers_of(panel.plot.figure)
    source.selected.indices = [0, 1]
    assert panel.table.ticked == list(source.data["name"][:2])


def test_requantize_makes_a_variant_that_keeps_the_ticked_layers(panel: Sensitivity) -> None:
    before = panel.variants
    panel.table.ticked = ["stem/conv", "head"]
    panel.start(panel.prepare_variant).wait()
    panel.start(panel.prepare_variant).wait()
    added = panel.variants[len(before) :]
    assert [name for name, _ in added] == ["INT8, 2 in float", "INT8, 2 in float (2)"]
    assert added[0][1].history[-1].options["keep_float"] == ["stem/conv", "head"]


def test_an_accuracy_budget_ticks_what_it_kept_and_adds_its_model(panel: Sensitivity) -> None:
    before = panel.variants
    panel.start(panel.prepare_budget).wait()
    assert panel.budget is not None
    assert panel.budget.holds
    assert panel.kept == [layer.name for layer in panel.budget.kept]
    assert panel.variants[len(before) :][0][1] == panel.budget.model
    assert "the budget of 0.5 holds" in panel.summary()


def test_the_shown_code_makes_what_the_buttons_made(
    panel: Sensitivity, calibration: Dataset, evaluation: Dataset, digits: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_WORKSPACE", str(panel.workspace.root))
    panel.table.ticked = ["stem/conv"]
    python, recipe = panel.code()
    names = {"model": digits, "calibration": calibration, "evaluation": evaluation, "variants": {}}
    exec(python, names)
    assert names["sensitivity"] == panel.sensitivity
    [(name, variant)] = names["variants"].items()
    assert name == "INT8, 1 in float"
    assert variant.history[-1].options["keep_float"] == ["stem/conv"]
    [candidate] = yaml.safe_load(recipe)["candidates"]
    [step] = make_options(CandidateRecipe, candidate, "test").transforms
    assert step["quantize_static"]["keep_float"] == ["stem/conv"]


def test_a_saved_notebook_shows_the_layers_without_scripts(panel: Sensitivity) -> None:
    panel.table.ticked = ["stem/conv"]
    page = panel.summary()
    assert "<td>✓</td><td>stem/conv</td>" in page
    assert "<script" not in page


def test_a_row_selects_the_node_in_the_other_panels(panel: Sensitivity) -> None:
    panel.table.selected = "stem/conv"
    assert panel.selected_node == "stem/conv"


def test_another_model_forgets_the_layers(digits: Model) -> None:
    panel = Sensitivity(model=digits, sensitivity=MEASURED, kept=["net/first"])
    assert len(panel.table.rows) == 3
    panel.model = None
    assert (panel.sensitivity, panel.kept) == (None, [])
    assert "Load a model first" in panel.summary()
    panel.model = digits
    assert "Press Measure sensitivity" in panel.summary()


@pytest.mark.parametrize("action", ["prepare", "prepare_budget", "prepare_variant"])
def test_a_step_taken_too_early_says_what_comes_first(action: str, digits: Model, evaluation: Dataset) -> None:
    panel = Sensitivity()
    with pytest.raises(ModelError, match="Load one first"):
        panel.start(getattr(panel, action)).wait()
    panel = Sensitivity(model=digits, evaluation=evaluation)
    with pytest.raises(DatasetError, match="no samples to calibrate with"):
        panel.start(getattr(panel, action)).wait()


def test_what_was_not_measured_is_not_made_up() -> None:
    rows = table_rows(ENTRIES, 64)
    assert [cell["text"] for cell in rows[0]["cells"]] == [
        "first",
        "Conv",
        "30.0",
        "20.0",
        "1.5",
        "0.300",
        "0.100",
        "+0.200",
    ]
    assert [cell["text"] for cell in rows[2]["cells"]][2:] == ["∞", "∞", "–", "–", "0.010", "–"]
    assert plot_data(ENTRIES, ["net/first"])["name"] == ["net/first", "net/second"]
    assert plot_data(ENTRIES, ["net/first"])["kept"] == [True, False]


def test_costs_are_summed_up_in_words() -> None:
    assert kept_words(ENTRIES, []) == "Tick the layers to keep in float, in the table or in the plot."
    assert kept_words(ENTRIES, ["net/first", "net/second"]) == "2 layers in float: about +0.150 ms an inference."
    assert kept_words(ENTRIES, ["net/first", "net/third"]).endswith(
        "+0.200 ms an inference, 1 without a time of its own."
    )
    assert "98.0 % → 95.0 % (3.0 points lost), SQNR of the output 19.5 dB" in sensitivity_words(MEASURED)


def test_a_budget_that_cannot_be_kept_says_how_near_it_came(digits: Model) -> None:
    kept = (KeptLayer("net/first", 20.0, 0.3, 0.1),)
    trials = (BudgetTrial((), 3.0), BudgetTrial(("net/first",), 1.2))
    result = BudgetResult(digits, False, 1.2, 0.5, "top-1", 697, kept, trials, MEASURED)
    words = budget_words(result)
    assert words.startswith("✗ The budget cannot be kept: digits_cnn loses 1.20 points of top-1")
    assert "In float: net/first." in words
    assert "No variant was made" in words

    panel = Sensitivity(model=digits, sensitivity=MEASURED, budget=result)
    assert "wb-warning" in panel._verdict.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_db(-3.21), "−3.2"),
        (format_db(math.nan), "–"),
        (format_points(-0.04, 64), "0.0"),
        (format_points(0.125, 10_000), "0.12"),
    ],
)
def test_numbers_have_the_digits_that_they_allow(text: str, expected: str) -> None:
    assert text == expected


def test_names_in_the_plot_cover_no_other_point_or_name() -> None:
    close = [
        Entry(replace(BAD, name=f"layer{number}", only_sqnr_db=20.0), 0.1 + number / 10_000, 0.1) for number in range(5)
    ]
    apart = Entry(replace(BAD, name="apart", only_sqnr_db=40.0), 0.3, 0.1)
    data = layers_of(sensitivity_figure([*close, apart], [], 10.0)).data
    assert [name for name in data["label"] if name] == ["layer0", "apart"]
    assert data["align"][-1] == "right"  # to its left, where there is room


def test_long_names_keep_what_tells_them_apart() -> None:
    assert shortened(["/net/a/conv", "/net/b/conv"], 20) == ["a/conv", "b/conv"]
    assert shortened(["conv", "layer" * 10], 8) == ["conv", "…erlayer"]
