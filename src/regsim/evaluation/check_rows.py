"""What `regsim check` says of one pair, as plain rows: the only thing that its page reads. No torch here.

A check's folder holds `check.json` (`CheckResults`), `run.json` (`Provenance`), `views.npz` (`Views`) and four maps.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from regsim.errors import InputError
from regsim.evaluation.results import ImageFacts, JacobianRow, Unit
from regsim.settings import Settings

CHECK = "check.json"
LEAST_LIKENESS = 0.8
RESOLVABLE, LARGEST = 0.25, 5.0
"""In working voxels: errors below the first and above the second are not told apart."""
Verdict = Literal["pass", "review", "fail", "cannot tell"]
Interval = tuple[float, float]
WITH_UNIT = ("expected_error", "interval")


class Limits(Settings):
    """What the verdict is judged by; lengths in the images' unit.

    `pass_at`, `fail_at`: errors up to the first pass, above the second fail. `working`: side of a working voxel.
    `fewest_voxels`: working voxels in the mask. `least_overlap`: share of the mask where both images have data.
    `some_unrelated`, `most_unrelated`: shares of the mask where the images seem unrelated, from which on a pair no longer
    passes, and beyond which nothing can be told. `drift_factor`: how many times farther from the calibration's pairs than
    95 % of them. `most_folded`, `too_folded`: shares of folding voxels from which on a pair no longer passes, and beyond which
    it fails. `least_likeness`: local correlation of the images below which a deformable registration does not pass.
    """

    pass_at: float = Field(gt=0)
    fail_at: float = Field(gt=0)
    working: float = Field(gt=0)
    fewest_voxels: float = Field(default=200, ge=0)
    least_overlap: float = Field(default=0.6, ge=0, le=1)
    some_unrelated: float = Field(default=0.1, ge=0, le=1)
    most_unrelated: float = Field(default=0.2, ge=0, le=1)
    drift_factor: float = Field(default=2.0, gt=0)
    most_folded: float = Field(default=0.01, ge=0, le=1)
    too_folded: float = Field(default=0.05, ge=0, le=1)
    least_likeness: float = Field(default=LEAST_LIKENESS, ge=-1, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.pass_at >= self.fail_at:
            raise ValueError(f"expected pass below fail, got pass {self.pass_at:g} and fail {self.fail_at:g}")
        return self

    @property
    def resolvable(self) -> float:
        """Errors below this are written as "< this"."""
        return RESOLVABLE * self.working

    @property
    def largest(self) -> float:
        """Errors above this are written as "> this"."""
        return LARGEST * self.working

    def text(self, error: float) -> str:
        """An error as far as it is known.

        >>> limits = Limits(pass_at=2, fail_at=4, working=2)
        >>> limits.text(0.2), limits.text(1.234), limits.text(12.0)
        ('< 0.5', '1.2', '> 10')
        """
        if error < self.resolvable:
            return f"< {self.resolvable:g}"
        digits = max(0, -math.floor(math.log10(self.resolvable)))
        return f"> {self.largest:g}" if error > self.largest else f"{error:.{digits}f}"

    def range_text(self, interval: Interval) -> str:
        """An interval as far as it is known.

        >>> Limits(pass_at=2, fail_at=4, working=2).range_text((0.1, 3.21))
        '< 0.5 to 3.2'
        """
        low, high = (self.text(end) for end in interval)
        return low if low == high else f"{low} to {high}"


class ScoreRow(Settings):
    """One metric of the pair over the mask. `drove`: it drove the registration, so it cannot judge it."""

    metric: str
    value: float | None
    higher_is_better: bool
    unit: str = ""
    drove: bool = False


class RegionRow(Settings):
    """One region: its mean error with an interval, its size, and the share where the images seem unrelated."""

    name: str
    expected: float = Field(ge=0)
    interval: Interval
    expected_text: str
    interval_text: str
    volume: float = Field(ge=0)
    voxels: int = Field(ge=1)
    unrelated: float = Field(ge=0, le=1)


class PlaceRow(Settings):
    """One of the worst places: `point` is physical (x, y(, z)), `plane` the plane in which it is shown."""

    point: tuple[float, ...]
    plane: str
    region: str
    expected: float = Field(ge=0)
    interval: Interval
    expected_text: str
    interval_text: str
    unrelated: float = Field(ge=0, le=1)


class Histogram(Settings):
    """Shares of the mask by local error; the last bin holds all beyond its start. `edges`: one more than bins."""

    edges: tuple[float, ...] = Field(min_length=2)
    expected: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if {len(self.expected), len(self.lower), len(self.upper)} != {len(self.edges) - 1}:
            raise ValueError(f"expected {len(self.edges) - 1} shares of each kind, one for each bin")
        return self


class Trust(Settings):
    """How far the numbers can be trusted.

    `distance`, `typical`: of the pair from the calibration's, see `Drift`. `reliability`: for voxels, regions and means, bins
    of the calibration's pairs: expected error, true error, and the ends of their 90 % interval, in the images' unit.
    """

    model: str
    data: tuple[str, ...] = ()
    licence: str = ""
    description: str
    subjects: int
    pairs: int
    guaranteed: bool
    distance: float
    typical: float
    p_value: float
    reliability: dict[str, tuple[tuple[float, float, float, float], ...]] = Field(default_factory=dict)


class CheckResults(Settings):
    """All that a check found out.

    `expected_error`: mean over the mask, with `interval` at `coverage`, in `unit`; `_text`: the same as far as it is known.
    `overlap`: share of what was asked about where the moved image has data. `unrelated`: share of the mask where the images
    seem unrelated. `voxels`: working voxels in the mask. `moved_kind`: how the moved image came onto the fixed grid.
    """

    schema_version: Literal[1] = 1
    title: str
    unit: Unit
    expected_error: float = Field(ge=0)
    interval: Interval
    expected_text: str
    interval_text: str
    coverage: float = Field(gt=0, lt=1)
    verdict: Verdict
    reason: str
    regions: tuple[RegionRow, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    places: tuple[PlaceRow, ...] = ()
    overlap: float = Field(ge=0, le=1)
    unrelated: float = Field(ge=0, le=1)
    voxels: float = Field(ge=0)
    volume_unit: str
    limits: Limits
    fixed: ImageFacts
    moved: ImageFacts
    jacobian: JacobianRow | None = None
    histogram: Histogram
    trust: Trust
    notes: tuple[str, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)
    seconds: float = Field(default=0.0, ge=0)

    def to_json(self) -> str:
        """As JSON; the names of the two numbers that matter end in the unit: `expected_error_mm`, `interval_px`."""
        values: dict[str, Any] = {}
        first = (*WITH_UNIT, "coverage", "verdict", "reason", "regions", "scores")
        known = self.model_dump(mode="json")
        for name in (*first, *known):
            values[f"{name}_{self.unit}" if name in WITH_UNIT else name] = known[name]
        return json.dumps(values, indent=1, allow_nan=False)

    @classmethod
    def of_json(cls, path: Path) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InputError: missing, or not the results of a check.
        """
        if not path.is_file():
            raise InputError(f"{path}: expected the results of a check, found no such file; run `regsim check` first")
        try:
            values = json.loads(path.read_bytes())
            unit = values["unit"]
            return cls.model_validate({_plain(name, unit): value for name, value in values.items()})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "file"
            raise InputError(f"{path}: not the results of a check: {where}: {first['msg']}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: not the results of a check") from None


def _plain(name: str, unit: str) -> str:
    bare = name.removesuffix(f"_{unit}")
    return bare if bare in WITH_UNIT else name
