"""The Graph panel in JupyterLab as a user works with it, and the page that it saves, opened without a kernel."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from playwright.sync_api import FrameLocator, Locator, Page, expect

from tests.browser.user import SCREENSHOTS, SLOW, themes
from widgets._graph_page import graph_page
from workbench import load_model

pytestmark = pytest.mark.browser

PANEL = """
import workbench as wb
from widgets import Graph
model = wb.load_model("sample:digits")
half = wb.transform(model, "float16", workspace=wb.Workspace({workspace!r}))
graph = Graph(model=model, variants=(("half", half),), workspace={workspace!r})
graph
"""


def netron(page: Page, number: int = 0) -> FrameLocator:
    return page.frame_locator('iframe[title="Netron graph viewer"]').nth(number)


def node(frame: FrameLocator, name: str) -> Locator:
    return frame.locator(f"[id='node-name-{name}']")


def row(page: Page, text: str) -> Locator:
    return page.locator(".wb-rows tbody tr[data-index]:visible", has_text=text).first


def take_picture(page: Page, name: str) -> None:
    if SCREENSHOTS:
        pathlib.Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SCREENSHOTS}/graph-{name}.png")


@pytest.mark.parametrize("open_notebook", ["lab"], indirect=True)
@pytest.mark.parametrize("theme", themes("dark"))
def test_a_user_inspects_a_model_and_compares_it(
    open_notebook, theme: str, tmp_path: pathlib.Path, requests_elsewhere: list[str]
) -> None:
    page = open_notebook(PANEL.format(workspace=str(tmp_path)), theme=theme)
    page.set_viewport_size({"width": 1400, "height": 1300})
    graph = netron(page)
    expect(graph.locator(".graph-node")).to_have_count(28, timeout=SLOW)
    expect(page.get_by_text("36.0 M MACs")).to_be_visible(timeout=SLOW)

    row(page, "widen/conv").click()
    expect(graph.locator(".graph-node.select")).to_have_attribute("id", "node-name-widen/conv")
    node(graph, "stem/relu").locator("text").first.click()
    expect(row(page, "stem/relu")).to_have_attribute("aria-selected", "true")
    page.get_by_role("group", name="nodes: arrow keys select").press("ArrowDown")
    expect(graph.locator(".graph-node.select")).to_have_attribute("id", "node-name-widen/conv")
    expect(graph.locator("#sidebar")).to_contain_text("widen/conv/out")  # open since the click; it follows

    page.get_by_label("Colour by").select_option("MACs")
    expect(page.locator(".wb-netron-legend:visible")).to_contain_text("MACs")
    take_picture(page, f"macs-{theme}")
    page.set_viewport_size({"width": 800, "height": 1300})
    take_picture(page, f"narrow-{theme}")
    page.set_viewport_size({"width": 1400, "height": 1300})

    page.get_by_label("Search nodes").fill("relu")
    expect(page.get_by_role("status").filter(has_text="8 of 28 nodes")).to_be_visible()
    expect(graph.locator(".graph-node.faint")).to_have_count(20)
    page.get_by_label("Search nodes").fill("")

    page.get_by_label("Compare with").select_option("half")
    expect(netron(page, 1).locator(".graph-node").first).to_be_visible(timeout=SLOW)
    expect(page.locator(".wb-netron-legend:visible")).to_have_count(2)
    row(page, "precision").click()
    expect(graph.locator(".graph-node.select")).to_have_count(1)
    expect(netron(page, 1).locator(".graph-node.select")).to_have_count(1)
    take_picture(page, f"compare-{theme}")
    assert [address for address in requests_elsewhere if "fontawesome" not in address] == []


@pytest.mark.heavy
def test_ten_thousand_nodes_in_a_saved_page_without_kernel_or_network(
    page: Page, tmp_path: pathlib.Path, requests_elsewhere: list[str]
) -> None:
    file = tmp_path / "big.html"
    file.write_text(graph_page(load_model(write_big_model(tmp_path / "big.onnx", blocks=1250))), "utf-8")
    assert file.stat().st_size < 1_500_000
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.emulate_media(color_scheme="dark")
    page.goto(file.as_uri())
    graph = netron(page)
    expect(graph.locator(".graph-node").first).to_be_visible(timeout=SLOW)
    expect(page.locator(".wb-netron-cover")).to_be_hidden(timeout=SLOW)
    expect(page.get_by_text("10,000 nodes").first).to_be_visible()
    assert graph.locator(".graph-node").count() < 200  # the others are drawn when they come into sight

    page.get_by_label("Search nodes").fill("block1200 relu")
    expect(page.get_by_role("status").filter(has_text="2 of 10,000 nodes")).to_be_visible()
    row(page, "block1200/in").click()
    expect(node(graph, "block1200/in/Relu")).to_be_in_viewport()
    expect(node(graph, "block1200/out/Add")).to_have_class(re.compile("faint"))
    page.get_by_label("Colour by").select_option("MACs")
    expect(page.locator(".wb-netron-legend")).to_contain_text("MACs01.02 k9.22 k")
    expect(node(graph, "block1200/left/Conv").locator(".node-item-type path").first).to_have_css(
        "fill", "rgb(251, 140, 0)"
    )
    expect(page.locator("body")).to_have_css("background-color", "rgb(25, 25, 25)")
    expect(graph.locator("#target")).to_have_css("background-color", "rgb(25, 25, 25)")
    take_picture(page, "page-dark")
    assert requests_elsewhere == []


def write_big_model(path: pathlib.Path, blocks: int) -> pathlib.Path:
    """Writes residual blocks of eight nodes: two branches that meet, and an edge around both."""
    weights = [
        numpy_helper.from_array(np.zeros((4, 4, 3, 3), np.float32), "big"),
        numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), "small"),
    ]
    nodes, last = [], "image"
    for number in range(blocks):
        name = f"block{number}"

        def add(operator: str, inputs: list[str], output: str, name: str = name, **attributes: object) -> str:
            made = helper.make_node(operator, inputs, [f"{name}/{output}"], f"{name}/{output}/{operator}", **attributes)
            nodes.append(made)
            return f"{name}/{output}"

        start = add("Relu", [last], "in")
        left = add("Conv", [start, "big"], "left", pads=[1, 1, 1, 1])
        right = add("Conv", [start, "small"], "right")
        gated = add("Mul", [right, add("Sigmoid", [right], "gate")], "gated")
        both = add("Relu", [add("Add", [left, gated], "sum")], "both")
        last = add("Add", [both, start], "out")
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 4, 8, 8])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
