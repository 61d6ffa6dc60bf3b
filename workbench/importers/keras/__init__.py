"""Keras models (.keras, .h5)."""

from __future__ import annotations

import tempfile
import traceback
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.dataset import Dataset
from workbench.errors import ConversionError, ModelError
from workbench.importers._source import Source
from workbench.importers._tensorflow.source import (
    FunctionSource,
    TensorFlowOptions,
    own_inputs,
    start_tensorflow,
    unique_names,
)
from workbench.importers._tensorflow.words import reason_of
from workbench.importers.keras.config import check_config, check_legacy_names, read_config

SUFFIXES = (".keras", ".h5", ".hdf5")
REQUIRES = {"tensorflow": "tensorflow", "tf2onnx": "tensorflow"}


@dataclass(frozen=True)
class Options(TensorFlowOptions):
    """How to read the model."""


def open_source(path: Path, options: Options, samples: Dataset | None, trust: bool) -> Source:
    """Opens a model after its config was checked; nothing that it brings along runs unless it is trusted."""
    config = read_config(path)
    check_config(path, config, trust)
    tf = start_tensorflow()
    import keras

    check_legacy_names(path, config)
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model.{'keras' if zipfile.is_zipfile(path) else 'h5'}"  # Keras goes by the suffix
        link.symlink_to(path)
        try:
            model = keras.saving.load_model(link, compile=False, safe_mode=not trust)
        except Exception as error:  # whatever the layers raise
            raise ConversionError(
                f"Keras {keras.__version__} cannot rebuild {path}: {reason_of(error)}.",
                "If the file is whole, save it where it still loads: as .keras, or as a SavedModel with "
                "model.export(folder).",
                traceback.format_exc(),
            ) from None
    if not model.inputs:
        _build(path, model, samples)
    specs = [tf.TensorSpec(value.shape, value.dtype) for value in model.inputs]

    def call(tensors: Any) -> list[Any]:
        structure = getattr(model, "_inputs_struct", None)
        given = keras.tree.pack_sequence_as(structure, tensors) if structure is not None else tensors[0]
        return list(keras.tree.flatten(model(given, training=False)))

    function = tf.function(lambda *tensors: call(tensors), input_signature=specs).get_concrete_function()
    names = unique_names([*(value.name for value in model.inputs), *_output_names(model, len(function.outputs))])
    inputs = dict(zip(names[: len(specs)], own_inputs(function), strict=True))
    outputs = dict(zip(names[len(specs) :], function.outputs, strict=True))

    def run(feed: Any) -> list[Any]:
        return [keras.ops.convert_to_numpy(value) for value in call([tf.constant(feed[name]) for name in inputs])]

    framework = f"Keras {keras.__version__}"
    return FunctionSource(str(path), framework, function, model, inputs, outputs, run, options, samples)


def _build(path: Path, model: Any, samples: Dataset | None) -> None:
    """Lets a model without a shape see the user's samples once."""
    if samples is None or len(samples.inputs) != 1:
        raise ModelError(
            f"{path} does not say what shape its input has.",
            "Give samples, or save it again after it was called once or built with model.build(shape).",
        )
    [array] = samples.inputs.values()
    model(array[:1], training=False)


def _output_names(model: Any, count: int) -> list[str]:
    """Names of the layers that give the outputs."""
    names = getattr(model, "output_names", None) or [model.layers[-1].name if model.layers else "output"]
    return list(names) if len(names) == count else [f"output_{index}" for index in range(count)]
