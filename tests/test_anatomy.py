"""Label maps: made up, and painted."""

import pytest
import torch

from regsim.errors import InputError, SettingsError
from regsim.misalign.anatomy import FREESURFER_TWINS, Painting, Shapes, anatomies, consecutive, paint, random_shapes

PLAIN = Painting(texture=(0.0, 0.0), blur=(0.0, 0.0), spread=(0.0, 0.03))
IDS = torch.tensor([0, 2, 41, 77, 507, 530])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blocks(count: int = 3, side: int = 12) -> torch.Tensor:
    """Six squares with the ids of whole-head label maps."""
    squares = torch.arange(6).reshape(2, 3).repeat_interleave(side, 0).repeat_interleave(side, 1)
    return IDS[squares].expand(count, 1, -1, -1)


def test_ids_become_consecutive() -> None:
    for labels in (blocks(), blocks() - 600, blocks() * 10**6, blocks().to(torch.int16)):
        places, ids = consecutive(labels)
        assert torch.equal(ids[places], labels.long())
        assert int(places.max()) == len(ids) - 1 == 5


@pytest.mark.parametrize("shape", [(40, 30), (12, 10, 14), (1, 9), (1, 1, 1)], ids=str)
def test_paintings_are_pictures(shape: tuple[int, ...]) -> None:
    labels = random_shapes(4, shape, seeded())
    before = labels.clone()
    image = paint(labels, seeded(1))
    assert image.shape == labels.shape
    assert image.dtype == torch.float32
    assert torch.isfinite(image).all()
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert torch.equal(image, paint(labels, seeded(1)))
    assert not torch.equal(image, paint(labels, seeded(2)))
    assert torch.equal(labels, before)


def test_labels_are_painted_with_the_means_that_were_drawn() -> None:
    labels = blocks()
    painting = PLAIN.model_copy(update={"mean": (0.1, 0.9)})
    drawn = painting.draw(labels, seeded())
    image = painting.apply(labels, drawn)
    assert torch.equal(image, painting.apply(labels, drawn))
    for item in range(len(labels)):
        for column, number in enumerate(drawn["ids"][item]):
            inside = image[item][labels[item] == number]
            assert float(inside.mean()) == pytest.approx(float(drawn["means"][item, column]), abs=0.01)
            assert float(inside.std()) == pytest.approx(float(drawn["spreads"][item, column]), abs=0.008)


def test_two_paintings_are_two_contrasts() -> None:
    labels = blocks(40)
    means = [Painting(twins=()).draw(labels, seeded(seed))["means"][:, 1:].flatten() for seed in (0, 1)]
    assert abs(float(torch.corrcoef(torch.stack(means))[0, 1])) < 0.2


def test_items_know_nothing_of_each_other() -> None:
    labels = random_shapes(4, (30, 30), seeded())
    painting = Painting()
    drawn = painting.draw(labels, seeded())
    alone = painting.apply(labels[2:3], {name: value[2:3] for name, value in drawn.items()})
    torch.testing.assert_close(alone, painting.apply(labels, drawn)[2:3])


def test_the_background_is_dark_as_often_as_stated() -> None:
    labels = blocks(200)
    painting = Painting(background_probability=0.8)
    drawn = painting.draw(labels, seeded())
    assert 140 < int(drawn["dark"].sum()) < 180
    level = painting.apply(labels, drawn)[:, :, :8, :8].flatten(1).mean(dim=1)
    assert float(level[drawn["dark"]].max()) < 0.06
    assert float(level[~drawn["dark"]].max()) > 0.5
    unlit = Painting(background_probability=1.0).draw(labels + 1, seeded())
    assert float(unlit["means"][:, 0].max()) > 0.5


def test_both_sides_of_a_structure_may_look_alike() -> None:
    assert (41, 2) in FREESURFER_TWINS
    assert (58, 26) in FREESURFER_TWINS
    for paired, alike in ((1.0, True), (0.0, False)):
        means = Painting(paired=paired).draw(blocks(), seeded())["means"]
        assert torch.equal(means[:, 1], means[:, 2]) is alike
        assert not torch.equal(means[:, 3], means[:, 4])


