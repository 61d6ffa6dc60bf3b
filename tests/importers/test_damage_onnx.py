"""Damaged and hostile ONNX files: words come out of them, and never a crash, a hang or a full memory."""

from __future__ import annotations

import importlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, parser

from workbench.errors import ModelError
from workbench.graph import summarize_graph
from workbench.importers import load_model

HEAD = '<ir_version: 9, opset_import: ["" : 17, "own" : 1]>'
FUNCTION = '<domain: "own", opset_import: ["" : 17, "own" : 1]>'
RELU = f"{HEAD} g (float[n, 4] x) => (float[n, 4] y) {{ y = Relu (x) }}"
ADD = f"{HEAD} g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{ y = Add (x, w) }}"


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "models")
    return importlib.import_module("damage")


def refused(path: Path, model: str | onnx.ModelProto, *words: str) -> None:
    proto = parser.parse_model(model) if isinstance(model, str) else model
    path.write_bytes(proto.SerializeToString())
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert time.monotonic() - start < 60
    assert caught.value.remedy
    assert len(str(caught.value)) < 1000
    assert all(letter.isprintable() for letter in str(caught.value))
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.onnx"


def test_random_damage(damage: Any) -> None:
    """Some 300 damaged models, another way each; `python tests/models/damage.py` tries thousands."""
    outcomes = damage.sweep(list(damage.damaged(300, seed=7)), model_seconds=60)
    bad = [outcome for outcome in outcomes if outcome.verdict in ("failed", "died")]
    reached = Counter(outcome.reached for outcome in outcomes)

    assert not bad, "\n".join(map(str, bad))
    assert max(outcome.grown_mb for outcome in outcomes) < 200
    assert reached["run"] >= 20  # not everything is refused at the door
    assert reached["load"] >= 100


def test_the_models_that_are_damaged_are_whole(damage: Any) -> None:
    outcomes = damage.sweep(list(damage.whole_models().values()))

    assert [outcome for outcome in outcomes if outcome.reached != "run"] == []


# --- graphs that contradict themselves -----------------------------------------------------------------------------


def test_a_graph_that_runs_in_a_circle(path: Path) -> None:
    graph = f"{HEAD} g (float[4] x) => (float[4] y) {{ y = Add (x, z)  z = Neg (y) }}"
    refused(path, graph, "breaks the rules of ONNX", "input 'z'")


def test_a_name_that_two_nodes_give(path: Path) -> None:
    graph = f"{HEAD} g (float[4] x) => (float[4] y) {{ y = Relu (x)  y = Neg (x) }}"
    refused(path, graph, "'y' has been used as output names multiple times")


def test_no_operator_set(path: Path) -> None:
    proto = parser.parse_model(RELU)
    proto.ClearField("opset_import")
    refused(path, proto, "does not name an operator set")


def test_no_ir_version(path: Path) -> None:
    proto = parser.parse_model(RELU)
    proto.ClearField("ir_version")
    refused(path, proto, "does not name its IR version")


def test_too_few_bytes_in_a_weight(path: Path) -> None:
    proto = parser.parse_model(ADD)
    proto.graph.initializer[0].ClearField("float_data")
    proto.graph.initializer[0].raw_data = bytes(7)
    refused(path, proto, "w", "7 bytes")


def test_too_few_bytes_in_a_big_weight(path: Path) -> None:
    proto = parser.parse_model(ADD)
    proto.graph.initializer[0].ClearField("float_data")
    proto.graph.initializer[0].dims[0] = 10_000
    proto.graph.initializer[0].raw_data = bytes(39_999)
    refused(path, proto, "'w'", "39,999 bytes where its shape needs 40,000")


# --- numbers and texts beyond reason -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2**62, 2**63 - 1])
def test_an_absurd_input(path: Path, size: int) -> None:
    proto = parser.parse_model(RELU)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    refused(path, proto, "'x'", str(size), "more than any machine holds")


@pytest.mark.parametrize("dims", [[-1], [2, -4], [1] * 100_000])
def test_an_impossible_weight(path: Path, dims: list[int]) -> None:
    proto = parser.parse_model(ADD)
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    refused(path, proto, "'w'", "which cannot be")


@pytest.mark.parametrize("kind", [0, 77, -5, 2**31 - 1])
def test_an_element_type_that_does_not_exist(path: Path, kind: int) -> None:
    proto = parser.parse_model(ADD)
    proto.graph.initializer[0].data_type = kind
    refused(path, proto, "'w'", "element type")


def test_a_huge_and_hostile_name(path: Path) -> None:
    """Neither does the message fill the screen, nor can the name move a terminal's cursor."""
    proto = parser.parse_model(RELU)
    proto.graph.input[0].name = "\x1b[2J" + "x" * 10**6
    proto.graph.input[0].type.tensor_type.elem_type = 77
    refused(path, proto, "element type 77")


