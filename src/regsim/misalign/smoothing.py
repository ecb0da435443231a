"""Blur, loss of resolution and smooth random fields, each image of a batch with its own: products with small matrices."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

SMALLEST_SIGMA = 0.05
# exp(-50) is as good as 0; the numbers below 1e-38 that a true tail holds make processors a hundred times slower.
FARTHEST = 50.0


def along_axes(images: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Apply to each spatial axis of `(N, C, *spatial)` its `(N, out, in)` matrices."""
    for axis, matrix in enumerate(matrices, start=2):
        moved = images.movedim(axis, -1)
        product = moved.reshape(len(images), -1, moved.shape[-1]) @ matrix.transpose(1, 2)
        images = product.reshape(*moved.shape[:-1], matrix.shape[1]).movedim(-1, axis)
    return images.contiguous()


def blur_matrices(sigma: torch.Tensor, length: int) -> torch.Tensor:
    """`(N, length, length)`: row i is a Gaussian around i, of `sigma` `(N,)` voxels; each row sums to 1.

    At the border the weights that fall outside are shared among the others. Below sigma 0.05: the identity, nearly.
    """
    offset = torch.arange(1 - length, length, dtype=sigma.dtype, device=sigma.device)
    away = 0.5 * (offset / sigma.clamp_min(SMALLEST_SIGMA)[:, None]).square()
    kernel = torch.exp(-away.clamp_max(FARTHEST))
    total = F.pad(kernel.cumsum(dim=1), (1, 0))
    sums = total[:, length:] - total[:, :length]
    return kernel.unfold(1, length, 1).flip(1).div_(sums[..., None])


def coarse_matrices(factor: torch.Tensor, phase: torch.Tensor, length: int) -> torch.Tensor:
    """`(N, length, length)`: sampled every `factor` voxels and brought back by linear interpolation.

    Coarse samples lie at `(k + phase) * factor`, held inside the image; each is a Gaussian mean with
    sigma = sqrt(factor^2 - 1) / 2, about what a voxel of that size sees (as `prepare.coarser`). Factor 1 and phase 0:
    the identity.
    """
    factor, phase = factor[:, None], phase[:, None]
    place = torch.arange(length, dtype=factor.dtype, device=factor.device)
    steps = place / factor - phase
    share = steps - steps.floor()
    taps = torch.zeros((len(factor), length, length), dtype=factor.dtype, device=factor.device)
    for index, weight in ((steps.floor(), 1 - share), (steps.floor() + 1, share)):
        centre = ((index + phase) * factor).clamp(0, length - 1)
        below = centre.floor()
        above = (below + 1).clamp_max(length - 1)
        for voxel, part in ((below, 1 - (centre - below)), (above, centre - below)):
            taps.scatter_add_(2, voxel.long()[..., None], (weight * part)[..., None])
    sigma = 0.5 * (factor[:, 0].square() - 1).clamp_min(0).sqrt()
    return taps @ blur_matrices(sigma, length)


def blurred(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of `(N, C, *spatial)`; `sigma` `(N,)`, or `(N, axes)` in the order of the array's axes."""
    sigma = sigma[:, None] if sigma.ndim == 1 else sigma
    if bool((sigma == sigma[:, :1]).all()):
        made = {length: blur_matrices(sigma[:, 0], length) for length in set(images.shape[2:])}
        return along_axes(images, [made[length] for length in images.shape[2:]])
    return along_axes(images, [blur_matrices(sigma[:, i], n) for i, n in enumerate(images.shape[2:])])


def spline_matrices(knots: torch.Tensor, most: int, places: torch.Tensor) -> torch.Tensor:
    """`(N, length, most)`: cubic B-spline weights of the first `knots` `(N,)` of `most`; rows sum to 1.

    `places` `(N, length)`, or `(1, length)`, in [0, 1]: from between the first two knots to between the last two.
    """
    centre = 0.5 + places * (knots[:, None] - 2)
    distance = (centre[..., None] - torch.arange(most, dtype=places.dtype, device=places.device)).abs()
    near = 2 / 3 - distance.square() * (1 - distance / 2)
    far = (2 - distance).clamp_min(0).pow(3) / 6
    weight = torch.where(distance < 1, near, far)
    weight = weight * (torch.arange(most, device=places.device) < knots[:, None])[:, None]
    return weight / weight.sum(dim=2, keepdim=True)


def smooth_field(coarse: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Control values `(N, C, *coarse)` as a smooth field `(N, C, *shape)` (cubic B-splines; within their range)."""
    matrices = []
    for few, many in zip(coarse.shape[2:], shape, strict=True):
        places = torch.linspace(0, 1, many, dtype=coarse.dtype, device=coarse.device)[None]
        knots = torch.tensor([few], device=coarse.device)
        matrices.append(spline_matrices(knots, few, places).expand(len(coarse), -1, -1))
    return along_axes(coarse, matrices)
