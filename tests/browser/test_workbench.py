"""The workbench clicked through as a user would, in JupyterLab and in Voila, in both themes."""

from __future__ import annotations

import pathlib
import re

import pytest
from playwright.sync_api import expect

from tests.browser.user import SLOW, User, brightness, themes

pytestmark = pytest.mark.browser

APP = """
from widgets import Workbench
app = Workbench({workspace!r})
app.compare.latency.set({{"seconds": 0.3, "launches": 1}})
app.compare.options.set({{"threads": 1}})
app
"""


@pytest.mark.parametrize("open_notebook", ["lab", pytest.param("voila", marks=pytest.mark.heavy)], indirect=True)
@pytest.mark.parametrize("theme", themes("lab is dark"))
def test_from_load_to_a_package_that_answers(
    open_notebook, theme: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest, requests_elsewhere
) -> None:
    if theme not in ("light", "dark"):
        theme = "dark" if request.node.name.endswith("-lab]") else "light"
    page = open_notebook(APP.format(workspace=str(tmp_path)), theme=theme)
    user = User(page, request.node.name.split("[")[1].rstrip("]"))

    expect(user.button("Load")).to_be_visible(timeout=SLOW)
    user.press("Load")
    user.sees("217,626")
    user.waits_until_done()
    user.press("Show code")
    user.sees("wb.load_model")
    user.takes_picture("load")

    user.go_to("Inspect")
    graph = page.frame_locator('iframe[title="Netron graph viewer"]')
    expect(graph.locator(".graph-node")).to_have_count(28, timeout=SLOW)
    expect(graph.locator(".graph-node").first).to_be_visible(timeout=SLOW)
    user.takes_picture("inspect")

    user.go_to("Compress")
    user.press("Apply")
    user.sees("0.24 MB")
    user.waits_until_done()
    user.field("Transform").select_option("float16")
    user.press("Apply")
    user.sees("0.44 MB")
    user.takes_picture("compress")

    user.go_to("Compare")
    user.press("Measure")
    user.waits_until_done()
    rows = page.locator(".wb-table tbody tr")
    expect(rows).to_have_count(3)
    expect(page.locator(".bk-Figure").locator("visible=true")).to_have_count(1, timeout=SLOW)
    page.get_by_role("button", name=re.compile("^size")).click()
    expect(rows.first).to_contain_text("0.24 MB")
    rows.filter(has_text="float16").click()
    expect(rows.filter(has_text="float16")).to_have_attribute("aria-selected", "true")
    user.takes_picture("compare")

    user.go_to("Export")
    expect(user.field("Candidate")).to_have_value("quantize static")
    user.press("Export")
    user.sees("python serve.py")
    user.press("Try it")
    user.sees(re.compile("200 in .* as expected"))
    user.takes_picture("export")

    text, ground = (
        brightness(page.locator(".wb-panel h3:visible"), "color"),
        brightness(page.locator(".wb-panel:visible"), "backgroundColor"),
    )
    assert text > ground + 100 if theme == "dark" else ground > text + 100
    # Voila's own template asks for a style sheet of icons; nothing of ours asks for anything.
    assert [address for address in requests_elsewhere if "fontawesome" not in address] == []


@pytest.mark.heavy
@pytest.mark.parametrize("open_notebook", ["lab"], indirect=True)
def test_a_missing_file_and_a_cancelled_measurement_are_said_in_the_panel(
    open_notebook, tmp_path: pathlib.Path
) -> None:
    page = open_notebook(APP.format(workspace=str(tmp_path)).replace("0.3,", '300, "precision": 0.1,'))
    user = User(page, "errors")
    expect(user.button("Compare")).to_have_count(0, timeout=SLOW)

    user.press("Own files")
    user.press("Load")
    expect(page.get_by_role("alert").locator("visible=true")).to_contain_text("No model is chosen", timeout=SLOW)
    user.press("Bundled sample")
    user.press("Load")
    user.waits_until_done()
    expect(page.get_by_role("alert").locator("visible=true")).to_have_count(0)

    user.go_to("Compare")
    user.press("Measure")
    user.sees(re.compile("measuring latency"))
    user.press("Cancel")
    user.sees("cancelled; nothing unfinished was kept")
    expect(user.button("Measure")).to_be_enabled()
