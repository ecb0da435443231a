"""Where a metric's cost is lowest along sub-voxel shifts of aligned contrasts, for `benchmarks.contrasts`.

Each of a subject's two images is first "scanned": read on a lattice of its own, turned by some degrees, with noise. Both are then
read at common points, again turned, the fixed image half of the shift one way, the moving one the other half. So points fall at
all places between the voxels of both images whatever the shift is, and the two patterns of blur that interpolation leaves never
coincide; where they do, noisy images look alike at no shift. A parabola through the lowest cost and its neighbours gives the
offset, in voxels; 0 is right, as far as the subject's images are aligned themselves. That limit is the same for all metrics.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.contrast_pairs import CHANGES, ContrastPair, seed_of
from benchmarks.contrast_subjects import Case
from regsim.evaluation.surface import optimum
from regsim.images import Grid, Image
from regsim.metrics import AbstractMetric
from regsim.misalign.appearance import Chain
from regsim.transforms import Composite, Rigid, Transform, warp

CONDITIONS = ("easy", "noise")
SHIFTS = tuple(np.arange(-1.5, 1.51, 0.5).tolist())
TURN, REST = (4.0, 10.0), 0.5
FULL, EDGE = 0.6, 2
PADDING = 16
PLANES = 4


@dataclass(frozen=True)
class Line:
    """One aligned pair that is shifted along one axis.

    Args:
        condition: "easy" or "noise".
        repeat: 0 in 3-D; the number of the plane in 2-D.
        axis: of the arrays, 0 is the first.
    """

    condition: str
    repeat: int
    axis: int


def lines(case: Case, repeats: int) -> Iterator[Line]:
    """All of a case: one volume, or this many planes."""
    for condition in CONDITIONS:
        for repeat in range(repeats if case.dims == 2 else 1):
            yield from (Line(condition, repeat, axis) for axis in range(case.dims))


def line_count(dims: int, repeats: int) -> int:
    """How many lines a case has.

    >>> line_count(3, 4), line_count(2, 4)
    (6, 16)
    """
    return len(CONDITIONS) * dims * (repeats if dims == 2 else 1)


@torch.no_grad()
def offsets(case: Case, line: Line, metrics: Mapping[str, AbstractMetric]) -> dict[str, float]:
    """Where each metric's cost is lowest: how far the second contrast lies beyond the first along the axis, voxels.

    An end of `SHIFTS` where the lowest cost is not between them.
    """
    costs: dict[str, list[float]] = {name: [] for name in metrics}
    for pair in shifted_pairs(case, line):
        for name, metric in metrics.items():
            costs[name].append(float(metric.cost(metric(pair.fixed, pair.moving, pair.mask))))
    sign = 1 if _order(case, line) == (0, 1) else -1
    return {name: sign * optimum(np.array(SHIFTS), np.array(values)) for name, values in costs.items()}


@torch.no_grad()
def shifted_pairs(case: Case, line: Line) -> Iterator[ContrastPair]:
    """A pair for each of `SHIFTS`; their masks are one."""
    *scans, seen = _scans(case, line)
    turned = _turned(seen.grid, _generator(case, line, "turn"))
    rest = turned.translation.detach().clone()
    mask = (warp(seen, turned).data > 0.5).float()[None]
    for shift in SHIFTS:
        read = []
        for scan, share in zip(scans, (-0.5, 0.5), strict=True):
            step = torch.zeros_like(rest)
            step[case.dims - 1 - line.axis] = share * shift * case.spacing
            turned.translation.copy_(rest + step)
            read.append(warp(scan.image, Composite([scan.back, turned]), seen.grid).data[None])
        yield ContrastPair(read[0], read[1], mask, abs(shift) * case.spacing).cropped()


@dataclass(frozen=True)
class _Scan:
    """One contrast as if scanned by itself: on a lattice of its own, with noise; `back` maps the subject's points to it."""

    image: Image
    back: Transform


def _generator(case: Case, line: Line, what: str) -> torch.Generator:
    """Lines that differ in their axis only share all draws."""
    words = (case.dims, case.set, case.subject.name, "optimum", line.repeat, what)
    return torch.Generator().manual_seed(seed_of(*words))


def _order(case: Case, line: Line) -> tuple[int, int]:
    """Which contrast is the fixed image, and which the moving one."""
    first = int(torch.randint(2, (), generator=_generator(case, line, "order")))
    return first, 1 - first


def _scans(case: Case, line: Line) -> tuple[_Scan, _Scan, Image]:
    """The fixed and the moving image, and where there is anatomy."""
    subject = case.subject
    volumes = [*subject.images.values(), subject.seen.float()]
    if case.dims == 2:
        axis, place = _plane(case, line.repeat)
        volumes = [volume.select(axis, place) for volume in volumes]
    if not subject.empty_outside:
        volumes[2] = _without_edge(volumes[2])
    grid = Grid.of(tuple(volumes[2].shape), case.spacing)
    generator = _generator(case, line, line.condition)
    scans = [_scan(Image(volumes[place][None], grid), line.condition, generator) for place in _order(case, line)]
    return scans[0], scans[1], Image(volumes[2][None], grid)


def _scan(image: Image, condition: str, generator: torch.Generator) -> _Scan:
    placed = _turned(image.grid, generator)
    data = warp(image, placed, image.grid.padded(PADDING)).data
    noisy = Chain(changes=CHANGES[condition])(data[None], generator)[0]
    return _Scan(Image(noisy, image.grid.padded(PADDING)), placed.inverse().requires_grad_(False))


def _plane(case: Case, repeat: int) -> tuple[int, int]:
    """Axis and place of a plane; the planes are spread over those that are rich in anatomy."""
    axis = case.subject.axes[repeat % len(case.subject.axes)]
    content = case.subject.seen.float().sum(dim=[other for other in range(3) if other != axis])
    rich = (content >= FULL * content.max()).nonzero().flatten().tolist()
    return axis, rich[int((repeat + 0.5) / PLANES * len(rich)) % len(rich)]


def _without_edge(seen: torch.Tensor) -> torch.Tensor:
    """0 so near to the borders that a shift would read beyond them."""
    inner = torch.zeros_like(seen)
    part = tuple(slice(EDGE, length - EDGE) for length in seen.shape)
    inner[part] = seen[part]
    return inner


def _turned(grid: Grid, generator: torch.Generator) -> Rigid:
    """Some degrees about every axis, either way, and half a voxel at most along each."""
    turned = Rigid(grid.ndim, grid.centre)
    count = len(turned.rotation)
    size = TURN[0] + (TURN[1] - TURN[0]) * torch.rand(count, generator=generator)
    sign = 2.0 * torch.randint(2, (count,), generator=generator) - 1
    rest = REST * (2 * torch.rand(grid.ndim, generator=generator) - 1) * min(grid.spacing)
    turned.rotation.copy_(size * sign * math.pi / 180)
    turned.translation.copy_(rest)
    turned.requires_grad_(False)
    return turned
