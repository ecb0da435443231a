"""From paths to requests: everything is read and checked before anything is computed or written."""

from dataclasses import replace
from pathlib import Path

import torch
from pydantic import Field

from regsim.applications.align import Request, warped_ending
from regsim.errors import GridError, InputError, SettingsError
from regsim.images.image import Image
from regsim.images.io import read_image, read_mask, writable_ending, write_image
from regsim.metrics import load_metric
from regsim.registration.schedule import LINEAR, Goal, Optimiser, Schedule, Start, schedule_for
from regsim.settings import Settings
from regsim.transforms.base import Transform
from regsim.transforms.files import read_transform
from regsim.transforms.learn2reg import read_learn2reg
from regsim.transforms.warp import Method, warp

REPLACED = {
    "transform",
    "metric",
    "linear_metric",
    "coarse_metric",
    "start",
    "optimiser",
    "regularisation",
    "finest",
    "symmetric",
    "flips",
}


class FileRequest(Settings):
    """What `regsim register` was asked to do; see the command's help for each option."""

    fixed: Path
    moving: Path
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_exclude: Path | None = None
    moving_exclude: Path | None = None
    initial: Path | None = None
    schedule: Path | None = None
    transform: Goal = "rigid"
    metric: str | None = None
    linear_metric: str | None = None
    coarse_metric: str | None = None
    start: Start = "auto"
    optimiser: Optimiser = "gradient"
    regularisation: float = Field(default=1.0, ge=0)
    finest: float | None = Field(default=None, gt=0)
    symmetric: bool = False
    flips: bool = False
    flat_field: bool = False
    learn2reg: bool = False
    check: bool = False
    spacing: float | None = Field(default=None, gt=0)
    seed: int = 0
    device: str = "cpu"


def file_request(asked: FileRequest) -> Request:
    """Read all inputs and make the plan.

    Raises:
        RegsimError: any input that cannot be used; nothing was written.
    """
    for metric in (asked.metric, asked.linear_metric, asked.coarse_metric):
        if metric is not None:
            load_metric(metric)
    if asked.schedule is None:
        _refuse_idle(asked)
    fixed, moving = read_pair(asked.fixed, asked.moving, asked.fixed_mask, asked.moving_mask, asked.spacing)
    fixed, moving = _without(fixed, asked.fixed_exclude), _without(moving, asked.moving_exclude)
    schedule = _plan(asked, fixed) if asked.schedule is None else Schedule.of_toml(asked.schedule)
    for name in schedule.metrics:
        load_metric(name)
    inputs = [("fixed", asked.fixed), ("moving", asked.moving)]
    extra = [
        ("schedule", asked.schedule),
        ("fixed mask", asked.fixed_mask),
        ("moving mask", asked.moving_mask),
        ("fixed exclude", asked.fixed_exclude),
        ("moving exclude", asked.moving_exclude),
        ("initial", asked.initial),
    ]
    inputs += [(role, path) for role, path in extra if path is not None]
    masks = {"fixed_mask", "moving_mask", "fixed_exclude", "moving_exclude"}
    paths = {"fixed", "moving", "initial", "seed", "device", "schedule"} | masks
    return Request(
        fixed=fixed,
        moving=moving,
        transform=asked.transform
        if asked.schedule is None
        else " then ".join(stage.transform for stage in schedule.stages),
        schedule=schedule,
        initial=None if asked.initial is None else read_transform(asked.initial, fixed.ndim),
        inputs=inputs,
        options=asked.model_dump(mode="json", exclude=paths | (REPLACED if asked.schedule is not None else set())),
        seed=asked.seed,
        device=asked.device,
        warped_ending=warped_ending(asked.moving, moving),
        flat_field=asked.flat_field,
        learn2reg=asked.learn2reg,
        check=asked.check,
    )


