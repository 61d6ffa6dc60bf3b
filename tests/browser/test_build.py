"""Build an engine for a GPU that is not here, look into its layers, go from one to its node: clicked through."""

from __future__ import annotations

import pathlib
import time

import pytest
from playwright.sync_api import expect

from tests.browser.user import SCREENSHOTS, SLOW, User, brightness, themes

pytestmark = pytest.mark.browser

APP = """
import os
os.environ["WORKBENCH_WORKSPACE"] = {workspace!r}
from widgets import Workbench
app = Workbench({workspace!r})
app.load.start().wait()
app.transform.options.set({{"target": "tensorrt", "samples": 16}})
app.transform.start().wait()
app
"""


@pytest.mark.heavy
@pytest.mark.parametrize("theme", themes("dark"))
@pytest.mark.parametrize("open_notebook", ["voila", *(["lab"] if SCREENSHOTS else [])], indirect=True)
def test_from_a_model_to_the_layers_of_its_engine(
    open_notebook, theme: str, tmp_path: pathlib.Path, requests_elsewhere: list[str], request: pytest.FixtureRequest
) -> None:
    page = open_notebook(APP.format(workspace=str(tmp_path)), theme=theme)
    user = User(page, f"{'lab' if 'lab' in request.node.name else 'voila'}-{theme}")
    expect(user.button("Load")).to_be_visible(timeout=SLOW)

    user.go_to("Build")
    page.get_by_role("combobox", name="Model", exact=True).locator("visible=true").select_option("quantize static")
    user.field("SM75").check()
    user.sees("Before the build")
    user.takes_picture("build-refused")
    user.field("SM75").uncheck()
    user.field("SM89").check()
    user.press("Build")
    user.sees("than the ONNX model")
    expect(page.locator(".wb-log-last code")).to_be_visible()
    user.press("Log")
    log = page.locator(".wb-log-all")
    expect(log).to_be_visible()
    assert log.evaluate("box => box.scrollTop") == 0  # the end is in sight: the box runs from the bottom up
    user.takes_picture("build")
    user.press("Log")

    rows = page.locator(".wb-rows:visible tbody tr[aria-selected]")
    expect(rows.first).to_be_visible(timeout=SLOW)  # the explorer read the new engine by itself
    card = page.locator(".wb-finding:visible", has_text="write float")
    expect(card).to_be_visible()
    text, ground = brightness(card.locator("b").first, "color"), brightness(card, "backgroundColor")
    assert text > ground + 100 if theme == "dark" else ground > text + 100
    card.get_by_role("button", name="widen/conv").click()
    chosen = page.locator(".wb-rows:visible tr[aria-selected=true]")
    expect(chosen).to_contain_text("widen/conv")
    _take_pictures(user)
    rows.filter(has_text="top/conv").first.click()
    expect(chosen).to_contain_text("top/conv")

    user.go_to("Inspect")
    user.field("Show").select_option("quantize static")
    expect(page.locator(".wb-rows:visible tr[aria-selected=true]").first).to_contain_text("top/conv", timeout=SLOW)
    assert [address for address in requests_elsewhere if "fontawesome" not in address] == []


def _take_pictures(user: User) -> None:
    """The whole step, wide and as in a notebook cell of 800 px."""
    if not SCREENSHOTS:
        return
    for width, height in ((1440, 1900), (800, 2600)):
        user.page.set_viewport_size({"width": width, "height": height})
        user.page.wait_for_timeout(600)
        user.takes_picture(f"engine-{width}")
    user.page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.parametrize("open_notebook", ["voila"], indirect=True)
def test_the_steps_fit_a_narrow_page(open_notebook, tmp_path: pathlib.Path) -> None:
    """Thirteen steps at 800 px: in two rows at most, each within the page."""
    page = open_notebook(APP.partition("app.load")[0].format(workspace=str(tmp_path)) + "app")
    tabs = page.locator(".wb-app > .widget-tab > .lm-TabBar .lm-TabBar-tab")
    expect(tabs).to_have_count(13, timeout=SLOW)
    page.set_viewport_size({"width": 800, "height": 900})
    end = time.monotonic() + SLOW / 1000
    while True:
        boxes = [tab.bounding_box() for tab in tabs.all()]
        within = [box["y"] for box in boxes if box is not None and box["x"] + box["width"] <= 800]
        if (len(within) == 13 and len(set(map(round, within))) <= 2) or time.monotonic() > end:
            break
        page.wait_for_timeout(100)
    assert len(within) == 13
    assert len(set(map(round, within))) <= 2
