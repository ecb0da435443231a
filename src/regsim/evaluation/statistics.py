"""Rank correlation, AUC, and intervals that respect that slices of one subject are not independent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from scipy.stats import t as student

from regsim.errors import InputError

Array = npt.NDArray[np.float64]
FEWEST_SUBJECTS = 3


def spearman(costs: Array, errors: Array) -> float:
    """Spearman's rank correlation in [-1, 1]; 0 where either is constant (a constant says nothing).

    >>> spearman(np.array([1.0, 2.0, 5.0]), np.array([0.1, 0.2, 0.3]))
    1.0
    """
    first, second = rankdata(costs), rankdata(errors)
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return round(float((first * second).sum()) / scale, 12) if scale > 0 else 0.0


def area_under_curve(aligned: Array, misaligned: Array) -> float:
    """The chance that a misaligned pair costs more than an aligned one, ties half: the AUC, 0.5 = says nothing.

    >>> area_under_curve(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    0.875
    """
    ranks = rankdata(np.concatenate([aligned, misaligned]))[len(aligned) :]
    n, m = len(aligned), len(misaligned)
    return float((ranks.sum() - m * (m + 1) / 2) / (n * m))


def interval(
    statistic: Callable[[Sequence[int]], float],
    subjects: Sequence[str],
    resamples: int,
    seed: int,
) -> tuple[float, float] | None:
    """A 95 % percentile bootstrap interval over subjects; None below three subjects.

    Args:
        statistic: from the numbers of the pairs (some of them several times) to a figure.
        subjects: whose each pair is. Subjects are drawn, with all their pairs.
        resamples: how many draws.
        seed: of the draws.

    References:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap.
    """
    groups = [[i for i, owner in enumerate(subjects) if owner == name] for name in dict.fromkeys(subjects)]
    if len(groups) < FEWEST_SUBJECTS or resamples == 0:
        return None
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(groups), (resamples, len(groups)), generator=generator).tolist()
    values = np.array([statistic([pair for group in draw for pair in groups[group]]) for draw in draws])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


@dataclass(frozen=True)
class Equivalence:
    """Paired differences, and whether they lie within a margin: `mean`, its 90 % interval, and the TOST's p value."""

    mean: float
    interval: tuple[float, float]
    probability: float


def equivalence(first: Array, second: Array, margin: float) -> Equivalence:
    """Two one-sided paired t-tests (TOST) of `-margin < mean(first - second) < margin`.

    `p = max(P(T > (mean + margin) / s), P(T < (mean - margin) / s))`, s the standard error, T Student's t with n - 1 degrees of
    freedom: below .05 the two are alike within the margin. "Not worse" alone is the first of both tests: the interval's
    lower end above -margin. Equal differences give p = 0 inside the margin, 1 outside.

    Example:
        >>> found = equivalence(np.array([0.50, 0.52, 0.55]), np.array([0.50, 0.521, 0.549]), 0.005)
        >>> round(found.mean, 4), found.probability < 0.05
        (0.0, True)

    References:
        Schuirmann, 1987, doi:10.1007/BF01068419.
    """
    if first.shape != second.shape or len(first) < 2:
        raise InputError(f"equivalence: needs two or more pairs, got {first.shape} and {second.shape}")
    gaps = first - second
    mean, error, free = float(gaps.mean()), float(gaps.std(ddof=1) / len(gaps) ** 0.5), len(gaps) - 1
    if error == 0:
        return Equivalence(mean, (mean, mean), float(abs(mean) >= margin))
    above, below = student.sf((mean + margin) / error, free), student.cdf((mean - margin) / error, free)
    reach = float(student.ppf(0.95, free)) * error
    return Equivalence(mean, (mean - reach, mean + reach), float(max(above, below)))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for how many there are.

    References:
        Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(values)
    corrected, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[int(place)] = round(largest, 12)
    return corrected
