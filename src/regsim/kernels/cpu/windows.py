"""Sums over a sliding window of an image, its square and its product with another, and what local metrics make of them.

For float32 on the CPU. All compiled functions that call each other stand in this one file, as numba notices only changes of
the file in which a function stands.

A window is symmetric and separable: `taps[k]` is its weight at distance k, along every axis. Images are stacks of planes
`(items * depth, height, width)`; a picture is a stack of rows (height 1). The first axis is summed straight from the
images, so that only the plane at work is kept, which fits in the cache; then follow columns and rows. No running totals:
every window is summed on its own, in one order. So neither threads nor batch mates change a digit, and sums of zeros are 0.

The three sums of a plane lie side by side in rows of `3 * (width + 2 * radius)`. Each has a margin of zeros, so that one
loop along the row serves all three. What does not vary by voxel (weights where there is no mask) is one row `(1, 1, width)`.

With `s` the moving and `f` the fixed image (shifted and scaled), W the window's weighted sum, w the mask's weights, and the
means, variances and covariance of each window (`mean = share W(w s)`, `variance = share W(w s^2) - mean^2`, ...):

- correlation: `value = cov^2 / (max(var_f, floor) max(var_s, floor))`;
- structure: `value = (2 a b + c1) (2 cov + c2) / ((a^2 + b^2 + c1) (var_f + var_s + c2))`, with `a = mean_f + centre`, `b =
  mean_s + centre`.

The value of an item is the mean of the windows' values, weighted by `importance` (mask times overlap). A window is its own
adjoint, so the gradient needs three more sums. With B and C the derivatives of the value by variance and covariance and D by
the mean, all times importance and share:

    gradient = w (W(D - 2 B mean_s - C mean_f) + 2 s W(B) + f W(C)).

These three coefficients are kept for as many planes as a window is deep, and the gradient follows half a window behind.
"""

from typing import Any

import numpy as np

from regsim.kernels.cpu.compiled import compiled

CORRELATION, STRUCTURE = 0, 1
"""Which similarity."""

_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
"""A plain number would make doubles of single precision, and halve the speed."""


# --- one row or plane -------------------------------------------------------------------------------------------------


@compiled
def row_of(volume: Any, number: int, y: int) -> Any:
    """A row of a stack of planes, or the one row that stands for all."""
    return volume[min(number, volume.shape[0] - 1), min(y, volume.shape[1] - 1)]


@compiled
def thirds(row: Any, radius: int) -> tuple[Any, Any, Any]:
    """The three sums that lie in one row, without their margins."""
    stride = len(row) // 3
    width = stride - 2 * radius
    start = radius, stride + radius, 2 * stride + radius
    return row[start[0] : start[0] + width], row[start[1] : start[1] + width], row[start[2] : start[2] + width]


@compiled
def opposite(place: int, step: int, length: int, weight: Any) -> tuple[int, int, Any]:
    """The two places at distance `step` within `0 .. length`, and the weight of each; a lone one stands for both."""
    low, high = place - step, place + step
    if low < 0 and high >= length:
        return place, place, _ZERO
    if low < 0:
        return high, high, weight * _HALF
    if high >= length:
        return low, low, weight * _HALF
    return low, high, weight * _HALF if step == 0 else weight


@compiled
def products_across(
    plane: Any, moving: Any, fixed: Any, weights: Any, number: int, depth: int, taps: Any, shift: Any, scale: Any
) -> None:
    """Into `plane`: sums across the planes of `w s`, `w s^2` and `w f s`, with `s = (moving - shift) * scale`."""
    height, width = moving.shape[1:]
    radius, start = len(taps) - 1, number - number % depth
    for y in range(height):
        plane[y] = 0
        plain, square, product = thirds(plane[y], radius)
        for step in range(min(radius + 1, depth)):
            low, high, weight = opposite(number - start, step, depth, taps[step])
            low, high = start + low, start + high
            m0, f0, w0 = moving[low, y], fixed[low, y], row_of(weights, low, y)
            m1, f1, w1 = moving[high, y], fixed[high, y], row_of(weights, high, y)
            for x in range(width):
                s, t = (m0[x] - shift) * scale, (m1[x] - shift) * scale
                p, q = weight * w0[x] * s, weight * w1[x] * t
                plain[x] += p + q
                square[x] += p * s + q * t
                product[x] += p * f0[x] + q * f1[x]


@compiled
def sums_across(plane: Any, ring: Any, number: int, depth: int, taps: Any) -> None:
    """Into `plane`: sums across planes of which `ring[n % len(ring)]` is the n-th of `depth`."""
    flat = plane.reshape(-1)
    flat[:] = 0
    for step in range(min(len(taps), depth)):
        low, high, weight = opposite(number, step, depth, taps[step])
        a, b = ring[low % len(ring)].reshape(-1), ring[high % len(ring)].reshape(-1)
        for x in range(len(flat)):
            flat[x] += weight * (a[x] + b[x])


