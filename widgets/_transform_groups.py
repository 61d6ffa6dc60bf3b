"""In which order and under which headings transforms are offered: by what they are for, the usual ones first."""

from __future__ import annotations

from collections.abc import Sequence

from widgets._grouped_choice import Option
from workbench.plugins import Plugin

_GROUPS = {
    "Quantize": (
        "quantize_static",
        "quantize_dynamic",
        "smooth_quant",
        "quantize_weights",
        "quantize_fp8",
        "quantize_nncf",
    ),
    "Halve": ("float16", "bfloat16"),
    "Prune": ("prune_channels", "sparsify"),
    "Tidy up": ("simplify", "upgrade_opset"),
}
_REST = "Others"


def group_transforms(plugins: Sequence[Plugin]) -> dict[str, list[Option]]:
    """Groups plugins under headings; those that nobody put in order come last, what is not installed is disabled."""
    places = {name: (group, place) for group, names in _GROUPS.items() for place, name in enumerate(names)}
    groups: dict[str, list[Option]] = {}
    order = {group: number for number, group in enumerate([*_GROUPS, _REST])}
    ranked = sorted(plugins, key=lambda plugin: _rank(plugin, places, order))
    for plugin in ranked:
        group, _ = places.get(plugin.name, (_REST, 0))
        text = plugin.name.replace("_", " ") + ("" if plugin.available else " (not installed)")
        groups.setdefault(group, []).append(
            Option(plugin.name, text, plugin.reason or plugin.summary, not plugin.available)
        )
    return groups


def _rank(plugin: Plugin, places: dict[str, tuple[str, int]], order: dict[str, int]) -> tuple[int, int, str]:
    group, place = places.get(plugin.name, (_REST, 0))
    return order[group], place, plugin.name
