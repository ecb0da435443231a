"""Feature vectors read between voxels and compared at once, with the gradient to the points: no volume is made between.

The channels of a voxel lie side by side in memory, so eight neighbours are eight short rows.
"""

import numpy as np
import numpy.typing as npt
import torch

from regsim.kernels.cpu.compiled import compiled, in_slabs
from regsim.kernels.cpu.warp import _axis, _indices, _numbers, _slope

Floats = npt.NDArray[np.float32]

_BLOCK = 2048


def distances(
    fixed: torch.Tensor, moving: torch.Tensor, points: torch.Tensor, matrix: Floats, weights: torch.Tensor, wanted: bool
) -> tuple[float, torch.Tensor]:
    """Sum over the points of weight times half the squared distance, and its gradient (zeros if not wanted).

    `fixed` `(V, C)`, `moving` `(D, H, W, C)`, `points` `(V, ndim)`, `weights` `(V,)`; `matrix` `(3, 4)` leads from points to
    indices x, y, z. Beyond the border its value goes on.
    """
    gradient = torch.zeros_like(points)
    shape = np.array(moving.shape, np.int64)
    arrays = (fixed.numpy().reshape(-1), moving.numpy().reshape(-1), shape, points.numpy(), matrix, weights.numpy())
    blocks = -(-points.shape[0] // _BLOCK)
    return sum(in_slabs(_distances, blocks, *arrays, wanted, gradient.numpy())), gradient


@compiled
def _distances(
    first: int,
    last: int,
    fixed: Floats,
    moving: Floats,
    shape: npt.NDArray[np.int64],
    points: Floats,
    matrix: Floats,
    weights: Floats,
    wanted: bool,
    gradient: Floats,
) -> float:
    way, depth, height, width, channels = _numbers(matrix), shape[0], shape[1], shape[2], shape[3]
    total = 0.0
    for voxel in range(first * _BLOCK, min(last * _BLOCK, len(points))):
        weight = weights[voxel]
        if weight == 0:
            continue
        at_x, at_y, at_z = _indices(points, voxel, way)
        x, right, own_x, next_x = _axis(at_x, width, False)
        y, below, own_y, next_y = _axis(at_y, height, False)
        z, behind, own_z, next_z = _axis(at_z, depth, False)
        up_x, up_y, up_z = _slope(at_x, width, False)[1], _slope(at_y, height, False)[1], _slope(at_z, depth, False)[1]
        near, far = z * height, behind * height
        a, b = ((near + y) * width + x) * channels, ((near + y) * width + right) * channels
        c, d = ((near + below) * width + x) * channels, ((near + below) * width + right) * channels
        e, f = ((far + y) * width + x) * channels, ((far + y) * width + right) * channels
        g, h = ((far + below) * width + x) * channels, ((far + below) * width + right) * channels
        own = voxel * channels
        square = along_x = along_y = along_z = np.float32(0)
        for channel in range(channels):
            top = own_x * moving[a + channel] + next_x * moving[b + channel]
            under = own_x * moving[c + channel] + next_x * moving[d + channel]
            back = own_x * moving[e + channel] + next_x * moving[f + channel]
            hidden = own_x * moving[g + channel] + next_x * moving[h + channel]
            front, rear = own_y * top + next_y * under, own_y * back + next_y * hidden
            apart = own_z * front + next_z * rear - fixed[own + channel]
            square += apart * apart
            if wanted:
                along_z += apart * (rear - front)
                along_y += apart * (own_z * (under - top) + next_z * (hidden - back))
                near_x = own_y * (moving[b + channel] - moving[a + channel])
                near_x += next_y * (moving[d + channel] - moving[c + channel])
                far_x = own_y * (moving[f + channel] - moving[e + channel])
                far_x += next_y * (moving[h + channel] - moving[g + channel])
                along_x += apart * (own_z * near_x + next_z * far_x)
        total += np.float64(np.float32(0.5) * weight * square)
        if wanted:
            along_x, along_y, along_z = weight * up_x * along_x, weight * up_y * along_y, weight * up_z * along_z
            for axis in range(points.shape[1]):
                gradient[voxel, axis] = way[axis] * along_x + way[4 + axis] * along_y + way[8 + axis] * along_z
    return total
