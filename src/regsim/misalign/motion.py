"""Motions of known size: drawn, applied to both members of a pair, and kept as the truth.

Two images show one anatomy. The fixed image reads it at `C F(p)`, the moving image at `C M(q)`: C is common to both, F and
M part from each other symmetrically. A point p of the fixed image lies at `q = M^-1 F p` in the moving image; the length of
`q - p` is the true error. Both images are resampled alike, whatever the error is, so blur says nothing about it.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from regsim.errors import SettingsError
from regsim.prepare import gaussian
from regsim.settings import Settings

Kind = Literal["rigid", "affine", "elastic", "velocity"]
KINDS: tuple[Kind, ...] = ("rigid", "affine", "elastic", "velocity")
PASSES = 3
INVERSE_PASSES = 6
SQUARINGS = 5
CELL = 2.0
Range = tuple[float, float]


class CommonSettings(Settings):
    """What both images of a pair share: where the anatomy is cut, how it is turned, zoomed and bent.

    Args:
        rotation: degrees, about every axis, either way.
        translation: physical units, along every axis, either way.
        zoom: the factor, log-uniform in [1 / zoom, zoom].
        shear: largest entry of the shear.
        flips: mirror each axis with probability one half.
    """

    rotation: float = Field(default=15.0, ge=0, le=180)
    translation: float = Field(default=8.0, ge=0)
    zoom: float = Field(default=1.2, ge=1, le=4)
    shear: float = Field(default=0.05, ge=0, le=0.5)
    flips: bool = True


class MotionSettings(Settings):
    """How far, and in which way, the two images of a pair part.

    Args:
        error: smallest and largest mean true error, physical units, of the misaligned pairs.
        distribution: of the error between these ends; "log" draws small errors more often.
        aligned: share of the pairs that do not part at all.
        rigid, affine, elastic, velocity: shares of the kinds of motion.
        elastic_error: largest mean error of elastic and velocity motions.
        smoothness: sigma of the Gaussian that smooths elastic fields, smallest and largest, physical units.
        common: what both images share.
    """

    error: Range = (0.0, 15.0)
    distribution: Literal["uniform", "log"] = "uniform"
    aligned: float = Field(default=0.2, ge=0, le=1)
    rigid: float = Field(default=1.0, ge=0)
    affine: float = Field(default=0.0, ge=0)
    elastic: float = Field(default=0.0, ge=0)
    velocity: float = Field(default=0.0, ge=0)
    elastic_error: float = Field(default=5.0, gt=0)
    smoothness: Range = (8.0, 20.0)
    common: CommonSettings = CommonSettings()

    @model_validator(mode="after")
    def _ordered(self) -> "MotionSettings":
        low, high = self.error
        if not 0 <= low <= high or high == 0:
            raise ValueError(f"error: expected 0 <= smallest <= largest, largest above 0, got {self.error}")
        if self.distribution == "log" and low == 0:
            raise ValueError("error: a log distribution needs a smallest error above 0")
        if not 0 < self.smoothness[0] <= self.smoothness[1]:
            raise ValueError(f"smoothness: expected 0 < smallest <= largest, got {self.smoothness}")
        if self.rigid + self.affine + self.elastic + self.velocity <= 0:
            raise ValueError("one of the shares rigid, affine, elastic, velocity must be above 0")
        return self

    @property
    def bends(self) -> bool:
        """Whether any motion is not linear."""
        return self.elastic + self.velocity > 0


@dataclass(frozen=True)
class Motion:
    """The motions of a batch, about the centre of the crop; physical units, components x, y(, z).

    Args:
        fixed, moving: `(N, *spatial, d)`, where each voxel reads the anatomy, relative to the centre.
        displacement: `(N, d, *spatial)`, from a point of the fixed image to its place in the moving image, less the point.
        parameters: what was drawn, one row an item.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    displacement: torch.Tensor
    parameters: dict[str, torch.Tensor]

    def error(self, weights: torch.Tensor) -> torch.Tensor:
        """Mean length of the displacement, `(N,)`, over weights `(N, 1, *spatial)`; 0 where they are empty."""
        length = self.displacement.square().sum(dim=1, keepdim=True).sqrt()  # norm(dim=1) is far slower
        mean: torch.Tensor = (length * weights).flatten(1).sum(dim=1) / weights.flatten(1).sum(dim=1).clamp_min(1e-6)
        return mean


