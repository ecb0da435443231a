"""Pairs with known error: the truth, both images treated alike, unrelated pairs, files. The bundled brain, 4 mm voxels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.data import data_folder
from benchmarks.known_error_failures import FAILURES, Start, small_motion
from benchmarks.known_error_failures import KINDS as FAILURE_KINDS
from benchmarks.known_error_motion import CONTRASTS, Head, Heads, draw_parting, head_of, places
from benchmarks.known_error_pairs import (
    SETS,
    assembled,
    cached,
    generator_for,
    known_pair,
    label_of,
    pair_set,
    pairs,
    read_pair,
    shuffled,
    store,
    with_outline_hidden,
)
from benchmarks.known_error_residuals import METHODS, RESIDUAL, case_of, planned, remaining, solid
from benchmarks.known_error_unrelated import UNRELATED, Draw, View, common_map, flipped, half_missing, smooth_noise
from regsim.errors import InputError, SettingsError
from regsim.images.examples import brain
from regsim.prepare import coarser
from regsim.transforms import Rigid
from regsim.transforms.sampling import sample

SPACING = 4.0
REAL = pytest.mark.skipif(data_folder() is None, reason="the real images are not here; set REGSIM_DATA to their folder")


@pytest.fixture(scope="module")
def head() -> Head:
    images = [replace(coarser(brain(contrast), SPACING), name=contrast.upper()) for contrast in ("t1", "t2")]
    return head_of("icbm/1", "icbm", images, SPACING)


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(np.corrcoef(first.numpy(), second.numpy())[0, 1])


@pytest.mark.parametrize("kind", ["rigid", "affine", "elastic", "mixed"])
def test_mean_error_is_what_was_asked_for(head: Head, kind: str) -> None:
    parting = draw_parting(kind, 5.0, head, generator_for(0, 1))
    maps = (parting.fixed, parting.moving)
    pair = assembled("a", kind, head, ("T1", "T1"), maps, head.grid(SPACING), generator_for(0, 1))
    assert pair.mean_error == pytest.approx(5.0, rel=0.1)
    assert pair.error[~pair.mask].max() == 0


def test_truth_carries_the_moved_image_back(head: Head) -> None:
    parting = draw_parting("mixed", 6.0, head, generator_for(0, 2))
    maps, grid = (parting.fixed, parting.moving), head.grid(SPACING)
    pair = assembled("a", "mixed", head, ("T1", "T1"), maps, grid, generator_for(0, 2))
    points = grid.points()[pair.mask[0]]
    there, away = places(maps[1], maps[0](points), points)
    assert float(away.max()) < 0.01
    torch.testing.assert_close((there - points).norm(dim=-1), pair.error[pair.mask])
    fixed, before = pair.fixed.data[pair.mask], pair.moved.data[pair.mask]
    carried = sample(pair.moved.batch, grid, there, "linear", "border")[0, 0]
    assert correlation(fixed, carried) > 0.95 > correlation(fixed, before) + 0.1


def test_rigid_pair_is_rigid(head: Head) -> None:
    parting = draw_parting("rigid", 5.0, head, generator_for(0, 3))
    points = head.points()
    there = places(parting.moving, parting.fixed(points), points)[0]
    distances = [torch.pdist(each[::60]) for each in (points, there)]
    torch.testing.assert_close(*distances, atol=0.02, rtol=1e-3)


def test_aligned_images_differ_by_noise_only(head: Head) -> None:
    parting = draw_parting("rigid", 0.0, head, generator_for(0, 4))
    maps = (parting.fixed, parting.moving)
    pair = assembled("a", "aligned", head, ("T1", "T1"), maps, head.grid(SPACING), generator_for(0, 4))
    assert pair.mean_error == 0
    apart = (pair.fixed.data - pair.moved.data)[pair.mask]
    assert 0.01 < float(apart.std()) < 0.05


def test_both_images_are_equally_sharp(head: Head) -> None:
    pair = known_pair("a", "rigid", head, ("T1", "T1"), SPACING, generator_for(0, 5))
    slopes = [float(image.data.diff(dim=-1).abs().mean()) for image in (pair.fixed, pair.moved)]
    assert slopes[0] == pytest.approx(slopes[1], rel=0.1)


def test_same_seed_same_pair(head: Head) -> None:
    first, again, other = (
        known_pair("a", "mixed", head, ("T1", "T2"), SPACING, generator_for(seed, 6)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.moved.data, again.moved.data)
    assert torch.equal(first.error, again.error)
    assert not torch.equal(first.moved.data, other.moved.data)


def test_hidden_outline_shows_the_inside_only(head: Head) -> None:
    pair = known_pair("a", "rigid", head, ("T1", "T2"), SPACING, generator_for(0, 7))
    hidden = with_outline_hidden(pair, generator_for(0, 7, 9))
    shown = hidden.mask
    assert 50 < int(shown.sum()) < 0.5 * int(pair.mask.sum())
    assert torch.equal(hidden.error[shown], pair.error[shown])
    assert int((hidden.fixed.data > 0).sum()) < 1.1 * int(shown.sum())
    assert float(hidden.error[~shown].abs().max()) == 0


def test_stored_pair_is_read_again(head: Head, tmp_path: Path) -> None:
    pair = known_pair("a b", "mixed", head, ("T2", "T1"), SPACING, generator_for(0, 8))
    pair = replace(pair, moved=replace(pair.moved, mask=pair.mask.float()))
    store(pair, tmp_path / "a.npz")
    again = read_pair(tmp_path / "a.npz")
    assert (again.name, again.subject, again.contrasts, again.kind) == ("a b", "icbm", "T1-T2", "mixed")
    assert (again.fixed.name, again.moved.name, again.related) == ("T2", "T1", True)
    assert again.fixed.grid == pair.fixed.grid
    assert torch.equal(again.mask, pair.mask)
    assert again.moved.mask is not None
    assert torch.equal(again.moved.mask, pair.mask.float())
    torch.testing.assert_close(again.error, pair.error, atol=0.0051, rtol=0)
    torch.testing.assert_close(again.moved.data, pair.moved.data, atol=0.00051, rtol=0)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.npz"]


def test_folder_of_another_set_is_refused(tmp_path: Path) -> None:
    assert list(cached("known", tmp_path, count=0)) == []
    with pytest.raises(InputError, match="other pairs"):
        next(cached("known", tmp_path, seed=1))
    with pytest.raises(InputError, match="folder that holds the sets"):
        next(pairs("known", tmp_path))


def test_unknown_set() -> None:
    with pytest.raises(SettingsError, match="residual"):
        pair_set("residuals")
    assert [pair_set(name).count for name in SETS] == [240, RESIDUAL.count, UNRELATED.count, FAILURES.count]


def test_every_name_comes_once_a_round() -> None:
    names = ("a", "b", "c", "d")
    assert sorted(shuffled(names, index, 0) for index in range(4, 8)) == list(names)
    assert label_of(("T2", "T1")) == "T1-T2"


def test_residual_is_the_known_field_less_the_found_one(head: Head) -> None:
    """The identity leaves all of it; a wrong shift adds itself; a registration leaves little."""
    parting = draw_parting("rigid", 6.0, head, generator_for(0, 9))
    case = case_of(head, ("T1", "T1"), (parting.fixed, parting.moving), generator_for(0, 9))
    plain = remaining("a", "none", case, Rigid(3), generator_for(0, 9))
    assert plain.mean_error == pytest.approx(6.0, rel=0.1)
    found = planned(case.fixed, case.moving, "rigid", finest=SPACING)
    near = remaining("a", "rigid", case, found, generator_for(0, 9))
    assert near.mean_error < 0.7


def test_solid_transform_is_the_same_map(head: Head) -> None:
    chain = common_map(head, generator_for(0, 10))
    whole, points = solid(chain, head.grid(SPACING)), head.points()
    torch.testing.assert_close(whole(points), chain(points), atol=0.2, rtol=0)
    assert all(callable(method) for method in METHODS.values())


@pytest.mark.parametrize("make", [flipped(0), smooth_noise])
def test_unrelated_pairs_say_so(head: Head, make) -> None:
    fixed = View(head, "T1", common_map(head, generator_for(0, 11)))
    remark, pair = make(Draw(None, fixed, "T2", 0, generator_for(0, 11)))
    assert remark
    assert not pair.related
    assert float(pair.error.abs().max()) == 0
    assert int(pair.mask.sum()) > 1000
    assert abs(correlation(pair.fixed.data[pair.mask], pair.moved.data[pair.mask])) < 0.8


def test_half_missing_keeps_the_whole_mask(head: Head) -> None:
    fixed = View(head, "T1", common_map(head, generator_for(0, 12)))
    _, pair = half_missing(Draw(None, fixed, "T1", 0, generator_for(0, 12)))
    assert pair.related
    assert pair.moved.mask is not None
    there = pair.moved.mask > 0
    assert float(pair.moved.data[~there].max()) == 0
    assert 0.2 < float(there[pair.mask].float().mean()) < 0.8


def test_good_pair_is_below_a_millimetre(head: Head) -> None:
    made = small_motion(Start(None, head, ("T1", "T2"), 0, generator_for(0, 13)))
    assert made is not None
    assert 0 < made[1].mean_error < 1
    assert made[1].kind == "good"


@REAL
def test_real_heads_have_their_contrasts() -> None:
    heads = Heads(data_folder())
    for contrasts in CONTRASTS:
        names = heads.names(contrasts)
        assert len({name.partition("/")[0] for name in names}) >= 4
        assert not {"msx07", "msl01", "msl03"} & {name.partition("/")[0] for name in names}
        assert set(heads.fine_names(contrasts)) <= set(names)
    for name in ("nc01", "msl04", "avg152"):
        read = heads.read(name)
        assert 0.15 < float(read.seen.data.mean()) < 0.7
        assert max(abs(float(value)) for value in read.points().mean(dim=0)) < 15


@REAL
def test_sets_begin_balanced() -> None:
    assert len(FAILURE_KINDS) == 7
    drawn = list(pairs("known", data_folder(), 3))
    assert [pair.contrasts for pair in drawn] == list(CONTRASTS)
    assert len({pair.name for pair in drawn}) == 3
    assert all(float(pair.error.max()) < 30 for pair in drawn)
