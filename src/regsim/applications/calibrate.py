"""A calibration of `registration_error` on a user's own aligned pairs: known motions are added, and the answers compared."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import Field

from regsim.applications.files import read_pair
from regsim.applications.pairs_file import PairFiles, read_pairs_file
from regsim.applications.residual_pairs import registered_pair
from regsim.errors import InputError, RegsimError
from regsim.evaluation.calibration import KnownError, calibrate, coverage_table
from regsim.evaluation.calibration_rows import CoverageRow
from regsim.evaluation.check_rows import RESOLVABLE
from regsim.evaluation.known_errors import Judged, judge_made_pairs, pair_figures
from regsim.images.image import Image
from regsim.metrics.error_calibration import Calibration
from regsim.metrics.error_network import ErrorNetworkSettings
from regsim.metrics.registration_error import RegistrationError
from regsim.misalign.degrade import Noise
from regsim.misalign.motion import CommonSettings, MotionSettings
from regsim.misalign.pairs import PairBatch, PairMaker, PairSettings
from regsim.misalign.sources import Subject, make_subject
from regsim.misalign.window import WindowSettings
from regsim.output import check_target
from regsim.prepare import coarser
from regsim.settings import Settings
from regsim.transforms.files import read_transform
from regsim.transforms.warp import warp

LARGEST_CROP = 96
LEAST_CROP = 16
SMALL_ERRORS, ALL_ERRORS = (0.1, 4.0), (0.0, 10.0)
FEWEST_SUBJECTS, FEWEST_LEFT_OUT = 2, 3
UNEQUAL = 1.2
NOISE = (0.0, 0.03)
OnPair = Callable[[str], None]


class CalibrateRequest(Settings):
    """What `regsim calibrate` was asked to do.

    Args:
        pairs: a CSV of pairs that are aligned as well as they can be; see `read_pairs_file`.
        model: of registration_error; empty: the bundled one.
        draws: known motions for each pair.
        registered: share of the motions that are registered first, at random settings, so that what is judged is what
            registrations leave.
        spacing: of pictures that state none, mm.
        seed: of the motions.
    """

    pairs: Path
    model: str = ""
    draws: int = Field(default=8, ge=1, le=1000)
    registered: float = Field(default=0.3, ge=0, le=1)
    spacing: float | None = Field(default=None, gt=0)
    seed: int = 0


@dataclass(frozen=True)
class Calibrated:
    """A calibration, how it does on subjects that were left out of it, the estimates' figures, and pairs left out, with why."""

    calibration: Calibration
    coverage: list[CoverageRow]
    figures: dict[str, float]
    left_out: list[str]


def calibrate_files(asked: CalibrateRequest, target: Path, on_pair: OnPair = lambda _name: None) -> Calibrated:
    """Calibrate and write the file. A pair that cannot be used is left out, and named in the result.

    Convention:
        The pairs stand for the truth: what misalignment they have is taken for none. Motions are drawn from .1 to 10 units
        (half of them below 4), half linear and half elastic; both images are resampled, once each, and get a little noise of
        their own.

    Raises:
        InputError: no list, no pair that can be used, pairs of one subject only, a target that cannot be written.
    """
    check_target(target)
    pairs = read_pairs_file(asked.pairs)
    metric = RegistrationError(asked.model)
    judged: list[Judged] = []
    left_out: list[str] = []
    dims: set[int] = set()
    units: set[str] = set()
    for number, files in enumerate(pairs):
        on_pair(files.name)
        try:
            subject, unit = _subject(files, metric, asked.spacing)
            judged += judge_pair(subject, metric, asked.draws, asked.registered, asked.seed + number)
        except RegsimError as problem:
            left_out.append(f"{files.name}: {problem}")
            continue
        dims.add(3 if min(subject.shape) > 1 else 2)
        units.add(unit)
    if not judged:
        raise InputError(f"'{asked.pairs}': no pair can be used; the first: {left_out[0]}")
    if len(dims) > 1:
        raise InputError(f"'{asked.pairs}': holds pictures and volumes; calibrate them apart")
    if len(units) > 1:
        raise InputError(f"'{asked.pairs}': holds images in mm and in pixels; calibrate them apart, or give --spacing")
    plain, fitted = ([each.known for each in judged if each.fitted is which] for which in (False, True))
    if len({each.subject for each in plain}) < FEWEST_SUBJECTS:
        raise InputError(f"'{asked.pairs}': pairs of one subject only; a calibration needs two at least, better 20")
    settings = metric.settings(dims.pop())
    model, resolution = metric.cards[settings.dims].name, RESOLVABLE * settings.spacing
    description = f"{len(pairs) - len(left_out)} pairs of {asked.pairs.name}"
    made = calibrate(plain, model, description, units.pop(), resolution, fitted)
    made.write(target)
    return Calibrated(made, left_one_out(plain, made), pair_figures(judged), left_out)