def draw_motion(
    count: int, shape: tuple[int, ...], spacing: float, settings: MotionSettings, generator: torch.Generator
) -> Motion:
    """Draw the motions of a batch on a grid of `shape` voxels of `spacing`.

    The size of every motion is set last, by the mean error that it causes over the disc (ball) inscribed in the grid, so
    that a rotation and a translation of one error are equally likely. Elastic fields are scaled after they are smoothed.

    Convention:
        The two papers set the amplitude of the noise before they smooth it (SiamRegQC's and IMSE's fields are then
        smaller than said, most of all in 3-D), and move one image only. Here both move: with unit fields g and h, the
        fixed image is bent by `cos(a) g + sin(a) h` and the moving one by `cos(a) g - sin(a) h`, which has one
        distribution for every a: an image alone does not tell how far the pair has parted.

    Returns:
        The motion; `parameters` holds "kind" (index into `KINDS`), "target" (the error aimed at), "generator" (the
        relative linear motion as a matrix logarithm), "common" (matrix and offset), "smoothness" and "mix" (the angle a).
    """
    dims = len(shape)
    points = grid_points(shape, spacing)
    ball = (points.norm(dim=-1) <= min(shape) * spacing / 2).float()
    kind = _draw_kinds(count, settings, generator)
    target = _draw_errors(count, kind, settings, generator)
    relative = _draw_relative(count, dims, kind, min(shape) * spacing / 2, generator)
    relative = _scaled(relative, target * (kind < 2), points, ball)
    common = _draw_common(count, dims, settings.common, generator)
    half, other = _affine(relative, 0.5), _affine(relative, -0.5)
    parameters = {"kind": kind, "target": target, "generator": relative, "common": common}
    if settings.bends:
        bent = _bend(kind, target, points, ball, spacing, settings, generator)
        parameters |= {"smoothness": bent.sigma, "mix": bent.mix}
        there, here = _move(half, points) + bent.fixed, _move(other, points) + bent.moving
        displacement = _relative_displacement(there, other, bent.moving, points, shape, spacing)
        displacement = displacement * (target > 0).reshape(-1, *[1] * (dims + 1))
    else:
        displacement = (_move(_affine(relative, 1.0), points) - points).movedim(-1, 1)
        fixed, moving = _move(_after(common, half), points), _move(_after(common, other), points)
        return Motion(fixed, moving, displacement, parameters)
    return Motion(_move(common, there), _move(common, here), displacement, parameters)


@dataclass(frozen=True)
class _Bent:
    """The two fields of a batch, `(N, *spatial, d)`, and what was drawn for them."""

    fixed: torch.Tensor
    moving: torch.Tensor
    sigma: torch.Tensor
    mix: torch.Tensor


