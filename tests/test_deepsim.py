"""DeepSim: features compared, matched and carried; and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from regsim.errors import InputError, SettingsError
from regsim.images import Grid, Image
from regsim.metrics import load_metric
from regsim.metrics.checkpoint import Card, read_card, save_model
from regsim.metrics.deepsim import DeepSimilarity
from regsim.metrics.feature_network import LEVELS, FeatureNetwork, FeatureNetworkSettings
from regsim.metrics.features import FeatureDistance, directions
from regsim.metrics.matching_probability import matching_probability, shifted
from regsim.registration import register
from regsim.registration.features import FeatureLevel, FeaturePyramid, GuidedLevel, directions_after, turned_to
from regsim.registration.level import Level, force_of
from regsim.transforms.linear import Rigid
from tests.metric_cases import noisy, shifted_pair, textured

Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A model folder with random weights."""

    def make(name: str = "made", **settings: object) -> Path:
        chosen = FeatureNetworkSettings.checked({"widths": (4, 6, 8, 8), "features": 4, **settings})
        torch.manual_seed(0)
        network = FeatureNetwork(chosen).eval()
        card = Card(name=name, metric="deepsim", network=chosen.model_dump(mode="json"))
        save_model(tmp_path / name, card, network.state_dict())
        return tmp_path / name

    return make


@pytest.mark.parametrize("dims", [2, 3])
def test_every_level_is_compared_and_averaged(made: Made, dims: int) -> None:
    model = str(made(dims=dims, levels=LEVELS))
    fixed, moving = (each.float() for each in shifted_pair(dims, 2))
    metric = DeepSimilarity(model)
    cosines = metric.cosines(fixed, moving)
    assert [each.shape[-1] for each in cosines][:2] == [fixed.shape[-1]] * 2
    expected = torch.stack([each.mean() for each in cosines]).mean()
    torch.testing.assert_close(metric(fixed, moving)[0], expected)
    one = DeepSimilarity(model, levels=(3,))(fixed, moving)
    torch.testing.assert_close(one[0], cosines[3].mean())


def test_centred_features_correlate_and_do_not_share_a_common_part(made: Made) -> None:
    model = str(made(levels=("decoder",)))
    fixed, other = textured((1, 1, 40, 40), 1).float(), textured((1, 1, 40, 40), 2).float()
    plain, centred = DeepSimilarity(model), DeepSimilarity(model, centred=True)
    assert float(centred(fixed, other)) < float(plain(fixed, other))
    torch.testing.assert_close(centred(fixed, fixed), torch.ones(1))


def test_dense_features_give_the_value(made: Made) -> None:
    metric = DeepSimilarity(str(made(levels=("tissues", "embedding"))))
    fixed, moving = (each.float() for each in shifted_pair(2, 3))
    apart = 0.5 * (metric.dense(fixed) - metric.dense(moving)).square().sum(dim=1).mean()
    torch.testing.assert_close(1 - apart, metric(fixed, moving)[0])
    torch.testing.assert_close(FeatureDistance()(metric.dense(fixed), metric.dense(moving))[0], apart)


def test_a_network_for_pictures_sees_volumes_by_planes_across_every_axis(made: Made) -> None:
    metric = DeepSimilarity(str(made(levels=("tissues", "encoder_1"))))
    volume = textured((1, 1, 17, 18, 19)).float()
    for turned in ((3, 4, 2), (4, 2, 3)):
        order = (0, 1, *turned)
        fine, coarse = metric.maps(volume.permute(order).contiguous(), None)
        assert fine.shape[2:] == coarse.shape[2:] == volume.permute(order).shape[2:]


def test_what_a_mask_leaves_out_is_filled_from_within(made: Made) -> None:
    metric = DeepSimilarity(str(made()))
    image = 0.5 + 0.0 * textured((1, 1, 32, 32)).float()
    image[..., 10:20, 10:20] += 0.3 * textured((1, 1, 10, 10)).float()
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    changed = torch.where(mask > 0, image, torch.full_like(image, 7.0))
    torch.testing.assert_close(metric(image, image.flip(-1), mask), metric(changed, image.flip(-1), mask))


def test_matching_is_highest_where_images_match_whatever_the_noise() -> None:
    vectors = directions(torch.cat([textured((1, 1, 30, 30), seed) - 0.5 for seed in range(4)], dim=1))
    ones = torch.ones(1, 1, 30, 30, dtype=vectors.dtype)
    found = [
        float(matching_probability(vectors, shifted(vectors, 1, step), ones)[..., 6:-6, 6:-6].mean())
        for step in (0, 1, 2, 4)
    ]
    assert found[0] > found[1] > max(found[2:])
    assert max(found[2:]) < 1 / 9
    rough = directions(vectors + 0.5 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0)))
    assert float(matching_probability(vectors, rough, ones).mean()) > found[1]


