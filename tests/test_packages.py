"""The two packages as a whole: layers, what an import costs, and what it must not need."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import workbench

ROOT = Path(__file__).parent.parent
OPTIONAL = ("onnxruntime", "tensorrt", "cuda", "pycuda", "torch", "onnxscript", "safetensors")
OPTIONAL += ("tensorflow", "keras", "tf2onnx", "h5py", "onnxslim", "pycocotools")
OPTIONAL += ("openvino", "tensorrt_rtx", "mlperf_loadgen", "nncf", "torch_pruning")
OPTIONAL += ("ai_edge_litert", "onnx2tf", "MNN")
OPTIONAL += ("model_signing", "OpenSSL", "cyclonedx", "tritonclient")
OPTIONAL += ("tensorflow_serving", "grpc")


def python(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=150)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_imports_go_down_the_layers() -> None:
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--config",
        str(ROOT / "pyproject.toml"),
        "--no-cache",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert ended.returncode == 0, ended.stdout


def test_importing_the_workbench_loads_nothing_heavy() -> None:
    loaded = python("import sys, workbench; workbench.__all__; print(*sys.modules)").split()

    assert not {"numpy", "onnx", "onnxruntime", "scipy", "yaml", "msgspec", "ipywidgets"} & set(loaded)


def test_importing_every_verb_loads_no_runtime() -> None:
    loaded = python("import sys; from workbench import *; print(*sys.modules)").split()

    assert "workbench.recipe" in loaded
    assert not {"onnx", "onnxruntime", "sklearn", "sympy", "IPython", "ipywidgets"} & set(loaded)


def test_opening_the_panels_loads_no_framework() -> None:
    loaded = python("import sys; from widgets import Workbench; Workbench(); print(*sys.modules)").split()

    assert "widgets.build" in loaded
    assert not {"torch", "tensorflow", "openvino", "tensorrt_rtx", "MNN", "ai_edge_litert"} & set(loaded)


IMPORT_ALL = """
import importlib, pkgutil, sys, warnings
warnings.simplefilter("error")
for name in {optional}:
    sys.modules[name] = None  # as if it were not installed
for package in ("workbench", "widgets"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        # The files beside the server's exporter are shipped and run side by side, not as modules of a package.
        if not module.name.startswith("workbench.exporters.server.") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            print(module.name)
"""


def test_every_module_imports_without_any_optional_package() -> None:
    imported = python(IMPORT_ALL.format(optional=OPTIONAL)).split()

    assert {"workbench.backends.onnxruntime", "workbench.samples.train_digits", "workbench.trial"} <= set(imported)
    assert len(imported) > 30


def test_every_public_name_exists() -> None:
    declared = re.findall(r"import \w+ as (\w+)", (ROOT / "workbench" / "__init__.pyi").read_text())

    assert len(declared) == len(set(declared)) > 30
    assert set(workbench.__all__) == set(declared)
    assert not [name for name in declared if not hasattr(workbench, name)]


def test_an_unknown_public_name_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="guess"):
        workbench.guess  # noqa: B018


@pytest.mark.parametrize("group", ["importers", "transforms", "backends", "exporters"])
def test_every_plugin_of_a_group_is_independent_of_its_siblings(group: str) -> None:
    """The contract names its modules one by one, so a new file must be entered there; this notices if it is not."""
    folder = Path(importlib.import_module(f"workbench.{group}").__path__[0])
    plugins = [path.stem for path in folder.iterdir() if not path.name.startswith("_")]
    for path in folder.rglob("*.py"):
        others = [name for name in plugins if name != path.stem and name not in path.parts]
        assert not re.findall(rf"workbench\.{group}\.({'|'.join(others) or '(?!)'})\b", path.read_text()), path
