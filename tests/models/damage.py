"""Damages ONNX models in seeded, random ways, in their bytes and in their structure, and tries what is left.

python tests/models/damage.py [--count 5000] [--seed 1]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import parser
from sweep import Case, sweep  # beside this file

from workbench.samples.digits import MODEL_PATH

Chance = np.random.Generator

ODD_NUMBERS = (0, 1, -1, 2, 7, 127, 255, 2**16, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
ODD_TEXTS = (
    "",
    "x" * 100_000,
    "../../etc/passwd",
    "/dev/zero",
    "\0",
    "ä\n%s",
    "ai.onnx",
    "com.microsoft",
    "-1",
    "9" * 30,
)
_NUMBERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}

MODELS = {
    "plain": """<ir_version: 9, opset_import: ["" : 17]>
        g (float[n, 4] x) => (float[n, 3] y) <float[4, 3] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[3] b = {1,2,3}>
        { s = Gemm <alpha = 0.5> (x, w, b)  y = Relu (s) }""",
    "convolution": """<ir_version: 8, opset_import: ["" : 15]>
        g (float[n, 1, 8, 8] x) => (float[n, k] y) <float[2, 1, 2, 2] w = {1,2,3,4,5,6,7,8}, int64[2] shape = {0, -1}>
        { c = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w)  p = MaxPool <kernel_shape = [2,2]> (c)
          y = Reshape (p, shape) }""",
    "branches": """<ir_version: 9, opset_import: ["" : 17]>
        g (float[4] x, bool c) => (float[4] y)
        { y = If (c) <then_branch = t () => (float[4] a) { a = Neg (x) },
                      else_branch = e () => (float[4] b) <float[1] two = {2}> { b = Mul (x, two) }> }""",
    "loop": """<ir_version: 9, opset_import: ["" : 17]>
        g (float[4] x) => (float[4] y) <int64 trips = {3}, bool go = {1}>
        { y = Loop (trips, go, x) <body = step (int64 i, bool c, float[4] s) => (bool d, float[4] t)
            { d = Identity (c)  t = Add (s, s) }> }""",
    "function": """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
        g (float[4] x) => (float[4] y) { y = own.twice <by = 2.0> (x) }
        <domain: "own", opset_import: ["" : 17]> twice <by> (a) => (b)
        { f = Constant <value_float : float = @by> ()  b = Mul (a, f) }""",
    "quantized": """<ir_version: 9, opset_import: ["" : 17]>
        g (float[n, 4] x) => (float[n, 2] y)
        <float s = {0.1}, uint8 z = {128}, int8[4, 2] w = {1,2,3,4,5,6,7,8}, int8 wz = {0}>
        { q = QuantizeLinear (x, s, z)  r = QLinearMatMul (q, s, z, w, s, wz, s, z)
          y = DequantizeLinear (r, s, z) }""",
    "recurrent": """<ir_version: 8, opset_import: ["" : 14]>
        g (float[5, n, 2] x) => (float[5, 1, n, 1] y)
        <float[1, 4, 2] w = {1,2,3,4,5,6,7,8}, float[1, 4, 1] r = {1,2,3,4}>
        { y, h, c = LSTM <hidden_size = 1> (x, w, r) }""",
    "shapes": """<ir_version: 10, opset_import: ["" : 21]>
        g (float[n, 4] x) => (float[m] y) <int64[1] one = {1}, int64 zero = {0}>
        { s = Shape (x)  d = Gather (s, zero)  e = Concat <axis = 0> (one, s)  f = Expand (x, e)
          k = ConstantOfShape (one)  r = Range (zero, d, d)  t = Tile (one, one)  y = Flatten <axis = 0> (f) }""",
    "sequence": """<ir_version: 8, opset_import: ["" : 13]>
        g (float[4] x) => (seq(float[4]) y, float[a] z)
        { y = SequenceConstruct (x, x)  z = ConcatFromSequence <axis = 0> (y) }""",
    "microsoft": """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[n, 4] x) => (float[n, 4] y) { y = com.microsoft.Gelu (x) }""",
    "text": """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
        g (string[n] x) => (int64[n] y)
        { y = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_int64s = [1, 2]> (x) }""",
    "einsum": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[3, 4] x, float[4, 5] v) => (float[3, 5] y) { y = Einsum <equation = "ij,jk->ik"> (x, v) }""",
}


def whole_models() -> dict[str, Case]:
    """Small models of many kinds, undamaged; two keep weights in an external file."""
    cases = {name: Case(name, _parsed(text).SerializeToString()) for name, text in MODELS.items()}
    cases["digits"] = Case("digits", MODEL_PATH.read_bytes())
    for name in ("plain", "branches"):
        proto = onnx.load_from_string(cases[name].model)
        data = b""
        graphs = [proto.graph, *(a.g for node in proto.graph.node for a in node.attribute if a.HasField("g"))]
        for tensor in (tensor for graph in graphs for tensor in graph.initializer):
            content = onnx.numpy_helper.to_array(tensor).tobytes()
            for part in ("raw_data", "float_data"):
                tensor.ClearField(part)
            tensor.data_location = tensor.EXTERNAL
            for key, value in (("location", "m.data"), ("offset", len(data)), ("length", len(content))):
                tensor.external_data.add(key=key, value=str(value))
            data += content
        cases[f"{name} outside"] = Case(f"{name} outside", proto.SerializeToString(), external=data)
    return cases


