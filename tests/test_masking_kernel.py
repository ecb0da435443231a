"""Zero outside a mask: the compiled loop does exactly what the tensor path does."""

from collections.abc import Iterator

import pytest
import torch

from regsim import checks
from regsim.errors import InputError
from regsim.kernels.masking import inside

SHAPES = [(1, 1, 5, 7), (3, 2, 5, 7), (2, 3, 4, 5, 6), (1, 1, 30, 40, 50)]
"""The last holds several blocks, the last of them not full."""


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _case(shape: tuple[int, ...], items: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with NaN and infinity, also outside the mask; weights of which a third are zero."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand((items, 1, *shape[2:]), generator=generator)
    weights = (1.5 * weights - 0.5).clamp_min(0)
    images = torch.randn(shape, generator=generator)
    images[0, 0].flatten()[::5] = torch.nan
    images[-1, -1].flatten()[::7] = torch.inf
    return images, weights


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient_are_the_tensor_paths(shape: tuple[int, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    for items in {1, shape[0]}:
        images, weights = _case(shape, items)
        incoming = _case(shape, 1)[0].flip(-1)
        leaf, exact_leaf = images.clone().requires_grad_(), images.double().requires_grad_()
        kept, exact = inside(leaf, weights), inside(exact_leaf, weights.double())
        torch.testing.assert_close(kept.double(), exact, rtol=0, atol=0, equal_nan=True)
        (gradient,) = torch.autograd.grad(kept, leaf, incoming)
        (wanted,) = torch.autograd.grad(exact, exact_leaf, incoming.double())
        torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=0, equal_nan=True)
        hidden = (weights == 0).expand(shape)
        assert hidden.any()
        assert not kept[hidden].any()
        assert not gradient[hidden].any()


def test_any_layout_of_images_and_weights() -> None:
    images, weights = _case((3, 2, 5, 7), 1)
    wanted = inside(images, weights.expand(3, 1, 5, 7).contiguous())
    layouts = [
        images.contiguous(memory_format=torch.channels_last),
        images.transpose(0, 1).contiguous().transpose(0, 1),
    ]
    for given in layouts:
        for seen in (weights, weights.expand(3, 1, 5, 7), weights.mT.contiguous().mT):
            torch.testing.assert_close(inside(given, seen), wanted, rtol=0, atol=0, equal_nan=True)


def test_the_gradient_has_a_gradient() -> None:
    images, weights = _case((2, 2, 5, 7), 2)
    leaf = images.nan_to_num(0.0, 1.0).requires_grad_()
    (gradient,) = torch.autograd.grad(inside(leaf, weights).square().sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), leaf)
    assert torch.equal(second, 2.0 * (weights > 0).expand(leaf.shape))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrong", [-0.1, 1.1, torch.nan, torch.inf, -torch.inf])
def test_one_weight_out_of_range_is_refused(wrong: float, kind: torch.dtype) -> None:
    fixed, weights = torch.zeros(1, 2, 5, 7), torch.full((1, 1, 5, 7), 0.5, dtype=kind)
    assert checks.mask_batch(weights, fixed).dtype == torch.float32
    weights[..., 3, 4] = wrong
    with pytest.raises(InputError, match=r"overlap: weights must lie in \[0, 1\]"):
        checks.mask_batch(weights, fixed, "overlap")


def test_whole_numbers_and_bool_are_weights() -> None:
    fixed = torch.zeros(2, 1, 3, 3)
    assert torch.equal(checks.mask_batch(torch.ones(1, 1, 3, 3, dtype=torch.bool), fixed), torch.ones(2, 1, 3, 3))
    with pytest.raises(InputError, match="overlap"):
        checks.mask_batch(torch.full((1, 1, 3, 3), 2), fixed, "overlap")
