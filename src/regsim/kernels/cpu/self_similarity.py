"""A fixed image's MIND-SSC descriptors, and moving images compared with them, on the CPU in float32."""

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from regsim.kernels.cpu.compiled import in_slabs
from regsim.kernels.cpu.self_similarity_gradient import distances, gradient
from regsim.kernels.cpu.self_similarity_loops import describe, noises, patch_means

Floats = npt.NDArray[np.float32]
_SMALLEST = float(torch.finfo(torch.float32).tiny)


class Frame:
    """How one grid, radius and dilation lie in the loops' memory; their docstring says what the tables hold.

    `shape`: planes, rows, columns. A picture's rows are planes of one row, so that threads can share them.
    """

    def __init__(self, shape: torch.Size, radius: int, dilation: int):
        long = [length for length in shape if length > 1]
        self.shape = (long[0], 1, long[1]) if len(long) == 2 else (1,) * (3 - len(shape)) + tuple(shape)
        self.dilation = dilation
        depth, height, width = self.shape
        self.radii = [0 if length == 1 else radius for length in self.shape]
        self.steps = [dilation if length > dilation else 0 for length in self.shape]
        self.stride = width + max(dilation, self.radii[2])
        self.count = height * self.stride
        reach = self.radii[1] * self.stride + self.radii[2]
        spread = self.steps[1] * self.stride + self.steps[2]
        self.front = spread + 2 * reach
        self.line = self.count + 2 * self.front
        self.bases = depth + self.steps[0]
        sizes = (self.front, self.count, self.line, self.stride, *self.radii, self.steps[0], spread)
        self.sizes = np.array(sizes, np.int64)
        self.moves = self._moves()
        self.pairs = np.array([self._pair(move) for move in self.moves], np.int64)
        self.channels = np.array([row for m, move in enumerate(self.moves) for row in self._reads(m, move)], np.int64)

    def _moves(self) -> list[list[int]]:
        """From base to partner, along each axis: forwards on one axis, either way on another."""
        moves = []
        for i, j in combinations([axis for axis in range(3) if self.steps[axis]], 2):
            for sign in (1, -1):
                move = [0, 0, 0]
                move[i], move[j] = self.dilation, sign * self.dilation
                moves.append(move)
        return moves

    def _flat(self, move: list[int]) -> list[int]:
        return [move[0], move[1] * self.stride + move[2]]

    def _limits(self, move: list[int]) -> list[tuple[int, int]]:
        """First and past-the-last base along each axis."""
        return [(max(0, -step), length - max(0, step)) for step, length in zip(move, self.shape, strict=True)]

    def _pair(self, move: list[int]) -> list[int]:
        (z0, z1), (y0, y1), _ = self._limits(move)
        return [*self._flat(move), z0, z1, self.front + y0 * self.stride, self.front + y1 * self.stride]

    def _reads(self, m: int, move: list[int]) -> list[list[int]]:
        """The two channels that read this difference: the pairs whose base lies one of the two steps back."""
        i, j = (axis for axis in range(3) if move[axis])
        return [[m, *self._flat([-move[axis] if axis == own else 0 for axis in range(3)])] for own in (i, j)]

    def lines(self, planes: int) -> Floats:
        """Zeros, `(planes, line)`."""
        return np.zeros((planes, self.line), np.float32)

    def inside(self, lines: Floats) -> Floats:
        """The image's voxels in `(planes, line)`, as a view `(planes, rows, columns)`."""
        rows = lines[:, self.front : self.front + self.count].reshape(-1, self.shape[1], self.stride)
        return rows[:, :, : self.shape[2]]

    def laid_out(self, image: torch.Tensor) -> Floats:
        """An image as lines."""
        lines = self.lines(self.shape[0])
        self.inside(lines)[:] = image.detach().reshape(self.shape).numpy()
        return lines

    def everywhere(self) -> Floats:
        """Weight 1, as one plane that stands for all."""
        lines = self.lines(1)
        self.inside(lines)[:] = 1
        return lines

    def shares(self) -> tuple[Floats, Floats]:
        """1 / number of voxel pairs in each patch, without a mask: `(pairs, 1, line)` times `(pairs, bases)`."""
        share, share_z = (
            np.zeros((len(self.moves), 1, self.line), np.float32),
            np.zeros((len(self.moves), self.bases), np.float32),
        )
        for m, move in enumerate(self.moves):
            parts = []
            for axis, (first, last) in enumerate(self._limits(move)):
                step, length, radius = move[axis], self.shape[axis], self.radii[axis]
                bases = np.arange(-self.steps[axis] if axis == 0 or step > 0 else 0, length - min(step, 0))
                held = np.minimum(bases + radius, last - 1) - np.maximum(bases - radius, first) + 1
                parts.append((bases, np.where(held > 0, 1 / np.maximum(held, 1), 0)))
            (_, along_z), (rows, along_y), (columns, along_x) = parts
            share[m, 0, self.front + rows[:, None] * self.stride + columns] = along_y[:, None] * along_x
            share_z[m] = along_z
        return share, share_z

    def counted_shares(self, weights: Floats) -> tuple[Floats, Floats]:
        """1 / sum of the pairs' weights in each patch: `(pairs, bases, line)` times 1."""
        ones = np.ones((len(self.moves), 1, self.line), np.float32), np.ones((len(self.moves), self.bases), np.float32)
        counts = np.zeros((len(self.moves), self.bases, self.line), np.float32)
        in_slabs(patch_means, self.bases, weights, weights, *ones, self.pairs, self.sizes, True, counts)
        return np.divide(1, counts, out=counts, where=counts > 0), ones[1]


