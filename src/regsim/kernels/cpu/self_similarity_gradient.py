"""The squared distance of two MIND-SSC descriptors, and back from it to the image, plane by plane through small rings."""

import numpy as np
import numpy.typing as npt

from regsim.kernels.cpu.compiled import compiled
from regsim.kernels.cpu.self_similarity_loops import (
    BY_NOISE,
    CHUNK,
    CLAMP,
    DISTANCE,
    FARTHEST,
    HALVINGS,
    SLOPES,
    TIES,
    WORK,
    Floats,
    Table,
    box,
    compare,
    halved,
    rates,
    weighted,
    window_plane,
)

_ZERO, _ONE, _TWO, _TINY = (np.float32(value) for value in (0, 1, 2, 1e-30))


@compiled
def _held_back(noise: Floats, typical: np.float32) -> int:
    """How many v lie outside their limits and differ from 0 (where all channels are alike, nothing depends on v)."""
    low, high, found = typical * CLAMP, typical / CLAMP, 0
    for p in range(len(noise)):
        found += ((noise[p] < low) & (noise[p] > _ZERO)) | (noise[p] > high)
    return found


@compiled
def _compare_held_back(
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
) -> None:
    """What `compare` gives, of slopes times exponents and 1 / v alone, for the few voxels that are held back."""
    low, high, here = typical * CLAMP, typical / CLAMP, noise[z, begin:end]
    rates(here, typical, work[: end - begin])
    for p in range(end - begin):
        by_noise = _ZERO
        if ((here[p] < low) & (here[p] > _ZERO)) | (here[p] > high):
            for k in range(len(channels)):
                mean = means[channels[k, 0], z + frame[7] + channels[k, 1], frame[0] + channels[k, 2] + begin + p]
                exponent = min((mean - lowest[z, begin + p]) * work[p], FARTHEST)
                own = halved(exponent)
                by_noise += own * (own - fixed[k, z, begin + p]) * exponent
        work[BY_NOISE + p] = by_noise / HALVINGS
        work[p] /= HALVINGS


@compiled
def _to_typical(
    by_noise: Floats, rate: Floats, noise: Floats, typical: np.float32, weights: Floats, share: Floats
) -> np.float32:
    """Derivative of the sum of weighted distances by the mean of v, through v's limits."""
    low, high, total = typical * CLAMP, typical / CLAMP, _ZERO
    for p in range(len(noise)):
        limit = CLAMP if (noise[p] < low) & (low >= _TINY) else (_ONE / CLAMP if noise[p] > high else _ZERO)
        total += limit * _TWO * by_noise[p] * rate[p] * weights[p] * share[p]
    return total


@compiled
def distances(
    first: int,
    last: int,
    means: Floats,
    lowest: Floats,
    noise: Floats,
    share: Floats,
    fixed: Floats,
    weights: Floats,
    typical: np.float32,
    channels: Table,
    frame: Table,
    everywhere: bool,
    totals: npt.NDArray[np.float64],
) -> None:
    """By plane: the weighted sum of squared distances of two descriptors, and its derivative by the mean of v.

    Unless `everywhere`: only where v lies outside its limits, which is enough for the derivative.
    """
    front, count, flat = frame[0], frame[1], len(weights) - 1
    work, slope = np.empty(WORK, np.float32), np.empty((len(channels), 1, frame[2]), np.float32)
    for z in range(first, last):
        for begin in range(0, count, CHUNK):
            end = min(begin + CHUNK, count)
            here, part, length = noise[z, begin:end], share[z, begin:end], end - begin
            held = _held_back(here, typical)
            if everywhere or held > length // 8:
                compare(z, begin, end, means, lowest, noise, fixed, typical, channels, frame, work, slope, 0)
            elif held:
                _compare_held_back(z, begin, end, means, lowest, noise, fixed, typical, channels, frame, work)
            else:
                continue
            weight = weights[min(z, flat), front + begin : front + end]
            totals[z, 0] += weighted(weight, part, work[DISTANCE : DISTANCE + length])
            by_noise = work[BY_NOISE : BY_NOISE + length]
            totals[z, 1] += _to_typical(by_noise, work[:length], here, typical, weight, part)


