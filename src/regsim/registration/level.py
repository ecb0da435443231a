"""One resolution level: the cost of a mapping, with the metric bound once."""

from collections.abc import Callable
from dataclasses import replace

import torch

from regsim.errors import GridError
from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.metrics.base import AbstractMetric
from regsim.transforms.base import Mapping, Transform
from regsim.transforms.linear import LinearTransform
from regsim.transforms.sampling import inside, sample
from regsim.transforms.warp import warp

SMALLEST_OVERLAP = 0.05
PARTIAL = 0.5
STRETCH = 1.07
SAMPLES_PER_VOXEL = 2
FEW = 0.6


class Level:
    """Both images at one spacing, and the metric bound to the fixed one.

    Args:
        fixed: at this level's spacing, intensities in [0, 1].
        moving: likewise.
        metric: what to compare by.
        samples: None: every voxel of the fixed grid is compared. A number: so many points between the voxels, drawn once.
        start: how the moving image lies at first. Where it shows less than half of the fixed one, the metric is told what.
    """

    def __init__(
        self,
        fixed: Image,
        moving: Image,
        metric: AbstractMetric,
        samples: int | None = None,
        start: Transform | None = None,
    ):
        self.moving = moving
        self.original = fixed
        self.scattered = samples is not None
        self.fixed = fixed if samples is not None else off_grid(fixed)
        self.points = self.grid.points(device=fixed.data.device) if samples is None else scattered(fixed, samples)
        values, self.weights = self._fixed_values()
        self.metric = metric.with_spacing(tuple(reversed(self.grid.spacing)))
        self.read: torch.Tensor | None = None
        view = None if start is None or self.scattered else self._view(start)
        if view is not None:
            self.metric = self.metric.with_view(view)
        self.bound = self.metric.bind(values, self.weights)
        self.read = None if self.scattered else few(self.bound.reads, self.grid.voxels)
        self.overlap = 1.0

    def _fixed_values(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self.scattered:
            return self.fixed.batch, self.fixed.mask_batch
        values = sample(self.fixed.batch, self.grid, self.points, "linear", "border")
        mask = self.fixed.mask_batch
        weights = None if mask is None else sample(mask, self.grid, self.points, "linear", "border").clamp(0, 1)
        return values, weights

    def _view(self, start: Transform) -> torch.Tensor | None:
        """What the moving image shows as it lies, or None where that is half of the fixed image (its mask) or more."""
        with torch.no_grad():
            view = self.data_at(self.mapping(start)().float())
        own = torch.ones_like(view) if self.weights is None else self.weights
        return view if float((view * own).sum()) < PARTIAL * float(own.sum()) else None

    @property
    def grid(self) -> Grid:
        """The fixed image's grid at this level."""
        return self.fixed.grid

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.fixed.data.device

    @property
    def compared(self) -> int:
        """How many points are compared."""
        return self.points.shape[:-1].numel() if self.read is None else len(self.read)

    def mapping(self, transform: Transform) -> Mapping:
        """A function that maps this level's points with the parameters of the moment: those that the metric reads.

        A transform that is not linear maps all points.
        """
        if self.scattered:
            return lambda: transform(self.points)
        if self.read is None or not isinstance(transform, LinearTransform):
            return transform.mapping(self.grid)
        points = self.points.flatten(0, -2)[self.read]
        return lambda: transform(points)

    def warped(self, points: torch.Tensor) -> torch.Tensor:
        """The moving image `(1, C, *shape)` at mapped points; the border value goes on outside.

        Where only the points are given that the metric reads, the others hold 0.
        """
        return self._filled(sample(self.moving.batch, self.moving.grid, points, "linear", "border"))

    def _filled(self, values: torch.Tensor) -> torch.Tensor:
        """Values at the points that the metric reads, `(1, C, n)`, as an image `(1, C, *shape)`; an image stays as it is."""
        if self.read is None or values.ndim != 3:
            return values
        whole = values.new_zeros((*values.shape[:2], self.grid.voxels))
        return whole.index_copy(2, self.read, values).reshape(*values.shape[:2], *self.grid.shape)

    def seen(self, points: torch.Tensor) -> torch.Tensor | None:
        """Where the moving image has data, `(1, 1, *shape)`, or None where it has data everywhere. No gradient.

        Raises:
            GridError: less than a twentieth of the fixed image (of its mask; of what the metric reads) meets the moving one.
        """
        weights, own = self.data_at(points), self.weights
        if own is not None and weights.ndim == 3:
            own = own.flatten(2)[..., self.read]
        self.overlap = float(weights.mean() if own is None else (weights * own).sum() / own.sum().clamp_min(1e-9))
        if not self.overlap >= SMALLEST_OVERLAP:
            raise GridError(f"no overlap: {100 * self.overlap:.1f} % of the fixed image meets the moving one")
        return None if self.overlap == 1.0 and bool((weights == 1).all()) else self._filled(weights)

    def data_at(self, points: torch.Tensor) -> torch.Tensor:
        """Weights `(1, 1, *shape)`: how much the moving image has data at mapped points."""
        weights = inside(self.moving.grid, points)[None, None]
        if self.moving.mask is None:
            return weights
        held = sample(self.moving.mask[None], self.moving.grid, points.detach(), "linear", "zeros")
        return weights * held.clamp(0, 1)

    def cost(self, points: torch.Tensor) -> torch.Tensor:
        """The metric's cost (lower is better) of this level's points once mapped, a scalar with gradient."""
        return self.metric.cost(self.bound(self.warped(points), self.seen(points))).sum()

    def force(self, points: torch.Tensor) -> float:
        """How strongly the metric pulls, in cost per physical unit, at a known small misplacement of one voxel.

        Every metric has its own scale; a cost divided by this is a length. It does not depend on how well the images are
        aligned already, as the gradient at the present place would.
        """
        return force_of(self.cost, self.grid, points)


def force_of(cost: Callable[[torch.Tensor], torch.Tensor], grid: Grid, points: torch.Tensor) -> float:
    """How strongly a cost of mapped points pulls: see `Level.force`."""
    step = torch.tensor([1.0, -1.0, 1.0])[: grid.ndim].to(points)
    size = float(torch.tensor(grid.spacing).log().mean().exp())
    moved = (points.detach() + size * step / step.norm()).requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(cost(moved), moved)
    return max(float(gradient.norm(dim=-1).sum()), 1e-12)


def few(read: torch.Tensor | None, voxels: int) -> torch.Tensor | None:
    """The voxels that a metric reads, where they are so few that the others are worth leaving out."""
    return read if read is not None and len(read) < FEW * voxels else None


def off_grid(image: Image) -> Image:
    """The image on a slightly coarser grid over the same extent, so that its samples fall at all places between voxels.

    Linear interpolation averages noise away between voxels and not on them. With the fixed image on its own voxels, a metric
    prefers to shift the moving image by half a voxel; with both read between their voxels it has no reason to.
    """
    grid = image.grid.with_spacing(tuple(STRETCH * spacing for spacing in image.grid.spacing))
    carried = warp(replace(image, mask=None), None, grid)
    mask = None if image.mask is None else warp(Image(image.mask, image.grid), None, grid).data.clamp(0, 1)
    return replace(carried, mask=mask)


def scattered(image: Image, most: int) -> torch.Tensor:
    """Points `(1, n, ndim)` at random places within the image (its mask, if it has one): the same at every call.

    They lie between the voxels, so both images are interpolated everywhere (see `off_grid`). n is `most`, or two a voxel
    where that is fewer.
    """
    generator = torch.Generator().manual_seed(0)
    allowed = None if image.mask is None else image.mask.flatten().nonzero()[:, 0].cpu()
    voxels = image.grid.voxels if allowed is None else len(allowed)
    if voxels == 0:
        raise GridError(f"'{image.name}': its mask is empty at a spacing of {max(image.grid.spacing):.4g}")
    drawn = torch.randint(voxels, (min(most, SAMPLES_PER_VOXEL * voxels),), generator=generator)
    place = torch.unravel_index(drawn if allowed is None else allowed[drawn], image.grid.shape)
    index = torch.stack(place[::-1], dim=-1).double()
    index += torch.rand(index.shape, generator=generator, dtype=torch.float64) - 0.5
    return image.grid.index_to_physical(index).float()[None].to(image.data.device)
