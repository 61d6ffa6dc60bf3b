"""What the tests share that take an NVIDIA GPU. They are only ever chosen on purpose, so that without one they fail."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from workbench.backends import build_engine
from workbench.backends._cuda import Cuda, Gpu, gpus
from workbench.backends._tensorrt_options import Target
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import ProviderError
from workbench.model import Model

Build = Callable[..., Engine]


@pytest.fixture(scope="session", autouse=True)
def gpu() -> Gpu:
    """The GPU that everything runs on."""
    if found := gpus():
        return found[0]
    try:
        Cuda()
    except ProviderError as error:
        pytest.fail(f"These tests take an NVIDIA GPU. {error}", pytrace=False)
    raise AssertionError("a GPU that can be opened is listed")


@pytest.fixture(scope="session", params=["tensorrt", "tensorrt_rtx"])
def package(request: pytest.FixtureRequest, gpu: Gpu) -> str:
    """Each of NVIDIA's packages that is installed and has plans for this GPU."""
    name: str = request.param
    installed = [each for each in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(each)]
    if not installed:
        pytest.fail("Neither tensorrt nor tensorrt-rtx is installed: pip install 'deployment-workbench[gpu]'.")
    if name not in installed:
        pytest.skip(f"{name} is not installed")
    if name == "tensorrt_rtx" and gpu.capability not in get_args(Target):
        pytest.skip(f"TensorRT-RTX has no plans for {gpu}")
    return name


@pytest.fixture
def build(package: str) -> Build:
    """Builds a plan for the GPU that is here."""

    def make(model: Model, **options: Any) -> Engine:
        return build_engine(model, "tensorrt", {"package": package, **options})

    return make


@pytest.fixture(scope="session")
def samples(evaluation: Dataset) -> np.ndarray:
    """Images of sixteen digits."""
    return np.asarray(evaluation.take(16).inputs["image"])


@pytest.fixture(scope="session")
def reference(digits: Model, samples: np.ndarray) -> np.ndarray:
    """What ONNX's own interpreter answers to them."""
    [logits] = ReferenceEvaluator(onnx.load(digits.path)).run(None, {"image": samples})
    return np.asarray(logits)
