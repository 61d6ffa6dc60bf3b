"""Operators of TensorFlow and TensorFlow Lite that tf2onnx lacks and that Keras' own layers use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def handlers() -> dict[str, tuple[Any, list[Any]]]:
    """What `tf2onnx` calls for each operator."""
    return {"Erfc": (_erfc, []), "Expm1": (_expm1, []), "Bitcast": (_sign_bit, []), "TFL_GELU": (_gelu, [])}


def inline_compiled(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """Dissolves calls of functions that are to be compiled by XLA, such as Keras' grouped convolutions."""
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
    from tensorflow.python.grappler import tf_optimizer

    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    compiled = [holder for holder in (*nodes, *graph.library.function) if "_XlaMustCompile" in holder.attr]
    if not compiled:
        return graph
    for holder in compiled:
        del holder.attr["_XlaMustCompile"]
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.min_graph_nodes = -1
    rewrite.optimizers.append("function")
    rewrite.function_optimization = rewriter_config_pb2.RewriterConfig.AGGRESSIVE
    with tf.Graph().as_default():
        meta_graph = tf.compat.v1.train.export_meta_graph(graph_def=graph)
    fetched = meta_graph_pb2.CollectionDef()
    fetched.node_list.value.extend([*inputs, *outputs])
    meta_graph.collection_def["train_op"].CopyFrom(fetched)
    return tf_optimizer.OptimizeGraph(config, meta_graph)


def _erfc(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """1 - erf(x), which exact GELU uses."""
    with _Formula(graph, node) as f:
        f.result = f.make("Sub", f.number(1), f.make("Erf", f.x))


def _expm1(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """exp(x) - 1, which CELU uses."""
    with _Formula(graph, node) as f:
        f.result = f.make("Sub", f.make("Exp", f.x), f.number(1))


def _gelu(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """x/2 (1 + erf(x/√2)), or with tanh(√(2/π) (x + 0.044715 x³)) in place of erf: arXiv 1606.08415, section 2."""
    with _Formula(graph, node) as f:
        if node.get_attr_value("approximate", False):
            cube = f.make("Mul", f.make("Mul", f.x, f.x), f.x)
            inner = f.make("Add", f.x, f.make("Mul", cube, f.number(0.044715)))
            share = f.make("Tanh", f.make("Mul", inner, f.number(math.sqrt(2 / math.pi))))
        else:
            share = f.make("Erf", f.make("Div", f.x, f.number(math.sqrt(2))))
        f.result = f.make("Mul", f.make("Mul", f.x, f.number(0.5)), f.make("Add", share, f.number(1)))


class _Formula:
    """Puts element-wise ONNX nodes in the place of a node with one input and one output."""

    def __init__(self, graph: Any, node: Any) -> None:
        self._graph, self._node = graph, node
        [self.x], [self._output] = node.input, node.output
        self._dtype, self._shape = graph.get_dtype(self._output), graph.get_shape(self._output)
        self.result = ""

    def __enter__(self) -> _Formula:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.result:
            name = self._node.name
            self._graph.remove_node(name)
            self._graph.make_node(
                "Identity", [self.result], name=name, outputs=[self._output], shapes=[self._shape], dtypes=[self._dtype]
            )

    def number(self, value: float) -> str:
        from tf2onnx import utils

        kind = utils.map_onnx_to_numpy_type(self._dtype)
        name: str = self._graph.make_const(utils.make_name("number"), np.array(value, kind)).output[0]
        return name

    def make(self, operator: str, *inputs: str) -> str:
        made: str = self._graph.make_node(operator, list(inputs), shapes=[self._shape], dtypes=[self._dtype]).output[0]
        return made


def _sign_bit(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """A float seen as an integer only to compare it with zero (Keras' argmax): its sign does; -0.0 counts as 0.

    Raises:
        ValueError: It is used for something else, which ONNX cannot express.
    """
    import onnx
    from tf2onnx import utils

    [output] = node.output
    masks = graph.find_output_consumers(output)  # run on the sign as -1, 0 or 1, they give what is wanted
    if not all(mask.type == "BitwiseAnd" and _is_sign_mask(mask) for mask in masks):
        raise ValueError("the bits of a number are used as another type")
    shape, integer = graph.get_shape(output), onnx.TensorProto.INT32
    sign = graph.make_node("Sign", [node.input[0]], shapes=[shape], dtypes=[graph.get_dtype(node.input[0])])
    cast = graph.make_node(
        "Cast", sign.output, attr={"to": integer}, name=utils.make_name(name), shapes=[shape], dtypes=[integer]
    )
    graph.replace_all_inputs(output, cast.output[0])
    graph.remove_node(name)


def _is_sign_mask(node: Any) -> bool:
    constants = [source.get_tensor_value(as_list=False) for source in node.inputs if source.is_const()]
    return len(constants) == 1 and bool(np.all(constants[0] == np.iinfo(np.int32).min))
