"""Patches of the same and of different places, cut from pairs of images that are only roughly aligned."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from regsim.errors import InputError
from regsim.kernels.box import local_deviation
from regsim.kernels.warp import read_linear
from regsim.misalign.appearance import Appearance, BezierCurve, Chain, Inversion
from regsim.misalign.pairs import PairBatch
from regsim.settings import Settings

PAIRS_AT_ONCE = 4
MOST_ROUNDS, NEAR_ROUNDS, FEWEST = 40, 8, 0.1
BRIGHT, FLAT = 0.95, 0.05
HIDING = (Inversion(probability=0.5), BezierCurve(probability=0.7))
TINY = 1e-6


class PatchPairSettings(Settings):
    """How patches are cut and paired. Lengths are in mm (pixels for pictures without spacing).

    Args:
        apart: smallest distance between the centres of patches of different places.
        reach: largest distance of these, above `apart`; 0: any. Patches that are near each other look alike, and to tell them
            apart a network must see where they lie more exactly.
        dither: standard deviation of the shift, along every axis, between patches that count as the same place.
        dither_rotation: of their turn about every axis, degrees.
        symmetrise: both patches are mirrored and turned alike, by any symmetry of the square (cube), so that a misalignment
            common to all pairs points every way equally often.
        rotation: both patches are turned alike by up to this about every axis, degrees.
        zoom: and enlarged alike, by a factor log-uniform in [1 / zoom, zoom].
        exchange: in half of the pairs of patches the images exchange their roles, and inversions and curves of the intensities
            hide which is which: an offset that follows the anatomy then points both ways equally often, too.
        focus: 0: centres lie anywhere in the anatomy alike; 1: as often as there is contrast around them.
        appearance: changes of each patch by itself.
    """

    apart: float = Field(default=20.0, gt=0)
    reach: float = Field(default=0.0, ge=0)
    dither: float = Field(default=0.0, ge=0)
    dither_rotation: float = Field(default=0.0, ge=0, le=90)
    symmetrise: bool = True
    rotation: float = Field(default=10.0, ge=0, le=180)
    zoom: float = Field(default=1.1, ge=1, le=2)
    exchange: bool = False
    focus: float = Field(default=0.7, ge=0, le=1)
    appearance: tuple[Appearance, ...] = Field(default=())

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_reach(self.apart, self.reach)
        return self


def check_reach(apart: float, reach: float) -> None:
    """Whether different places can be found between the two distances.

    Raises:
        ValueError: they cannot.
    """
    if reach and reach <= apart:
        raise ValueError(f"reach {reach:g}: expected 0, or more than apart {apart:g}")


@dataclass(frozen=True)
class RoughPair:
    """Two images on one grid, as well aligned as is known: `(1, *spatial)`, in [0, 1], equal steps along all axes.

    Args:
        name: of the pair.
        fixed, moving: the images.
        held: `(*spatial)` bool: where both have data. Nothing is cut from elsewhere.
        spacing: of the grid, mm.
    """

    name: str
    fixed: torch.Tensor
    moving: torch.Tensor
    held: torch.Tensor
    spacing: float

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.held.ndim


@dataclass(frozen=True)
class PatchBatch:
    """Patches and the truth about them.

    Args:
        fixed, moving: `(N, 1, *patch)`.
        same: `(N,)` bool: both were cut from the same place, but for the dither.
        shift: `(N, ndim)`: from the fixed patch's centre to the moving one's, mm, in the axes of the patch, x first.
        pair: `(N,)`, the number of the pair they come from.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    same: torch.Tensor
    shift: torch.Tensor
    pair: torch.Tensor

    def to(self, device: torch.device | str) -> "PatchBatch":
        """On a device."""
        return PatchBatch(*(each.to(device) for each in (self.fixed, self.moving, self.same, self.shift, self.pair)))

    @property
    def pairs(self) -> PairBatch:
        """The same as pairs of images, "aligned" where both show the same place, for the audit."""
        length = self.shift.norm(dim=1) * ~self.same
        mask = torch.ones_like(self.fixed)
        spread = self.shift.reshape(*self.shift.shape, *[1] * (mask.ndim - 2)).expand(-1, -1, *mask.shape[2:])
        return PairBatch(self.fixed, self.moving, mask, mask, spread, length, None, self.pair, {"target": length})


