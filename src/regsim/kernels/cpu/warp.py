"""Linear interpolation at points, and its gradients; one pass each, no copy of the points in another unit.

Pictures are volumes of one slice. An axis of one voxel has the same value all along.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from regsim.kernels.cpu.compiled import compiled, in_slabs

Floats = npt.NDArray[np.float32]

_BLOCK = 8192
_MOST_COPIES = 4
"""Each thread that scatters needs a volume of its own."""


def read(images: torch.Tensor, points: torch.Tensor, matrix: Floats, fade: bool) -> torch.Tensor:
    """`(C, V)` of images `(C, D, H, W)` at points `(V, ndim)`; `matrix` `(3, 4)` leads from points to indices x, y, z."""
    values = images.new_empty(images.shape[0], points.shape[0])
    in_slabs(_read, _blocks(points), images.numpy(), points.numpy(), matrix, fade, values.numpy())
    return values


def to_points(
    images: torch.Tensor, points: torch.Tensor, matrix: Floats, fade: bool, upstream: torch.Tensor
) -> torch.Tensor:
    """The gradient with respect to the points, `(V, ndim)`: the images' slope there times what comes in, `(C, V)`."""
    gradient = torch.empty_like(points)
    arguments = (images.numpy(), points.numpy(), matrix, fade, upstream.numpy(), gradient.numpy())
    in_slabs(_to_points, _blocks(points), *arguments)
    return gradient


def to_images(
    shape: tuple[int, ...], points: torch.Tensor, matrix: Floats, fade: bool, upstream: torch.Tensor
) -> torch.Tensor:
    """The gradient with respect to the images, `(C, D, H, W)`: what comes in, handed back to the voxels that were read."""
    copies = min(torch.get_num_threads(), _MOST_COPIES)
    gradients = np.zeros((copies, *shape), np.float32)
    in_slabs(_to_images, copies, points.numpy(), matrix, fade, upstream.numpy(), gradients)
    return torch.from_numpy(gradients.sum(axis=0) if copies > 1 else gradients[0])


def hold(points: torch.Tensor, matrix: Floats, size: Floats) -> torch.Tensor:
    """1 where a point lies between the outer voxel borders of a grid of this size (x, y, z), else 0: `(V,)`."""
    weights = points.new_empty(points.shape[0])
    in_slabs(_hold, _blocks(points), points.numpy(), matrix, size, weights.numpy())
    return weights


