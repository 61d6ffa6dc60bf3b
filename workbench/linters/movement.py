"""Linters of what is no computing: layers that move data, and times that do not add up."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.findings.words import count_of, in_ms, in_percent, name_some
from workbench.linters.subject import EngineIssue, Subject

_ROUNDING = 1.02  # times that the sum of the layers may exceed the whole


def reformats(subject: Subject) -> Iterator[EngineIssue]:
    """Layers that change the layout or the type of a tensor, or copy it."""
    layers = subject.profile.layers
    places = [place for place, entry in enumerate(layers) if entry.layer.kind == "reformat"]
    if not places:
        return
    computing = [place for place, entry in enumerate(layers) if entry.layer.kind == "compute"]
    inner = [place for place in places if computing and computing[0] < place < computing[-1]]
    verb, inside = (
        ("moves" if len(places) == 1 else "move"),
        f"{len(inner)} of them " if len(inner) < len(places) else "",
    )
    where = f"{inside}inside the model" if inner else "at its ends"
    yield subject.issue(
        "reformats",
        places,
        what=f"{count_of(len(places), 'layer')} only {verb} data, {where}: "
        f"{name_some([subject.names[place] for place in inner or places])}.",
        why="Kernels want their own layout (channels last, or in blocks) and type. At the ends of the model a change "
        "is the price of that; inside, each stands where neighbours do not agree on a layout or a precision.",
        remedy="Bring neighbours to one precision, and put operators that need another layout next to each other."
        if inner
        else "None, unless they take a good part of the time: then feed the model in the layout that it computes in.",
    )


def times_exceed(subject: Subject) -> Iterator[EngineIssue]:
    """Layer times whose sum exceeds the engine's."""
    total, whole = subject.profile.sum_ms, subject.profile.whole_ms
    if not total or not whole or total <= _ROUNDING * whole:
        return
    yield EngineIssue(
        rule="times_exceed",
        what=f"The layers add up to {in_ms(total)}, {in_percent(total / whole - 1)} more than the {in_ms(whole)} of "
        "the whole engine.",
        why="Some layers ran side by side, or something else took the machine while one of the two was measured: "
        "times of single layers say less than they seem to.",
        remedy="Measure again, longer and on a quiet machine; where layers run side by side, read shares only.",
    )
