"""Squared slopes and lacking volume of a displacement field, differentiable; float32 on the CPU (see `choice`)."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Matrix = npt.NDArray[np.float64]


def squared_slopes(displacement: torch.Tensor, spacing: tuple[float, ...]) -> torch.Tensor:
    """`mean |grad u|^2` of `(*shape, ndim)`, by differences of neighbours; `spacing` as the array's axes (z, y, x).

    Example:
        >>> squared_slopes(torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]), (1.0, 2.0))
        tensor(0.2500)
    """
    shape = displacement.shape[:-1]
    scale = np.zeros(3)
    for axis, (length, step) in enumerate(zip(shape, spacing, strict=True)):
        if length > 1:
            pairs = shape.numel() // length * (length - 1)
            scale[3 - len(shape) + axis] = 1 / (pairs * step**2)
    found: torch.Tensor = _SquaredSlopes.apply(_volume(displacement), scale)  # type: ignore[no-untyped-call]
    return found


def shortfall(displacement: torch.Tensor, matrix: Matrix, smallest: float) -> torch.Tensor:
    """Mean of `max(smallest - determinant, 0)^2` of `x + u(x)`; `matrix` from index x, y(, z) to physical."""
    found: torch.Tensor = _Shortfall.apply(_volume(displacement), matrix, smallest)  # type: ignore[no-untyped-call]
    return found


def _volume(displacement: torch.Tensor) -> torch.Tensor:
    return displacement if displacement.ndim == 4 else displacement.unsqueeze(0)


class _SquaredSlopes(Function):
    @staticmethod
    def forward(ctx: Any, field: torch.Tensor, scale: Matrix) -> torch.Tensor:
        from regsim.kernels.cpu import smoothness as loops

        value, gradient = loops.squared_slopes(field.contiguous(), scale)
        ctx.save_for_backward(gradient)
        return field.new_tensor(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.saved_tensors[0] * gradient, None


class _Shortfall(Function):
    @staticmethod
    def forward(ctx: Any, field: torch.Tensor, matrix: Matrix, smallest: float) -> torch.Tensor:
        from regsim.kernels.cpu import smoothness as loops

        value, gradient = loops.shortfall(field.contiguous(), matrix, smallest)
        ctx.voxels, ctx.flat = field.shape[:-1].numel(), gradient is None
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        ctx.shape = field.shape
        return field.new_tensor(value / ctx.voxels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        if ctx.flat:
            return gradient.new_zeros(()).expand(ctx.shape), None, None
        return ctx.saved_tensors[0] * (gradient / ctx.voxels), None, None
