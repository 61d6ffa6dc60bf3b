"""Canary packages that are written with a known plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.exporters.monitored import PLAN
from workbench.backends import build_engine, predict
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.exporters import Contents, canary
from workbench.exporters.canary.settings import CanaryFile
from workbench.model import Model
from workbench.options import make_options
from workbench.serving_plan import ServingPlan
from workbench.workspace import read_json

PROXIES = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}


@pytest.fixture
def files(tiny: Model, tiny_data: Dataset, tmp_path: Path) -> Any:
    """Exports with a known plan, and gives the text of the proxy's configuration and of the README."""
    candidate, one = Candidate("int8 static", build_engine(tiny)), tiny_data.take(1)
    answer = predict(candidate.engine, one)

    def write(plan: ServingPlan = PLAN, **options: Any) -> tuple[str, str, CanaryFile]:
        contents = Contents(candidate, "digits", one.inputs, answer, None, plan)
        folder = tmp_path / f"package-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        chosen = make_options(canary.Options, options, "exporter canary")
        canary.export(contents, chosen, folder)
        text = (folder / PROXIES[chosen.proxy]).read_text()
        return text, (folder / "README.md").read_text(), read_json(folder / canary.SETTINGS, CanaryFile)

    return write
