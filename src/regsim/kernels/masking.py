"""Images set to zero outside a mask, in one pass forwards and one backwards."""

from typing import Any

import torch
from torch.autograd import Function

from regsim.kernels.choice import on_cpu


def inside(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Zero wherever the weight is not positive, whatever stood there: NaN reaches neither value nor gradient.

    Args:
        images: `(N, C, *spatial)`.
        weights: `(N or 1, 1, *spatial)`.

    Returns:
        The shape of `images`; differentiable with respect to them, as often as wanted.

    Example:
        >>> inside(torch.tensor([[[[1.0, torch.nan]]]]), torch.tensor([[[[0.5, 0.0]]]]))
        tensor([[[[1., 0.]]]])
    """
    if not on_cpu(images) or not on_cpu(weights):
        return torch.where(weights > 0, images, torch.zeros_like(images))
    kept: torch.Tensor = _Inside.apply(images, weights)  # type: ignore[no-untyped-call]
    return kept


class _Inside(Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        from regsim.kernels.cpu import masking as loops

        ctx.save_for_backward(weights)
        shared = weights.shape[0] == 1 or weights.stride(0) == 0
        return loops.inside(images.contiguous(), (weights[:1] if shared else weights).contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return inside(gradient, ctx.saved_tensors[0]), None
