"""A model of another framework brought in by clicking: asked for what is missing, converted, checked, looked at."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.browser.user import SCREENSHOTS, SLOW, User, themes

pytestmark = pytest.mark.browser

APP = """
from widgets import Workbench
app = Workbench({workspace!r})
app
"""
NETS = """
import torch
from torch import nn


def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""


@pytest.mark.heavy
@pytest.mark.parametrize("open_notebook", ["lab", "voila"] if SCREENSHOTS else ["voila"], indirect=True)
@pytest.mark.parametrize("theme", themes("light"))
def test_weights_are_converted_checked_and_looked_at(
    open_notebook, theme: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    random = np.random.default_rng(0)
    shapes = {"0.weight": (8, 3, 3, 3), "0.bias": (8,), "4.weight": (5, 8), "4.bias": (5,)}
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    safetensors.save_file(weights, tmp_path / "net.safetensors")
    (tmp_path / "nets.py").write_text(NETS)
    page = open_notebook(APP.format(workspace=str(tmp_path / "space")), theme=theme)
    user = User(page, f"import-{request.node.name.split('[')[1].rstrip(']')}")

    expect(user.button("Load")).to_be_visible(timeout=SLOW)
    user.press("Own files")
    path = page.get_by_role("textbox", name="Model")
    path.fill(str(tmp_path / "net.safetensors"))
    path.press("Enter")
    user.sees(re.compile("^PyTorch"))
    user.press("Load")
    expect(page.get_by_role("alert").locator("visible=true")).to_contain_text("factory", timeout=SLOW)
    user.takes_picture("asks")

    user.field("Factory").fill(f"{tmp_path / 'nets.py'}:build")
    user.field("Inputs").fill("image float32[batch, 3, 32, 32]")
    user.press("Load")
    user.sees("Conversion check")
    user.sees("cosine similarity")
    user.waits_until_done()
    user.takes_picture("checked")

    user.go_to("Inspect")
    graph = page.frame_locator('iframe[title="Netron graph viewer"]').first
    expect(graph.locator(".graph-node").first).to_be_visible(timeout=SLOW)
    user.field("Show").select_option("file before import")
    expect(page.locator(".wb-netron-name:visible")).to_contain_text("sent whole", timeout=SLOW)
    expect(graph.locator(".graph-node").first).to_be_visible(timeout=SLOW)
    user.takes_picture("original")
