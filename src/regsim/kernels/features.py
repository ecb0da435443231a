"""Feature vectors of a fixed image, compared with those of a moving image at points: the loop under feature registration."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from regsim.kernels.warp import in_volume


def feature_distance(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    points: torch.Tensor,
    matrix: npt.NDArray[np.float64],
    weights: torch.Tensor,
) -> torch.Tensor:
    """`sum(w |f - m(p)|^2) / (2 sum(w))`, a scalar with a gradient to the points; float32 on the CPU.

    Args:
        fixed: f, `(V, C)`, contiguous.
        moving: m, `(D, H, W, C)` or `(H, W, C)`, contiguous; read linearly, the border value goes on outside.
        points: p, `(V, ndim)`, x first.
        matrix: `(ndim, ndim + 1)`, from points to indices.
        weights: w, `(V,)`. No gradient flows to them.

    Example:
        >>> ramp = torch.arange(4.0).reshape(2, 2, 1)
        >>> feature_distance(torch.zeros(1, 1), ramp, torch.tensor([[0.5, 0.5]]), np.eye(2, 3), torch.ones(1))
        tensor(1.1250)
    """
    volume = moving if moving.ndim == 4 else moving.unsqueeze(0)
    wanted = torch.is_grad_enabled() and points.requires_grad
    value: torch.Tensor = _Distance.apply(fixed, volume, points, in_volume(matrix), weights, wanted)  # type: ignore[no-untyped-call]
    return value


class _Distance(Function):
    @staticmethod
    def forward(
        ctx: Any,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        points: torch.Tensor,
        matrix: npt.NDArray[np.float32],
        weights: torch.Tensor,
        wanted: bool,
    ) -> torch.Tensor:
        """The gradient is made at once: the loop that gives the value has all that it needs."""
        from regsim.kernels.cpu import features as loops

        total = float(weights.sum(dtype=torch.float64)) or 1.0
        value, gradient = loops.distances(fixed, moving, points.contiguous(), matrix, weights.contiguous(), wanted)
        if wanted:
            ctx.save_for_backward(gradient.div_(total))
        return points.new_tensor(value / total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[None, None, torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return None, None, gradient * upstream, None, None, None
