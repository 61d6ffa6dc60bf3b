"""Compression and its repair, clicked through: layers that hurt stay in float, a student learns from the original."""

from __future__ import annotations

import pathlib
import re

import pytest
from playwright.sync_api import expect

from tests.browser.user import SCREENSHOTS, SLOW, User, brightness, themes

pytestmark = pytest.mark.browser

APP = """
from widgets import Workbench
app = Workbench({workspace!r})
app.load.start().wait()
app.sensitivity.quantization.set({{"samples": 16}})
app.sensitivity.options.set({{"samples": 8}})
app.sensitivity.timing.set({{"seconds": 0.1}})
app.transform.variants = (("copy", app.load.model),)
app.distil.student.kind.value = "A variant"
app.distil.data.value = "calibration"
app.distil.options.set({{"epochs": 500, "batch": 16, "threads": 1}})
app
"""


@pytest.mark.heavy
@pytest.mark.parametrize("theme", themes("dark"))
@pytest.mark.parametrize("open_notebook", ["voila", *(["lab"] if SCREENSHOTS else [])], indirect=True)
def test_layers_are_kept_in_float_and_a_cancelled_student_keeps_its_best_epoch(
    open_notebook, theme: str, tmp_path: pathlib.Path, requests_elsewhere: list[str], request: pytest.FixtureRequest
) -> None:
    page = open_notebook(APP.format(workspace=str(tmp_path)), theme=theme)
    user = User(page, f"{'lab' if 'lab' in request.node.name else 'voila'}-{theme}")
    expect(user.button("Load")).to_be_visible(timeout=SLOW)

    user.go_to("Sensitivity")
    user.press("Measure sensitivity")
    user.waits_until_done()
    points = page.get_by_role("img", name="SQNR of the output").locator(".bk-Figure")
    expect(points).to_be_visible(timeout=SLOW)
    tick = page.get_by_role("checkbox", name="float: stem/conv")
    tick.check()
    user.sees("1 layer in float: about")
    row = page.locator(".wb-table:visible tbody tr", has=tick)
    text, ground = brightness(row, "color"), brightness(row, "backgroundColor")
    assert text > ground + 100 if theme == "dark" else ground > text + 100
    row.get_by_text("Conv", exact=True).click()
    expect(row).to_have_attribute("aria-selected", "true")
    user.press("Requantize")
    user.waits_until_done()
    user.takes_picture("sensitivity")

    user.go_to("Compress")
    user.sees("INT8, 1 in float")
    groups = user.field("Transform").locator("optgroup")
    expect(groups.first).to_have_attribute("label", "Quantize")
    user.takes_picture("compress-groups")

    user.go_to("Train")
    user.press("Train")
    curves = page.get_by_role("img", name="Loss and validation score").locator(".bk-Figure")
    expect(curves).to_have_count(2, timeout=SLOW)
    expect(curves.first).to_be_visible(timeout=SLOW)
    user.sees(re.compile(r"^epoch \d+/.*%"))  # one is finished
    user.press("Cancel")
    user.sees(re.compile("^cancelled after epoch"))
    user.takes_picture("cancelled")
    user.press(r"Keep the best so far \(epoch \d+, [\d.]+ %\)")
    user.sees("as many as the teacher has")
    user.takes_picture("trained")
    user.go_to("Compress")
    user.sees(re.compile("^copy, trained, epoch"))
    page.set_viewport_size({"width": 830 if "voila" in request.node.name else 960, "height": 900})  # 800 px for the app
    user.takes_picture("narrow")
    steps = page.locator(".wb-app .lm-TabBar-tab:visible")
    expect(steps).to_have_count(13)
    bottoms = steps.evaluate_all("steps => steps.map((step) => step.getBoundingClientRect().bottom)")
    assert max(bottoms) - min(bottoms) < 5  # one line; the border of the chosen one counts
    assert [address for address in requests_elsewhere if "fontawesome" not in address] == []
