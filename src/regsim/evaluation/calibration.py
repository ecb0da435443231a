"""Fits the calibration of a predicted registration error on pairs of known error, and judges it on others.

Every subject has the same weight: its pairs share it equally, and so do the values (voxels, regions) of a pair.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.covariance import LedoitWolf

from regsim.errors import InputError, SettingsError
from regsim.evaluation.calibration_rows import CoveragePoint, CoverageRow, ReliabilityPoint
from regsim.metrics.error_calibration import (
    FEWEST_GUARANTEED,
    LEVELS,
    PROBABILITIES,
    ROUNDING,
    Calibration,
    Ellipsoid,
    Level,
    Summaries,
    attainable,
    scaled_residual,
)

Array = npt.NDArray[np.float64]
COVERAGES = (0.8, 0.9, 0.95)
CURVE = (*(round(0.05 * step, 2) for step in range(1, 20)), 0.98, 0.99)
BINS = 10
BAND = 0.9
FEWEST_HELD_OUT = 4
MAD_TO_DEVIATION = 1.4826
FARTHEST = 10.0
RIDGE = 1e-6


@dataclass(frozen=True)
class KnownError:
    """One pair with known error: what was predicted and what is true, in the unit of the calibration (mm).

    `subject`: pairs of one subject are not independent. `name`: of the pair, for messages. Arrays `(n,)`: voxels are a sample
    of those in the mask, regions all. `..._expected`, `..._truth`: >= 0. `..._spread`: of `log(error + 0.5)`, >= 0.
    `mean_...`: over the mask. `summary`: `(k,)`, alike for all pairs, what `drift` compares.
    """

    subject: str
    name: str
    voxel_expected: Array
    voxel_spread: Array
    voxel_truth: Array
    region_expected: Array
    region_spread: Array
    region_truth: Array
    mean_expected: float
    mean_spread: float
    mean_truth: float
    summary: Array

    def at(self, level: Level) -> tuple[Array, Array, Array]:
        """Expected error, spread and true error of one level, `(n,)` each, float64."""
        fields = (getattr(self, f"{level}_{what}") for what in ("expected", "spread", "truth"))
        expected, spread, truth = (np.atleast_1d(np.asarray(values, dtype=np.float64)) for values in fields)
        return expected, spread, truth


@dataclass(frozen=True)
class _Values:
    """All values of one level: `weights` sum to 1 for each subject; `owners` are numbers of `subjects`."""

    expected: Array
    spread: Array
    truth: Array
    weights: Array
    owners: npt.NDArray[np.int64]
    subjects: list[str]

    def mean(self, values: Array) -> float:
        """Mean with equal weights of subjects."""
        return float(np.average(values, weights=self.weights))

    def by_subject(self, values: npt.NDArray[np.bool_]) -> Array:
        """The share of each subject for which `values` are true."""
        found = np.zeros(len(self.subjects))
        np.add.at(found, self.owners, self.weights * values)
        return found.clip(0, 1)


def calibrate(
    pairs: Sequence[KnownError],
    model: str,
    description: str,
    unit: str,
    resolution: float = 0.0,
    fitted: Sequence[KnownError] = (),
) -> Calibration:
    """Fit a calibration; see `Calibration` for the formula and what it promises.

    Args:
        pairs: of subjects that the model did not learn from.
        model: whose predictions these are.
        description: what the pairs are, for those who read the file.
        unit: of the errors, such as "mm".
        resolution: lower bounds below it are 0.
        fitted: pairs of different contrasts that deformable registrations left; they get a calibration of their own where
            they are of two subjects at least, and none else.

    Raises:
        InputError: no pairs, one subject only, values that are not finite or negative, lengths that differ.
    """
    subjects = _check(pairs)
    if len(subjects) < 2:
        raise InputError(f"expected pairs of at least 2 subjects, got only '{subjects[0]}'")
    quantiles: dict[Level, tuple[float, ...]] = {}
    for level in LEVELS:
        values = _gather(pairs, level)
        scores = scaled_residual(values.truth, values.expected, values.spread)
        quantiles[level] = quantile_table(scores, values.weights, len(subjects))
    made = Calibration(
        model=model,
        description=description,
        unit=unit,
        subjects=len(subjects),
        pairs=len(pairs),
        voxels=sum(pair.voxel_truth.size for pair in pairs),
        resolution=resolution,
        quantiles=quantiles,
        summaries=_summaries(pairs, subjects),
    )
    curves = {level: tuple(map(_four, reliability(made, pairs, level))) for level in LEVELS}
    own = (
        calibrate(fitted, model, description, unit, resolution) if len({each.subject for each in fitted}) > 1 else None
    )
    return made.model_copy(update={"reliability": curves, "fitted": own})


def _four(point: ReliabilityPoint) -> tuple[float, float, float, float]:
    return point.predicted, point.observed, point.lower, point.upper


def quantile_table(scores: Array, weights: Array, subjects: int) -> tuple[float, ...]:
    """Quantiles of scores at `PROBABILITIES`, with the finite sample correction where so many subjects allow it.

    Above one half: the smallest score up to which the weight is `p (n + 1)` of n, as if a new subject's weight lay at
    infinity; below, its mirror image. Too few subjects: `p n`. A quantile is never nearer to the median than that of a
    less extreme probability.

    Args:
        scores: `(m,)`.
        weights: `(m,)`, of sum 1 for each subject.
        subjects: n.
    """
    outwards = [probability for probability in PROBABILITIES if probability > 0.5]
    above, below = _Distribution(scores, weights, subjects), _Distribution(-scores, weights, subjects)
    median = (above.plain(0.5) - below.plain(0.5)) / 2
    upper = np.maximum.accumulate([median, *(above.corrected(probability) for probability in outwards)])
    lower = np.maximum.accumulate([-median, *(below.corrected(probability) for probability in outwards)])
    return (*(-lower[:0:-1]).tolist(), *upper.tolist())


class _Distribution:
    """Weighted scores in order; a quantile is one of the scores."""

    def __init__(self, scores: Array, weights: Array, subjects: int):
        order = np.argsort(scores, kind="stable")
        self.scores, self.weight_up_to, self.subjects = scores[order], np.cumsum(weights[order]), subjects

    def plain(self, probability: float) -> float:
        return self._reaching(probability * self.subjects)

    def corrected(self, probability: float) -> float:
        enough = self.subjects >= FEWEST_GUARANTEED and attainable(probability, self.subjects)
        return self._reaching(probability * (self.subjects + 1)) if enough else self.plain(probability)

    def _reaching(self, weight: float) -> float:
        place = np.searchsorted(self.weight_up_to, weight - ROUNDING * self.subjects)
        return float(self.scores[min(int(place), self.scores.size - 1)])


def coverage_table(
    calibration: Calibration, pairs: Sequence[KnownError], coverages: Sequence[float] = COVERAGES
) -> list[CoverageRow]:
    """How often the truth lies in the intervals, and how wide they are: one row a level and coverage.

    Args:
        calibration: fitted on other subjects, else the figures flatter.
        pairs: at least one.
        coverages: nominal, from 0 to 0.99.

    Raises:
        InputError: no pairs, or values that are not finite or negative.
        SettingsError: a coverage beyond the calibration's table.
    """
    _check(pairs)
    gathered = {level: _gather(pairs, level) for level in LEVELS}
    return [_coverage_row(calibration, gathered[level], level, coverage) for level in LEVELS for coverage in coverages]


def coverage_curve(
    calibration: Calibration, pairs: Sequence[KnownError], level: Level, coverages: Sequence[float] = CURVE
) -> list[CoveragePoint]:
    """Observed against nominal coverage of one level; arguments and errors as for `coverage_table`."""
    _check(pairs)
    values = _gather(pairs, level)
    rows = (_coverage_row(calibration, values, level, coverage) for coverage in coverages)
    return [CoveragePoint(nominal=row.nominal, observed=row.observed) for row in rows]


def reliability(
    calibration: Calibration, pairs: Sequence[KnownError], level: Level, bins: int = BINS
) -> list[ReliabilityPoint]:
    """Mean true error against mean expected error, in bins of expected error that hold about equal weight.

    Fewer bins where expected errors are equal, or values are few. The band is the calibration's 90 % interval.

    Raises:
        InputError: no pairs, or values that are not finite or negative.
        SettingsError: no bins.
    """
    if bins < 1:
        raise SettingsError(f"expected at least 1 bin, got {bins}")
    _check(pairs)
    values = _gather(pairs, level)
    low, high = _interval(calibration, values, level, BAND)
    order = np.argsort(values.expected, kind="stable")
    reached = np.cumsum(values.weights[order]) - values.weights[order] / 2
    edges = values.expected[order][np.searchsorted(reached, reached[-1] * np.arange(1, bins) / bins)]
    places = np.searchsorted(np.unique(edges), values.expected, side="left")
    members = [places == place for place in np.unique(places)]
    return [
        ReliabilityPoint(
            predicted=float(np.average(values.expected[inside], weights=values.weights[inside])),
            observed=float(np.average(values.truth[inside], weights=values.weights[inside])),
            lower=float(np.average(low[inside], weights=values.weights[inside])),
            upper=float(np.average(high[inside], weights=values.weights[inside])),
            count=int(inside.sum()),
        )
        for inside in members
    ]


def _coverage_row(calibration: Calibration, values: _Values, level: Level, coverage: float) -> CoverageRow:
    low, high = _interval(calibration, values, level, coverage)
    above, below = values.truth > high + ROUNDING, values.truth < low - ROUNDING
    each = values.by_subject(~(above | below))
    widths = high - low
    return CoverageRow(
        level=level,
        nominal=coverage,
        observed=float(each.mean()),
        above=float(values.by_subject(above).mean()),
        below=float(values.by_subject(below).mean()),
        worst_subject=values.subjects[int(each.argmin())],
        worst_coverage=float(each.min()),
        mean_width=values.mean(widths),
        median_width=_Distribution(widths, values.weights, len(values.subjects)).plain(0.5),
        unit=calibration.unit,
        subjects=len(values.subjects),
        guaranteed=calibration.guaranteed(coverage),
    )


def _interval(calibration: Calibration, values: _Values, level: Level, coverage: float) -> tuple[Array, Array]:
    expected, spread = torch.from_numpy(values.expected), torch.from_numpy(values.spread)
    low, high = calibration.interval(expected, spread, coverage, level)
    return low.numpy(), high.numpy()


def _gather(pairs: Sequence[KnownError], level: Level) -> _Values:
    """All values of one level with their weights."""
    subjects = list(dict.fromkeys(pair.subject for pair in pairs))
    count = Counter(pair.subject for pair in pairs)
    found = [pair.at(level) for pair in pairs]
    sizes = [truth.size for _, _, truth in found]
    weights = [1 / (count[pair.subject] * size) for pair, size in zip(pairs, sizes, strict=True)]
    number = {subject: place for place, subject in enumerate(subjects)}
    expected, spread, truth = (np.concatenate([values[part] for values in found]) for part in range(3))
    owners = np.repeat(np.array([number[pair.subject] for pair in pairs], dtype=np.int64), sizes)
    return _Values(expected, spread, truth, np.repeat(weights, sizes), owners, subjects)


def _check(pairs: Sequence[KnownError]) -> list[str]:
    """Names of the subjects, once the pairs are known to be usable."""
    if not pairs:
        raise InputError("expected pairs of known error, got none")
    size = np.shape(pairs[0].summary)
    for pair in pairs:
        for level in LEVELS:
            values = pair.at(level)
            if any(part.ndim != 1 or part.size != values[0].size or not part.size for part in values):
                shapes = ", ".join(str(part.shape) for part in values)
                raise InputError(f"pair '{pair.name}', {level}: expected three arrays of one length, got {shapes}")
            if not all(np.isfinite(part).all() and (part >= 0).all() for part in values):
                raise InputError(f"pair '{pair.name}', {level}: holds values that are negative or not finite")
        if np.shape(pair.summary) != size or len(size) != 1 or not size[0]:
            raise InputError(f"pair '{pair.name}': expected a summary of {size}, got {np.shape(pair.summary)}")
        if not np.isfinite(pair.summary).all():
            raise InputError(f"pair '{pair.name}': its summary holds values that are not finite (NaN or Inf)")
    return list(dict.fromkeys(pair.subject for pair in pairs))


def _summaries(pairs: Sequence[KnownError], subjects: Sequence[str]) -> Summaries:
    """Centre, spread and distances; distances from the other subjects where there are enough."""
    table = np.stack([np.asarray(pair.summary, dtype=np.float64) for pair in pairs])
    owner = np.array([pair.subject for pair in pairs])
    place = _fitted(table)
    distances = []
    for subject in subjects:
        judge = _fitted(table[owner != subject]) if len(subjects) >= FEWEST_HELD_OUT else place
        distances.append(tuple(sorted(judge.distance(summary) for summary in table[owner == subject])))
    return Summaries(**place.model_dump(), distances=tuple(distances))


def _fitted(table: Array) -> Ellipsoid:
    """Median, robust deviation (the plain one, or 1, where that is 0) and shrunk covariance of summaries `(n, k)`.

    Values beyond 10 deviations count as 10 for the covariance.

    References:
        Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4.
    """
    centre: Array = np.median(table, axis=0)
    scale: Array = MAD_TO_DEVIATION * np.median(np.abs(table - centre), axis=0)
    scale = np.where(scale > 0, scale, table.std(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    standard = np.clip((table - centre) / scale, -FARTHEST, FARTHEST)
    covariance = LedoitWolf(assume_centered=True).fit(standard).covariance_ + RIDGE * np.eye(len(centre))
    precision = np.linalg.inv(covariance)
    return Ellipsoid(
        centre=tuple(centre.tolist()),
        scale=tuple(scale.tolist()),
        precision=tuple(tuple(row) for row in ((precision + precision.T) / 2).tolist()),
    )