@compiled
def _through_limits(by_noise: Floats, rate: Floats, noise: Floats, typical: np.float32) -> None:
    """From the sums of slopes times exponents to the derivative by v, where v is free."""
    low, high = typical * CLAMP, typical / CLAMP
    for p in range(len(noise)):
        inside = (noise[p] >= low) & (noise[p] <= high) & (noise[p] >= _TINY)
        by_noise[p] = by_noise[p] * rate[p] if inside else _ZERO


@compiled
def _scale(by_noise: Floats, rate: Floats, weights: Floats, share: Floats, scale: np.float32) -> None:
    for p in range(len(rate)):
        factor = _TWO * scale * weights[p] * share[p]
        by_noise[p] *= factor
        rate[p] *= factor


@compiled
def _by_lowest(by_noise: Floats, rate: Floats, slopes: Floats, ties: Floats, inside: Floats, pull: np.float32) -> None:
    """Turns the sums of slopes into the derivative by the minimum, for each channel that reaches it."""
    for p in range(len(rate)):
        by_noise[p] += pull * inside[p]
        slopes[p] = (by_noise[p] - rate[p] * slopes[p]) / max(ties[p], _ONE)


@compiled
def _by_mean(mean: Floats, lowest: Floats, rate: Floats, by_noise: Floats, by_lowest: Floats, slope: Floats) -> None:
    """Turns a channel's slopes into the derivative by its mean."""
    for p in range(len(slope)):
        slope[p] = by_noise[p] - rate[p] * slope[p] - (by_lowest[p] if mean[p] == lowest[p] else _ZERO)


@compiled
def _derivatives(
    z: int,
    slot: int,
    means: Floats,
    lowest: Floats,
    noise: Floats,
    share: Floats,
    fixed: Floats,
    weights: Floats,
    inside: Floats,
    typical: np.float32,
    scale: np.float32,
    pull: np.float32,
    channels: Table,
    frame: Table,
    slope: Floats,
) -> np.float64:
    """Derivatives by all channels' means in one plane, into a ring of planes; returns the plane's weighted sum."""
    front, count, shift, total = frame[0], frame[1], frame[7], np.float64(0)
    work = np.empty(WORK, np.float32)
    weight, importance = weights[min(z, len(weights) - 1)], inside[min(z, len(inside) - 1)]
    for begin in range(0, count, CHUNK):
        end = min(begin + CHUNK, count)
        length, low, part = end - begin, lowest[z, begin:end], share[z, begin:end]
        still = compare(z, begin, end, means, lowest, noise, fixed, typical, channels, frame, work, slope, slot)
        rate, by_noise = work[:length], work[BY_NOISE : BY_NOISE + length]
        slopes, ties = work[SLOPES : SLOPES + length], work[TIES : TIES + length]
        total += weighted(weight[front + begin : front + end], part, work[DISTANCE : DISTANCE + length])
        if still:
            continue
        _through_limits(by_noise, rate, noise[z, begin:end], typical)
        _scale(by_noise, rate, weight[front + begin : front + end], part, scale)
        _by_lowest(by_noise, rate, slopes, ties, importance[front + begin : front + end], pull)
        by_noise *= part
        for k in range(len(channels)):
            at = front + channels[k, 2]
            mean = means[channels[k, 0], z + shift + channels[k, 1], at + begin : at + end]
            _by_mean(mean, low, rate, by_noise, slopes, slope[k, slot, front + begin : front + end])
    return total


@compiled
def _gather_bases(one: Floats, other: Floats, share: Floats, factor: np.float32, result: Floats) -> None:
    for p in range(len(result)):
        result[p] = (one[p] + other[p]) * share[p] * factor


@compiled
def _by_difference(
    summed: Floats, image: Floats, partner: Floats, weight: Floats, partner_weight: Floats, result: Floats
) -> None:
    for p in range(len(result)):
        result[p] = _TWO * summed[p] * (partner[p] - image[p]) * (weight[p] * partner_weight[p])


