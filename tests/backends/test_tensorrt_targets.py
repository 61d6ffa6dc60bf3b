"""TensorRT-RTX: each precision for each target, built for real; what is said before the build is what happens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.backends.tensorrt_models import build_here, is_product, node, quantized, write
from workbench.backends import build_engine, check_build
from workbench.backends._tensorrt_options import Target
from workbench.dataset import Dataset
from workbench.errors import BuildError
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.transforms import transform
from workbench.workspace import Workspace

pytest.importorskip("tensorrt_rtx")
TARGETS: tuple[str, ...] = get_args(Target)
TRANSFORMS: dict[str, dict[str, Any] | None] = {
    "float32": None,
    "float16": {},
    "bfloat16": {},
    "quantize_static": {"target": "tensorrt"},
    "quantize_fp8": {},
}
# Precision of the nine products of the digits net: all, but one convolution that is depthwise.
PRECISION = {
    "float32": ("float32", 9),
    "float16": ("float16", 9),
    "bfloat16": ("bfloat16", 9),
    "quantize_static": ("int8", 9),
    "quantize_fp8": ("float8", 8),
}
# Why the others are refused: float32 and INT8 for the matrix product at the end, which Turing has in float16 only.
REFUSED = {
    ("float32", "SM75"): "FP32 GEMM",
    ("quantize_static", "SM75"): "FP32 GEMM",
    ("bfloat16", "SM75"): "b16",
    **{("quantize_fp8", target): "fp8_e4m3" for target in ("SM75", "SM80", "SM86")},
}


@pytest.fixture(scope="module", params=TRANSFORMS)
def made(
    request: pytest.FixtureRequest, digits: Model, calibration: Dataset, shared_workspace: Workspace
) -> tuple[str, Model]:
    """The digits net in each precision, by the transform that makes it."""
    name, options = request.param, TRANSFORMS[request.param]
    if options is None:
        return name, digits
    return name, transform(digits, name, options, dataset=calibration, workspace=shared_workspace)


@pytest.mark.parametrize("target", TARGETS)
def test_a_plan_is_built_or_refused_as_was_said(made: tuple[str, Model], tmp_path: Path, target: str) -> None:
    name, model = made
    refused = [check for check in check_build(model, "tensorrt", {"targets": [target]}) if check.verdict == "refused"]

    if (name, target) in REFUSED:
        assert refused
        assert all(target in check.what and check.remedy for check in refused)
        with pytest.raises(BuildError, match=f"cannot build digits_cnn for {target}: .*{REFUSED[name, target]}"):
            build_engine(model, "tensorrt", {"targets": [target]})
        return
    assert refused == []
    layers = build_here(model, tmp_path, targets=(target,)).layers.layers
    precision, count = PRECISION[name]
    assert Counter(layer.precision for layer in layers if is_product(layer))[precision] == count


def test_a_build_that_failed_does_not_spoil_the_next(
    digits: Model, calibration: Dataset, shared_workspace: Workspace
) -> None:
    """In one process it does: after a failure for SM75, TensorRT-RTX 1.7.1 makes 8 of the 9 products float."""
    options = TRANSFORMS["quantize_static"]
    model = transform(digits, "quantize_static", options, dataset=calibration, workspace=shared_workspace)
    with pytest.raises(BuildError, match="FP32 GEMM"):
        build_engine(model, "tensorrt", {"targets": ["SM75"]})

    layers = (
        find_plugin("backends", "tensorrt").optimized(build_engine(model, "tensorrt", {"targets": ["SM80"]})).layers
    )
    assert {layer.precision for layer in layers if is_product(layer)} == {"int8"}


def test_all_targets_of_a_plan_must_have_what_it_needs(
    digits: Model, calibration: Dataset, shared_workspace: Workspace
) -> None:
    model = transform(
        digits, "quantize_fp8", TRANSFORMS["quantize_fp8"], dataset=calibration, workspace=shared_workspace
    )
    told = [check.what for check in check_build(model, "tensorrt", {"targets": ["SM80", "SM89", "SM86"]})]

    assert "SM80 and SM86 has no FP8, which the model uses." in told
    assert "digits_cnn computes in FP8 in 7 convolutions and 1 matrix product; float32 in 1 convolution." in told
    with pytest.raises(BuildError, match=r"for SM80\+SM89\+SM86: .*fp8_e4m3"):
        build_engine(model, "tensorrt", {"targets": ["SM80", "SM89", "SM86"]})


def transposed(path: Path, dtype: int) -> Model:
    weight = helper.make_tensor("w", dtype, (16, 16, 3, 3), np.ones(16 * 16 * 9))
    return write(path, [node("ConvTranspose", "x w", "y", "up")], {"x": [1, 16, 8, 8]}, {"w": weight}, dtype=dtype)


def cube(path: Path, dtype: int) -> Model:
    weight = helper.make_tensor("w", dtype, (16, 16, 3, 3, 3), np.ones(16 * 16 * 27))
    return write(path, [node("Conv", "x w", "y", "cube")], {"x": [1, 16, 4, 4, 4]}, {"w": weight}, dtype=dtype)


def four_bits(path: Path, dtype: int) -> Model:
    """A matrix product with packed weights, one scale per 32."""
    weight = helper.make_tensor("w", dtype, (64, 32), np.ones(64 * 32))
    nodes = [
        node("DequantizeLinear", "w s", "wd", "unpack", axis=0, block_size=32),
        node("MatMul", "x wd", "y", "product"),
    ]
    scales, opset = np.ones((2, 32), np.float16), 23 if dtype == TensorProto.FLOAT4E2M1 else 21
    return write(path, nodes, {"x": [4, 64]}, {"w": weight, "s": scales}, dtype=TensorProto.FLOAT16, opset=opset)


@pytest.mark.parametrize(
    ("make", "dtype", "target", "reason"),
    [
        (transposed, TensorProto.BFLOAT16, "SM120", "no transposed convolutions in BF16 ('up')"),
        (transposed, TensorProto.FLOAT16, "SM75", ""),
        (cube, TensorProto.FLOAT, "SM75", "no 3D convolutions in float32"),
        (cube, TensorProto.FLOAT16, "SM75", ""),
        (cube, TensorProto.FLOAT, "SM80", ""),
        (four_bits, TensorProto.INT4, "SM75", "SM75 has no INT4"),
        (four_bits, TensorProto.INT4, "SM80", ""),
    ],
)
def test_what_else_a_target_lacks(tmp_path: Path, make: Any, dtype: int, target: str, reason: str) -> None:
    model = make(tmp_path / "m.onnx", dtype)
    checks = check_build(model, "tensorrt", {"targets": [target]})
    refused = " ".join(check.what for check in checks if check.verdict == "refused")

    if reason:
        assert reason in refused
        with pytest.raises(BuildError, match=f"cannot build m for {target}"):
            build_engine(model, "tensorrt", {"targets": [target]})
    else:
        assert refused == ""
        assert build_here(model, tmp_path, targets=(target,)).layers.layers


def test_turing_computes_quantized_convolutions_in_float(tmp_path: Path) -> None:
    model = quantized(tmp_path / "m.onnx", np.int8(0))
    for target, precision in (("SM75", "float32"), ("SM80", "int8")):
        doubts = [check.what for check in check_build(model, "tensorrt", {"targets": [target]})]
        layers = build_here(model, tmp_path, targets=(target,)).layers.layers
        [conv] = [layer for layer in layers if layer.operator == "correlation" or layer.operator.startswith("Corr")]

        assert conv.precision == precision
        assert any("computes convolutions between Q/DQ nodes in float ('conv')" in what for what in doubts) == (
            target == "SM75"
        )