@dataclass(frozen=True)
class _Ground:
    """A pair with what its patches' centres are drawn from: where contrast lies, of either image, `(voxels,)`, cumulated.

    `near`: of the moving image, not cumulated, in [0, 1].
    """

    pair: RoughPair
    fixed: torch.Tensor
    moving: torch.Tensor
    near: torch.Tensor


class PatchPairMaker:
    """`maker(count, generator) -> PatchBatch`: half of the patches show the same place, half different ones.

    Centres of both kinds are drawn alike, so that neither patch alone says of which kind it is: the fixed patch's from the
    anatomy by its contrast; a different place from the moving image's, at least `apart` away and within `reach`; the same
    place is the fixed one's with the dither. Both patches are read between the voxels, mirrored, turned and enlarged alike,
    and lie within what both images hold.

    Args:
        pairs: at least one.
        patch: side, voxels.
        settings: see `PatchPairSettings`.

    Where there is little room a batch holds fewer patches than were asked for.

    Raises:
        InputError: no pair, or one in which hardly any patch finds room.
    """

    def __init__(self, pairs: Sequence[RoughPair], patch: int, settings: PatchPairSettings):
        if not pairs:
            raise InputError("patches: no pair to cut them from")
        self.pairs, self.patch, self.settings = list(pairs), patch, settings
        self.chain = Chain(changes=(*(HIDING if settings.exchange else ()), *settings.appearance))
        self.grounds = [_ground(pair, patch, settings) for pair in pairs]
        steps = torch.arange(patch) - (patch - 1) / 2
        ndim = pairs[0].ndim
        self.offsets = torch.stack(torch.meshgrid(*[steps] * ndim, indexing="ij"), dim=-1).flip(-1).reshape(-1, ndim)
        self.symmetries = symmetries(ndim) if settings.symmetrise else torch.eye(ndim)[None]

    def __call__(self, count: int, generator: torch.Generator) -> PatchBatch:
        """Draw `count` pairs of patches."""
        groups = min(PAIRS_AT_ONCE, count, len(self.grounds))
        chosen = torch.randperm(len(self.grounds), generator=generator)[:groups].tolist()
        sizes = [count // groups + (place < count % groups) for place in range(groups)]
        parts: list[tuple[torch.Tensor, ...]] = []
        problem = None
        for number, size in zip(chosen, sizes, strict=True):
            try:
                parts.append(self._of(number, size, generator))
            except InputError as found:  # the others go on
                problem = found
        if problem is not None and not parts:
            raise problem
        fixed, moving, same, shift, pair = (torch.cat(each) for each in zip(*parts, strict=True))
        if self.chain.changes:
            fixed, moving = self.chain(fixed, generator), self.chain(moving, generator)
        return PatchBatch(fixed, moving, same, shift, pair)

    def _of(self, number: int, count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Patches of one pair."""
        ground = self.grounds[number]
        same = torch.rand(count, generator=generator) < 0.5
        common, turned = self._turns(count, ground.pair.ndim, generator)
        first, second, found = self._centres(ground, same, common, turned, generator)
        first, second, same, common, turned = (each[found] for each in (first, second, same, common, turned))
        fixed = self._cut(ground.pair.fixed, first, common)
        moving = self._cut(ground.pair.moving, second, turned)
        shift = torch.linalg.solve(common, (second - first)[:, :, None])[:, :, 0] * ground.pair.spacing
        if self.settings.exchange:
            roles = (fixed, moving), (moving, fixed)
            turn = torch.rand(len(same), generator=generator) < 0.5
            fixed, moving = (torch.where(turn.reshape(-1, *[1] * (fixed.ndim - 1)), *role) for role in roles)
            shift = torch.where(turn[:, None], shift, -shift)
        return fixed, moving, same, shift, torch.full((len(same),), number)

    def _turns(self, count: int, ndim: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The matrices from patch to image, `(N, ndim, ndim)`, of the fixed and of the moving patches."""
        settings = self.settings
        which = torch.randint(len(self.symmetries), (count,), generator=generator)
        angle = math.radians(settings.rotation)
        turn = rotations((2 * torch.rand(count, _angles(ndim), generator=generator) - 1) * angle)
        size = math.log(settings.zoom)
        zoom = ((2 * torch.rand(count, 1, 1, generator=generator) - 1) * size).exp()
        common = zoom * (turn @ self.symmetries[which])
        away = rotations(
            torch.randn(count, _angles(ndim), generator=generator) * math.radians(settings.dither_rotation)
        )
        return common, away @ common

    def _centres(
        self,
        ground: _Ground,
        same: torch.Tensor,
        common: torch.Tensor,
        turned: torch.Tensor,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Voxel indices, x first, `(N, ndim)`, drawn again until both patches lie within what is held; and which do, `(N,)`.

        Raises:
            InputError: hardly any patch finds room.
        """
        count, ndim, spacing = len(same), ground.pair.ndim, ground.pair.spacing
        first, second = torch.zeros(count, ndim), torch.zeros(count, ndim)
        found = torch.zeros(count, dtype=torch.bool)
        possible = all(float(chance[-1]) > 0 for chance in (ground.fixed, ground.moving))
        for _ in range(MOST_ROUNDS if possible else 0):
            missing = (~found).nonzero().flatten()
            one = _drawn(ground.fixed, ground.pair.held.shape, len(missing), generator)
            other = self._elsewhere(ground, one, generator)
            near = one + torch.randn(one.shape, generator=generator) * (self.settings.dither / spacing)
            two = torch.where(same[missing][:, None], near, other)
            good = same[missing] | ((two - one).norm(dim=1) * spacing >= self.settings.apart - TINY)
            good &= self._fits(ground, one, common[missing]) & self._fits(ground, two, turned[missing])
            first[missing[good]], second[missing[good]], found[missing[good]] = one[good], two[good], True
            if bool(found.all()):
                break
        if float(found.float().mean()) < FEWEST:
            raise InputError(
                f"pair '{ground.pair.name}': patches of {self.patch} voxels of {spacing:g} mm find no room in it; take "
                "smaller patches, a finer spacing, or a smaller distance 'apart'"
            )
        return first, second, found

    def _elsewhere(self, ground: _Ground, one: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """For each centre another place of the moving image, within `reach` (itself where none is found), `(N, ndim)`."""
        settings, shape = self.settings, ground.pair.held.shape
        if not settings.reach:
            return _drawn(ground.moving, shape, len(one), generator)
        ndim, other = one.shape[1], one.clone()
        missing = torch.arange(len(one))
        for _ in range(NEAR_ROUNDS):
            way = torch.randn((len(missing), ndim), generator=generator)
            share = torch.rand((len(missing), 1), generator=generator)
            inner, outer = settings.apart**ndim, settings.reach**ndim
            length = (inner + (outer - inner) * share) ** (1 / ndim) / ground.pair.spacing  # uniform in the shell
            place = one[missing] + way / way.norm(dim=1, keepdim=True).clamp_min(TINY) * length
            kept = torch.rand(len(missing), generator=generator) < _at(ground.near, place, shape)
            other[missing[kept]] = place[kept]
            missing = missing[~kept]
        return other

    def _fits(self, ground: _Ground, centre: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Whether the corners of a patch, and its centre, lie where there are data, `(N,)` bool."""
        half = (self.patch - 1) / 2
        ndim = centre.shape[1]
        corners = torch.tensor([*itertools.product((-half, half), repeat=ndim), (0.0,) * ndim])
        where = centre[:, None] + corners @ matrix.transpose(1, 2)
        where = torch.cat([where.floor(), where.ceil()], dim=1).long()  # interpolation reads both sides
        size = torch.tensor(ground.pair.held.shape).flip(0)
        within = ((where >= 0) & (where < size)).all(dim=-1)
        index = where.clamp(torch.zeros_like(size), size - 1)
        held = ground.pair.held[tuple(index.flip(-1).unbind(-1))]
        return (within & held).all(dim=1)

    def _cut(self, image: torch.Tensor, centre: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """`(N, 1, *patch)` around centres."""
        points = centre[:, None] + self.offsets @ matrix.transpose(1, 2)
        ndim = centre.shape[1]
        values = read_linear(image, points.reshape(-1, ndim), np.eye(ndim, ndim + 1), fade=False)
        return values.reshape(len(centre), 1, *[self.patch] * ndim)


def symmetries(ndim: int) -> torch.Tensor:
    """The symmetries of a square (8) or cube (48) as matrices: axes exchanged and mirrored.

    >>> len(symmetries(2)), len(symmetries(3))
    (8, 48)
    """
    made = []
    for order in itertools.permutations(range(ndim)):
        for signs in itertools.product((-1.0, 1.0), repeat=ndim):
            matrix = torch.zeros(ndim, ndim)
            for row, (column, sign) in enumerate(zip(order, signs, strict=True)):
                matrix[row, column] = sign
            made.append(matrix)
    return torch.stack(made)


def rotations(vectors: torch.Tensor) -> torch.Tensor:
    """Rotation matrices of angles `(N, 1)` or rotation vectors `(N, 3)`, radians: `(N, 2, 2)` or `(N, 3, 3)`."""
    if vectors.shape[1] == 1:
        cosine, sine = vectors[:, 0].cos(), vectors[:, 0].sin()
        return torch.stack([torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1)
    x, y, z = vectors.unbind(1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, dim=1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    turned: torch.Tensor = torch.linalg.matrix_exp(torch.stack(rows, dim=1))
    return turned


def _angles(ndim: int) -> int:
    return 1 if ndim == 2 else 3


def _ground(pair: RoughPair, patch: int, settings: PatchPairSettings) -> _Ground:
    """What centres are drawn from.

    Raises:
        InputError: no contrast where both images have data.
    """
    chances: list[torch.Tensor] = []
    room = _room(pair.held, patch)
    for image in (pair.fixed, pair.moving):
        local = local_deviation(image[None], pair.held.float()[None, None], patch / 4)[0, 0] * pair.held
        seen = local[local > TINY]
        if not len(seen):
            raise InputError(f"pair '{pair.name}': no contrast where both images have data")
        top = torch.quantile(seen[:: max(1, len(seen) // 100_000)], BRIGHT)
        chance = (local / top).clamp(0, 1).pow(settings.focus) * (local > FLAT * top) * room
        chances.append(chance.flatten())
    fixed, moving = (chance.double().cumsum(0) for chance in chances)
    return _Ground(pair, fixed, moving, chances[1])


def _room(held: torch.Tensor, patch: int) -> torch.Tensor:
    """Where a patch that is not turned lies within what is held, `(*spatial)` bool."""
    missing = F.pad((~held).float()[None, None], [patch // 2] * 2 * held.ndim, value=1.0)
    for axis in range(held.ndim):  # a maximum over the patch, axis by axis
        sides = [1] * held.ndim
        sides[axis] = patch
        pool = F.max_pool2d if held.ndim == 2 else F.max_pool3d
        missing = pool(missing, sides, stride=1)
    return missing[0, 0][tuple(slice(n) for n in held.shape)] == 0


def _at(values: torch.Tensor, points: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Of the voxels (flattened) nearest to points, x first, `(count,)`; 0 outside."""
    index = points.flip(-1).round().long()
    size = torch.tensor(shape)
    within = ((index >= 0) & (index < size)).all(dim=1)
    flat = torch.zeros(len(index), dtype=torch.long)
    for axis, length in enumerate(shape):
        flat = flat * length + index[:, axis].clamp(0, length - 1)
    return values[flat] * within


def _drawn(chances: torch.Tensor, shape: Sequence[int], count: int, generator: torch.Generator) -> torch.Tensor:
    """Points between voxels, x first, `(count, ndim)`, by cumulated chances of the voxels."""
    level = torch.rand(count, dtype=torch.float64, generator=generator) * chances[-1]
    voxel = torch.searchsorted(chances, level, right=True).clamp_max(len(chances) - 1)
    index = torch.stack(torch.unravel_index(voxel, tuple(shape))[::-1], dim=1).float()
    return index + torch.rand(index.shape, generator=generator) - 0.5
