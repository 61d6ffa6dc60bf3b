"""What the Sensitivity panel shows of layers: rows of its table, texts, points of its plot. Draws nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from widgets._profile_data import format_ms
from workbench.budget import BudgetResult
from workbench.sensitivity import LayerSensitivity, Sensitivity
from workbench.sensitivity_report import budget_text

HEADINGS = (
    "layer",
    "operator",
    "own dB",
    "output dB",
    "points lost",
    "float ms",
    "INT8 ms",
    "costs ms",
)
NOTES = (
    "Name of the node, worst first",
    "What it computes",
    "SQNR of the layer's own output, its input being exact: signal over the noise of quantization",
    "SQNR of the model's output when only this layer is in INT8; the bar is its noise beside the worst layer's",
    "Points of the metric that are lost when only this layer is in INT8",
    "Time of an inference that the layer takes in float",
    "Time of an inference that the layer takes in INT8",
    "What keeping the layer in float adds to an inference; negative where INT8 is the slower one",
)
_NAMED = 4  # layers that are named in a sentence; more are counted

Times = Mapping[str, tuple[float | None, float | None]]  # by node: ms in float, ms in INT8


class Entry(NamedTuple):
    """A layer, what its quantization does, and its time in both forms, ms."""

    layer: LayerSensitivity
    float_ms: float | None = None
    int8_ms: float | None = None

    @property
    def cost_ms(self) -> float | None:
        """What keeping it in float costs at each inference, ms; None where a time is not known."""
        return None if self.float_ms is None or self.int8_ms is None else self.float_ms - self.int8_ms


def list_entries(sensitivity: Sensitivity | None, times: Times) -> list[Entry]:
    """The layers with their times, the one that hurts most first."""
    if sensitivity is None:
        return []
    return [Entry(layer, *times.get(layer.name, (None, None))) for layer in sensitivity.worst_first]


def table_rows(entries: Sequence[Entry], samples: int) -> list[dict[str, Any]]:
    """Rows of a `ResultTable` under `HEADINGS`."""
    digits, names = _digits(entries), shortened([entry.layer.name for entry in entries], 36)
    noises = [_amplitude(entry.layer.only_sqnr_db) for entry in entries]
    loudest = max(noises, default=0.0) or 1.0
    return [
        {
            "name": entry.layer.name,
            "cells": [
                {**_cell(short, entry.layer.name), "note": entry.layer.name},
                _cell(entry.layer.op_type, entry.layer.op_type),
                _cell(format_db(entry.layer.local_sqnr_db), _finite(entry.layer.local_sqnr_db)),
                _cell(format_db(entry.layer.only_sqnr_db), _finite(entry.layer.only_sqnr_db), noise / loudest),
                _cell(format_points(entry.layer.only_drop, samples), _finite(entry.layer.only_drop)),
                _cell(_fixed(entry.float_ms, digits), _finite(entry.float_ms)),
                _cell(_fixed(entry.int8_ms, digits), _finite(entry.int8_ms)),
                _cell(format_cost(entry.cost_ms, digits), _finite(entry.cost_ms)),
            ],
        }
        for entry, noise, short in zip(entries, noises, names, strict=True)
    ]


def plot_data(entries: Sequence[Entry], kept: Collection[str]) -> dict[str, list[Any]]:
    """Points of the plot, the worst first: cost of float (ms), SQNR of the output (dB), texts, and whether kept."""
    drawn = [entry for entry in entries if entry.cost_ms is not None and math.isfinite(entry.layer.only_sqnr_db)]
    names = [entry.layer.name for entry in drawn]
    return {
        "name": names,
        "operator": [entry.layer.op_type for entry in drawn],
        "cost": [entry.cost_ms for entry in drawn],
        "sqnr": [entry.layer.only_sqnr_db for entry in drawn],
        "float": [format_ms(entry.float_ms) for entry in drawn],
        "int8": [format_ms(entry.int8_ms) for entry in drawn],
        "short": shortened(names, 24),
        "kept": [name in kept for name in names],
    }


def sensitivity_words(sensitivity: Sensitivity) -> str:
    """The model with every layer in INT8, in a line, and on what that rests."""
    parts = []
    if sensitivity.original is not None and sensitivity.quantized is not None:
        lost = 100 * (sensitivity.original - sensitivity.quantized)
        parts.append(
            f"{sensitivity.metric} {100 * sensitivity.original:.1f} % → {100 * sensitivity.quantized:.1f} % "
            f"({format_points(lost, sensitivity.samples)} points lost)"
        )
    if not math.isnan(sensitivity.quantized_sqnr_db):
        parts.append(f"SQNR of the output {format_db(sensitivity.quantized_sqnr_db)} dB")
    whole = f"Every layer in INT8: {', '.join(parts)}" if parts else "Layers one by one"
    return f"{whole}; on {sensitivity.samples:,} samples."


def kept_words(entries: Sequence[Entry], kept: Collection[str]) -> str:
    """What the ticked layers cost, in a line."""
    chosen = [entry for entry in entries if entry.layer.name in kept]
    if not chosen:
        return "Tick the layers to keep in float, in the table or in the plot."
    costs = [entry.cost_ms for entry in chosen if entry.cost_ms is not None]
    text = f"{_layers(len(chosen))} in float"
    if not costs:
        return f"{text}; what that costs is not known."
    untimed = len(chosen) - len(costs)
    rest = f", {untimed} without a time of {'its' if untimed == 1 else 'their'} own" if untimed else ""
    return f"{text}: about {format_cost(sum(costs))} ms an inference{rest}."


def budget_words(result: BudgetResult) -> str:
    """Whether the budget holds, what it took, and what else to do if it does not."""
    verdict = budget_text(result).partition("\n\n")[0].splitlines()
    lines = [f"{'✓' if result.holds else '✗'} {verdict[0]}", *(line.strip() for line in verdict[1:])]
    if result.kept:
        few = len(result.kept) <= _NAMED
        names = ", ".join(layer.name for layer in result.kept) if few else f"{len(result.kept)} layers, ticked below"
        lines.append(f"In float: {names}.")
    if not result.holds:
        lines.append("No variant was made; Requantize makes this one all the same.")
    return "\n".join(lines)


def format_db(value: float) -> str:
    """A ratio in dB; ∞ where there is no noise at all."""
    if math.isnan(value):
        return "–"
    return f"{value:.1f}".replace("-", "−") if math.isfinite(value) else "∞" if value > 0 else "−∞"


def format_points(value: float | None, samples: int) -> str:
    """Percentage points with the digits that so many samples allow."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value + 0.0:.{1 if samples < 1000 else 2}f}".replace("-", "−").replace("−0.0", "0.0")