def grid_points(shape: tuple[int, ...], spacing: float) -> torch.Tensor:
    """`(*shape, d)`, relative to the grid's centre, x first."""
    axes = [(torch.arange(n) - (n - 1) / 2) * spacing for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _draw_kinds(count: int, settings: MotionSettings, generator: torch.Generator) -> torch.Tensor:
    shares = torch.tensor([settings.rigid, settings.affine, settings.elastic, settings.velocity])
    return torch.multinomial(shares, count, replacement=True, generator=generator)


def _draw_errors(count: int, kind: torch.Tensor, settings: MotionSettings, generator: torch.Generator) -> torch.Tensor:
    """The error to reach, 0 for the aligned share; elastic motions have an upper end of their own."""
    low, high = settings.error
    top = torch.where(kind >= 2, min(high, max(settings.elastic_error, low)), high)
    place = torch.rand(count, generator=generator)
    error = low * (top / low) ** place if settings.distribution == "log" else low + (top - low) * place
    return error * (torch.rand(count, generator=generator) >= settings.aligned)


def _draw_relative(
    count: int, dims: int, kind: torch.Tensor, radius: float, generator: torch.Generator
) -> torch.Tensor:
    """The direction of a linear motion as a matrix logarithm `(N, d + 1, d + 1)`, its size not yet set.

    A third of them turn only, a third shift only, a third do both.
    """
    linear = torch.randn(count, dims, dims, generator=generator) / radius
    linear = torch.where((kind == 1)[:, None, None], linear, linear - linear.mT)
    part = torch.randint(3, (count, 1), generator=generator)
    matrix = torch.zeros(count, dims + 1, dims + 1)
    matrix[:, :dims, :dims] = linear * (part != 0)[..., None]
    matrix[:, :dims, dims] = torch.randn(count, dims, generator=generator) * (part != 1)
    return matrix


def _scaled(relative: torch.Tensor, target: torch.Tensor, points: torch.Tensor, ball: torch.Tensor) -> torch.Tensor:
    """The motion whose mean error over the ball is the target: proportional correction, a few times."""
    few = points[ball > 0]
    few = few[:: max(1, len(few) // 500)]
    relative = relative / relative.flatten(1).norm(dim=1).clamp_min(1e-6)[:, None, None]
    for _ in range(PASSES):
        moved = _move(_affine(relative, 1.0), few)
        error = (moved - few).norm(dim=-1).mean(dim=1).clamp_min(1e-9)
        relative = relative * torch.where(target > 0, target / error, 0.0)[:, None, None]
        relative = torch.where((target > 0)[:, None, None], relative, 0.0)
    return relative


def _affine(relative: torch.Tensor, share: float) -> torch.Tensor:
    """`(N, d, d + 1)`: this share of a motion."""
    matrix: torch.Tensor = torch.linalg.matrix_exp(relative * share)
    return matrix[:, :-1]


def _after(second: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """The affine `second(first(x))`, `(N, d, d + 1)`."""
    dims = first.shape[1]
    linear = second[:, :, :dims]
    return torch.cat([linear @ first[:, :, :dims], linear @ first[:, :, dims:] + second[:, :, dims:]], dim=2)


def _move(affine: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Points `(..., d)`, or `(N, ..., d)` each by its own matrix: `(N, ..., d)`."""
    dims = affine.shape[1]
    flat = points.reshape(1, -1, dims) if points.shape[0] != affine.shape[0] or points.ndim < dims + 2 else None
    flat = points.reshape(affine.shape[0], -1, dims) if flat is None else flat.expand(affine.shape[0], -1, -1)
    moved = torch.baddbmm(affine[:, None, :, dims], flat, affine[:, :, :dims].mT)
    shape = points.shape[1:] if points.ndim == dims + 2 else points.shape
    return moved.reshape(affine.shape[0], *shape)


def _draw_common(count: int, dims: int, settings: CommonSettings, generator: torch.Generator) -> torch.Tensor:
    """`(N, d, d + 1)`: turn, zoom, shear, mirror and shift."""
    turn = torch.zeros(count, dims, dims)
    for first, second in ((0, 1), (0, 2), (1, 2))[: 1 if dims == 2 else 3]:
        angle = _uniform(count, -settings.rotation, settings.rotation, generator) * (math.pi / 180)
        turn[:, first, second], turn[:, second, first] = -angle, angle
    size = math.log(settings.zoom)
    zoom = _uniform(count, -size, size, generator).exp()
    shear = (2 * torch.rand(count, dims, dims, generator=generator) - 1) * settings.shear
    mirror = (torch.rand(count, dims, generator=generator) < 0.5) & settings.flips
    matrix = torch.linalg.matrix_exp(turn) @ (torch.eye(dims) + shear) * zoom[:, None, None]
    matrix = matrix * torch.where(mirror, -1.0, 1.0)[:, None, :]
    shift = (2 * torch.rand(count, dims, generator=generator) - 1) * settings.translation
    return torch.cat([matrix, shift[..., None]], dim=2)


def _bend(
    kind: torch.Tensor,
    target: torch.Tensor,
    points: torch.Tensor,
    ball: torch.Tensor,
    spacing: float,
    settings: MotionSettings,
    generator: torch.Generator,
) -> _Bent:
    """Smooth fields of both images; all pairs are bent alike, elastic pairs apart."""
    count, shape = len(kind), tuple(points.shape[:-1])
    low, high = settings.smoothness
    sigma = torch.exp(_uniform(count, math.log(low), math.log(high), generator))
    first = _smooth_field(count, shape, sigma, spacing, ball, generator)
    second = _smooth_field(count, shape, sigma, spacing, ball, generator)
    amplitude = settings.elastic_error / 2
    mix = torch.asin((target * (kind >= 2) / (2 * amplitude)).clamp(max=1.0))
    shape_of_one = (-1, *[1] * (len(shape) + 1))
    even, odd = torch.cos(mix).reshape(shape_of_one), torch.sin(mix).reshape(shape_of_one)
    fixed, moving = amplitude * (even * first + odd * second), amplitude * (even * first - odd * second)
    flow = (kind == 3).reshape(shape_of_one)
    if bool(flow.any()):
        fixed = torch.where(flow, _exponential(fixed, spacing), fixed)
        moving = torch.where(flow, _exponential(moving, spacing), moving)
    return _Bent(fixed.movedim(1, -1), moving.movedim(1, -1), sigma, mix)


def _smooth_field(
    count: int,
    shape: tuple[int, ...],
    sigma: torch.Tensor,
    spacing: float,
    ball: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Gaussian noise, smoothed, of mean length 1 over the ball: `(N, d, *shape)`.

    It is made on a grid of half the smallest sigma, items of like smoothness together.
    """
    dims = len(shape)
    field = torch.empty(count, dims, *shape)
    for group in torch.split(sigma.argsort(), max(1, count // 4)):
        width = float(sigma[group].mean())
        step = max(width / CELL, spacing)
        margin = math.ceil(3 * CELL)
        coarse = tuple(math.ceil(n * spacing / step) + 1 + 2 * margin for n in shape)
        noise = torch.randn(len(group), dims, *coarse, generator=generator)
        smooth = gaussian(noise, (width / step,) * dims)
        for axis, length in enumerate(coarse):
            smooth = smooth.narrow(axis + 2, margin, length - 2 * margin)
        mode = "bicubic" if dims == 2 else "trilinear"
        field[group] = F.interpolate(smooth, size=shape, mode=mode, align_corners=True)
    mean = (field.square().sum(dim=1).sqrt() * ball).flatten(1).sum(dim=1) / ball.sum()
    scaled: torch.Tensor = field / mean.clamp_min(1e-9).reshape(-1, *[1] * (dims + 1))
    return scaled


def _exponential(velocity: torch.Tensor, spacing: float) -> torch.Tensor:
    """The displacement of a stationary velocity field by scaling and squaring."""
    field: torch.Tensor = velocity / 2**SQUARINGS
    for _ in range(SQUARINGS):
        field = field + _read(field, field, spacing)
    return field


def _read(field: torch.Tensor, moved: torch.Tensor, spacing: float) -> torch.Tensor:
    """A field `(N, d, *shape)` at the grid's points displaced by `moved`; beyond the grid its border values."""
    shape = field.shape[2:]
    half = torch.tensor([max(n - 1, 1) * spacing / 2 for n in shape[::-1]])
    where = (grid_points(tuple(shape), spacing) + moved.movedim(1, -1)) / half
    values: torch.Tensor = F.grid_sample(field, where, padding_mode="border", align_corners=True)
    return values


def _relative_displacement(
    there: torch.Tensor,
    other: torch.Tensor,
    field: torch.Tensor,
    points: torch.Tensor,
    shape: tuple[int, ...],
    spacing: float,
) -> torch.Tensor:
    """Solve `L q + m(q) = F(p)` for q by fixed points, and return `q - p`, `(N, d, *shape)`."""
    dims = len(shape)
    inverse = torch.linalg.inv(other[:, :, :dims])
    back = torch.cat([inverse, -inverse @ other[:, :, dims:]], dim=2)
    bending = field.movedim(-1, 1)
    place = _move(back, there)
    for _ in range(INVERSE_PASSES):
        bent = _read(bending, (place - points).movedim(-1, 1), spacing).movedim(1, -1)
        place = _move(back, there - bent)
    return (place - points).movedim(-1, 1)


def rigid_motion(
    rotation: float, translation: tuple[float, ...], shape: tuple[int, ...], spacing: float = 1.0
) -> Motion:
    """One stated rigid motion in 2-D (degrees) about the centre, split between both images; nothing is drawn.

    Raises:
        SettingsError: not two axes.
    """
    if len(shape) != 2:
        raise SettingsError(f"a stated rigid motion is for two axes, got {len(shape)}")
    angle = math.radians(rotation)
    relative = torch.zeros(1, 3, 3)
    relative[0, 0, 1], relative[0, 1, 0] = -angle, angle
    points = grid_points(shape, spacing)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    average = torch.eye(2) if angle == 0 else torch.linalg.solve(relative[0, :2, :2], turn - torch.eye(2))
    relative[0, :2, 2] = torch.linalg.solve(average, torch.tensor(translation))
    there, here = _move(_affine(relative, 0.5), points), _move(_affine(relative, -0.5), points)
    displacement = (_move(_affine(relative, 1.0), points) - points).movedim(-1, 1)
    return Motion(there, here, displacement, {"generator": relative})
