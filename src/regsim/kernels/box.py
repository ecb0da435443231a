"""Sums over a sliding window, axis by axis: the loop under every local metric.

Outside the image counts as zero, so that `window_sum(weights * image) / window_sum(weights)` is a local mean that is
right at the border and at the edge of a mask. A symmetric window is its own adjoint: the gradient is the same sum of
the incoming gradient. A box is summed by doubling (a window of 9 takes 4 additions an axis, not 8) and never by running
totals, which lose digits in float32.

This is the path of every device and type, and of gradients to both images. For float32 on the CPU, `kernels.cpu.windows`
does the same in one sweep.
"""

import math
from typing import Any

import torch
from torch.autograd import Function

from regsim.kernels.choice import on_cpu

SMALLEST_TOTAL = 1e-6


def box_sum(image: torch.Tensor, radius: int) -> torch.Tensor:
    """Sum over `(2 * radius + 1)^d` voxels around each voxel of `(M, 1, *spatial)`.

    Example:
        >>> box_sum(torch.ones(1, 1, 3, 4), 1)[0, 0, 0].tolist()
        [4.0, 6.0, 6.0, 4.0]
    """
    return window_sum(image, box(radius))


def gaussian_sum(image: torch.Tensor, sigma: float, truncate: float = 3.5) -> torch.Tensor:
    """Sum weighted by a Gaussian that is cut at `truncate * sigma` and adds up to 1 an axis."""
    return window_sum(image, gaussian(sigma, truncate))


def local_deviation(image: torch.Tensor, weights: torch.Tensor, sigma: float) -> torch.Tensor:
    """Standard deviation around each voxel of `(M, 1, *spatial)`: Gaussian window, voxels count by their weights.

    Example:
        >>> float(local_deviation(torch.eye(2)[None, None], torch.ones(1, 1, 2, 2), 100.0)[0, 0, 0, 0])
        0.5
    """
    total = gaussian_sum(weights, sigma).clamp_min(SMALLEST_TOTAL)
    mean = gaussian_sum(image * weights, sigma) / total
    square = gaussian_sum(image.square() * weights, sigma) / total
    return (square - mean.square()).clamp_min(0).sqrt()


def box(radius: int) -> tuple[float, ...]:
    """The half of a box, from its centre outwards."""
    return (1.0,) * (radius + 1)


def gaussian(sigma: float, truncate: float = 3.5) -> tuple[float, ...]:
    """The half of a Gaussian that is cut at `truncate * sigma` and adds up to 1."""
    radius = int(truncate * sigma + 0.5)
    half = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(radius + 1)]
    total = 2 * sum(half) - half[0]
    return tuple(weight / total for weight in half)


def runs_compiled(fixed: torch.Tensor, weights: torch.Tensor | None) -> bool:
    """Whether the compiled loops (`kernels.cpu`) serve: float32 on the CPU, and no gradient to the fixed image or mask."""
    asked = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (fixed, weights))
    return on_cpu(fixed) and not asked


def window_sum(image: torch.Tensor, half: tuple[float, ...]) -> torch.Tensor:
    """Sum weighted by a symmetric separable window; `half[k]` is the weight at distance k."""
    summed: torch.Tensor = _WindowSum.apply(image, half)  # type: ignore[no-untyped-call]
    return summed


class _WindowSum(Function):
    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, half: tuple[float, ...]) -> torch.Tensor:
        ctx.half = half
        along = _box_along if min(half) == max(half) == 1.0 else _weighted_along
        for axis in range(2, image.ndim):
            image = along(image, axis, half)
        return image.clone() if len(half) == 1 else image

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return window_sum(gradients[0], ctx.half), None


def _box_along(image: torch.Tensor, axis: int, half: tuple[float, ...]) -> torch.Tensor:
    """Window sums by doubling: sums of 1, 2, 4, ... neighbours, joined as the bits of the window's width say."""
    radius, length = len(half) - 1, image.shape[axis]
    width = 2 * radius + 1
    block, size, start = _padded(image, axis, radius), 1, 0
    total: torch.Tensor | None = None
    while size <= width:
        if width & size:
            piece = block.narrow(axis, start, length)
            total = piece if total is None else total + piece
            start += size
        if 2 * size <= width:
            rest = block.shape[axis] - size
            block = block.narrow(axis, 0, rest) + block.narrow(axis, size, rest)
        size *= 2
    assert total is not None
    return total


def _weighted_along(image: torch.Tensor, axis: int, half: tuple[float, ...]) -> torch.Tensor:
    length = image.shape[axis]
    total = image * half[0]
    for step in range(1, min(len(half), length)):
        rest = length - step
        total.narrow(axis, step, rest).add_(image.narrow(axis, 0, rest), alpha=half[step])
        total.narrow(axis, 0, rest).add_(image.narrow(axis, step, rest), alpha=half[step])
    return total


def _padded(image: torch.Tensor, axis: int, radius: int) -> torch.Tensor:
    shape = list(image.shape)
    shape[axis] += 2 * radius
    padded = image.new_zeros(shape)
    padded.narrow(axis, radius, image.shape[axis]).copy_(image)
    return padded
