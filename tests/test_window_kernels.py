"""The compiled sweep of LNCC and SSIM against the tensor path in double precision, against MONAI and finite differences."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss, SSIMLoss

from regsim.kernels import box
from regsim.metrics import AbstractMetric, load_metric

from .metric_cases import half_mask, noisy, textured

SPECS = ["lncc:window=3", "lncc:window=9", "ssim", "ssim:window=uniform"]
SHAPES = [(1, 1, 24, 27), (2, 3, 13, 15), (1, 1, 16, 15, 17), (2, 2, 9, 12, 11)]
"""The window of 9 is deeper than the last shape's first axis; that of 11 (ssim) than two of its axes."""
THIN = [
    (1, 1, 1, 30),
    (1, 1, 30, 1),
    (1, 1, 3, 20, 5),
    (1, 1, 1, 14, 13),
    (1, 1, 14, 1, 13),
    (1, 1, 13, 14, 1),
    (1, 1, 9, 1, 1),
]
Comparison = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _pair(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """In single precision, so that both paths see the same intensities."""
    fixed = noisy(textured(shape), 3)
    return fixed.float(), noisy(0.6 * fixed + 0.4 * textured(shape, seed=5)).float()


def _overlap(shape: tuple[int, ...]) -> torch.Tensor:
    return textured((shape[0], 1, *shape[2:]), seed=9).float()


def _compared(
    judge: AbstractMetric,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    mask: torch.Tensor | None,
    overlap: torch.Tensor | None,
) -> Comparison:
    """Value, and gradient by the moving image."""
    leaf = moving.clone().requires_grad_()
    value = judge.bind(fixed, mask)(leaf, overlap)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def _close(ours: Comparison, exact: Comparison, value: float = 1e-5, gradient: float = 1e-3) -> None:
    torch.testing.assert_close(ours[0].double(), exact[0].double(), rtol=value, atol=1e-7)
    largest = float(exact[1].abs().max())
    torch.testing.assert_close(ours[1].double(), exact[1].double(), rtol=0, atol=gradient * largest)


@pytest.mark.parametrize("shape", SHAPES + THIN, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_as_the_tensor_path_in_double_precision(spec: str, shape: tuple[int, ...]) -> None:
    """A line of 30 voxels has nearly flat windows of 3, which single precision knows to 1e-3 only, and few others."""
    judge, (fixed, moving) = load_metric(spec), _pair(shape)
    tolerance = (1e-5, 1e-4) if shape in SHAPES else (1e-4, 1e-3)
    for mask in (None, half_mask(shape)) if shape in SHAPES else (None,):
        for overlap in (None, _overlap(shape)):
            exact = _compared(
                judge, fixed.double(), moving.double(), mask, None if overlap is None else overlap.double()
            )
            _close(_compared(judge, fixed, moving, mask, overlap), exact, *tolerance)


@pytest.mark.parametrize("spec", SPECS)
def test_partial_weights_and_flat_parts(spec: str) -> None:
    """Flat windows are where the moving image's own deviation gets a gradient; weights of 1e-3 count as they say."""
    shape = (2, 1, 14, 15, 13)
    judge, (fixed, moving) = load_metric(spec), _pair(shape)
    moving[..., :7] = 0.25 + 0.004 * moving[..., :7]
    mask = _overlap(shape).clamp_min(0.3) * half_mask(shape)
    mask[:, :, :3] *= 1e-3
    for weights in (mask, None):
        exact = _compared(judge, fixed.double(), moving.double(), None if weights is None else weights.double(), None)
        _close(_compared(judge, fixed, moving, weights, None), exact)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("constant", ["fixed", "moving", "both"])
def test_constant_images(spec: str, constant: str) -> None:
    judge, (fixed, moving) = load_metric(spec), _pair((1, 1, 12, 13, 14))
    fixed = torch.full_like(fixed, 0.3) if constant != "moving" else fixed
    moving = torch.full_like(moving, 0.3) if constant != "fixed" else moving
    ours, exact = (_compared(judge, f, m, None, None) for f, m in ((fixed, moving), (fixed.double(), moving.double())))
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-5, atol=1e-6)
    assert ours[1].isfinite().all()
    if spec.startswith("lncc"):
        assert ours[0].item() == 0
        assert not ours[1].any() or constant == "fixed"


@pytest.mark.parametrize("spec", SPECS)
def test_an_empty_mask_and_empty_overlap_give_zero(spec: str) -> None:
    judge, (fixed, moving) = load_metric(spec), _pair((1, 1, 12, 13))
    nothing = torch.zeros(1, 1, 12, 13)
    for mask, overlap in ((nothing, None), (None, nothing)):
        value, gradient = _compared(judge, fixed, moving, mask, overlap)
        assert value.item() == 0
        assert not gradient.any()


@pytest.mark.parametrize("spec", SPECS)
def test_bright_images_of_little_contrast(spec: str) -> None:
    judge, (fixed, moving) = load_metric(spec), _pair((1, 1, 16, 17, 15))
    fixed, moving = 1000 + 10 * fixed, 1000 + 10 * moving
    _close(
        _compared(judge, fixed, moving, None, None),
        _compared(judge, fixed.double(), moving.double(), None, None),
        value=2e-5,
    )


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_threads_change_no_digit(spec: str, shape: tuple[int, ...]) -> None:
    judge, (fixed, moving) = load_metric(spec), _pair(shape)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(_compared(judge, fixed, moving, half_mask(shape), _overlap(shape)))
    for value, gradient in found[1:]:
        assert torch.equal(value, found[0][0])
        assert torch.equal(gradient, found[0][1])


@pytest.mark.parametrize("spec", SPECS)
def test_layout_and_batch_mates_change_no_digit(spec: str) -> None:
    judge, (fixed, moving) = load_metric(spec), _pair((2, 3, 9, 12, 11))
    value, gradient = _compared(judge, fixed, moving, None, None)
    larger = torch.zeros(2, 3, 9, 24, 13)
    larger[..., ::2, 1:-1] = moving
    layouts = (
        (fixed.to(memory_format=torch.channels_last_3d), moving.to(memory_format=torch.channels_last_3d)),
        (fixed.transpose(2, 4).contiguous().transpose(2, 4), larger[..., ::2, 1:-1]),
    )
    for other_fixed, other_moving in layouts:
        leaf = other_moving.detach().requires_grad_()
        again = judge(other_fixed, leaf)
        assert torch.equal(again, value)
        assert torch.equal(torch.autograd.grad(again.sum(), leaf)[0], gradient)
    single = _compared(judge, fixed[1:], moving[1:], None, None)
    assert torch.equal(single[0], value[1:])
    assert torch.equal(single[1], gradient[1:])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", [(1, 1, 15, 16), (1, 1, 10, 11, 12)], ids=str)
def test_gradient_by_finite_differences(spec: str, shape: tuple[int, ...]) -> None:
    judge, (fixed, moving) = load_metric(spec), _pair(shape)
    bound, mask = judge.bind(fixed.double(), half_mask(shape)), half_mask(shape)
    _, gradient = _compared(judge, fixed, moving, mask, None)
    for seed in (1, 2):
        direction = textured(shape, seed) - 0.5
        slope = (bound(moving + 1e-5 * direction) - bound(moving - 1e-5 * direction)) / 2e-5
        torch.testing.assert_close((gradient * direction).sum(), slope[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_values_alone_and_gradients_that_are_scaled(spec: str) -> None:
    judge, (fixed, moving) = load_metric(spec), _pair((3, 1, 9, 10, 11))
    value, gradient = _compared(judge, fixed, moving, None, None)
    with torch.no_grad():
        assert torch.equal(judge(fixed, moving.clone().requires_grad_()), value)
    assert not judge(fixed, moving).requires_grad
    leaf = moving.clone().requires_grad_()
    factors = torch.tensor([0.0, -2.0, 3.0])
    (scaled,) = torch.autograd.grad((factors * judge(fixed, leaf)).sum(), leaf)
    torch.testing.assert_close(scaled, factors.reshape(-1, 1, 1, 1, 1) * gradient)


@pytest.mark.parametrize("spec", SPECS)
def test_the_fixed_image_may_ask_for_a_gradient_or_change_afterwards(spec: str) -> None:
    judge, (fixed, moving) = load_metric(spec), _pair((1, 1, 12, 13))
    leaf = fixed.clone().requires_grad_()
    assert torch.autograd.grad(judge(leaf, moving).sum(), leaf)[0].any()
    kept = fixed.clone()
    bound = judge.bind(kept)
    value = bound(moving)
    kept.zero_()
    assert torch.equal(bound(moving), value)


@pytest.mark.parametrize("spec", SPECS)
def test_the_map_agrees_with_the_value(spec: str) -> None:
    judge, (fixed, moving) = load_metric(spec), _pair((1, 1, 12, 13, 14))
    torch.testing.assert_close(1 - judge.map(fixed, moving).mean(), judge(fixed, moving)[0], rtol=1e-5, atol=1e-6)


def test_when_the_compiled_sweep_serves() -> None:
    image = torch.zeros(1, 1, 3, 3)
    assert box.runs_compiled(image, None)
    assert box.runs_compiled(image, image)
    assert not box.runs_compiled(image.double(), None)
    assert not box.runs_compiled(image.half(), None)
    assert not box.runs_compiled(image.clone().requires_grad_(), None)
    assert not box.runs_compiled(image.to("meta"), None)


# --- MONAI ------------------------------------------------------------------------------------------------------------


def _monai_lncc(fixed: torch.Tensor, moving: torch.Tensor, inside: tuple[slice, ...]) -> torch.Tensor:
    dims = fixed.ndim - 2
    loss = LocalNormalizedCrossCorrelationLoss(dims, kernel_size=9, reduction="none", smooth_dr=1e-12)
    return -loss(moving, fixed)[inside].mean()


def _monai_ssim(fixed: torch.Tensor, moving: torch.Tensor, inside: tuple[slice, ...]) -> torch.Tensor:
    """Whole windows only, always."""
    dims, span = fixed.ndim - 2, float(fixed.max() - fixed.min())
    return 1 - SSIMLoss(dims, data_range=span)(moving, fixed)


@pytest.mark.parametrize(("name", "radius", "theirs"), [("lncc", 4, _monai_lncc), ("ssim", 5, _monai_ssim)])
@pytest.mark.parametrize("shape", [(1, 1, 30, 33), (1, 1, 17, 20, 18)], ids=str)
def test_whole_windows_are_monais(
    name: str, radius: int, theirs: Callable[..., torch.Tensor], shape: tuple[int, ...]
) -> None:
    """At the border MONAI's windows are filled with zeros (lncc) or left out (ssim), ours shrink: compared inside."""
    fixed, moving = _pair(shape)
    inside = (slice(None), slice(None), *(slice(radius, -radius),) * (len(shape) - 2))
    whole = torch.zeros(shape)
    whole[inside] = 1
    value, gradient = _compared(load_metric(name), fixed, moving, None, whole)
    leaf = moving.double().requires_grad_()
    expected = theirs(fixed.double(), leaf, inside)
    (slope,) = torch.autograd.grad(expected, leaf)
    assert math.isclose(value.item(), expected.item(), rel_tol=2e-4 if name == "ssim" else 1e-5)
    _close((value, gradient), (value, slope))
