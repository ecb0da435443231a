"""The compiled loops for warp, joint histogram and smoothness: against torch's own in float64, in both dimensions."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from regsim.images.grid import Grid
from regsim.kernels.cpu.compiled import in_slabs
from regsim.kernels.histogram import joint_histogram
from regsim.registration.penalties import PENALTIES
from regsim.transforms.sampling import inside, sample

SHAPES = [(7, 9), (5, 8, 6), (1, 9, 7), (4, 1, 5)]
VALUE, GRADIENT = 1e-5, 1e-4


def skewed(shape: tuple[int, ...]) -> Grid:
    """Anisotropic, oblique, left-handed."""
    ndim = len(shape)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(ndim, ndim)))
    turn[:, 0] *= -np.sign(np.linalg.det(turn))
    rows = tuple(tuple(float(value) for value in row) for row in turn)
    return Grid(tuple(reversed(shape)), (0.7, 1.3, 2.1)[:ndim], (11.0, -5.0, 3.0)[:ndim], rows, "mm")


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradients(value: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    upstream = noise(*value.shape, seed=9, dtype=value.dtype)
    return torch.autograd.grad(value, inputs, upstream)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    size = float(expected.detach().abs().max()) + 1e-12
    assert float((found.double() - expected.double()).detach().abs().max()) <= tolerance * size


@pytest.fixture(params=[1, 2, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


# --- reading between voxels -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_reading_equals_grid_sample(shape: tuple[int, ...], padding: str) -> None:
    grid = skewed(shape)
    data = noise(2, 3, *shape).requires_grad_()
    points = (grid.points() + noise(*shape, len(shape), seed=1)).requires_grad_()
    found = sample(data, grid, points, "linear", padding)
    data64, points64 = (each.detach().double().requires_grad_() for each in (data, points))
    expected = sample(data64, grid, points64, "linear", padding)
    close(found, expected, VALUE)
    for own, other in zip(gradients(found, data, points), gradients(expected, data64, points64), strict=True):
        close(own, other, GRADIENT)


def test_reading_has_the_gradient_of_its_values() -> None:
    grid = Grid.of((6, 7, 5))
    data = noise(1, 1, 6, 7, 5)
    points = grid.points()[1:-1, 1:-1, 1:-1] + 0.3 + 0.2 * noise(4, 5, 3, 3, seed=2).clamp(-1, 1)
    points = points.requires_grad_()
    value = sample(data, grid, points, "linear", "border").square().sum()
    (gradient,) = torch.autograd.grad(value, points)
    step, way = 1e-2, noise(4, 5, 3, 3, seed=4) * (gradient.abs() > 0)
    ends = [
        float(sample(data, grid, points.detach() + s * step * way, "linear", "border").square().sum()) for s in (-1, 1)
    ]
    assert (ends[1] - ends[0]) / (2 * step) == pytest.approx(float((gradient * way).sum()), rel=2e-2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inside_is_the_same_in_both_precisions(shape: tuple[int, ...]) -> None:
    grid = skewed(shape)
    points = grid.points() + noise(*shape, len(shape), seed=1)
    assert torch.equal(inside(grid, points), inside(grid, points.double()).float())
    assert 0 < float(inside(grid, points).mean()) < 1


@pytest.mark.parametrize("made", [lambda x: x.mT.contiguous().mT, lambda x: torch.cat([x, x])[::2][:1], lambda x: x])
def test_reading_does_not_depend_on_the_memory_layout(made: Callable[[torch.Tensor], torch.Tensor]) -> None:
    grid = Grid.of((5, 6, 7))
    data, points = noise(1, 1, 5, 6, 7), grid.points() + 0.4
    expected = sample(data, grid, points, "linear", "border")
    assert torch.equal(sample(made(data), grid, points, "linear", "border"), expected)
    spread = torch.stack([points, points], dim=-1)[..., 0]
    assert torch.equal(sample(data, grid, spread, "linear", "border"), expected)


def test_a_nan_point_gives_nan_and_no_crash() -> None:
    grid = Grid.of((3, 3))
    value = sample(torch.ones(1, 1, 3, 3), grid, torch.tensor([[float("nan"), 1.0], [1.0, 1.0]]), "linear", "border")
    assert value.flatten().isnan().tolist() == [True, False]


# --- joint histogram ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("bins", [5, 32])
def test_the_histogram_equals_the_dense_one(bins: int) -> None:
    first = (1 + (bins - 3) * torch.rand(2, 9000, generator=torch.Generator().manual_seed(0))).requires_grad_()
    second = (1 + (bins - 3) * torch.rand(2, 9000, generator=torch.Generator().manual_seed(1))).requires_grad_()
    weights = (noise(2, 9000) + 0.5).clamp(0, 1)
    found = joint_histogram(first, second, weights, bins)
    doubles = [each.detach().double().requires_grad_() for each in (first, second)]
    expected = joint_histogram(*doubles, weights.double(), bins)
    close(found, expected, VALUE)
    assert float(found.detach().sum()) == pytest.approx(float(weights.double().sum()), rel=1e-6)
    for own, other in zip(gradients(found, first, second), gradients(expected, *doubles), strict=True):
        close(own, other, GRADIENT)


# --- smoothness -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["diffusion", "jacobian"])
@pytest.mark.parametrize("size", [0.05, 1.0])
def test_penalties_equal_those_in_double(shape: tuple[int, ...], name: str, size: float) -> None:
    grid = skewed(shape)
    field = (size * noise(*shape, len(shape))).requires_grad_()
    double = field.detach().double().requires_grad_()
    found, expected = PENALTIES[name](field, grid), PENALTIES[name](double, grid)
    close(found.detach(), expected.detach(), VALUE)
    close(torch.autograd.grad(found, field)[0], torch.autograd.grad(expected, double)[0], GRADIENT)


def test_a_translation_costs_nothing_and_a_fold_does() -> None:
    grid = Grid.of((6, 6, 6))
    still = torch.ones(6, 6, 6, 3)
    folded = grid.points() * torch.tensor([-2.0, 0.0, 0.0])
    for name in ("diffusion", "jacobian"):
        assert float(PENALTIES[name](still, grid)) == 0
        assert float(PENALTIES[name](folded, grid)) > 1


# --- threads --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_threads")
def test_every_slab_is_done_once() -> None:
    def took(first: int, last: int, seen: list[int]) -> int:
        seen.extend(range(first, last))
        return last - first

    for slabs in (1, 2, 7, 64):
        seen: list[int] = []
        assert sum(in_slabs(took, slabs, seen)) == slabs
        assert sorted(seen) == list(range(slabs))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    in_slabs(lambda first, last: last - first, 8)
    child = os.fork()
    if child == 0:
        os._exit(0 if sum(in_slabs(lambda first, last: last - first, 8)) == 8 else 1)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    torch.set_num_threads(before)
    assert os.waitstatus_to_exitcode(status) == 0
