"""Changes of appearance: the same promises for every change, and what each one is known to do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from regsim.errors import InputError, SettingsError
from regsim.misalign.appearance import (
    Appearance,
    AppearanceChange,
    BezierCurve,
    BiasField,
    Blur,
    Chain,
    ClusterMixture,
    Downsampled,
    Gamma,
    Inversion,
    Noise,
    Occlusion,
    OneOf,
    ShuffleRemap,
    SmoothCurve,
)
from regsim.misalign.curves import IntensityMap, bezier_table, catmull_rom_table
from regsim.misalign.smoothing import blur_matrices, coarse_matrices, smooth_field
from regsim.prepare import gaussian

SINGLE = [
    Noise(rician=0.5),
    Blur(per_axis=0.5),
    BiasField(strength=(0.2, 0.5)),
    Downsampled(factor=(1.5, 3.0)),
    Occlusion(size=(0.2, 0.3)),
    Gamma(gamma=(1.3, 2.0)),
    Inversion(),
    BezierCurve(),
    SmoothCurve(),
    ShuffleRemap(segments=(8, 50), reversal=0.3),
    ClusterMixture(),
]
MANY = [
    Chain(changes=(Gamma(), Noise(probability=0.5))),
    OneOf(changes=(Gamma(gamma=(1.3, 2.0)), Inversion(), Noise())),
]
ALL = SINGLE + MANY
MAPS = [change for change in SINGLE if isinstance(change, IntensityMap)]


def name(change: AppearanceChange) -> str:
    return type(change).__name__


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6, shape: tuple[int, ...] = (24, 20), seed: int = 5) -> torch.Tensor:
    """Bright discs on black: smooth inside, in [0, 1]."""
    lines = torch.meshgrid(*[torch.linspace(-1, 1, length) for length in shape], indexing="ij")
    inside = (sum(line.square() for line in lines) < 0.7).float()
    texture = smooth_field(torch.rand((count, 1, *[5] * len(shape)), generator=seeded(seed)), shape)
    return (0.2 + 0.8 * texture).clamp(0, 1) * inside


def unit(steps: int = 1001) -> torch.Tensor:
    return torch.linspace(0, 1, steps).reshape(1, 1, 1, -1)


def is_picture(images: torch.Tensor, like: torch.Tensor) -> bool:
    right = images.shape == like.shape and images.dtype == like.dtype
    return right and bool(torch.isfinite(images).all()) and float(images.min()) >= 0 and float(images.max()) <= 1


def test_every_kind_is_tried() -> None:
    kinds = TypeAdapter(Appearance).json_schema()["discriminator"]["mapping"]
    assert {change.model_dump()["kind"] for change in ALL} == set(kinds)


@pytest.mark.parametrize("change", ALL, ids=name)
@pytest.mark.parametrize("shape", [(24, 20), (9, 12, 10), (1, 7), (2, 1, 5)], ids=str)
def test_shape_and_range(change: AppearanceChange, shape: tuple[int, ...]) -> None:
    images = torch.rand((5, 1, *shape), generator=seeded())
    drawn = change.draw(images, seeded(1))
    assert all(len(value) == 5 for value in drawn.values())
    assert is_picture(change.apply(images, drawn), images)


@pytest.mark.parametrize("change", ALL, ids=name)
def test_double_precision_goes_through(change: AppearanceChange) -> None:
    images = pictures()
    changed, drawn = change.changed(images, seeded())
    doubled = change.apply(images.double(), drawn)
    assert is_picture(doubled, images.double())
    torch.testing.assert_close(doubled.float(), changed, rtol=0, atol=1e-3)


@pytest.mark.parametrize("change", ALL, ids=name)
@pytest.mark.parametrize("value", [0.0, 1e-30, 0.03, 0.5, 1.0])
def test_constant_images_stay_finite(change: AppearanceChange, value: float) -> None:
    images = torch.full((16, 1, 9, 11), value)
    assert is_picture(change(images, seeded()), images)


@pytest.mark.parametrize("change", ALL, ids=name)
def test_generator_decides_and_apply_repeats(change: AppearanceChange) -> None:
    images = pictures()
    before = images.clone()
    changed, drawn = change.changed(images, seeded(1))
    kept = {key: value.clone() for key, value in drawn.items()}
    torch.testing.assert_close(change.apply(images, drawn), changed, rtol=0, atol=0)
    torch.testing.assert_close(change(images, seeded(1)), changed, rtol=0, atol=0)
    assert not torch.equal(change(images, seeded(2)), changed)
    assert torch.equal(images, before)
    assert all(torch.equal(kept[key], value) for key, value in drawn.items())


@pytest.mark.parametrize("change", ALL, ids=name)
def test_items_know_nothing_of_each_other(change: AppearanceChange) -> None:
    images = pictures()
    changed, drawn = change.changed(images, seeded(1))
    for item in (0, 3):
        own = {key: value[item : item + 1] for key, value in drawn.items()}
        alone = change.apply(images[item : item + 1], own)
        torch.testing.assert_close(alone, changed[item : item + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", ALL, ids=name)
def test_equal_images_become_different(change: AppearanceChange) -> None:
    same = pictures(1).expand(8, -1, -1, -1)
    assert len({item.numpy().tobytes() for item in change(same, seeded(3))}) > 1


@pytest.mark.parametrize("change", ALL, ids=name)
def test_probability(change: AppearanceChange) -> None:
    images = pictures(16)
    never = change.model_copy(update={"probability": 0.0})
    assert torch.equal(never(images, seeded()), images)
    always = change(images, seeded()) != images
    assert bool(always.flatten(1).any(dim=1).all())
    changed, drawn = change.model_copy(update={"probability": 0.5}).changed(images, seeded())
    assert 0 < int(drawn["chosen"].sum()) < 16
    assert torch.equal((changed != images).flatten(1).any(dim=1), drawn["chosen"])


@pytest.mark.parametrize("change", MAPS, ids=name)
def test_dark_background_stays(change: IntensityMap) -> None:
    images = pictures(16)
    air = images == 0
    if not isinstance(change, ClusterMixture):
        kept = change.model_copy(update={"background_probability": 1.0})(images, seeded())
        assert float(kept[air].max()) == 0
    changed, drawn = change.changed(images, seeded())
    level = torch.stack([item[place].mean() for item, place in zip(changed, air, strict=True)])
    assert float(level[drawn["dark"]].max()) < 0.1
    nowhere = change.apply(images, {**drawn, "dark": torch.zeros(16, dtype=torch.bool)})
    torch.testing.assert_close(changed[~drawn["dark"]], nowhere[~drawn["dark"]], rtol=0, atol=1e-5)
    lit = change.model_copy(update={"background_probability": 0.0})(images, seeded())
    assert isinstance(change, Gamma) or float(lit[air].max()) > 0.2


@pytest.mark.parametrize("change", MAPS, ids=name)
def test_equal_intensities_get_equal_ones(change: IntensityMap) -> None:
    if isinstance(change, ClusterMixture):
        change = change.model_copy(update={"texture": (0.0, 0.0), "blur": (0.0, 0.0)})
    images = (torch.rand((4, 1, 30, 30), generator=seeded()) * 8).floor() / 8
    for before, after in zip(images, change(images, seeded(1)), strict=True):
        for value in before.unique():
            same = after[before == value]
            torch.testing.assert_close(same, same[:1].expand_as(same), rtol=0, atol=1e-6)


def test_noise_has_its_sigma_and_rician_lifts_the_dark() -> None:
    images = torch.full((4, 1, 100, 100), 0.5)
    noise = Noise(sigma=(0.02, 0.08))
    changed, drawn = noise.changed(images, seeded())
    torch.testing.assert_close((changed - images).flatten(1).std(dim=1), drawn["sigma"], rtol=0.05, atol=0)
    assert float((changed - images).mean().abs()) < 2e-3
    dark = Noise(sigma=(0.05, 0.05), rician=1.0)(images * 0, seeded())
    assert float(dark.mean()) == pytest.approx(0.05 * (torch.pi / 2) ** 0.5, rel=0.02)


def test_blur_is_the_gaussian() -> None:
    image = torch.zeros((1, 1, 31, 31))
    image[..., 15, 15] = 1
    changed, drawn = Blur(sigma=(1.0, 2.0), per_axis=1.0).changed(image, seeded())
    torch.testing.assert_close(changed, gaussian(image, tuple(drawn["sigma"][0].tolist())), rtol=0, atol=1e-3)
    rows = blur_matrices(torch.tensor([0.0, 0.3, 4.0]), 12)
    torch.testing.assert_close(rows.sum(dim=2), torch.ones(3, 12))
    torch.testing.assert_close(rows[0], torch.eye(12))


def test_lost_resolution_keeps_ramps_and_constants() -> None:
    factor, phase = torch.tensor([1.0, 1.7, 3.0]), torch.tensor([0.0, 0.4, 0.9])
    matrices = coarse_matrices(factor, phase, 40)
    torch.testing.assert_close(matrices[0], torch.eye(40))
    torch.testing.assert_close(matrices.sum(dim=2), torch.ones(3, 40))
    ramp = torch.arange(40.0)
    torch.testing.assert_close((matrices @ ramp)[:, 8:32], ramp[8:32].expand(3, -1), rtol=0, atol=0.02)
    fine = (ramp % 2).expand(3, -1)[..., None]
    assert float((matrices @ fine)[2, 5:35].std()) < 0.1


def test_bias_field_is_smooth_and_clips_nothing() -> None:
    images = torch.ones((4, 1, 64, 64))
    changed, drawn = BiasField(strength=(0.5, 0.5)).changed(images, seeded())
    assert float(changed.diff(dim=-1).abs().max()) < 0.06
    assert torch.equal(changed.flatten(1).amax(dim=1), torch.ones(4))
    assert int((changed == 1).sum()) == 4
    assert float(changed.min()) >= torch.exp(torch.tensor(-1.01))
    assert float(drawn["strength"].min()) == 0.5


def test_occlusion_covers_a_patch_and_leaves_the_rest() -> None:
    images = pictures(30, (64, 64))
    changed, drawn = Occlusion(value=(0.5, 0.5), bumps=0.0, size=(0.1, 0.1)).changed(images, seeded())
    inside = (drawn["centre"] - 0.5).abs().amax(dim=1) < 0.35
    share = (changed != images).flatten(1).float().mean(dim=1)[inside]
    assert 0.02 < float(share.min()) <= float(share.max()) < 0.045
    middle = (drawn["centre"] * 64).long()
    assert torch.equal(changed[torch.arange(30), 0, middle[:, 0], middle[:, 1]], torch.full((30,), 0.5))


def test_inversion_turns_the_foreground_over() -> None:
    image = torch.tensor([0.0, 0.2, 0.4, 1.0]).reshape(1, 1, 1, 4)
    kept = Inversion(background_probability=1.0)(image, seeded())
    torch.testing.assert_close(kept.flatten(), torch.tensor([0.0, 1.0, 0.8, 0.2]))
    whole = Inversion(background_probability=0.0)(image, seeded())
    torch.testing.assert_close(whole.flatten(), torch.tensor([1.0, 0.8, 0.6, 0.0]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
def test_bezier_curves_rise(values: list[float]) -> None:
    curve = bezier_table(torch.tensor(values).reshape(1, 2, 2))[0]
    assert float(curve.diff().min()) >= 0
    torch.testing.assert_close(curve[[0, -1]], torch.tensor([0.0, 1.0]))


def test_bezier_curve_with_points_on_the_diagonal_is_the_identity() -> None:
    points = torch.tensor([[[1 / 3, 1 / 3], [2 / 3, 2 / 3]]])
    torch.testing.assert_close(bezier_table(points)[0], torch.linspace(0, 1, 257), rtol=0, atol=1e-5)
    falling = BezierCurve(falling=1.0, background_probability=0.0)(unit().expand(5, -1, -1, -1), seeded())
    assert float(falling.diff(dim=-1).max()) <= 0
    rising = BezierCurve(falling=0.0, background_probability=0.0)(unit().expand(5, -1, -1, -1), seeded())
    assert float(rising.diff(dim=-1).min()) >= 0


def test_smooth_curve_meets_its_knots_and_turns() -> None:
    values = torch.tensor([[0.1, 0.9, 0.2, 0.6, 0.0]])
    curve = catmull_rom_table(values, torch.tensor([5]))[0]
    torch.testing.assert_close(curve[::64], values[0])
    change = SmoothCurve(background_probability=0.0, low=(0.1, 0.1), high=(0.9, 0.9))
    changed = change(unit().expand(16, -1, -1, -1), seeded()).flatten(1)
    steps = changed.diff(dim=1)
    torch.testing.assert_close(changed.amin(dim=1), torch.full((16,), 0.1), rtol=0, atol=2e-3)
    torch.testing.assert_close(changed.amax(dim=1), torch.full((16,), 0.9), rtol=0, atol=2e-3)
    assert float(steps.abs().max()) < 0.05
    assert int(((steps.amin(dim=1) < 0) & (steps.amax(dim=1) > 0)).sum()) > 8


def test_clusters_are_painted_with_their_means() -> None:
    levels = torch.tensor([0.1, 0.5, 0.9])
    images = levels[torch.arange(900) % 3].reshape(1, 1, 30, 30).expand(4, -1, -1, -1)
    change = ClusterMixture(clusters=(8, 8), softness=(0.01, 0.01), blur=(0.0, 0.0), background_probability=0.0)
    changed, drawn = change.changed(images, seeded())
    assert set(drawn["centres"].flatten().tolist()) == set(levels.tolist())
    for item, (centres, means) in enumerate(zip(drawn["centres"], drawn["means"], strict=True)):
        for level in centres.unique():
            expected = means[centres == level].mean()
            assert float(changed[item][images[item] == level].mean()) == pytest.approx(float(expected), abs=0.03)


def test_clusters_lie_in_the_foreground_and_only_those_drawn_count() -> None:
    images = pictures(20)
    change = ClusterMixture(clusters=(2, 8))
    changed, drawn = change.changed(images, seeded())
    assert float(drawn["centres"].min()) > 0.1
    assert float(drawn["centres"].flatten().std()) > 0.05
    unused = torch.arange(8) >= drawn["clusters"][:, None]
    other = {**drawn, "means": torch.where(unused, 1 - drawn["means"], drawn["means"])}
    torch.testing.assert_close(change.apply(images, other), changed)


def test_a_chain_is_its_changes_in_order() -> None:
    images = pictures()
    changed, drawn = Chain(changes=(Gamma(), Inversion())).changed(images, seeded(3))
    first = Gamma().apply(images, _named(drawn, "0."))
    torch.testing.assert_close(Inversion().apply(first, _named(drawn, "1.")), changed)
    assert torch.equal(Chain()(images, seeded()), images)


def test_one_of_uses_each() -> None:
    images = pictures(1).expand(60, -1, -1, -1)
    changed, drawn = OneOf(changes=(Inversion(), Blur())).changed(images, seeded())
    assert sorted(set(drawn["which"].tolist())) == [0, 1]
    first = drawn["which"] == 0
    torch.testing.assert_close(changed[first], Inversion().apply(images, _named(drawn, "0."))[first])
    assert not bool(drawn["1.sigma"][first].any())


def _named(drawn: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(start): value for key, value in drawn.items() if key.startswith(start)}


def test_recipes_name_changes() -> None:
    chain = Chain.checked(
        {
            "changes": [
                {"kind": "noise", "sigma": [0.0, 0.1], "probability": 0.5},
                {"kind": "one_of", "changes": [{"kind": "shuffle_remap", "segments": [2, 10]}, {"kind": "gamma"}]},
            ]
        }
    )
    assert chain.changes[0] == Noise(sigma=(0.0, 0.1), probability=0.5)
    assert Chain.model_validate_json(chain.to_json()) == chain


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "noise", "sigma": [0.2, 0.1]},
        {"kind": "blur", "sigma": [-1, 1]},
        {"kind": "noise", "probability": 2},
        {"kind": "shuffle_remap", "segments": [1, 5]},
        {"kind": "noize"},
        {"kind": "gamma", "gama": [1, 2]},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Chain.checked({"changes": [wrong]})
    with pytest.raises(ValidationError):
        TypeAdapter(Appearance).validate_python(wrong)


@pytest.mark.parametrize("change", ALL, ids=name)
def test_wrong_images_are_refused(change: AppearanceChange) -> None:
    for images in (torch.rand(4, 4), torch.rand(2, 3, 4, 4), torch.zeros((1, 1, 4, 4), dtype=torch.long)):
        with pytest.raises(InputError, match="float batch"):
            change(images, seeded())
