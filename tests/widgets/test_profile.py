"""The Profile panel: where the time goes, on known figures and on the bundled model, joined with the graph."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bokeh.plotting import figure

from widgets import Graph, Profile
from widgets._graph_data import paint_nodes
from widgets._profile_data import (
    find_layer,
    find_node,
    format_ms,
    layer_bars,
    layer_names,
    layer_rows,
    operator_bars,
    total_rows,
)
from workbench.dataset import Dataset
from workbench.engine import Layer
from workbench.errors import ModelError
from workbench.graph import summarize_graph
from workbench.measure.profile import LayerProfile, ProfiledLayer
from workbench.model import Model
from workbench.transforms import transform
from workbench.workspace import ROOT_VARIABLE, Workspace


def profile_of(*layers: ProfiledLayer, backend: str = "onnxruntime") -> LayerProfile:
    times = [entry.layer.ms for entry in layers if entry.layer.ms is not None]
    return LayerProfile("net", backend, layers, sum(times) if times else None, 1.1, 1.0, 100)


FLOAT = profile_of(
    ProfiledLayer(Layer("conv", "Conv", precision="float32", ms=0.8), ("conv", "relu"), 0.8),
    ProfiledLayer(Layer("head", "Gemm", precision="float32", ms=0.2), ("head",), 0.2),
)
INT8 = profile_of(
    ProfiledLayer(Layer("q", "QuantizeLinear", "quantize", "uint8", 0.1), ("image_q",), 0.2),
    ProfiledLayer(Layer("conv", "QLinearConv", precision="int8", ms=0.3), ("conv", "relu"), 0.6),
    ProfiledLayer(Layer("reorder", "Reorder", "reformat", "", 0.1), (), 0.2),
)


def test_bars_put_the_same_node_of_both_side_by_side_the_dearest_first() -> None:
    bars = layer_bars(FLOAT, INT8)
    assert [(bar.name, bar.original, bar.candidate) for bar in bars[:2]] == [("conv", 0.8, 0.3), ("head", 0.2, 0.0)]
    assert {bar.name for bar in bars[2:]} == {"image_q", "reorder (added)"}


def test_bars_beyond_the_longest_are_summed_up() -> None:
    bars = layer_bars(FLOAT, INT8, longest=2)
    assert bars[2].name == "2 others"
    assert (bars[2].original, bars[2].candidate) == (0, pytest.approx(0.2))


def test_operators_have_the_backends_own_words() -> None:
    assert [bar.name for bar in operator_bars(FLOAT, INT8)][:2] == ["Conv", "QLinearConv"]


def test_totals_name_every_kind_and_precision_with_their_shares() -> None:
    totals = {name: (original, candidate) for name, original, candidate in total_rows(FLOAT, INT8)}
    assert totals["sum of all layers"] == ("1.00 ms", "0.500 ms")
    assert totals["quantize"] == ("–", "0.100 ms (20 %)")
    assert totals["computed in int8"] == ("–", "0.300 ms (60 %)")


def test_layers_and_nodes_find_each_other() -> None:
    assert find_layer(INT8, "relu") == "conv"
    assert find_node(INT8, "conv") == "conv"
    assert (find_layer(INT8, "nowhere"), find_node(INT8, "reorder")) == ("", "")


def test_layers_of_one_name_are_numbered_and_untimed_ones_say_so() -> None:
    twice = profile_of(*(ProfiledLayer(Layer("copy", "Reorder", "reformat"), ()) for _ in range(2)))
    assert layer_names(twice) == ["copy", "copy (2)"]
    assert [getattr(cell, "text", cell) for cell in layer_rows(twice)[0]][3:6] == ["–", "–", "–"]


@pytest.mark.parametrize(
    ("ms", "text"), [(None, "–"), (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123")]
)
def test_times_have_the_digits_that_they_allow(ms: float | None, text: str) -> None:
    assert format_ms(ms) == text


@pytest.fixture(scope="module")
def panel(digits: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace) -> Iterator[Profile]:
    """The bundled model and its INT8 form, profiled."""
    int8 = transform(digits, "quantize_static", dataset=calibration, workspace=shared_workspace)
    profile = Profile(model=digits, variants=(("int8", int8),), evaluation=evaluation, workspace=shared_workspace)
    profile.options.set({"seconds": 0.2})
    profile.start().wait()
    yield profile
    profile.close()


def test_the_panel_shows_candidate_and_original(panel: Profile) -> None:
    assert sorted(panel.profiles) == ["int8", "original"]
    assert "computed in int8" in panel.summary()
    assert isinstance(panel.plot.figure, figure)
    assert {item.label.value for item in panel.plot.figure.legend[0].items} == {"original", "int8"}


def test_a_layer_selects_its_node_and_a_node_its_layer(panel: Profile) -> None:
    profile = panel.profiles["int8"]
    name = next(name for name, entry in zip(layer_names(profile), profile.layers, strict=True) if len(entry.nodes) > 1)
    panel.layers.selected = name
    node = find_node(profile, name)
    assert panel.selected_node == node != ""
    panel.layers.selected = ""
    panel.selected_node = ""
    panel.selected_node = node
    assert panel.layers.selected == name


def test_a_tapped_bar_selects_its_node(panel: Profile) -> None:
    assert isinstance(panel.plot.figure, figure)
    source = panel.plot.figure.select_one({"name": "bars"}).data_source
    source.selected.indices = [0]
    assert panel.selected_node == source.data["name"][0]


def test_the_graph_is_coloured_by_the_times_of_the_model_that_it_shows(panel: Profile, digits: Model) -> None:
    graph = Graph(model=digits, variants=panel.variants)
    graph.color_by("time")
    assert graph.view.legend["entries"][0]["text"] == "not profiled yet"
    graph.times = panel.times
    dearest = max(panel.profiles["original"].node_ms.items(), key=lambda item: item[1])[0]
    assert graph.view.colors[dearest] == "var(--wb-heat-5)"
    graph.show("int8")
    assert graph.view.colors[max(panel.times[str(panel.variants[0][1].path)].items(), key=lambda i: i[1])[0]]


def test_a_node_that_is_fused_into_another_has_no_time_of_its_own(digits: Model) -> None:
    colors, _ = paint_nodes(summarize_graph(digits), "time", {"stem/conv": 1.0})
    assert (colors["stem/conv"], colors["stem/relu"]) == ("var(--wb-heat-5)", "var(--wb-none)")


def test_the_shown_python_profiles_the_same(
    panel: Profile, digits: Model, evaluation: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(panel.open_workspace().root))
    names = {"model": digits, "variants": dict(panel.variants), "evaluation": evaluation}
    exec(panel.code()[0], names)
    assert names["profiles"] == panel.profiles


def test_another_model_forgets_the_profiles(panel: Profile, tiny: Model) -> None:
    other = Profile(model=panel.model)
    other.profiles, other.times = panel.profiles, panel.times
    other.model = tiny
    assert (other.profiles, other.times) == ({}, {})


def test_profiling_nothing_says_what_comes_first() -> None:
    with pytest.raises(ModelError, match="Load one first"):
        Profile().start().wait()