def _refuse_idle(asked: FileRequest) -> None:
    """Refuse what this transform would leave unused."""
    linear = asked.transform in LINEAR
    if asked.optimiser != "gradient" and not linear:
        raise SettingsError(
            f"optimiser {asked.optimiser} moves linear transforms only, not '{asked.transform}'; use gradient"
        )
    if linear and asked.linear_metric is not None:
        raise SettingsError(
            f"the linear metric drives what comes before a deformation; metric drives '{asked.transform}'"
        )
    if linear and asked.regularisation != 1.0:
        raise SettingsError(f"regularisation is the smoothness of a deformation; '{asked.transform}' has none")


def _plan(asked: FileRequest, fixed: Image) -> Schedule:
    return schedule_for(
        asked.transform,
        fixed.grid,
        asked.metric,
        linear_metric=asked.linear_metric,
        coarse_metric=asked.coarse_metric,
        start=asked.start,
        optimiser=asked.optimiser,
        regularisation=asked.regularisation,
        finest=asked.finest,
        symmetric=asked.symmetric,
        flips=asked.flips,
    )


def read_pair(
    fixed: Path, moving: Path, fixed_mask: Path | None, moving_mask: Path | None, spacing: float | None
) -> tuple[Image, Image]:
    """Two images that can be compared. `spacing` applies to pictures only.

    Raises:
        GridError: 2-D against 3-D, or pixels against mm.
        InputError: a file that cannot be read.
    """
    first = read_image(fixed, mask=fixed_mask, picture_spacing=spacing)
    second = read_image(moving, mask=moving_mask, picture_spacing=spacing)
    _comparable(first, second)
    return first, second


def _without(image: Image, excluded: Path | None) -> Image:
    """The image with a region (lesion, implant, torn tissue) taken out of its mask."""
    if excluded is None:
        return image
    rest = torch.ones_like(image.data[:1]) if image.mask is None else image.mask
    rest = rest * (read_mask(excluded, image, may_be_empty=True) == 0)
    if not bool(rest.any()):
        raise InputError(f"'{excluded}' leaves nothing of '{image.name}' to compare")
    return replace(image, mask=rest)


def _comparable(first: Image, second: Image) -> None:
    if first.ndim != second.ndim:
        raise GridError(
            f"fixed '{first.name}' is {first.ndim}-D, moving '{second.name}' is {second.ndim}-D; expected two of a kind"
        )
    if first.grid.unit != second.grid.unit:
        raise GridError(
            f"'{first.name}' is in {first.grid.unit}, '{second.name}' in {second.grid.unit}: "
            "give the picture's pixel size in mm with --spacing"
        )


class WarpRequest(Settings):
    """What `regsim warp` was asked to do; see the command's help for each option."""

    moving: Path
    transform: Path
    like: Path
    output: Path
    labels: bool = False
    interpolation: Method | None = None
    inverse: bool = False
    learn2reg: bool = False
    fill: float = 0.0
    spacing: float | None = Field(default=None, gt=0)
    device: str = "cpu"


def warp_file(asked: WarpRequest) -> Image:
    """Carry a file through a transform file onto the grid of another file; what was written.

    Raises:
        RegsimError: any input that cannot be used; nothing was written.
    """
    writable_ending(asked.output)
    if asked.labels and not asked.fill.is_integer():
        raise SettingsError(f"setting 'fill': expected a whole number for a label map, got {asked.fill:g}")
    image = read_image(asked.moving, labels=asked.labels, picture_spacing=asked.spacing)
    target = read_image(asked.like, picture_spacing=asked.spacing)
    _comparable(target, image)
    writable_ending(asked.output, target.ndim)
    if asked.learn2reg:
        there, here = (image, target) if asked.inverse else (target, image)
        found: Transform = read_learn2reg(asked.transform, there.grid, here.grid)
    else:
        found = read_transform(asked.transform, image.ndim)
    used = found.inverse(target.grid) if asked.inverse else found
    used = used.to(asked.device)
    carried = warp(image.to(asked.device), used, target, asked.interpolation, asked.fill).to("cpu")
    if carried.mask is not None and not bool(carried.mask.any()):
        way = "without" if asked.inverse else "with"
        raise GridError(f"no overlap: nothing of '{image.name}' comes to lie on '{target.name}'; try {way} --inverse")
    write_image(carried, asked.output)
    return carried
