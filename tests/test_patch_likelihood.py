"""patch_likelihood: its networks, which patches it compares, its value, and the patches that it learns from."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from regsim.errors import InputError, SettingsError
from regsim.images.image import Image
from regsim.metrics import load_metric
from regsim.metrics.checkpoint import Card, save_model
from regsim.metrics.patch_cutting import PatchCutter
from regsim.metrics.patch_likelihood import PatchLikelihood
from regsim.metrics.patch_network import PatchNetwork, PatchNetworks, PatchSettings
from regsim.misalign.appearance import Chain
from regsim.misalign.audit import audit_pairs
from regsim.misalign.pairs import joined
from regsim.misalign.patch_pairs import PatchPairMaker, PatchPairSettings, RoughPair, rotations, symmetries
from regsim.registration.driver import register
from regsim.registration.level import STRETCH, Level
from regsim.registration.schedule import Schedule, schedule_for
from regsim.training.patch_lesson import PatchCheck, PatchCrossEntropy
from regsim.training.patch_recipe import Shot
from regsim.transforms import Rigid

from .metric_cases import half_mask, textured

SLIM = {"channels": (3, 4, 5), "hidden": 6, "patch": 17}


def model(folder: Path, **settings: object) -> PatchLikelihood:
    """An untrained model."""
    chosen = PatchSettings.checked({**SLIM, **settings})
    torch.manual_seed(0)
    card = Card(name="untrained", metric="patch_likelihood", network=chosen.model_dump(mode="json"))
    save_model(folder, card, PatchNetworks(chosen).state_dict())
    return PatchLikelihood(str(folder), patches=8)


def smooth(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Blobs in [0, 1], `(1, *shape)`, dark at the border."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    image = torch.zeros(shape)
    for _ in range(25):
        place = 0.2 + 0.6 * torch.rand(len(shape), generator=generator)
        width = min(shape) * (0.03 + 0.06 * float(torch.rand((), generator=generator)))
        away = sum((axis - float(p) * n) ** 2 for axis, p, n in zip(axes, place, shape, strict=True))
        image = image + torch.exp(-away / (2 * width**2))
    return (image / image.max())[None]


def pair(fixed: torch.Tensor, moving: torch.Tensor | None = None, spacing: float = 1.0, name: str = "one") -> RoughPair:
    held = torch.ones(fixed.shape[1:], dtype=torch.bool)
    return RoughPair(name, fixed, fixed if moving is None else moving, held, spacing)


# --- the networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patch", "cells"), [(17, 1), (19, 1), (25, 3), (33, 5)])
def test_cells_that_are_left_of_a_patch(patch: int, cells: int) -> None:
    chosen = PatchSettings.checked({**SLIM, "patch": patch, "dims": 2})
    assert chosen.cells == cells
    images = torch.rand(2, 3, 1, patch, patch)
    assert PatchNetwork(chosen)(images[0], images[1]).shape == (3,)


@pytest.mark.parametrize(
    "wrong", [{"patch": 16}, {"channels": (0, 1, 1)}, {"spacings": ()}, {"spacings": (-1.0,)}, {"dims": 4}]
)
def test_networks_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        PatchSettings.checked({**SLIM, **wrong})


def test_the_network_of_the_nearest_resolution_answers(tmp_path: Path) -> None:
    metric = model(tmp_path / "m", dims=2, spacings=(4.0, 2.0))
    networks = metric.networks_for(2)
    assert networks.nearest(None) is networks.levels[1]
    assert networks.nearest(3.1) is networks.levels[0]
    assert networks.nearest(0.5) is networks.levels[1]
    fixed, moving = textured((1, 1, 30, 32)).float(), textured((1, 1, 30, 32), seed=3).float()
    coarse, fine = (metric.with_spacing((spacing, spacing))(fixed, moving) for spacing in (4.2, 1.9))
    assert not torch.equal(coarse, fine)
    assert torch.equal(metric(fixed, moving), fine)
    chosen = PatchLikelihood(str(tmp_path / "m"), patches=8, spacing=4.0)
    assert torch.equal(chosen.with_spacing((1.0, 1.0))(fixed, moving), coarse)


# --- the value ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 23), (15, 16, 17)])
def test_mean_of_the_networks_answers(shape: tuple[int, ...], tmp_path: Path) -> None:
    metric = model(tmp_path / "m", dims=len(shape), symmetric=False).double()
    fixed, moving = textured((2, 1, *shape)), textured((2, 1, *shape), seed=5)
    mask = half_mask(fixed.shape).double()
    cutter = PatchCutter(17, len(shape))
    centres = cutter.chosen(fixed * mask, mask, 8, 0)
    wanted = []
    for item in range(2):
        total = weight = 0.0
        for centre in centres[item].tolist():
            around = tuple(slice(at, at + 17) for at in centre)
            one, other, share = (
                cutter.padded(image[item : item + 1])[(slice(None), slice(None), *around)]
                for image in (fixed * mask, moving * mask, mask)
            )
            part = float(share.mean()) ** 4
            total += part * float(metric.networks_for(len(shape)).levels[0](one, other))
            weight += part
        wanted.append(total / weight)
    found = metric(fixed, moving, mask)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=1e-8)
    for item in range(2):  # a pair's value does not depend on what else is in the batch
        alone = metric(fixed[item : item + 1], moving[item : item + 1], mask[item : item + 1])
        torch.testing.assert_close(alone, found[item : item + 1])
    assert not metric(fixed, moving, torch.zeros_like(mask)).any()


def test_patches_of_which_nothing_is_seen_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = model(tmp_path / "m", dims=2, symmetric=False)
    metric.patches = 64
    fixed, moving = textured((1, 1, 90, 90)).float(), textured((1, 1, 90, 90), seed=5).float()
    overlap = torch.ones_like(fixed)
    overlap[..., 40:] = 0
    asked: list[int] = []
    beside = PatchNetwork.beside

    def counted(self: PatchNetwork, half: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        asked.append(len(patches))
        return beside(self, half, patches)

    monkeypatch.setattr(PatchNetwork, "beside", counted)
    bound = metric.bind(fixed)
    part = bound(moving, overlap)
    bound(moving)
    assert 0 < asked[0] < asked[1] == 64
    far = moving.clone()
    far[..., 60:] = 0  # what is not seen does not matter
    torch.testing.assert_close(bound(far, overlap), part)


def test_patches_lie_where_there_is_contrast_and_stay_the_same() -> None:
    image = torch.zeros(1, 1, 60, 60)
    image[..., 20:28, 30:40] = torch.rand(8, 10, generator=torch.Generator().manual_seed(1))
    cutter = PatchCutter(17, 2)
    centres = cutter.chosen(image, torch.ones_like(image), 50, 0)
    assert torch.equal(centres, cutter.chosen(image, torch.ones_like(image), 50, 0))
    assert not torch.equal(centres, cutter.chosen(image, torch.ones_like(image), 50, 1))
    assert centres[0, :, 0].min() > 8
    assert centres[0, :, 0].max() < 40
    assert centres[0, :, 1].min() > 18
    assert centres[0, :, 1].max() < 52
    mask = torch.zeros_like(image)
    mask[..., :24, :] = 1
    assert cutter.chosen(image, mask, 50, 0)[0, :, 0].max() < 24
    noise = torch.rand(1, 1, 80, 80, generator=torch.Generator().manual_seed(1))
    view = torch.zeros_like(noise)
    view[..., 50:] = 1
    seen = cutter.chosen(noise, torch.ones_like(noise), 400, 0, view)[0, :, 1]
    assert seen.min() >= 50 - 8
    assert (seen >= 58).sum() > 2 * (seen < 58).sum() > 0  # the less of a patch is seen, the rarer it is


@pytest.mark.parametrize("shape", [(30, 31), (22, 23, 24)])
def test_patches_are_turned_by_symmetries(shape: tuple[int, ...]) -> None:
    cutter = PatchCutter(17, len(shape))
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    index = cutter.voxels(cutter.chosen(image, torch.ones_like(image), 40, 0), shape)
    padded = cutter.padded(image)
    plain, turned = cutter.cut(padded, index), cutter.cut(padded, cutter.turned(index, 0))
    assert not torch.equal(plain, turned)
    kinds = set()
    for one, other in zip(plain[:, 0], turned[:, 0], strict=True):
        ways = [
            (axes, turns)
            for axes in itertools.permutations(range(len(shape)))
            for turns in itertools.product((0, 1), repeat=len(shape))
            if torch.equal(one.permute(axes).flip([axis for axis, turn in enumerate(turns) if turn]), other)
        ]
        assert len(ways) == 1
        kinds.update(ways)
    assert len(kinds) > 4


@pytest.mark.parametrize(("dims", "shape"), [(2, (1, 1, 30, 31)), (3, (2, 1, 20, 21, 22)), (2, (1, 1, 9, 20, 21))])
def test_patches_are_asked_about_a_few_at_a_time(
    dims: int, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = model(tmp_path / "m", dims=dims).double()
    metric.patches = 20
    fixed, moving = textured(shape), textured(shape, seed=5)
    found = []
    for at_once in (1000, 3):
        monkeypatch.setattr("regsim.metrics.patch_likelihood.AT_ONCE", at_once)
        leaf = moving.clone().requires_grad_()
        value = metric(fixed, leaf, half_mask(shape))
        found.append((value.detach(), *torch.autograd.grad(value.sum(), leaf)))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1].any()


def test_pictures_for_a_model_of_volumes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="volumes"):
        model(tmp_path / "m")(torch.rand(1, 1, 20, 20), torch.rand(1, 1, 20, 20))
    flat = model(tmp_path / "flat", dims=2)
    assert flat(torch.rand(1, 1, 9, 20, 21), torch.rand(1, 1, 9, 20, 21)).shape == (1,)
    with pytest.raises(SettingsError, match="patches"):
        PatchLikelihood(str(tmp_path / "flat"), patches=0)


# --- the patches that it learns from --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 64), (44, 46, 48)])
def test_the_same_place_is_the_same_patch(shape: tuple[int, ...]) -> None:
    settings = PatchPairSettings(apart=8.0, rotation=20.0, zoom=1.2)
    batch = PatchPairMaker([pair(smooth(shape), spacing=2.0)], 17, settings)(64, torch.Generator().manual_seed(0))
    assert batch.fixed.shape == (64, 1, *[17] * len(shape))
    assert 15 < int(batch.same.sum()) < 49
    torch.testing.assert_close(batch.fixed[batch.same], batch.moving[batch.same])
    assert not batch.shift[batch.same].any()
    assert (
        batch.shift[~batch.same].norm(dim=1) >= 8.0 / 1.2 - 1e-3
    ).all()  # in the axes of a patch that may be enlarged
    assert ((batch.fixed - batch.moving)[~batch.same].abs().flatten(1).amax(dim=1) > 0).all()


def test_symmetrising_turns_a_common_misalignment_every_way() -> None:
    image = smooth((80, 80))
    moved = image.roll(6, -1)

    def shifts(symmetrise: bool) -> torch.Tensor:
        settings = PatchPairSettings(apart=8.0, symmetrise=symmetrise, rotation=0.0, zoom=1.0)
        batch = PatchPairMaker([pair(image, moved)], 17, settings)(200, torch.Generator().manual_seed(0))
        found = []
        for fixed, other in zip(batch.fixed[batch.same], batch.moving[batch.same], strict=True):
            for axis, amount in ((-1, 6), (-1, -6), (-2, 6), (-2, -6)):
                back = other.roll(-amount, axis)
                keep = [slice(None), slice(6, 7), slice(6, 7)]
                if torch.allclose(back[tuple(keep)], fixed[tuple(keep)], atol=2e-3):
                    found.append((axis, amount))
        counts = [found.count((axis, amount)) for axis in (-1, -2) for amount in (6, -6)]
        return torch.tensor(counts)

    plain, turned = shifts(False), shifts(True)
    assert int(plain.argmax()) == 0
    assert plain[0] > 4 * plain[1:].max()
    assert turned.min() > 0.4 * turned.max()


def test_dither_has_its_size() -> None:
    settings = PatchPairSettings(apart=8.0, dither=3.0, rotation=0.0, zoom=1.0)
    batch = PatchPairMaker([pair(smooth((120, 120)), spacing=2.0)], 17, settings)(800, torch.Generator().manual_seed(0))
    assert abs(float(batch.shift[batch.same].std()) - 3.0) < 0.35


def test_nothing_is_cut_where_an_image_has_no_data() -> None:
    image = smooth((70, 70))
    held = torch.zeros(70, 70, dtype=torch.bool)
    held[10:50, 15:60] = True
    settings = PatchPairSettings(apart=8.0, dither=2.0)
    marked = torch.where(held, image, torch.full_like(image, 9.0))
    batch = PatchPairMaker([RoughPair("one", marked, marked, held, 1.0)], 17, settings)(
        64, torch.Generator().manual_seed(0)
    )
    assert max(float(batch.fixed.max()), float(batch.moving.max())) <= 1.0 + 1e-4


def test_pairs_that_leave_no_room_are_told() -> None:
    small = pair(smooth((12, 12)), name="small")
    with pytest.raises(InputError, match=r"pair 'small'.*no room"):
        PatchPairMaker([small], 17, PatchPairSettings(apart=8.0))(8, torch.Generator().manual_seed(0))
    apart = RoughPair("apart", smooth((40, 40)), torch.zeros(1, 40, 40), torch.ones(40, 40, dtype=torch.bool), 1.0)
    with pytest.raises(InputError, match=r"pair 'apart'.*no contrast"):
        PatchPairMaker([apart], 17, PatchPairSettings(apart=8.0))
    with pytest.raises(InputError, match="no pair"):
        PatchPairMaker([], 17, PatchPairSettings())


def test_one_patch_alone_does_not_tell(tmp_path: Path) -> None:
    images = [smooth((96, 96), seed) for seed in range(4)]
    maker = PatchPairMaker([pair(image) for image in images], 17, PatchPairSettings(apart=10.0, dither=2.0))
    generator = torch.Generator().manual_seed(0)
    found = audit_pairs(joined([maker(100, generator).pairs for _ in range(4)]), elsewhere=True)
    assert found.passed, found
    hinted = maker(400, generator).pairs
    hinted.moving[hinted.misaligned] *= 0.5
    assert not audit_pairs(hinted, elsewhere=True).passed


@pytest.mark.parametrize("shape", [(90, 90), (48, 48, 48)])
def test_different_places_lie_within_reach(shape: tuple[int, ...]) -> None:
    settings = PatchPairSettings(apart=4.0, reach=12.0, zoom=1.0)
    batch = PatchPairMaker([pair(smooth(shape), spacing=2.0)], 17, settings)(400, torch.Generator().manual_seed(0))
    away = batch.shift[~batch.same].norm(dim=1)
    assert float(away.min()) > 4.0 - 1e-3
    assert float(away.max()) < 12.0 + 1e-3
    assert 100 < len(away) < 300
    assert float((away > 8.0).float().mean()) > 0.5  # even in the shell, not along its radius
    centre = batch.shift[~batch.same].mean(dim=0) / away.mean()
    assert bool((centre.abs() < 0.25).all()), "every way alike"


def test_one_patch_alone_does_not_tell_a_near_place() -> None:
    images = [smooth((100, 100), seed) for seed in range(6)]
    maker = PatchPairMaker([pair(image) for image in images], 17, PatchPairSettings(apart=3.0, reach=9.0, dither=1.0))
    generator = torch.Generator().manual_seed(0)
    found = audit_pairs(joined([maker(100, generator).pairs for _ in range(4)]), elsewhere=True)
    assert found.passed, found


def test_near_places_have_as_much_contrast_as_the_same_place() -> None:
    """Places drawn without regard to contrast have .83 of it here."""
    settings = PatchPairSettings(apart=12.0, reach=30.0, focus=1.0)
    maker = PatchPairMaker([pair(smooth((120, 120), seed)) for seed in range(4)], 17, settings)
    generator = torch.Generator().manual_seed(0)
    batches = [maker(400, generator) for _ in range(4)]
    contrast = torch.cat([batch.moving.flatten(1).std(dim=1) for batch in batches])
    same = torch.cat([batch.same for batch in batches])
    assert float(contrast[~same].mean() / contrast[same].mean()) == pytest.approx(1.0, abs=0.08)


def test_reach_below_the_smallest_distance_is_refused() -> None:
    with pytest.raises(SettingsError, match="reach 8"):
        PatchPairSettings.checked({"apart": 10.0, "reach": 8.0})
    with pytest.raises(SettingsError, match="reach 8"):
        Shot.checked({"spacing": 2.0, "apart": 10.0, "reach": 8.0})


def test_images_exchange_their_roles() -> None:
    """The moving image is the fixed one plus 2, one voxel further on: a patch shows which it is, and which way it lies."""
    fixed = smooth((90, 90))
    settings = PatchPairSettings(apart=8.0, symmetrise=False, rotation=0.0, zoom=1.0, exchange=True)
    maker = PatchPairMaker([pair(fixed, fixed.roll(1, dims=2) + 2.0)], 17, settings)
    assert [change.kind for change in maker.chain.changes] == ["inversion", "bezier_curve"]  # which would hide it
    maker.chain = Chain(changes=())
    batch = maker(400, torch.Generator().manual_seed(0))
    turned = batch.fixed.mean(dim=(1, 2, 3)) > 1.5
    assert 120 < int(turned.sum()) < 280
    assert torch.equal(batch.moving.mean(dim=(1, 2, 3)) > 1.5, ~turned)
    left = batch.same & turned  # here the plain image lies one voxel back
    assert torch.allclose(batch.fixed[left][..., 1:] - 2.0, batch.moving[left][..., :-1], atol=1e-4)
    straight = batch.same & ~turned
    assert torch.allclose(batch.moving[straight][..., 1:] - 2.0, batch.fixed[straight][..., :-1], atol=1e-4)


def test_symmetries_and_rotations_are_orthogonal() -> None:
    for ndim, count in ((2, 8), (3, 48)):
        found = symmetries(ndim)
        assert len(torch.unique(found, dim=0)) == count
        torch.testing.assert_close(found @ found.transpose(1, 2), torch.eye(ndim).expand(count, -1, -1))
    turned = rotations(torch.tensor([[math.pi / 2]]))
    torch.testing.assert_close(turned[0], torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=1e-6, rtol=0)


# --- the lesson -----------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_a_coin_for_a_network_that_says_nothing() -> None:
    network = PatchNetwork(PatchSettings.checked({**SLIM, "dims": 2}))
    torch.nn.init.zeros_(network.head[-1].weight)  # type: ignore[arg-type]
    torch.nn.init.zeros_(network.head[-1].bias)  # type: ignore[arg-type]
    maker = PatchPairMaker([pair(smooth((60, 60)))], 17, PatchPairSettings(apart=8.0))
    loss, _ = PatchCrossEntropy()(network, maker(32, torch.Generator().manual_seed(0)))
    assert abs(float(loss.detach()) - math.log(2)) < 1e-6
    network.eval().requires_grad_(False)
    assert abs(PatchCheck(maker, 32, 0)(network)["loss"] - math.log(2)) < 1e-6


# --- registration ---------------------------------------------------------------------------------------------------


def test_patches_are_drawn_where_a_partial_view_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = model(tmp_path / "m", dims=2, spacings=(1.0,))
    metric.patches = 200
    fixed = Image.of_array(smooth((90, 90))[0], 1.0)
    drawn: list[torch.Tensor] = []
    chosen = PatchCutter.chosen

    def noted(self: PatchCutter, *given: Any) -> torch.Tensor:
        drawn.append(chosen(self, *given))
        return drawn[-1]

    monkeypatch.setattr(PatchCutter, "chosen", noted)
    for columns in (30, 60):  # a third is a partial view, two thirds are not
        mask = torch.zeros_like(fixed.data)
        mask[..., :columns] = 1
        start = Rigid(2)
        with torch.no_grad():
            start.translation[0] = -10.0  # moving columns up to 30 lie up to column 40 of the fixed image
        Level(fixed, Image(fixed.data, fixed.grid, mask), metric, start=start)
        Level(fixed, Image(fixed.data, fixed.grid, mask), metric)
    lasts = [float(each[0, :, 1].max()) for each in drawn]
    assert lasts[0] < (40 + 8) / STRETCH
    assert min(lasts[1:]) > 60


@pytest.mark.parametrize("shape", [(90, 84), (40, 44, 42)])
def test_nothing_but_the_voxels_that_it_reads_can_change_the_value(shape: tuple[int, ...], tmp_path: Path) -> None:
    metric = model(tmp_path / "m", dims=len(shape), spacings=(1.0,))
    fixed, moving = smooth(shape)[None], smooth(shape, 1)[None]
    bound = metric.bind(fixed)
    assert bound.reads is not None
    assert 8 * 17 < len(bound.reads) < fixed.numel()
    value, others = bound(moving), torch.ones(fixed.numel(), dtype=torch.bool)
    others[bound.reads] = False
    assert torch.equal(bound(moving.masked_fill(others.reshape(fixed.shape), 0.5)), value)
    for one in bound.reads[[0, len(bound.reads) // 2, -1]].tolist():  # and each of these does
        changed = moving.clone()
        changed.view(-1)[one] += 1.0
        assert not torch.equal(bound(changed), value)


def test_planes_of_a_volume_may_be_read_anywhere(tmp_path: Path) -> None:
    metric = model(tmp_path / "m", dims=2, spacings=(1.0,))
    assert metric.bind(smooth((30, 44, 42))[None]).reads is None
    assert load_metric("mind").bind(smooth((44, 42))[None]).reads is None


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("shape", [(90, 84), (40, 44, 42)])
def test_a_level_maps_only_what_the_metric_reads(
    shape: tuple[int, ...], masks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = model(tmp_path / "m", dims=len(shape), spacings=(1.0,))
    metric.patches = 3
    fixed, moving = (Image.of_array(smooth(shape, seed)[0], 1.0) for seed in (0, 1))
    if masks:
        mask = torch.ones_like(fixed.data)
        mask[..., : shape[-1] // 3] = 0
        fixed, moving = (Image(image.data, image.grid, mask) for image in (fixed, moving))
    way = Rigid(len(shape), fixed.grid.centre)
    with torch.no_grad():
        way.translation[0] = 6.0
        way.rotation += 0.1

    def asked(level: Level) -> tuple[torch.Tensor, ...]:
        cost = level.cost(level.mapping(way)())
        return (cost.detach(), *torch.autograd.grad(cost, list(way.parameters())))

    some = Level(fixed, moving, metric)
    assert some.read is not None
    assert some.compared == len(some.read) < some.grid.voxels
    monkeypatch.setattr("regsim.registration.level.FEW", 0.0)
    every = Level(fixed, moving, metric)
    assert every.read is None
    for one, other in zip(asked(some), asked(every), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)
    bent = some.grid.points() + 0.5  # what is not linear maps all points
    assert torch.allclose(some.cost(bent), every.cost(bent), rtol=1e-5)


def test_levels_are_not_coarser_than_the_metric_can_judge(tmp_path: Path) -> None:
    metric = model(tmp_path / "m", dims=2, spacings=(1.0,))
    assert metric.coarsest(2, True) == metric.coarsest(2, False) == 1.0
    fixed = Image.of_array(smooth((64, 66))[0], 1.0)
    level = {"steps": 2, "step": 0.5, "control_spacing": 16.0}

    def spacings(kind: str, driver: str | PatchLikelihood) -> list[int]:
        name = driver if isinstance(driver, str) else driver.name
        levels = [{"spacing": spacing, **level} for spacing in (4.0, 1.0)]
        stage = {"transform": kind, "metric": name, "levels": levels}
        plan = Schedule.checked({"stages": [stage], "start": "identity"})
        return [round(each.spacing) for each in register(fixed, fixed, driver, schedule=plan).levels]

    assert spacings("control_grid", metric) == [1, 1]
    assert spacings("control_grid", "mse") == [4, 1]
    assert spacings("rigid", metric) == [1, 1]
    late = schedule_for("rigid", fixed.grid, metric="patch_likelihood:seed=1").stages[0].levels
    assert [level.steps for level in late] == [60] * len(late)
    assert schedule_for("rigid", fixed.grid, metric=str(tmp_path / "m")).stages[0].levels == late
    assert schedule_for("rigid", fixed.grid, "mse").stages[0].levels[-1].steps < 60
    imse = load_metric("imse")
    assert 2.0 < imse.coarsest(3, False) < 4.0
    assert imse.coarsest(3, True) == load_metric("mse").coarsest(3, False) == math.inf