def test_matching_is_even_where_nothing_can_be_told_apart() -> None:
    flat = directions(torch.ones(1, 3, 12, 12, 12))
    found = matching_probability(flat, flat, torch.ones(1, 1, 12, 12, 12))[..., 4:-4, 4:-4, 4:-4]
    torch.testing.assert_close(found, torch.full_like(found, 1 / 13))


def test_wrong_settings_are_refused(made: Made) -> None:
    model = str(made(levels=("tissues", "embedding")))
    with pytest.raises(SettingsError, match=r"levels of model .* are 0 = tissues, 1 = embedding; got \(2,\)"):
        DeepSimilarity(model, levels=(2,))
    with pytest.raises(SettingsError, match="warping is 'before' or 'after', got 'during'"):
        DeepSimilarity(model, warping="during")
    with pytest.raises(SettingsError, match="value is 'auto', 'cosine' or 'matching', got 'other'"):
        DeepSimilarity(model, value="other")
    with pytest.raises(SettingsError, match="expected"):
        FeatureNetworkSettings.checked({"levels": ["tissues", "tissues"]})


def test_wrong_images_are_refused(made: Made) -> None:
    solid = DeepSimilarity(str(made(dims=3)))
    with pytest.raises(InputError, match=r"is for volumes, the images are pictures \(16, 16\)"):
        solid(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16))
    with pytest.raises(InputError, match="at least 2 voxels a side"):
        solid(torch.rand(1, 1, 16, 16, 1), torch.rand(1, 1, 16, 16, 1))


def test_weights_of_another_width_are_refused(made: Made) -> None:
    folder = made()
    wide = FeatureNetwork(FeatureNetworkSettings(widths=(6, 6, 8, 8), features=4))
    card = read_card(folder)
    save_model(folder, card.model_copy(update={"tensors": {}, "sha256": ""}), wide.state_dict())
    with pytest.raises(InputError, match=r"tensor '.*' is F32 \[.*\], expected F32 \[.*\]"):
        DeepSimilarity(str(folder))


# --- in a registration ------------------------------------------------------------------------------------------------


def _features(dims: int, seed: int = 0) -> tuple[Image, Image]:
    """Two images of three channels, the second moved by about a voxel, with a mask on the first."""
    side = 24 if dims == 2 else 14
    channels = [textured((1, 1, *(side,) * dims), seed + number)[0].float() for number in range(3)]
    grid = Grid.of((side,) * dims, 2.0)
    data = directions(torch.cat(channels)[None] - 0.5)[0]
    mask = torch.ones(1, *(side,) * dims)
    mask[..., :4] = 0
    return Image(data, grid, mask, "fixed"), Image(data.roll(1, -1), grid, None, "moving")


