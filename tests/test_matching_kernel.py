"""Matching and coupling: compiled loops against torch in float64, known displacements, borders, missing data."""

import itertools
import math

import numpy as np
import pytest
import torch

from regsim.kernels.coupling import ROUNDS, cell_means, coupled
from regsim.kernels.matching import Search, describe, match, smoothed
from regsim.metrics.matching_features import DEFAULT_SCALES, feature_count, matching_features, summary_places

from .metric_cases import textured

SEARCHES = [
    (Search(3, 3, 2), (11, 12, 9)),
    (Search(3, 2, 1), (5, 4, 6)),
    (Search(2, 4, 2), (1, 14, 17)),
    (Search(3, 2, 2), (1, 9, 8)),
]
searches = pytest.mark.parametrize(("search", "shape"), SEARCHES, ids=lambda value: str(value)[:24])


def scene(shape: tuple[int, ...], channels: int = 4) -> list[torch.Tensor]:
    """Descriptors of both images, and where they are held."""
    generator = torch.Generator().manual_seed(7)
    images = [torch.rand(channels, *shape, generator=generator) for _ in range(2)]
    return [*images, *((torch.rand(shape, generator=generator) > 0.3).float() for _ in range(2))]


def costs_of(search: Search, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(*search.cells(shape), len(search.offsets), generator=generator)


@searches
def test_displacements_fill_a_ball(search: Search, shape: tuple[int, ...]) -> None:
    places = {tuple(place) for place in search.offsets.tolist()}
    along = range(-search.reach, search.reach + 1)
    depth = along if search.dims == 3 else (0,)
    wanted = {place for place in itertools.product(depth, along, along) if math.hypot(*place) <= search.reach + 0.5}
    assert places == wanted
    assert search.offsets[search.zero].tolist() == [0, 0, 0]
    assert search.cells(shape) == tuple(-(-n // side) for n, side in zip(shape, search.sides, strict=True))


@searches
def test_match_is_the_mean_of_absolute_differences(search: Search, shape: tuple[int, ...]) -> None:
    fixed, moving, fixed_held, moving_held = scene(shape)
    costs, share = match(fixed, moving, fixed_held, moving_held, search)
    cell = tuple(n // 2 for n in search.cells(shape))
    voxels = [range(c * side, min((c + 1) * side, n)) for c, side, n in zip(cell, search.sides, shape, strict=True)]
    expected = []
    for offset in search.offsets.tolist():
        total = weight = 0.0
        for place in itertools.product(*voxels):
            there = tuple(a + b for a, b in zip(place, offset, strict=True))
            if all(0 <= a < n for a, n in zip(there, shape, strict=True)):
                both = float(fixed_held[place] * moving_held[there])
                total += both * float((fixed[(slice(None), *place)] - moving[(slice(None), *there)]).abs().mean())
                weight += both
        expected.append(total / weight if weight >= 0.5 * math.prod(search.sides) else math.nan)
    known = np.isfinite(expected)
    found = costs[cell].numpy()
    np.testing.assert_allclose(found[known], np.array(expected)[known], rtol=1e-5)
    assert float(share[cell]) == pytest.approx(known.mean())
    if known.any():
        np.testing.assert_allclose(found[~known], np.array(expected)[known].mean(), rtol=1e-5)


@searches
def test_compiled_loops_equal_torch_in_double_precision(search: Search, shape: tuple[int, ...]) -> None:
    images = scene(shape)
    single, double = match(*images, search), match(*(each.double() for each in images), search)
    for one, other in zip(single, double, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)
    costs = costs_of(search, shape)
    torch.testing.assert_close(smoothed(costs, search).double(), smoothed(costs.double(), search), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(describe(costs, search).double(), describe(costs.double(), search), rtol=1e-3, atol=2e-3)
    for one, other in zip(coupled(costs, search), coupled(costs.double(), search), strict=True):
        for name in ("field", "own", "scatter", "excess"):
            torch.testing.assert_close(
                getattr(one, name).double(), getattr(other, name), rtol=1e-3, atol=1e-3, msg=name
            )


@pytest.mark.parametrize("shift", [(0, 0, 0), (0, 0, 2), (1, -2, 0), (-2, 1, 1)])
def test_the_lowest_cost_is_at_the_displacement(shift: tuple[int, int, int]) -> None:
    search = Search(3, 3, 2)
    generator = torch.Generator().manual_seed(0)
    fixed = torch.rand(4, 16, 16, 16, generator=generator)
    moving = fixed.roll(shift, (1, 2, 3))
    held = torch.ones(16, 16, 16)
    costs, _ = match(fixed, moving, held, held, search)
    middle = costs[3, 4, 3]
    assert search.offsets[int(middle.argmin())].tolist() == list(shift)
    features = describe(costs, search)
    assert features[5, 3, 4, 3] == pytest.approx(math.hypot(*shift), abs=1e-5)
    assert features[0, 3, 4, 3] == pytest.approx(0, abs=1e-6)
    last = coupled(costs, search)[-1]
    torch.testing.assert_close(last.field[:, 3, 4, 3], torch.tensor(shift).float(), rtol=0, atol=0.15)


def test_features_do_not_depend_on_the_direction() -> None:
    fixed, moving = (textured((1, 1, 16, 16, 16), seed).float() for seed in (1, 2))
    held = torch.ones_like(fixed)
    plain = matching_features(fixed, moving, held, DEFAULT_SCALES)
    assert plain.shape[0] == feature_count(DEFAULT_SCALES, 3)
    for change in (lambda image: image.flip(-1), lambda image: image.transpose(-1, -3)):
        turned = matching_features(change(fixed).contiguous(), change(moving).contiguous(), held, DEFAULT_SCALES)
        torch.testing.assert_close(turned, change(plain), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 5, 4), (1, 1, 9, 33), (1, 1, 1, 20, 17), (1, 1, 3, 4, 5)], ids=str)
def test_features_of_any_size_are_finite(shape: tuple[int, ...]) -> None:
    image = textured(shape).float()
    for moving in (image, torch.zeros_like(image)):
        found = matching_features(image, moving, torch.ones_like(image), DEFAULT_SCALES)
        assert found.shape == (feature_count(DEFAULT_SCALES, len(shape) - 2), *(-(-n // 2) for n in shape[2:]))
        assert bool(found.isfinite().all())
    nothing = matching_features(image, image, torch.zeros_like(image), DEFAULT_SCALES)
    assert bool(nothing.isfinite().all())


def test_what_lies_outside_is_not_seen() -> None:
    fixed, moving = (textured((1, 1, 20, 22), seed).float() for seed in (1, 2))
    held = torch.zeros_like(fixed)
    held[..., 4:16, 3:19] = 1
    other = torch.where(held > 0, moving, torch.rand(moving.shape, generator=torch.Generator().manual_seed(0)))
    first, second = (matching_features(fixed * held, each * held, held, DEFAULT_SCALES) for each in (moving, other))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_cell_means_count_the_outside_as_zero() -> None:
    values = torch.ones(1, 1, 4, 5)
    assert cell_means(values, 1, 2)[0, 0].tolist()[0] == pytest.approx([4 / 9, 6 / 9, 6 / 9, 6 / 9, 4 / 9])
    assert cell_means(torch.ones(1, 3, 3, 3), 1, 3)[0, 1, 1, 1] == pytest.approx(1)
    assert len(coupled(costs_of(Search(2, 2, 1), (1, 3, 3)), Search(2, 2, 1))) == len(ROUNDS)


def test_summaries_are_mean_costs_not_errors() -> None:
    places = summary_places(DEFAULT_SCALES, 3)
    assert len(places) == len(set(places)) == 12
    assert max(places) < feature_count(DEFAULT_SCALES, 3)
