"""The compiled scaling and squaring against the tensor path in double precision, and finite differences."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from regsim.images.grid import Grid
from regsim.kernels.squaring import scaling_and_squaring
from regsim.transforms.dense import VelocityField, integrate

TURN = ((math.cos(0.4), -math.sin(0.4), 0.0), (math.sin(0.4), math.cos(0.4), 0.0), (0.0, 0.0, 1.0))
GRIDS = {
    "2d": Grid.of((11, 14), 1.0),
    "2d-flat": Grid.of((1, 14), (2.0, 0.5)),
    "3d": Grid.of((7, 9, 8), 2.0),
    "3d-oblique": Grid((8, 9, 7), (0.7, 1.3, 3.0), (-40.0, 12.0, 95.0), TURN),
    "3d-slice": Grid.of((1, 9, 8), 1.5),
    "3d-line": Grid.of((6, 1, 1), 1.0),
    "voxel": Grid.of((1, 1, 1), 1.0),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
SQUARINGS = 4


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _vectors(grid: Grid, voxels: float, seed: int = 0) -> torch.Tensor:
    """Random vectors `(ndim, *shape)` of about so many voxels, single precision, physical."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randn((*grid.shape, grid.ndim), generator=generator, dtype=torch.float64) * voxels
    return (index @ torch.as_tensor(grid.matrix).T).movedim(-1, 0).float().contiguous()


def _exact(velocity: torch.Tensor, grid: Grid, squarings: int = SQUARINGS) -> torch.Tensor:
    """The tensor path, `(*shape, ndim)`."""
    return integrate(velocity.double(), grid, squarings).movedim(0, -1)


def _close(found: torch.Tensor, exact: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.double(), exact.double(), rtol=0, atol=tolerance * float(exact.abs().max()))


@every_grid
@pytest.mark.parametrize(("voxels", "squarings"), [(0.3, 5), (2.0, 4), (40.0, 1)])
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_as_the_tensor_path_in_double_precision(grid: Grid, voxels: float, squarings: int, threads: int) -> None:
    """Less than a voxel, several, and far out of the grid; once only, since noise of that size multiplies any rounding."""
    torch.set_num_threads(threads)
    leaf = _vectors(grid, voxels).requires_grad_()
    wide = leaf.detach().double().requires_grad_()
    found, exact = scaling_and_squaring(leaf, grid.matrix, squarings), _exact(wide, grid, squarings)
    assert found.is_contiguous()
    _close(found.detach(), exact.detach(), 1e-5)
    incoming = _vectors(grid, 1.0, seed=5).movedim(0, -1)
    (gradient,) = torch.autograd.grad(found, leaf, incoming)
    (wanted,) = torch.autograd.grad(exact, wide, incoming.double())
    _close(gradient, wanted, 1e-4)


@every_grid
def test_gradient_against_finite_differences(grid: Grid) -> None:
    """Of the double precision path, whose values the compiled one has."""
    velocity, incoming = _vectors(grid, 0.7, seed=1), _vectors(grid, 1.0, seed=2).movedim(0, -1)
    leaf = velocity.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((scaling_and_squaring(leaf, grid.matrix, SQUARINGS) * incoming).sum(), leaf)
    for seed in (3, 4):
        direction = _vectors(grid, 1.0, seed).double()
        ends = [(_exact(velocity + step * direction, grid) * incoming).sum() for step in (1e-6, -1e-6)]
        slope = (gradient.double() * direction).sum()
        size = float(gradient.double().norm() * direction.norm())
        assert abs(float(slope - (ends[0] - ends[1]) / 2e-6)) < 1e-5 * size


def test_as_many_threads_as_wanted() -> None:
    grid = Grid.of((9, 12, 13), 1.5)
    outcomes = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        leaf = _vectors(grid, 1.5).requires_grad_()
        found = scaling_and_squaring(leaf, grid.matrix, 5)
        (gradient,) = torch.autograd.grad(found, leaf, _vectors(grid, 1.0, seed=5).movedim(0, -1))
        outcomes.append((found.detach(), gradient))
    for found, gradient in outcomes[1:]:
        assert torch.equal(found, outcomes[0][0])
        _close(gradient, outcomes[0][1], 1e-6)


def test_any_layout_comes_and_goes() -> None:
    grid = GRIDS["3d-oblique"]
    velocity, incoming = _vectors(grid, 1.0), _vectors(grid, 1.0, seed=5)
    outcomes = []
    for given, coming in (
        (velocity, incoming.movedim(0, -1).contiguous()),
        (velocity.movedim(0, -1).contiguous().movedim(-1, 0), incoming.movedim(0, -1)),
    ):
        leaf = given.requires_grad_()
        found = scaling_and_squaring(leaf, grid.matrix, SQUARINGS)
        outcomes.append((found.detach(), *torch.autograd.grad(found, leaf, coming)))
    for first, second in zip(*outcomes, strict=True):
        assert torch.equal(first, second)


def test_no_squaring_is_the_velocity_and_no_motion_stays() -> None:
    grid = GRIDS["3d-oblique"]
    velocity = _vectors(grid, 1.0).requires_grad_()
    found = scaling_and_squaring(velocity, grid.matrix, 0)
    torch.testing.assert_close(found, velocity.movedim(0, -1), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), velocity)
    torch.testing.assert_close(gradient, torch.ones_like(gradient), rtol=1e-5, atol=1e-5)
    still = torch.zeros_like(velocity).requires_grad_()
    moved = scaling_and_squaring(still, grid.matrix, SQUARINGS)
    assert not moved.any()
    torch.testing.assert_close(*_both_gradients(still, grid), rtol=1e-5, atol=1e-5)


def _both_gradients(velocity: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    (found,) = torch.autograd.grad(scaling_and_squaring(velocity, grid.matrix, SQUARINGS).sum(), velocity)
    wide = velocity.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(_exact(wide, grid).sum(), wide)
    return found, exact.float()


def test_a_translation_doubles_and_fades_at_the_border() -> None:
    """One voxel a unit time along x: the first squaring of half a voxel reads half of the last vector outside."""
    velocity = torch.zeros(2, 4, 6)
    velocity[0] = 1
    found = scaling_and_squaring(velocity, np.eye(2), 1)
    assert torch.equal(found[..., 0], torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.75]).expand(4, 6))
    assert not found[..., 1].any()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_seen(wrong: float) -> None:
    grid = GRIDS["3d"]
    velocity = _vectors(grid, 1.0)
    velocity[1, 3, 4, 5] = wrong
    leaf = velocity.requires_grad_()
    found = scaling_and_squaring(leaf, grid.matrix, SQUARINGS)
    assert not found[3, 4, 5].isfinite().all()
    torch.autograd.grad(found.sum(), leaf)


def test_the_velocity_field_takes_it() -> None:
    grid = GRIDS["3d-oblique"]
    velocity = _vectors(grid, 1.0)
    field = VelocityField(velocity, grid, SQUARINGS)
    _close(field.integrate().detach().movedim(0, -1), _exact(velocity, grid), 1e-5)
