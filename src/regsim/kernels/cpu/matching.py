"""Costs of matching every cell of the fixed image with displaced places of the moving one, and what they say; float32."""

import numpy as np
import numpy.typing as npt

from regsim.kernels.cpu.compiled import compiled

Floats = npt.NDArray[np.float32]


@compiled
def match_costs(
    first: int,
    last: int,
    fixed: Floats,
    moving: Floats,
    fixed_held: Floats,
    moving_held: Floats,
    offsets: npt.NDArray[np.int64],
    reach: npt.NDArray[np.int64],
    side: npt.NDArray[np.int64],
    least: float,
    costs: Floats,
) -> None:
    """Mean absolute difference of descriptors over the voxels of each cell, for each displacement; -1 where too few are held.

    Slabs are planes of cells.

    Args:
        first, last: planes of cells.
        fixed: `(D, H, K, W)`; moving: alike, padded by `reach` on every side of D, H and W; `*_held` `(D, H, W)` alike: weights.
        offsets: `(n, 3)`, displacements in voxels, z first.
        reach: the largest displacement along each axis.
        side: voxels of a cell along each axis; the images' sizes are multiples.
        least: smallest weight of a cell that counts.
        costs: `(d, h, w, n)`, result.
    """
    _, height, channels, width = fixed.shape
    cells = width // side[2]
    total, weight, line = np.zeros(width, np.float32), np.zeros(width, np.float32), np.zeros(width, np.float32)
    for cz in range(first, last):
        for cy in range(height // side[1]):
            for n in range(len(offsets)):
                dz, dy, dx = offsets[n, 0] + reach[0], offsets[n, 1] + reach[1], offsets[n, 2] + reach[2]
                total[:] = 0
                weight[:] = 0
                for z in range(cz * side[0], (cz + 1) * side[0]):
                    for y in range(cy * side[1], (cy + 1) * side[1]):
                        line[:] = 0
                        there = moving[z + dz, y + dy]
                        here = fixed[z, y]
                        for k in range(0, channels, 4):
                            f0, f1, f2, f3 = here[k], here[k + 1], here[k + 2], here[k + 3]
                            m0, m1 = there[k][dx : dx + width], there[k + 1][dx : dx + width]
                            m2, m3 = there[k + 2][dx : dx + width], there[k + 3][dx : dx + width]
                            for x in range(width):
                                near = abs(f0[x] - m0[x]) + abs(f1[x] - m1[x])
                                line[x] += near + abs(f2[x] - m2[x]) + abs(f3[x] - m3[x])
                        own, other = fixed_held[z, y], moving_held[z + dz, y + dy][dx : dx + width]
                        for x in range(width):
                            both = own[x] * other[x]
                            total[x] += both * line[x]
                            weight[x] += both
                for cx in range(cells):
                    summed, held = np.float32(0), np.float32(0)
                    for x in range(cx * side[2], (cx + 1) * side[2]):
                        summed += total[x]
                        held += weight[x]
                    costs[cz, cy, cx, n] = summed / (held * channels) if held >= least else np.float32(-1)


@compiled
def fill_missing(first: int, last: int, costs: Floats, share: Floats) -> None:
    """Costs that are missing (-1) become the mean of the cell's others; `share` `(d, h, w)`: how many were there."""
    for z in range(first, last):
        for y in range(costs.shape[1]):
            for x in range(costs.shape[2]):
                own = costs[z, y, x]
                total, there = np.float32(0), 0
                for n in range(len(own)):
                    if own[n] >= 0:
                        total += own[n]
                        there += 1
                share[z, y, x] = there / len(own)
                if there < len(own):
                    mean = total / max(there, 1)
                    for n in range(len(own)):
                        if own[n] < 0:
                            own[n] = mean


@compiled
def smoothed_costs(first: int, last: int, costs: Floats, radius: npt.NDArray[np.int64], result: Floats) -> None:
    """Mean over the cells around each, `2 radius + 1` along each axis, fewer at borders."""
    depth, height, width, count = costs.shape
    total = np.zeros(count, np.float32)
    for z in range(first, last):
        for y in range(height):
            for x in range(width):
                total[:] = 0
                cells = 0
                for zz in range(max(0, z - radius[0]), min(depth, z + radius[0] + 1)):
                    for yy in range(max(0, y - radius[1]), min(height, y + radius[1] + 1)):
                        for xx in range(max(0, x - radius[2]), min(width, x + radius[2] + 1)):
                            other = costs[zz, yy, xx]
                            for n in range(count):
                                total[n] += other[n]
                            cells += 1
                share = np.float32(1) / np.float32(cells)
                for n in range(count):
                    result[z, y, x, n] = total[n] * share


@compiled
def powers_of_two(powers: Floats, bits: npt.NDArray[np.int32], result: Floats) -> None:
    """`2^p` for powers from -40 to 0, within 3e-6, by a polynomial; `result` may be `powers`."""
    two = bits.view(np.float32)
    for n in range(len(powers)):
        power = max(powers[n], np.float32(-40))
        whole = np.floor(power)
        part = power - whole
        fraction = np.float32(0.0135557) * part + np.float32(0.0520323)
        fraction = (fraction * part + np.float32(0.2413793)) * part + np.float32(0.6930321)
        result[n] = fraction * part + np.float32(1.0000026)
        bits[n] = (np.int32(whole) + np.int32(127)) << 23
    for n in range(len(powers)):
        result[n] *= two[n]


@compiled
def soft_moments(
    weights: Floats, own: Floats, best: np.float32, places: Floats, lengths: Floats, squares: Floats, result: Floats
) -> None:
    """Sums of the weights, and of weights times place (3), length, squared length, and excess: `(7,)`. `places` `(3, n)`."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = np.float32(0)
    pz, py, px = places[0], places[1], places[2]
    for n in range(len(weights)):
        weight = weights[n]
        s0 += weight
        s1 += weight * pz[n]
        s2 += weight * py[n]
        s3 += weight * px[n]
        s4 += weight * lengths[n]
        s5 += weight * squares[n]
        s6 += weight * (own[n] - best)
    result[0], result[1], result[2], result[3], result[4], result[5], result[6] = s0, s1, s2, s3, s4, s5, s6


@compiled
def parabolas(
    own: Floats, zero: int, neighbours: npt.NDArray[np.int64], spread: np.float32
) -> tuple[np.float32, np.float32]:
    """How far the vertices lie from no displacement, and the curvatures' sum."""
    around, bend = np.float32(0), np.float32(0)
    for axis in range(3):
        if neighbours[axis, 0] >= 0:
            low, high = own[neighbours[axis, 0]], own[neighbours[axis, 1]]
            curve = low + high - 2 * own[zero]
            slope = (low - high) / (2 * max(curve, np.float32(0.05) * spread))
            slope = min(max(slope, np.float32(-2)), np.float32(2))
            around += slope * slope
            bend += curve
    return np.float32(np.sqrt(around)), np.float32(bend)


@compiled
def describe_cell(
    own: Floats,
    tables: tuple[Floats, Floats, Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]],
    zero: int,
    widest: float,
    room: tuple[Floats, npt.NDArray[np.int32], Floats, Floats, Floats],
    found: Floats,
) -> None:
    """One cell's features into `found`. `tables`: places `(3, n)`, lengths, squared lengths, shells, neighbours."""
    places, lengths, squares, shells, neighbours = tables
    weights, bits, lowest, mass, sums = room
    count = len(own)
    best, mean, square, place = np.float32(1e30), np.float32(0), np.float32(0), 0
    lowest[:] = 1e30
    for n in range(count):
        value = own[n]
        mean += value
        square += value * value
        if value < best:
            best, place = value, n
        if value < lowest[shells[n]]:
            lowest[shells[n]] = value
    mean /= count
    spread = max(mean - best, np.float32(1e-6))
    rate = np.float32(-1.4426950408889634) / (np.float32(widest) * spread)
    for n in range(count):
        weights[0, n] = (own[n] - best) * rate
    powers_of_two(weights[0], bits, weights[0])
    for n in range(count):
        weights[1, n] = weights[0, n] * weights[0, n] * weights[0, n]
        weights[2, n] = weights[1, n] * weights[1, n] * weights[1, n]
    around, bend = parabolas(own, zero, neighbours, spread)
    found[0], found[1], found[2] = best, own[zero] - best, spread
    found[3] = np.sqrt(max(square / count - mean * mean, np.float32(0)))
    found[4], found[5], found[6], found[7] = (own[zero] - best) / spread, lengths[place], around, bend / spread
    mass[:] = 0
    for n in range(count):
        mass[shells[n]] += weights[1, n]
    describe_soft(own, best, np.float32(widest) * spread, places, lengths, squares, weights, sums, found[8:20])
    middle = np.float32(0)
    for shell in range(len(mass)):
        middle += mass[shell]
    for shell in range(len(mass)):
        found[20 + 2 * shell] = (lowest[shell] - best) / spread
        found[21 + 2 * shell] = mass[shell] / middle


