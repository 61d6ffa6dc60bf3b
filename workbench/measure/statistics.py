"""Percentiles, ratios and shares with their 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Timings: TypeAlias = NDArray[np.float64]

_RESAMPLES = 400
_RESAMPLED = 20_000  # timings at most that are resampled: each round's order statistics, thinned out evenly
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
_SAMPLES_BEYOND = 5  # a percentile is reported only if this many samples are expected beyond it
_RESOLUTION = 0.005  # ratios nearer to each other than this differ by where processes happened to lie in memory
# 97.5 % quantiles of Student's t distribution for 1 to 15 degrees of freedom; importing scipy.stats takes 2 s.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_FEWEST_LAUNCHES = 3  # below, Student's interval is too wide to be of use


@dataclass(frozen=True)
class Estimate:
    """A measured value and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half the interval as a share of the value."""
        return (self.high - self.low) / 2 / self.value if self.value else 0.0

    @property
    def differs_from_1(self) -> bool:
        """Whether a ratio is more than chance."""
        return not self.low <= 1 <= self.high


def percentiles(rounds: Sequence[Timings], shares: Sequence[float]) -> list[Estimate | None]:
    """Percentiles over all rounds; their intervals resample whole rounds (block bootstrap).

    Resampling single timings would take neighbours, which share the machine's state, for independent.
    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13 (percentile interval) and 8.6 (blocks).

    Args:
        rounds: Timings of each round.
        shares: 0.5 for the median, and so on.

    Returns:
        One estimate per share, or None where too few samples lie beyond the percentile to say anything.
    """
    samples = np.concatenate(rounds)
    values = np.quantile(samples, shares)
    step = max(1, len(samples) // _RESAMPLED)
    thin = [np.sort(times)[min(step // 2, len(times) - 1) :: step] for times in rounds]
    draws = [np.quantile(np.concatenate([thin[i] for i in pick]), shares) for pick in _picks(len(rounds))]
    lows, highs = np.quantile(draws, [0.025, 0.975], axis=0)
    return [
        Estimate(float(value), float(low), float(high))
        if len(samples) * min(share, 1 - share) >= _SAMPLES_BEYOND - 1e-9
        else None
        for share, value, low, high in zip(shares, values, lows, highs, strict=True)
    ]


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Estimate:
    """The ratio of two quantities measured next to each other, so that what slows a launch down cancels out.

    With three pairs or more, Student's interval of the mean logarithm: pairs come from processes of their own, so it
    holds what differs from process to process too (Kalibera & Jones, Rigorous Benchmarking in Reasonable Time, 2013).
    With fewer, the smallest and the largest ratio. It is never narrower than ±0.5 %.

    Args:
        numerator: One value per launch.
        denominator: The other's value in the same launches.
    """
    logs = np.log(np.asarray(numerator, float) / np.asarray(denominator, float))
    centre, count = float(logs.mean()), len(logs)
    if count >= _FEWEST_LAUNCHES:
        t = _T[count - 2] if count - 2 < len(_T) else _Z
        half = t * float(logs.std(ddof=1)) / math.sqrt(count)
    else:
        half = float(np.abs(logs - centre).max())
    half = math.hypot(half, _RESOLUTION) if np.any(logs) else 0.0
    return Estimate(math.exp(centre), math.exp(centre - half), math.exp(centre + half))


def share_interval(hits: int, total: int) -> Estimate:
    """A share with its Wilson score interval (Wilson, JASA 22, 1927; (4) in Brown et al., Stat. Sci. 16, 2001).

    By hand, since importing scipy.stats takes longer than everything else that scoring does.
    """
    share = hits / total
    centre = (share + _Z**2 / (2 * total)) / (1 + _Z**2 / total)
    half = _Z / (1 + _Z**2 / total) * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def paired_p_value(only_first: int, only_second: int) -> float:
    """Exact McNemar test: could two models that disagree this way be equally good? (McNemar, Psychometrika 12, 1947)

    Args:
        only_first: Samples that only the first got right.
        only_second: Samples that only the second got right.
    """
    count = only_first + only_second
    # Twice the smaller tail of the binomial distribution with share 1/2, in logarithms so that nothing overflows.
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    tail = np.arange(min(only_first, only_second) + 1)
    terms = log_factorial[count] - log_factorial[tail] - log_factorial[count - tail] - count * math.log(2)
    return min(1.0, 2 * float(np.exp(terms).sum()))


def _picks(count: int) -> NDArray[np.intp]:
    """Resampled indices, the same ones every time so that a result can be reproduced."""
    return np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
