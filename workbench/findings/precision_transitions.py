"""How often the numbers change their format on the way through the model: the precision-transition matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workbench.findings.context import Context, Finding
from workbench.findings.words import count_of, in_ms, in_percent
from workbench.measure.profile import ProfiledLayer

_FEW = 4  # into integers and out again, twice
_LEAST_SHARE = 0.05  # of the profile


@dataclass(frozen=True)
class Transition:
    """Neighbouring layers that compute in two given formats.

    Attributes:
        source: Element type that the first computes in.
        target: Element type that the next one computes in.
        count: How often that occurs.
        bytes: Size of what passes from one to the other, where it is known.
        ms: Time of the conversions in between, ms.
    """

    source: str
    target: str
    count: int
    bytes: int
    ms: float


def precision_transitions(context: Context) -> tuple[Transition, ...]:
    """The matrix, entry by entry, most frequent first; entries on its diagonal change nothing.

    Layers count as neighbours if one runs after the other with nothing but conversions in between.
    """
    found: dict[tuple[str, str], tuple[int, int, float]] = {}
    before: ProfiledLayer | None = None
    waiting = 0.0
    for entry in context.profile.layers:
        if entry.layer.kind != "compute":
            waiting += context.time_of(entry)
        elif entry.layer.precision:
            if before is not None:
                pair = before.layer.precision, entry.layer.precision
                count, size, ms = found.get(pair, (0, 0, 0.0))
                found[pair] = count + 1, size + _bytes(context, before), ms + waiting
            before, waiting = entry, 0.0
    ordered = sorted(found.items(), key=lambda item: -item[1][0])
    return tuple(Transition(source, target, *figures) for (source, target), figures in ordered)


def find(context: Context) -> Iterator[Finding]:
    """Looks for a model that goes back and forth between formats, and pays for it."""
    changes = [entry for entry in precision_transitions(context) if entry.source != entry.target]
    count, spent = sum(entry.count for entry in changes), sum(entry.ms for entry in changes)
    if count <= _FEW or context.share_of(spent) < _LEAST_SHARE:
        return
    yield Finding(
        rule="precision_transitions",
        candidate=context.row.name,
        what=f"Numbers change their format {count_of(count, 'time')} on the way through the model.",
        evidence=f"{'; '.join(_describe(entry) for entry in changes)}. The conversions in between take "
        f"{in_ms(spent)}, {in_percent(context.share_of(spent))} of an inference.",
        milliseconds=spent,
        why="Integer and float layers alternate, so every tensor between them is converted, and nothing fuses across.",
        remedy="Quantize the float layers in between, or keep the integer ones next to them in float as well, so that "
        "each format has one stretch.",
    )


def _describe(entry: Transition) -> str:
    return f"{entry.source} → {entry.target} {entry.count} × ({entry.bytes / 1000:,.0f} kB)"


def _bytes(context: Context, entry: ProfiledLayer) -> int:
    """Size of what the last node of a layer writes."""
    inside = {
        name for node in entry.nodes if node in context.graph.by_name for name in context.graph.by_name[node].inputs
    }
    last = [
        context.graph.by_name[name].activation_bytes or 0
        for name in entry.nodes
        if name in context.graph.by_name and not inside & {spec.name for spec in context.graph.by_name[name].outputs}
    ]
    return sum(last)
