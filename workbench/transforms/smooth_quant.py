"""SmoothQuant: moves outliers of activations into the weights, so that INT8 fits both; answers stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from workbench.calibration import collect
from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.graph.shapes import STANDARD
from workbench.jobs import Progress, part_of
from workbench.model import Model
from workbench.options import option
from workbench.transforms._onnx import refuse_quantized, write_whole
from workbench.transforms._surgery import Surgery, attribute, check_names

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = True

_SMALLEST = 1e-5  # a channel that is silent on the samples need not be so later: its factor stays moderate


@dataclass(frozen=True)
class Options:
    """How much is moved, and where to."""

    samples: Annotated[int, option("Calibration samples to use.", minimum=1, maximum=4096, unit="samples")] = 128
    alpha: Annotated[
        float,
        option(
            "Share of the difficulty that goes to the weights: more where outliers are strong.", minimum=0, maximum=1
        ),
    ] = 0.5
    insert: Annotated[
        bool,
        option("Adds a multiplication where the layer before cannot take the factors; it costs a little time."),
    ] = True
    keep_float: Annotated[
        tuple[str, ...], option("Names of nodes that are left alone, as they stay in float.", advanced=True)
    ] = ()


def apply(model: Model, options: Options, dataset: Dataset, target: Path, progress: Progress) -> None:
    """Writes a float model with the same answers that loses less when it is quantized.

    Before every matrix product X W with a constant W, channel j of X is divided by
    s_j = max|X_j|^α / max|W_j|^(1−α) and row j of W multiplied by it (Xiao et al., "SmoothQuant", ICML 2023,
    arXiv:2211.10438, equations 3 and 4). The division goes into the constants of the layer before, where that is a
    normalization or a linear layer that nobody else reads.

    Raises:
        TransformError: There is nothing to smooth, the model is quantized already, or a name does not exist.
        DatasetError: There are too few samples, or they lead to NaN or infinite values.
    """
    progress(0.02, "reading the model")
    surgery = Surgery(model)
    refuse_quantized(surgery.proto, model)
    check_names(surgery.proto, options.keep_float, model.name)
    smoother = _Smoother(surgery, frozenset(options.keep_float))
    chosen = [name for name in smoother.products if options.insert or smoother.find_folding(name) is not None]
    if not chosen:
        raise TransformError(
            f"{model.name} has nothing to smooth: no matrix product with constant weights"
            + (" behind a layer that could take the factors." if smoother.products else "."),
            "Allow multiplications between them with insert."
            if smoother.products
            else "It is meant for transformers; convolutional models go to quantize_static as they are.",
        )
    found = collect(
        surgery.proto,
        chosen,
        dataset.take(options.samples),
        bins=False,
        channels=dict.fromkeys(chosen, -1),
        progress=part_of(progress, 0.05, 0.85),
    )
    for name in chosen:
        peaks = found[name].channel_peaks
        assert peaks is not None
        smoother.smooth(name, peaks, options.alpha)
    progress(0.9, "writing the model")
    write_whole(surgery.finish(smoother.nodes()), target)


class _Edit(NamedTuple):
    """A constant whose output channels are divided: along the last axis, or the rows of a matrix."""

    node: onnx.NodeProto
    place: int
    rows: bool = False


class _Smoother:
    """Finds the products that read an activation, and moves factors between it and their weights.

    Attributes:
        products: By activation, the matrix products with constant weights that read it.
    """

    def __init__(self, surgery: Surgery, keep: frozenset[str]) -> None:
        self._surgery = surgery
        self._nodes = list(surgery.nodes)
        self._readers = surgery.readers()
        self._fixed = surgery.seen_elsewhere()
        self._makers = {name: node for node in self._nodes for name in node.output}
        self._before: dict[str, onnx.NodeProto] = {}  # a multiplication, by the node that it goes before
        self.products: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            if node.name not in keep and self._is_product(node):
                self.products.setdefault(node.input[0], []).append(node)

    def _is_product(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in ("Gemm", "MatMul") or node.domain not in STANDARD or attribute(node, "transA", 0):
            return False
        weight = self._surgery.constant(node.input[1])
        return weight is not None and weight.ndim == 2 and self._surgery.constant(node.input[0]) is None

    def smooth(self, name: str, largest: NDArray[Any], alpha: float) -> None:
        """Divides an activation's channels and multiplies the weights of its products by the same factors.

        Args:
            name: The activation.
            largest: Its largest absolute value in each channel.
            alpha: Share of the difficulty that goes to the weights.
        """
        import numpy as np

        products = self.products[name]
        weights = [self._surgery.constant(node.input[1]) for node in products]
        rows = [  # the weights as (inputs, outputs)
            weight.T if attribute(node, "transB", 0) else weight
            for node, weight in zip(products, weights, strict=True)
            if weight is not None
        ]
        heaviest = np.max([abs(weight).max(axis=1, initial=0) for weight in rows], axis=0)
        factors = largest.clip(_SMALLEST) ** alpha / heaviest.clip(_SMALLEST) ** (1 - alpha)
        factors = np.where((largest > 0) & (heaviest > 0), factors, 1).astype(np.float32)
        for node, weight in zip(products, rows, strict=True):
            scaled = weight * factors[:, None]
            node.input[1] = self._surgery.add_constant(
                f"{node.input[1]}/smooth", scaled.T if attribute(node, "transB", 0) else scaled
            )
        edits = self.find_folding(name)
        for edit in edits or ():
            self._fold(edit, factors)
        if edits is None:
            self._insert(name, factors)

    def find_folding(self, name: str) -> list[_Edit] | None:
        """The constants that take the division of an activation; None if others than its products would see it."""
        if len(self._readers[name]) != len(self.products[name]):
            return None
        weight = self._surgery.constant(self.products[name][0].input[1])
        assert weight is not None
        return self._foldings(name, weight.shape[bool(attribute(self.products[name][0], "transB", 0))])

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """The nodes of the new graph."""
        for node in self._nodes:
            if node.name in self._before:
                yield self._before[node.name]
            yield node

    def _foldings(self, name: str, width: int) -> list[_Edit] | None:
        """As `find_folding`, for a tensor of that many channels whose every reader takes the divided one."""
        node = self._makers.get(name)
        if node is None or node.domain not in STANDARD or name in self._fixed:
            return None
        constants = [self._surgery.constant(entry) for entry in node.input]
        known = [place for place, values in enumerate(constants) if values is not None]
        others = [place for place, entry in enumerate(node.input) if entry and place not in known]
        if node.op_type in ("LayerNormalization", "RMSNormalization"):
            # A scale of more axes: it normalizes over others than the channels too.
            plain = others == [0] and all(values is not None and values.shape == (width,) for values in constants[1:])
            return [_Edit(node, place) for place in known] if plain else None
        if node.op_type in ("MatMul", "Gemm"):
            turned = bool(attribute(node, "transB", 0))
            weight = constants[1] if others == [0] else None
            if weight is None or weight.ndim < 2 or weight.shape[0 if turned else -1] != width:
                return None
            return [_Edit(node, place, turned and place == 1) for place in known]
        if node.op_type == "Mul" and len(known) == 1:
            return [_Edit(node, known[0])]
        inner: list[_Edit] | None = None
        if len(others) == 1 and len(self._readers[node.input[others[0]]]) == 1:
            inner = self._foldings(node.input[others[0]], width)
        if inner is None:
            return None
        if node.op_type in ("Add", "Sub") and len(known) == 1:
            return [*inner, _Edit(node, known[0])]
        return inner if node.op_type in ("LeakyRelu", "Relu") else None  # f(x / s) = f(x) / s for s > 0

    def _fold(self, edit: _Edit, factors: NDArray[Any]) -> None:
        name = edit.node.input[edit.place]
        values = self._surgery.constant(name)
        assert values is not None
        divided = values / (factors[:, None] if edit.rows else factors)
        edit.node.input[edit.place] = self._surgery.add_constant(f"{name}/smooth", divided)

    def _insert(self, name: str, factors: NDArray[Any]) -> None:
        import onnx

        divided = self._surgery.fresh(f"{name}/smooth")
        inverse = self._surgery.add_constant(f"{name}/factors", 1 / factors)
        products = self.products[name]
        self._before[products[0].name] = onnx.helper.make_node("Mul", [name, inverse], [divided], name=divided)
        for node in products:
            node.input[0] = divided
