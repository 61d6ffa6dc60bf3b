"""Sensitivity and the accuracy budget in words: which layers INT8 hurts, and which stay in float for it."""

from __future__ import annotations

import math

from workbench.budget import BudgetResult, KeptLayer
from workbench.report import columns
from workbench.sensitivity import LayerSensitivity, Sensitivity

HEADINGS = ("layer", "operator", "own dB", "alone dB", "all others dB")
POINT_HEADINGS = ("points lost", "regained")
KEPT_HEADINGS = ("in float", "dB", "ms in float", "ms in INT8", "costs ms")
_LISTED = 20  # layers printed before the rest is left out
_WIDTH = 80  # letters of a list of names


def sensitivity_text(sensitivity: Sensitivity) -> str:
    """The layers for the terminal, the one whose quantization disturbs the output most first."""
    labelled = sensitivity.original is not None and sensitivity.quantized is not None
    lines = [
        f"{sensitivity.model} on {sensitivity.samples:,} samples, each layer quantized alone and left out alone",
        f"  All quantized: {_decibel(sensitivity.quantized_sqnr_db)} dB at the output",
    ]
    if sensitivity.original is not None and sensitivity.quantized is not None:
        lines[-1] += (
            f", {sensitivity.metric} {100 * sensitivity.quantized:.2f} % against {100 * sensitivity.original:.2f} % "
            f"in float; one sample is {100 / sensitivity.samples:.2g} points"
        )
    worst = sensitivity.worst_first
    table = [_cells(layer, labelled) for layer in worst[:_LISTED]]
    lines += ["", columns([HEADINGS + POINT_HEADINGS * labelled, *table], left=2)]
    if len(worst) > _LISTED:
        lines.append(f"{len(worst) - _LISTED:,} more disturb it less.")
    lines += ["", "Signal over noise: of the layer's own output; of the model's, it alone quantized; and all others."]
    return "\n".join(lines)


def budget_text(result: BudgetResult) -> str:
    """What a budget allowed: layers kept, for how many ms each, accuracy; why not where it cannot be kept."""
    lines = [_verdict(result), f"  {_honest(result)}"]
    if result.kept:
        lines += ["", columns([KEPT_HEADINGS, *map(_kept_cells, result.kept)])]
        known = [layer.cost_ms for layer in result.kept if layer.cost_ms is not None]
        if known:
            lines.append(f"Together {sum(known):.3g} ms an inference, by the times of single layers.")
    trials = [
        (f"{len(trial.kept)} in float", f"{trial.drop:.2f} points lost", ", ".join(trial.kept)[:_WIDTH])
        for trial in result.trials
    ]
    return "\n".join([*lines, "", "Tried:", columns(trials, left=1)])


def _verdict(result: BudgetResult) -> str:
    lost = f"{result.model.name} loses {result.drop:.2f} points of {result.metric}"
    budget = f"the budget of {result.max_drop:g}"
    if result.holds and not result.kept:
        return f"{lost} with every layer quantized: {budget} holds, nothing needs to stay in float."
    count = f"{len(result.kept)} layer{'s' if len(result.kept) != 1 else ''}"
    if result.holds:
        more = "" if result.complete else " The trials were used up: fewer might do; raise max_trials to find out."
        return f"{lost} with {count} in float: {budget} holds.{more}"
    head = f"The budget cannot be kept: {lost} at the least, with {count} in float, over {budget}."
    if not result.complete:
        number = len(result.trials)
        spent = "The one trial was" if number == 1 else f"All {number} trials were"
        return f"{head} {spent} used up: raise max_trials to go on."
    return (
        f"{head} More layers in float, up to the last that has weights, do not help: calibrate on more samples or by "
        "another method, train after compression, or stay in float."
    )


def _honest(result: BudgetResult) -> str:
    allowed = result.max_drop * result.samples / 100
    share = f"{result.max_drop:g} points are {allowed:.3g} of {result.samples:,} samples"
    if allowed < 1 and result.max_drop:
        return f"{share}: not one may be lost, and chance alone decides; score on more samples."
    return f"{share}; other samples of the same kind may differ by a few of them."


def _cells(layer: LayerSensitivity, labelled: bool) -> tuple[str, ...]:
    values = (layer.local_sqnr_db, layer.only_sqnr_db, layer.all_but_sqnr_db)
    points = (_points(layer.only_drop), _points(layer.all_but_gain)) if labelled else ()
    return (layer.name, layer.op_type, *map(_decibel, values), *points)


def _kept_cells(layer: KeptLayer) -> tuple[str, ...]:
    times = (layer.float_ms, layer.int8_ms, layer.cost_ms)
    return (layer.name, _decibel(layer.sqnr_db), *("–" if ms is None else f"{ms:.4f}" for ms in times))


def _decibel(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.1f}" if math.isfinite(value) else "∞" if value > 0 else "-∞"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value + 0.0:.2f}"
