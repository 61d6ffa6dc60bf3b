"""TensorFlow Lite models become ONNX, quantized ones too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from workbench.backends import build_engine, open_runner
from workbench.engine import random_feed
from workbench.importers import load_model
from workbench.transforms import transform
from workbench.workspace import Workspace


def test_a_quantized_model_becomes_a_checked_model(tensorflow_files: Path, shared_workspace: Workspace) -> None:
    model = load_model(tensorflow_files / "int8.tflite", workspace=shared_workspace)
    operators = {node.op_type for node in onnx.load(model.path).graph.node}

    assert [str(spec) for spec in model.inputs] == ["image int8[batch, 16, 16, 3]"]
    assert [str(spec) for spec in model.outputs] == ["output_0 int8[batch, 5]"]
    assert operators >= {"QuantizeLinear", "DequantizeLinear"}
    assert model.conversion
    assert model.conversion.framework.startswith("TensorFlow Lite 2.")
    assert model.conversion.checks[0].max_abs_error <= 2  # rounding steps
    assert model.conversion.checks[0].range > 50  # the inputs used the whole range of int8
    assert "'image' is int8: its value is 0.0039" in model.conversion.notes[0]


def test_float_and_half_models(tensorflow_answers: Mapping[str, Any]) -> None:
    plain, turned = tensorflow_answers["float lite"], tensorflow_answers["half lite"]

    assert [str(spec) for spec in plain.model.inputs] == ["image float32[batch, 16, 16, 3]"]
    assert [str(spec) for spec in turned.model.inputs] == ["image float32[batch, 3, 16, 16]"]
    assert plain.conversion.checks[0].max_abs_error < 1e-5
    assert turned.conversion.checks[0].max_abs_error < 1e-5


def test_a_wrong_conversion_is_traced_to_its_node(tensorflow_answers: Mapping[str, Any]) -> None:
    assert "The first node that differs is 'functional_1/second_1/" in tensorflow_answers["tampered lite"].error.message


def test_operators_of_others_are_named(tensorflow_answers: Mapping[str, Any]) -> None:
    error = tensorflow_answers["custom lite"].error

    assert "neither TensorFlow Lite nor ONNX has: Cholesky" in error.message
    assert "Import the model that it was converted from" in error.remedy


def test_operators_of_tensorflow_inside_do_not_reach_out(tensorflow_answers: Mapping[str, Any]) -> None:
    assert "outside the model: WriteFile" in tensorflow_answers["flex lite"].error.message
    assert not tensorflow_answers["flex lite"].harmed


def test_the_file_itself_is_kept_for_litert(tensorflow_files: Path, shared_workspace: Workspace) -> None:
    """It survives the workspace's cache; a transform leaves it behind, as it then is another model."""
    first, again = (load_model(tensorflow_files / "int8.tflite", workspace=shared_workspace) for _ in range(2))
    feed = random_feed(again, 2)
    with open_runner(build_engine(again, "litert")) as runner, open_runner(build_engine(again)) as reference:
        ours, theirs = (np.asarray(entry.infer(feed)["output_0"], np.int16) for entry in (runner, reference))

    assert first.original == again.original
    assert again.original
    assert again.original.read_bytes() == (tensorflow_files / "int8.tflite").read_bytes()
    assert np.abs(ours - theirs).max() <= 2  # rounding steps
    assert transform(again, "upgrade_opset").original is None
