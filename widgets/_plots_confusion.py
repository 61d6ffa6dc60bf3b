"""The confusion matrix as a heat map: a function that returns data, and apart from it one that draws it."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.plotting import figure
from numpy.typing import NDArray

MOST_CLASSES = 50  # more cannot be told apart on a screen
_RIGHT, _WRONG = "#2f86c9", "#d55e00"  # read on white and on black
_NUMBERS = 20  # classes up to which the counts are written into the cells


def confusion_data(counts: NDArray[Any], original: NDArray[Any], dark: bool = False) -> dict[str, list[Any]]:
    """One entry per cell that holds samples: label, prediction, counts of candidate and original, colour and strength.

    Args:
        counts: Labels down, predictions across, of the candidate.
        original: The same of the original.
        dark: Whether the page is.
    """
    labels, taken = np.nonzero(counts + original)
    found = counts[labels, taken]
    shares = found / np.maximum(counts.sum(axis=1), 1)[labels]
    strength = np.where(labels == taken, 0.15 + 0.65 * shares, 0.15 + 0.85 * np.sqrt(shares)) * (found > 0)
    return {
        "label": [str(number) for number in labels],
        "taken": [str(number) for number in taken],
        "count": found.tolist(),
        "original": original[labels, taken].tolist(),
        "color": np.where(labels == taken, _RIGHT, _WRONG).tolist(),
        "alpha": strength.round(3).tolist(),
        "text": [str(count) if count else "" for count in found.tolist()],
        "ink": np.where((strength > 0.5) | dark, "#ffffff", "#222222").tolist(),
    }


def confusion_figure(counts: NDArray[Any], original: NDArray[Any], dark: bool = False) -> figure:
    """Draws the matrix: blue where the class is right, red where it is not, the stronger the more of its label."""
    classes = [str(number) for number in range(len(counts))]
    source = ColumnDataSource(confusion_data(counts, original, dark))
    side = min(520, 110 + 28 * len(classes))
    plot = figure(
        sizing_mode="stretch_width",
        max_width=side + 40,
        height=side,
        title="Confusion matrix of the candidate",
        x_range=classes,
        y_range=classes[::-1],
        x_axis_label="prediction",
        y_axis_label="label",
        tools="save",
        toolbar_location=None,
    )
    plot.grid.visible = False
    cells = plot.rect(
        "taken", "label", width=0.94, height=0.94, source=source, color="color", alpha="alpha", line_color=None
    )
    if len(classes) <= _NUMBERS:
        plot.text(
            "taken",
            "label",
            text="text",
            text_color="ink",
            source=source,
            text_align="center",
            text_baseline="middle",
            text_font_size="11px",
        )
    tips = [("label", "@label"), ("prediction", "@taken"), ("samples", "@count (original: @original)")]
    plot.add_tools(HoverTool(renderers=[cells], tooltips=tips))
    return plot