def format_cost(value: float | None, digits: int | None = None) -> str:
    """A difference of times in ms with its sign."""
    if value is None:
        return "–"
    text = format_ms(abs(value)) if digits is None else _fixed(abs(value), digits)
    return text if not float(text) else f"{'−' if value < 0 else '+'}{text}"


def _digits(entries: Sequence[Entry]) -> int:
    """Digits behind the point that give the longest of all times three that count: a column has the same everywhere."""
    longest = max((max(entry.float_ms or 0, entry.int8_ms or 0) for entry in entries), default=0.0)
    return min(4, len(format_ms(longest).partition(".")[2]))


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def shortened(names: Sequence[str], longest: int) -> list[str]:
    """Names without the folders at the beginning that all share, and of long ones the end."""
    parts = [name.split("/") for name in names]
    shared = 0
    while len(parts) > 1 and all(len(each) > shared + 1 and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    short = ["/".join(each[shared:]) for each in parts]
    return [name if len(name) <= longest else f"…{name[1 - longest :]}" for name in short]


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _cell(text: str, value: float | str, share: float = 0.0) -> dict[str, Any]:
    return {"text": text, "value": value, "note": "", "share": round(share, 4)}


def _amplitude(sqnr_db: float) -> float:
    """Noise beside the signal, as an amplitude."""
    return 0.0 if math.isnan(sqnr_db) else 10 ** (-sqnr_db / 20) if sqnr_db > -1000 else 1e50


def _finite(value: float | None) -> float:
    """JSON has no infinity, and what is not known comes last where the smallest comes first."""
    if value is None or math.isnan(value):
        return 1e308
    return max(-1e308, min(1e308, value))
