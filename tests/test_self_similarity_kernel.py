"""MIND-SSC in compiled loops (float32 on the CPU) against torch's path in float64, and against convexAdam."""

import pytest
import torch

from regsim.kernels.self_similarity import BoundDescriptors
from regsim.metrics.mind import ModalityIndependentNeighbourhoodDescriptor as Mind

from .metric_cases import half_mask, noisy, textured

VOLUME, PICTURE = (1, 1, 9, 13, 11), (1, 1, 19, 23)
SETTINGS = [(radius, dilation) for radius in (0, 1, 2) for dilation in (1, 2)]


def pair(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two unlike images whose values float32 holds exactly."""
    return textured(shape, 1).float().double(), noisy(textured(shape, 2), 3, 0.02).float().double()


def fraction(shape: tuple[int, ...], seed: int, empty: float = 0.0) -> torch.Tensor:
    """Random weights, a part of them 0."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand((shape[0], 1, *shape[2:]), generator=generator)
    return (weights * (torch.rand(weights.shape, generator=generator) >= empty)).double()


def value_and_gradient(
    metric: Mind,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    mask: torch.Tensor | None = None,
    overlap: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    start = moving.to(dtype, copy=True).requires_grad_()
    values = metric.bind(fixed.to(dtype), mask)(start, overlap)
    factors = torch.arange(1, len(values) + 1, dtype=dtype)
    return values.detach().double(), torch.autograd.grad(values @ factors, start)[0].double()


def agrees(
    metric: Mind,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    mask: torch.Tensor | None = None,
    overlap: torch.Tensor | None = None,
) -> None:
    values, gradient = value_and_gradient(metric, fixed, moving, mask, overlap)
    expected, slope = value_and_gradient(metric, fixed, moving, mask, overlap, torch.float64)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-9)
    assert (gradient - slope).abs().max() <= 1e-3 * slope.abs().max()
    without = metric.bind(fixed.float(), mask)(moving.float(), overlap)
    torch.testing.assert_close(without.double(), values, rtol=1e-6, atol=1e-9)


@pytest.fixture
def compiled_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("torch's path was taken")

    monkeypatch.setattr(Mind, "_local", refuse)


@pytest.mark.parametrize(("radius", "dilation"), SETTINGS)
@pytest.mark.parametrize("shape", [VOLUME, PICTURE], ids=["3-D", "2-D"])
def test_equals_torch_in_float64(shape: tuple[int, ...], radius: int, dilation: int) -> None:
    agrees(Mind(radius, dilation), *pair(shape))


@pytest.mark.parametrize("shape", [VOLUME, PICTURE], ids=["3-D", "2-D"])
@pytest.mark.parametrize("overlapping", [False, True], ids=["all", "overlap"])
@pytest.mark.parametrize("kind", ["bool", "weights", "none"])
@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (2, 1), (0, 1)])
def test_masks_and_overlap(shape: tuple[int, ...], overlapping: bool, kind: str, radius: int, dilation: int) -> None:
    mask = {"bool": half_mask(shape), "weights": fraction(shape, 4, empty=0.3), "none": None}[kind]
    agrees(Mind(radius, dilation), *pair(shape), mask, fraction(shape, 5) if overlapping else None)


@pytest.mark.parametrize(
    "shape",
    [(2, 9, 10), (9, 2, 10), (9, 10, 2), (1, 9, 12), (9, 1, 12), (9, 12, 1), (3, 3, 3), (3, 40), (700, 4)],
    ids=str,
)
def test_axes_shorter_than_the_dilation(shape: tuple[int, ...]) -> None:
    agrees(Mind(), *pair((1, 1, *shape)))
    agrees(Mind(radius=4, dilation=1), *pair((1, 1, *shape))) if min(shape) > 1 else None


@pytest.mark.usefixtures("compiled_only")
def test_several_dilations_a_batch_and_channels() -> None:
    metric, shape = Mind(dilations=(1, 2)), (3, 2, 8, 9, 10)
    fixed, moving = (image.float() for image in pair(shape))
    mask, overlap = fraction(shape, 6, empty=0.2).float(), fraction(shape, 7).float()
    values, _ = value_and_gradient(metric, fixed, moving, mask, overlap)
    for item in range(3):
        one = slice(item, item + 1)
        parts = [metric.bind(fixed[one, c : c + 1], mask[one])(moving[one, c : c + 1], overlap[one]) for c in range(2)]
        assert values[item] == pytest.approx(torch.cat(parts).double().mean().item(), rel=1e-7)


