"""Joint histogram and its gradient, voxel by voxel: each thread adds 4 x 4 bins a voxel to a histogram of its own."""

import numpy as np
import numpy.typing as npt
import torch

from regsim.kernels.cpu.compiled import compiled, in_slabs

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_BLOCK = 8192


def counts(first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor, bins: int) -> torch.Tensor:
    """`(M, bins, bins)` in float64 of positions and weights `(M, V)`."""
    found = torch.empty(first.shape[0], bins, bins, dtype=torch.float64)
    for item in range(first.shape[0]):
        rows, columns, weight = (each[item].contiguous().numpy() for each in (first, second, weights))
        blocks = -(-len(rows) // _BLOCK)
        found[item] = torch.from_numpy(sum(in_slabs(_count, blocks, rows, columns, weight, bins)))
    return found


def slopes(other: torch.Tensor, own: torch.Tensor, weights: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The gradient `(M, V)` with respect to the positions `own`, whose bins are the columns of `table` `(M, bins, bins)`."""
    found = torch.empty_like(own, memory_format=torch.contiguous_format)
    for item in range(own.shape[0]):
        rows, columns, weight = (each[item].contiguous().numpy() for each in (other, own, weights))
        blocks = -(-len(rows) // _BLOCK)
        in_slabs(_slope, blocks, rows, columns, weight, table[item].contiguous().numpy(), found[item].numpy())
    return found


@compiled
def _count(first: int, last: int, rows: Floats, columns: Floats, weights: Floats, bins: int) -> Doubles:
    joint = np.zeros((bins, bins))
    own, other = np.empty(4, np.float32), np.empty(4, np.float32)
    for voxel in range(first * _BLOCK, min(last * _BLOCK, len(rows))):
        if weights[voxel] != 0:
            row, column = _left(rows[voxel], bins), _left(columns[voxel], bins)
            _window(rows[voxel] - np.float32(row), own)
            _window(columns[voxel] - np.float32(column), other)
            for k in range(4):
                share = own[k] * weights[voxel]
                for i in range(4):
                    joint[row - 1 + k, column - 1 + i] += share * other[i]
    return joint


@compiled
def _slope(
    first: int, last: int, rows: Floats, columns: Floats, weights: Floats, table: Floats, gradient: Floats
) -> None:
    bins = len(table)
    own, other = np.empty(4, np.float32), np.empty(4, np.float32)
    for voxel in range(first * _BLOCK, min(last * _BLOCK, len(rows))):
        total = np.float32(0)
        if weights[voxel] != 0:
            row, column = _left(rows[voxel], bins), _left(columns[voxel], bins)
            _window(rows[voxel] - np.float32(row), other)
            _window_slope(columns[voxel] - np.float32(column), own)
            for k in range(4):
                along = np.float32(0)
                for i in range(4):
                    along += table[row - 1 + k, column - 1 + i] * own[i]
                total += other[k] * along
        gradient[voxel] = total * weights[voxel]


@compiled
def _left(position: float, bins: int) -> int:
    """The second of the four bins."""
    return min(max(int(position), 1), bins - 3)


@compiled
def _window(t: float, weights: Floats) -> None:
    u = np.float32(1) - t
    weights[0] = u * u * u * np.float32(1 / 6)
    weights[1] = np.float32(2 / 3) - t * t + t * t * t * np.float32(0.5)
    weights[3] = t * t * t * np.float32(1 / 6)
    weights[2] = np.float32(1) - weights[0] - weights[1] - weights[3]


@compiled
def _window_slope(t: float, slopes: Floats) -> None:
    u = np.float32(1) - t
    slopes[0] = u * u * np.float32(-0.5)
    slopes[1] = np.float32(1.5) * t * t - np.float32(2) * t
    slopes[3] = t * t * np.float32(0.5)
    slopes[2] = -slopes[0] - slopes[1] - slopes[3]
