"""What a check measures: the estimate of the error with its bounds, by region and by place, as rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import Field

from regsim.applications.check_pair import CheckPair, default_working
from regsim.applications.check_regions import Region, region_at, worst_places
from regsim.errors import InputError
from regsim.evaluation.check_rows import Histogram, Interval, Limits, PlaceRow, RegionRow, Trust
from regsim.images.grid import Grid
from regsim.metrics import registration_error
from regsim.metrics.error_calibration import Calibration
from regsim.metrics.registration_error import ErrorEstimate, RegistrationError
from regsim.settings import Settings

SCORES = ("mind", "nmi", "lncc", "ncc", "siamregqc")
BINS = 40
SURE = 0.5


class CheckSettings(Settings):
    """How a pair is judged.

    Args:
        model: of `registration_error`, a bundled one or a folder; empty: the bundled one for the images' dimension.
        calibration: a file; None: the model's own.
        coverage: of all intervals.
        pass_at, fail_at: see `Limits`; one and two working voxels where not given.
        working: side of a working voxel; 0: the model's own (2 mm), in pixels see `check_pair.default_working`.
        driver: metrics that drove the registration.
        scores: metrics that are shown beside it.
    """

    model: str = ""
    calibration: Path | None = None
    coverage: float = Field(default=0.9, gt=0, lt=1)
    pass_at: float | None = Field(default=None, gt=0)
    fail_at: float | None = Field(default=None, gt=0)
    working: float = Field(default=0.0, ge=0)
    driver: tuple[str, ...] = ()
    scores: tuple[str, ...] = SCORES


@dataclass(frozen=True)
class Judge:
    """The metric for one grid, its calibration, and the limits."""

    metric: RegistrationError
    calibration: Calibration
    coverage: float
    limits: Limits
    fitted: bool = False

    def of_fitted(self) -> "Judge":
        """For images of different contrasts that a deformable registration made fit; the same where nothing is known of such."""
        own = self.calibration.fitted
        if own is None:
            return self
        # Whether the pair is like others is asked of all pairs.
        own = own.model_copy(update={"summaries": self.calibration.summaries})
        return replace(self, calibration=own, fitted=True)

    @classmethod
    def of(cls, settings: CheckSettings, grid: Grid) -> "Judge":
        """For images on this grid.

        Raises:
            InputError: a model of another metric or dimension, or a calibration of another model.
            SettingsError: limits out of order, a coverage beyond the calibration.
        """
        model = settings.model or registration_error.MODELS[grid.ndim]
        own = RegistrationError(model).settings(grid.ndim).spacing
        working = settings.working or default_working(grid, own)
        metric = RegistrationError(model, tuple(reversed(grid.spacing)), working)
        name = metric.cards[grid.ndim].name
        source = settings.calibration
        calibration = metric.calibration(grid.ndim) if source is None else Calibration.of_json(source)
        if calibration.model != name:
            raise InputError(
                f"the calibration is of model '{calibration.model}', the model is '{name}'; give one made with this model"
            )
        calibration.interval(
            0.0, 0.0, settings.coverage, "mean"
        )  # a coverage beyond the table is an error now, not later
        limits = Limits.checked(
            {
                "pass_at": settings.pass_at or working,
                "fail_at": settings.fail_at or 2 * working,
                "working": working,
            }
        )
        return cls(metric, calibration, settings.coverage, limits)

    def measure(self, part: CheckPair, device: str) -> "Measured":
        """The estimate for one pair, and its maps.

        Raises:
            InputError: too many working voxels, or a model that cannot take such images.
        """
        images = [image.batch.to(device) for image in (part.fixed, part.moved)]
        mask, held = (each[None, None].float().to(device) for each in (part.mask, part.held))
        found = self.metric.to(device).estimate(images[0], images[1], mask, held)
        lower, upper = found.bounds(self.calibration, self.coverage)
        expected = found.expected
        if self.fitted:
            expected = self.calibration.middle(expected / found.scale, found.spread, "voxel") * found.scale
        maps = (expected, lower, upper, found.unrelated)
        return Measured(self, part, found, *(each[0, 0].cpu() for each in maps))


@dataclass(frozen=True)
class Measured:
    """The estimate for one pair. Maps are `(*shape)`, of the part that was looked at, in the images' unit."""

    judge: Judge
    part: CheckPair
    estimate: ErrorEstimate
    expected: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    unrelated: torch.Tensor

    @property
    def voxels(self) -> float:
        """Working voxels in the mask."""
        return float(self.part.mask.sum()) * self.voxel / self.judge.limits.working**self.part.fixed.ndim

    @property
    def voxel(self) -> float:
        """Volume (area) of one voxel of the images."""
        return float(torch.tensor(self.part.fixed.grid.spacing, dtype=torch.float64).prod())

    @property
    def value(self) -> float:
        """The mean error that is expected: the estimate's, or what such pairs have where the estimate cannot be believed."""
        found, judge = self.estimate, self.judge
        if not judge.fitted:
            return found.value
        return judge.calibration.middle(found.value / found.scale, found.mean_spread, "mean") * found.scale

    def interval(self) -> Interval:
        """Of the mean error."""
        return self.estimate.interval(self.judge.calibration, self.judge.coverage)

    def region_rows(self, regions: Sequence[Region]) -> list[RegionRow]:
        """One row a region, the worst first by its upper bound."""
        rows = [self._region(region) for region in regions]
        return sorted(rows, key=lambda row: -row.interval[1])

    def place_rows(self, regions: Sequence[Region], plane: str) -> list[PlaceRow]:
        """The worst places, the worst first."""
        grid, limits = self.part.fixed.grid, self.judge.limits
        rows = []
        for place in worst_places(self.expected, self.part.mask, grid, limits.working):
            index = torch.tensor(place[::-1], dtype=torch.float64)
            expected = float(self.expected[place])
            ends = (float(self.lower[place]), float(self.upper[place]))
            rows.append(
                PlaceRow(
                    point=tuple(grid.index_to_physical(index).tolist()),
                    plane=plane,
                    region=region_at(place, regions),
                    expected=expected,
                    interval=ends,
                    expected_text=limits.text(expected),
                    interval_text=limits.range_text(ends),
                    unrelated=float(self.unrelated[place]),
                )
            )
        return rows

    def histogram(self) -> Histogram:
        """Shares of the mask by expected error, lower and upper bound."""
        edges = torch.linspace(0, self.judge.limits.largest, BINS + 1)
        shares = []
        for values in (self.expected, self.lower, self.upper):
            inside = values[self.part.mask].clamp(0, float(edges[-1]))
            counts = torch.histc(inside.float(), BINS, 0, float(edges[-1]))
            shares.append(tuple((counts / counts.sum()).tolist()))
        return Histogram(edges=tuple(edges.tolist()), expected=shares[0], lower=shares[1], upper=shares[2])

    def trust(self) -> Trust:
        """What the numbers rest on."""
        calibration, card = self.judge.calibration, self.judge.metric.cards[self.part.fixed.ndim]
        drift = calibration.drift(self.estimate.summary)
        scale = self.estimate.scale
        curves = {
            str(level): tuple((a * scale, b * scale, c * scale, d * scale) for a, b, c, d in points)
            for level, points in calibration.reliability.items()
        }
        return Trust(
            model=card.name,
            data=tuple(source.name for source in card.data),
            licence=card.licence,
            description=calibration.description,
            subjects=calibration.subjects,
            pairs=calibration.pairs,
            guaranteed=calibration.guaranteed(self.judge.coverage),
            distance=drift.distance,
            typical=drift.typical,
            p_value=drift.p_value,
            reliability=curves,
        )

    def _region(self, region: Region) -> RegionRow:
        limits, where = self.judge.limits, region.where
        at = where[None, None].to(self.estimate.expected.device)
        expected, ends = self.estimate.region(at, self.judge.calibration, self.judge.coverage)
        if self.judge.fitted:
            expected = float(self.expected[where].mean())
        count = int(where.sum())
        return RegionRow(
            name=region.name,
            expected=expected,
            interval=ends,
            expected_text=limits.text(expected),
            interval_text=limits.range_text(ends),
            volume=count * self.voxel,
            voxels=count,
            unrelated=float((self.unrelated[where] > SURE).float().mean()),
        )
