"""How well a calibration of predicted errors holds, as plain rows for the report. No torch here."""

from typing import Literal

from pydantic import Field

from regsim.settings import Settings

Level = Literal["voxel", "region", "mean"]


class CoverageRow(Settings):
    """One central interval on pairs of known error; every subject has the same weight.

    `nominal`, `observed`: share of true errors inside, as promised and as found. `above`, `below`: share beyond the upper
    and the lower bound. `worst_coverage`: of the subject with the least. Widths (upper - lower) in `unit`. `guaranteed`:
    the calibration had subjects enough for the finite sample guarantee.
    """

    level: Level
    nominal: float = Field(ge=0, le=1)
    observed: float = Field(ge=0, le=1)
    above: float = Field(ge=0, le=1)
    below: float = Field(ge=0, le=1)
    worst_subject: str
    worst_coverage: float = Field(ge=0, le=1)
    mean_width: float = Field(ge=0)
    median_width: float = Field(ge=0)
    unit: str
    subjects: int = Field(ge=1)
    guaranteed: bool


class CoveragePoint(Settings):
    """One point of the curve of observed against nominal coverage."""

    nominal: float = Field(ge=0, le=1)
    observed: float = Field(ge=0, le=1)


class ReliabilityPoint(Settings):
    """One bin of expected errors: means over the bin, in the calibration's unit, every subject with the same weight.

    `predicted`: expected error. `observed`: true error. `lower`, `upper`: bounds of the 90 % interval. `count`: values.
    """

    predicted: float = Field(ge=0)
    observed: float = Field(ge=0)
    lower: float = Field(ge=0)
    upper: float = Field(ge=0)
    count: int = Field(ge=1)
