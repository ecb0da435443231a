"""Slopes and volume change of a displacement field `(D, H, W, C)` (pictures: D = 1), value and gradient in one go."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from regsim.kernels.cpu.compiled import compiled, in_slabs

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def squared_slopes(field: torch.Tensor, scale: Doubles) -> tuple[float, torch.Tensor]:
    """Sum over z, y, x of `scale` times the squared differences of neighbours, and its gradient."""
    gradient = torch.empty_like(field)
    parts = in_slabs(_slopes, _lines(field), field.numpy(), scale.astype(np.float32), gradient.numpy())
    return float(sum(parts)), gradient


def shortfall(field: torch.Tensor, matrix: Doubles, smallest: float) -> tuple[float, torch.Tensor | None]:
    """Sum of `max(smallest - determinant, 0)^2`, and its gradient, or None where it is zero all over.

    `matrix` `(C, C)` leads from index x, y(, z) to physical; the determinant is that of index to mapped physical point over
    the matrix's own.
    """
    depth, height, width, _ = field.shape
    missing = np.empty((depth, height, width), np.float32)
    steps = np.ascontiguousarray(matrix.T).astype(np.float32)
    arguments = (field.numpy(), steps, np.float32(1 / np.linalg.det(matrix)), np.float32(smallest), missing)
    total = float(sum(in_slabs(_determinants, _lines(field), *arguments)))
    if total == 0:
        return 0.0, None
    gradient = torch.zeros_like(field)
    _hand_back(field.numpy(), steps, np.float32(1 / np.linalg.det(matrix)), missing, gradient.numpy())
    return total, gradient


def _lines(field: torch.Tensor) -> int:
    return field.shape[0] * field.shape[1]


@compiled
def _slopes(first: int, last: int, field: Floats, scale: Floats, gradient: Floats) -> float:
    depth, height, width, count = field.shape
    line, total, two = width * count, 0.0, np.float32(2)
    for number in range(first, last):
        z, y = number // height, number % height
        here, slope = field[z, y].reshape(line), gradient[z, y].reshape(line)
        slope[:] = np.float32(0)
        inner = np.float32(0)
        for i in range(line - count):
            step = here[i + count] - here[i]
            inner += step * step
            slope[i] -= two * scale[2] * step
        for i in range(count, line):
            slope[i] += two * scale[2] * (here[i] - here[i - count])
        total += scale[2] * inner
        if y + 1 < height:
            total += scale[1] * _ahead(here, field[z, y + 1].reshape(line), slope, two * scale[1])
        if y > 0:
            _ahead(here, field[z, y - 1].reshape(line), slope, two * scale[1])
        if z + 1 < depth:
            total += scale[0] * _ahead(here, field[z + 1, y].reshape(line), slope, two * scale[0])
        if z > 0:
            _ahead(here, field[z - 1, y].reshape(line), slope, two * scale[0])
    return total


@compiled
def _ahead(here: Floats, there: Floats, slope: Floats, twice: Any) -> Any:
    """One line and its neighbour: the sum of squares, and its slope with respect to this line."""
    total = np.float32(0)
    for i in range(len(here)):
        step = there[i] - here[i]
        total += step * step
        slope[i] -= twice * step
    return total


@compiled
def _determinants(
    first: int, last: int, field: Floats, steps: Floats, scale: float, smallest: float, missing: Floats
) -> float:
    depth, height, width, count = field.shape
    columns, total = np.empty((3, 3), np.float32), 0.0
    for number in range(first, last):
        z, y = number // height, number % height
        over_z = np.float32(max(min(z + 1, depth - 1) - max(z - 1, 0), 1))
        front, back = field[max(z - 1, 0)], field[min(z + 1, depth - 1)]
        low, high = max(y - 1, 0), min(y + 1, height - 1)
        over_y = np.float32(max(high - low, 1))
        line = missing[z, y]
        if count == 3:
            _row_3d(field[z, y], field[z, low], field[z, high], front[y], back[y], over_y, over_z, steps, line)
        else:
            _row_2d(field[z, y], field[z, low], field[z, high], over_y, steps, line)
        for x in (0, width - 1):
            _columns(field, steps, z, y, x, columns)
            line[x] = _determinant(columns, count)
        found: Any = np.float32(0)
        for x in range(width):
            line[x] = max(smallest - scale * line[x], np.float32(0))
            found += line[x] * line[x]
        total += found
    return total


@compiled
def _row_2d(here: Floats, above: Floats, below: Floats, over_y: Any, steps: Floats, line: Floats) -> None:
    """Determinants of a line, but for its ends."""
    half, part = np.float32(0.5), np.float32(1) / over_y
    ax, ay, bx, by = steps[0, 0], steps[0, 1], steps[1, 0], steps[1, 1]
    for x in range(1, len(line) - 1):
        a, b = ax + half * (here[x + 1, 0] - here[x - 1, 0]), ay + half * (here[x + 1, 1] - here[x - 1, 1])
        c, d = bx + part * (below[x, 0] - above[x, 0]), by + part * (below[x, 1] - above[x, 1])
        line[x] = a * d - b * c


@compiled
def _row_3d(
    here: Floats,
    above: Floats,
    below: Floats,
    front: Floats,
    back: Floats,
    over_y: Any,
    over_z: Any,
    steps: Floats,
    line: Floats,
) -> None:
    """Determinants of a line, but for its ends."""
    half, part, other = np.float32(0.5), np.float32(1) / over_y, np.float32(1) / over_z
    px, py, pz = steps[0, 0], steps[0, 1], steps[0, 2]
    qx, qy, qz = steps[1, 0], steps[1, 1], steps[1, 2]
    rx, ry, rz = steps[2, 0], steps[2, 1], steps[2, 2]
    for x in range(1, len(line) - 1):
        a = px + half * (here[x + 1, 0] - here[x - 1, 0])
        b = py + half * (here[x + 1, 1] - here[x - 1, 1])
        c = pz + half * (here[x + 1, 2] - here[x - 1, 2])
        d, e = qx + part * (below[x, 0] - above[x, 0]), qy + part * (below[x, 1] - above[x, 1])
        f = qz + part * (below[x, 2] - above[x, 2])
        g, h = rx + other * (back[x, 0] - front[x, 0]), ry + other * (back[x, 1] - front[x, 1])
        i = rz + other * (back[x, 2] - front[x, 2])
        line[x] = a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)


@compiled
def _hand_back(field: Floats, steps: Floats, scale: Any, missing: Floats, gradient: Floats) -> None:
    """Few voxels lack anything, and each touches its neighbours: one thread does them all."""
    depth, height, width, count = field.shape
    columns, cofactors = np.empty((3, 3), np.float32), np.empty((3, 3), np.float32)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if missing[z, y, x] > 0:
                    _columns(field, steps, z, y, x, columns)
                    _cofactors(columns, count, cofactors)
                    factor = np.float32(-2) * missing[z, y, x] * scale
                    for axis in range(count):
                        index, length = (x, y, z)[axis], (width, height, depth)[axis]
                        low, high = max(index - 1, 0), min(index + 1, length - 1)
                        if high > low:
                            for i in range(count):
                                part = factor * cofactors[axis, i] / np.float32(high - low)
                                if axis == 0:
                                    gradient[z, y, high, i] += part
                                    gradient[z, y, low, i] -= part
                                elif axis == 1:
                                    gradient[z, high, x, i] += part
                                    gradient[z, low, x, i] -= part
                                else:
                                    gradient[high, y, x, i] += part
                                    gradient[low, y, x, i] -= part


@compiled
def _columns(field: Floats, steps: Floats, z: int, y: int, x: int, columns: Floats) -> None:
    """How far one step along x, y(, z) moves a mapped point; differences over two voxels, one at the border."""
    depth, height, width, count = field.shape
    left, right = max(x - 1, 0), min(x + 1, width - 1)
    low, high = max(y - 1, 0), min(y + 1, height - 1)
    front, back = max(z - 1, 0), min(z + 1, depth - 1)
    over_x, over_y, over_z = (
        np.float32(max(right - left, 1)),
        np.float32(max(high - low, 1)),
        np.float32(max(back - front, 1)),
    )
    for i in range(count):
        columns[0, i] = steps[0, i] + (field[z, y, right, i] - field[z, y, left, i]) / over_x
        columns[1, i] = steps[1, i] + (field[z, high, x, i] - field[z, low, x, i]) / over_y
        if count == 3:
            columns[2, i] = steps[2, i] + (field[back, y, x, i] - field[front, y, x, i]) / over_z


@compiled
def _determinant(columns: Floats, count: int) -> Any:
    a, b, c = columns[0], columns[1], columns[2]
    if count == 2:
        return a[0] * b[1] - a[1] * b[0]
    cross_x, cross_y = b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2]
    return a[0] * cross_x + a[1] * cross_y + a[2] * (b[0] * c[1] - b[1] * c[0])


@compiled
def _cofactors(columns: Floats, count: int, cofactors: Floats) -> None:
    """The determinant's slope with respect to each entry."""
    if count == 2:
        cofactors[0, 0], cofactors[0, 1] = columns[1, 1], -columns[1, 0]
        cofactors[1, 0], cofactors[1, 1] = -columns[0, 1], columns[0, 0]
        return
    for k in range(3):
        one, other = columns[(k + 1) % 3], columns[(k + 2) % 3]
        for i in range(3):
            cofactors[k, i] = one[(i + 1) % 3] * other[(i + 2) % 3] - one[(i + 2) % 3] * other[(i + 1) % 3]
