"""BF16: weights and computation with float's range in half the room; inputs and outputs as they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.graph.shapes import STANDARD
from workbench.jobs import Progress
from workbench.model import Model
from workbench.model_rules import default_opset
from workbench.options import option
from workbench.transforms._onnx import write_whole
from workbench.transforms._surgery import Surgery, check_names

if TYPE_CHECKING:
    import onnx

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = False

_OPSET = 22  # the first in which convolutions, poolings and recurrent layers take bfloat16
_TYPE = "tensor(bfloat16)"
_STAY = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})  # a scale needs all its digits


@dataclass(frozen=True)
class Options:
    """What stays in FP32. ONNX Runtime computes nothing in BF16 on the CPU; OpenVINO and TensorRT do."""

    keep_float: Annotated[
        tuple[str, ...], option("Names of nodes that stay in FP32, e.g. one that counts beyond 256.", advanced=True)
    ] = ()


def apply(model: Model, options: Options, dataset: Dataset | None, target: Path, progress: Progress) -> tuple[str, ...]:
    """Writes the model with every node in BF16 that ONNX lets compute in it; the others stay in FP32 between casts.

    A bfloat16 has the exponent of a float32 and 8 bits of fraction instead of 24, so nothing overflows.

    Returns:
        What the user should know: not every backend runs it.

    Raises:
        TransformError: Nothing in the model can compute in BF16, or a name does not exist.
    """
    progress(0.05, "reading the model")
    surgery = Surgery(model, _OPSET)
    check_names(surgery.proto, options.keep_float, model.name)
    progress(0.3, "casting")
    caster = _Caster(surgery, model, frozenset(options.keep_float))
    nodes = list(caster.nodes())
    if not caster.changed:
        raise TransformError(
            f"{model.name} has no node that computes in float32 and could do so in bfloat16.",
            "Use the model as it is, or start from the float model if this one is quantized.",
        )
    proto = surgery.finish(nodes)
    progress(0.8, "writing the model")
    write_whole(proto, target)
    return (
        "ONNX Runtime computes nothing in BF16 on the CPU and refuses the model there; OpenVINO runs it, and TensorRT "
        "builds it for GPUs from SM80 (Ampere) on.",
    )


class _Caster:
    """Goes through the nodes in order and knows in which of the two types each tensor exists."""

    def __init__(self, surgery: Surgery, model: Model, keep: frozenset[str]) -> None:
        self.changed = 0
        self._surgery, self._keep = surgery, keep
        self._types = surgery.element_types(model)
        self._fixed = surgery.seen_elsewhere()
        self._opset = default_opset(surgery.proto)
        self._half: dict[str, str] = {}  # a tensor → its name in bfloat16
        self._float: dict[str, str] = {}  # a tensor → its name in float32, where that is not its own
        self._only_half: set[str] = set()  # tensors that were computed in bfloat16 and have no other form yet

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """The nodes of the new graph, casts in their places."""
        for node in list(self._surgery.nodes):
            inputs, outputs = self._halved(node)
            for place, name in enumerate(node.input):
                if self._types.get(name) == "float32":
                    form = self._as_half(name) if place in inputs else self._as_float(name)
                    yield from form[1]
                    node.input[place] = form[0]
            after = [cast for place in sorted(outputs) for cast in self._make_half(node, place)]
            self.changed += bool(outputs)
            yield node
            yield from after

    def _halved(self, node: onnx.NodeProto) -> tuple[set[int], set[int]]:
        """The places of the inputs and outputs that become bfloat16."""
        if node.name in self._keep or node.op_type in _STAY or node.domain not in STANDARD:
            return set(), set()
        if any(entry.HasField("g") or entry.graphs for entry in node.attribute):
            return set(), set()  # what runs inside reads and gives float32
        if node.op_type == "Cast":
            return set(), self._floats(node.output)
        kinds = _kinds(node, self._opset)
        if kinds is None or any(name and not self._types.get(name) for name in (*node.input, *node.output)):
            return set(), set()
        ins, outs = kinds
        read, made = self._floats(node.input), self._floats(node.output)
        # What a type of the inputs is not bound to, such as the shape of a new tensor, is told by an attribute.
        bound = {ins[place] for place in read} & {outs[place] for place in made} - {""}
        if not made and len(read) == 1 and ins[min(read)] and node.input[min(read)] in self._only_half:
            return read, set()  # it only looks at a tensor that is bfloat16: no need to cast it back
        outputs = {place for place in made if outs[place] in bound}
        # With them go inputs of types of their own, e.g. the mean of a normalization: OpenVINO takes no mixture.
        return ({place for place in read if ins[place]} if outputs else set()), outputs

    def _floats(self, names: Sequence[str]) -> set[int]:
        return {place for place, name in enumerate(names) if self._types.get(name) == "float32"}

    def _as_half(self, name: str) -> tuple[str, list[onnx.NodeProto]]:
        """A tensor's name in bfloat16, and the cast that makes it where there is none yet."""
        import onnx

        if name in self._half:
            return self._half[name], []
        values = self._surgery.constant(name)
        if values is not None:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
            self._half[name] = self._surgery.add_constant(f"{name}/bfloat16", values.astype(dtype))
            return self._half[name], []
        self._half[name] = self._surgery.fresh(f"{name}/bfloat16")
        return self._half[name], [_cast(name, self._half[name], onnx.TensorProto.BFLOAT16)]

    def _as_float(self, name: str) -> tuple[str, list[onnx.NodeProto]]:
        """A tensor's name in float32, and the cast that makes it where there is none yet."""
        import onnx

        if name not in self._only_half:
            return self._float.get(name, name), []
        self._only_half.discard(name)
        self._float[name] = self._surgery.fresh(f"{name}/float32")
        return self._float[name], [_cast(name, self._float[name], onnx.TensorProto.FLOAT)]

    def _make_half(self, node: onnx.NodeProto, place: int) -> list[onnx.NodeProto]:
        """Turns an output into bfloat16; results of the model keep their names in float32."""
        import onnx

        name = node.output[place]
        if node.op_type == "Cast":
            [to] = [entry for entry in node.attribute if entry.name == "to"]
            to.i = onnx.TensorProto.BFLOAT16
        if name not in self._fixed:
            self._half[name] = name
            self._only_half.add(name)
            return []
        self._half[name] = node.output[place] = self._surgery.fresh(f"{name}/bfloat16")
        return [_cast(self._half[name], name, onnx.TensorProto.FLOAT)]


def _kinds(node: onnx.NodeProto, opset: int) -> tuple[list[str], list[str]] | None:
    """The type that each input and output is bound to, empty where that cannot be bfloat16; None without a schema."""
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return None
    allowed = {entry.type_param_str for entry in schema.type_constraints if _TYPE in entry.allowed_type_strs}

    def bind(names: Sequence[str], formal: Sequence[Any]) -> list[str]:
        kinds = [formal[min(place, len(formal) - 1)].type_str for place in range(len(names))]
        return [kind if kind in allowed else "" for kind in kinds]

    return bind(node.input, schema.inputs), bind(node.output, schema.outputs)


def _cast(source: str, output: str, to: int) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node("Cast", [source], [output], name=f"{output}/cast", to=to)
