"""Matching: how well each cell of one image's descriptors fits displaced places of another's, and what these costs say.

A cell is a small block of voxels. Its costs are mean absolute differences of descriptors for all whole displacements
within a ball. `describe` turns them into features that do not depend on the direction of a displacement, only on how
long it is and how clearly the costs say so. float32 on the CPU runs in compiled loops, all else as torch operations.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from regsim.kernels.choice import on_cpu

WIDEST = 0.4
"""Temperature of the widest soft minimum, as a share of the distance from the lowest to the mean cost; then a third, a ninth."""
FEWEST_HELD = 0.5
ALONE, SOFT, SHELL = 8, 4, 2
_SMALL = 1e-6
_FLATTEST = 0.05


@dataclass(frozen=True)
class Search:
    """Where to look, and from which cells.

    Args:
        dims: 2 (volumes then have one plane) or 3.
        reach: longest displacement along an axis, in voxels; displacements up to `reach + 0.5` long are tried.
        side: of a cell, in voxels.
    """

    dims: int
    reach: int
    side: int

    @cached_property
    def offsets(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """`(n, 3)`, z first."""
        along = range(-self.reach, self.reach + 1)
        axes = [along if axis >= 3 - self.dims else range(1) for axis in range(3)]
        found = [place for place in itertools.product(*axes) if math.hypot(*place) <= self.reach + 0.5]
        return np.array(found, np.int64)

    @cached_property
    def lengths(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Of the displacements, voxels."""
        lengths: np.ndarray[tuple[int], np.dtype[np.float32]] = np.sqrt((self.offsets**2).sum(axis=1)).astype(
            np.float32
        )
        return lengths

    @property
    def shells(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The shell, 0 to `reach`, that each displacement belongs to: its length, rounded."""
        return np.minimum(np.round(self.lengths), self.reach).astype(np.int64)

    @property
    def zero(self) -> int:
        """The place of no displacement in the list."""
        return int(self.lengths.argmin())

    @property
    def neighbours(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """`(3, 2)`: the places of one step back and forth along each axis, -1 where there are none."""
        where = {tuple(place): number for number, place in enumerate(self.offsets.tolist())}
        steps = [[tuple(sign * int(axis == other) for other in range(3)) for sign in (-1, 1)] for axis in range(3)]
        return np.array([[where.get(step, -1) for step in both] for both in steps], np.int64)

    @property
    def sides(self) -> tuple[int, int, int]:
        """Of a cell along z, y, x."""
        return (self.side if self.dims == 3 else 1, self.side, self.side)

    @property
    def reaches(self) -> tuple[int, int, int]:
        """Along z, y, x."""
        return (self.reach if self.dims == 3 else 0, self.reach, self.reach)

    @property
    def features(self) -> int:
        """How many numbers describe a cell."""
        return ALONE + 3 * SOFT + SHELL * (self.reach + 1)

    def cells(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How many cells cover `(D, H, W)` voxels."""
        return tuple(-(-length // side) for length, side in zip(shape, self.sides, strict=True))


def match(
    fixed: torch.Tensor, moving: torch.Tensor, fixed_held: torch.Tensor, moving_held: torch.Tensor, search: Search
) -> tuple[torch.Tensor, torch.Tensor]:
    """Costs of all displacements.

    Args:
        fixed, moving: descriptors `(K, D, H, W)`, K a multiple of 4.
        fixed_held, moving_held: `(D, H, W)`, weights in [0, 1]: where descriptors can be believed.
        search: see there.

    Returns:
        `(d, h, w, n)`: the mean over a cell's voxels and channels of the absolute difference, weighted by both images'
        weights. Displacements for which less than half a cell is held get the mean of the cell's others, or 0 where
        there are none; and `(d, h, w)`, the share of displacements that need not.
    """
    padding = _padding(tuple(fixed.shape[1:]), search)
    reach = [length for length in reversed(search.reaches) for _ in range(2)]
    both = [F.pad(each, padding) for each in (fixed, fixed_held[None])]
    beyond = [F.pad(F.pad(each, padding), reach) for each in (moving, moving_held[None])]
    least = FEWEST_HELD * math.prod(search.sides)
    run = _match_compiled if on_cpu(fixed) else _match
    costs = run(both[0], beyond[0], both[1][0], beyond[1][0], search, least)
    return _filled(costs)


def smoothed(costs: torch.Tensor, search: Search, radius: int = 1) -> torch.Tensor:
    """Mean of the costs over the cells around each, `2 radius + 1` along each axis, fewer at the borders."""
    radii = [radius if search.dims == 3 else 0, radius, radius]
    if on_cpu(costs):
        from regsim.kernels.cpu.compiled import in_slabs
        from regsim.kernels.cpu.matching import smoothed_costs

        result = np.empty(costs.shape, np.float32)
        in_slabs(smoothed_costs, costs.shape[0], costs.numpy(), np.array(radii, np.int64), result)
        return torch.from_numpy(result)
    margin = [length for length in reversed(radii) for _ in range(2)]
    volumes = F.pad(torch.cat([costs, torch.ones_like(costs[..., :1])], dim=-1).movedim(-1, 0), margin)
    sums = F.avg_pool3d(volumes[None], tuple(2 * length + 1 for length in radii), 1)[0]
    return (sums[:-1] / sums[-1:]).movedim(0, -1)


def describe(costs: torch.Tensor, search: Search) -> torch.Tensor:
    """What the costs of each cell say.

    With c the costs, m their minimum, s their mean less m, and l the displacements' lengths in voxels:

    - m; c(0) - m; s; standard deviation of c; (c(0) - m) / s; l at the minimum; length of the vertex of the parabolas through
      c(0) and its neighbours on each axis; their curvatures' sum over s (8 in all);
    - for soft minima `exp(-(c - m) / (t s))`, t = 0.4 and a third and a ninth of it: length of the mean displacement, mean
      length, scatter about the mean, entropy (4 each);
    - for each shell of lengths: its lowest cost, (c - m) / s, and its share of the middle soft minimum (2 each).

    Returns:
        `(F, d, h, w)`.
    """
    if not on_cpu(costs):
        return _describe(costs, search)
    from regsim.kernels.cpu.compiled import in_slabs
    from regsim.kernels.cpu.matching import describe_costs

    result = np.empty((search.features, *costs.shape[:3]), np.float32)
    places = np.ascontiguousarray(search.offsets.T.astype(np.float32))
    tables = places, search.lengths, search.shells, search.reach + 1, search.zero, search.neighbours
    in_slabs(describe_costs, costs.shape[0], costs.numpy(), *tables, WIDEST, result)
    return torch.from_numpy(result)


def _padding(shape: tuple[int, ...], search: Search) -> list[int]:
    """Behind each axis up to whole cells, in the order of `F.pad`."""
    padding: list[int] = []
    for length, side in zip(reversed(shape), reversed(search.sides), strict=True):
        padding += [0, -length % side]
    return padding


def _match_compiled(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    fixed_held: torch.Tensor,
    moving_held: torch.Tensor,
    search: Search,
    least: float,
) -> torch.Tensor:
    from regsim.kernels.cpu.compiled import in_slabs
    from regsim.kernels.cpu.matching import match_costs

    rows = [each.permute(1, 2, 0, 3).contiguous().numpy() for each in (fixed, moving)]
    held = [each.contiguous().numpy() for each in (fixed_held, moving_held)]
    cells = search.cells(tuple(fixed.shape[1:]))
    costs = np.empty((*cells, len(search.offsets)), np.float32)
    sizes = np.array(search.reaches, np.int64), np.array(search.sides, np.int64)
    in_slabs(match_costs, cells[0], *rows, *held, search.offsets, *sizes, least, costs)
    return torch.from_numpy(costs)


def _match(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    fixed_held: torch.Tensor,
    moving_held: torch.Tensor,
    search: Search,
    least: float,
) -> torch.Tensor:
    """The same, one displacement after the other; -1 where too little is held."""
    depth, height, width = fixed.shape[1:]
    cells = search.cells((depth, height, width))
    costs = fixed.new_empty((*cells, len(search.offsets)))
    many = math.prod(search.sides)
    for number, offset in enumerate(search.offsets.tolist()):
        z, y, x = (step + reach for step, reach in zip(offset, search.reaches, strict=True))
        part = slice(z, z + depth), slice(y, y + height), slice(x, x + width)
        weight = fixed_held * moving_held[part]
        apart = (fixed - moving[(slice(None), *part)]).abs().mean(dim=0) * weight
        total, held = (F.avg_pool3d(each[None], search.sides)[0] * many for each in (apart, weight))
        costs[..., number] = torch.where(held >= least, total / held.clamp_min(_SMALL), -1.0)
    return costs


def _filled(costs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Missing costs (-1) replaced by the mean of the cell's others; the share that was there."""
    if on_cpu(costs):
        from regsim.kernels.cpu.compiled import in_slabs
        from regsim.kernels.cpu.matching import fill_missing

        share = np.empty(costs.shape[:3], np.float32)
        in_slabs(fill_missing, costs.shape[0], costs.numpy(), share)
        return costs, torch.from_numpy(share)
    there = costs >= 0
    mean = (costs * there).sum(dim=-1, keepdim=True) / there.sum(dim=-1, keepdim=True).clamp_min(1)
    return torch.where(there, costs, mean), there.to(costs.dtype).mean(dim=-1)


def _describe(costs: torch.Tensor, search: Search) -> torch.Tensor:
    places = torch.as_tensor(search.offsets, dtype=costs.dtype, device=costs.device)
    lengths = torch.as_tensor(search.lengths, dtype=costs.dtype, device=costs.device)
    shells = torch.as_tensor(search.shells, device=costs.device)
    best, where = costs.min(dim=-1)
    mean = costs.mean(dim=-1)
    spread = (mean - best).clamp_min(_SMALL)
    deviation = (costs.square().mean(dim=-1) - mean.square()).clamp_min(0).sqrt()
    zero = costs[..., search.zero]
    around, bend = _parabolas(costs, zero, spread, search)
    found = [best, zero - best, spread, deviation, (zero - best) / spread, lengths[where], around, bend / spread]
    power = (costs - best[..., None]) / (WIDEST * spread[..., None])
    middle = costs
    for factor in (1, 3, 9):
        weights = torch.softmax(-power * factor, dim=-1)
        displacement, length = weights @ places, weights @ lengths
        squared = displacement.square().sum(dim=-1)
        scatter = (weights @ lengths.square() - squared).clamp_min(0).sqrt()
        entropy = torch.logsumexp(-power * factor, dim=-1) + (weights * power).sum(dim=-1) * factor
        found += [squared.sqrt(), length, scatter, entropy]
        if factor == 3:
            middle = weights
    for shell in range(search.reach + 1):
        own = costs[..., shells == shell]
        found += [(own.amin(dim=-1) - best) / spread, middle[..., shells == shell].sum(dim=-1)]
    return torch.stack(found)


def _parabolas(
    costs: torch.Tensor, zero: torch.Tensor, spread: torch.Tensor, search: Search
) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the vertex of the parabolas through no displacement and its neighbours lies, at most 2 an axis; curvature."""
    square, bend = torch.zeros_like(zero), torch.zeros_like(zero)
    for low, high in search.neighbours.tolist():
        if low >= 0:
            curve = costs[..., low] + costs[..., high] - 2 * zero
            slope = (costs[..., low] - costs[..., high]) / (2 * torch.maximum(curve, _FLATTEST * spread))
            square = square + slope.clamp(-2, 2).square()
            bend = bend + curve
    return square.sqrt(), bend