class Descriptors:
    """The fixed image's descriptors of one dilation, `(channels, planes, rows with their gaps)`.

    NumPy copies and adds, not torch, whose idle threads would spin on the cores that the loops need.

    `fixed`: `(D, H, W)` or `(H, W)`, float32; `weights`: alike, in [0, 1], or None.
    """

    def __init__(self, fixed: torch.Tensor, weights: torch.Tensor | None, radius: int, dilation: int):
        self.frame = frame = Frame(fixed.shape, radius, dilation)
        if weights is None:
            self._weights = frame.everywhere()
            self._total = float(fixed.numel())
            self._share, self._share_z = frame.shares()
        else:
            self._weights = frame.laid_out(weights)
            self._total = _total(weights)
            self._share, self._share_z = frame.counted_shares(self._weights)
        means, lowest, noise, _, typical = self._measure(frame.laid_out(fixed))
        self._described = np.empty((len(frame.channels), frame.shape[0], frame.count), np.float32)
        self._run(describe, means, lowest, noise, typical, frame.channels, frame.sizes, self._described)

    def compare(
        self, moving: torch.Tensor, weights: torch.Tensor | None, with_gradient: bool
    ) -> tuple[float, torch.Tensor | None]:
        """Mean squared difference of the descriptors, weighted, and its derivative by the moving image.

        `weights` (None: 1 everywhere) are those of the mean; patches and noise have those of the fixed image.
        """
        frame, image = self.frame, self.frame.laid_out(moving)
        averaged = frame.everywhere() if weights is None else frame.laid_out(weights)
        total = float(moving.numel()) if weights is None else _total(weights)
        means, lowest, noise, share, typical = self._measure(image)
        sums = np.zeros((frame.shape[0], 2))
        tables = frame.channels, frame.sizes
        measured = means, lowest, noise, share, self._described
        self._run(distances, *measured, averaged, typical, *tables, not with_gradient, sums)
        if not with_gradient:
            return self._value(sums[:, 0], total, moving), None
        scale, pull = np.float32(1 / total), np.float32(sums[:, 1].sum() / total / self._total)
        result, values = frame.lines(frame.shape[0]), np.zeros(frame.shape[0])
        fixed_half = self._weights, self._share, self._share_z
        self._run(gradient, image, *fixed_half, *measured, averaged, typical, scale, pull, frame.pairs, *tables, values,
                  result)  # fmt: skip
        return self._value(values, total, moving), torch.from_numpy(frame.inside(result)).reshape(moving.shape)

    def _measure(self, image: Floats) -> tuple[Floats, Floats, Floats, Floats, np.float32]:
        """Patch means; minimum, v and 1 / number over the channels; the mean of v over the image."""
        frame = self.frame
        means = np.empty((len(frame.pairs), frame.bases, frame.line), np.float32)
        shares = self._share, self._share_z
        in_slabs(patch_means, frame.bases, image, self._weights, *shares, frame.pairs, frame.sizes, False, means)
        lowest, noise, share = (np.empty((frame.shape[0], frame.count), np.float32) for _ in range(3))
        totals = np.zeros(frame.shape[0])
        self._run(noises, means, self._weights, frame.channels, frame.sizes, lowest, noise, share, totals)
        return means, lowest, noise, share, np.float32(totals.sum() / self._total)

    @staticmethod
    def _value(sums: npt.NDArray[np.float64], total: float, moving: torch.Tensor) -> float:
        """The mean; NaN where the loops took an infinity or NaN of the image for a patch without voxels."""
        return float(sums.sum()) / total if np.isfinite(moving.detach().numpy().sum()) else float("nan")

    def _run(self, function: Any, *arguments: Any) -> None:
        in_slabs(function, self.frame.shape[0], *arguments)


def _total(weights: torch.Tensor) -> float:
    return max(float(weights.numpy().sum(dtype=np.float64)), _SMALLEST)
