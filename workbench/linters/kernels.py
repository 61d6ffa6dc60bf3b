"""Linters of kernels: channels that do not fill their vectors, and products that run in a generic kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from workbench.findings.convolutions import BLOCK
from workbench.findings.words import count_of, in_percent, name_some
from workbench.graph.shapes import infer_tensors, sizes
from workbench.linters.subject import EngineIssue, Subject
from workbench.skeleton import read_skeleton

_TENSOR_CORE_BYTES = 16  # NVIDIA's guide to matrix products: channels in multiples of 16 bytes
_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "uint8": 8, "float8": 8, "int4": 4, "float4": 4}
_IMAGE = 8  # fewer channels than this are those of an image, and nobody's choice
_LEAST_PADDING = 0.05  # less is not worth a word
# How OpenVINO's names of its generic kernels begin. Its `jit_gemm` of a ConvTranspose with dilations took 3.4 times as
# long as the `brgconv` of the same without, on one thread of a processor with AMX.
_GENERIC = ("ref", "simple", "gemm", "jit_gemm")
_ON_GPU = ("CUDA", "Tensorrt", "NvTensorRT", "ROCM", "MIGraphX", "OpenVINO", "Dml")


class _Channels(NamedTuple):
    """How many channels a product reads and gives, each within one group; None for what is nobody's choice."""

    inputs: int | None
    outputs: int | None

    def padding(self, block: int) -> float:
        """Share of multiply-accumulates that filling whole blocks adds."""
        counts = [count for count in self if count is not None]
        return math.prod(-(-count // block) * block / count for count in counts) - 1


def unaligned_channels(subject: Subject) -> Iterator[EngineIssue]:
    """Products whose channels do not fill the vectors, or the tensor cores' tiles, of their precision."""
    channels = _channels(subject)
    found: dict[int, list[int]] = {}
    worst = 0.0
    for place, node in subject.products.items():
        block = _block(subject, subject.profile.layers[place].layer.precision)
        padding = channels[node.name].padding(block) if block and node.name in channels else 0.0
        if padding >= _LEAST_PADDING:
            found.setdefault(block, []).append(place)
            worst = max(worst, padding)
    for block, places in found.items():
        names = name_some([subject.products[place].name for place in places])
        yield subject.issue(
            "unaligned_channels",
            places,
            what=f"{count_of(len(places), 'layer')} {'has' if len(places) == 1 else 'have'} numbers of channels that "
            f"are no multiples of {block}: {names}.",
            why=f"Kernels compute in blocks of {block} channels at this precision and pad what does not fill one: "
            f"up to {in_percent(worst)} more multiply-accumulates here, as counted; or a slower kernel runs.",
            remedy=f"Train or prune to multiples of {block} channels (`round_to` of the pruning transforms).",
        )


def slow_kernels(subject: Subject) -> Iterator[EngineIssue]:
    """Products that run in a generic kernel, or on the processor in an engine for something else.

    Only OpenVINO names its kernels so that this can be told, and ONNX Runtime its providers.
    """
    places = [
        place
        for place in subject.products
        if _is_slow(subject.engine.backend, subject.engine.device, subject.profile.layers[place].layer.provider)
    ]
    if not places:
        return
    kernels = ", ".join(dict.fromkeys(entry.layer.provider for entry in subject.entries(places)))
    yield subject.issue(
        "slow_kernels",
        places,
        what=f"{count_of(len(places), 'layer')} {_run(places)} in no accelerated kernel: "
        f"{name_some([subject.products[place].name for place in places])} ({kernels}).",
        why="The backend has no fast kernel for this operator with these types, shapes or attributes, and falls back "
        "to one for every case, or to another device.",
        remedy="Write the operator with ordinary types and attributes (a ConvTranspose without dilations, say), or run "
        "the model on another backend.",
    )


def _run(places: list[int]) -> str:
    return "runs" if len(places) == 1 else "run"


def _is_slow(backend: str, device: str, kernel: str) -> bool:
    if backend == "openvino":
        return kernel.startswith(_GENERIC)
    return kernel == "CPUExecutionProvider" and device.startswith(_ON_GPU)


def _block(subject: Subject, precision: str) -> int:
    """Channels that fill a block: on a GPU 16 bytes of them, on a processor one block of the layout; 0 if not known."""
    bits = next((bits for name, bits in _BITS.items() if precision.startswith(name)), 0)
    on_gpu = subject.engine.backend == "tensorrt" or subject.engine.device.startswith(_ON_GPU[:5])
    if not on_gpu:
        return BLOCK if bits else 0
    return 8 * _TENSOR_CORE_BYTES // bits if bits else 0


def _channels(subject: Subject) -> dict[str, _Channels]:
    """Channels of the products with trained weights, by node; classes and channels of an image are nobody's choice."""
    proto = read_skeleton(subject.engine.model.path)
    known = infer_tensors(proto, subject.engine.model, subject.profile.batch)
    found = {}
    for node in proto.graph.node:
        summary = subject.graph.by_name.get(node.name)
        if node.op_type not in ("Conv", "Gemm", "MatMul") or summary is None or not summary.parameters:
            continue
        spec = known.get(node.input[1])
        shape = sizes(spec.shape) if spec else None
        if not shape or (node.op_type != "Conv" and len(shape) != 2):
            continue
        given = {attribute.name: attribute.i for attribute in node.attribute}
        groups = given.get("group", 1)
        # Depth-wise kernels, of one input each, lie side by side: their number counts, once.
        if node.op_type == "Conv" and groups > 1 and shape[1] == 1:
            inputs, outputs = shape[0], None
        elif node.op_type == "Conv":
            inputs, outputs = shape[1], shape[0] // groups
        else:
            inputs, outputs = reversed(shape) if given.get("transB") else shape
        last = subject.is_last(summary)
        found[node.name] = _Channels(inputs if inputs >= _IMAGE else None, None if last else outputs)
    return found