def test_a_batch_in_float64() -> None:
    shape = (2, 2, 8, 9, 10)
    agrees(Mind(dilations=(1, 2)), *pair(shape), fraction(shape, 6, empty=0.2), fraction((1, 1, *shape[2:]), 7))


def test_memory_layout_does_not_matter() -> None:
    fixed, moving = pair((1, 1, 10, 11, 12))
    turned = [image.permute(0, 1, 4, 2, 3).contiguous().permute(0, 1, 3, 4, 2) for image in (fixed, moving)]
    for one, other in zip(value_and_gradient(Mind(), fixed, moving), value_and_gradient(Mind(), *turned), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(1, 1, 11, 20, 21), (1, 1, 64, 70)], ids=["3-D", "2-D"])
def test_threads_do_not_matter(shape: tuple[int, ...]) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(value_and_gradient(Mind(), *pair(shape), fraction(shape, 8, empty=0.2)))
    finally:
        torch.set_num_threads(threads)
    for values, gradient in found[1:]:
        assert torch.equal(values, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_noise_far_outside_its_limits() -> None:
    """Nearly flat beside strong texture: v is held at its lower limit in most voxels, and its mean pulls on all."""
    fixed, moving = pair((1, 1, 12, 12, 12))
    faint = torch.where(torch.arange(12) < 9, 0.005, 1.0).double()
    agrees(Mind(), fixed, (moving * faint).float().double())


def test_finite_differences() -> None:
    """Steps along the gradient, where the value changes by much more than float32 rounds."""
    metric, (fixed, moving) = Mind(), pair((1, 1, 10, 12, 11))
    _, gradient = value_and_gradient(metric, fixed, moving)
    bound, step = metric.bind(fixed.float()), 2e-3 * gradient / gradient.abs().max()
    ahead, behind = (bound((moving + sign * step).float()).double() for sign in (1, -1))
    assert (ahead - behind).item() / 2 == pytest.approx((gradient * step).sum().item(), rel=2e-2)


@pytest.mark.usefixtures("compiled_only")
def test_constant_images_and_empty_masks() -> None:
    textures = pair(VOLUME)[0].float()
    flat = torch.full_like(textures, 0.3)
    for fixed, moving in ((flat, flat), (flat, flat + 1)):
        value, gradient = value_and_gradient(Mind(), fixed, moving)
        assert value.item() == 0
        assert not gradient.any()
    empty = torch.zeros(VOLUME, dtype=torch.bool)
    value, gradient = value_and_gradient(Mind(), flat, textures, empty)
    assert value.item() == 0
    assert not gradient.any()
    value, gradient = value_and_gradient(Mind(), textures, textures, None, torch.zeros(VOLUME))
    assert value.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(bad: float) -> None:
    fixed, moving = (image.float() for image in pair(VOLUME))
    moving[0, 0, 4, 5, 6] = bad
    assert Mind()(fixed, moving).isnan().all()


def test_other_inputs_take_the_other_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the compiled loops were taken")

    monkeypatch.setattr(BoundDescriptors, "__init__", refuse)
    fixed, moving = pair(VOLUME)
    Mind()(fixed, moving)
    start = fixed.float().requires_grad_()
    Mind()(start, moving.float()).sum().backward()
    assert start.grad is not None
    assert start.grad.any()
    with pytest.raises(AssertionError, match="compiled loops"):
        Mind()(fixed.float(), moving.float())


@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (2, 2), (1, 1)])
def test_interior_distance_equals_convexadam(radius: int, dilation: int) -> None:
    """The borders differ: the peer repeats the outermost voxels. So both images are 0 in a margin that no patch spans,
    and all descriptors near the border are 1 in both codes.
    """
    peer = pytest.importorskip("convexAdam.convex_adam_utils")
    margin = [2 * (radius + dilation)] * 6
    fixed, moving = (torch.nn.functional.pad(image.float(), margin) for image in pair((1, 1, 14, 13, 12)))
    described = [peer.MINDSSC(image, radius, dilation, "cpu") for image in (fixed, moving)]
    expected = (described[0] - described[1]).square().mean()
    assert Mind(radius, dilation)(fixed, moving).item() == pytest.approx(expected.item(), rel=1e-4)
