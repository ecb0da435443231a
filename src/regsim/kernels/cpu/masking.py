"""Zero outside a mask: read once, written once."""

import numpy as np
import numpy.typing as npt
import torch

from regsim.kernels.cpu.compiled import compiled, in_slabs

Floats = npt.NDArray[np.float32]

_BLOCK = 16384


def inside(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`(N, C, *spatial)` where `weights` `(N or 1, 1, *spatial)` are positive, else zero."""
    kept = torch.empty_like(images)
    flat, masks = images.flatten(2), weights.flatten(1)
    in_slabs(_inside, -(-flat.shape[2] // _BLOCK), flat.numpy(), masks.numpy(), kept.flatten(2).numpy())
    return kept


@compiled
def _inside(first: int, last: int, images: Floats, weights: Floats, kept: Floats) -> None:
    start, stop = first * _BLOCK, min(last * _BLOCK, weights.shape[1])
    for item in range(len(images)):
        weight = weights[item % len(weights), start:stop]
        for channel in range(images.shape[1]):
            image, into = images[item, channel, start:stop], kept[item, channel, start:stop]
            for voxel in range(len(into)):
                into[voxel] = image[voxel] if weight[voxel] > 0 else np.float32(0)
