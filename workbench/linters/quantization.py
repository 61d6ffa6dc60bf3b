"""Linters of quantized engines: what stays in float, what goes back to float, what was not fused."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.findings.words import are, count_of, name_some
from workbench.graph import NodeSummary
from workbench.graph.quantized import is_between
from workbench.linters.subject import EngineIssue, Subject, bare, is_float, is_product, is_quantized

_RULES = {
    "tensorrt": "TensorRT takes signed types and symmetric scales only, on both inputs of the product",
    "onnxruntime": "ONNX Runtime wants a DequantizeLinear on every input and a QuantizeLinear behind the result",
    "openvino": "OpenVINO wants Q/DQ nodes on both inputs of the product",
}

# TensorRT-RTX 1.7 wrote float behind convolutions of 32, 64 and 128 channels, with Q/DQ before and behind the Relu.
_FLOAT_OUTPUTS = {
    "tensorrt": "Compare with the same model in FP16 on the GPU: no place of the Q/DQ nodes that was tried makes "
    "TensorRT-RTX 1.7 write integers there, so INT8 may gain little.",
}


def float_products(subject: Subject) -> Iterator[EngineIssue]:
    """Convolutions and matrix products that do not compute in INT8 or FP8 although the model is quantized.

    A model whose weights alone are quantized computes in float by design, and is not meant.
    """
    if not any(is_product(node) and is_quantized(node.precision) for node in subject.graph.nodes):
        return
    places = [place for place in subject.products if is_float(subject.profile.layers[place].layer.precision)]
    asked = [place for place in places if is_quantized(subject.products[place].precision)]
    left = [place for place in places if place not in asked]
    backend = subject.engine.backend
    if asked:
        rule = _RULES.get(backend, "each backend knows its own patterns of Q/DQ nodes")
        yield subject.issue(
            "float_products",
            asked,
            what=f"{_products(subject, asked)} {_compute(asked)} in float although the model quantizes "
            f"{'it' if len(asked) == 1 else 'them'}.",
            why=f"The backend did not take the Q/DQ nodes around them for a quantized product: {rule}; or it has no "
            f"integer kernel for these shapes on {subject.engine.device}.",
            remedy=f"Quantize the float model again for this backend: quantize_static with target {backend}.",
        )
    if left:
        yield subject.issue(
            "float_products",
            left,
            what=f"{_products(subject, left)} {_compute(left)} in float in a model that is quantized elsewhere.",
            why="There are no Q/DQ nodes on all of their inputs: they were kept in float, or the quantizer does not "
            "know the operator.",
            remedy="Quantize them as well where the accuracy allows it; Sensitivity says what each one costs.",
        )


def float_outputs(subject: Subject) -> Iterator[EngineIssue]:
    """Quantized products that write float, which the layers behind them read and quantize again."""
    places = [
        place
        for place, node in subject.products.items()
        if is_quantized(subject.profile.layers[place].layer.precision)
        and is_float(subject.profile.layers[place].layer.output_precision)
        and not subject.is_last(node)
    ]
    if not places:
        return
    again = sum(_is_quantized_again(subject, subject.products[place]) for place in places)
    part = "" if again == len(places) else f", {again} of them"
    although = f"{part} although the model quantizes the result again" if again else ""
    yield subject.issue(
        "float_outputs",
        places,
        what=f"{_products(subject, places, 'quantized ')} {'writes' if len(places) == 1 else 'write'} float{although}.",
        why="The result goes through memory in two to four times the bytes, and another kernel has to read and "
        "quantize it: what INT8 saves in the product is partly lost behind it.",
        remedy=_FLOAT_OUTPUTS.get(
            subject.engine.backend, "Quantize what reads the result, and behind the activation, not before it."
        ),
    )


def unfused_qdq(subject: Subject) -> Iterator[EngineIssue]:
    """Quantize and dequantize layers left between layers that were meant to meet in integers."""
    places = [
        place
        for place, entry in enumerate(subject.profile.layers)
        if entry.layer.kind == "quantize" and any(is_between(subject.graph, name) for name in entry.nodes)
    ]
    if not places:
        return
    yield subject.issue(
        "unfused_qdq",
        places,
        what=f"{count_of(len(places), 'layer')} only {'quantizes or dequantizes' if len(places) == 1 else 'quantize'}"
        f" between quantized layers: {name_some([subject.names[place] for place in places])}.",
        why="A backend computes in integers only where it knows the pattern of Q/DQ nodes around an operator; "
        "elsewhere it converts to float, computes there and converts back.",
        remedy="Keep in float what has no integer kernel, or quantize its neighbours too, so that fewer borders "
        "between the two are left.",
    )


def _is_quantized_again(subject: Subject, node: NodeSummary) -> bool:
    """Whether a QuantizeLinear comes before the next product."""
    waiting = [node]
    while waiting:
        for spec in waiting.pop().outputs:
            for reader in subject.graph.readers.get(spec.name, ()):
                if bare(reader.operator) == "QuantizeLinear":
                    return True
                if not is_product(reader):
                    waiting.append(reader)
    return False


def _products(subject: Subject, places: list[int], adjective: str = "") -> str:
    """What and which they are, e.g. `2 convolutions ('a' and 'b')`."""
    nodes = [subject.products[place] for place in places]
    convolve = all("Conv" in node.operator for node in nodes)
    noun = "convolution" if convolve else "matrix product" if not any("Conv" in n.operator for n in nodes) else "layer"
    return f"{count_of(len(nodes), adjective + noun)} ({name_some([node.name for node in nodes])})"


def _compute(places: list[int]) -> str:
    return "computes" if are(len(places)) == "is" else "compute"
