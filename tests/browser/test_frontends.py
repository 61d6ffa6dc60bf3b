"""The three front ends, clicked for real in JupyterLab and in Voila."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest
from playwright.sync_api import FrameLocator, Locator, Page, expect

from tests.browser.user import themes

pytestmark = pytest.mark.browser

OpenNotebook = Callable[..., Page]  # the fixture: open_notebook(*cells, theme=...)
SLOW = 30_000  # a kernel starts
GRAPH = """
import ipywidgets
from widgets._netron import NetronView

first = NetronView("digits.onnx", height=300)
second = NetronView(height=120)
selected = ipywidgets.Label("nothing selected")
first.observe(lambda change: setattr(selected, "value", f"selected {change.new}"), "selected")
paint = ipywidgets.Button(description="Paint")
paint.on_click(lambda _: first.set_trait("colors", {"conv2": "yellow"}))
show = ipywidgets.Button(description="Focus")
show.on_click(lambda _: first.set_trait("focus", "classify"))
load = ipywidgets.Button(description="Load")
load.on_click(lambda _: second.load("digits.onnx"))
ipywidgets.VBox([ipywidgets.HBox([paint, show, load]), selected, first, second, first])
"""
PLOT = """
import ipywidgets
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure
from widgets._bokeh import BokehPane

source = ColumnDataSource({"x": [1, 2, 3], "y": [1, 2, 3]})

def scatter(title):
    plot = figure(height=200, width=400, title=title, tools="tap,hover", x_range=(0, 4), y_range=(0, 4))
    plot.scatter("x", "y", size=20, source=source)
    return plot

pane = BokehPane(scatter("Latency"))
selected = ipywidgets.Label("nothing selected")
rows = ipywidgets.Label("3 rows")

def on_select(attribute, old, new):
    selected.value = f"selected {new}"
    if 1 in new:
        raise RuntimeError("the middle one is forbidden")

source.selected.on_change("indices", on_select)

def add(_):
    source.stream({"x": [3.5], "y": [3.5]})
    rows.value = f"{len(source.data['x'])} rows"

stream = ipywidgets.Button(description="Stream")
stream.on_click(add)
other = figure(height=200, width=400, title="Throughput")
other.line([1, 2], [1, 2])
replace = ipywidgets.Button(description="Replace")
replace.on_click(lambda _: pane.show(other))
ipywidgets.VBox([ipywidgets.HBox([stream, replace]), selected, rows, pane])
"""
FILES = """
import ipywidgets
from widgets._files import FilePick

pick = FilePick(suffixes=[".onnx"], uploads="uploaded", label="Model")
chosen = ipywidgets.Label("nothing chosen")
pick.observe(lambda change: setattr(chosen, "value", f"chosen {change.new}"), "path")
ipywidgets.VBox([chosen, pick])
"""
ALL = """
import ipywidgets
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure
from widgets._bokeh import BokehPane
from widgets._files import FilePick
from widgets._netron import NetronView

