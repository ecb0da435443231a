"""Shuffle Remap: what the paper states, and the edge cases where its pseudocode goes wrong."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regsim.misalign.shuffle_remap import ShuffleRemap, segment_of


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(steps: int = 1001) -> torch.Tensor:
    return torch.linspace(0, 1, steps).reshape(1, 1, 1, -1)


def remap(segments: tuple[int, int], reversal: float = 0.0) -> ShuffleRemap:
    return ShuffleRemap(segments=segments, reversal=reversal, background_probability=0.0)


@pytest.mark.parametrize("segments", [2, 3, 10, 50])
def test_shuffle_remap_has_the_stated_number_of_segments(segments: int) -> None:
    values = unit().expand(20, -1, -1, -1)
    drawn = remap((segments, segments)).draw(values, seeded())
    assert drawn["segments"].tolist() == [segments] * 20
    assert int((drawn["edges"].diff(dim=1) > 0).sum()) == 20 * segments
    assert torch.equal(drawn["permutation"].sort(dim=1).values, torch.arange(segments).expand(20, -1))


def test_shuffle_remap_draws_every_number_in_the_range() -> None:
    drawn = remap((2, 5)).draw(torch.zeros((400, 1, 1, 1)), seeded())
    assert sorted(set(drawn["segments"].tolist())) == [2, 3, 4, 5]
    used = torch.arange(5) < drawn["segments"][:, None]
    assert torch.equal(drawn["edges"].diff(dim=1) > 0, used)
    assert torch.equal(drawn["permutation"][~used], torch.arange(5).expand(400, -1)[~used])


def test_two_segments_give_both_permutations_equally_often() -> None:
    drawn = remap((2, 2)).draw(torch.zeros((2000, 1, 1, 1)), seeded())
    assert 900 < int((drawn["permutation"][:, 0] == 1).sum()) < 1100


def test_shuffle_remap_is_equation_8() -> None:
    values = torch.rand((10, 1, 20, 20), generator=seeded(4))
    values[:, :, 0, 0], values[:, :, 0, 1] = 1.0, 0.0
    changed, drawn = remap((2, 9), reversal=0.3).changed(values, seeded())
    for item, picture in enumerate(values.flatten(1)):
        edges, target = drawn["edges"][item].double(), drawn["permutation"][item]
        for x, got in zip(picture.tolist(), changed[item].flatten().tolist(), strict=True):
            last = int(drawn["segments"][item]) - 1
            i = min(int((edges[1:] <= x).sum()), last)
            j = int(target[i])
            share = (x - edges[i]) / (edges[i + 1] - edges[i])
            share = 1 - share if bool(drawn["reversed"][item, i]) else share
            assert got == pytest.approx(float(edges[j] + share * (edges[j + 1] - edges[j])), abs=1e-5)


def test_the_value_one_goes_with_the_last_segment() -> None:
    values = torch.ones((50, 1, 1, 2))
    values[..., 0] = 1 - 1e-6
    changed, drawn = remap((2, 50)).changed(values, seeded())
    last = drawn["segments"][:, None] - 1
    end = drawn["edges"].gather(1, drawn["permutation"].gather(1, last) + 1)
    torch.testing.assert_close(changed[:, 0, 0, 1:], end)
    assert float((changed[..., 1] - changed[..., 0]).abs().max()) < 1e-3


def test_shuffle_remap_keeps_order_inside_segments_and_fills_the_range_once() -> None:
    values = unit(20001).expand(6, -1, -1, -1)
    changed, drawn = remap((2, 12)).changed(values, seeded())
    segment = segment_of(values.flatten(1), drawn["edges"])
    same = segment[:, 1:] == segment[:, :-1]
    assert float(changed.flatten(1).diff(dim=1)[same].min()) >= 0
    landed = segment_of(changed.flatten(1), drawn["edges"])
    share = (landed == drawn["permutation"].gather(1, segment)).float().mean()
    assert float(share) > 0.999
    holes = changed.flatten(1).sort(dim=1).values.diff(dim=1).amax(dim=1)
    narrowest = drawn["edges"].diff(dim=1).masked_fill(drawn["edges"].diff(dim=1) == 0, 1).amin(dim=1)
    assert bool((holes < 1.1 / 20000 / narrowest).all())


def test_segments_without_width_are_harmless() -> None:
    values = torch.tensor([0.0, 0.3, 0.5, 0.7, 1.0]).reshape(1, 1, 1, 5)
    change = remap((4, 4))
    drawn = change.draw(values, seeded())
    drawn["edges"] = torch.tensor([[0.0, 0.5, 0.5, 1.0, 1.0]])
    drawn["permutation"] = torch.tensor([[2, 3, 0, 1]])
    changed = change.apply(values, drawn)
    torch.testing.assert_close(changed.flatten(), torch.tensor([0.5, 0.8, 0.0, 0.2, 0.5]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60))
def test_segments_are_found_exactly(seed: int, count: int) -> None:
    draws = torch.rand((3, count), generator=seeded(seed))
    edges = torch.cat((torch.zeros(3, 1), draws.sort(dim=1).values, torch.ones(3, 1)), dim=1)
    values = torch.cat((torch.rand((3, 50), generator=seeded(seed + 1)), edges), dim=1)
    expected = torch.searchsorted(edges[:, 1:-1].contiguous(), values, right=True)
    assert torch.equal(segment_of(values, edges), expected)
