"""A graph that several providers share, because the one asked for does not run all of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from workbench.findings.context import Context, Finding, nodes_of
from workbench.findings.words import count_of, in_ms, in_percent, name_some


def find(context: Context) -> Iterator[Finding]:
    """Looks for nodes on another provider than the one asked for, and for how often the graph changes sides."""
    device = context.row.candidate.engine.device
    elsewhere = {name: count for name, count in context.row.latency.placement.items() if not name.startswith(device)}
    if not elsewhere:
        return
    layers = [entry for entry in context.profile.layers if entry.layer.provider]
    away = [entry for entry in layers if not entry.layer.provider.startswith(device)]
    sides = [entry.layer.provider for entry in layers]
    changes = sum(first != second for first, second in itertools.pairwise(sides))
    spent = context.time_of(*away)
    where = ", ".join(f"{count_of(count, 'node')} on {name}" for name, count in elsewhere.items())
    evidence = f"Placed: {', '.join(f'{count} on {name}' for name, count in context.row.latency.placement.items())}"
    if away:
        evidence += (
            f"; what runs elsewhere takes {in_ms(spent)}, {in_percent(context.share_of(spent))} of an inference, and "
            f"the graph changes sides {count_of(changes, 'time')}: {name_some(nodes_of(away))}"
        )
    yield Finding(
        rule="fallback",
        candidate=context.row.name,
        what=f"{device} does not run the whole model: {where}.",
        evidence=f"{evidence}.",
        milliseconds=spent or None,
        why="What a provider has no kernel for goes to the next one without a word, and at every change of sides the "
        "tensors between are copied and both wait.",
        remedy="Replace or rewrite the operators that are named, raise the opset, or choose a backend that runs all of "
        "them; where only a small part falls back, measure the model on one provider alone.",
        nodes=nodes_of(away),
    )
