"""nccsup: correlation with the labels' help, and channels that are compared together."""

import pytest
import torch

from regsim.errors import GridError, InputError, SettingsError
from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.metrics import load_metric
from regsim.metrics.nccsup import mean_dice
from regsim.prepare import label_values, rescaled, with_label_channels
from regsim.registration.driver import register

from .metric_cases import half_mask, noisy, textured

SHAPES = [(2, 1, 14, 15), (2, 1, 8, 9, 10)]
both_dims = pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])


def hard(shape: tuple[int, ...], seed: int, count: int = 3) -> torch.Tensor:
    """One-hot labels in smooth patches, without the background."""
    fields = torch.cat([textured(shape, seed + number) for number in range(count + 1)], dim=1)
    return torch.nn.functional.one_hot(fields.argmax(dim=1), count + 1).movedim(-1, 1)[:, 1:].double()


def labelled(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.cat([textured(shape, seed), hard(shape, seed)], dim=1)


def pair(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """An image and another one, like it but moved and noisy."""
    fixed = labelled(shape)
    moving = fixed.roll(2, -1)
    return fixed, torch.cat([noisy(moving[:, :1]), moving[:, 1:]], dim=1)


# --- the value ------------------------------------------------------------------------------------------------------


@both_dims
def test_correlation_plus_weighted_dice(shape: tuple[int, ...]) -> None:
    fixed, moving = pair(shape)
    mask = half_mask(shape)
    dice = []
    for item in range(len(fixed)):
        inside = mask[item, 0]
        parts = [(fixed[item, k][inside], moving[item, k][inside]) for k in range(1, 4)]
        dice.append(sum(2 * float((a * b).sum() / (a + b).sum()) for a, b in parts) / 3)
    wanted = load_metric("lncc:window=5")(fixed[:, :1], moving[:, :1], mask) + 0.5 * torch.tensor(dice)
    torch.testing.assert_close(load_metric("nccsup:window=5,weight=0.5")(fixed, moving, mask), wanted)


@both_dims
def test_one_channel_is_correlation_alone(shape: tuple[int, ...]) -> None:
    fixed, moving = (image[:, :1] for image in pair(shape))
    for dtype in (torch.float32, torch.float64):
        images = fixed.to(dtype), moving.to(dtype)
        assert torch.equal(load_metric("nccsup")(*images), load_metric("lncc")(*images))
        assert torch.equal(load_metric("nccsup").map(*images), load_metric("lncc").map(*images))


def test_the_labels_are_felt_together_and_not_channel_by_channel() -> None:
    """Each channel by itself would give the mean of four correlations."""
    fixed, moving = pair(SHAPES[0])
    one_by_one = load_metric("lncc")(fixed, moving)
    assert not torch.allclose(load_metric("nccsup")(fixed, moving), one_by_one)
    swapped = moving[:, [0, 2, 1, 3]]
    assert (load_metric("nccsup")(fixed, swapped) < load_metric("nccsup")(fixed, moving)).all()
    again = load_metric("nccsup")(fixed[:, [0, 3, 1, 2]], moving[:, [0, 3, 1, 2]])
    torch.testing.assert_close(again, load_metric("nccsup")(fixed, moving))


def test_equal_soft_labels_and_missing_ones() -> None:
    soft = textured((2, 3, 9, 10))
    torch.testing.assert_close(mean_dice(soft, soft, None), torch.ones(2, dtype=torch.float64))
    nothing = torch.zeros_like(soft)
    assert not mean_dice(nothing, nothing, None).any()
    assert not mean_dice(soft, soft, torch.zeros(2, 1, 9, 10, dtype=torch.float64)).any()
    only_two = torch.cat([soft[:, :2], nothing[:, :1]], dim=1)
    torch.testing.assert_close(mean_dice(only_two, only_two, None), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(mean_dice(soft, only_two, None), torch.full((2,), 2 / 3, dtype=torch.float64))


# --- the contract, with labels --------------------------------------------------------------------------------------


@both_dims
def test_facts_hold_with_labels(shape: tuple[int, ...]) -> None:
    fixed, moving = pair(shape)
    metric = load_metric("nccsup")
    torch.testing.assert_close(metric(moving, fixed), metric(fixed, moving))
    for other in (fixed, moving, 1 - fixed, labelled(shape, 7), torch.zeros_like(fixed), 1e4 * fixed - 50):
        value = metric(fixed, other)
        assert ((value >= 0) & (value <= 2)).all()
    torch.testing.assert_close(metric(fixed, fixed), torch.full((2,), 2.0, dtype=torch.float64), atol=1e-3, rtol=0)
    assert (metric(fixed, moving) < metric(fixed, fixed)).all()
    assert (metric(fixed, labelled(shape, 7)) < metric(fixed, moving)).all()


@both_dims
def test_nothing_outside_the_mask_counts(shape: tuple[int, ...]) -> None:
    fixed, moving = pair(shape)
    mask = half_mask(shape)
    metric = load_metric("nccsup")
    value = metric(fixed, moving, mask)
    junk = torch.where(mask, moving, torch.nan).requires_grad_()
    again = metric(torch.where(mask, fixed, torch.inf), junk, mask)
    assert torch.equal(again, value)
    (gradient,) = torch.autograd.grad(again.sum(), junk)
    assert gradient.isfinite().all()
    assert not gradient[~mask.expand_as(gradient)].any()
    overlap = torch.ones(1, 1, *shape[2:], dtype=torch.float64)
    overlap[..., :4] = 0
    damaged = moving * overlap
    assert (metric.bind(fixed)(damaged, overlap) > metric.bind(fixed)(damaged)).all()


def test_gradient_against_finite_differences() -> None:
    fixed, moving = labelled((1, 1, 7, 8)), noisy(0.8 * labelled((1, 1, 7, 8), 3) + 0.1, sigma=0.01)
    metric, mask = load_metric("nccsup:window=3"), half_mask((1, 1, 7, 8))
    for output in (lambda a, b: metric(a, b), lambda a, b: metric(a, b, mask), metric.map):
        leaves = (fixed.mul(0.9).add(0.05).requires_grad_(), moving.clone().requires_grad_())
        assert torch.autograd.gradcheck(output, leaves, eps=1e-7, atol=1e-5, rtol=1e-3)


def test_map_adds_the_labels_disagreement() -> None:
    fixed, moving = pair(SHAPES[0])
    local = load_metric("nccsup").map(fixed, moving)
    assert local.shape == (2, 1, 14, 15)
    grey = load_metric("lncc").map(fixed[:, :1], moving[:, :1])
    apart = (fixed[:, 1:] != moving[:, 1:]).double().mean(dim=1, keepdim=True)
    torch.testing.assert_close(local, grey + apart)


@pytest.mark.parametrize("wrong", ["window=8", "window=1", "weight=-1", "weight=true"])
def test_wrong_settings(wrong: str) -> None:
    with pytest.raises(SettingsError, match="nccsup"):
        load_metric(f"nccsup:{wrong}")


# --- images with labels ---------------------------------------------------------------------------------------------


def disc(centre: tuple[float, float], radius: float, size: int = 48) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    return ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2).sqrt() <= radius


def test_label_channels() -> None:
    grid = Grid.of((48, 48), 2.0)
    grey = Image(40 * textured((1, 1, 48, 48))[0].float() - 7, grid, torch.ones(1, 48, 48), "scan")
    labels = Image((2 * disc((20, 20), 6) + 5 * disc((36, 30), 4))[None], grid, name="map")
    assert label_values(labels) == (2, 5)
    made = with_label_channels(grey, labels)
    assert made.data.shape == (3, 48, 48)
    assert made.data.dtype == torch.float32
    assert (made.grid, made.mask is grey.mask, made.name) == (grid, True, "scan")
    assert torch.equal(made.data[1], disc((20, 20), 6).float())
    assert (float(made.data[0].min()), float(made.data[0].max())) == (0.0, 1.0)
    ordered = with_label_channels(grey, labels, (5, 9, 2))
    assert torch.equal(ordered.data[3], made.data[1])
    assert not ordered.data[2].any()


def test_label_mistakes_are_named() -> None:
    image = Image.of_array(textured((1, 1, 12, 12))[0, 0].float(), name="scan")
    labels = Image(torch.ones(1, 12, 12, dtype=torch.int64), image.grid, name="map")
    with pytest.raises(GridError, match="another grid"):
        with_label_channels(image, Image(labels.data, Grid.of((12, 12), 2.0), name="map"))
    with pytest.raises(InputError, match="labels=True"):
        with_label_channels(image, image, (1,))
    with pytest.raises(InputError, match="each once"):
        with_label_channels(image, labels, (1, 1))
    with pytest.raises(InputError, match="got \\(\\)"):
        with_label_channels(image, labels.with_data(0 * labels.data))
    with pytest.raises(InputError, match="one grey channel"):
        with_label_channels(with_label_channels(image, labels), labels)


def test_labels_help_a_registration() -> None:
    """Flat noise says nothing of the place; the labels, which are hidden in it, do."""
    generator = torch.Generator().manual_seed(0)

    def scan(centre: tuple[float, float], other: tuple[float, float]) -> tuple[Image, Image]:
        grey = Image.of_array(torch.rand(48, 48, generator=generator))
        return grey, grey.with_data((disc(centre, 7).long() + 3 * disc(other, 5).long())[None])

    fixed, fixed_labels = scan((18.0, 20.0), (32.0, 30.0))
    moving, moving_labels = scan((21.0, 18.0), (35.0, 28.0))
    values = label_values(fixed_labels, moving_labels)
    here, there = (with_label_channels(*each, values) for each in ((fixed, fixed_labels), (moving, moving_labels)))
    assert torch.equal(rescaled(here).data[1:], here.data[1:])
    found = register(here, there, "nccsup", "rigid")
    alone = register(fixed, moving, "nccsup", "rigid")
    point = torch.tensor([[24.0, 24.0]])
    wanted = torch.tensor([[22.0, 27.0]])
    errors = [float((each.transform(point) - wanted).norm()) for each in (found, alone)]
    assert errors[0] < 0.5
    assert errors[1] > 2.0