@compiled
def _back_to_differences(
    z: int,
    m: int,
    slope: Floats,
    share: Floats,
    share_z: Floats,
    channels: Table,
    frame: Table,
    begin: int,
    end: int,
    work: Floats,
    ring: Floats,
) -> None:
    """Derivatives by the channels' means back through one pair's window, along y and x, for the bases of plane z."""
    planes, shift = slope.shape[1], frame[7]
    reach = frame[5] * frame[3] + frame[6]
    low, high = begin - reach, end + reach
    first, second = channels[2 * m], channels[2 * m + 1]
    one = slope[2 * m, (z - first[1]) % planes, low - first[2] : high - first[2]]
    other = slope[2 * m + 1, (z - second[1]) % planes, low - second[2] : high - second[2]]
    part = share[m, min(z + shift, len(share[m]) - 1), low:high]
    _gather_bases(one, other, part, share_z[m, z + shift], work[0, low:high])
    slot = (z + shift + frame[4]) % (2 * frame[4] + 1)
    window_plane(work[0], work[1], ring, slot, begin, end, frame)


@compiled
def _add(values: Floats, result: Floats, sign: np.float32) -> None:
    for p in range(len(result)):
        result[p] += sign * values[p]


@compiled
def _collect(z: int, product: Floats, pairs: Table, result: Floats) -> None:
    """Every voxel of a plane as a base and as a partner."""
    keep = product.shape[1]
    for m in range(len(pairs)):
        step_z, step, z0, z1, f0, f1 = pairs[m]
        if z0 <= z < z1:
            _add(product[m, z % keep, f0:f1], result[f0:f1], -_ONE)
        if z0 <= z - step_z < z1:
            _add(product[m, (z - step_z) % keep, f0:f1], result[f0 + step : f1 + step], _ONE)


@compiled
def gradient(
    first: int,
    last: int,
    image: Floats,
    valid: Floats,
    share: Floats,
    share_z: Floats,
    means: Floats,
    lowest: Floats,
    noise: Floats,
    counts: Floats,
    fixed: Floats,
    weights: Floats,
    typical: np.float32,
    scale: np.float32,
    pull: np.float32,
    pairs: Table,
    channels: Table,
    frame: Table,
    totals: npt.NDArray[np.float64],
    result: Floats,
) -> None:
    """Derivative of `scale` times the weighted sum of distances by the image, and by plane that sum without `scale`.

    Planes stream through rings: derivatives by channel, their window sums, then those times the image's differences.
    `pull`: the derivative by the mean of v, for each unit of weight that the mean is taken with.
    """
    line, radius, shift, depth = frame[2], frame[4], frame[7], len(noise)
    keep, flat = shift + 1, len(valid) - 1
    slope = np.zeros((len(channels), keep, line), np.float32)
    rings = np.zeros((len(pairs), (2 * radius + 1) * line), np.float32)
    product = np.zeros((len(pairs), keep, line), np.float32)
    work = np.zeros((2, line), np.float32)
    for z in range(first - shift - radius, last + shift + radius):
        if 0 <= z < depth:
            total = _derivatives(
                z, z % keep, means, lowest, noise, counts, fixed, weights, valid, typical, scale, pull, channels, frame,
                slope,
            )  # fmt: skip
            totals[z] = total if first <= z < last else totals[z]
        else:
            slope[:, z % keep] = _ZERO
        base, out = z - shift, z - shift - radius
        for m in range(len(pairs)):
            step_z, step, z0, z1, f0, f1 = pairs[m]
            if max(z0 - radius, -shift) <= base < min(z1 + radius, depth):
                _back_to_differences(base, m, slope, share, share_z, channels, frame, f0, f1, work, rings[m])
            else:
                slot = (base + shift + radius) % (2 * radius + 1)
                rings[m, slot * line : (slot + 1) * line] = _ZERO
            if z0 <= out < z1:
                box(rings[m], radius * line + f0, work[0], f0, f1 - f0, line, radius)
                here, there = valid[min(out, flat)], valid[min(out + step_z, flat)]
                a, b = image[out], image[out + step_z]
                _by_difference(
                    work[0, f0:f1], a[f0:f1], b[f0 + step : f1 + step], here[f0:f1], there[f0 + step : f1 + step],
                    product[m, out % keep, f0:f1],
                )  # fmt: skip
        if first <= out < last:
            _collect(out, product, pairs, result[out])
