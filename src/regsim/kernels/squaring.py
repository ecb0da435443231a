"""A displacement field composed with itself, several times over, with its gradient; float32 on the CPU (see `choice`)."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Matrix = npt.NDArray[np.float64]


def scaling_and_squaring(velocity: torch.Tensor, matrix: Matrix, squarings: int) -> torch.Tensor:
    """`u = v / 2^squarings`, then `squarings` times `u(x) <- u(x) + u(x + u(x))`; linear between voxels.

    Beyond the outermost voxel centres the field fades to zero over one voxel; an axis of one voxel has the same value all
    along.

    Args:
        velocity: `(ndim, *shape)`, physical vectors x, y(, z).
        matrix: `(ndim, ndim)`, from index x, y(, z) to physical, without the origin.
        squarings: how often.

    Returns:
        `(*shape, ndim)`, physical: the numbers of a vector side by side.

    Example:
        >>> scaling_and_squaring(torch.ones(2, 9, 9), np.eye(2), squarings=4)[4, 4]
        tensor([1., 1.])
    """
    displacement: torch.Tensor = _Integral.apply(velocity, matrix, squarings)  # type: ignore[no-untyped-call]
    return displacement


class _Integral(Function):
    @staticmethod
    def forward(ctx: Any, velocity: torch.Tensor, matrix: Matrix, squarings: int) -> torch.Tensor:
        from regsim.kernels.cpu import squaring as loops

        layout = loops.Layout.of(tuple(velocity.shape[1:]))
        ctx.layout, ctx.inwards, ctx.outwards = layout, np.linalg.inv(matrix) * 0.5**squarings, matrix
        field, fields = loops.enter(velocity.contiguous(), ctx.inwards, layout), []
        for _ in range(squarings):
            if ctx.needs_input_grad[0]:
                fields.append(field)
            field = loops.square(field, layout)
        ctx.save_for_backward(*fields)
        return loops.leave(field, matrix, layout, tuple(velocity.shape[1:]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        from regsim.kernels.cpu import squaring as loops

        work, source = loops.enter_gradient(gradient.contiguous(), ctx.outwards.T, ctx.layout), 0
        for field in reversed(ctx.saved_tensors):
            source = loops.hand_back(field, work, source, ctx.layout)
        return loops.leave_gradient(work[source], ctx.inwards.T, ctx.layout, tuple(gradient.shape[:-1])), None, None
