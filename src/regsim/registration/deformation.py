"""What the optimiser moves in a deformable stage: control points that hold displacements or velocities."""

from collections.abc import Callable

import numpy as np
import torch

from regsim.errors import TransformError
from regsim.images.grid import Grid
from regsim.registration.schedule import Kind
from regsim.transforms.base import Transform
from regsim.transforms.control_grid import ControlGrid
from regsim.transforms.dense import Composite, VelocityField, integrate, on_grid
from regsim.transforms.linear import LinearTransform

SQUARINGS = 5


class Deformation:
    """Control points over the fixed image, refined from level to level.

    Args:
        kind: "control_grid" (displacements) or "velocity" (integrated over unit time).
        domain: the fixed image's grid at full resolution.
        spacing: of the control points at the first level.
    """

    def __init__(self, kind: Kind, domain: Grid, spacing: float):
        self.kind = kind
        self.control = ControlGrid.with_spacing(domain, spacing)

    def refine(self, spacing: float) -> None:
        """Halve the cells until they are about as small as `spacing`; the deformation stays exactly as it is."""
        cell = float(np.mean(self.control.domain.extent / np.asarray(self.control.mesh)))
        while cell > 1.4 * spacing:
            self.control = self.control.refined()
            cell /= 2

    def displacement(self, grid: Grid, backwards: bool = False) -> Callable[[], torch.Tensor]:
        """A function that gives the displacement `(*shape, ndim)` on a grid, with the control points of the moment.

        `backwards`: the inverse's, which a velocity has.
        """
        matrices = self.control.matrices(grid)
        if backwards:
            matrices[0] = -matrices[0]

        def field() -> torch.Tensor:
            vectors = self.control.expand(matrices)
            if self.kind == "velocity":
                vectors = integrate(vectors, grid, SQUARINGS)
            return vectors.movedim(0, -1)

        return field

    def finished(self, grid: Grid) -> Transform:
        """The transform to keep: the control grid itself, or the velocity field on the last level's grid."""
        if self.kind == "control_grid":
            return self.control
        with torch.no_grad():
            return VelocityField(self.control.expand(self.control.matrices(grid)), grid, SQUARINGS)


def holds(kind: type[LinearTransform], start: LinearTransform) -> bool:
    """Whether this kind of transform can express a start (to a thousandth)."""
    try:
        taken = kind(start.ndim, start.centre.cpu().numpy()).set_homogeneous(start.homogeneous())
    except TransformError:
        return False
    return bool(torch.allclose(taken.homogeneous()[:-1, :-1], start.homogeneous()[:-1, :-1], atol=1e-3))


def chain(parts: list[Transform]) -> Transform:
    """One transform from parts, outermost first; chains within it are laid open."""
    flat = [inner for part in parts for inner in (part.parts() if isinstance(part, Composite) else [part])]
    return flat[0] if len(flat) == 1 else Composite(flat)


def frozen(parts: list[Transform], grid: Grid) -> list[Transform]:
    """The parts as the optimiser of a later stage sees them: fixed, and deformations as fields (quick to read)."""
    quick: list[Transform] = []
    for part in parts:
        dense = isinstance(part, ControlGrid | VelocityField)
        quick.append(on_grid(part, grid.padded(2)) if dense else part)
    for part in quick:
        part.requires_grad_(False)
    return quick
