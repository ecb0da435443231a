"""Global search: rotations from everywhere, for images that lie far off or upside down."""

import copy
import math
from functools import partial

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from regsim.images.image import Image
from regsim.prepare import centre_of_mass
from regsim.registration.descent import Outcome
from regsim.registration.initial import plain, ranked, shifted, silent
from regsim.registration.level import Level
from regsim.registration.quasi_newton import lower
from regsim.registration.translations import best_translations
from regsim.transforms.linear import Affine, LinearTransform, Rigid

DEGREES_3D, DEGREES_2D = 24.0, 10.0
ROUNDS = ((32, 12), (8, 20), (3, 30))
"""How many candidates go on to each round, and how many evaluations each has there."""
FFT_DEGREES, FFT_STARTS = 40.0, 60
ROUGH_SAMPLES = 4000
FULL_ENOUGH = 0.25
"""Of the widest overlap: partial views overlap little where they are right."""
SAME_DEGREES = 5.0
NEAR = 2 * math.sqrt(2) * math.sin(math.radians(SAME_DEGREES) / 2)
"""Frobenius distance of two rotation matrices so many degrees apart."""


def everywhere(fixed: Image, moving: Image, flips: bool = False) -> dict[str, LinearTransform]:
    """Starts turned every way (about 24 degrees apart, 10 for pictures), with the centres of mass or of the images together,
    and, for partial views, the best of fewer turns with the translation that an FFT finds.

    Args:
        fixed: coarse images will do.
        moving: likewise.
        flips: mirrored starts about the centres as well (affine transforms can hold them, rigid ones cannot).
    """
    here, there = centre_of_mass(fixed), centre_of_mass(moving)
    shifts = {"mass": there - here, "centres": torch.as_tensor(moving.grid.centre - fixed.grid.centre)}
    if float((shifts["mass"] - shifts["centres"]).norm()) < 0.05 * float(np.linalg.norm(fixed.grid.extent)):
        del shifts["centres"]
    found: dict[str, LinearTransform] = {}
    for name, shift in shifts.items():
        for number, vector in enumerate(turns(fixed.ndim)):
            start = shifted(fixed, here, shift)
            start.rotation.data.copy_(vector)
            found[f"search: {name}, turn {number}"] = start
            if flips:
                found[f"search: {name}, turn {number}, flipped"] = _flipped(start)
    shifted_too = best_translations(fixed, moving, turns(fixed.ndim, FFT_DEGREES), FFT_STARTS)
    return found | {f"search: by FFT, number {number}": start for number, start in enumerate(shifted_too)}


def _flipped(start: Rigid) -> Affine:
    """The same after mirroring x."""
    flipped = Affine(start.ndim, start.centre.numpy()).set_homogeneous(start.homogeneous())
    flipped.linear.data[:, 0] *= -1
    return flipped


def turns(ndim: int, degrees: float = DEGREES_3D) -> torch.Tensor:
    """Angles `(n, 1)`, or rotation vectors `(n, 3)`, spread evenly over all turns; the first is none at all.

    In 3-D they come from the quaternions of a super-Fibonacci spiral, about `degrees` apart.

    References:
        Alexa, Super-Fibonacci spirals, 2022, doi:10.1109/CVPR52688.2022.00811.
    """
    if ndim == 2:
        return torch.deg2rad(torch.arange(0.0, 360.0, DEGREES_2D, dtype=torch.float64))[:, None]
    count = round(math.pi * 8 * math.pi / math.radians(degrees) ** 3)
    step = np.arange(count) + 0.5
    phi, psi = math.sqrt(2), 1.533751168755204288118041
    inner, outer = np.sqrt(step / count), np.sqrt(1 - step / count)
    one, other = 2 * math.pi * step / phi, 2 * math.pi * step / psi
    spiral = np.stack([inner * np.sin(one), inner * np.cos(one), outer * np.sin(other), outer * np.cos(other)], axis=1)
    vectors = torch.as_tensor(Rotation.from_quat(spiral).as_rotvec())
    return torch.cat([torch.zeros(1, 3, dtype=torch.float64), vectors])


def searched(levels: list[Level], candidates: dict[str, LinearTransform], step: float) -> tuple[str, LinearTransform]:
    """Rank all candidates at the first level, let the best descend, keep fewer, descend at the next level; the last one left.

    Args:
        levels: coarse to fine, one a round (the last is used again where there are fewer).
        candidates: by name.
        step: of the first round, physical units.
    """
    names = ranked(levels[0], candidates, FULL_ENOUGH)[: ROUNDS[0][0]]
    moved = {name: copy.deepcopy(candidates[name]) for name in names}
    for number, (most, evaluations) in enumerate(ROUNDS):
        level = levels[min(number, len(levels) - 1)]
        ended: list[tuple[float, str]] = []
        for name in names[:most]:
            groups = [(parameter, step / 2**number * unit) for parameter, unit in moved[name].steps(level.grid.radius)]
            outcome = Outcome()
            lower(partial(plain, level, level.mapping(moved[name])), groups, evaluations, silent, outcome)
            ended.append((min(outcome.costs, default=math.inf), name))
        names = _distinct([name for _, name in sorted(ended)], moved)
    return names[0], moved[names[0]]


def _distinct(names: list[str], moved: dict[str, LinearTransform]) -> list[str]:
    """Without those that have come to the same turn as a better one."""
    kept: list[str] = []
    for name in names:
        own = moved[name].matrix().detach()
        if all(float(torch.linalg.matrix_norm(own - moved[other].matrix().detach())) > NEAR for other in kept):
            kept.append(name)
    return kept
