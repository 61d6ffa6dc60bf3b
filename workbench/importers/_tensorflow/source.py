"""TensorFlow functions on their way to ONNX: what Keras models, SavedModels and frozen graphs have in common."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.errors import ModelError
from workbench.importers._source import ConversionOptions, Source
from workbench.importers._tensorflow.convert import Images, convert, inner_layouts, make_samples, save, to_trained
from workbench.importers._tensorflow.operators import inline_compiled
from workbench.jobs import Progress
from workbench.options import option

OPSETS = (13, 18)  # the last that tf2onnx writes


@dataclass(frozen=True)
class TensorFlowOptions(ConversionOptions):
    """What every conversion through tf2onnx asks for."""

    opset: Annotated[
        int, option("Operator set of the ONNX model.", minimum=OPSETS[0], maximum=OPSETS[1], advanced=True)
    ] = OPSETS[1]
    nchw: Annotated[
        bool, option("Take and give images as channels, height, width; else as trained (channels last).")
    ] = False


def start_tensorflow() -> Any:
    """Imports TensorFlow quietly, on the CPU: results do not depend on a GPU, and its memory stays free."""
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow")
    import logging

    warnings.simplefilter("ignore")
    import tensorflow as tf

    tf.get_logger().setLevel(logging.CRITICAL)
    return tf


class FunctionSource(Source):
    """A concrete TensorFlow function with named inputs and outputs.

    Args:
        where: The file, for messages.
        framework: The framework with its version.
        function: The concrete function, its weights captured.
        trackable: What owns its variables and tables.
        inputs: ONNX name → tensor of the function, in order.
        outputs: ONNX name → tensor of the function, in order.
        run: Runs the original on a feed in the trained layout, by ONNX names; gives the outputs in order.
        options: What the user chose.
        samples: What the user gave to compare on.
    """

    def __init__(
        self,
        where: str,
        framework: str,
        function: Any,
        trackable: Any,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        run: Callable[[Tensors], Sequence[Any]],
        options: TensorFlowOptions,
        samples: Dataset | None,
    ) -> None:
        super().__init__(samples)
        self.framework = framework
        self._where, self._function, self._trackable, self._run = where, function, trackable, run
        self._inputs, self._outputs, self._options = inputs, outputs, options
        self._graph: Any = None
        self._target = Path()
        unknown = [name for name, tensor in inputs.items() if tensor.shape.rank is None]
        if unknown:
            raise ModelError(
                f"{where} does not say how many axes its input '{unknown[0]}' has.",
                "Give its shape with the option `inputs`, e.g. inputs='x[-1,224,224,3]', or save it with a signature.",
            )
        self._images = Images(
            tuple(name for name, tensor in inputs.items() if tensor.shape.rank == 4),
            tuple(name for name, tensor in outputs.items() if tensor.shape.rank == 4),
        )

    def write_onnx(self, target: Path, progress: Progress) -> None:
        """Freezes the variables into the graph, and converts that."""
        from tf2onnx import tf_loader

        inputs = [tensor.name for tensor in self._inputs.values()]
        outputs = [tensor.name for tensor in self._outputs.values()]
        named = {**self._inputs, **self._outputs}
        weights = sum(variable.shape.num_elements() * variable.dtype.size for variable in self._function.variables)
        large = weights > _LARGE
        progress(0.1, "putting the weights into the graph")
        captured = list(self._function._captured_inputs)  # tf2onnx takes tables out of the function for good
        self._graph, tables = tf_loader.from_trackable(self._trackable, self._function, inputs, outputs, large)
        self._function._captured_inputs = captured
        self._graph = inline_compiled(self._graph, inputs, outputs)
        if _channels_first(self._graph):
            self._images = Images((), ())
            self.notes.append("Images are channels first (NCHW), as trained.")
        progress(0.4, "converting the operators")
        proto, storage = convert(
            self._where,
            self._graph,
            names={tensor.name: name for name, tensor in named.items()},
            inputs=inputs,
            outputs=outputs,
            opset=self._options.opset,
            images=self._images if self._options.nchw else Images((), ()),
            shapes={name: tensor.shape.as_list() for name, tensor in named.items() if tensor.shape.rank is not None},
            tables=tables,
            large=large,
        )
        self.notes += self._images.notes(self._options.nchw)
        save(proto, storage, target)
        self._target = target
        if self.samples is None:
            self.samples = make_samples(proto)

    def infer(self, feed: Tensors) -> Sequence[NDArray[Any]]:
        """Runs the function with its own variables, not the graph that was converted."""
        images = self._images if self._options.nchw else Images((), ())
        given = self._run({name: to_trained(feed[name], name in images.inputs) for name in self._inputs})
        return [images.as_asked(name, np.asarray(value)) for name, value in zip(self._outputs, given, strict=True)]

    def value_names(self) -> Collection[str]:
        """Tensors of the frozen graph that kept their name in ONNX."""
        return self._layouts()

    def values(self, feed: Tensors, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Runs the frozen graph up to these tensors."""
        import tensorflow as tf

        pruned = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(self._graph, name=""), []).prune(
            [tensor.name for tensor in self._inputs.values()], list(names)
        )
        images = self._images if self._options.nchw else Images((), ())
        given = [tf.constant(to_trained(feed[name], name in images.inputs)) for name in self._inputs]
        layouts = self._layouts()
        return {
            name: np.transpose(value.numpy(), layouts[name]) for name, value in zip(names, pruned(*given), strict=True)
        }

    def _layouts(self) -> dict[str, tuple[int, ...]]:
        import tensorflow as tf

        with tf.Graph().as_default() as graph:
            tf.import_graph_def(self._graph, name="")
        shapes = {
            tensor.name: tuple(tensor.shape.as_list())
            for operation in graph.get_operations()
            for tensor in operation.outputs
            if tensor.shape.rank is not None and tensor.dtype.is_floating
        }
        return inner_layouts(self._target, shapes)


_LARGE = 1_800_000_000  # bytes of weights; a protobuf message ends at 2 GiB


def _channels_first(graph: Any) -> bool:
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return any(node.attr["data_format"].s == b"NCHW" for node in nodes if "data_format" in node.attr)


def own_inputs(function: Any) -> list[Any]:
    """Tensors that the caller of a concrete function feeds: all but the variables and constants that it captured."""
    captured = {id(tensor) for tensor in function.graph.internal_captures}
    return [tensor for tensor in function.inputs if id(tensor) not in captured]


def unique_names(names: Sequence[str]) -> list[str]:
    """Numbers names that stand twice: ONNX tells values apart by name alone."""
    counts: dict[str, int] = {}
    result = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        result.append(name if counts[name] == 1 else f"{name}_{counts[name] - 1}")
    return result