def judge_pair(subject: Subject, metric: RegistrationError, draws: int, registered: float, seed: int) -> list[Judged]:
    """Known motions of one aligned pair: a subject with the two images "fixed" and "moving"."""
    settings = metric.settings(3 if min(subject.shape) > 1 else 2)
    generator = torch.Generator().manual_seed(seed)

    def change(batch: PairBatch, generator: torch.Generator) -> tuple[PairBatch, bool]:
        chosen = float(torch.rand((), generator=generator)) < registered
        return registered_pair(batch, settings.spacing, generator) if chosen else (batch, False)

    found: list[Judged] = []
    for part, (low, high) in enumerate((SMALL_ERRORS, ALL_ERRORS)):
        maker = PairMaker([subject], _pair_settings(subject, settings, (low, high)))
        found += judge_made_pairs(metric, maker, (draws + 1 - part) // 2, generator, change)
    return found


def left_one_out(known: list[KnownError], made: Calibration) -> list[CoverageRow]:
    """Coverage on each subject by a calibration on the others; nothing for fewer than three subjects."""
    subjects = sorted({each.subject for each in known})
    if len(subjects) < FEWEST_LEFT_OUT:
        return []
    tables = []
    for subject in subjects:
        rest, own = ([each for each in known if (each.subject == subject) is inside] for inside in (False, True))
        others = calibrate(rest, made.model, made.description, made.unit, made.resolution)
        tables.append(coverage_table(others, own))
    return [_together(list(rows)) for rows in zip(*tables, strict=True)]


def _together(rows: list[CoverageRow]) -> CoverageRow:
    """One row for all subjects, each of which has one."""
    worst = min(rows, key=lambda row: row.observed)
    means = {
        name: sum(float(getattr(row, name)) for row in rows) / len(rows)
        for name in ("observed", "above", "below", "mean_width", "median_width")
    }
    changes = {"worst_subject": worst.worst_subject, "worst_coverage": worst.observed, "subjects": len(rows)}
    return rows[0].model_copy(update={**means, **changes})


def _subject(files: PairFiles, metric: RegistrationError, spacing: float | None) -> tuple[Subject, str]:
    """Both images on one grid of the metric's working spacing, and the unit of their errors."""
    fixed, moving = read_pair(files.fixed, files.moving, files.fixed_mask, files.moving_mask, spacing)
    transform = None if files.initial is None else read_transform(files.initial, fixed.ndim)
    if transform is not None or not moving.grid.same_as(fixed.grid):
        moving = warp(moving, transform, fixed.grid)
    step = metric.settings(fixed.ndim).spacing
    images = [
        replace(_evenly(_masked(fixed), step), name="fixed"),
        replace(_evenly(_masked(moving), step), name="moving"),
    ]
    return make_subject(files.subject or files.name, images, None, step), fixed.grid.unit


def _masked(image: Image) -> Image:
    """Zero outside the mask."""
    return image if image.mask is None else replace(image, data=image.filled().data * (image.mask > 0), mask=None)


def _evenly(image: Image, step: float) -> Image:
    """On voxels of equal sides where they are not: thick slices are interpolated, as the metric does it itself."""
    if image.grid.unit == "px" or max(image.grid.spacing) <= UNEQUAL * min(image.grid.spacing):
        return image
    even = image.grid.with_spacing((step,) * image.ndim)
    return replace(warp(coarser(image, step), None, even), mask=None)


def _pair_settings(subject: Subject, settings: ErrorNetworkSettings, error: tuple[float, float]) -> PairSettings:
    """Plain pairs: no restyling, no window, a little noise, so that an image beside itself is no trivial pair.

    Errors are drawn evenly from 0, or evenly in the logarithm where the smallest is above 0.
    """
    sides = sorted(subject.shape)[-settings.dims :]
    size = min(LARGEST_CROP, max(sides)) // settings.side * settings.side
    if size < LEAST_CROP:
        raise InputError(f"'{subject.name}' is too small to be moved: {size} voxels of {settings.spacing:g}")
    low, high = error
    motion = MotionSettings(
        error=(low * settings.spacing / 2, high * settings.spacing / 2),
        distribution="log" if low > 0 else "uniform",
        aligned=0.0,
        rigid=0.35,
        affine=0.15,
        elastic=0.25,
        velocity=0.25,
        elastic_error=6.0 * settings.spacing / 2,
        smoothness=(3.0 * settings.spacing, 12.0 * settings.spacing),
        common=CommonSettings(rotation=10.0, translation=3.0 * settings.spacing, zoom=1.05, shear=0.0, flips=False),
    )
    return PairSettings(
        dims=settings.dims,
        size=size,
        spacing=settings.spacing,
        pairing=("contrasts",),
        appearance=(Noise(sigma=NOISE),),
        motion=motion,
        window=WindowSettings(disc=0.0, box=0.0),
        least_content=0.0,
    )
