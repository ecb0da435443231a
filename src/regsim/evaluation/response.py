"""How a metric answers to known shifts and turns away from a given alignment: where its optimum lies, how wide, how many."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from regsim.errors import GridError
from regsim.evaluation.surface import optimum
from regsim.images.image import Image
from regsim.metrics import AbstractMetric
from regsim.prepare import coarser, rescaled
from regsim.registration.level import Level
from regsim.transforms.base import Transform
from regsim.transforms.linear import Rigid

Array = npt.NDArray[np.float64]
DEPTH = 0.03


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
        """How many minima, `DEPTH` of the range deep at least; a minimum at an end counts."""
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
        rows = [[_cost(level, way, axis, float(at * largest)) for at in amounts] for level, way in levels]
        mean = np.nanmean(np.array(rows), axis=0) if rows else np.zeros_like(amounts)
        found.append(Response(name, amounts * largest, np.where(np.isfinite(mean), mean, np.nanmax(mean))))
    return found


def _cost(level: Level, way: Transform, axis: int, at: float) -> float:
    """With the mapped points shifted, or the fixed points turned about the grid's centre."""
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


def minima(values: Array, depth: float = DEPTH) -> int:
    """Local minima, ends too, that lie at least `depth` of the range below the ridges beside them.

    >>> minima(np.array([3.0, 2.0, 1.0, 2.0, 1.5, 3.0])), minima(np.array([3.0, 1.0, 2.0]))
    (2, 1)
    """
    least = depth * float(values.max() - values.min())
    found, low, high, falling = 0, float(values[0]), float(values[0]), True
    for value in (float(each) for each in values[1:]):
        if falling:
            low = min(low, value)
            if value > low + least:
                found, high, falling = found + 1, value, False
        else:
            high = max(high, value)
            if value < high - least:
                low, falling = value, True
    return found + (1 if falling and low < float(values[0]) - least else 0)


def flanks(places: Array, values: Array, height: float = 0.5) -> float:
    """Distance of the flanks around the lowest value, at a share of the height of the lower end; the whole line if it is flat.

    >>> flanks(np.arange(5.0), np.array([2.0, 1.0, 0.0, 1.0, 2.0]))
    2.0
    """
    best = int(values.argmin())
    lowest, end = float(values[best]), min(float(values[0]), float(values[-1]))
    half = lowest + height * (end - lowest)
    ends = []
    for way in (-1, 1):
        at = best
        while 0 <= at + way < len(values) and values[at] < half:
            at += way
        before = at - way
        rise = float(values[at] - values[before]) if 0 <= before < len(values) and at != best else 0.0
        share = (half - float(values[before])) / rise if rise > 0 else 1.0
        ends.append(float(places[before] + share * (places[at] - places[before])) if at != best else float(places[at]))
    return abs(ends[1] - ends[0])