pick = FilePick(suffixes=[".onnx"], uploads="uploaded", label="Model")
pick.choose("digits.onnx")
source = ColumnDataSource({"p50": [1.92, 1.1, 0.74, 0.41], "top1": [98.6, 98.6, 98.1, 98.4]})
plot = figure(
    height=260, sizing_mode="stretch_width", title="Accuracy against latency", tools="pan,wheel_zoom,tap,hover,reset",
    x_axis_label="p50 (ms)", y_axis_label="top-1 (%)", tooltips=[("p50", "@p50 ms"), ("top-1", "@top1 %")],
)
plot.scatter("p50", "top1", size=12, source=source)
pane = BokehPane(plot)
dark = ipywidgets.Label("light")
pane.observe(lambda change: setattr(dark, "value", "dark" if change.new else "light"), "dark")
graph = NetronView("digits.onnx", height=360)
graph.colors = {"conv1": "var(--jp-warn-color1)"}
ipywidgets.VBox([pick, pane, graph, NetronView(height=120), dark])
"""


def label(page: Page, text: str) -> Locator:
    return page.locator(".widget-label", has_text=text)


def netron(page: Page, number: int) -> FrameLocator:
    return page.frame_locator('iframe[title="Netron graph viewer"]').nth(number)


def node(frame: FrameLocator, name: str) -> Locator:
    return frame.locator(f'[id="node-name-{name}"]')


def test_graph(open_notebook: OpenNotebook, conv_model: str, requests_elsewhere: list[str]) -> None:
    page = open_notebook(GRAPH)
    frame = netron(page, 0)
    expect(frame.locator(".graph-node")).to_have_count(8, timeout=SLOW)
    expect(netron(page, 1).locator(".graph-node")).to_have_count(8)  # the same widget, shown twice
    expect(page.get_by_text("Load a model to see its graph")).to_be_visible()

    node(frame, "conv1").locator(".node-item-type").click()
    expect(label(page, "selected [{'name': 'conv1', 'type': 'Conv'}]")).to_be_visible()

    page.get_by_role("button", name="Paint").click()
    expect(node(frame, "conv2").locator(".node-item-type path").first).to_have_css("fill", "rgb(255, 255, 0)")
    expect(node(frame, "conv2").locator(".node-item-type text").first).to_have_css("fill", "rgb(0, 0, 0)")

    page.get_by_role("button", name="Focus").click()
    expect(label(page, "selected [{'name': 'classify', 'type': 'Gemm'}]")).to_be_visible()
    expect(node(frame, "classify")).to_be_in_viewport()

    page.get_by_role("button", name="Find").first.click()
    frame.get_by_placeholder("Search").fill("pool2")
    frame.locator(".sidebar-find-content li", has_text="pool2").first.click()
    expect(label(page, "selected [{'name': 'pool2', 'type': 'GlobalAveragePool'}]")).to_be_visible()

    page.get_by_role("button", name="Attributes").first.click()  # draws anew: the colours must survive
    expect(frame.get_by_text("kernel_shape").first).to_be_visible()
    expect(node(frame, "conv2").locator(".node-item-type path").first).to_have_css("fill", "rgb(255, 255, 0)")

    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").first.click()
    assert download.value.suggested_filename == "digits.onnx.png"

    page.get_by_role("button", name="Load").click()
    expect(page.get_by_title("Netron graph viewer")).to_have_count(3)
    expect(netron(page, 1).locator(".graph-node")).to_have_count(8)
    assert not [url for url in requests_elsewhere if "netron" in url or "ipinfo" in url or "google" in url]


def test_plot(open_notebook: OpenNotebook) -> None:
    page = open_notebook(PLOT)
    plot = page.get_by_role("img", name="Latency")
    canvas = plot.locator(".bk-Canvas .bk-events").first
    expect(canvas).to_be_visible(timeout=SLOW)

    page.get_by_role("button", name="Stream").click()
    expect(label(page, "4 rows")).to_be_visible()
    page.get_by_role("button", name="Stream").click()
    expect(label(page, "5 rows")).to_be_visible()  # an echo would have doubled the rows

    tap(canvas, 1)
    expect(label(page, "selected [0]")).to_be_visible()
    tap(canvas, 2)
    failure = page.get_by_role("alert").filter(has_text="RuntimeError: the middle one is forbidden")
    expect(failure).to_be_visible()
    tap(canvas, 3.5)
    expect(label(page, "selected [3, 4]")).to_be_visible()  # streamed points, one on the other
    expect(failure).to_have_count(0)

    page.get_by_role("button", name="Replace").click()
    expect(page.get_by_role("img", name="Throughput").locator(".bk-Figure")).to_be_visible()
    expect(page.locator(".bk-Figure")).to_have_count(1)


def tap(canvas: Locator, place: float) -> None:
    """Clicks the point at (place, place) of a plot whose axes go from 0 to 4."""
    frame = canvas.evaluate(
        """() => {
          const view = globalThis[Symbol.for('workbench.bokeh')];
          return Promise.all(Object.values(view)).then(([bokeh]) => {
            const [plot] = Object.values(bokeh.index).flatMap((root) => root);
            const { left, top, width, height } = plot.frame.bbox;
            return { left, top, width, height };
          });
        }"""
    )
    canvas.page.wait_for_timeout(350)  # two clicks within 300 ms are a double click for Bokeh
    share = place / 4
    canvas.click(
        position={"x": frame["left"] + share * frame["width"], "y": frame["top"] + (1 - share) * frame["height"]}
    )


def test_files(open_notebook: OpenNotebook, notebooks: pathlib.Path, conv_model: str, tmp_path: pathlib.Path) -> None:
    (notebooks / "folder").mkdir(exist_ok=True)
    (notebooks / "folder" / "inner.onnx").write_bytes(b"model")
    page = open_notebook(FILES)
    box = page.get_by_label("Model", exact=True)
    expect(box).to_be_visible(timeout=SLOW)

    box.fill("missing.onnx")
    box.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="There is no file")).to_be_visible()
    expect(box).to_have_value("missing.onnx")  # to be corrected, not typed again
    box.fill(conv_model)
    box.press("Enter")
    expect(label(page, f"chosen {notebooks / conv_model}")).to_be_visible()

    page.get_by_role("button", name="Browse").click()
    folder = page.get_by_role("option", name="folder, folder")
    expect(folder).to_be_focused()
    expect(page.get_by_role("option", name=".ipynb")).to_have_count(0)
    folder.press("Enter")
    inner = page.get_by_role("option", name="inner.onnx, 5 B")
    expect(inner).to_be_focused()
    inner.press("Backspace")
    expect(folder).to_be_focused()
    folder.press("End")  # folders come first, and only wanted files are there
    expect(page.get_by_role("option", name=conv_model)).to_be_focused()
    folder.click()
    inner.click()
    expect(label(page, "inner.onnx")).to_be_visible()
    expect(page.get_by_role("listbox")).to_have_count(0)

    big = tmp_path / "big.onnx"
    big.write_bytes(os.urandom(9 << 20))  # three pieces
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload").click()
    chooser.value.set_files(big)
    expect(page.get_by_role("status").filter(has_text="9.4 MB")).to_be_visible()
    path = pathlib.Path(box.input_value())
    assert path.parent == notebooks / "uploaded"
    assert path.read_bytes() == big.read_bytes()
    assert not list(path.parent.glob(".upload-*"))


@pytest.mark.heavy
@pytest.mark.parametrize("open_notebook", ["lab"], indirect=True)
def test_a_file_dragged_from_the_file_browser_of_lab(open_notebook: OpenNotebook, conv_model: str) -> None:
    page = open_notebook(FILES)
    expect(page.get_by_label("Model", exact=True)).to_be_visible(timeout=SLOW)
    page.evaluate("() => window.jupyterapp.commands.execute('filebrowser:activate')")
    item = page.locator(".jp-DirListing-item", has_text=conv_model)
    expect(item).to_be_visible()
    source, target = item.bounding_box(), page.get_by_role("group", name="Choose: Model").bounding_box()
    assert source
    assert target
    page.mouse.move(source["x"] + 40, source["y"] + 8)
    page.mouse.down()
    page.mouse.move(source["x"] + 60, source["y"] + 20, steps=4)
    page.mouse.move(target["x"] + 60, target["y"] + target["height"] - 8, steps=8)
    page.mouse.up()
    expect(label(page, conv_model)).to_be_visible()
    expect(item).to_be_visible()  # it was not moved


@pytest.mark.parametrize("theme", themes("dark"))  # Lab is switched to the other one
def test_themes(open_notebook: OpenNotebook, conv_model: str, theme: str, request: pytest.FixtureRequest) -> None:
    page = open_notebook(ALL, theme=theme)
    frame = netron(page, 0)
    expect(frame.locator(".graph-node")).to_have_count(8, timeout=SLOW)
    expect(page.get_by_role("img", name="Accuracy").locator(".bk-Figure")).to_be_visible()
    expect_theme(page, frame, theme)
    if directory := os.environ.get("WORKBENCH_SCREENSHOTS"):
        page.set_viewport_size({"width": 1280, "height": 1300})
        expect(frame.locator("#target")).to_be_in_viewport()
        page.screenshot(path=pathlib.Path(directory) / f"{request.node.callspec.id}.png")
    if page.locator("body[data-voila]").count() == 0:
        opposite = "light" if theme == "dark" else "dark"
        page.evaluate(
            "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })",
            f"JupyterLab {opposite.title()}",
        )
        expect_theme(page, frame, opposite)


def expect_theme(page: Page, frame: FrameLocator, theme: str) -> None:
    expect(page.locator(f"body[data-jp-theme-light={'false' if theme == 'dark' else 'true'}]")).to_be_attached()
    expect(label(page, theme)).to_be_visible()
    background = page.locator(".wb-netron").first.evaluate("(element) => getComputedStyle(element).backgroundColor")
    expect(frame.locator("#target")).to_have_css("background-color", background)
    expect(frame.locator(".edge-path").first).to_have_css(
        "stroke", "rgb(136, 136, 136)" if theme == "dark" else "rgb(0, 0, 0)"
    )
