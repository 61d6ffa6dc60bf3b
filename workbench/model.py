"""A trained model as an ONNX file on disk, checked before anything else touches it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.conversion import Conversion
from workbench.model_file import all_tensors as all_tensors
from workbench.model_file import check_external_data, check_types, parse_model
from workbench.model_file import check_file as check_file
from workbench.model_inference import infer
from workbench.model_rules import check_rules, default_opset

if TYPE_CHECKING:
    import onnx

_ANY_SHAPE = ("...",)


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of one input or output.

    Attributes:
        name: The tensor's name in the graph.
        dtype: NumPy's name of the element type, e.g. `float32`; for what is no tensor what it is, e.g.
            `sequence of map of int64 to float32`, and the shape is empty.
        shape: One entry per axis: a size, the name of a dynamic axis, or `?` where the model says nothing; only
            `...` where it does not even say how many axes there are.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def dynamic_batch(self) -> bool:
        """Whether the first axis takes any number of samples."""
        return bool(self.shape) and isinstance(self.shape[0], str)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Step:
    """One transform that was applied to a model.

    Attributes:
        transform: Its name.
        options: Every option it ran with.
        notes: What it said of the result, in sentences.
    """

    transform: str
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """An ONNX model on disk and what was done to it.

    Attributes:
        path: The ONNX file; weights may lie in external files beside it.
        name: Short name for tables and packages.
        inputs: Inputs that the caller feeds (initializers are not among them).
        outputs: Outputs in the graph's order.
        opset: Version of the default operator set.
        size_bytes: Size of the file and its external data.
        external_files: External data files, relative to the ONNX file's folder.
        history: The transforms applied since the file was loaded, oldest first.
        source: Format that it was loaded from.
        conversion: How near it is to that original; None if it was ONNX already.
        original: That original, where it is one file that a backend runs as it is; None if it is not, and once a
            transform was applied.
    """

    path: Path
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    size_bytes: int
    external_files: tuple[str, ...] = ()
    history: tuple[Step, ...] = ()
    source: str = "onnx"
    conversion: Conversion | None = None
    original: Path | None = None

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the model takes; None if it takes any."""
        sizes = (spec.shape[0] for spec in self.inputs if spec.shape)
        return next((size for size in sizes if isinstance(size, int)), None)

    @cached_property
    def sha256(self) -> str:
        """Hash of the file and its external data: what caches and manifests know the model by."""
        digest = hashlib.sha256()
        for part in (self.path, *(self.path.parent / name for name in self.external_files)):
            with part.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def read_model(path: Path, *, name: str = "", history: tuple[Step, ...] = (), source: str = "onnx") -> Model:
    """Checks an ONNX file and describes it; weights in external files are not read.

    Raises:
        ModelError: The file is missing, empty, truncated or not ONNX, breaks ONNX's rules, or its external data is
            missing, too short or outside its folder.
    """
    path = path.expanduser().absolute()
    proto = parse_model(path)
    check_types(path, proto)
    external = check_external_data(path, proto)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    model = Model(
        path=path,
        name=name or path.stem,
        inputs=tuple(_spec(value) for value in proto.graph.input if value.name not in initializers),
        outputs=tuple(_spec(value) for value in proto.graph.output),
        opset=default_opset(proto),
        size_bytes=path.stat().st_size + sum((path.parent / name).stat().st_size for name in external),
        external_files=external,
        history=history,
        source=source,
    )
    check_rules(path, proto)
    if all(spec.shape != _ANY_SHAPE for spec in model.outputs):
        return model
    return replace(model, outputs=_inferred_outputs(path))


def _inferred_outputs(path: Path) -> tuple[TensorSpec, ...]:
    """The outputs as ONNX infers them, for files that do not say what their outputs are."""
    return tuple(_spec(value) for value in infer(parse_model(path)).graph.output)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind is None:
        return TensorSpec(value.name, "unknown", _ANY_SHAPE)
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return TensorSpec(value.name, _type_text(value.type), ())
    tensor = getattr(value.type, kind)
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, _type_text(value.type), _ANY_SHAPE)
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else (dim.dim_param or "?")
        for dim in tensor.shape.dim
    )
    return TensorSpec(value.name, _type_text(value.type), shape)


def _type_text(kind: onnx.TypeProto) -> str:
    """NumPy's name of a tensor's element type; words for what is no tensor, e.g. `sequence of float32`."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return _dtype_text(kind.tensor_type.elem_type)
    if which == "sparse_tensor_type":
        return f"sparse {_dtype_text(kind.sparse_tensor_type.elem_type)}"
    if which == "sequence_type":
        return f"sequence of {_type_text(kind.sequence_type.elem_type)}"
    if which == "optional_type":
        return f"optional {_type_text(kind.optional_type.elem_type)}"
    if which == "map_type":
        return f"map of {_dtype_text(kind.map_type.key_type)} to {_type_text(kind.map_type.value_type)}"
    return "unknown"


def _dtype_text(number: int) -> str:
    import onnx

    return str(onnx.helper.tensor_dtype_to_np_dtype(number)) if number else "unknown"
