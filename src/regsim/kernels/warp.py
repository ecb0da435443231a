"""Images read between their voxels, with the gradients: the loop under every registration.

The gradient with respect to a point is the image's slope there; nothing has to be scattered for it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def read_linear(
    images: torch.Tensor, points: torch.Tensor, matrix: npt.NDArray[np.float64], fade: bool
) -> torch.Tensor:
    """Linear interpolation, float32 on the CPU, differentiable with respect to images and points.

    Args:
        images: `(C, D, H, W)` or `(C, H, W)`.
        points: `(V, ndim)`, x first.
        matrix: `(ndim, ndim + 1)`, from points to indices.
        fade: whether values fade to zero over one voxel beyond the outermost centres; else the border value goes on.

    Returns:
        `(C, V)`.

    Example:
        >>> ramp = torch.arange(4.0).reshape(1, 2, 2)
        >>> read_linear(ramp, torch.tensor([[0.5, 0.5], [1.0, 1.5]]), np.eye(2, 3), fade=True)
        tensor([[1.5000, 1.5000]])
    """
    volumes = images if images.ndim == 4 else images.unsqueeze(1)
    values: torch.Tensor = _Read.apply(volumes, points, in_volume(matrix), fade)  # type: ignore[no-untyped-call]
    return values


def hold(points: torch.Tensor, matrix: npt.NDArray[np.float64], size: tuple[int, ...]) -> torch.Tensor:
    """1 where a point lies between the outer voxel borders of a grid of this size (x, y(, z)), else 0: `(V,)`; no gradient."""
    from regsim.kernels.cpu import warp as loops

    whole = np.array([*size, *[1] * (3 - len(size))], np.float32)
    return loops.hold(points.detach().contiguous(), in_volume(matrix), whole)


def in_volume(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The matrix as `(3, 4)` in float32; a picture's points all lie in slice 0."""
    ndim = len(matrix)
    whole = np.zeros((3, 4), np.float32)
    whole[:ndim, :ndim], whole[:ndim, 3] = matrix[:, :ndim], matrix[:, ndim]
    return whole


class _Read(Function):
    @staticmethod
    def forward(
        ctx: Any, images: torch.Tensor, points: torch.Tensor, matrix: npt.NDArray[np.float32], fade: bool
    ) -> torch.Tensor:
        from regsim.kernels.cpu import warp as loops

        images, points = images.contiguous(), points.contiguous()
        ctx.save_for_backward(images, points)
        ctx.matrix, ctx.fade = matrix, fade
        return loops.read(images, points, matrix, fade)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        from regsim.kernels.cpu import warp as loops

        images, points = ctx.saved_tensors
        upstream, way = gradient.contiguous(), (ctx.matrix, ctx.fade)
        to_images = loops.to_images(tuple(images.shape), points, *way, upstream) if ctx.needs_input_grad[0] else None
        to_points = loops.to_points(images, points, *way, upstream) if ctx.needs_input_grad[1] else None
        return to_images, to_points, None, None
