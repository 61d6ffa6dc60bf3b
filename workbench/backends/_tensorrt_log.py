"""The layer table in TensorRT's build log, the only place that shows it where there is no GPU to load the plan."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from workbench.engine import Layer

_TYPES = {"Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Int8": "int8", "FP8": "float8"}
_MOVING = frozenset({"Cast", "Conc", "Copy", "Etc", "Move", "Repl", "Resh", "Slic", "Tran"})
_ROUNDING = frozenset({"Add", "Max", "Min", "Mul", "Roun"})  # how a kernel that quantizes is named, with those above


def parse_layers(messages: Iterable[str]) -> tuple[Layer, ...]:
    """Reads the table that a build with detailed profiling verbosity logs.

    Each line is `Name: …, LayerType: …, Inputs: [{…, Datatype: …}], …, Metadata: [ONNX Layer: …][ONNX Layer: …]`; the
    metadata name the nodes that were fused into the layer. A node can be named by several, e.g. by the kernel that
    quantizes for it as well.

    Args:
        messages: What the builder logged.

    Returns:
        The layers in the order of the table, without times.
    """
    table = next((text for text in messages if text.startswith("Layers:")), "")
    lines = [line for line in table.splitlines() if line.startswith("Name: ")]
    return tuple(_layer(line) for line in lines if "LayerType: shape_call" not in line)


def _layer(line: str) -> Layer:
    name, rest = line.removeprefix("Name: ").split(", LayerType: ", 1)
    kernel, rest = rest.split(",", 1)
    types = re.findall(r"Datatype: (\w+)", rest)
    # `__myl_MulAddRelu_myl0_3` tells what was fused; any other name is that of a node.
    fused = re.match(r"__myl_(\w+?)_myl\d+_\d+$", name)
    operator = fused[1] if fused else kernel
    return Layer(
        name=name,
        operator=operator,
        kind=_kind(operator) if fused else "compute",
        precision=_TYPES.get(types[0], types[0].lower()) if types else "",
        sources=tuple(re.findall(r"\[ONNX Layer: ([^\]]+)\]", rest)),
        provider=kernel,
    )


def _kind(operator: str) -> Literal["compute", "quantize", "reformat"]:
    words = set(re.findall(r"[A-Z][a-z]*", operator))
    if words <= _MOVING:
        return "reformat"
    return "quantize" if "Roun" in words and words <= _MOVING | _ROUNDING else "compute"
