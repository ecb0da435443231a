"""What a deformable stage lowers: the metric over its own force, plus penalties; one way, or both ways at once."""

import torch

from regsim.images.image import Image
from regsim.registration.deformation import Deformation
from regsim.registration.level import Level
from regsim.registration.penalties import penalty
from regsim.transforms.base import Transform


class DeformableCost:
    """The cost of the deformation of the moment, a length.

    One way: `metric(F, M o A o T) / force + penalties(T)`, with A what earlier stages have found. Symmetric: the mean of that
    and of `metric(M o A, F o T^-1) / force + penalties(T^-1)`, both over the fixed grid, so that neither image is preferred.

    Args:
        level: both images and the metric.
        outer: A.
        deformation: T; only a velocity can be symmetric.
        weights: of the penalties, by name.
        symmetric: compare both ways.
    """

    def __init__(
        self, level: Level, outer: Transform, deformation: Deformation, weights: dict[str, float], symmetric: bool
    ):
        self.level, self.outer, self.weights = level, outer, weights
        self.points = level.grid.points(device=deformation.control.device)
        self.there = deformation.displacement(level.grid)
        with torch.no_grad():
            start = outer(self.points)
        self.force = level.force(start)
        self.back: _Back | None = _Back(level, outer, deformation, weights) if symmetric else None

    def __call__(self) -> tuple[torch.Tensor, float]:
        """Cost, and the penalties within it."""
        moved = self.there()
        smooth = penalty(moved, self.level.grid, self.weights)
        cost = self.level.cost(self.outer(self.points + moved)) / self.force + smooth
        if self.back is not None:
            other, rough = self.back()
            cost, smooth = 0.5 * (cost + other), 0.5 * (smooth + rough)
        return cost, float(smooth.detach())


class _Back:
    """The opposite way: the carried moving image stays, the fixed image moves by the opposite velocity."""

    def __init__(self, level: Level, outer: Transform, deformation: Deformation, weights: dict[str, float]):
        grid = level.original.grid
        with torch.no_grad():
            start = outer(grid.points(device=deformation.control.device))
            still = Image(level.warped(start)[0], grid, level.data_at(start)[0])
        self.level = Level(still, level.original, level.metric)
        self.points = self.level.grid.points(device=deformation.control.device)
        self.back = deformation.displacement(self.level.grid, backwards=True)
        self.weights, self.force = weights, self.level.force(self.points)

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        moved = self.back()
        smooth = penalty(moved, self.level.grid, self.weights)
        return self.level.cost(self.points + moved) / self.force + smooth, smooth
