"""What real registrations leave of a known field: the set "residual" of `benchmarks.known_error_pairs`.

A head is read through two maps A and B that are 5 to 15 mm apart; a method registers the two images and finds E, from fixed
to moving points. The moved image then reads the head at `B E(p)`, once, so the truth is `(B E)^-1 A`: exact, whatever the
method did. The images that the method saw have noise of their own.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.known_error_motion import CONTRASTS, Head, Heads, draw_parting
from benchmarks.known_error_pairs import (
    SPACING,
    KnownErrorPair,
    PairSet,
    assembled,
    generator_for,
    label_of,
    noisy,
    ordered,
    shuffled,
)
from benchmarks.peers import installed
from benchmarks.sets import with_steps
from regsim.errors import RegistrationError
from regsim.images import Grid, Image
from regsim.registration import Schedule, register, schedule_for
from regsim.registration.schedule import Goal
from regsim.transforms import Composite, Transform, on_grid, read_transform
from regsim.transforms.linear import LinearTransform

LNCC = "lncc:window=7"
APART, BENT = (5.0, 15.0), (0.1, 0.5)
FEW_ITERATIONS = (6, 2, 0)
BEYOND = 8
Method = Callable[[Image, Image], Transform]


@dataclass(frozen=True)
class Case:
    """Two images of one head with known maps, as a method sees them."""

    head: Head
    contrasts: tuple[str, str]
    maps: tuple[Transform, Transform]
    fixed: Image
    moving: Image


def case_of(
    head: Head, contrasts: tuple[str, str], maps: tuple[Transform, Transform], generator: torch.Generator
) -> Case:
    """Read both images."""
    images = [image_of(head, contrast, at, generator) for contrast, at in zip(contrasts, maps, strict=True)]
    return Case(head, contrasts, maps, images[0], images[1])


def image_of(head: Head, contrast: str, at: Transform, generator: torch.Generator) -> Image:
    """A head as a scanner would give it, with noise."""
    grid = head.grid(SPACING)
    values, held = head.shown(contrast, at, grid)
    return Image(noisy(values, held, head.stripped, generator), grid, None if head.stripped else held.float(), contrast)


def remaining(name: str, kind: str, case: Case, found: Transform, generator: torch.Generator) -> KnownErrorPair:
    """The pair after a registration: the moving image carried by what was found, and the error that is left."""
    maps = (case.maps[0], chained(case.maps[1], solid(found, case.fixed.grid)))
    return assembled(name, kind, case.head, case.contrasts, maps, case.fixed.grid, generator)


def chained(outer: Transform, inner: Transform) -> Composite:
    """`outer(inner(x))`, one flat chain."""
    parts = [part for each in (outer, inner) for part in (each.parts() if isinstance(each, Composite) else [each])]
    return Composite(parts).requires_grad_(False)


def solid(transform: Transform, grid: Grid) -> Transform:
    """Linear transforms as they are, others as one displacement field: fast to read at any point."""
    return transform if isinstance(transform, LinearTransform) else on_grid(transform, grid.padded(BEYOND))


def ours(fixed: Image, moving: Image, goal: Goal, schedule: Schedule | None = None) -> Transform:
    """regsim; where it stops early, the last good transform."""
    try:
        return register(fixed, moving, None, goal, schedule=schedule).transform
    except RegistrationError as problem:
        if not isinstance(problem.last_good, Transform):
            raise
        return problem.last_good


def planned(
    fixed: Image,
    moving: Image,
    goal: Goal,
    metric: str | None = None,
    regularisation: float = 1.0,
    finest: float | None = None,
    steps: float = 1.0,
) -> Transform:
    """regsim by its default plan with some of it changed."""
    plan = schedule_for(goal, fixed.grid, metric, regularisation=regularisation, finest=finest)
    return ours(fixed, moving, goal, plan if steps == 1 else with_steps(plan, steps))


def ants_short(fixed: Image, moving: Image) -> Transform:
    """ANTs SyN stopped after a few iterations."""
    import ants

    from benchmarks.peers.ants import _to_ants

    images = [_to_ants(image) for image in (fixed, moving)]
    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(
            *images, "SyN", outprefix=str(Path(folder) / "t"), random_seed=1, reg_iterations=FEW_ITERATIONS
        )
        parts = [read_transform(Path(path), fixed.ndim) for path in reversed(found["fwdtransforms"])]
    return Composite(parts)


def ants_plain(fixed: Image, moving: Image, kind: str) -> Transform:
    """ANTs at its defaults."""
    from benchmarks.peers import ants

    return ants.register(fixed, moving, kind).transform


def convex_adam(fixed: Image, moving: Image) -> Transform:
    """convexAdam after regsim's affine registration."""
    from benchmarks.peers import convexadam

    return convexadam.register(fixed, moving, planned(fixed, moving, "affine")).transform


METHODS: dict[str, Method] = {
    "regsim rigid": partial(planned, goal="rigid"),
    "ANTs Rigid": partial(ants_plain, kind="Rigid"),
    "regsim deformable": partial(planned, goal="deformable"),
    "regsim affine": partial(planned, goal="affine"),
    "ANTs SyN": partial(ants_plain, kind="SyN"),
    "regsim deformable lncc": partial(planned, goal="deformable", metric=LNCC),
    "regsim deformable stiff": partial(planned, goal="deformable", regularisation=8.0),
    "ANTs Affine": partial(ants_plain, kind="Affine"),
    "regsim deformable loose": partial(planned, goal="deformable", regularisation=0.05),
    "convexAdam": convex_adam,
    "regsim affine mind coarse": partial(planned, goal="affine", metric="mind", finest=6.0),
    "regsim deformable coarse": partial(planned, goal="deformable", finest=5.0),
    "ANTs SyN short": ants_short,
    "regsim deformable nmi": partial(planned, goal="deformable", metric="nmi"),
    "regsim deformable short": partial(planned, goal="deformable", steps=0.15),
    "regsim diffeomorphic": partial(planned, goal="diffeomorphic"),
}
FALLBACK = "regsim deformable"


def draw_residual(heads: Heads, index: int, seed: int) -> KnownErrorPair:
    """Pair `index`: contrasts and methods in turn (3 and 16: every one with every other within 48 pairs)."""
    generator = generator_for(seed, index, 1)
    contrasts = CONTRASTS[index % 3]
    who = list(METHODS)[index % len(METHODS)]
    who = who if installed(who.split()[0]) else FALLBACK
    head = heads.read(shuffled(heads.names(contrasts), index // 3, seed + 10 + index % 3))
    target = APART[0] + (APART[1] - APART[0]) * float(torch.rand((), generator=generator))
    parting = draw_parting("mixed", target, head, generator, BENT)
    case = case_of(head, ordered(contrasts, generator), (parting.fixed, parting.moving), generator)
    name = f"{index:04d} {head.name} {label_of(case.contrasts)} {who} from {target:.1f} mm"
    return remaining(name, who, case, METHODS[who](case.fixed, case.moving), generator)


RESIDUAL = PairSet(64, draw_residual)
