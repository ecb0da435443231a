"""Pairs of known error as registrations leave them: made apart, registered by the driver at random settings, truth kept.

An error that a registration leaves is unlike one that was drawn: the images match wherever the metric could make them
match. A network that has seen only drawn errors takes such a pair for aligned.
"""

from dataclasses import replace

import torch

from regsim.errors import RegsimError
from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.misalign.error_pairs import ErrorPairMaker, ErrorPairs
from regsim.misalign.pairs import PairBatch, joined
from regsim.registration.driver import register
from regsim.registration.schedule import Goal, schedule_for
from regsim.transforms.base import Transform
from regsim.transforms.sampling import sample

LINEAR: tuple[Goal, ...] = ("rigid", "affine")
GOALS: tuple[Goal, ...] = ("rigid", "affine", "deformable", "deformable", "deformable", "diffeomorphic")
METRICS = ("mind:dilations=1x2", "mind", "nmi", "lncc", "lncc:window=7")
REGULARISATION = (0.02, 4.0)
FINEST = (1.6, 3.5)
INVERSE_PASSES = 12
CLOSE = 0.25


class ResidualPairMaker:
    """Draws pairs, and registers them: `maker(count, generator) -> ErrorPairs`.

    Where a registration fails the pair stays as it was drawn.
    """

    def __init__(self, maker: ErrorPairMaker):
        self.maker = maker

    def __call__(self, count: int, generator: torch.Generator) -> ErrorPairs:
        """Draw `count` pairs; no part of them is unrelated."""
        batch = self.maker(count, generator, unrelated=False).batch
        items = [_item(batch, number) for number in range(count)]
        registered = joined([registered_pair(item, self.maker.spacing, generator)[0] for item in items])
        return ErrorPairs(registered, torch.zeros_like(registered.mask))


def registered_pair(pair: PairBatch, spacing: float, generator: torch.Generator) -> tuple[PairBatch, bool]:
    """One pair (a batch of one) registered by settings drawn at random, its truth that of what is left; whether it was deformed.

    A point p of the fixed image lies at q in the moving one and at x, `T x = q`, in the moved one, T from fixed to moving points;
    the error is `x - p`. x is found by fixed points; where they do not settle (folds), `T p - q` stands for it.
    """
    grid = Grid.of(tuple(pair.fixed.shape[2:]), spacing)
    centred = replace(grid, origin=tuple(-spacing * (n - 1) / 2 for n in grid.size))
    goal = GOALS[int(torch.randint(len(GOALS), (), generator=generator))]
    metric = METRICS[int(torch.randint(len(METRICS), (), generator=generator))]
    regularisation, finest = (_log_uniform(ends, generator) for ends in (REGULARISATION, FINEST))
    schedule = schedule_for(
        goal,
        centred,
        metric,
        start="identity",
        regularisation=1.0 if goal in LINEAR else regularisation,
        finest=finest * spacing,
    )
    mask = pair.mask[0]
    fixed, moving = (Image(each[0] * mask, centred, mask) for each in (pair.fixed, pair.moving))
    try:
        found = register(fixed, moving, schedule=schedule).transform
    except RegsimError:
        return pair, False
    return _moved(pair, found, centred), goal not in LINEAR


def _moved(pair: PairBatch, transform: Transform, grid: Grid) -> PairBatch:
    """The moving image carried, and the displacement that is left."""
    points = grid.points()
    with torch.no_grad():
        there = transform(points)
        moving = sample(pair.moving, grid, there, "linear", "zeros")
        held = (sample(pair.mask, grid, there, "linear", "zeros") > 1 - CLOSE).float() * pair.mask
        displacement = _left(transform, points, points + pair.displacement[0].movedim(0, -1))
    content = pair.content * held
    content = content if bool(content.any()) else held
    length = displacement.norm(dim=-1)[None, None]
    error = (length * content).flatten(1).sum(dim=1) / content.flatten(1).sum(dim=1).clamp_min(1e-6)
    return replace(
        pair,
        fixed=pair.fixed * held,
        moving=moving * held,
        mask=held,
        content=content,
        displacement=displacement.movedim(-1, 0)[None],
        error=error,
    )


def _left(transform: Transform, points: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """`x - p` with `T x = wanted`, `(*shape, d)`."""
    place = points + (wanted - transform(points))
    for _ in range(INVERSE_PASSES):
        place = place + (wanted - transform(place))
    settled = (transform(place) - wanted).norm(dim=-1, keepdim=True) < CLOSE
    return torch.where(settled, place - points, wanted - transform(points))


def _item(batch: PairBatch, number: int) -> PairBatch:
    """One pair of a batch, as a batch."""
    one = slice(number, number + 1)
    return PairBatch(
        batch.fixed[one],
        batch.moving[one],
        batch.mask[one],
        batch.content[one],
        batch.displacement[one],
        batch.error[one],
        None if batch.labels is None else batch.labels[one],
        batch.subject[one],
        {name: value[one] for name, value in batch.parameters.items()},
    )


def _log_uniform(ends: tuple[float, float], generator: torch.Generator) -> float:
    low, high = ends
    return float(low * (high / low) ** float(torch.rand((), generator=generator)))
