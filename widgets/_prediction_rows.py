"""Changed samples as HTML: a picture where there is one, the label, and what was said before and after."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from widgets._thumbnail import thumbnail
from workbench.comparison import Row
from workbench.measure.predictions import ChangedSample, Prediction


def sample_table(samples: Sequence[ChangedSample], images: NDArray[Any] | None) -> str:
    """A table row for each sample.

    Args:
        samples: What to show.
        images: The pictures of all samples of the dataset, by number; None if they are no pictures.
    """
    columns = ("sample", "label", "original", "", "candidate", "")
    head = "".join(f"<th>{column}</th>" for column in columns)
    return f'<table class="wb-list wb-samples"><tr>{head}</tr>{"".join(_row(s, images) for s in samples)}</table>'


def _row(sample: ChangedSample, images: NDArray[Any] | None) -> str:
    picture = ""
    if images is not None:
        picture = f'<img src="{thumbnail(images[sample.number])}" alt="sample {sample.number}">'
    cells = (
        f"{picture}<span>{sample.number}</span>",
        html.escape(sample.label) or "–",
        _prediction(sample.before),
        "→",
        _prediction(sample.after),
        f'<span class="wb-{sample.verdict}">{sample.verdict}</span>',
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _prediction(prediction: Prediction) -> str:
    text = html.escape(prediction.text)
    if prediction.score is None or prediction.text.endswith(f"{prediction.score:.2f}"):
        return text
    return f"{text} <small>{prediction.score:.2f}</small>"


def change_line(row: Row, samples: Sequence[ChangedSample], total: int) -> str:
    """What changed altogether, in a sentence, with the test against chance."""
    counts = {verdict: sum(s.verdict == verdict for s in samples) for verdict in ("lost", "gained", "changed")}
    parts = ", ".join(f"{count} {'neither' if name == 'changed' else name}" for name, count in counts.items() if count)
    tested = row.change is not None and bool(parts)
    words = f"{len(samples)} of {total} predictions of {row.name} changed{f': {parts}' if tested else ''}."
    if row.change is None or row.accuracy is None:
        return words
    difference = row.change.difference
    value, low, high = (f"{x:+.2f}".replace("-", "−") for x in (difference.value, difference.low, difference.high))
    chance = "more than chance explains" if row.change.significant else "no more than chance explains"
    p_value = f"p = {row.change.p_value:.2g}" if row.change.p_value >= 1e-4 else "p < 0.0001"
    return (
        f"{words} {row.accuracy.metric}: {value} points ({low} to {high}, 95 % interval), {chance} "
        f"({row.change.test}, {p_value})."
    )
