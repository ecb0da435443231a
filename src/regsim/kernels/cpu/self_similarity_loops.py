"""MIND-SSC on the CPU: patch distances, descriptors, squared distances of descriptors, and the gradient.

A plane is one line of numbers: its rows lie one after another with a gap of zeros between, and zeros stand before and
after, so that a shift within the plane is one offset. All loops are long and know no border. A pair of voxels is named
by the one that comes first, its `base`. Tables and sizes:

- `frame`: voxels before a plane's first row, from its first to past its last, in all; a row; the window's radius along
  z, y, x; how far bases lie before the first plane, and before the first row.
- `pairs`, a row for each difference of places: planes and voxels from base to partner; first and last plane, first and
  last voxel of the bases whose partners exist.
- `channels`: number of the pair; planes and voxels from a voxel to the base whose patch it reads.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import intrinsic

from regsim.kernels.cpu.compiled import compiled

Floats = npt.NDArray[np.float32]
Table = npt.NDArray[np.int64]

CHUNK = 512
"""Voxels whose channels are worked on together: they stay in the cache."""
DISTANCE, BY_NOISE, SLOPES, TIES, WORK = CHUNK, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK, 5 * CHUNK
"""Where the sums over channels stand: squared differences, slopes times exponents, slopes, channels at the minimum."""
CLAMP = np.float32(1e-3)
_TINY = np.float32(1e-30)
_ZERO, _HALF, _ONE, _TWO, _INFINITY = (np.float32(value) for value in (0, 0.5, 1, 2, np.inf))
HALVINGS, FARTHEST = np.float32(1.4426950408889634), np.float32(125)
"""`exp(-x)` is `2^-x` with x times this; x is at most that."""
_C1, _C2, _C3 = np.float32(-0.69314724), np.float32(0.24022648), np.float32(-0.055503324)
_C4, _C5, _C6 = np.float32(0.009618437), np.float32(-0.0013398874), np.float32(0.00015353351)


@intrinsic
def _divided_by_power(_: Any, value: types.Type, power: types.Type) -> Any:
    """`value / 2^power` of a normal float32, by its exponent's bits."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        number, exponent = arguments
        bits = builder.sub(builder.bitcast(number, exponent.type), builder.shl(exponent, exponent.type(23)))
        return builder.bitcast(bits, number.type)

    return types.float32(value, power), generate


@compiled
def halved(x: np.float32) -> np.float32:
    """`2^-x` for x in [0, 125]: a polynomial between the powers of two, which vectorises."""
    whole = np.int32(x + _HALF)
    rest = x - np.float32(whole)
    powers = _ONE + rest * (_C1 + rest * (_C2 + rest * (_C3 + rest * (_C4 + rest * (_C5 + rest * _C6)))))
    return _divided_by_power(powers, whole)  # type: ignore[call-arg, arg-type]


# --- windows --------------------------------------------------------------------------------------------------------


@compiled
def box(source: Floats, at: int, result: Floats, to: int, length: int, step: int, radius: int) -> None:
    """`result[to + p]` is the sum of `source[at + p + t * step]` for `|t| <= radius`."""
    out, middle = result[to : to + length], source[at : at + length]
    if radius == 0:
        out[:] = middle
        return
    before, after = source[at - step : at - step + length], source[at + step : at + step + length]
    for p in range(length):
        out[p] = before[p] + middle[p] + after[p]
    for t in range(2, radius + 1):
        before, after = source[at - t * step : at - t * step + length], source[at + t * step : at + t * step + length]
        for p in range(length):
            out[p] += before[p] + after[p]


@compiled
def window_plane(source: Floats, spare: Floats, ring: Floats, slot: int, begin: int, end: int, frame: Table) -> None:
    """Window sums along y and x of one plane, into a ring of planes."""
    stride, radius_y, radius_x = frame[3], frame[5], frame[6]
    box(source, begin - radius_x, spare, begin - radius_x, end - begin + 2 * radius_x, stride, radius_y)
    box(spare, begin, ring, slot * frame[2] + begin, end - begin, 1, radius_x)


@compiled
def _both(weight: Floats, partner_weight: Floats, result: Floats) -> None:
    for p in range(len(result)):
        result[p] = weight[p] * partner_weight[p]


@compiled
def _square(image: Floats, partner: Floats, weight: Floats, partner_weight: Floats, result: Floats) -> None:
    for p in range(len(result)):
        apart = partner[p] - image[p]
        result[p] = apart * apart * (weight[p] * partner_weight[p])


