"""The Graph panel without a browser: what it hands to the page, compares, saves and says."""

from __future__ import annotations

import gzip
import json
import pathlib

import pytest

from widgets import Graph
from widgets._graph_data import paint_kinds, paint_values
from widgets._graph_table import GraphTable
from workbench import Workspace, load_model, transform
from workbench.errors import ModelError
from workbench.model import Model
from workbench.report import format_bytes, format_count


@pytest.fixture(scope="module")
def digits() -> Model:
    return load_model("sample:digits")


@pytest.fixture(scope="module")
def half(digits: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return transform(digits, "float16", workspace=Workspace(tmp_path_factory.mktemp("space")))


@pytest.fixture
def panel(digits: Model, half: Model, tmp_path: pathlib.Path) -> Graph:
    return Graph(model=digits, variants=(("half", half),), workspace=tmp_path)


def rows(table: GraphTable) -> list[list[object]]:
    """What the page would draw."""
    decoded: list[list[object]] = json.loads(gzip.decompress(table._rows))
    return decoded


def test_the_table_has_a_row_per_node_with_units(panel: Graph) -> None:
    first = rows(panel.nodes)[0]
    assert first[:4] == ["stem/conv", "Conv", "1×16×32×32", "float32"]
    assert first[5][:2] == [147456, "147 k"]
    assert len(rows(panel.nodes)) == 28
    assert rows(panel.operators)[0][0] == "Conv"
    assert "36.0 M MACs" in panel._facts.value


def test_more_samples_at_a_time_cost_more(panel: Graph) -> None:
    panel._batch.value = 4
    assert rows(panel.nodes)[0][2] == "4×16×32×32"
    assert "144 M MACs" in panel._facts.value


def test_a_click_on_a_row_goes_to_the_node_and_back(panel: Graph) -> None:
    panel.nodes.selected = "widen/conv"
    assert panel.view.focus == panel.selected_node == "widen/conv"
    panel.view.selected = [{"name": "stem/relu", "type": "Relu"}]
    assert panel.nodes.selected == panel.selected_node == "stem/relu"


def test_a_chosen_node_stays_chosen_in_another_graph_that_has_it(panel: Graph) -> None:
    panel.nodes.selected = "widen/conv"
    panel.show("half")
    assert panel.nodes.selected == panel.selected_node == panel.view.focus == "widen/conv"

    panel.nodes.selected = rows(panel.nodes)[0][0]  # a cast that the original lacks
    panel.show("original")
    assert panel.nodes.selected == panel.selected_node == ""


def test_search_and_operators_filter_table_and_graph(panel: Graph) -> None:
    panel.operators.selected = "Relu"
    assert panel.nodes.query == panel.view.query == "Relu"


def test_colours_say_what_they_mean(panel: Graph) -> None:
    panel.color_by("MACs")
    assert panel.view.legend["title"] == "MACs"
    assert panel.view.legend["entries"][-1]["text"] == "≤ 9.44 M"
    assert panel.view.colors["stem/relu"] == "var(--wb-none)"
    assert panel.nodes.colors == panel.view.colors
    panel.color_by("precision")
    assert panel.view.legend["entries"][0]["text"] == "float32 (28)"
    panel.color_by("nothing")
    assert panel.view.colors == {}


def test_two_models_side_by_side(panel: Graph) -> None:
    panel.show("original", beside="half")
    assert panel.other_view.status == "ready"
    assert panel.other_view.layout.display == ""
    changes = rows(panel.changes)
    assert changes[0][:4] == ["1", "precision", "stem/conv", "stem/conv"]
    panel.changes.selected = "1"
    assert (panel.view.focus, panel.other_view.focus) == ("stem/conv", "stem/conv")
    panel.view.selected = [{"name": "widen/conv", "type": "Conv"}]
    assert panel.other_view.focus == "widen/conv"  # the other follows
    assert "precision" in panel.summary()
    panel.show("half")
    assert panel.other_view.layout.display == "none"
    assert rows(panel.nodes)[1][3] == "float16"


def test_the_file_before_import_can_be_seen(panel: Graph, tmp_path: pathlib.Path) -> None:
    original = tmp_path / "weights.safetensors"
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    original.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    panel.source = original
    panel.show("file before import")
    assert (panel.view.name, panel.view.note) == ("weights.safetensors", "66 B, sent whole")
    assert panel._tables.layout.display == "none"
    panel.show("original")
    assert panel.view.name == "digits_cnn.onnx"


def test_it_saves_one_page_in_the_workspace(panel: Graph, tmp_path: pathlib.Path) -> None:
    path = panel.save_html()
    assert path == tmp_path / "graphs" / "digits_cnn.html"
    page = path.read_text("utf-8")
    assert len(page) < 500_000
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert str(path) in panel._remark.value


def test_nothing_to_save_is_said_in_the_panel() -> None:
    panel = Graph()
    with pytest.raises(ModelError, match="no graph to save"):
        panel.save_html()
    panel._save.click()
    assert "Load a model first" in panel.error


def test_code_does_the_same(panel: Graph, digits: Model) -> None:
    panel._code_button.value = True
    assert "wb.summarize_graph(model, batch=1)" in panel._code_box.value
    exec(panel._code(), {"model": digits})
    panel.show("original", beside="half")
    assert "diff_graphs(model, variants[" in panel._code_box.value


def test_a_model_that_vanished_is_said_in_words(panel: Graph, half: Model, tmp_path: pathlib.Path) -> None:
    gone = tmp_path / "gone.onnx"
    gone.write_bytes(half.path.read_bytes())
    panel.variants = (("gone", load_model(str(gone))),)
    gone.unlink()
    panel.show("gone")
    assert "gone.onnx" in panel.view.message
    assert panel.view.status == "error"
    assert panel.error


def test_an_empty_panel_says_what_to_do() -> None:
    assert Graph().view.status == "empty"
    assert "Nothing to show" in Graph().summary()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (999, "999"), (1234, "1.23 k"), (99_950, "100 k"), (999_600, "1.00 M"), (3.6e7, "36.0 M")],
)
def test_numbers_have_three_digits_and_a_unit(value: float | None, text: str) -> None:
    assert format_count(value) == text
    assert format_bytes(1234) == "1.23 kB"


def test_any_quantity_and_any_kind_can_be_painted() -> None:
    paint = paint_values("Time", {"a": 1.0, "b": 2.0, "c": 0.0, "d": None}, lambda value: f"{value} ms")
    assert [entry["text"] for entry in paint.legend["entries"]] == ["0 or not known", "1.0 ms", "2.0 ms"]
    assert paint.colors == {
        "a": "var(--wb-heat-4)",
        "b": "var(--wb-heat-5)",
        "c": "var(--wb-none)",
        "d": "var(--wb-none)",
    }
    wide = paint_values("Time", {str(number): 10.0**number for number in range(12)}, "{:.0f}".format)
    assert len(wide.legend["entries"]) == 5
    kinds = paint_kinds("Type", {"a": "int8", "b": "float32", "c": "int8"})
    assert [entry["text"] for entry in kinds.legend["entries"]] == ["int8 (2)", "float32 (1)"]