@compiled
def describe_soft(
    own: Floats,
    best: np.float32,
    temperature: np.float32,
    places: Floats,
    lengths: Floats,
    squares: Floats,
    weights: Floats,
    sums: Floats,
    found: Floats,
) -> None:
    """For each of three soft minima: length of the mean displacement, mean length, scatter, entropy."""
    for t in range(3):
        soft_moments(weights[t], own, best, places, lengths, squares, sums)
        total = sums[0]
        a, b, c = sums[1] / total, sums[2] / total, sums[3] / total
        square = a * a + b * b + c * c
        found[4 * t] = np.sqrt(square)
        found[4 * t + 1] = sums[4] / total
        found[4 * t + 2] = np.sqrt(max(sums[5] / total - square, np.float32(0)))
        found[4 * t + 3] = np.log(total) + sums[6] / total * np.float32(3**t) / temperature


@compiled
def describe_costs(
    first: int,
    last: int,
    costs: Floats,
    places: Floats,
    lengths: Floats,
    shells: npt.NDArray[np.int64],
    shell_count: int,
    zero: int,
    neighbours: npt.NDArray[np.int64],
    widest: float,
    result: Floats,
) -> None:
    """What each cell's costs say, whatever the direction: `(F, d, h, w)`, in the order of `kernels.matching.describe`.

    `costs` `(d, h, w, n)`; `places` `(3, n)` and `lengths` `(n,)` in steps.
    """
    count, squares = costs.shape[3], lengths * lengths
    tables = places, lengths, squares, shells, neighbours
    weights, bits = np.empty((3, count), np.float32), np.empty(count, np.int32)
    lowest, mass = np.empty(shell_count, np.float32), np.empty(shell_count, np.float32)
    room = weights, bits, lowest, mass, np.empty(7, np.float32)
    found = np.empty(result.shape[0], np.float32)
    for z in range(first, last):
        for y in range(costs.shape[1]):
            for x in range(costs.shape[2]):
                describe_cell(costs[z, y, x], tables, zero, widest, room, found)
                result[:, z, y, x] = found