def _blocks(points: torch.Tensor) -> int:
    return -(-points.shape[0] // _BLOCK)


@compiled
def _read(first: int, last: int, images: Floats, points: Floats, matrix: Floats, fade: bool, values: Floats) -> None:
    way, (depth, height, width) = _numbers(matrix), images.shape[1:]
    for voxel in range(first * _BLOCK, min(last * _BLOCK, len(points))):
        at_x, at_y, at_z = _indices(points, voxel, way)
        x, right, own_x, next_x = _axis(at_x, width, fade)
        y, below, own_y, next_y = _axis(at_y, height, fade)
        z, behind, own_z, next_z = _axis(at_z, depth, fade)
        for channel in range(len(images)):
            image = images[channel]
            top = own_x * image[z, y, x] + next_x * image[z, y, right]
            under = own_x * image[z, below, x] + next_x * image[z, below, right]
            back = own_x * image[behind, y, x] + next_x * image[behind, y, right]
            hidden = own_x * image[behind, below, x] + next_x * image[behind, below, right]
            values[channel, voxel] = own_z * (own_y * top + next_y * under) + next_z * (own_y * back + next_y * hidden)


@compiled
def _to_points(
    first: int,
    last: int,
    images: Floats,
    points: Floats,
    matrix: Floats,
    fade: bool,
    upstream: Floats,
    gradient: Floats,
) -> None:
    way, (depth, height, width) = _numbers(matrix), images.shape[1:]
    for voxel in range(first * _BLOCK, min(last * _BLOCK, len(points))):
        at_x, at_y, at_z = _indices(points, voxel, way)
        x, right, own_x, next_x = _axis(at_x, width, fade)
        y, below, own_y, next_y = _axis(at_y, height, fade)
        z, behind, own_z, next_z = _axis(at_z, depth, fade)
        down_x, up_x = _slope(at_x, width, fade)
        down_y, up_y = _slope(at_y, height, fade)
        down_z, up_z = _slope(at_z, depth, fade)
        along_x, along_y, along_z = np.float32(0), np.float32(0), np.float32(0)
        for channel in range(len(images)):
            image, coming = images[channel], upstream[channel, voxel]
            a, b = image[z, y, x], image[z, y, right]
            c, d = image[z, below, x], image[z, below, right]
            e, f = image[behind, y, x], image[behind, y, right]
            g, h = image[behind, below, x], image[behind, below, right]
            top, under = own_x * a + next_x * b, own_x * c + next_x * d
            back, hidden = own_x * e + next_x * f, own_x * g + next_x * h
            front = own_y * (down_x * a + up_x * b) + next_y * (down_x * c + up_x * d)
            rear = own_y * (down_x * e + up_x * f) + next_y * (down_x * g + up_x * h)
            along_x += coming * (own_z * front + next_z * rear)
            along_y += coming * (own_z * (down_y * top + up_y * under) + next_z * (down_y * back + up_y * hidden))
            along_z += coming * (down_z * (own_y * top + next_y * under) + up_z * (own_y * back + next_y * hidden))
        for axis in range(points.shape[1]):
            gradient[voxel, axis] = way[axis] * along_x + way[4 + axis] * along_y + way[8 + axis] * along_z


@compiled
def _to_images(
    first: int, last: int, points: Floats, matrix: Floats, fade: bool, upstream: Floats, gradients: Floats
) -> None:
    way, (depth, height, width), copies = _numbers(matrix), gradients.shape[2:], len(gradients)
    for copy in range(first, last):
        for voxel in range(len(points) * copy // copies, len(points) * (copy + 1) // copies):
            at_x, at_y, at_z = _indices(points, voxel, way)
            x, right, own_x, next_x = _axis(at_x, width, fade)
            y, below, own_y, next_y = _axis(at_y, height, fade)
            z, behind, own_z, next_z = _axis(at_z, depth, fade)
            for channel in range(gradients.shape[1]):
                into, coming = gradients[copy, channel], upstream[channel, voxel]
                front, rear = coming * own_z, coming * next_z
                into[z, y, x] += front * own_y * own_x
                into[z, y, right] += front * own_y * next_x
                into[z, below, x] += front * next_y * own_x
                into[z, below, right] += front * next_y * next_x
                into[behind, y, x] += rear * own_y * own_x
                into[behind, y, right] += rear * own_y * next_x
                into[behind, below, x] += rear * next_y * own_x
                into[behind, below, right] += rear * next_y * next_x


@compiled
def _hold(first: int, last: int, points: Floats, matrix: Floats, size: Floats, weights: Floats) -> None:
    way, half = _numbers(matrix), np.float32(0.5)
    for voxel in range(first * _BLOCK, min(last * _BLOCK, len(points))):
        x, y, z = _indices(points, voxel, way)
        held = x >= -half and x <= size[0] - half and y >= -half and y <= size[1] - half
        weights[voxel] = np.float32(held and z >= -half and z <= size[2] - half)


@compiled
def _numbers(matrix: Floats) -> tuple[Any, ...]:
    """The matrix in registers: in memory it would be read again at every voxel."""
    a, b, c = matrix[0], matrix[1], matrix[2]
    return a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3]


@compiled
def _indices(points: Floats, voxel: int, way: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    x, y = points[voxel, 0], points[voxel, 1]
    z = points[voxel, 2] if points.shape[1] == 3 else np.float32(0)
    return (
        way[0] * x + way[1] * y + way[2] * z + way[3],
        way[4] * x + way[5] * y + way[6] * z + way[7],
        way[8] * x + way[9] * y + way[10] * z + way[11],
    )


@compiled
def _axis(index: Any, length: int, fade: bool) -> tuple[int, int, Any, Any]:
    """The two voxels of an axis between which the index lies, and how much each counts."""
    last = np.float32(length - 1)
    held = min(max(index, np.float32(0)), last)
    left = max(min(int(held), length - 2), 0)
    share = held - np.float32(left)
    rest = np.float32(1) - share
    if index != held and length > 1:
        kept = max(np.float32(1) - abs(index - held), np.float32(0)) if fade else np.float32(1)
        rest, share = rest * kept, share * kept
    return left, min(left + 1, length - 1), rest, share


@compiled
def _slope(index: Any, length: int, fade: bool) -> tuple[Any, Any]:
    """How the two shares change with the index; beyond the border they are constant, or fade to zero over a voxel."""
    none, one = np.float32(0), np.float32(1)
    if length > 1 and index >= 0 and index <= length - 1:
        return -one, one
    if length > 1 and fade and index > -1 and index < 0:
        return one, none
    if length > 1 and fade and index > length - 1 and index < length:
        return none, -one
    return none, none
