"""What probes are read from: a pair on one grid, its window, its noisy and blurred versions. Nothing is ever padded.

Both images of every probe are read off the grid: the window is tilted by 5 to 8 degrees and shifted by part of a voxel before
anything is sampled, so that fixed and moving are blurred alike, whatever the misalignment.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from scipy.ndimage import distance_transform_edt

from regsim.errors import GridError, InputError
from regsim.evaluation.scoring import on_fixed_grid
from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.prepare import foreground, gaussian, rescaled
from regsim.transforms.base import Transform
from regsim.transforms.linear import Rigid
from regsim.transforms.sampling import inside, sample

MARGIN = 8.0
TILT = (5.0, 8.0)
UNIFORM = 0.02
POINTS = 3000
EIGHT = 8


@dataclass(frozen=True)
class LandscapePair:
    """Two images that are taken to be aligned.

    Args:
        fixed: its grid and unit are the landscape's.
        moving: any grid of the same dimension; carried onto the fixed grid by the files' own geometry.
        subject: pairs of one subject are not independent: the bootstrap draws subjects.
        name: what to call the pair in tables.
    """

    fixed: Image
    moving: Image
    subject: str = "1"
    name: str = ""


@dataclass(frozen=True)
class Look:
    """How the images of a probe differ from the stored ones.

    `noise_fixed`, `noise_moving`: sigma of Gaussian noise, added before resampling (a scanner's noise), of intensities in
    [0, 1]. `blur`: sigma in voxels, `gamma`: exponent, `inverted`: 1 - x in the foreground; all three of the moving image.
    `itself`: the moving image is the fixed one. `swapped`: the two are exchanged as arguments of the metric.
    """

    noise_fixed: float = 0.0
    noise_moving: float = 0.0
    blur: float = 0.0
    gamma: float = 1.0
    inverted: bool = False
    itself: bool = False
    swapped: bool = False


@dataclass(frozen=True)
class Disc:
    """An interior disc (ball): all that a probe with its outline hidden shows. `centre` in the fixed image's space.

    Outside both images are zero, and metrics that take a mask are given it.
    """

    centre: torch.Tensor
    radius: float


@dataclass(eq=False)
class Canvas:
    """A pair that probes are read from.

    Args:
        pair: the images.
        seed: of the noise.
        device: where the images are held and the probes are made.
    """

    pair: LandscapePair
    seed: int = 0
    device: str = "cpu"
    _looks: dict[tuple[object, ...], torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fixed, moving = self.pair.fixed, self.pair.moving
        if fixed.data.shape[0] != moving.data.shape[0]:
            raise GridError(f"fixed has {fixed.data.shape[0]} channels, moving {moving.data.shape[0]}")
        if min(fixed.grid.size) < 4:
            raise GridError(f"'{fixed.name}': {fixed.grid} is too small for a landscape; 4 voxels an axis are needed")
        carried, mask = on_fixed_grid(fixed, moving, None)
        together = None if mask is None else mask[0]
        self.fixed = rescaled(replace(fixed, mask=together))
        self.moving = rescaled(replace(carried, mask=together))
        self.outline = foreground(replace(self.fixed, mask=None))
        if together is not None:
            self.outline = self.outline & (together[0].cpu() > 0)
        if int(self.outline.sum()) < 4:
            raise InputError(f"'{fixed.name}' and '{moving.name}': no foreground that both show")
        self.mask = None if together is None else together[None].float().to(self.device)
        self.open = mask is None and _uniform_border(self.fixed.data) and _uniform_border(self.moving.data)

    @property
    def grid(self) -> Grid:
        """The fixed image's."""
        return self.fixed.grid

    @cached_property
    def identical(self) -> bool:
        """The two images show the same values: only noise can make them differ."""
        return bool((self.fixed.data - self.moving.data).abs().max() < 1e-3)

    @cached_property
    def body(self) -> torch.Tensor:
        """At most 3000 points of the foreground, `(points, ndim)`, float32: where true errors are measured."""
        points = self.grid.points()[self.outline]
        return points[:: max(1, math.ceil(points.shape[0] / POINTS))]

    @cached_property
    def centre(self) -> torch.Tensor:
        """The middle of the foreground, `(ndim,)`, float64: rotations turn about it."""
        return self.body.double().mean(dim=0)

    @cached_property
    def window(self) -> Grid:
        """The grid of every probe: the foreground's box with 8 units around where the background is uniform and so
        goes on outside the image; else the whole grid. Sizes are multiples of 8 where that is free."""
        if not self.open:
            return self.grid
        found = self.outline.nonzero()
        first, last = found.amin(dim=0).flip(0), found.amax(dim=0).flip(0)
        extra = torch.tensor([math.ceil(MARGIN / spacing) for spacing in self.grid.spacing])
        size = last - first + 1 + 2 * extra
        rounded = torch.div(size + EIGHT - 1, EIGHT, rounding_mode="floor") * EIGHT
        low = first - extra - (rounded - size) // 2
        origin = tuple(self.grid.index_to_physical(low.double()).tolist())
        return replace(self.grid, size=tuple(rounded.tolist()), origin=origin)

    @cached_property
    def depth(self) -> torch.Tensor:
        """Distance to the outline inside the foreground, `(*shape)`, in the grid's unit."""
        spacing = tuple(reversed(self.grid.spacing))
        return torch.from_numpy(distance_transform_edt(self.outline.numpy(), sampling=spacing)).float()

    def tilt(self, generator: torch.Generator) -> Rigid:
        """A common motion of both images of a probe: 5 to 8 degrees either way about every axis, part of a voxel along each."""
        ndim = self.grid.ndim
        turns = 1 if ndim == 2 else 3
        size = TILT[0] + (TILT[1] - TILT[0]) * torch.rand(turns, generator=generator, dtype=torch.float64)
        sign = torch.randint(0, 2, (turns,), generator=generator) * 2 - 1
        size = size if ndim == 2 else size / math.sqrt(turns)
        shift = torch.rand(ndim, generator=generator, dtype=torch.float64) - 0.5
        drawn = Rigid(ndim, self.centre.numpy())
        with torch.no_grad():
            drawn.rotation.copy_(torch.deg2rad(size * sign))
            drawn.translation.copy_(torch.as_tensor(self.grid.matrix) @ shift)
        return drawn

    def fixed_values(self, look: Look) -> torch.Tensor:
        """The fixed image of a look, `(1, C, *shape)`."""
        key = ("fixed", look.noise_fixed)
        if key not in self._looks:
            self._looks[key] = self._noisy(self.fixed.batch, look.noise_fixed, 1).to(self.device)
        return self._looks[key]

    def moving_values(self, look: Look) -> torch.Tensor:
        """The moving image of a look, `(1, C, *shape)`."""
        key = ("moving", look.itself, look.noise_moving, look.blur, look.gamma, look.inverted)
        if key not in self._looks:
            values = self.fixed.batch if look.itself else self.moving.batch
            if look.inverted:
                values = torch.where(self.outline[None, None], 1 - values, values)
            values = values if look.gamma == 1 else values**look.gamma
            values = gaussian(values, (look.blur,) * self.grid.ndim) if look.blur else values
            self._looks[key] = self._noisy(values, look.noise_moving, 2).to(self.device)
        return self._looks[key]

    def _noisy(self, values: torch.Tensor, sigma: float, stream: int) -> torch.Tensor:
        if sigma == 0:
            return values
        generator = torch.Generator().manual_seed(self.seed * 1000 + stream)
        return values + sigma * torch.randn(values.shape, generator=generator)

    def valid(self, motions: list[Transform]) -> torch.Tensor | None:
        """Where in the fixed image's space all of these misalignments find data, `(1, 1, *shape)`; None where everywhere.

        One answer for a whole group of probes, so that the mask says nothing about the misalignment.
        """
        if self.open:
            return None
        seen = torch.ones((1, 1, *self.grid.shape), device=self.device) if self.mask is None else self.mask.clone()
        for motion in motions:
            with torch.no_grad():
                there = motion.mapping(self.grid)().float().to(self.device)
            found = inside(self.grid, there)[None, None]
            if self.mask is not None:
                found = found * (sample(self.mask, self.grid, there, "nearest", "zeros") > 0)
            seen = seen * found
        return seen


def _uniform_border(data: torch.Tensor) -> bool:
    """Whether the outermost voxels all hold one value (within 2 % of the range; one in 200 may stray), as air does."""
    edges = [data.select(axis, end).flatten() for axis in range(1, data.ndim) for end in (0, -1)]
    values = torch.cat(edges)
    values = values[:: max(1, values.numel() // 100_000)]
    ends = torch.quantile(values, torch.tensor([0.0025, 0.9975]))
    return float(ends[1] - ends[0]) <= UNIFORM