def test_names_that_are_not_utf8(path: Path) -> None:
    content = parser.parse_model(RELU).SerializeToString()
    path.write_bytes(content.replace(b"Relu", b"Re\xffu"))
    with pytest.raises(ModelError, match="not UTF-8"):
        load_model(path)


def test_an_equation_that_shape_inference_never_finishes(path: Path) -> None:
    graph = f'{HEAD} g (float[3, 4] x) => (float[4] y) {{ y = Einsum <equation = "ij->j"> (x) }}'
    proto = parser.parse_model(graph)
    proto.graph.node[0].attribute[0].s = b"ij\xff->j"
    refused(path, proto, "Einsum", "equation")


@pytest.mark.parametrize(
    ("domain", "call"),
    [
        ("ai.onnx.ml", 'LabelEncoder <keys_strings = ["a"], values_int64s = [1]>'),
        ("", "EyeLike"),
        ("", 'RegexFullMatch <pattern = "a">'),
    ],
)
def test_operators_at_which_shape_inference_crashes_where_a_type_is_unknown(path: Path, domain: str, call: str) -> None:
    """It would take the process, and so a notebook's kernel, along (onnx 1.23)."""
    head = '<ir_version: 9, opset_import: ["" : 21, "own" : 1, "ai.onnx.ml" : 2]>'
    graph = f"{head} g (float[2] x) => (int64[2] y) {{ t = own.unheard_of (x)  y = {call} (t) }}"
    proto = parser.parse_model(graph)
    proto.graph.node[1].domain = domain
    path.write_bytes(proto.SerializeToString())

    assert len(summarize_graph(load_model(path)).nodes) == 2


def test_a_long_row_costs_no_memory(path: Path) -> None:
    """Sound, say: an object for each of its samples would take 200 GB."""
    row = f"{HEAD} g (float[2000000000] x) => (float[2000000000] y) {{ s = Mul (x, x)  y = Add (s, x) }}"
    path.write_bytes(parser.parse_model(row).SerializeToString())

    assert summarize_graph(load_model(path)).nodes[0].outputs[0].shape == (2_000_000_000,)


# --- nesting -------------------------------------------------------------------------------------------------------


def test_subgraphs_nested_deeper_than_protobuf_goes(path: Path) -> None:
    def field(tag: int, content: bytes) -> bytes:
        return bytes([tag]) + _varint(len(content)) + content

    graph = b""
    for _ in range(2000):  # ModelProto.graph, GraphProto.node, NodeProto.attribute, AttributeProto.g
        graph = field(0x0A, field(0x2A, field(0x32, graph)))
    path.write_bytes(b"\x08\x08" + field(0x3A, graph))
    with pytest.raises(ModelError, match="not an ONNX model, or only a part of one"):
        load_model(path)


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number % 128 + 128]) + _varint(number // 128)


def chain(calls: Iterator[str]) -> str:
    whole = f"{HEAD} g (float[4] x) => (float[4] y) {{ y = own.f0 (x) }}"
    return whole + "".join(f"{FUNCTION} f{i} (a) => (b) {{ {call} }}" for i, call in enumerate(calls))


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param(["b = own.f0 (a)"], id="circle"),
        pytest.param(["b = own.f1 (a)", "b = own.f0 (a)"], id="circle of two"),
        pytest.param([f"b = own.f{i + 1} (a)" for i in range(500)] + ["b = Relu (a)"], id="deep"),
        pytest.param([f"c = own.f{i + 1} (a)  b = own.f{i + 1} (c)" for i in range(40)] + ["b = Relu (a)"], id="2^40"),
    ],
)
def test_functions_that_stand_for_endless_nodes(path: Path, calls: list[str]) -> None:
    refused(path, chain(iter(calls)), "functions that call each other")


def test_functions_in_reasonable_numbers_are_fine(path: Path) -> None:
    calls = [f"c = own.f{i + 1} (a)  b = own.f{i + 1} (c)" for i in range(5)] + ["b = Relu (a)"]
    path.write_bytes(parser.parse_model(chain(iter(calls))).SerializeToString())

    assert dict(summarize_graph(load_model(path)).operators) == {"own:f0": 1}


# --- external data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "length"),
    [("x" * 5000, "8"), ("m.data", "9" * 5000), ("m.data", "4"), ("m.data", "99999999999999999")],
)
def test_weights_at_a_place_beyond_reason(path: Path, location: str, length: str) -> None:
    (path.parent / "m.data").write_bytes(bytes(8))
    proto = parser.parse_model(ADD)
    weight = proto.graph.initializer[0]
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", length)):
        weight.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=r"outside its own folder|no sensible place|cut short"):
        load_model(path)
