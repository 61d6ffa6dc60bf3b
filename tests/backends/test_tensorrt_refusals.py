"""TensorRT: what cannot be parsed or built is refused in words, and nothing of it stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.backends.tensorrt_models import build_here, count_lines, node, quantized, write
from workbench import jobs
from workbench.artifact import check_file
from workbench.backends import build_engine
from workbench.errors import (
    BuildError,
    Cancelled,
    MissingDependencyError,
    ModelError,
    OptionsError,
    WorkerError,
)
from workbench.importers import load_model
from workbench.model import Model
from workbench.plugins import find_plugin

pytest.importorskip("tensorrt_rtx")
plugin = find_plugin("backends", "tensorrt")
without_gpu = pytest.mark.skipif(bool(plugin.devices()), reason="there is a GPU here")


def kept(workspace: Path) -> list[Path]:
    """Whatever is left of a build."""
    return [*(workspace / "engines").glob("*"), *(workspace / "tmp").glob("*")]


def test_every_bad_node_is_named(tmp_path: Path, default_workspace: Path) -> None:
    """The message names the first few, the details and the log all."""
    bad = [node("Foo", f"t{number}", f"t{number + 1}", f"foo{number}", domain="custom") for number in range(6)]
    nodes = [node("Relu", "x", "t0"), *bad, node("Det", "t6", "y", "det")]
    heard: list[str] = []
    with pytest.raises(BuildError, match=r"cannot parse m: Foo 'foo0' \(there is no such .* and 2 more") as caught:
        build_engine(write(tmp_path / "m.onnx", nodes, {"x": [4, 4]}), "tensorrt", log=heard.append)

    assert len(caught.value.details.splitlines()) == 7
    for name in [*(f"Foo 'foo{number}'" for number in range(6)), "Det 'det' (it has no such operator)"]:
        assert name in caught.value.details
        assert any(name in line for line in heard)
    assert kept(default_workspace) == []


def test_quantized_biases_are_named(tmp_path: Path) -> None:
    """onnxruntime's quantizer writes them unless told otherwise."""
    tensors = {
        "weight": np.ones((16, 16, 1, 1), np.float32),
        "bias": np.ones(16, np.int32),
        "scale": np.float32(0.01),
    }
    nodes = [
        node("DequantizeLinear", "bias scale", "b", "bias_dequantize"),
        node("Conv", "x weight b", "y", "conv"),
    ]
    model = write(tmp_path / "m.onnx", nodes, {"x": ["batch", 16, 8, 8]}, tensors)
    with pytest.raises(ModelError, match=r"DequantizeLinear 'bias_dequantize' \(.*Int32") as caught:
        build_engine(model, "tensorrt")

    assert "biases in float" in caught.value.remedy
    assert "cudaError" not in str(caught.value)
    assert "INT32 ('bias_dequantize')" in refused(model)


def refused(model: Model, **options: object) -> str:
    checked = plugin.checks(model, plugin.Options(**options))
    return "\n".join(check.what for check in checked if check.verdict == "refused")


@pytest.mark.parametrize("zero", [np.uint8(0), np.uint8(128)])
def test_unsigned_activations_are_refused(tmp_path: Path, zero: np.uint8) -> None:
    """With a zero point of 0 TensorRT builds a plan that cuts off all above 127."""
    model = quantized(tmp_path / "m.onnx", zero)
    with pytest.raises(BuildError, match=r"m quantizes to unsigned integers \('quantize'\).*target 'tensorrt'"):
        build_engine(model, "tensorrt")

    assert "unsigned" in refused(model)


def test_zero_points_other_than_zero_are_refused(tmp_path: Path) -> None:
    model = quantized(tmp_path / "m.onnx", np.int8(3))
    with pytest.raises(BuildError, match=r"QuantizeLinear 'quantize' \(Non-zero zero point is not supported"):
        build_engine(model, "tensorrt")

    assert "Zero points are not zero ('quantize', 'dequantize')" in refused(model)


def test_unknown_operators_are_refused_before_the_build_too(tmp_path: Path) -> None:
    nodes = [node("Foo", "x", "f", domain="custom"), node("Det", "f", "y")]
    told = refused(write(tmp_path / "m.onnx", nodes, {"x": [4, 4]}))

    assert "has no operator 'custom:Foo', 'Det'" in told


@pytest.mark.parametrize("content", [b"", b"no model any more"])
def test_what_is_no_model_any_more_is_refused(tiny: Model, content: bytes) -> None:
    """TensorRT's parser takes both for a model without layers."""
    tiny.path.write_bytes(content)
    with pytest.raises(ModelError, match="tiny"):
        build_engine(tiny, "tensorrt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "finds nothing to run in tiny"), (b"no model any more", "cannot parse tiny: the file")],
)
def test_what_becomes_no_model_while_it_waits_is_refused_by_the_build(
    tiny: Model, tmp_path: Path, content: bytes, reason: str
) -> None:
    tiny.path.write_bytes(content)
    with pytest.raises(BuildError, match=reason):
        build_here(tiny, tmp_path, targets=("SM89",))
    assert not (tmp_path / "model.plan").exists()


