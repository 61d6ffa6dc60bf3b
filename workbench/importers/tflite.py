"""TensorFlow Lite / LiteRT models (.tflite)."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.errors import ModelError
from workbench.importers._source import Source
from workbench.importers._tensorflow.convert import Images, convert, inner_layouts, make_samples, save, to_trained
from workbench.importers._tensorflow.safety import check_op
from workbench.importers._tensorflow.source import TensorFlowOptions, start_tensorflow, unique_names
from workbench.importers._tensorflow.words import listed
from workbench.jobs import Progress

SUFFIXES = (".tflite",)
REQUIRES = {"tensorflow": "tensorflow", "tf2onnx": "tensorflow"}
KEEPS_ORIGINAL = True  # LiteRT runs it as it is

_KNOWN_CUSTOM = {"TFLite_Detection_PostProcess"}  # the interpreter and tf2onnx both have it


@dataclass(frozen=True)
class Options(TensorFlowOptions):
    """How to read the model."""


def open_source(path: Path, options: Options, samples: Dataset | None, trust: bool) -> Source:
    """Opens a model in TensorFlow's interpreter after its operators were checked."""
    with path.open("rb") as stream:
        start = stream.read(8)
    if start[4:] != b"TFL3":
        reason = "is empty (0 bytes)" if not start else "is not a TensorFlow Lite model"
        raise ModelError(f"{path} {reason}.", "Copy or convert it again, and compare sizes if it was copied.")
    tf = start_tensorflow()
    _check_operators(path, trust)
    return TFLiteSource(path, f"TensorFlow Lite {tf.__version__}", options, samples)


