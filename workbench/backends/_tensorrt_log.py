"""What TensorRT logs while it builds: reasons, memory, and the table of layers, which is nowhere else without a GPU."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import product
from math import prod
from typing import Literal

from workbench.backends._tensorrt_words import NO_DRIVER as NO_DRIVER
from workbench.backends._tensorrt_words import plain as plain
from workbench.engine import Layer

TABLE = "Layers:"

_TYPES = {
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "FP8": "float8",
    "FP4": "float4",
    "FP4E2M1": "float4",
    "E8M0": "e8m0",
}
BITS = {"Float": 32, "Half": 16, "BFloat16": 16, "FP8": 8, "FP4": 4, "FP4E2M1": 4, "E8M0": 8, "Bool": 8}
_NARROW = {"Int8", "Int4", "FP8", "FP4", "FP4E2M1"}
_MOVING = frozenset({"Cast", "Conc", "Copy", "Etc", "Move", "Repl", "Resh", "Slic", "Tran"})
_ROUNDING = frozenset({"Add", "Max", "Min", "Mul", "Roun"})  # how a kernel that quantizes is named, with those above
CARRYING = frozenset({"cast", "reshape"})  # types of layers that only pass on
GRAPH = re.compile(r"_myl(\d+)_\d+\b")
_MEMORY = {
    "weights": re.compile(r"Total Weights Memory: (\d+)"),
    "activations": re.compile(r"Total Activation Memory: (\d+)"),
    "persistent": re.compile(r"Total Device Persistent Memory: (\d+)"),
}


def read_memory(messages: Iterable[str]) -> dict[str, int]:
    """Bytes on the device by what for, as far as the builder logs them.

    `weights` are those of the whole plan; `activations` are what a context of the profile that needs most takes at its
    largest shapes, scratch memory included; `persistent` is what a context keeps besides.
    """
    found: dict[str, int] = {}
    for text in messages:
        for name, pattern in _MEMORY.items():
            if told := pattern.search(text):
                found[name] = max(found.get(name, 0), int(told[1]))
    return {name: found[name] for name in _MEMORY if found.get(name)}


def parse_layers(
    messages: Iterable[str], counts: Mapping[str, int] | None = None, axes: Collection[int] = ()
) -> tuple[Layer, ...]:
    """Reads the table that a build with detailed profiling verbosity logs.

    Each line is `Name: …, LayerType: …, Inputs: [{…}], Constants: [{…}], Outputs: [{…}], …, Metadata: [ONNX Layer: …]`
    with `Dimensions: […], …, Datatype: …` for each tensor; the metadata name the nodes that were fused into the layer.
    A node can be named by several, e.g. by the kernel that quantizes for it as well. Of a plan with several profiles,
    the layers of the first are taken.

    The table has -1 for a dynamic axis, and for one that several were merged into. An output's size is therefore only
    told where sizes of dynamic axes put in give as many elements as one of the nodes that it was made of has.

    Args:
        messages: What the builder logged.
        counts: Elements of each node's output, or of a graph's input, by name, at the first profile's usual shapes.
        axes: Usual sizes of the dynamic axes.

    Returns:
        The layers in the order of the table, without times.
    """
    table = next((text for text in messages if text.startswith(TABLE)), "")
    return tuple(_layers(table, counts or {}, axes))


def _layers(table: str, counts: Mapping[str, int], axes: Collection[int]) -> Iterator[Layer]:
    lines = [line for line in table.splitlines() if line.startswith("Name: ")]
    others = graphs_of_other_profiles(lines)
    for line in lines:
        graph = GRAPH.search(line.partition(", LayerType: ")[0])
        if "[profile " not in line and not (graph and graph[1] in others):
            inputs, outputs = _tensors(line, "Inputs"), _tensors(line, "Outputs")
            if inputs or outputs:  # else it only signals, waits or works out shapes
                yield _layer(line, inputs, outputs, counts, axes)


def graphs_of_other_profiles(layers: Iterable[str]) -> set[str]:
    """Numbers of the compiled graphs that belong to other profiles than the first.

    Layers are named `…_myl1_3` by the number of their graph and their own. Those of other profiles say so, too, but
    only where they are named after a node or read an input: a fused kernel is known by its graph alone.

    Args:
        layers: Each layer with its inputs as text, its name first.
    """
    return {found[1] for text in layers if "[profile " in text and (found := GRAPH.search(text))}


def _layer(
    line: str, inputs: list[_Tensor], outputs: list[_Tensor], counts: Mapping[str, int], axes: Collection[int]
) -> Layer:
    name, rest = line.removeprefix("Name: ").split(", LayerType: ", 1)
    kernel = rest.partition(",")[0]
    # `__myl_MulAddRelu_myl0_3` tells what was fused; any other name is that of a node.
    fused = re.match(r"__myl_(\w+?)_myl\d+_\d+$", name)
    operator = fused[1] if fused else kernel
    sources = tuple(re.findall(r"\[ONNX Layer: ([^\]]+)\]", rest))
    possible = {counts[source] for source in sources if source in counts} if sources else set(counts.values())
    sizes = [_bytes(tensor, possible, axes) for tensor in outputs]
    return Layer(
        name=name,
        operator=operator,
        kind=kind_of(operator, inputs, outputs) if fused else "reformat" if kernel in CARRYING else "compute",
        precision=type_name((inputs or outputs)[0][1]),
        sources=sources,
        provider=kernel,
        output_precision=type_name(outputs[0][1]) if outputs else "",
        output_bytes=None if None in sizes else sum(size or 0 for size in sizes),
    )


_Tensor = tuple[tuple[int, ...], str]  # sizes, TensorRT's name of the type


def _tensors(line: str, part: Literal["Inputs", "Outputs"]) -> list[_Tensor]:
    """Sizes and type of each tensor that a line lists."""
    listed = re.search(rf", {part}: \[(.*?)\], (?:Constants|TacticName): ", line)
    found = re.findall(r"Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)", listed[1]) if listed else []
    return [(tuple(int(size) for size in sizes.split(",") if size), kind) for sizes, kind in found]


def _bytes(tensor: _Tensor, possible: Collection[int], axes: Collection[int]) -> int | None:
    sizes, kind = tensor
    bits = BITS.get(kind) or int((re.search(r"\d+$", kind) or ["0"])[0])
    fixed, open_axes = prod(size for size in sizes if size >= 0), sum(size < 0 for size in sizes)
    counted = {fixed * prod(filling) for filling in product(set(axes), repeat=open_axes)}
    if open_axes:
        counted &= set(possible)
    return -(-counted.pop() * bits // 8) if len(counted) == 1 and bits else None


def type_name(kind: str) -> str:
    return _TYPES.get(kind, kind.lower())


def kind_of(
    operator: str, inputs: Iterable[_Tensor] = (), outputs: Iterable[_Tensor] = ()
) -> Literal["compute", "quantize", "reformat"]:
    words = set(re.findall(r"[A-Z][a-z]*", operator))
    if words <= _MOVING:
        return "reformat"
    # Rounding is named, but FP8 is rounded to by a cast, and coming back takes none.
    changes = {kind for _, kind in inputs} & _NARROW != {kind for _, kind in outputs} & _NARROW
    rounds = "Roun" in words or (changes and "Add" not in words)
    return "quantize" if rounds and words <= _MOVING | _ROUNDING else "compute"
