"""Makes `tensorflow_models.py`'s files and converts many of them in one process: TensorFlow takes seconds to start.

python tests/importers/tensorflow_cases.py FOLDER ANSWERS
"""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from workbench.conversion import Conversion
from workbench.errors import WorkbenchError
from workbench.importers._source import Source
from workbench.importers._verify import verify
from workbench.jobs import silent
from workbench.model import Model, read_model
from workbench.options import make_options
from workbench.plugins import find_plugin

MARK = "harm-was-done"  # the file that every hostile model tries to write

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "h5": ("keras", "net.h5", {}),
    "h5 channels first": ("keras", "net.h5", {"nchw": True, "opset": 13}),
    "two": ("keras", "two.keras", {}),
    "two channels first": ("keras", "two.keras", {"nchw": True}),
    "text": ("keras", "text.keras", {}),
    "grouped": ("keras", "grouped.keras", {}),
    "mask": ("keras", "mask.keras", {}),
    "buckets": ("keras", "buckets.keras", {}),
    "custom.h5": ("keras", "custom.h5", {}),
    "trusted lambda": ("keras", "lambda.keras", {}),
    "saved channels first": ("tensorflow", "net", {"nchw": True}),
    "no weights": ("tensorflow", "weightless", {}),
    "both": ("tensorflow", "several", {"signature": "both"}),
    "look": ("tensorflow", "several", {"signature": "look"}),
    "no signature": ("tensorflow", "several", {}),
    "other signature": ("tensorflow", "several", {"signature": "bith"}),
    "other tags": ("tensorflow", "several", {"tags": "train"}),
    "first": ("tensorflow", "first", {}),
    "frozen": ("tensorflow", "frozen.pb", {}),
    "unclear": ("tensorflow", "unclear.pb", {}),
    "no axes": ("tensorflow", "unclear.pb", {"outputs": "half"}),
    "shape given": ("tensorflow", "unclear.pb", {"inputs": "x[-1,4]", "outputs": "half"}),
    "no such node": ("tensorflow", "unclear.pb", {"outputs": "hal"}),
    "unfrozen": ("tensorflow", "unfrozen.pb", {}),
    "reads": ("tensorflow", "reads.pb", {}),
    "writes": ("tensorflow", "writes", {}),
    "writes on load": ("tensorflow", "writes_on_load", {}),
    "float lite": ("tflite", "float.tflite", {}),
    "half lite": ("tflite", "half.tflite", {"nchw": True}),
    "custom lite": ("tflite", "custom.tflite", {}),
    "flex lite": ("tflite", "writes.tflite", {}),
}


@dataclass(frozen=True)
class Answer:
    """What came of one file."""

    model: Model | None = None
    conversion: Conversion | None = None
    error: WorkbenchError | None = None
    harmed: bool = False


def convert_all(folder: Path, answers: Path) -> None:
    from tensorflow_models import make_all  # beside this file; it takes TensorFlow along

    make_all(folder)
    found = {name: convert(name, folder, answers / name.replace(" ", "_")) for name in CASES}
    found["tampered"] = tampered("keras", folder / "net.keras", answers / "tampered")
    found["tampered lite"] = tampered("tflite", folder / "float.tflite", answers / "tampered_lite")
    (answers / "answers.pickle").write_bytes(pickle.dumps(found))


def convert(name: str, folder: Path, target: Path) -> Answer:
    importer, file, options = CASES[name]
    target.mkdir()
    try:
        source = opened(importer, folder / file, options, trust=name.startswith("trusted"))
        model = written(source, target / "model.onnx")
        answer = Answer(model, verify(source, model, 1e-3, silent))
    except WorkbenchError as error:
        answer = Answer(error=error)
    harmed = (folder / MARK).exists()
    (folder / MARK).unlink(missing_ok=True)
    return Answer(answer.model, answer.conversion, answer.error, harmed)


def tampered(importer: str, path: Path, target: Path) -> Answer:
    """A conversion that is wrong from the second convolution on."""
    target.mkdir()
    source = opened(importer, path, {})
    model = written(source, target / "model.onnx")
    proto = onnx.load(model.path)
    second = [node for node in proto.graph.node if node.op_type == "Conv"][1]
    [bias] = [tensor for tensor in proto.graph.initializer if tensor.name == second.input[1]]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * 2, bias.name))
    onnx.save(proto, model.path)
    try:
        return Answer(model, verify(source, model, 1e-3, silent))
    except WorkbenchError as error:
        return Answer(error=error)


def opened(importer: str, path: Path, options: dict[str, Any], trust: bool = False) -> Source:
    plugin = find_plugin("importers", importer)
    source: Source = plugin.open_source(path, make_options(plugin.Options, options, importer), None, trust)
    return source


def written(source: Source, path: Path) -> Model:
    source.write_onnx(path, silent)
    return read_model(path)


if __name__ == "__main__":
    import tensorflow_cases  # so that the answers can be read where this module has its name

    tensorflow_cases.convert_all(Path(sys.argv[1]), Path(sys.argv[2]))
