"""Is this pair aligned? The expected error with an interval, a map, regions, and a verdict that may be "cannot tell"."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from regsim.applications.check_measure import CheckSettings, Judge, Measured
from regsim.applications.check_pair import AROUND, CheckPair, box_around, check_pair
from regsim.applications.check_regions import Region, label_regions, place_plane, sides
from regsim.applications.check_scores import driver_note, is_deformable, likeness_of, principle, score_rows
from regsim.errors import GridError, SettingsError
from regsim.evaluation.accuracy import jacobian_row
from regsim.evaluation.check_rows import CheckResults, Interval, RegionRow, ScoreRow, Trust, Verdict
from regsim.evaluation.results import ImageFacts, JacobianRow
from regsim.evaluation.verdict import Findings, Ruling, judge
from regsim.images.image import Image
from regsim.transforms.base import Transform

FITTED = (
    "A deformable registration between contrasts hides its errors: images fit where they do not belong, too. The numbers come "
    "from what such registrations left on pairs of known error, and are likely too small; landmarks or labels tell more."
)


@dataclass(frozen=True)
class CheckResult:
    """What a check found. Maps lie on the fixed grid, 0 outside the mask; errors in the unit of the images.

    Args:
        results: everything as rows.
        pair: what was compared.
        error_map: expected error.
        lower, upper: bounds of each voxel's error.
        unrelated: probability that the images do not belong together there.
        measured: the estimate that all this rests on, of the part of the images within `box`.
    """

    results: CheckResults
    pair: CheckPair
    error_map: Image
    lower: Image
    upper: Image
    unrelated: Image
    measured: Measured
    box: tuple[slice, ...]

    @property
    def verdict(self) -> Verdict:
        """pass, review, fail or cannot tell."""
        return self.results.verdict

    @property
    def reason(self) -> str:
        """One sentence."""
        return self.results.reason

    @property
    def expected_error(self) -> float:
        """Mean over the mask."""
        return self.results.expected_error

    @property
    def interval(self) -> Interval:
        """Of the mean error, at the coverage that was asked for."""
        return self.results.interval

    @property
    def regions(self) -> tuple[RegionRow, ...]:
        """The worst first."""
        return self.results.regions

    @property
    def scores(self) -> tuple[ScoreRow, ...]:
        """Other metrics over the same mask."""
        return self.results.scores


def check(
    fixed: Image,
    moved: Image,
    *,
    mask: torch.Tensor | None = None,
    labels: Image | None = None,
    transform: Transform | None = None,
    model: str = "",
    calibration: str | Path | None = None,
    coverage: float = 0.9,
    pass_at: float | None = None,
    fail_at: float | None = None,
    working: float = 0.0,
    driver: str | Sequence[str] = (),
    device: str = "cpu",
) -> CheckResult:
    """Judge whether two images are aligned, without ground truth.

    Args:
        fixed: its mask, where it has one, says where the error is asked for.
        moved: the moving image after registration, on the fixed grid; or the unmoved one on its own grid, with `transform`.
        mask: `(1, *shape)`, above 0 where the error is asked for; the fixed image's foreground if None.
        labels: on the fixed grid; each label becomes a region.
        transform: fixed points to moving points. Applied where `moved` is on another grid; judged for folding in any case.
        model, calibration, coverage, pass_at, fail_at, working, driver: see `CheckSettings`.
        device: where the network runs.

    Raises:
        GridError: images or labels that do not belong together, no overlap.
        InputError: values that are not finite, a constant image, an empty mask, a model or calibration of another kind.
        SettingsError: a value out of range, an unknown model or metric.
    """
    settings = CheckSettings.checked(
        {
            "model": model,
            "calibration": None if calibration is None else Path(calibration),
            "coverage": coverage,
            "pass_at": pass_at,
            "fail_at": fail_at,
            "working": working,
            "driver": (driver,) if isinstance(driver, str) else tuple(driver),
        }
    )
    return check_with(settings, fixed, moved, mask=mask, labels=labels, transform=transform, device=device)


@torch.no_grad()
def check_with(
    settings: CheckSettings,
    fixed: Image,
    moved: Image,
    *,
    mask: torch.Tensor | None = None,
    labels: Image | None = None,
    transform: Transform | None = None,
    carry: bool | None = None,
    device: str = "cpu",
) -> CheckResult:
    """As `check`; `carry`: whether `transform` is to be applied to `moved`, None: where it is on another grid."""
    began = time.perf_counter()
    drivers = [principle(spec) for spec in settings.driver]
    ready = Judge.of(settings, fixed.grid)
    if labels is not None:
        _check_labels(labels, fixed)
    pair = check_pair(fixed, moved, mask, transform, carry)
    box = box_around(pair.mask, fixed.grid, AROUND * ready.limits.working)
    part = pair.part(box).without_common_cut(AROUND * ready.limits.working)
    scores, missing = score_rows(settings.scores, part, drivers)
    likeness = likeness_of(part, scores) if is_deformable(transform) else None
    if likeness is not None and likeness < ready.limits.least_likeness:
        ready = ready.of_fitted()
    found = ready.measure(part, device)
    regions = _regions(found, None if labels is None else labels.data[0][box])
    folding = None if transform is None else jacobian_row(transform, replace(pair.fixed, mask=pair.mask[None].float()))
    results = _results(found, regions, folding, likeness).model_copy(
        update={
            "fixed": _facts(fixed),
            "moved": _facts(moved),
            "scores": tuple(scores),
            "notes": (*part.notes, *_notes(found, regions, labels), *driver_note(drivers), *missing),
            "seconds": time.perf_counter() - began,
        }
    )
    maps = (found.expected, found.lower, found.upper, found.unrelated)
    names = ("error", "lower error", "upper error", "unrelated")
    error, lower, upper, unrelated = (_whole(*each, pair, box) for each in zip(maps, names, strict=True))
    return CheckResult(results, pair, error, lower, upper, unrelated, found, box)


def _results(
    found: Measured, regions: list[Region], folding: JacobianRow | None, likeness: float | None
) -> CheckResults:
    """All rows but those that need the whole images."""
    pair, limits, rows, trust = found.part, found.judge.limits, found.region_rows(regions), found.trust()
    interval, expected = found.interval(), found.value
    ruling = _ruling(found, rows, folding, likeness, trust)
    grid = pair.fixed.grid
    return CheckResults(
        title=f"{pair.moved.name} on {pair.fixed.name}",
        unit=grid.unit,
        expected_error=expected,
        interval=interval,
        expected_text=limits.text(expected),
        interval_text=limits.range_text(interval),
        coverage=found.judge.coverage,
        verdict=ruling.verdict,
        reason=ruling.reason,
        regions=tuple(rows),
        places=tuple(found.place_rows(regions, place_plane(grid))),
        overlap=pair.overlap,
        unrelated=found.estimate.unrelated_share,
        voxels=found.voxels,
        volume_unit=f"{grid.unit}{grid.ndim}",
        limits=limits,
        fixed=_facts(pair.fixed),
        moved=_facts(pair.moved),
        jacobian=folding,
        histogram=found.histogram(),
        trust=trust,
    )


def _ruling(
    found: Measured, rows: list[RegionRow], folding: JacobianRow | None, likeness: float | None, trust: Trust
) -> Ruling:
    lower, upper = found.interval()
    worst = max(rows, key=lambda row: row.unrelated, default=None)
    return judge(
        Findings(
            expected=found.value,
            lower=lower,
            upper=upper,
            coverage=found.judge.coverage,
            unit=found.part.fixed.grid.unit,
            voxels=found.voxels,
            overlap=found.part.overlap,
            unrelated=found.estimate.unrelated_share,
            worst="" if worst is None or worst.unrelated == 0 else worst.name,
            distance=trust.distance,
            typical=trust.typical,
            folded=None if folding is None else folding.folded_fraction,
            likeness=likeness,
        ),
        found.judge.limits,
    )


def _regions(found: Measured, labels: torch.Tensor | None) -> list[Region]:
    mask = found.part.mask
    return sides(mask, found.part.fixed.grid) if labels is None else label_regions(labels, mask)


def _check_labels(labels: Image, fixed: Image) -> None:
    if not labels.is_labels:
        raise SettingsError(f"labels '{labels.name}' hold fractions; expected whole numbers that name regions")
    if labels.ndim != fixed.ndim or not labels.grid.same_as(fixed.grid):
        raise GridError(
            f"labels '{labels.name}' are on another grid ({labels.grid}) than '{fixed.name}' ({fixed.grid}); resample them"
        )


def _notes(found: Measured, regions: list[Region], labels: Image | None) -> list[str]:
    limits, trust, notes = found.judge.limits, found.trust(), []
    unit = found.part.fixed.grid.unit
    if unit == "px":
        notes.append(
            f"Without a pixel size all lengths are in pixels; the images were compared on pixels of {limits.working:g} px."
        )
    if labels is not None and not regions:
        notes.append("No label holds enough voxels of the mask to be a region.")
    if found.part.overlap < 1:
        notes.append(
            f"{100 * (1 - found.part.overlap):.3g} % of the mask lie outside the moved image and were not judged."
        )
    if found.judge.fitted:
        notes.append(FITTED)
    if not trust.guaranteed:
        notes.append(
            f"The calibration has {trust.subjects} subjects: too few for the {100 * found.judge.coverage:g} % interval "
            "to be guaranteed for a new one."
        )
    return notes


def _facts(image: Image) -> ImageFacts:
    return ImageFacts(
        name=image.name, size=list(image.grid.size), spacing=list(image.grid.spacing), unit=image.grid.unit
    )


def _whole(values: torch.Tensor, name: str, pair: CheckPair, box: tuple[slice, ...]) -> Image:
    """A map of a part on the whole fixed grid, 0 outside the mask."""
    full = torch.zeros(pair.fixed.grid.shape)
    full[box] = torch.where(pair.mask[box], values.float(), torch.zeros(()))
    return Image(full[None], pair.fixed.grid, name=name)
