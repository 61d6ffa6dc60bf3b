"""What the Profile panel shows of profiles: rows of its table, bars of its plots, totals. Draws nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from widgets._graph_table import Cell, Column, Row
from workbench.measure.profile import LayerProfile, ProfiledLayer

LAYER_COLUMNS = (
    Column("layer", True, "The backend's own name"),
    Column("operator", True, "What the backend runs"),
    Column("kind", True, "quantize: between float and integer; reformat: layout and copies; all else computes"),
    Column("precision", True, "What it computes in, where the backend says"),
    Column("ms", note="Of one inference; the bar is the share of all layers"),
    Column("share", note="Of the sum of all layers"),
    Column("nodes", True, "Nodes of the model's graph that it computes; several where they are fused"),
)
TOTAL_HEADINGS = ("", "original", "candidate")


class Bar(NamedTuple):
    """One row of a plot of times: what it is, and what the original and the candidate spend there, ms."""

    name: str
    original: float
    candidate: float


def layer_names(profile: LayerProfile) -> list[str]:
    """A name for every layer that no other has: the backend's, numbered where it repeats."""
    names: list[str] = []
    seen: dict[str, int] = {}
    for entry in profile.layers:
        count = seen[entry.layer.name] = seen.get(entry.layer.name, 0) + 1
        names.append(entry.layer.name if count == 1 else f"{entry.layer.name} ({count})")
    return names


def layer_rows(profile: LayerProfile) -> list[Row]:
    """A row per layer, under `LAYER_COLUMNS`, in the order in which they run."""
    return [
        (
            name,
            entry.layer.operator,
            entry.layer.kind,
            entry.layer.precision or "–",
            Cell(entry.layer.ms, format_ms(entry.layer.ms), round(entry.share, 4)),
            Cell(entry.share, f"{100 * entry.share:.1f} %" if entry.layer.ms is not None else "–"),
            ", ".join(entry.nodes) or "added by the backend",
        )
        for name, entry in zip(layer_names(profile), profile.layers, strict=True)
    ]


def layer_bars(original: LayerProfile, candidate: LayerProfile, *, longest: int = 16) -> list[Bar]:
    """Times by node of the graph, which both share; what a backend added stands under its own name.

    The dearest first; all but the first `longest` are summed up in a last bar.
    """
    return _bars(_by_node(original), _by_node(candidate), longest)


def operator_bars(original: LayerProfile, candidate: LayerProfile, *, longest: int = 16) -> list[Bar]:
    """Times by operator in the backends' own words, the dearest first."""
    return _bars(original.ms_by_operator, candidate.ms_by_operator, longest)


def total_rows(original: LayerProfile, candidate: LayerProfile) -> list[tuple[str, str, str]]:
    """Times of both by kind and by precision, and the whole, under `TOTAL_HEADINGS`."""
    both = (original, candidate)
    rows = [("sum of all layers", *(format_ms(profile.sum_ms, " ms") for profile in both))]
    for kind in ("compute", "quantize", "reformat"):
        rows.append((kind, *(_with_share(profile, profile.ms_by_kind.get(kind)) for profile in both)))
    for precision in dict.fromkeys([*original.ms_by_precision, *candidate.ms_by_precision]):
        times = (profile.ms_by_precision.get(precision) for profile in both)
        shares = (_with_share(profile, ms) for profile, ms in zip(both, times, strict=True))
        rows.append((f"computed in {precision}", *shares))
    rows.append(("an inference while profiled", *(format_ms(profile.whole_ms, " ms") for profile in both)))
    rows.append(("an inference without the profiler", *(format_ms(profile.plain_ms, " ms") for profile in both)))
    return rows


def find_layer(profile: LayerProfile, node: str) -> str:
    """The name, as `layer_names` gives it, of the layer that computes a node; empty if none does."""
    pairs = zip(layer_names(profile), profile.layers, strict=True)
    return next((name for name, entry in pairs if node in entry.nodes), "")


def find_node(profile: LayerProfile, name: str) -> str:
    """The first node that the layer of that name computes; empty if it computes none."""
    pairs = zip(layer_names(profile), profile.layers, strict=True)
    return next((entry.nodes[0] for each, entry in pairs if each == name and entry.nodes), "")


def format_ms(value: float | None, unit: str = "") -> str:
    """A time with three significant digits, at most four behind the point."""
    if value is None:
        return "–"
    digits = next((digits for digits, least in enumerate((99.95, 9.995, 0.9995, 0.09995)) if value >= least), 4)
    return f"{value:.{digits}f}{unit}"


def _by_node(profile: LayerProfile) -> dict[str, float]:
    times: dict[str, float] = {}
    for entry in profile.layers:
        times[_label(entry)] = times.get(_label(entry), 0.0) + (entry.layer.ms or 0.0)
    return times


def _label(entry: ProfiledLayer) -> str:
    return entry.nodes[0] if entry.nodes else f"{entry.layer.name} (added)"


def _bars(original: Mapping[str, float], candidate: Mapping[str, float], longest: int) -> list[Bar]:
    names = dict.fromkeys([*original, *candidate])
    bars = [Bar(name, original.get(name, 0.0), candidate.get(name, 0.0)) for name in names]
    bars.sort(key=lambda bar: -max(bar.original, bar.candidate))
    return [*bars[:longest], *_sum_up(bars[longest:])]


def _sum_up(bars: Sequence[Bar]) -> list[Bar]:
    if len(bars) < 2:
        return list(bars)
    return [Bar(f"{len(bars)} others", sum(bar.original for bar in bars), sum(bar.candidate for bar in bars))]


def _with_share(profile: LayerProfile, ms: float | None) -> str:
    if ms is None:
        return "–"
    return f"{format_ms(ms, ' ms')} ({100 * ms / profile.sum_ms:.0f} %)" if profile.sum_ms else format_ms(ms, " ms")