@compiled
def sums_within(sums: Any, line: Any, plane: Any, y: int, taps: Any) -> None:
    """Into `sums`: row `y` of a plane, summed along columns (into `line`), then along rows."""
    height, width = plane.shape
    radius = len(taps) - 1
    line[:] = 0
    for step in range(min(radius + 1, height)):
        low, high, weight = opposite(y, step, height, taps[step])
        a, b = plane[low], plane[high]
        for x in range(width):
            line[x] += weight * (a[x] + b[x])
    total, middle = sums[radius : width - radius], line[radius : width - radius]
    for x in range(len(total)):
        total[x] = taps[0] * middle[x]
    for step in range(1, radius + 1):
        left, right, weight = line[radius - step :], line[radius + step :], taps[step]
        for x in range(len(total)):
            total[x] += weight * (left[x] + right[x])


@compiled
def _correlation(
    pull: Any,
    totals: Any,
    sums: Any,
    radius: int,
    mean: Any,
    variance: Any,
    part: Any,
    share: Any,
    importance: Any,
    settings: Any,
) -> None:
    """One row of windows: coefficients into `pull`; value, value of flat windows and importance added to `totals`."""
    floor = settings[0]
    value, flat, total = 0.0, 0.0, 0.0
    plain, square, product = thirds(sums, radius)
    by_average, by_variance, by_covariance = thirds(pull, radius)
    for x in range(len(share)):
        own = part * share[x]
        average = plain[x] * own
        spread = square[x] * own - average * average
        covariance = product[x] * own - mean[x] * average
        rising = _ONE if spread >= floor else _ZERO
        varied = max(spread, floor)
        slope = covariance / (max(variance[x], floor) * varied)
        squared = importance[x] * covariance * slope
        value += squared
        total += importance[x]
        flat += (_ONE - rising) * squared
        towards = _TWO * own * importance[x] * slope
        spreading = -rising * own * squared / varied
        by_covariance[x] = towards
        by_variance[x] = spreading
        by_average[x] = -_TWO * spreading * average - towards * mean[x]
    totals[0] += value
    totals[1] += flat
    totals[2] += total


@compiled
def _structure(
    pull: Any,
    totals: Any,
    sums: Any,
    radius: int,
    mean: Any,
    variance: Any,
    part: Any,
    share: Any,
    importance: Any,
    settings: Any,
) -> None:
    """One row of windows, as `_correlation`."""
    c1, c2, centre = settings[0], settings[1], settings[2]
    value, total = 0.0, 0.0
    plain, square, product = thirds(sums, radius)
    by_average, by_variance, by_covariance = thirds(pull, radius)
    for x in range(len(share)):
        own = part * share[x]
        average = plain[x] * own
        spread = max(square[x] * own - average * average, _ZERO)
        covariance = product[x] * own - mean[x] * average
        a, b, apart = mean[x] + centre, average + centre, mean[x] - average
        bright, varied = a * a + b * b + c1, variance[x] + spread + c2
        luminance = _ONE - apart * apart / bright
        structure = (_TWO * covariance + c2) / varied
        value += importance[x] * structure * luminance
        total += importance[x]
        factor = own * importance[x]
        brightening = _TWO * factor * structure * (apart + b * apart * apart / bright) / bright
        towards = _TWO * factor * luminance / varied
        spreading = -factor * luminance * structure / varied
        by_covariance[x] = towards
        by_variance[x] = spreading
        by_average[x] = brightening - _TWO * spreading * average - towards * mean[x]
    totals[0] += value
    totals[2] += total


@compiled
def _gradient_row(
    gradient: Any, sums: Any, radius: int, moving: Any, fixed: Any, weights: Any, shift: Any, scale: Any
) -> None:
    by_average, by_variance, by_covariance = thirds(sums, radius)
    for x in range(len(moving)):
        s = (moving[x] - shift) * scale
        gradient[x] = weights[x] * (by_average[x] + _TWO * s * by_variance[x] + fixed[x] * by_covariance[x])


# --- all planes -------------------------------------------------------------------------------------------------------