def test_edges_have_partial_volume() -> None:
    sharp = PLAIN.model_copy(update={"spread": (0.0, 0.0), "paired": 0.0})
    soft = sharp.model_copy(update={"blur": (1.0, 1.0)})
    labels = blocks(1)
    assert len(sharp(labels, seeded()).unique()) == 6
    assert len(soft(labels, seeded()).unique()) > 30


@pytest.mark.parametrize("labels", [torch.zeros((1, 1, 4, 4)), torch.zeros((4, 4), dtype=torch.long)])
def test_what_is_no_label_map_is_refused(labels: torch.Tensor) -> None:
    with pytest.raises(InputError, match="whole numbers"):
        paint(labels, seeded())


@pytest.mark.parametrize("shape", [(64, 48), (24, 20, 28)], ids=str)
def test_shapes_have_the_labels_asked_for(shape: tuple[int, ...]) -> None:
    settings = Shapes(labels=(3, 6), outline=0.0)
    labels = random_shapes(20, shape, seeded(), settings)
    assert labels.shape == (20, 1, *shape)
    assert labels.dtype == torch.long
    highest = labels.flatten(1).amax(dim=1)
    assert int(labels.min()) == 1
    assert 3 <= int(highest.median()) <= int(highest.max()) == 6
    assert torch.equal(labels, random_shapes(20, shape, seeded(), settings))
    assert not torch.equal(labels, random_shapes(20, shape, seeded(1), settings))
    assert len({item.numpy().tobytes() for item in labels}) == 20


def test_shapes_are_smooth_and_come_in_sizes() -> None:
    def edges(size: tuple[float, float]) -> float:
        labels = random_shapes(10, (96, 96), seeded(), Shapes(labels=(8, 8), size=size, outline=0.0))
        return float((labels.diff(dim=-1) != 0).float().mean())

    assert edges((0.5, 0.5)) < edges((0.15, 0.15)) < 0.15


@pytest.mark.parametrize("shape", [(64, 64), (32, 32, 32)], ids=str)
def test_an_outline_has_background_around_it(shape: tuple[int, ...]) -> None:
    labels = random_shapes(12, shape, seeded(), Shapes(outline=1.0, shells=0.0, bumps=(0.0, 0.1)))
    share = (labels == 0).flatten(1).float().mean(dim=1)
    assert float(share.min()) > 0.1
    assert float(share.max()) < 0.95
    corners = labels[(slice(None), 0, *[slice(None, None, length - 1) for length in shape])]
    assert int((corners == 0).sum()) > 0.9 * corners.numel()
    plain = random_shapes(12, shape, seeded(), Shapes(outline=0.0))
    assert int(plain.min()) == 1


def test_shells_lie_under_the_outline() -> None:
    bare = Shapes(labels=(4, 4), outline=1.0, shells=0.0)
    labels = random_shapes(8, (80, 80), seeded(), bare.model_copy(update={"shells": 1.0}))
    naked = random_shapes(8, (80, 80), seeded(), bare)
    assert int(labels.max()) == 6
    assert torch.equal(labels == 0, naked == 0)
    touching = (labels[..., 1:] == 0) & (labels[..., :-1] > 0)
    assert float((labels[..., :-1][touching] == 5).float().mean()) > 0.8


def test_shapes_need_two_or_three_axes() -> None:
    with pytest.raises(SettingsError, match="two or three"):
        random_shapes(1, (5,), seeded())


@pytest.mark.parametrize("shape", [(32, 32), (16, 16, 16)], ids=str)
def test_made_up_anatomies_come_in_two_contrasts(shape: tuple[int, ...]) -> None:
    made = anatomies(3, shape, seeded())
    assert made.first.shape == made.second.shape == made.labels.shape == (3, 1, *shape)
    assert not torch.equal(made.first, made.second)
