"""The regions of a check: labels, or the eighths of the mask's bounding box; the worst places and the plane that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from regsim.evaluation.views import FLAT, PLANES
from regsim.images.grid import Grid

FEWEST = 30
PLACES, APART = 5, 8.0
UNEQUAL = 1.05
SIDES = (("right", "left"), ("front", "back"), ("lower", "upper"))


@dataclass(frozen=True)
class Region:
    """A name, and where it is: bool, `(*shape)`, within the mask."""

    name: str
    where: torch.Tensor


def points_of(mask: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The physical points of the voxels of a mask `(*shape)`, `(voxels, ndim)`."""
    return grid.index_to_physical(mask.nonzero().flip(-1).float())


def label_regions(labels: torch.Tensor, mask: torch.Tensor, fewest: int = FEWEST) -> list[Region]:
    """One region for each label above 0 with at least `fewest` voxels in the mask; all `(*shape)`."""
    known, counts = torch.unique(labels[mask], return_counts=True)
    return [
        Region(f"label {label}", (labels == label) & mask)
        for label, count in zip(known.tolist(), counts.tolist(), strict=True)
        if label > 0 and count >= fewest
    ]


def sides(mask: torch.Tensor, grid: Grid, fewest: int = FEWEST) -> list[Region]:
    """Eighths (quarters in 2-D) of the mask's bounding box, in physical space.

    Volumes in mm are named by LPS axes, as "left front lower"; all others by their axes, as "low x high y".
    """
    points = points_of(mask, grid)
    middle = (points.amin(dim=0) + points.amax(dim=0)) / 2
    names = SIDES if grid.ndim == 3 and grid.unit == "mm" else tuple((f"low {a}", f"high {a}") for a in "xyz")
    found = []
    for choice in product((0, 1), repeat=grid.ndim):
        inside = mask.clone()
        inside[mask] = ((points >= middle) == torch.tensor(choice, dtype=torch.bool)).all(dim=-1)
        if int(inside.sum()) >= fewest:
            found.append(Region(" ".join(names[axis][side] for axis, side in enumerate(choice)), inside))
    return found


def worst_places(
    error: torch.Tensor, mask: torch.Tensor, grid: Grid, working: float, places: int = PLACES
) -> list[tuple[int, ...]]:
    """Array indices of the largest errors in the mask, the worst first, at least 8 working voxels apart."""
    where = mask.nonzero()
    values = error[mask].clone()
    points = points_of(mask, grid)
    found: list[tuple[int, ...]] = []
    while len(found) < places and bool((values > 0).any()):
        best = int(values.argmax())
        found.append(tuple(where[best].tolist()))
        values[(points - points[best]).norm(dim=-1) < APART * working] = -1
    return found


def region_at(place: Sequence[int], regions: Sequence[Region]) -> str:
    """The name of the region that holds a voxel; empty where none does."""
    return next((region.name for region in regions if bool(region.where[tuple(place)])), "")


def place_plane(grid: Grid) -> str:
    """The plane in which single places are shown: the one that looks along the longest voxels, axial where all are alike."""
    if grid.ndim == 2:
        return FLAT[0]
    direction = np.abs(np.asarray(grid.direction))
    spacing = [grid.spacing[int(direction[axis].argmax())] for axis in range(3)]
    longest = int(np.argmax(spacing)) if max(spacing) > UNEQUAL * min(spacing) else 2
    return next(name for name, stack, *_ in PLANES if stack == longest)
