"""Where the voxels of two views of one anatomy lie: a plane or block, turned, zoomed and bent alike, the second view moved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from regsim.misalign.change import Share, uniform
from regsim.misalign.view_anatomy import ViewAnatomy
from regsim.settings import Settings

INNER = 0.25
# Waves of a displacement field, and the standard deviation of their number: radians across the crop, along each axis.
WAVES = 8
WAVE_NUMBER = 6.5
Amount = Annotated[float, Field(ge=0)]


class ViewGeometry(Settings):
    """Where views lie.

    Args:
        dims: 2 cuts planes, 3 takes blocks.
        size: side of the views, voxels.
        rotation: degrees, about every axis, either way; as zoom, stretch, bend and flips common to both views.
        zoom: log-uniform in [1 / zoom, zoom].
        stretch: of each axis by itself, largest logarithm.
        bend: standard deviation of a smooth displacement, voxels.
        flips: probability that the volume is mirrored, for each of its axes (z, y, x).
        turn: degrees, about every axis, either way: motion of the second view against the first.
        shift: voxels, along every axis, either way; turn 0 and shift 0 give aligned views.
    """

    dims: Literal[2, 3] = 2
    size: int = Field(default=96, ge=8, le=1024)
    rotation: float = Field(default=15.0, ge=0, le=180)
    zoom: float = Field(default=1.3, ge=1, le=4)
    stretch: float = Field(default=0.1, ge=0, le=1)
    bend: Amount = 1.5
    flips: tuple[Share, Share, Share] = (0.25, 0.25, 0.5)
    turn: float = Field(default=10.0, ge=0, le=180)
    shift: Amount = 14.0


@dataclass(frozen=True)
class Placements:
    """Where the voxels of one view of each pair of a batch lie in the volume: an affine map and a sum of waves.

    A voxel p, in array order from the crop's middle, lies at `frame p + middle + Re sum_w amplitude_w exp(i wave_w . p)`.
    Waves, since they can be read exactly and fast on any grid of equal steps, however it is turned.

    Args:
        frame: `(N, 3, d)`, voxels of the volume in array order.
        middle: `(N, 3)`.
        waves: `(N, W, d)`, radians per voxel of the crop.
        amplitudes: `(N, W, 3)`, complex: their angles are the phases.
        size: side of the crops, voxels.
    """

    frame: torch.Tensor
    middle: torch.Tensor
    waves: torch.Tensor
    amplitudes: torch.Tensor
    size: int

    def points(self, item: int) -> torch.Tensor:
        """`(3, *spatial)`: the place of each voxel in the volume, voxels, array order."""
        dims = self.frame.shape[2]
        axis = torch.arange(self.size) - (self.size - 1) / 2
        steps = torch.polar(torch.ones(()), self.waves[item, :, :, None] * axis)
        rows = self.amplitudes[item].T
        for number in range(dims - 1):
            rows = (rows[:, None] * steps[:, number].T).reshape(-1, WAVES)
        points = _real_product(rows, steps[:, -1]).reshape(3, *[self.size] * dims)
        for number in range(dims):
            line = self.frame[item, :, number, None] * axis
            points += line.reshape(3, *[self.size if other == number else 1 for other in range(dims)])
        return points.add_(self.middle[item].reshape(3, *[1] * dims))

    def moved(self, turn: torch.Tensor, shift: torch.Tensor) -> "Placements":
        """Of views whose voxel p shows what lies at `turn p + shift` here; `(N, d, d)`, `(N, d)`."""
        phase = torch.polar(torch.ones(()), (self.waves @ shift[..., None]))
        middle = self.middle + (self.frame @ shift[..., None])[..., 0]
        return Placements(self.frame @ turn, middle, self.waves @ turn, self.amplitudes * phase, self.size)


def draw_placements(anatomies: Sequence[ViewAnatomy], settings: ViewGeometry, generator: torch.Generator) -> Placements:
    """Draw where views of these anatomies lie: around a random voxel of each one's brain, and in 2-D through it.

    That voxel lies within a quarter of the crop's side of its middle. Sections and pictures are only moved within their plane.
    """
    count, dims = len(anatomies), settings.dims
    flat = torch.tensor([anatomy.flat for anatomy in anatomies])
    across = torch.stack([anatomy.an_axis(generator) for anatomy in anatomies])
    own = torch.arange(3) == across[:, None]
    frame = _common(own, flat, settings, generator)
    if dims == 2:
        rest = (~own).nonzero()[:, 1].reshape(count, 1, 2)
        frame = frame.gather(2, rest.expand(-1, 3, -1))
    waves = WAVE_NUMBER / settings.size * torch.randn((count, WAVES, dims), generator=generator)
    strength = torch.randn((count, WAVES, 3, 2), generator=generator) * (settings.bend / math.sqrt(WAVES))
    amplitudes = torch.view_as_complex(strength) * ~(own & flat[:, None])[:, None]
    somewhere = torch.stack([anatomy.a_voxel(generator) for anatomy in anatomies])
    away = settings.size * INNER * (2 * torch.rand((count, dims, 1), generator=generator) - 1)
    return Placements(frame, somewhere + (frame @ away)[..., 0], waves, amplitudes, settings.size)


def draw_motions(count: int, settings: ViewGeometry, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns `(N, d, d)` and shifts `(N, d)` of second views, voxels: see `Placements.moved`."""
    turn = _rotations(count, settings.dims, settings.turn, generator)
    return turn, settings.shift * (2 * torch.rand((count, settings.dims), generator=generator) - 1)


def _real_product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The real part of a product of complex matrices."""
    return torch.cat([first.real, -first.imag], dim=1) @ torch.cat([second.real, second.imag])


def _common(own: torch.Tensor, flat: torch.Tensor, settings: ViewGeometry, generator: torch.Generator) -> torch.Tensor:
    """`(N, 3, 3)`: turn, stretch, zoom and mirror; those of `flat` anatomies keep their `own` axis."""
    count, reach = len(own), math.log(settings.zoom)
    turn = _rotations(count, 3, settings.rotation, generator, own | ~flat[:, None])
    stretch = uniform((count, 3), (-settings.stretch, settings.stretch), generator)
    scale = (stretch + uniform((count, 1), (-reach, reach), generator)).exp()
    mirror = torch.rand((count, 3), generator=generator) < torch.tensor(settings.flips)
    return turn * torch.where(mirror, -scale, scale)[:, None]


def _rotations(
    count: int, dims: int, most: float, generator: torch.Generator, about: torch.Tensor | None = None
) -> torch.Tensor:
    """`(N, d, d)`, about every axis (those that `about` `(N, 3)` names) by up to `most` degrees."""
    planes = ((0, 1),) if dims == 2 else ((1, 2), (0, 2), (0, 1))
    angle = uniform((count, len(planes)), (-math.radians(most), math.radians(most)), generator)
    angle = angle if about is None else angle * about
    skew = torch.zeros(count, dims, dims)
    for place, (first, second) in enumerate(planes):
        skew[:, first, second], skew[:, second, first] = -angle[:, place], angle[:, place]
    found: torch.Tensor = torch.linalg.matrix_exp(skew)
    return found
