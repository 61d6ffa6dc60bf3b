"""A profile in words: where the time of one inference goes, and what a change of the model did to each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.measure.mapping import MatchedLayers
from workbench.measure.profile import LayerProfile, ProfiledLayer
from workbench.report import columns

LAYER_HEADINGS = ("layer", "operator", "precision", "ms", "share")
MATCH_HEADINGS = ("layer", "operator", "ms", "then", "change")
_WIDTH = 40  # letters of a name
_LISTED = 20  # layers printed before the rest is summed up


def profile_text(profile: LayerProfile) -> str:
    """A profile for the terminal: the costliest layers, and totals by kind, precision and operator."""
    head = f"{profile.model} on {profile.backend}: {len(profile.layers)} layers"
    if profile.sum_ms is None:
        named = [_layer_cells(entry)[:3] for entry in profile.layers]
        return f"{head}, none timed\n\n{columns([LAYER_HEADINGS[:3], *named], left=3)}"
    lines = [f"{head}, mean of {profile.iterations:,} inferences at batch {profile.batch}"]
    lines += [f"  {name}: {value}" for name, value in _totals(profile).items()]
    lines += [f"  Note: {caveat}" for caveat in profile.caveats]
    costliest = sorted(profile.layers, key=lambda entry: -(entry.layer.ms or 0.0))
    cells = [_layer_cells(entry) for entry in costliest[:_LISTED]]
    if rest := costliest[_LISTED:]:
        spent, share = sum(entry.layer.ms or 0.0 for entry in rest), sum(entry.share for entry in rest)
        cells.append((f"{len(rest):,} more", "", "", _ms(spent), f"{100 * share:.1f} %"))
    return "\n".join([*lines, "", columns([LAYER_HEADINGS, *cells], left=3)])


def match_text(rows: Sequence[MatchedLayers]) -> str:
    """Two profiles side by side for the terminal, the costliest layers first."""
    costliest = sorted(rows, key=lambda row: -max(row.ms or 0.0, row.other_ms or 0.0))
    table = [
        (
            (row.nodes or row.others or ("(added by the backend)",))[0],
            row.operator,
            _ms(row.ms),
            _ms(row.other_ms),
            f"{row.ms / row.other_ms:.1f} ×" if row.ms and row.other_ms else "–",
        )
        for row in costliest[:_LISTED]
    ]
    return columns([MATCH_HEADINGS, *table], left=2)


def _totals(profile: LayerProfile) -> dict[str, str]:
    return {
        "One inference": f"{_ms(profile.whole_ms)} ms under the profiler, {_ms(profile.plain_ms)} ms without",
        "Sum of the layers": f"{_ms(profile.sum_ms)} ms",
        "By kind": _shares(profile.ms_by_kind),
        "By precision": _shares(profile.ms_by_precision),
        "By operator": _shares(profile.ms_by_operator),
    }


def _shares(sums: Mapping[str, float]) -> str:
    total = sum(sums.values()) or 1.0
    return ", ".join(f"{name} {100 * value / total:.1f} %" for name, value in sums.items())


def _layer_cells(entry: ProfiledLayer) -> tuple[str, ...]:
    more = f" + {len(entry.nodes) - 1}" if len(entry.nodes) > 1 else ""
    name = f"{entry.nodes[0]}{more}" if entry.nodes else f"({entry.layer.name[:_WIDTH]})"
    return (
        name,
        entry.layer.operator[:_WIDTH],
        entry.layer.precision,
        _ms(entry.layer.ms),
        f"{100 * entry.share:.1f} %",
    )


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if value < 0.1 else f"{value:.3f}"