class TFLiteSource(Source):
    """A TensorFlow Lite model in its interpreter, on its plain kernels."""

    def __init__(self, path: Path, framework: str, options: Options, samples: Dataset | None) -> None:
        super().__init__(samples)
        self.framework = framework
        self._path, self._options, self._target = path, options, Path()
        interpreter = _interpreter(path)
        self._inputs, self._outputs = interpreter.get_input_details(), interpreter.get_output_details()
        details = interpreter.get_tensor_details()
        self.coarse = any(
            detail["dtype"] in (np.int8, np.uint8, np.int16) and len(detail["quantization_parameters"]["scales"])
            for detail in details
        )
        known = _signature_names(interpreter)
        tensors = [detail["name"] for detail in (*self._inputs, *self._outputs)]
        self._names = unique_names([known.get(name, _plain(name)) for name in tensors])
        ranks = [len(detail["shape_signature"]) for detail in (*self._inputs, *self._outputs)]
        images = [name for name, rank in zip(self._names, ranks, strict=True) if rank == 4]
        count = len(self._inputs)
        self._images = Images(
            tuple(name for name in images if name in self._names[:count]),
            tuple(name for name in images if name in self._names[count:]),
        )
        self._shapes = {
            detail["name"]: tuple(None if size < 0 else int(size) for size in detail["shape_signature"])
            for detail in details
            if detail["name"] and detail["dtype"] in (np.float32, np.float16)
        }
        for name in _fused(path):  # tf2onnx gives their name to the value before the activation
            self._shapes.pop(name, None)
        for name, detail in zip(self._names, (*self._inputs, *self._outputs), strict=True):
            scale, zero = detail["quantization"]
            if scale:
                number = np.dtype(detail["dtype"]).name
                self.notes.append(f"'{name}' is {number}: its value is {scale:.6g} × (number − {zero}).")

    def write_onnx(self, target: Path, progress: Progress) -> None:
        """Converts the file; quantized tensors become Q/DQ nodes."""
        progress(0.2, "converting the operators")
        inputs = [detail["name"] for detail in self._inputs]
        outputs = [detail["name"] for detail in self._outputs]
        proto, storage = convert(
            str(self._path),
            None,
            names=dict(zip((*inputs, *outputs), self._names, strict=True)),
            inputs=inputs,
            outputs=outputs,
            opset=self._options.opset,
            images=self._turned(),
            shapes={
                name: [None if size < 0 else int(size) for size in detail["shape_signature"]]
                for name, detail in zip(self._names, (*self._inputs, *self._outputs), strict=True)
            },
            tflite=self._path,
        )
        self.notes += self._images.notes(self._options.nchw)
        save(proto, storage, target)
        self._target = target
        if self.samples is None:
            self.samples = make_samples(proto)

    def infer(self, feed: Tensors) -> Sequence[NDArray[Any]]:
        """Runs the interpreter, its inputs resized to the feed's shapes."""
        interpreter = self._run(feed, preserve=False)
        outputs = self._names[len(self._inputs) :]
        return [
            self._turned().as_asked(name, interpreter.get_tensor(detail["index"]))
            for name, detail in zip(outputs, self._outputs, strict=True)
        ]

    def value_names(self) -> Collection[str]:
        """Tensors that kept their name in ONNX."""
        return inner_layouts(self._target, self._shapes)

    def values(self, feed: Tensors, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Runs the interpreter with all its tensors kept."""
        interpreter = self._run(feed, preserve=True)
        index = {detail["name"]: detail["index"] for detail in interpreter.get_tensor_details()}
        layouts = inner_layouts(self._target, self._shapes)
        return {name: np.transpose(interpreter.get_tensor(index[name]), layouts[name]) for name in names}

    def _turned(self) -> Images:
        return self._images if self._options.nchw else Images((), ())

    def _run(self, feed: Tensors, *, preserve: bool) -> Any:
        interpreter = _interpreter(self._path, preserve=preserve)
        arrays = [to_trained(feed[name], name in self._turned().inputs) for name in self._names[: len(self._inputs)]]
        for detail, array in zip(self._inputs, arrays, strict=True):
            interpreter.resize_tensor_input(detail["index"], array.shape)
        interpreter.allocate_tensors()
        for detail, array in zip(self._inputs, arrays, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        return interpreter


def _interpreter(path: Path, *, preserve: bool = False) -> Any:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(
        str(path),
        experimental_preserve_all_tensors=preserve,
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return interpreter


def _signature_names(interpreter: Any) -> dict[str, str]:
    """Tensor → name in the signature of the main graph, where there is one."""
    main = {detail["name"] for detail in interpreter.get_input_details()}
    for key in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(key)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        if {detail["name"] for detail in inputs.values()} == main:
            return {detail["name"]: name for part in (inputs, outputs) for name, detail in part.items()}
    return {}


def _plain(tensor: str) -> str:
    return tensor.removesuffix(":0").removeprefix("serving_default_") or "value"


def _check_operators(path: Path, trust: bool) -> None:
    """Refuses operators that nobody here has, and those of TensorFlow that could reach beyond the graph."""
    from tf2onnx.tflite.Model import Model

    own = []
    try:
        model = Model.GetRootAsModel(bytearray(path.read_bytes()), 0)
        codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
        names = [code.CustomCode().decode() for code in codes if code.CustomCode()]
    # What flatbuffers raises on offsets that lead nowhere.
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError):
        raise ModelError(
            f"{path} is a damaged TensorFlow Lite model.", "Copy or convert it again, and compare sizes."
        ) from None
    for name in names:
        if name.startswith("Flex"):
            check_op(str(path), name.removeprefix("Flex"), trust)
        elif name not in _KNOWN_CUSTOM:
            own.append(name)
    if own:
        raise ModelError(
            f"{path} uses custom operators that neither TensorFlow Lite nor ONNX has: {listed(own)}.",
            "Import the model that it was converted from (SavedModel, Keras), or convert it without them.",
        )


def _fused(path: Path) -> list[str]:
    """Tensors that an operator writes after an activation of its own."""
    from tf2onnx import tflite_utils
    from tf2onnx.tflite.Model import Model

    main = Model.GetRootAsModel(bytearray(path.read_bytes()), 0).Subgraphs(0)
    found = []
    for operator in (main.Operators(index) for index in range(main.OperatorsLength())):
        kind = tflite_utils.get_options_class(tflite_utils.lookup_enum(operator.BuiltinOptionsType(), "BuiltinOptions"))
        if hasattr(kind, "FusedActivationFunction"):
            options = kind()
            options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
            if options.FusedActivationFunction():
                found += [main.Tensors(operator.Outputs(at)).Name().decode() for at in range(operator.OutputsLength())]
    return found
