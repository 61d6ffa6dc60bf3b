"""Figures in words: what findings are written with."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.measure.statistics import Estimate

_MOST_NAMES = 3


def in_ms(value: float) -> str:
    """A time with three significant digits; below a hundredth of a millisecond in microseconds."""
    if abs(value) < 0.00995:
        return f"{1000 * value:.2g} µs"
    return f"{value:.0f} ms" if abs(value) >= 99.95 else f"{_three_digits(value)} ms"


def in_percent(share: float) -> str:
    """A share without decimals, as the profiles it comes from know it no better; below 1 % with one."""
    return f"{100 * share:.1f} %" if 0 < 100 * share < 0.95 else f"{100 * share:.0f} %"


def in_times(ratio: Estimate) -> str:
    """A ratio and its interval, e.g. `2.4 × (2.3–2.5)`."""
    digits = 2 if ratio.value < 2 or ratio.high - ratio.low < 0.1 else 1
    return f"{ratio.value:.{digits}f} × ({ratio.low:.{digits}f}–{ratio.high:.{digits}f})"


def name_some(names: Sequence[str]) -> str:
    """The first names, and how many there are besides."""
    shown = [f"'{name}'" for name in names[:_MOST_NAMES]]
    rest = len(names) - len(shown)
    if rest:
        return f"{', '.join(shown)} and {rest} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def count_of(number: int, noun: str) -> str:
    """A number and its noun in the right form, e.g. `2 layers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def are(number: int) -> str:
    """The verb that goes with a number."""
    return "is" if number == 1 else "are"


def _three_digits(value: float) -> str:
    size = abs(value)
    return f"{value:.{1 if size >= 9.995 else 2 if size >= 0.9995 else 3}f}"
