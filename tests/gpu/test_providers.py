"""Other backends on a GPU: where ONNX Runtime's providers really run, and whether PyTorch agrees."""

from __future__ import annotations

import time

import numpy as np
import pytest

from workbench.backends import build_engine, open_runner
from workbench.engine import Engine
from workbench.measure.latency import measure_latency
from workbench.model import Model
from workbench.plugins import find_plugin

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def engine(request: pytest.FixtureRequest, digits: Model) -> Engine:
    """The bundled model on ONNX Runtime's providers for NVIDIA GPUs."""
    import onnxruntime

    if request.param not in onnxruntime.get_available_providers():
        pytest.fail(f"This onnxruntime has no {request.param}: pip install 'deployment-workbench[gpu]'.", pytrace=False)
    return build_engine(digits, "onnxruntime", {"provider": request.param})


def test_a_provider_runs_what_it_says(engine: Engine, samples: np.ndarray, reference: np.ndarray) -> None:
    with open_runner(engine) as runner:
        assert runner.placement.get(engine.device, 0) > 0
        given = runner.infer({"image": samples})["logits"]

    np.testing.assert_allclose(given, reference, rtol=5e-3, atol=5e-3 * np.abs(reference).max())


def test_a_provider_knows_its_time_on_the_device(engine: Engine, samples: np.ndarray) -> None:
    with open_runner(engine) as runner:
        call = runner.bind({"image": samples})
        for _ in range(20):
            call()
        timer = runner.device_timer  # type: ignore[attr-defined]
        pairs = []
        for _ in range(100):
            begun = time.perf_counter()
            device = timer(call)
            pairs.append(((time.perf_counter() - begun) * 1000, device))

    host, device = np.median(pairs, axis=0)
    assert 0 < device <= host


def test_latency_has_both_times(engine: Engine) -> None:
    [stats] = measure_latency([engine], {"seconds": 2.0, "launches": 1, "batch": 8})

    assert stats.p50 is not None
    assert stats.device_ms is not None
    assert 0 < stats.device_ms <= 1.1 * stats.p50.value
    assert stats.conditions.gpus


def test_pytorch_agrees(digits: Model, samples: np.ndarray, reference: np.ndarray) -> None:
    if not any(device.startswith("cuda") for device in find_plugin("backends", "pytorch").devices()):
        pytest.skip("this PyTorch has no CUDA")
    engine = build_engine(digits, "pytorch", {"device": "cuda"})
    with open_runner(engine) as runner:
        given = runner.infer({"image": samples})["logits"]

    np.testing.assert_allclose(given, reference, rtol=5e-3, atol=5e-3 * np.abs(reference).max())
