"""The stored calibration of a predicted registration error: from an expected error and its spread to bounds that hold.

`regsim.evaluation.calibration` fits it on pairs whose true error is known; here it is read, checked and applied.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator

from regsim.errors import InputError, SettingsError, unknown_name
from regsim.output import write_text
from regsim.settings import Settings

FORMAT = 1
LARGEST_FILE = 2**24
OFFSET = 0.5
LEAST_SPREAD = 0.02
FEWEST_GUARANTEED = 19
"""From so many subjects on bounds are guaranteed: with fewer the correction makes all of them as wide as the largest error."""
LARGEST_EXPONENT = 30.0
ROUNDING = 1e-9
LOWER_HALF = (0.005, 0.01, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
PROBABILITIES = (*LOWER_HALF, 0.5, *(round(1 - probability, 6) for probability in reversed(LOWER_HALF)))

Level = Literal["voxel", "region", "mean"]
LEVELS: tuple[Level, ...] = get_args(Level)
Array = npt.NDArray[np.float64]
Values = TypeVar("Values", float, torch.Tensor)


class Drift(Settings):
    """How far a pair lies from the pairs of the calibration.

    `distance`: Mahalanobis distance of its summary, >= 0, without unit. `typical`: the 95 % quantile of the
    calibration's own distances. `p_value`: the rank of `distance` among the n calibration pairs, in (0, 1],
    `(1 + #{pairs as far or farther}) / (n + 1)`. `p_value_by_subject`: the same with every subject counted once, by the
    share of its pairs. Pairs of one subject are alike, so where subjects have several pairs only this one is a strict
    test; it cannot fall below `1 / (subjects + 1)`.
    """

    distance: float = Field(ge=0)
    typical: float = Field(ge=0)
    p_value: float = Field(gt=0, le=1)
    p_value_by_subject: float = Field(gt=0, le=1)


class Ellipsoid(Settings):
    """Where summaries lie: a centre and the lengths by which they spread.

    `centre`, `scale`: median and robust standard deviation of each entry, `(k,)`. `precision`: the inverse covariance of
    `(summary - centre) / scale`, `(k, k)`.
    """

    centre: tuple[float, ...] = Field(min_length=1)
    scale: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        size = len(self.centre)
        if [len(self.scale), len(self.precision), *(len(row) for row in self.precision)] != [size] * (size + 2):
            raise ValueError(f"expected 'scale' of length {size} and 'precision' of {size} x {size}, as 'centre' is")
        if min(self.scale) <= 0:
            raise ValueError("expected a positive 'scale'")
        matrix = np.array(self.precision)
        if not np.allclose(matrix, matrix.T, rtol=1e-6) or np.linalg.eigvalsh(matrix)[0] <= 0:
            raise ValueError("expected a 'precision' that is symmetric and positive definite")
        return self

    def distance(self, summary: Array) -> float:
        """Mahalanobis distance of one summary, `sqrt(z' P z)` with `z = (summary - centre) / scale`."""
        z = (summary - np.array(self.centre)) / np.array(self.scale)
        return math.sqrt(max(0.0, float(z @ np.array(self.precision) @ z)))


class Summaries(Ellipsoid):
    """Where the summaries of the calibration pairs lie, and their `distances`: one list a subject, rising."""

    distances: tuple[tuple[float, ...], ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if not all(each and each[0] >= 0 and _rises(each) for each in self.distances):
            raise ValueError("expected 'distances' of every subject that are >= 0 and rise")
        return self


class Calibration(Settings):
    """Split conformal calibration of predicted errors, one-sided and locally scaled.

    With expected error e (mm, >= 0), spread s (of `log(error + D)`, at least 0.02), true error t and D = 0.5 mm:

        r = (log(t + D) - log(e + D)) / s                        score of a calibration value
        bound at probability p = exp(log(e + D) + Q(p) s) - D    at least 0; Q(p): the quantile of the scores

    Lower bounds below `resolution` are 0: errors that small are not told apart from none.

    The score is scaled by s, so a spread that is too wide is shrunk and one that is too narrow is widened. A constant
    that is added to quantiles (conformal quantile regression) cannot shrink an interval by a factor, and a true error
    that is often exactly 0 puts many equal values (an atom) into plain residuals, where quantiles say nothing; here the
    logarithm, the offset D and the spread keep them apart.

    `quantiles`: Q of each level at `probabilities`, interpolated in between. Below one half Q is the quantile with the
    finite sample correction towards minus infinity, above it the one towards infinity. Each subject has the same weight,
    and with n subjects a new one has 1 / (n + 1): a random value (voxel or region of a random pair, or pair) of a new
    subject lies beyond the bound with at most the stated probability, if that subject was drawn like those of the
    calibration. It holds on average over subjects, not for each subject, voxel or size of error. Its price: where subjects
    have many values the bound is the quantile at `p (n + 1) / n`, so with 39 subjects a 90 % interval covers about 95 %.
    Where n is too small for the guarantee (`guaranteed`), and for any probability below 19 subjects, Q is the quantile of the
    calibration subjects themselves, without the correction.

    Levels: "voxel" (one voxel), "region" (the mean over one region), "mean" (the mean over the mask); for the last two e
    and s are the means over the voxels.

    `reliability`: for readers, not used: means of expected error, true error and bounds of the 90 % interval in bins of
    expected error of the calibration's own pairs.

    `fitted`: the same for pairs of different contrasts that a deformable registration has made fit; None where no such pairs
    were at hand. Their images match where they do not belong together, so `middle` says what is left, not the expected error.

    References:
        Dunn, Wasserman and Ramdas 2022, doi:10.1080/01621459.2022.2060112 (subjects of many values).
        Lee, Barber and Willett 2023, doi:10.48550/arXiv.2306.06342 (the weight 1 / (n + 1) of a new subject).
        Lei, G'Sell, Rinaldo, Tibshirani and Wasserman 2018, doi:10.1080/01621459.2017.1307116 (locally scaled scores).
    """

    format: int = FORMAT
    model: str = Field(min_length=1, max_length=100)
    description: str = Field(max_length=2000)
    unit: str = Field(min_length=1, max_length=10)
    subjects: int = Field(ge=2)
    pairs: int = Field(ge=2)
    voxels: int = Field(ge=2)
    resolution: float = Field(default=0.0, ge=0, le=100)
    probabilities: tuple[float, ...] = PROBABILITIES
    quantiles: dict[Level, tuple[float, ...]]
    reliability: dict[Level, tuple[tuple[float, float, float, float], ...]] = Field(default_factory=dict)
    summaries: Summaries
    fitted: "Calibration | None" = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        grid = self.probabilities
        if len(grid) < 2 or not (_rises(grid, strictly=True) and 0 < grid[0] < 0.5 < grid[-1] < 1):
            raise ValueError("expected 'probabilities' that rise, between 0 and 1, on both sides of 0.5")
        missing = [level for level in LEVELS if level not in self.quantiles]
        if missing:
            raise ValueError(f"'quantiles' of level '{missing[0]}' are missing")
        for level, table in self.quantiles.items():
            if len(table) != len(grid):
                raise ValueError(f"expected {len(grid)} quantiles of level '{level}', got {len(table)}")
            if not _rises(table):
                raise ValueError(f"quantiles of level '{level}' fall somewhere; they must not")
        counts = [len(distances) for distances in self.summaries.distances]
        if len(counts) != self.subjects or sum(counts) != self.pairs:
            raise ValueError(
                f"expected distances of {self.pairs} pairs of {self.subjects} subjects, got {sum(counts)} of {len(counts)}"
            )
        return self

    @classmethod
    def of_json(cls, path: str | Path) -> Self:
        """Read a calibration file.

        Raises:
            InputError: missing, too large, not JSON, of another format, or with values that no calibration has.
        """
        values = _read(Path(path))
        version = values.get("format")
        if version != FORMAT or isinstance(version, bool):
            raise InputError(f"'{path}': expected a calibration of format {FORMAT}, its 'format' is {version!r}")
        try:
            return cls.checked(values)
        except SettingsError as problem:
            raise InputError(f"'{path}': {problem}") from None

    def write(self, path: str | Path) -> None:
        """Write the calibration as JSON, in one piece.

        Raises:
            InputError: the folder does not exist or cannot be written.
        """
        write_text(Path(path), json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")

    def upper(self, expected: Values, spread: Values, probability: float, level: Level) -> Values:
        """The error that is not exceeded with this probability, in the unit of `expected`, >= 0.

        Args:
            expected: expected error, >= 0; a number, or a tensor of any shape. NaN stays NaN.
            spread: of `log(error + D)`, alike; raised to 0.02 where it is less.
            probability: that the bound holds, one-sided; from 0.5 to the end of the table (0.995).
            level: what `expected` is the error of: "voxel", "region" or "mean".

        Raises:
            SettingsError: a probability beyond the table, or a level that is not there.
            InputError: a negative error or spread.
        """
        return _bound(expected, spread, self._quantile(_one_sided(probability), level))

    def lower(self, expected: Values, spread: Values, probability: float, level: Level) -> Values:
        """The error that is reached or exceeded with this probability, 0 where that is below `resolution`; else as `upper`."""
        return self._resolved(_bound(expected, spread, self._quantile(1 - _one_sided(probability), level)))

    def interval(self, expected: Values, spread: Values, coverage: float, level: Level) -> tuple[Values, Values]:
        """The central interval, `(lower, upper)`: the truth lies above or below it with `(1 - coverage) / 2` each.

        Args:
            expected: as for `upper`.
            spread: as for `upper`.
            coverage: from 0 to 0.99.
            level: as for `upper`.

        Raises:
            SettingsError: a coverage beyond the table, or a level that is not there.
            InputError: a negative error or spread.
        """
        tail = _tail(coverage)
        return (
            self._resolved(_bound(expected, spread, self._quantile(tail, level))),
            _bound(expected, spread, self._quantile(1 - tail, level)),
        )

    def middle(self, expected: Values, spread: Values, level: Level) -> Values:
        """The median of the true error, in the unit of `expected`; arguments and errors as for `upper`."""
        return _bound(expected, spread, self._quantile(0.5, level))

    def _resolved(self, lower: Values) -> Values:
        if isinstance(lower, torch.Tensor):
            return torch.where(lower < self.resolution, torch.zeros_like(lower), lower)  # NaN stays NaN
        return 0.0 if lower < self.resolution else lower

    def guaranteed(self, coverage: float) -> bool:
        """Whether there are subjects enough for the bounds of this central interval to hold for a new subject.

        `(1 - coverage) / 2 >= 1 / (subjects + 1)`: 19 subjects for 90 %, 39 for 95 %. A one-sided probability p needs as
        many as the coverage `2 p - 1`. Between the table's probabilities the guarantee is that of the next one inwards.

        Raises:
            SettingsError: a coverage outside [0, 1).
        """
        return self.subjects >= FEWEST_GUARANTEED and attainable(1 - _tail(coverage), self.subjects)

    def drift(self, summary: torch.Tensor | Array | list[float] | tuple[float, ...]) -> Drift:
        """How far a pair's summary lies from those of the calibration; bounds say little about a pair that is far.

        The calibration's distances were measured from the other subjects where there are 4 subjects or more.

        Raises:
            InputError: a summary of another length, or not finite.
        """
        given = np.asarray(summary.detach().cpu() if isinstance(summary, torch.Tensor) else summary, dtype=np.float64)
        size = len(self.summaries.centre)
        if given.shape != (size,):
            raise InputError(f"summary: expected ({size},), as in the calibration, got {given.shape}")
        if not np.isfinite(given).all():
            raise InputError("summary: holds values that are not finite (NaN or Inf)")
        distance = self.summaries.distance(given)
        shares = [np.mean(np.array(distances) >= distance) for distances in self.summaries.distances]
        every = np.concatenate([np.array(distances) for distances in self.summaries.distances])
        return Drift(
            distance=distance,
            typical=float(np.quantile(every, 0.95)),
            p_value=(1 + int((every >= distance).sum())) / (every.size + 1),
            p_value_by_subject=(1 + float(np.sum(shares))) / (len(shares) + 1),
        )

    def _quantile(self, probability: float, level: Level) -> float:
        """Q at a probability, interpolated."""
        if level not in self.quantiles:
            raise unknown_name("level", str(level), list(LEVELS))
        first, last = self.probabilities[0], self.probabilities[-1]
        if not first - ROUNDING <= probability <= last + ROUNDING:
            raise SettingsError(
                f"the calibration goes from probability {first:g} to {last:g}, asked for {probability:.6g}; "
                f"a central interval covers {1 - 2 * max(first, 1 - last):.6g} at most"
            )
        return float(np.interp(probability, self.probabilities, self.quantiles[level]))


def scaled_residual(truth: Array, expected: Array, spread: Array) -> Array:
    """The score of a calibration value, `(log(t + D) - log(e + D)) / s`, s at least 0.02; 0 = exactly as expected.

    >>> float(scaled_residual(np.array([0.5]), np.array([0.0]), np.array([0.5])).round(4)[0])
    1.3863
    """
    scores: Array = (np.log(truth + OFFSET) - np.log(expected + OFFSET)) / np.maximum(spread, LEAST_SPREAD)
    return scores


def attainable(probability: float, subjects: int) -> bool:
    """Whether so many subjects give a finite one-sided bound that holds for a new one: `p (n + 1) <= n`.

    >>> attainable(0.95, 19), attainable(0.95, 18)
    (True, False)
    """
    return probability * (subjects + 1) <= subjects * (1 + ROUNDING)


def _bound(expected: Values, spread: Values, quantile: float) -> Values:
    if isinstance(expected, torch.Tensor):
        return _tensor_bound(expected, torch.as_tensor(spread, dtype=expected.dtype, device=expected.device), quantile)
    both = torch.tensor([expected, spread], dtype=torch.float64)
    return float(_tensor_bound(both[0], both[1], quantile))


def _tensor_bound(expected: torch.Tensor, spread: torch.Tensor, quantile: float) -> torch.Tensor:
    """`(e + D) exp(Q s) - D`, written so that a small change of e is not lost in float32, and no bound overflows."""
    if bool((expected < 0).any()) or bool((spread < 0).any()):
        raise InputError("expected errors and spreads must not be negative")
    if expected.dtype not in (torch.float32, torch.float64):
        expected, spread = expected.float(), spread.float()
    exponent = (spread.clamp(min=LEAST_SPREAD) * quantile).clamp(max=LARGEST_EXPONENT)
    return (expected + (expected + OFFSET) * torch.expm1(exponent)).clamp(min=0)


def _one_sided(probability: float) -> float:
    if not 0.5 <= probability < 1:
        raise SettingsError(f"expected a probability from 0.5 to below 1, got {probability:g}")
    return probability


def _tail(coverage: float) -> float:
    if not 0 <= coverage < 1:
        raise SettingsError(f"expected a coverage from 0 to below 1, got {coverage:g}")
    return (1 - coverage) / 2


def _rises(values: tuple[float, ...], strictly: bool = False) -> bool:
    steps = np.diff(np.array(values))
    return bool((steps > 0).all() if strictly else (steps >= 0).all())


def _read(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        with path.open("rb") as stream:
            text = stream.read(LARGEST_FILE + 1)
    except OSError as problem:
        raise InputError(f"calibration '{path}': cannot be read ({problem.strerror})") from None
    if len(text) > LARGEST_FILE:
        raise InputError(f"'{path}': larger than any calibration ({LARGEST_FILE:,} bytes)")
    try:
        values = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        reason = "nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        raise InputError(f"'{path}': not JSON ({reason})") from None
    if not isinstance(values, dict):
        raise InputError(f"'{path}': not a calibration (a JSON object)")
    return values
