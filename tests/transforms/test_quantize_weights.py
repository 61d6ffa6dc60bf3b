"""Weights in few bits: smaller files with nearly the same answers, in a form that the backend asked for runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.transforms.conftest import Apply, Run, Save
from workbench.backends import build_engine
from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.graph import summarize_graph
from workbench.model import Model
from workbench.transforms._blocks import pack_pairs, round_blocks


@pytest.mark.parametrize(("bits", "share", "decibels"), [("8", 0.31, 40), ("4", 0.19, 18)])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("form", ["operator", "qdq"])
def test_a_small_file_answers_alike(
    transformer: Model,
    noise: Dataset,
    apply: Apply,
    sqnr: Callable[..., float],
    bits: str,
    share: float,
    decibels: float,
    symmetric: bool,
    form: str,
) -> None:
    small = apply(transformer, "quantize_weights", {"bits": bits, "form": form, "symmetric": symmetric})

    assert small.size_bytes < share * transformer.size_bytes + 5000  # the graph itself
    assert (small.inputs, small.outputs) == (transformer.inputs, transformer.outputs)
    for backend in ("onnxruntime", "openvino"):
        assert sqnr(transformer, small, noise, backend) > decibels


def test_small_blocks_are_more_exact(
    transformer: Model, noise: Dataset, apply: Apply, sqnr: Callable[..., float]
) -> None:
    coarse, fine = (apply(transformer, "quantize_weights", {"bits": "4", "block_size": size}) for size in ("64", "16"))
    assert sqnr(transformer, fine, noise) > sqnr(transformer, coarse, noise) + 1
    assert fine.size_bytes > coarse.size_bytes


def test_activations_are_rounded_as_well_unless_it_is_asked_otherwise(
    transformer: Model, noise: Dataset, apply: Apply, sqnr: Callable[..., float]
) -> None:
    fast, exact = (apply(transformer, "quantize_weights", {"arithmetic": kind}) for kind in ("int8", "float32"))

    assert sqnr(transformer, exact, noise) > sqnr(transformer, fast, noise) + 1


def test_tensorrt_builds_the_form_of_onnx(transformer: Model, apply: Apply) -> None:
    pytest.importorskip("tensorrt_rtx")
    small = apply(transformer, "quantize_weights", {"bits": "4", "form": "qdq"})

    assert build_engine(small, "tensorrt").path.is_file()


def test_nodes_that_should_stay_in_float(transformer: Model, apply: Apply) -> None:
    kept = apply(transformer, "quantize_weights", {"keep_float": ["wide", "o"]})

    assert summarize_graph(kept).operators["com.microsoft:MatMulNBits"] == 4
    with pytest.raises(TransformError, match=r"no node named 'wid' to keep in float.*Did you mean 'wide'"):
        apply(transformer, "quantize_weights", {"keep_float": ["wid"]})


@pytest.mark.parametrize("form", ["operator", "qdq"])
@pytest.mark.parametrize("turned", [0, 1])
def test_a_gemm_keeps_its_factors_and_its_bias(save: Save, run: Run, apply: Apply, form: str, turned: int) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((64, 32), np.float32)
    constants = {"w": weight.T.copy() if turned else weight, "b": random.standard_normal(32, np.float32)}
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product", alpha=0.5, beta=3.0, transB=turned)
    model = save([node], {"x": ["batch", 64]}, {"y": ["batch", 32]}, constants)
    dataset = Dataset({"x": random.standard_normal((4, 64), np.float32)})
    small = apply(model, "quantize_weights", {"form": form})

    np.testing.assert_allclose(run(small, dataset), run(model, dataset), atol=0.15)


def test_convolutions_where_they_are_asked_for(
    digits: Model, evaluation: Dataset, apply: Apply, sqnr: Callable[..., float]
) -> None:
    small = apply(digits, "quantize_weights", {"convolutions": True})
    plain = apply(digits, "quantize_weights")

    assert small.size_bytes < 0.3 * digits.size_bytes < plain.size_bytes
    for backend in ("onnxruntime", "openvino"):
        assert sqnr(digits, small, evaluation.take(16), backend) > 30


def test_rows_of_an_embedding(save: Save, run: Run, apply: Apply) -> None:
    table = np.random.default_rng(0).standard_normal((100, 48), np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["rows"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["table", "rows"], ["y"], name="look up"),
    ]
    model = save(nodes, {"x": ["batch", 3]}, {"y": ["batch", 3, 48]}, {"table": table})
    dataset = Dataset({"x": np.array([[0, 7, 99], [5, 5, 1]], np.float32)})
    small = apply(model, "quantize_weights", {"embeddings": True})

    assert small.size_bytes < 0.35 * model.size_bytes
    for backend in ("onnxruntime", "openvino"):
        np.testing.assert_allclose(run(small, dataset, backend), run(model, dataset), atol=0.02)


def test_what_does_not_fit_is_told(save: Save, apply: Apply) -> None:
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "odd"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "even"], ["y"], name="second"),
    ]
    constants = {"odd": random.random((50, 64), np.float32), "even": random.random((64, 32), np.float32)}
    model = save(nodes, {"x": ["batch", 50]}, {"y": ["batch", 32]}, constants)
    [step] = apply(model, "quantize_weights", {"form": "qdq"}).history
    [other] = apply(model, "quantize_weights").history

    assert step.notes == ("In float, as it would be no smaller or no block fits: first.",)
    assert other.notes == ()  # MatMulNBits takes a rest


def test_nothing_to_make_smaller(tiny: Model, apply: Apply) -> None:
    with pytest.raises(TransformError, match=r"tiny has nothing that weight-only quantization makes smaller"):
        apply(tiny, "quantize_weights")


def test_a_quantized_model_is_refused(transformer: Model, apply: Apply) -> None:
    small = apply(transformer, "quantize_weights")
    with pytest.raises(TransformError, match=r"block is quantized already: it has MatMulNBits.*Start from the float"):
        apply(small, "quantize_weights", {"bits": "4"})


def test_no_weight_moves_further_than_half_a_step() -> None:
    matrix = np.random.default_rng(0).standard_normal((40, 8), np.float32)
    for symmetric, negative in ((True, True), (True, False), (False, False)):
        blocks = round_blocks(matrix, 4, 16, symmetric=symmetric, negative=negative)
        values = (blocks.steps - blocks.zero.astype(np.float32)[:, None]) * blocks.scale[:, None]
        steps = np.repeat(np.abs(blocks.scale), 16, axis=0)[:40]
        error = np.abs(values.reshape(48, 8)[:40] - matrix)

        # With one more step below 0 than above, what lies opposite of the largest weight may be cut.
        assert (error <= (1 if negative else 0.5) * steps + 1e-6).all()


def test_two_numbers_share_a_byte() -> None:
    assert pack_pairs(np.array([[1, 2, 3]], np.uint8)).tolist() == [[0x21, 0x03]]