@compiled
def _mean(summed: Floats, share: Floats, factor: np.float32, result: Floats) -> None:
    for p in range(len(result)):
        part = share[p] * factor
        result[p] = summed[p] * part if part > _ZERO else _INFINITY


@compiled
def patch_means(
    first: int,
    last: int,
    image: Floats,
    weights: Floats,
    share: Floats,
    share_z: Floats,
    pairs: Table,
    frame: Table,
    counting: bool,
    means: Floats,
) -> None:
    """Mean squared difference of two patches for every pair and base; infinite where no pair of voxels is valid.

    When counting: the sum of the voxel pairs' weights.
    """
    line, radius, shift = frame[2], frame[4], frame[7]
    begin, end = frame[0] - frame[8], frame[0] + frame[1] + frame[8]
    planes, reach, flat = 2 * radius + 1, frame[5] * frame[3] + frame[6], len(weights) - 1
    for m in range(len(pairs)):
        step_z, step, z0, z1, f0, f1 = pairs[m]
        squares, spare, ring = (
            np.zeros(line, np.float32),
            np.zeros(line, np.float32),
            np.zeros(planes * line, np.float32),
        )
        for z in range(first - shift - radius, last - shift + radius):
            slot = (z + shift + radius) % planes
            if z0 <= z < z1:
                here, there = weights[min(z, flat)], weights[min(z + step_z, flat)]
                a, b = image[z], image[z + step_z]
                if counting:
                    _both(here[f0:f1], there[f0 + step : f1 + step], squares[f0:f1])
                else:
                    _square(
                        a[f0:f1], b[f0 + step : f1 + step], here[f0:f1], there[f0 + step : f1 + step], squares[f0:f1]
                    )
                window_plane(squares, spare, ring, slot, f0 - reach, f1 + reach, frame)
            else:
                ring[slot * line : (slot + 1) * line] = _ZERO
            out = z - radius + shift
            if out >= first:
                box(ring, radius * line + begin, spare, begin, end - begin, line, radius)
                part = share[m, min(out, len(share[m]) - 1)]
                _mean(spare[begin:end], part[begin:end], share_z[m, out], means[m, out, begin:end])


# --- descriptors, chunk by chunk ------------------------------------------------------------------------------------


@compiled
def _lower(mean: Floats, lowest: Floats) -> None:
    for p in range(len(lowest)):
        lowest[p] = mean[p] if mean[p] < lowest[p] else lowest[p]


@compiled
def _gather_excess(mean: Floats, lowest: Floats, excess: Floats, count: Floats) -> None:
    for p in range(len(lowest)):
        valid = mean[p] < _INFINITY
        excess[p] += mean[p] - lowest[p] if valid else _ZERO
        count[p] += _ONE if valid else _ZERO


@compiled
def _average(weights: Floats, lowest: Floats, noise: Floats, share: Floats) -> np.float32:
    """Turn sums into means and counts into shares; returns the weighted sum of the means."""
    total = _ZERO
    for p in range(len(noise)):
        lowest[p] = lowest[p] if lowest[p] < _INFINITY else _ZERO
        share[p] = _ONE / max(share[p], _ONE)
        noise[p] = noise[p] * share[p]
        total += weights[p] * noise[p]
    return total


@compiled
def noises(
    first: int,
    last: int,
    means: Floats,
    weights: Floats,
    channels: Table,
    frame: Table,
    lowest: Floats,
    noise: Floats,
    share: Floats,
    totals: npt.NDArray[np.float64],
) -> None:
    """Over the valid channels of each voxel: minimum, mean above it (v), 1 / number; `totals`: sum of v by plane."""
    front, count, shift, flat = frame[0], frame[1], frame[7], len(weights) - 1
    for z in range(first, last):
        for begin in range(0, count, CHUNK):
            end = min(begin + CHUNK, count)
            low, spread, number = lowest[z, begin:end], noise[z, begin:end], share[z, begin:end]
            low[:], spread[:], number[:] = _INFINITY, _ZERO, _ZERO
            for k in range(len(channels)):
                at = front + channels[k, 2]
                _lower(means[channels[k, 0], z + shift + channels[k, 1], at + begin : at + end], low)
            for k in range(len(channels)):
                at = front + channels[k, 2]
                mean = means[channels[k, 0], z + shift + channels[k, 1], at + begin : at + end]
                _gather_excess(mean, low, spread, number)
            totals[z] += _average(weights[min(z, flat), front + begin : front + end], low, spread, number)


