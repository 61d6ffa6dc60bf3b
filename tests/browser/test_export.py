"""The Export panel as a user meets it: the plan, measured or not, the package, its verification and its trial."""

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
app.transform.kind.value = "float16"
app.transform.start().wait()
app.compare.latency.set({{"seconds": 0.3, "launches": 1}})
app.compare.options.set({{"threads": 1}})
app.compare.start().wait()
app.export.measuring.set({{"batches": [1, 2], "seconds": 0.2, "steps": 3, "rounds": 0}})
app.steps.selected_index = app.steps.titles.index("Export")
app
"""


@pytest.mark.heavy
@pytest.mark.parametrize("theme", themes("dark"))
@pytest.mark.parametrize("open_notebook", ["voila", *(["lab"] if SCREENSHOTS else [])], indirect=True)
def test_measure_export_verify_try(
    open_notebook, theme: str, tmp_path: pathlib.Path, requests_elsewhere: list[str], request: pytest.FixtureRequest
) -> None:
    page = open_notebook(APP.format(workspace=str(tmp_path)), theme=theme)
    user = User(page, f"{'lab' if 'lab' in request.node.name else 'voila'}-{theme}")
    expect(user.button("Measure for serving")).to_be_enabled(timeout=2 * SLOW)
    expect(user.button("Verify")).to_be_disabled()

    plan = page.locator(".wb-plan:visible")
    expect(plan.locator("tr", has_text="capacity of a replica")).to_contain_text("one after the other")
    expect(plan.locator("tr.wb-usual", has_text="largest batch")).to_contain_text("were not measured")
    user.takes_picture("export-before")

    user.press("Measure for serving")
    expect(plan.locator("tr", has_text="capacity of a replica")).to_contain_text("the most over HTTP", timeout=2 * SLOW)
    user.waits_until_done()
    expect(plan.locator("tr.wb-usual")).to_have_count(1)
    user.takes_picture("export-measured")

    user.field("Api key").select_option("environment")
    user.press("Export")
    user.sees("WORKBENCH_API_KEY=… python serve.py")
    user.press("Verify")
    user.sees(re.compile("✓ all .* files .* are as they were exported"))
    user.press("Try it")
    user.sees(re.compile("200 in .* as expected"))
    user.press("Show code")
    user.sees("wb.measure_for_package")
    user.takes_picture("export-tried")

    [folder] = (tmp_path / "packages").iterdir()
    (folder / "serve.py").write_text("print('hello')\n")
    user.press("Verify")
    user.sees("✗ serve.py was changed.")
    user.takes_picture("export-changed")

    user.field("Package").select_option("triton")
    user.press("Export")
    user.sees("--model-repository=/models")
    expect(user.button("Try it")).to_be_disabled()
    user.takes_picture("export-triton")

    text, ground = brightness(plan.locator("td").first, "color"), brightness(plan, "backgroundColor")
    assert text > ground + 100 if theme == "dark" else ground > text + 100
    assert [address for address in requests_elsewhere if "fontawesome" not in address] == []
