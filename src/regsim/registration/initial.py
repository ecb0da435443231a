"""Where a registration starts: identity, centres, centres of mass, principal axes, or whichever looks best."""

import copy
import itertools
import math
from collections.abc import Mapping
from functools import partial

import torch

from regsim.errors import GridError
from regsim.images.image import Image
from regsim.prepare import centre_of_mass, principal_axes
from regsim.registration.descent import Outcome
from regsim.registration.level import Level
from regsim.registration.quasi_newton import lower
from regsim.registration.schedule import Start
from regsim.transforms import base
from regsim.transforms.linear import LinearTransform, Rigid

FULL_ENOUGH = 0.6
TRIALS, TRIAL_STEPS = 3, 15
TURNS = (-20.0, -10.0, 10.0, 20.0)


def starts(fixed: Image, moving: Image, start: Start, apart: float) -> dict[str, Rigid]:
    """The candidates, by name; shifts nearer to each other than `apart` count as one.

    Rotation centres lie at the fixed image's centre of mass. Coarse images will do.
    """
    centre = centre_of_mass(fixed)
    found: dict[str, Rigid] = {}
    if start in ("auto", "identity"):
        found["identity"] = shifted(fixed, centre, torch.zeros(fixed.ndim, dtype=torch.float64))
    if start in ("auto", "centres"):
        shift = torch.as_tensor(moving.grid.centre) - torch.as_tensor(fixed.grid.centre)
        found["centres"] = shifted(fixed, centre, shift)
    if start in ("auto", "mass"):
        found["mass"] = shifted(fixed, centre, centre_of_mass(moving) - centre)
    found = _different(found, apart)
    if start == "auto":
        for name, base in list(found.items()):
            found |= {f"{name} turned {label}": turned for label, turned in _turned(base).items()}
    if start == "moments":
        found |= _by_axes(fixed, moving)
    return found


def ranked(level: Level, candidates: Mapping[str, LinearTransform], enough: float = FULL_ENOUGH) -> list[str]:
    """The names by cost at this level, best first; without those whose overlap is below `enough` of the largest.

    Raises:
        GridError: none of them makes the images overlap.
    """
    judged: list[tuple[float, float, str]] = []
    for name, candidate in candidates.items():
        with torch.no_grad():
            try:
                cost = float(level.cost(level.mapping(candidate.to(level.device))()))
            except GridError:
                continue
        judged.append((level.overlap, cost, name))
    if not judged:
        raise GridError(
            "no overlap: the two images do not meet in space from any start; check their origins, or start from centres"
        )
    widest = max(overlap for overlap, _, _ in judged)
    return [name for _, name in sorted((cost, name) for overlap, cost, name in judged if overlap >= enough * widest)]


def tried(level: Level, candidates: dict[str, Rigid], step: float) -> tuple[str, Rigid]:
    """Let the best few candidates descend at this level; the one that ends lowest, by name, and where it ended.

    The cost at the start alone is a poor judge of metrics with a narrow basin.
    """
    ended: list[tuple[float, str]] = []
    moved: dict[str, Rigid] = {}
    for name in ranked(level, candidates)[:TRIALS]:
        moved[name] = copy.deepcopy(candidates[name])
        groups = [(parameter, step * unit) for parameter, unit in moved[name].steps(level.grid.radius)]
        outcome = Outcome()
        lower(partial(plain, level, level.mapping(moved[name])), groups, TRIAL_STEPS, silent, outcome)
        ended.append((min(outcome.costs, default=math.inf), name))
    _, best = min(ended)
    return best, moved[best]


def plain(level: Level, mapping: base.Mapping) -> tuple[torch.Tensor, float]:
    """The metric's cost without penalty."""
    return level.cost(mapping()), 0.0


def silent(step: int, cost: float, smooth: float) -> None:
    """Trials are not recorded."""
    return


def shifted(fixed: Image, centre: torch.Tensor, shift: torch.Tensor) -> Rigid:
    """A start that only shifts."""
    start = Rigid(fixed.ndim, centre.numpy())
    with torch.no_grad():
        start.translation.copy_(shift)
    return start


def _different(found: dict[str, Rigid], apart: float) -> dict[str, Rigid]:
    """Without those whose shift is nearly that of an earlier one."""
    kept: dict[str, Rigid] = {}
    for name, start in found.items():
        if all(float((start.translation - other.translation).norm().detach()) > apart for other in kept.values()):
            kept[name] = start
    return kept


def _turned(base: Rigid) -> dict[str, Rigid]:
    """The same start turned a little about each axis, both ways: metrics with a narrow basin need it."""
    found = {}
    for axis in range(base.rotation.numel()):
        for degrees in TURNS:
            turned = copy.deepcopy(base)
            with torch.no_grad():
                turned.rotation[axis] += math.radians(degrees)
            found[f"{degrees:+.0f} degrees about axis {axis}" if base.ndim == 3 else f"{degrees:+.0f} degrees"] = turned
    return found


def _by_axes(fixed: Image, moving: Image) -> dict[str, Rigid]:
    """Principal axes onto principal axes; their signs are arbitrary, so every proper choice of them is a candidate."""
    (here, own), (there, other) = principal_axes(fixed), principal_axes(moving)
    found = {}
    for signs in itertools.product((1.0, -1.0), repeat=fixed.ndim):
        matrix = other @ torch.diag(torch.tensor(signs, dtype=torch.float64)) @ own.T
        if float(torch.linalg.det(matrix)) > 0:
            start = shifted(fixed, here, there - here)
            start.set_matrix(matrix)
            found["moments" + "".join("+" if sign > 0 else "-" for sign in signs)] = start
    return found