@compiled
def moments(
    first: int,
    last: int,
    image: Any,
    weights: Any,
    depth: int,
    taps: Any,
    shifts: Any,
    scales: Any,
    share: Any,
    across: Any,
    down: Any,
    standard: Any,
    mean: Any,
    variance: Any,
) -> None:
    """For planes `first` to `last`: the image shifted and scaled, its mean and its variance in each window."""
    height, width = image.shape[1:]
    radius = len(taps) - 1
    plane = np.zeros((height, 3 * (width + 2 * radius)), np.float32)
    line, sums = np.zeros(plane.shape[1], np.float32), np.zeros(plane.shape[1], np.float32)
    plain, square, _ = thirds(sums, radius)
    for number in range(first, last):
        shift, scale = shifts[number // depth], scales[number // depth]
        products_across(plane, image, image, weights, number, depth, taps, shift, scale)
        for y in range(height):
            sums_within(sums, line, plane, y, taps)
            values, part, row = image[number, y], across[number % depth] * down[y], row_of(share, number, y)
            a, b, c = standard[number, y], mean[number, y], variance[number, y]
            for x in range(width):
                average = plain[x] * (part * row[x])
                a[x] = (values[x] - shift) * scale
                b[x] = average
                c[x] = square[x] * (part * row[x]) - average * average


@compiled
def statistics(first: int, last: int, image: Any, weights: Any, table: Any) -> None:
    """For planes `first` to `last`: sums of `w`, `w x`, `w x^2`, and the smallest and largest x where w is positive."""
    for number in range(first, last):
        total, moment, square = 0.0, 0.0, 0.0
        low, high = np.float32(np.inf), np.float32(-np.inf)
        for y in range(image.shape[1]):
            values, weight = image[number, y], row_of(weights, number, y)
            for x in range(len(values)):
                value = np.float64(values[x])
                total += weight[x]
                moment += weight[x] * value
                square += weight[x] * value * value
            for x in range(len(values)):
                if weight[x] > 0:
                    low, high = min(low, values[x]), max(high, values[x])
        table[number, 0], table[number, 1], table[number, 2] = total, moment, square
        table[number, 3], table[number, 4] = low, high


@compiled
def sweep(
    first: int,
    last: int,
    form: int,
    moving: Any,
    fixed: Any,
    mean: Any,
    variance: Any,
    weights: Any,
    importance: Any,
    depth: int,
    taps: Any,
    share: Any,
    across: Any,
    down: Any,
    shifts: Any,
    scales: Any,
    settings: Any,
    gradient: Any,
    table: Any,
) -> None:
    """For planes `first` to `last`: totals of each into `table`; the gradient, unless its array is empty."""
    height, width = moving.shape[1:]
    radius = len(taps) - 1
    reach = min(radius, depth - 1) if len(gradient) else 0
    stride = width + 2 * radius
    plane = np.zeros((height, 3 * stride), np.float32)
    line, sums = np.zeros(3 * stride, np.float32), np.zeros(3 * stride, np.float32)
    ring, spare = np.zeros((2 * reach + 1, height, 3 * stride), np.float32), np.zeros(3)
    begin = first
    while begin < last:
        item = begin // depth
        start, stop = item * depth, min(last, (item + 1) * depth)
        shift, scale = shifts[item], scales[item]
        known = min(stop + reach, start + depth)
        for ahead in range(max(begin - reach, start), stop + reach):
            if ahead < known:
                products_across(plane, moving, fixed, weights, ahead, depth, taps, shift, scale)
                totals, pulls = table[ahead] if begin <= ahead < stop else spare, ring[(ahead - start) % len(ring)]
                totals[:] = 0
                for y in range(height):
                    sums_within(sums, line, plane, y, taps)
                    own, part = row_of(share, ahead, y), across[ahead - start] * down[y]
                    worth, f, v = row_of(importance, ahead, y), mean[ahead, y], variance[ahead, y]
                    if form == CORRELATION:
                        _correlation(pulls[y], totals, sums, radius, f, v, part, own, worth, settings[item])
                    else:
                        _structure(pulls[y], totals, sums, radius, f, v, part, own, worth, settings[item])
            place = ahead - reach
            if len(gradient) and begin <= place < stop:
                sums_across(plane, ring, place - start, depth, taps)
                for y in range(height):
                    sums_within(sums, line, plane, y, taps)
                    w = row_of(weights, place, y)
                    _gradient_row(gradient[place, y], sums, radius, moving[place, y], fixed[place, y], w, shift, scale)
        begin = stop


@compiled
def scaled(
    first: int,
    last: int,
    gradient: Any,
    moving: Any,
    weights: Any,
    depth: int,
    shifts: Any,
    scales: Any,
    factors: Any,
    bends: Any,
    scaled: Any,
) -> None:
    """`factor * gradient - bend * w s`."""
    for number in range(first, last):
        item = number // depth
        shift, scale, factor, bend = shifts[item], scales[item], factors[item], bends[item]
        for y in range(gradient.shape[1]):
            g, m, w, out = gradient[number, y], moving[number, y], row_of(weights, number, y), scaled[number, y]
            for x in range(len(g)):
                out[x] = factor * g[x] - bend * w[x] * ((m[x] - shift) * scale)
