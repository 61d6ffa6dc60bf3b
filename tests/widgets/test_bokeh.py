"""BokehPane, without a browser: what goes to a page and what comes back."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from bokeh.models import ColumnDataSource, Plot, TextInput
from bokeh.plotting import figure

from widgets._bokeh import BokehPane


class Page:
    """Stands in for the browser: keeps what the pane sends, and sends what a page would."""

    def __init__(self, pane: BokehPane, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pane = pane
        self.sent: list[tuple[dict[str, Any], list[bytes]]] = []
        monkeypatch.setattr(pane, "send", lambda content, buffers=(): self.sent.append((content, list(buffers))))

    def ask(self, want: str) -> dict[str, Any]:
        self.pane._handle_custom_msg({"want": want, "id": "7"}, [])
        return self.sent.pop()[0]

    def change(self, model: Any, attr: str, new: Any, revision: int | None = None) -> None:
        event = {"kind": "ModelChanged", "model": {"id": model.id}, "attr": attr, "new": new}
        revision = self.pane._revision if revision is None else revision
        self.pane._handle_custom_msg({"patch": {"events": [event]}, "revision": revision}, [])

    def patches(self) -> list[dict[str, Any]]:
        return [event for content, _ in self.sent for event in json.loads(content["patch"])["events"]]


@pytest.fixture
def source() -> ColumnDataSource:
    return ColumnDataSource({"x": [1, 2, 3], "y": [3, 2, 1]})


@pytest.fixture
def plot(source: ColumnDataSource) -> figure:
    plot = figure(title="Latency")
    plot.scatter("x", "y", source=source)
    return plot


def test_a_page_gets_the_figure_as_it_is_now(
    plot: figure, source: ColumnDataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(BokehPane(plot), monkeypatch)
    source.data = {"x": [41, 42], "y": [0, 0]}
    reply = page.ask("figure")
    assert reply["revision"] == 1
    assert "42" in reply["document"]
    assert json.loads(reply["document"])["roots"][0]["id"] == plot.id


def test_a_page_gets_only_the_scripts_it_needs(plot: figure, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for pane in (BokehPane(plot), BokehPane(TextInput(), widgets=True)):
        page = Page(pane, monkeypatch)
        pane._handle_custom_msg({"want": "bokehjs", "id": "7"}, [])
        [(_, [packed])] = page.sent
        sizes.append(len(gzip.decompress(packed)))
    assert 1_000_000 < sizes[0] < 1_500_000 < sizes[1]


def test_streaming_is_sent_once(plot: figure, source: ColumnDataSource, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(BokehPane(plot), monkeypatch)
    source.stream({"x": [4], "y": [0]})
    assert [event["kind"] for event in page.patches()] == ["ColumnsStreamed"]
    assert list(source.data["x"]) == [1, 2, 3, 4]


def test_a_selection_runs_the_callback_and_does_not_come_back(
    plot: figure, source: ColumnDataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    source.selected.on_change("indices", lambda _attr, _old, new: seen.append(list(new)))
    page = Page(BokehPane(plot), monkeypatch)
    page.change(source.selected, "indices", [1])
    assert seen == [[1]]
    assert source.selected.indices == [1]
    assert page.sent == []


def test_what_a_callback_changes_is_sent(
    plot: figure, source: ColumnDataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.selected.on_change("indices", lambda _attr, _old, _new: setattr(plot.title, "text", "one selected"))
    page = Page(BokehPane(plot), monkeypatch)
    page.change(source.selected, "indices", [1])
    assert [(event["attr"], event["new"]) for event in page.patches()] == [("text", "one selected")]


def test_a_failing_callback_is_reported(
    plot: figure, source: ColumnDataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_attr: str, _old: object, new: list[int]) -> None:
        if new:
            raise RuntimeError("no such candidate")

    source.selected.on_change("indices", fail)
    pane = BokehPane(plot)
    page = Page(pane, monkeypatch)
    page.change(source.selected, "indices", [1])
    assert pane.error == "RuntimeError: no such candidate"
    page.change(source.selected, "indices", [])
    assert pane.error == ""


@pytest.mark.parametrize("patch", [None, {}, {"events": 3}, {"events": [{"kind": "Nonsense"}]}])
def test_nonsense_from_a_page_is_reported(plot: figure, patch: Any) -> None:
    pane = BokehPane(plot)
    pane._handle_custom_msg({"patch": patch, "revision": 1}, [])
    assert pane.error


def test_changes_of_a_figure_no_longer_shown_are_ignored(
    plot: figure, source: ColumnDataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    pane = BokehPane(plot)
    page = Page(pane, monkeypatch)
    pane.show(figure(title="Throughput"))
    page.change(source.selected, "indices", [1], revision=1)
    source.stream({"x": [4], "y": [0]})
    assert source.selected.indices == []
    assert pane.error == ""
    assert page.sent == []


def test_a_figure_can_be_replaced_and_shown_again(plot: figure) -> None:
    pane = BokehPane(plot)
    other = figure(title="Throughput")
    pane.show(other)
    assert (pane.figure, pane.label) == (other, "Throughput")
    pane.show(plot, label="Latency of every candidate")
    assert (pane.figure, pane.label) == (plot, "Latency of every candidate")


def test_a_figure_cannot_be_in_two_panes(plot: figure) -> None:
    BokehPane(plot)
    with pytest.raises(ValueError, match="already shown elsewhere"):
        BokehPane(plot)


def test_the_theme_follows_the_page_in_one_message(plot: figure, monkeypatch: pytest.MonkeyPatch) -> None:
    pane = BokehPane(plot)
    light = plot.title.text_color
    page = Page(pane, monkeypatch)
    pane.dark = True
    assert plot.title.text_color == "#E0E0E0" != light
    assert plot.border_fill_color is None
    assert len(page.sent) == 1
    pane.dark = False
    assert plot.title.text_color == light


def test_a_colour_set_by_hand_outlives_the_theme(plot: figure) -> None:
    plot.title.text_color = "red"
    BokehPane(plot).dark = True
    assert plot.title.text_color == "red"


def test_the_theme_applies_to_figures_shown_later() -> None:
    pane = BokehPane()
    pane.dark = True
    plot = figure(title="later")
    pane.show(plot)
    assert plot.title.text_color == "#E0E0E0"


def test_an_empty_pane_has_nothing_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    pane = BokehPane()
    assert pane.figure is None
    assert Page(pane, monkeypatch).ask("figure")["document"] == ""


def test_nothing_big_is_part_of_the_saved_state(source: ColumnDataSource) -> None:
    plot = Plot()
    source.data = {"x": list(range(100_000))}
    plot.add_glyph(source, figure().scatter([1], [1]).glyph)
    state = BokehPane(plot).get_state()
    assert len(json.dumps({key: value for key, value in state.items() if key != "layout"})) < 20_000


def test_unknown_arguments_are_refused(plot: figure) -> None:
    with pytest.raises(TypeError):
        BokehPane(plot, theme="caliber")  # type: ignore[call-arg]
