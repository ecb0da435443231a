"""SiamRegQC with the bundled model: what the contract does not ask."""

from pathlib import Path

import pytest
import torch

from regsim.errors import InputError
from regsim.evaluation.landscape import LandscapePair, landscape
from regsim.evaluation.landscape_settings import LandscapeSettings
from regsim.images.examples import brain
from regsim.images.image import Image
from regsim.metrics import load_metric
from regsim.metrics.checkpoint import Card, save_model
from regsim.metrics.learned import places_along, usable_axes
from regsim.metrics.networks import EncoderSettings
from regsim.metrics.siamese import SiameseNetwork, SiameseSettings
from regsim.metrics.siamregqc import SiameseRegistrationQuality
from regsim.metrics.zoo import bundled_models, model_folder
from regsim.prepare import coarser


def slices(contrast: str) -> torch.Tensor:
    """An axial plane of the bundled brain at 1.5 mm, `(1, 1, H, W)`."""
    image = coarser(brain(contrast), 1.5)
    return image.data[None, :, image.grid.shape[0] // 2]


def model(folder: Path, settings: SiameseSettings) -> SiameseRegistrationQuality:
    """An untrained model."""
    torch.manual_seed(0)
    card = Card(name="untrained", metric="siamregqc", network=settings.model_dump(mode="json"))
    save_model(folder, card, SiameseNetwork(settings).state_dict())
    return SiameseRegistrationQuality(model=str(folder))


def test_bundled_models_are_small_and_carry_their_facts() -> None:
    assert "siamregqc-brain-2d" in bundled_models()
    sizes = {name: sum(file.stat().st_size for file in model_folder(name).iterdir()) for name in bundled_models()}
    assert sum(sizes.values()) < 1e7
    for name, size in sizes.items():
        assert size < 3e6
        card = load_metric(name).card  # type: ignore[attr-defined]
        assert card.licence
        assert card.data
        assert card.subjects.train
        assert not set(card.subjects.train) & set(card.subjects.test)
        assert card.figures.get("spearman", card.figures.get("spearman_t2", 0.0)) > 0.8


@pytest.mark.parametrize("contrast", ["t1", "t2"])
def test_farther_costs_more_on_a_real_brain(contrast: str) -> None:
    fixed, moving = slices("t1"), slices(contrast)
    metric = load_metric("siamregqc")
    values = [float(metric(fixed, moving.roll((shift, -shift), (2, 3)))) for shift in (0, 2, 4, 6, 9)]
    assert values == sorted(values)
    assert values[0] < 2.5 < values[-1]


def test_inversion_and_noise_are_no_misalignment() -> None:
    fixed = slices("t1")
    metric = load_metric("siamregqc")
    noise = 0.05 * torch.randn(fixed.shape, generator=torch.Generator().manual_seed(0))
    aligned = float(metric(fixed, fixed + noise))
    inverted = float(metric(fixed, (1 - fixed) * (fixed > 0.02)))
    apart = float(metric(fixed, fixed.roll((6, 6), (2, 3))))
    assert aligned < inverted < 0.6 * apart


def test_feature_differences_have_a_map_for_each_channel() -> None:
    fixed = slices("t1")
    metric = SiameseRegistrationQuality()
    maps = metric.feature_differences(fixed, fixed.roll(5, 3))
    assert maps.shape == (1, metric.settings.encoder.channels[-1], *fixed.shape[2:])
    torch.testing.assert_close(metric.map(fixed, fixed.roll(5, 3)), maps.mean(dim=1, keepdim=True))
    assert not metric.feature_differences(fixed, fixed).any()


def test_volumes_are_compared_by_planes() -> None:
    volume = coarser(brain("t1"), 4.0).batch
    metric = SiameseRegistrationQuality()
    values = [float(metric(volume, volume.roll(shift, 4))) for shift in (0, 1, 3)]
    assert values == sorted(values)
    assert metric.map(volume, volume.roll(1, 4)).shape == volume.shape
    assert places_along(5) == [0, 1, 2, 3, 4]
    assert usable_axes((1, 20, 20)) == [0]


def test_the_published_network_gives_one_minus_cosine(tmp_path: Path) -> None:
    settings = SiameseSettings(encoder=EncoderSettings(channels=(8, 8, 4)), hidden=(16,), grid=4)
    metric = model(tmp_path / "paper", settings)
    first, second = torch.rand(2, 1, 32, 40), torch.rand(2, 1, 32, 40)
    encoded = [metric.network.encoder(image)[-1].flatten(1) for image in (first, second)]
    wanted = 1 - torch.cosine_similarity(*encoded)
    torch.testing.assert_close(metric(first, second), wanted)
    torch.testing.assert_close(metric(first, first), torch.zeros(2), atol=1e-6, rtol=0)


def test_models_of_volumes_and_of_pictures(tmp_path: Path) -> None:
    encoder = EncoderSettings(dims=3, channels=(4, 4), normalisation="group")
    metric = model(tmp_path / "m", SiameseSettings(encoder=encoder, head="local", hidden=(4,), value="error"))
    volume = torch.rand(1, 1, 12, 13, 14)
    assert metric(volume, volume.flip(2)).shape == (1,)
    with pytest.raises(InputError, match="for volumes"):
        metric(volume[:, :, 0], volume[:, :, 0])


def test_the_landscape_takes_it() -> None:
    first, second = (Image.of_array(slices(contrast)[0, 0], name=contrast) for contrast in ("t1", "t2"))
    settings = LandscapeSettings.preset(2, quick=True, steps=5, ladder=12, hidden=8, repeats=2)
    found = landscape([LandscapePair(first, second, "brain")], ["siamregqc"], settings)
    assert found.row("siamregqc")["spearman"] > 0.7