@pytest.mark.parametrize("samples", [None, 500])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_compiled_loop_gives_the_same_cost_and_gradient(dims: int, samples: int | None) -> None:
    fixed, moving = _features(dims)
    fast, slow = FeatureLevel(fixed, moving, "made", samples), Level(fixed, moving, FeatureDistance(), samples)
    rotation = Rigid(dims, fixed.grid.centre)
    with torch.no_grad():
        next(rotation.parameters()).add_(0.05)
    points = rotation(fast.points).detach()
    found = []
    for level in (fast, slow):
        leaf = points.clone().requires_grad_()
        cost = level.cost(leaf)
        found.append((cost.detach(), torch.autograd.grad(cost, leaf)[0]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-7)


def test_the_moving_image_is_turned_as_the_transform_turns_the_fixed_grid() -> None:
    _, moving = _features(2)
    quarter = Rigid(2, moving.grid.centre)
    with torch.no_grad():
        next(parameter for parameter in quarter.parameters() if parameter.numel() == 1).fill_(torch.pi / 2)
    wanted = directions_after(quarter, moving.grid)
    turned = turned_to(moving, wanted)
    matrix = quarter.matrix().detach().double()
    torch.testing.assert_close(torch.as_tensor(wanted), matrix @ torch.as_tensor(moving.grid.direction).double())
    assert turned.grid.direction == tuple(map(tuple, wanted.tolist()))
    assert turned.mask is not None
    inner = turned.grid.points()[turned.mask[0] > 0]
    assert float(inner.min()) >= -1.0 - 1e-4


def test_features_are_taken_anew_only_where_the_image_has_turned(made: Made) -> None:
    metric = DeepSimilarity(str(made()))
    image = Image(textured((1, 1, 32, 32))[0].float(), Grid.of((32, 32), 1.0), None, "image")
    pyramid = FeaturePyramid(image, image, metric, 1.0)
    still, turned = Rigid(2, image.grid.centre), Rigid(2, image.grid.centre)
    with torch.no_grad():
        next(parameter for parameter in turned.parameters() if parameter.numel() == 1).fill_(0.3)
    first = pyramid.at(1.0, still)[1]
    assert pyramid.at(1.0, still)[1] is first or torch.equal(pyramid.at(1.0, still)[1].data, first.data)
    assert pyramid.at(1.0, turned)[1].grid.direction != first.grid.direction


@pytest.mark.parametrize("settings", ["warping=before", "warping=after,value=cosine"])
def test_it_drives_a_registration(settings: str) -> None:
    from regsim.images.examples import brain
    from regsim.prepare import coarser

    fixed, other = (coarser(brain(contrast), 4.0) for contrast in ("t1", "t2"))
    shift = torch.tensor([6.0, -5.0, 4.0])
    grid = Grid(
        other.grid.size,
        other.grid.spacing,
        tuple((torch.tensor(other.grid.origin) + shift).tolist()),
        other.grid.direction,
    )
    found = register(fixed, Image(other.data, grid, None, "t2"), f"deepsim:{settings}", "rigid")
    middle = torch.tensor([fixed.grid.centre.tolist()], dtype=torch.float32)
    with torch.no_grad():
        away = found.transform(middle)[0] - middle[0] - shift
    assert float(away.norm()) < 2.0, away


def test_the_bundled_models_order_noisy_images_of_a_brain() -> None:
    from regsim.images.examples import brain
    from regsim.prepare import coarser

    first, second = (noisy(coarser(brain(name), 3.0).batch) for name in ("t1", "t2"))
    metric = load_metric("deepsim")
    values = [float(metric(first, second.roll(step, -1))) for step in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True)


def test_a_companion_comes_only_with_descriptors_and_guidance(made: Made) -> None:
    beside = str(made("beside", beside=0.2))
    found = DeepSimilarity(beside, guidance=0.3).companion()
    assert found is not None
    assert (found.metric.name, found.share) == ("mind", 0.3)
    assert DeepSimilarity(beside, guidance=0.0).companion() is None
    assert DeepSimilarity(str(made("plain"))).companion() is None
    image = textured((1, 1, 24, 24), 3).float()
    metric = DeepSimilarity(beside)
    alone, whole = metric.dense(image, whole=False), metric.dense(image)
    assert whole.shape[1] > alone.shape[1]
    torch.testing.assert_close(directions(whole[:, : alone.shape[1]]), alone)


def test_guided_cost_adds_both_parts_over_their_forces() -> None:
    generator = torch.Generator().manual_seed(1)
    grid = Image.of_array(torch.zeros(30, 26)).grid
    features = [Image(directions(torch.rand((1, 3, 30, 26), generator=generator))[0], grid) for _ in range(2)]
    images = [Image(textured((1, 1, 30, 26), seed)[0].float(), grid) for seed in (1, 2)]
    beside = Level(*images, load_metric("mind"))
    guided = GuidedLevel(*features, "deepsim", beside, 0.25)
    plain = FeatureLevel(*features, "deepsim")
    start = guided.points + 0.1
    costs = plain.cost(start) / force_of(plain.cost, plain.grid, start), beside.cost(start) / beside.force(start)
    torch.testing.assert_close(guided.cost(start), 0.25 * costs[0] + costs[1])
    assert guided.force(start) == 1.0
    moved = start.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(guided.cost(moved), moved)
    assert bool(slope.isfinite().all())
    assert float(slope.norm()) > 0


def test_without_guidance_a_deformation_is_driven_by_the_features_alone(made: Made) -> None:
    fixed, moving = (Image.of_array(each[0, 0].float()) for each in shifted_pair(2, 2))
    model = str(made(beside=0.2))
    plans = {
        share: register(fixed, moving, f"deepsim:model={model},guidance={share}", "deformable") for share in (0.0, 1.0)
    }
    costs = {share: [level.cost_first for level in found.levels] for share, found in plans.items()}
    linear = [number for number, level in enumerate(plans[0.0].levels) if level.stage != "control_grid"]
    assert [costs[0.0][number] for number in linear] == pytest.approx([costs[1.0][number] for number in linear])
    assert costs[0.0][-1] != pytest.approx(costs[1.0][-1])
