"""Registration by features that are taken before the warp: each image's once a stage, then carried like an image."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.kernels.choice import on_cpu
from regsim.kernels.features import feature_distance
from regsim.metrics.features import FeatureDistance, FeatureMetric
from regsim.prepare import coarser
from regsim.registration.level import Level, force_of
from regsim.transforms.base import Transform
from regsim.transforms.linear import LinearTransform, nearest_rotation
from regsim.transforms.sampling import inside, to_index
from regsim.transforms.warp import warp

SMALLEST_TURN = 0.02


class FeatureLevel(Level):
    """A level whose images hold features. In float32 on the CPU they are read and compared in one compiled loop."""

    def __init__(self, fixed: Image, moving: Image, name: str, samples: int | None = None):
        super().__init__(fixed, moving, FeatureDistance(name), samples)
        values, self._matrix = self._fixed_values()[0], to_index(moving.grid)
        self._fast = on_cpu(values) and on_cpu(moving.data)
        if self._fast:
            self._own = values[0].flatten(1).T.contiguous()
            self._other = moving.data.movedim(0, -1).contiguous()

    def cost(self, points: torch.Tensor) -> torch.Tensor:
        """As `Level.cost`."""
        if not self._fast:
            return super().cost(points)
        seen, own = self.seen(points), self.weights
        weights = torch.ones(points.shape[:-1]).flatten() if seen is None else seen.flatten()
        if own is not None:
            weights = weights * own.flatten()
        flat = points.reshape(-1, points.shape[-1]).float()
        return feature_distance(self._own, self._other, flat, self._matrix, weights)


class GuidedLevel(FeatureLevel):
    """Carried features, and beside them a metric that sees the warped image itself: `cost = share c_f / p_f + c / p`.

    Each cost c is divided by its pull p at one voxel of misplacement (`force_of`), measured where the level starts, so `share` is
    the features' pull as a share of the metric's.

    Args:
        fixed, moving: both images' features.
        name: of the metric whose features they are.
        beside: the images themselves at the same spacing, and the metric.
        share: see above.
    """

    def __init__(self, fixed: Image, moving: Image, name: str, beside: Level, share: float):
        super().__init__(fixed, moving, name)
        self.beside, self.share = beside, share
        self._pulls: tuple[float, float] | None = None

    def cost(self, points: torch.Tensor) -> torch.Tensor:
        """As `Level.cost`."""
        if self._pulls is None:
            self._pulls = force_of(super().cost, self.grid, points), self.beside.force(points)
        own, other = self._pulls
        return self.share / own * super().cost(points) + self.beside.cost(points) / other

    def force(self, points: torch.Tensor) -> float:
        """1: the cost is divided by the companion's force already."""
        return 1.0


def features_of(image: Image, metric: FeatureMetric, whole: bool = True) -> Image:
    """The image's features as an image of many channels, on its own grid; not `whole`: without its companion's."""
    with torch.no_grad():
        found = metric.dense(image.batch, image.mask_batch, whole)[0]
    if image.mask is not None:
        found = torch.where(image.mask > 0, found, torch.zeros(()).to(found))
    return Image(found, image.grid, image.mask, image.name)


class FeaturePyramid:
    """Both images' features at any spacing: taken at one spacing, then thinned.

    Convention:
        Features turn with the image, but a network sees a turned image differently. So the moving image is first read on a
        grid that is turned as the transform of the moment turns the fixed one.

    Args:
        fixed: at full resolution, intensities in [0, 1].
        moving: likewise.
        metric: whose features.
        spacing: at which they are taken.
        whole: with what the metric's companion compares, if it has one.
    """

    def __init__(self, fixed: Image, moving: Image, metric: FeatureMetric, spacing: float, whole: bool = True):
        self.moving, self.metric, self.spacing, self.whole = moving, metric, spacing, whole
        self.fixed = features_of(coarser(fixed, spacing), metric, whole)
        self._seen_at = np.zeros(())
        self._seen: Image | None = None

    def at(self, spacing: float, start: Transform) -> tuple[Image, Image]:
        """Both at a spacing (physical units); `start`: the transform of the moment."""
        first, second = (coarser(image, spacing) for image in (self.fixed, self._turned(start)))
        return first, second

    def _turned(self, start: Transform) -> Image:
        """The moving image's features, taken anew where the image is turned by now."""
        wanted = directions_after(start, self.fixed.grid)
        if self._seen is None or float(np.abs(wanted - self._seen_at).max()) >= SMALLEST_TURN:
            turned = turned_to(self.moving, wanted)
            taken = features_of(coarser(turned, self.spacing), self.metric, self.whole)
            self._seen, self._seen_at = taken, wanted
        return self._seen


def turned_to(moving: Image, wanted: npt.NDArray[np.float64]) -> Image:
    """The image on a grid with these directions (columns), over all of its extent; its mask is 0 where it has no data."""
    own = np.asarray(moving.grid.direction)
    if float(np.abs(wanted - own).max()) < SMALLEST_TURN:
        return moving
    corners = moving.grid.corners().numpy() @ wanted
    spacing = (min(moving.grid.spacing),) * moving.ndim
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = tuple(int(np.ceil(length / step)) + 1 for length, step in zip(high - low, spacing, strict=True))
    grid = Grid(size, spacing, tuple((wanted @ low).tolist()), tuple(map(tuple, wanted.tolist())), moving.grid.unit)
    carried = warp(replace(moving, mask=None), None, grid)
    points = grid.points(device=moving.data.device)
    held = inside(moving.grid, points)[None]
    if moving.mask is not None:
        held = held * warp(Image(moving.mask, moving.grid), None, grid).data.clamp(0, 1)
    return Image(carried.data, grid, held, moving.name)


def directions_after(transform: Transform, grid: Grid) -> npt.NDArray[np.float64]:
    """The columns: where the axes of a grid point once mapped, the nearest rotation of them."""
    centre = torch.as_tensor(grid.centre, dtype=torch.float32)
    axes = torch.as_tensor(np.asarray(grid.direction), dtype=torch.float32)
    if isinstance(transform, LinearTransform):
        turn = transform.homogeneous()[:-1, :-1].float().cpu()
    else:
        reach = 0.25 * float(grid.radius)
        with torch.no_grad():
            ends = transform(torch.cat([centre + reach * axes.T, centre - reach * axes.T]))
        turn = ((ends[: grid.ndim] - ends[grid.ndim :]) / (2 * reach)).T @ axes.T
    found: npt.NDArray[np.float64] = (nearest_rotation(turn.double()) @ axes.double()).numpy()
    return found
