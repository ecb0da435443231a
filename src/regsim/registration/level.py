"""One resolution level: the cost of a mapping, with the metric bound once."""

from dataclasses import replace

import torch

from regsim.errors import GridError
from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.metrics.base import AbstractMetric
from regsim.prepare import coarser, smoothed
from regsim.registration.penalties import PENALTIES
from regsim.transforms.sampling import inside, sample
from regsim.transforms.warp import warp

SMALLEST_OVERLAP = 0.05
STRETCH = 1.07


class Level:
    """Both images at one spacing, and the metric bound to the fixed one.

    Args:
        fixed: at full resolution, intensities in [0, 1].
        moving: likewise.
        metric: what to compare by.
        spacing: of this level, physical units.
        smoothing: Gaussian of both images, in voxels of the level.
    """

    def __init__(self, fixed: Image, moving: Image, metric: AbstractMetric, spacing: float, smoothing: float = 0.0):
        self.metric = metric
        self.fixed, self.moving = coarser(fixed, spacing), coarser(moving, spacing)
        if smoothing > 0:
            self.fixed = smoothed(self.fixed, (smoothing,) * fixed.ndim)
            self.moving = smoothed(self.moving, (smoothing,) * moving.ndim)
        self.fixed = off_grid(self.fixed)
        self.bound = metric.bind(self.fixed.batch, self.fixed.mask_batch)
        self.overlap = 1.0

    @property
    def grid(self) -> Grid:
        """The fixed image's grid at this level."""
        return self.fixed.grid

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.fixed.data.device

    def warped(self, points: torch.Tensor) -> torch.Tensor:
        """The moving image `(1, C, *shape)` at mapped points; the border value goes on outside."""
        return sample(self.moving.batch, self.moving.grid, points, "linear", "border")

    def seen(self, points: torch.Tensor) -> torch.Tensor | None:
        """Where the moving image has data, `(1, 1, *shape)`, or None where it has data everywhere. No gradient.

        Raises:
            GridError: less than a twentieth of the fixed image (or its mask) meets the moving one.
        """
        weights = inside(self.moving.grid, points)[None, None]
        if self.moving.mask is not None:
            mask = self.moving.mask[None]
            weights = weights * sample(mask, self.moving.grid, points.detach(), "linear", "zeros").clamp(0, 1)
        own = self.fixed.mask_batch
        self.overlap = float(weights.mean() if own is None else (weights * own).sum() / own.sum().clamp_min(1e-9))
        if not self.overlap >= SMALLEST_OVERLAP:
            raise GridError(f"no overlap: {100 * self.overlap:.1f} % of the fixed image meets the moving one")
        return None if bool((weights == 1).all()) else weights

    def cost(self, points: torch.Tensor) -> torch.Tensor:
        """The metric's cost (lower is better) of the mapped points of this level's grid, a scalar with gradient."""
        return self.metric.cost(self.bound(self.warped(points), self.seen(points))).sum()

    def force(self, points: torch.Tensor) -> float:
        """How strongly the metric pulls, in cost per physical unit, at a known small misplacement of one voxel.

        Every metric has its own scale; a cost divided by this is a length. It does not depend on how well the images are
        aligned already, as the gradient at the present place would.
        """
        step = torch.tensor([1.0, -1.0, 1.0])[: self.grid.ndim].to(points)
        size = float(torch.tensor(self.grid.spacing).log().mean().exp())
        moved = (points.detach() + size * step / step.norm()).requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.cost(moved), moved)
        return max(float(gradient.norm(dim=-1).sum()), 1e-12)


def off_grid(image: Image) -> Image:
    """The image on a slightly coarser grid over the same extent, so that its samples fall at all places between voxels.

    Linear interpolation averages noise away between voxels and not on them. With the fixed image on its own voxels, a metric
    prefers to shift the moving image by half a voxel; with both read between their voxels it has no reason to.
    """
    grid = image.grid.with_spacing(tuple(STRETCH * spacing for spacing in image.grid.spacing))
    carried = warp(replace(image, mask=None), None, grid)
    mask = None if image.mask is None else warp(Image(image.mask, image.grid), None, grid).data.clamp(0, 1)
    return replace(carried, mask=mask)


def penalty(displacement: torch.Tensor, grid: Grid, weights: dict[str, float]) -> torch.Tensor:
    """The weighted sum of penalties."""
    total = displacement.new_zeros(())
    for name, weight in weights.items():
        if weight:
            total = total + weight * PENALTIES[name](displacement, grid)
    return total
