"""Runs onnx2tf on an ONNX file made for it; started in a process of its own, it imports nothing of the workbench."""

import importlib
import json
import keyword
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


def convert(
    model: str,
    inputs: list[str],
    target: str,
    folder: str,
    quantize: str = "none",
    signature: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Converts; inputs and outputs keep their order, element types and layout.

    Args:
        model: The ONNX file, simplified; onnx2tf writes into it.
        inputs: Names of its inputs.
        target: The .tflite file to write, or the folder of a SavedModel.
        folder: Where to work.
        quantize: Of a .tflite file: `none`, `float16` or `dynamic`.
        signature: Of a SavedModel, which is written if it is given: `inputs` of the original in order, each with its
            `name`, `dtype`, `shape` (None for any size) and `reads`, what it is called in the file, empty where nothing
            reads it; its `outputs`, each with `name` and `dtype`; and `known`, an .npz file with answers
            of the original: for each of some `kinds` arrays `KIND_input_0` and so on, and `KIND_output_0` and so on.

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
        disable_model_save=True,  # its SavedModel holds every weight as text: 148 s of 155 for a ResNet-50
        verbosity="info",
    )
    converted = time.monotonic()
    if len(net.inputs) != len(inputs):
        raise ValueError(f"it made {len(net.inputs)} inputs of {len(inputs)}")
    phases = {"start": started - begun, "onnx2tf": converted - started}
    if signature is not None:
        _save(np, tf, net, signature, Path(target))
        return {"phases": {**phases, "save": time.monotonic() - converted}}
    specs = [tf.TensorSpec(entry.shape, entry.dtype, entry.name) for entry in net.inputs]
    function = tf.function(lambda *values: net(list(values) if len(values) > 1 else values[0]), input_signature=specs)
    writer = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    writer.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]  # LiteRT alone cannot run TensorFlow's own
    if quantize != "none":
        writer.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        writer.target_spec.supported_types = [tf.float16]
    Path(target).write_bytes(writer.convert())
    return {"phases": {**phases, "tflite": time.monotonic() - converted}}


def _save(np: Any, tf: Any, net: Any, signature: dict[str, Any], target: Path) -> None:
    """Writes a SavedModel whose inputs and outputs are called and shaped as the signature says."""
    asked, outputs = signature["inputs"], signature["outputs"]
    if len(net.outputs) != len(outputs):
        raise ValueError(f"it made {len(net.outputs)} outputs of {len(outputs)}")
    # A function's parameters cannot have every name that a signature's inputs can.
    usual = all(entry["name"].isidentifier() and not keyword.iskeyword(entry["name"]) for entry in asked)
    plain = {entry["name"] if usual else f"input_{place}": entry for place, entry in enumerate(asked)}

    def ask(tensors: dict[str, Any]) -> list[Any]:
        read = {entry["reads"]: tensors[name] for name, entry in plain.items()}
        values = [_fitting(tf, read[tensor.name], tensor) for tensor in net.inputs]
        answers = net(values if len(values) > 1 else values[0])
        return list(answers) if len(outputs) > 1 else [answers]

    turned = [0.0] * len(outputs)  # by how much an output is nearer with its channels moved
    with np.load(signature["known"]) as known:
        for kind in signature["kinds"]:
            answers = ask({name: tf.constant(known[f"{kind}_input_{place}"]) for place, name in enumerate(plain)})
            for place, answer in enumerate(answers):
                turned[place] += _nearer_turned(np, answer.numpy(), known[f"{kind}_output_{place}"])

    def call(**tensors: Any) -> dict[str, Any]:
        found = {}
        for entry, answer, nearer in zip(outputs, ask(tensors), turned, strict=True):
            placed = tf.transpose(answer, _turn(answer.shape.rank)) if nearer > 0 else answer
            found[entry["name"]] = tf.cast(placed, entry["dtype"])
        return found

    specs = {name: tf.TensorSpec(entry["shape"], entry["dtype"], name) for name, entry in plain.items()}
    function = tf.function(call, autograph=False).get_concrete_function(**specs)
    module = tf.Module()
    module.weights = list(function.graph.variables)  # few, since it makes constants of most; saved if reached from here
    tf.saved_model.save(module, str(target), signatures={"serving_default": function})
    if not usual:
        _rename_inputs(target, {name: entry["name"] for name, entry in plain.items()})


def _fitting(tf: Any, value: Any, wanted: Any) -> Any:
    """An input as the net takes it: it computes in float32 what is float16, and has an axis where there is none."""
    value = tf.cast(value, wanted.dtype)
    if value.shape.rank == 0 and wanted.shape.rank == 1:
        return tf.reshape(value, [1])
    if not value.shape.is_subtype_of(wanted.shape):
        raise ValueError(f"it made {wanted.shape} of an input that takes {value.shape}")
    return value


def _turn(rank: int) -> tuple[int, ...]:
    """The order of the axes that moves channels from the last place, where onnx2tf leaves an image's, to the second."""
    return (0, rank - 1, *range(1, rank - 1))


def _nearer_turned(np: Any, found: Any, wanted: Any) -> float:
    """By how much an answer is nearer to the known one when its channels are moved; infinite where one shape fits."""
    if found.ndim < 3:
        return 0.0
    errors = [
        np.nan_to_num(np.abs(answer.astype(np.float64) - wanted)).max(initial=0.0)
        if answer.shape == wanted.shape
        else np.inf
        for answer in (found, found.transpose(_turn(found.ndim)))
    ]
    return float(errors[0] - errors[1]) if np.isfinite(min(errors)) else 0.0


def _rename_inputs(saved: Path, names: dict[str, str]) -> None:
    """Gives the inputs of the signature their own names."""
    pb2: Any = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2")
    file = saved / "saved_model.pb"
    proto = pb2.SavedModel.FromString(file.read_bytes())
    inputs = proto.meta_graphs[0].signature_def["serving_default"].inputs
    kept = {names[name]: tensor.SerializeToString() for name, tensor in inputs.items()}
    inputs.clear()
    for name, content in kept.items():
        inputs[name].ParseFromString(content)
    file.write_bytes(proto.SerializeToString())
    (saved / "fingerprint.pb").unlink(missing_ok=True)  # which is that of the file before; it may be left out


def _forbid_network() -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("a conversion reaches for no network")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.create_connection = refuse  # type: ignore[assignment]
    socket.getaddrinfo = refuse  # type: ignore[assignment]


if __name__ == "__main__":
    main(*sys.argv[1:])