@compiled
def rates(noise: Floats, typical: np.float32, rate: Floats) -> None:
    """1 / v within its limits, in halvings: `2^-((D - min D) * rate)` is the descriptor."""
    low, high = typical * CLAMP, typical / CLAMP
    for p in range(len(noise)):
        held = noise[p] if noise[p] > low else low
        held = held if held < high else high
        rate[p] = HALVINGS / (_TINY if held < _TINY else held)


@compiled
def _exponents(mean: Floats, lowest: Floats, rate: Floats, result: Floats) -> None:
    for p in range(len(result)):
        scaled = (mean[p] - lowest[p]) * rate[p]
        result[p] = FARTHEST if scaled > FARTHEST else scaled


@compiled
def describe(
    first: int,
    last: int,
    means: Floats,
    lowest: Floats,
    noise: Floats,
    typical: np.float32,
    channels: Table,
    frame: Table,
    described: Floats,
) -> None:
    """Descriptors, `(channels, planes, voxels)`; 0 for invalid channels, of both images alike."""
    front, count, shift = frame[0], frame[1], frame[7]
    inverses, exponents = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    for z in range(first, last):
        for begin in range(0, count, CHUNK):
            end = min(begin + CHUNK, count)
            rate, exponent = inverses[: end - begin], exponents[: end - begin]
            rates(noise[z, begin:end], typical, rate)
            for k in range(len(channels)):
                at = front + channels[k, 2]
                mean = means[channels[k, 0], z + shift + channels[k, 1], at + begin : at + end]
                _exponents(mean, lowest[z, begin:end], rate, exponent)
                result = described[k, z, begin:end]
                for p in range(len(result)):
                    result[p] = halved(exponent[p])


@compiled
def _compare_channel(mean: Floats, lowest: Floats, fixed: Floats, work: Floats, slope: Floats) -> None:
    """One channel's part of what `compare` adds up. Fixed places in one array need no tests whether they overlap."""
    for p in range(len(slope)):
        exponent = (mean[p] - lowest[p]) * work[p]
        exponent = FARTHEST if exponent > FARTHEST else exponent
        own = halved(exponent)
        apart = own - fixed[p]
        slope[p] = own * apart
        work[DISTANCE + p] += apart * apart
        work[BY_NOISE + p] += own * apart * exponent
        work[SLOPES + p] += own * apart
        work[TIES + p] += _ONE if mean[p] == lowest[p] else _ZERO


@compiled
def _still(noise: Floats, lowest: Floats) -> bool:
    """Whether no patch here sees any difference: all descriptors are 1, and nothing can be pulled."""
    most = _ZERO
    for p in range(len(noise)):
        most = max(most, max(noise[p], lowest[p]))
    return bool(most == _ZERO)


@compiled
def _compare_still(mean: Floats, fixed: Floats, work: Floats, slope: Floats) -> None:
    for p in range(len(slope)):
        apart = (_ONE if mean[p] < _INFINITY else _ZERO) - fixed[p]
        slope[p] = _ZERO
        work[DISTANCE + p] += apart * apart


@compiled
def compare(
    z: int,
    begin: int,
    end: int,
    means: Floats,
    lowest: Floats,
    noise: Floats,
    fixed: Floats,
    typical: np.float32,
    channels: Table,
    frame: Table,
    work: Floats,
    slope: Floats,
    slot: int,
) -> bool:
    """Sums over the channels of a chunk, into `work`, where 1 / v stands first; `slope`: of each channel.

    `slope`: minus half the derivative of a squared difference by the exponent. Returns whether the chunk is still.
    """
    front, shift, still = frame[0], frame[7], _still(noise[z, begin:end], lowest[z, begin:end])
    work[:] = _ZERO
    rates(noise[z, begin:end], typical, work[: end - begin])
    for k in range(len(channels)):
        at = front + channels[k, 2]
        mean = means[channels[k, 0], z + shift + channels[k, 1], at + begin : at + end]
        row = slope[k, slot, front + begin : front + end]
        if still:
            _compare_still(mean, fixed[k, z, begin:end], work, row)
        else:
            _compare_channel(mean, lowest[z, begin:end], fixed[k, z, begin:end], work, row)
    for p in range(end - begin):
        work[p] /= HALVINGS
        work[BY_NOISE + p] /= HALVINGS
    return still


@compiled
def weighted(weights: Floats, share: Floats, values: Floats) -> np.float32:
    """Weighted sum of the means over the channels."""
    total = _ZERO
    for p in range(len(values)):
        total += weights[p] * share[p] * values[p]
    return total
