"""The Predictions panel in a real browser: pictures, pages, the matrix, and text that is readable in both themes."""

from __future__ import annotations

import pathlib

import pytest
from playwright.sync_api import expect

from tests.browser.user import SLOW, User, brightness, themes

pytestmark = pytest.mark.browser

# The bundled model, and the same with noise on its weights, which costs it some samples.
CELL = """
import numpy as np, onnx
from onnx import numpy_helper
import workbench as wb
from widgets import Predictions
model = wb.load_model("sample:digits")
proto = onnx.load(model.path)
generator = np.random.default_rng(0)
for tensor in proto.graph.initializer:
    values = numpy_helper.to_array(tensor)
    if values.dtype == np.float32 and values.ndim > 1:
        noisy = values + 0.15 * values.std() * generator.standard_normal(values.shape).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(noisy, tensor.name))
onnx.save(proto, {folder!r} + "/noisy.onnx")
candidates = [
    wb.Candidate("original", wb.build_engine(model)),
    wb.Candidate("noisy", wb.build_engine(wb.load_model({folder!r} + "/noisy.onnx"))),
]
evaluation = wb.load_dataset("sample:digits", "evaluation")
workspace = wb.Workspace({folder!r} + "/workspace")
comparison = wb.compare(candidates, evaluation, {{"seconds": 0.2}}, workspace=workspace)
Predictions(comparison=comparison, evaluation=evaluation, workspace=workspace)
"""


@pytest.mark.parametrize("theme", themes("dark"))
@pytest.mark.parametrize("open_notebook", ["voila"], indirect=True)
def test_the_changed_samples_can_be_looked_through(open_notebook, theme: str, tmp_path: pathlib.Path) -> None:
    page = open_notebook(CELL.format(folder=str(tmp_path)), theme=theme)
    user = User(page, f"voila-{theme}")

    user.waits_until_done()
    pictures = page.locator(".wb-samples img")
    expect(pictures).to_have_count(12)
    assert pictures.first.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 32]
    expect(page.get_by_role("img", name="confusion matrix").locator(".bk-Figure")).to_be_visible(timeout=SLOW)
    first = pictures.first.get_attribute("alt")
    user.takes_picture("predictions")
    lost = page.locator(".wb-samples td").first
    assert abs(brightness(lost, "color") - brightness(lost, "backgroundColor")) > 100
    user.press("Next")
    expect(pictures.first).not_to_have_attribute("alt", str(first))
    user.field("Show").select_option("gained")
    expect(page.locator(".wb-samples tr", has_text="lost")).to_have_count(0)
