"""A package started, watched and loaded from the Monitor panel, in JupyterLab and in Voila."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.user import SCREENSHOTS, SLOW, User, brightness, themes
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.exporters import Package, export_package
from workbench.importers import load_dataset, load_model
from workbench.workspace import Workspace

pytestmark = pytest.mark.browser

CELL = """
from pathlib import Path
import workbench as wb
from widgets.monitor import Monitor
from workbench.exporters import read_package
samples = wb.load_dataset("sample:digits", "evaluation")
engine = wb.build_engine(wb.load_model("sample:digits"), options={{"threads": 1}})
curve = wb.measure_load_curve(engine, {{"steps": 5, "seconds": 0.4, "lowest": 2, "highest": 90}}, dataset=samples)
panel = Monitor(package=read_package(Path({folder!r})), curve=curve, evaluation=samples)
panel.options.set({{"every": 0.5}})
panel.load_options.set({{"pattern": "poisson", "rate": {rate}, "seconds": {seconds}}})
panel
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return export_package(
        Candidate("as it is", build_engine(load_model("sample:digits"))),
        sample=load_dataset("sample:digits", "evaluation"),
        workspace=Workspace(tmp_path_factory.mktemp("space")),
    )


@pytest.mark.heavy
@pytest.mark.parametrize("theme", themes("dark"))
@pytest.mark.parametrize("open_notebook", ["voila", *(["lab"] if SCREENSHOTS else [])], indirect=True)
def test_a_package_is_started_watched_loaded_and_lost(
    open_notebook, theme: str, package: Package, requests_elsewhere: list[str], request: pytest.FixtureRequest
) -> None:
    seconds = 8 if SCREENSHOTS else 2
    page = open_notebook(CELL.format(folder=str(package.directory), rate=60, seconds=seconds), theme=theme)
    user = User(page, f"monitor-{'lab' if 'lab' in request.node.name else 'voila'}-{theme}")
    expect(user.button("Watch")).to_be_visible(timeout=SLOW)
    user.sees(re.compile("Give the address of a running service"))
    user.takes_picture("empty")

    user.press("Watch")
    user.sees(re.compile("There is no address"))
    user.press("Start the package")
    user.sees(re.compile(r"^running at http://127\.0\.0\.1:"))
    user.press("Watch")
    user.press("Send load")
    user.sees(re.compile("On the bench"))
    user.sees(re.compile(r"^[\d,]+ of [\d,]+ with 200$"))
    expect(page.locator(".bk-Figure").locator("visible=true")).to_have_count(5)
    for width in (1440, 1280, 800) if SCREENSHOTS else ():
        page.set_viewport_size({"width": width, "height": 1900})
        page.wait_for_timeout(1500)
        user.takes_picture(str(width))

    text, ground = (
        brightness(page.locator(".wb-facts:visible td").first, "color"),
        brightness(page.locator(".wb-panel:visible"), "backgroundColor"),
    )
    assert text > ground + 100 if theme == "dark" else ground > text + 100

    user.press("Stop the package")
    user.sees(re.compile(r"^No answer, .*Connection refused"))
    user.takes_picture("no-answer")
    user.press("Stop watching")
    user.sees("stopped; what was seen stays")
    user.press("Show code")
    user.sees(re.compile("wb.watch_service"))
    assert [address for address in requests_elsewhere if "fontawesome" not in address] == []
