"""Trains nothing, saves much: one small convnet in every TensorFlow format, and files that mean harm.

python tests/importers/tensorflow_models.py FOLDER

TensorFlow takes seconds to start, so all files are made in one process.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tensorflow_cases import MARK  # beside this file


def make_all(folder: Path) -> None:
    """Writes every file that the tests of the TensorFlow importers read."""
    keras.utils.set_random_seed(3)
    net = convnet()
    net.save(folder / "net.keras")
    net.save(folder / "net.h5")
    net.save_weights(folder / "net.weights.h5")
    net.export(folder / "net", verbose=False)
    shutil.copytree(folder / "net", folder / "weightless", ignore=shutil.ignore_patterns("variables"))
    (folder / "frozen.pb").write_bytes(frozen(net))
    for kind in ("float", "half", "int8"):
        (folder / f"{kind}.tflite").write_bytes(lite(net, kind))
    make_keras(folder)
    make_saved_models(folder)
    make_frozen(folder)
    make_lite(folder)
    make_hostile(folder)


def convnet() -> Any:
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(image)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(6, 3, padding="same", name="second")(x)
    x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling2D()(layers.Activation("gelu")(x))
    return keras.Model(image, layers.Dense(5, activation="softmax", name="scores")(x))


def make_keras(folder: Path) -> None:
    image, extra = keras.Input((None, None, 3), name="image"), keras.Input((4,), name="extra")
    features = layers.Conv2D(4, 3, strides=2, name="features")(image)
    pooled = layers.GlobalAveragePooling2D()(features) + layers.Dense(4)(extra)
    two = keras.Model({"image": image, "extra": extra}, [layers.Dense(3, name="head")(pooled), features])
    two.compile(loss=lambda wanted, given: 0.0)  # losses are nobody's business here
    two.save(folder / "two.keras")
    words = [keras.Input((12,), dtype="int32", name="words"), layers.Embedding(50, 8, mask_zero=True), layers.LSTM(6)]
    keras.Sequential(words).save(folder / "text.keras")
    grouped = [keras.Input((8, 8, 4), name="x"), layers.Conv2D(4, 3, groups=2), layers.Activation("celu")]
    keras.Sequential(grouped).save(folder / "grouped.keras")
    mask = keras.Input((8, 8, 2), name="x")
    keras.Model(mask, keras.ops.argmax(mask, -1)).save(folder / "mask.keras")
    buckets = [keras.Input((4,)), layers.Discretization([0.2, 0.5], name="buckets")]
    keras.Sequential(buckets).save(folder / "buckets.keras")

    class Mine(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x * 2

    mine = keras.Sequential([keras.Input((4,)), Mine(name="mine")])
    mine.save(folder / "custom.keras")
    mine.save(folder / "custom.h5")


def make_saved_models(folder: Path) -> None:
    class Several(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.weight = tf.Variable(tf.ones((4, 3)))
            content = tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1, 2], tf.int64))
            self.table = tf.lookup.StaticHashTable(content, -1)

        @tf.function(input_signature=[tf.TensorSpec((None, 4), name="a"), tf.TensorSpec((None, 4), name="b")])
        def both(self, a: Any, b: Any) -> Any:
            return {"sum": (a + b) @ self.weight, "product": a * b}

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="words")])
        def look(self, words: Any) -> Any:
            return {"ids": self.table.lookup(words)}

    several = Several()
    tf.saved_model.save(several, str(folder / "several"), {"both": several.both, "look": several.look})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, (None, 4), name="Placeholder")
        y = tf.nn.relu(x @ tf.compat.v1.get_variable("w", (4, 2)))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(session, str(folder / "first"), {"features": x}, {"scores": y})


def make_frozen(folder: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, None, name="x")
        tf.nn.relu(tf.reshape(x, (-1, 4)), name="half")
        tf.identity_n([x, x], name="other")
        (folder / "unclear.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (None, 4), name="x")
        tf.matmul(x, tf.compat.v1.get_variable("w", (4, 2)), name="y")
        (folder / "unfrozen.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (None, 4), name="x")
        size = tf.strings.length(tf.io.read_file(tf.constant("/etc/hostname")), name="length")
        tf.add(x, tf.cast(size, tf.float32), name="y")
        (folder / "reads.pb").write_bytes(graph.as_graph_def().SerializeToString())


def make_lite(folder: Path) -> None:
    def cholesky(x: Any) -> Any:
        return tf.linalg.cholesky(x)

    spec = [tf.TensorSpec((3, 3))]
    converter = converter_of(cholesky, spec)
    converter.allow_custom_ops = True
    (folder / "custom.tflite").write_bytes(converter.convert())


def make_hostile(folder: Path) -> None:
    mark = str(folder / MARK)
    code = f"lambda x: (open({mark!r}, 'w').write('x'), x)[1]"
    lambdas = [keras.Input((4,)), layers.Lambda(eval(code), output_shape=(4,), name="run"), layers.Dense(2)]
    hostile = keras.Sequential(lambdas)
    hostile.save(folder / "lambda.keras")
    hostile.save(folder / "lambda.h5")

    def write(x: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(mark, "x")]):
            return tf.identity(x)

    class Writes(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((None, 4), name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": write(x)}

    class OnLoad(tf.saved_model.experimental.TrackableResource):  # type: ignore[misc]
        def _create_resource(self) -> Any:
            tf.io.write_file(mark, "x")
            return tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name="own")

        def _initialize(self) -> None:
            tf.io.write_file(mark, "x")

    class WritesOnLoad(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.resource = OnLoad()

        @tf.function(input_signature=[tf.TensorSpec((None, 4), name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": x * 2}

    for name, module in (("writes", Writes()), ("writes_on_load", WritesOnLoad())):
        tf.saved_model.save(module, str(folder / name), {"serving_default": module.__call__})
    converter = converter_of(write, [tf.TensorSpec((4,))])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    (folder / "writes.tflite").write_bytes(converter.convert())
    Path(mark).unlink(missing_ok=True)


def frozen(net: Any) -> bytes:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    spec = [tf.TensorSpec((None, 16, 16, 3), name="image")]
    function = tf.function(
        lambda image: tf.identity(net(image, training=False), name="probabilities"), input_signature=spec
    )
    graph = convert_variables_to_constants_v2(function.get_concrete_function()).graph.as_graph_def()
    content: bytes = graph.SerializeToString()
    return content


def lite(net: Any, kind: str) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(net)
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "half":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        samples = np.random.default_rng(0).random((8, 1, 16, 16, 3), np.float32)
        converter.representative_dataset = lambda: ([sample] for sample in samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    content: bytes = converter.convert()
    return content


def converter_of(function: Any, spec: Any) -> Any:
    traced = tf.function(function, input_signature=spec).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([traced])


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
