"""Channel pruning: takes whole channels away, so that every backend computes less; the rest is fitted on samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.jobs import Progress, part_of
from workbench.model import Model
from workbench.model_file import read_whole
from workbench.options import option
from workbench.pruning import Plan, Pruned, prune
from workbench.skeleton import read_skeleton
from workbench.transforms._onnx import write_whole

if TYPE_CHECKING:
    import onnx

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = True

_NAMED = 6  # layers in one note


@dataclass(frozen=True)
class Options:
    """How much goes, and by what it is chosen."""

    share: Annotated[
        float, option("Channels to take away from every layer that can lose some.", minimum=0, maximum=95, unit="%")
    ] = 30.0
    align: Annotated[
        int,
        option(
            "Numbers of channels become multiples of this: kernels compute whole vectors, and what does not fill one "
            "is often slower than before pruning.",
            minimum=1,
            maximum=256,
            unit="channels",
        ),
    ] = 16
    rounding: Annotated[
        Literal["nearest", "down"],
        option(
            "To the nearest multiple, or down: every layer then loses the share at the least, small ones far more.",
            advanced=True,
        ),
    ] = "nearest"
    recover: Annotated[
        bool,
        option(
            "Fits the weights and biases that stay to what each layer gave before, on the samples; needs no labels."
        ),
    ] = True
    importance: Annotated[
        Literal["activation", "magnitude"],
        option(
            "What tells which channels matter: what they add to the layers that read them, on the samples; or the size "
            "of their weights.",
            advanced=True,
        ),
    ] = "activation"
    ranking: Annotated[
        Literal["layer", "global"],
        option("The same share of every layer, or the least important channels of the whole net.", advanced=True),
    ] = "layer"
    layers: Annotated[
        tuple[str, ...],
        option("Layers with a share of their own, in %.", advanced=True, example="conv1=50"),
    ] = ()
    keep: Annotated[tuple[str, ...], option("Names of nodes that keep all the channels they make.", advanced=True)] = ()
    samples: Annotated[
        int, option("Samples to use, without their labels.", minimum=1, maximum=4096, unit="samples", advanced=True)
    ] = 256

    def plan(self) -> Plan:
        """What goes, as the pruning itself takes it."""
        return Plan(
            self.share,
            self.align,
            self.rounding,
            self.importance,
            self.ranking,
            tuple(self.layers),
            tuple(self.keep),
        )


def apply(model: Model, options: Options, dataset: Dataset, target: Path, progress: Progress) -> tuple[str, ...]:
    """Writes the model without its least important channels, and says how many are gone.

    Raises:
        TransformError: The model is quantized, no channel can go, or a name does not exist.
        DatasetError: There are fewer samples than the model takes at a time.
    """
    progress(0.01, "reading the model")
    proto = named(read_whole(model.path), model.path)
    pruned = prune(
        proto,
        options.plan(),
        dataset.take(options.samples),
        repair=options.recover,
        progress=part_of(progress, 0.02, 0.95),
    )
    if not pruned.removed and options.share:
        raise TransformError(
            f"No layer of {model.name} can lose channels this way. {_reasons(pruned.frozen)}",
            f"Ask for a larger share than {options.share:g} %, or for a smaller multiple than {options.align}.",
        )
    progress(0.95, "writing the model")
    write_whole(pruned.proto, target)
    return _notes(pruned)


def named(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model whose nodes have the names that the graph panel shows."""
    for node, shown in zip(proto.graph.node, read_skeleton(path).graph.node, strict=True):
        node.name = shown.name
    return proto


def _notes(pruned: Pruned) -> tuple[str, ...]:
    gone = pruned.parameters_before - pruned.parameters_after
    notes = [
        f"{gone:,} of {pruned.parameters_before:,} parameters are gone "
        f"({100 * gone / max(pruned.parameters_before, 1):.0f} %), with channels of {len(pruned.removed)} layers."
    ]
    if pruned.frozen:
        notes.append(_reasons(pruned.frozen))
    return tuple(notes)


def _reasons(frozen: Mapping[str, str]) -> str:
    """Why layers keep their channels; those with the same reason together."""
    layers: dict[str, list[str]] = {}
    for name, reason in frozen.items():
        layers.setdefault(reason, []).append(name)
    parts = []
    for reason, names in layers.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        parts.append(f"{', '.join(names[:_NAMED])}{more} ({reason})")
    return f"What keeps its channels: {'; '.join(parts[:_NAMED])}{' …' if len(parts) > _NAMED else ''}."