def test_a_shape_as_input_is_refused(tmp_path: Path) -> None:
    nodes = [node("Reshape", "x shape", "r"), node("Relu", "r", "y")]
    model = write(tmp_path / "m.onnx", nodes, {"x": ["batch", 16], "shape": [2]}, shape=TensorProto.INT64)
    with pytest.raises(BuildError, match="m takes a shape, 'shape', as an input"):
        build_engine(model, "tensorrt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["SM90"]}, r"targets.*not one of its values: 'SM90'"),
        ({"optimization_level": 5}, "TensorRT-RTX .* has no use for the option 'optimization_level'"),
        ({"hardware_compatibility": "ampere_plus"}, "has no use for the option 'hardware_compatibility'"),
        ({"weight_budget_mb": 100}, "'weight_budget_mb' is given, but no weights are streamed"),
        ({"workspace_mb": 0}, "cannot take workspace_mb = 0"),
    ],
)
def test_options_that_do_nothing_here_are_refused(tiny: Model, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        build_engine(tiny, "tensorrt", options)


def test_a_package_that_is_not_here_is_refused(tiny: Model) -> None:
    if plugin.find_spec("tensorrt"):
        pytest.skip("it is here")
    with pytest.raises(MissingDependencyError, match=r"needs tensorrt, which .* lacks.*deployment-workbench\[gpu\]"):
        build_engine(tiny, "tensorrt", {"package": "tensorrt"})


def test_a_workspace_too_small_is_named(digits: Model, default_workspace: Path) -> None:
    with pytest.raises(BuildError, match=r"a workspace of 1 MB is too small .*Raise 'workspace_mb'") as caught:
        build_engine(digits, "tensorrt", {"targets": ["SM89"], "workspace_mb": 1})

    assert "no tactics" in caught.value.details
    assert kept(default_workspace) == []
    assert build_engine(digits, "tensorrt", {"targets": ["SM89"], "workspace_mb": 1000}).path.is_file()


@without_gpu
def test_a_refittable_plan_takes_a_gpu(digits: Model) -> None:
    with pytest.raises(BuildError, match="a refittable plan takes a GPU to build, and there is none here"):
        build_engine(digits, "tensorrt", {"targets": ["SM89"], "refittable": True})

    assert "takes a GPU to build" in refused(digits, refittable=True)


def test_a_cancel_leaves_nothing(digits: Model, default_workspace: Path) -> None:
    def cancel(share: float, text: str) -> None:
        if text.startswith("building for"):
            raise Cancelled()

    with pytest.raises(Cancelled):
        build_engine(digits, "tensorrt", {"targets": ["SM89"]}, progress=cancel)

    assert kept(default_workspace) == []
    assert build_engine(digits, "tensorrt", {"targets": ["SM89"]}).path.is_file()


def test_a_build_that_the_system_ends_leaves_the_cache_intact(digits: Model, default_workspace: Path) -> None:
    before = build_engine(digits, "tensorrt", {"targets": ["SM80"]})

    killed: list[int] = []

    def kill(share: float, text: str) -> None:
        for child in psutil.Process().children() if text and not killed else ():
            if any("workbench.jobs" in word for word in child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)
                killed.append(child.pid)

    with pytest.raises(WorkerError, match="ended by the system, most likely because memory ran out"):
        build_engine(digits, "tensorrt", {"targets": ["SM89"]}, progress=kill)

    check_file(before)
    assert kept(default_workspace) == [before.path.parent]
    assert build_engine(digits, "tensorrt", {"targets": ["SM89"]}).path.is_file()


def in_threads(model: Model) -> list[int]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: count_lines(model, jobs.silent), range(2)))


def in_processes(model: Model) -> list[int]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: jobs.run(count_lines, model, progress=jobs.silent), range(2)))


@pytest.mark.parametrize("way", [in_threads, in_processes])
def test_two_builds_at_once_are_one(tiny: Model, default_workspace: Path, way: Callable[[Model], list[int]]) -> None:
    counts = sorted(way(tiny))

    assert counts[0] == 0 < counts[1]
    assert len(kept(default_workspace)) == 1


def test_packed_weights_need_float16(tmp_path: Path) -> None:
    tensors = {
        "packed": np.zeros((8, 2, 16), np.uint8),
        "scales": np.ones(16, np.float32),
    }
    nodes = [node("MatMulNBits", "x packed scales", "y", domain="com.microsoft", K=64, N=8, bits=4, block_size=32)]
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [4, 64]), ("y", [4, 8]))]
    weights = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    model = load_model(tmp_path / "m.onnx")
    with pytest.raises(BuildError, match=r"MatMulNBits 'matmulnbits' \(input tensor A must be FP16\)"):
        build_engine(model, "tensorrt")

    assert "multiplies packed weights (MatMulNBits) with float16 only" in refused(model)