def _parsed(text: str) -> onnx.ModelProto:
    proto: onnx.ModelProto = parser.parse_model(text)
    return proto


# --- damage to bytes -----------------------------------------------------------------------------------------------


def cut(content: bytes, chance: Chance) -> bytes:
    """Ends the file early."""
    return content[: chance.integers(len(content))]


def flip(content: bytes, chance: Chance) -> bytes:
    """Flips one to four bits."""
    damaged = bytearray(content)
    for place in chance.integers(len(content), size=chance.integers(1, 5)):
        damaged[place] ^= 1 << int(chance.integers(8))
    return bytes(damaged)


def overwrite(content: bytes, chance: Chance) -> bytes:
    """Puts random bytes over a few."""
    start, length = int(chance.integers(len(content))), int(chance.integers(1, 9))
    return content[:start] + chance.bytes(length) + content[start + length :]


def drop(content: bytes, chance: Chance) -> bytes:
    """Leaves a piece out."""
    start, end = sorted(map(int, chance.integers(len(content), size=2)))
    return content[:start] + content[end:]


def repeat(content: bytes, chance: Chance) -> bytes:
    """Writes a piece twice."""
    start, end = sorted(map(int, chance.integers(len(content), size=2)))
    return content[:end] + content[start:]


# --- damage to structure -------------------------------------------------------------------------------------------


def restructure(content: bytes, chance: Chance) -> bytes:
    """Changes, removes, repeats or moves one or two fields; the result is well-formed protobuf."""
    proto = onnx.load_from_string(content)
    for _ in range(int(chance.choice([1, 1, 1, 2]))):
        fields = list(_fields(proto))
        message, field = fields[int(chance.integers(len(fields)))]
        _change(proto, message, field, chance)
    return bytes(proto.SerializeToString())


def _fields(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _fields(part)


def _change(proto: onnx.ModelProto, message: Message, field: FieldDescriptor, chance: Chance) -> None:
    how = chance.random()
    value = getattr(message, field.name)
    if how < 0.1:
        message.ClearField(field.name)
    elif field.is_repeated and how < 0.4:
        if how < 0.2:
            del value[int(chance.integers(len(value)))]
        elif how < 0.3 or len(value) < 2:
            value.append(value[int(chance.integers(len(value)))])
        else:
            kept = [type(v).FromString(v.SerializeToString()) if isinstance(v, Message) else v for v in value]
            message.ClearField(field.name)
            value.extend([kept[int(i)] for i in chance.permutation(len(kept))])
    elif field.message_type is not None:
        (value[0] if field.is_repeated else value).Clear()
    else:
        new = _odd_value(proto, field, chance)
        try:
            if field.is_repeated:
                value[int(chance.integers(len(value)))] = new
            else:
                setattr(message, field.name, new)
        except (ValueError, TypeError):  # too large for this field, or no member of a closed enum
            message.ClearField(field.name)


def _odd_value(proto: onnx.ModelProto, field: FieldDescriptor, chance: Chance) -> Any:
    if field.cpp_type in _NUMBERS:
        return ODD_NUMBERS[int(chance.integers(len(ODD_NUMBERS)))]
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return int(chance.integers(0, 30))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return chance.bytes(int(chance.integers(0, 64)))
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        names = [name for node in proto.graph.node for name in (*node.input, *node.output, node.op_type)]
        texts = [*ODD_TEXTS, *names, *names]
        return texts[int(chance.integers(len(texts)))]
    return float(chance.choice([0.0, -1.0, 1e30, np.nan, np.inf]))


DAMAGES: tuple[Callable[[bytes, Chance], bytes], ...] = (
    cut, flip, overwrite, drop, repeat, restructure, restructure, restructure, restructure, restructure,
)  # fmt: skip


def damaged(count: int, seed: int) -> Iterator[Case]:
    """Damaged models, the same ones for the same seed."""
    chance = np.random.default_rng(seed)
    wholes = list(whole_models().values())
    for number in range(count):
        whole = wholes[number % len(wholes)]
        damage = DAMAGES[int(chance.integers(len(DAMAGES)))]
        content = damage(whole.model, chance)
        yield Case(f"{whole.name}/{damage.__name__} {number} of seed {seed}", content, external=whole.external)


def main() -> int:
    """Tries damaged models; 1 if any failed or died."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=5000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--keep", type=Path, help="folder for the models that failed or died")
    chosen = arguments.parse_args()
    start = time.monotonic()
    cases = list(damaged(chosen.count, chosen.seed))
    outcomes = sweep(cases, model_seconds=20)
    for case, outcome in zip(cases, outcomes, strict=True):
        if outcome.verdict in ("failed", "died"):
            print(f"{outcome.verdict} at {outcome.reached or '?'}: {outcome.name}: {outcome.words}")
            if chosen.keep:
                chosen.keep.mkdir(parents=True, exist_ok=True)
                (chosen.keep / f"{outcome.name.replace('/', ' ')}.onnx").write_bytes(case.model)
    counts = Counter((outcome.verdict, outcome.reached) for outcome in outcomes)
    for (verdict, reached), number in sorted(counts.items()):
        print(f"{number:6} {verdict} at {reached or '?'}")
    print(f"{max(o.grown_mb for o in outcomes):.0f} MB at most; {time.monotonic() - start:.0f} s")
    return int(any(outcome.verdict in ("failed", "died") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
