"""Runs onnx2tf on an ONNX file made for it; started in a process of its own, it imports nothing of the workbench."""

import importlib
import json
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def main(request_file: str, result_file: str) -> None:
    """Writes the .tflite file that the request names, and what came of it."""
    request = json.loads(Path(request_file).read_text())
    _forbid_network()
    try:
        result = convert(**request)
    except BaseException as error:  # onnx2tf ends the process by SystemExit where it gives up
        traceback.print_exc()
        kind = "" if isinstance(error, SystemExit) else type(error).__name__
        result = {"problem": str(error), "kind": kind}
    Path(result_file).write_text(json.dumps(result))


def convert(model: str, inputs: list[str], target: str, quantize: str, folder: str) -> dict[str, Any]:
    """Converts; inputs and outputs keep their order, element types and layout.

    Args:
        model: The ONNX file, simplified; onnx2tf writes into it.
        inputs: Names of its inputs.
        target: The .tflite file to write.
        quantize: `none`, `float16` or `dynamic`.
        folder: Where to work.

    Returns:
        Seconds of each phase.
    """
    begun = time.monotonic()
    import numpy as np
    import tensorflow as tf

    module: Any = importlib.import_module("onnx2tf.onnx2tf")
    # It fetches pictures for models that take some; noise does to look at how the channels lie.
    module.download_test_image_data = lambda: np.random.default_rng(0).random((20, 128, 128, 3), np.float32)
    started = time.monotonic()
    net = module.convert(
        input_onnx_file_path=model,
        output_folder_path=str(Path(folder) / "saved"),
        keep_shape_absolutely_input_names=inputs,
        not_use_onnxsim=True,
        disable_model_save=True,  # a SavedModel holds every weight as text: 148 s of 155 for a ResNet-50
        verbosity="info",
    )
    converted = time.monotonic()
    if len(net.inputs) != len(inputs):
        raise ValueError(f"it made {len(net.inputs)} inputs of {len(inputs)}")
    specs = [tf.TensorSpec(entry.shape, entry.dtype, entry.name) for entry in net.inputs]
    function = tf.function(lambda *values: net(list(values) if len(values) > 1 else values[0]), input_signature=specs)
    writer = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    writer.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]  # LiteRT alone cannot run TensorFlow's own
    if quantize != "none":
        writer.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        writer.target_spec.supported_types = [tf.float16]
    Path(target).write_bytes(writer.convert())
    ended = time.monotonic()
    return {"phases": {"start": started - begun, "onnx2tf": converted - started, "tflite": ended - converted}}


def _forbid_network() -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("a conversion reaches for no network")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.create_connection = refuse  # type: ignore[assignment]
    socket.getaddrinfo = refuse  # type: ignore[assignment]


if __name__ == "__main__":
    main(*sys.argv[1:])
