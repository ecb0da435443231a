"""How a metric answers to known shifts and turns away from a given alignment: where its optimum lies, how wide, how many."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from regsim.errors import GridError
from regsim.evaluation.surface import Array, flanks, minima, optimum
from regsim.images.image import Image
from regsim.metrics import AbstractMetric
from regsim.prepare import coarser, rescaled
from regsim.registration.level import Level
from regsim.transforms.base import Transform
from regsim.transforms.linear import Rigid


@dataclass(frozen=True)
class Response:
    """The mean cost (lower is better) of some pairs, moved by known amounts.

    Args:
        motion: "shift in x", "shift in y", "shift in z" or "turn" (about the last axis, counter-clockwise).
        places: the amounts, equal steps: physical units, or degrees.
        costs: one for each.
    """

    motion: str
    places: Array
    costs: Array

    @property
    def centre(self) -> float:
        """Where the lowest cost lies, between the places by a parabola."""
        return optimum(self.places, self.costs)

    @property
    def width(self) -> float:
        """How far apart the two flanks around the lowest cost are, halfway up to the lower of the two ends."""
        return flanks(self.places, self.costs)

    @property
    def modes(self) -> int:
        """How many minima; see `surface.minima`."""
        return minima(self.costs)


@torch.no_grad()
def responses(
    metric: AbstractMetric,
    pairs: Sequence[tuple[Image, Image, Transform]],
    spacing: float,
    reach: float = 24.0,
    turn: float = 24.0,
    steps: int = 12,
    only: str = "",
) -> list[Response]:
    """The mean response over some pairs: shifts along every axis, and turns.

    Args:
        metric: what answers.
        pairs: fixed image, moving image, and the transform (fixed to moving) from where the pair is moved away.
        spacing: of the images, physical units.
        reach, turn: the largest amounts, either way: physical units, degrees.
        steps: how many, either way.
        only: one motion; all where none is named.

    Returns:
        For each motion its mean costs; places where a pair loses its overlap are left out of its mean.
    """
    ndim = pairs[0][0].ndim
    levels = [
        (Level(coarser(rescaled(fixed), spacing), coarser(rescaled(moving), spacing), metric), way)
        for fixed, moving, way in pairs
    ]
    amounts = np.linspace(-1, 1, 2 * steps + 1)
    found = []
    for axis in range(ndim + 1):
        largest = reach if axis < ndim else turn
        name = f"shift in {'xyz'[axis]}" if axis < ndim else "turn"
        if only and name != only:
            continue
        rows = [[cost_away(level, way, axis, float(at * largest)) for at in amounts] for level, way in levels]
        mean = np.nanmean(np.array(rows), axis=0) if rows else np.zeros_like(amounts)
        found.append(Response(name, amounts * largest, np.where(np.isfinite(mean), mean, np.nanmax(mean))))
    return found


@torch.no_grad()
def cost_away(level: Level, way: Transform, axis: int, at: float) -> float:
    """The cost of a pair that lies as `way` says, moved by one known amount; NaN where it loses its overlap.

    Args:
        level: what is compared.
        way: from fixed to moving points.
        axis: 0, 1, 2: mapped points are shifted along x, y, z by `at` (physical units); the number of axes: fixed points are
            turned about the grid's centre by `at` degrees (in 3-D about z).
        at: how far.
    """
    away = Rigid(level.fixed.ndim, level.grid.centre)
    if axis < level.fixed.ndim:
        away.translation[axis] = at
    else:
        away.rotation.view(-1)[-1] = math.radians(at)
    points = level.grid.points()
    mapped = way(away(points)) if axis == level.fixed.ndim else way(points) + away.translation.to(points)
    try:
        return float(level.cost(mapped.float()))
    except GridError:
        return math.nan
