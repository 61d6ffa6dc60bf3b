"""Plans of TensorRT in a server's package, as far as that goes without a GPU: what is packed, and what it says here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.exporters.serving import refusal
from workbench.backends import build_engine
from workbench.backends._cuda import gpus
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.exporters import Contents
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.serving_plan import plan_serving

pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def engine(tiny: Model) -> Engine:
    return build_engine(tiny, "tensorrt", {"package": "tensorrt_rtx"})


@pytest.fixture
def folder(engine: Engine, tiny_data: Dataset, tmp_path: Path) -> Path:
    """A package; `export_package` itself would run the plan for the sample's answer, which takes a GPU."""
    candidate = Candidate("it", engine)
    answer = {"scores": np.zeros((1, 3), np.float32)}
    contents = Contents(candidate, "tiny", tiny_data.take(1).inputs, answer, None, plan_serving(candidate))
    plugin = find_plugin("exporters", "server")
    folder = tmp_path / "package"
    folder.mkdir()
    plugin.export(contents, plugin.Options(), folder)
    return folder


def test_the_plan_is_packed_with_what_runs_it(folder: Path, engine: Engine) -> None:
    [entry] = json.loads((folder / "config.json").read_text())["models"]
    version = engine.versions["tensorrt_rtx"]
    assert (entry["backend"], entry["provider"], entry["path"]) == (
        "tensorrt",
        engine.device,
        "models/tiny/1/model.plan",
    )
    assert entry["provider_options"]["package"] == "tensorrt_rtx"
    assert entry["provider_options"]["version"] == version
    assert (folder / entry["path"]).read_bytes() == engine.path.read_bytes()
    assert not list(folder.rglob("*.onnx"))
    requirements = (folder / "requirements.txt").read_text()
    assert f"tensorrt_rtx=={version}\n" in requirements
    assert "onnxruntime" not in requirements
    readme = (folder / "README.md").read_text()
    assert "not run on a GPU" in readme
    assert engine.device in readme


def test_what_runs_it_needs_no_workbench(folder: Path) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
sys.modules["workbench"] = None
import plans
print(plans.choose_profile({"x": (2, 4)}, [{"x": ((1, 4), (1, 4), (8, 4))}]))
"""
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


@pytest.mark.skipif(bool(gpus()), reason="here is a GPU")
def test_without_a_gpu_it_says_so_in_one_paragraph(folder: Path) -> None:
    words = refusal(folder)
    assert "models/tiny/1/model.plan cannot be run here: There is no NVIDIA driver." in words
    assert "It takes an NVIDIA GPU of its kind" in words


def test_without_the_version_that_built_it_it_says_which_to_install(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for changes, expected in (
        ({"version": "0.1"}, "was built with tensorrt_rtx 0.1, and here is"),
        ({"package": "tensorrt"}, "needs tensorrt, which this environment lacks"),
    ):
        changed = json.loads(json.dumps(config))
        changed["models"][0]["provider_options"].update(changes)
        (folder / "config.json").write_text(json.dumps(changed))
        try:
            assert expected in refusal(folder)
        finally:
            (folder / "config.json").write_text(json.dumps(config))
