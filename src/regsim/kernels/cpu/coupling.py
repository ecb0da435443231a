"""Displacements that fit a cell's costs and what is expected of it, float32 on the CPU."""

import numpy as np
import numpy.typing as npt

from regsim.kernels.cpu.compiled import compiled
from regsim.kernels.cpu.matching import powers_of_two

Floats = npt.NDArray[np.float32]


@compiled
def posterior(
    own: Floats,
    places: Floats,
    prior: Floats,
    sharpness: float,
    pull: float,
    weights: Floats,
    bits: npt.NDArray[np.int32],
    found: Floats,
) -> None:
    """One cell's mean, scatter and excess; `weights` and `bits` are room to work in."""
    count = len(own)
    pz, py, px = places[0], places[1], places[2]
    best, mean = np.float32(1e30), np.float32(0)
    for n in range(count):
        mean += own[n]
        best = min(best, own[n])
    spread = max(mean / np.float32(count) - best, np.float32(1e-6))
    rate, tie = np.float32(sharpness) / spread, np.float32(pull)
    uz, uy, ux = prior[0], prior[1], prior[2]
    lowest = np.float32(1e30)
    for n in range(count):
        away = (pz[n] - uz) ** 2 + (py[n] - uy) ** 2 + (px[n] - ux) ** 2
        weights[n] = (own[n] - best) * rate + tie * away
        lowest = min(lowest, weights[n])
    for n in range(count):
        weights[n] = (lowest - weights[n]) * np.float32(1.4426950408889634)
    powers_of_two(weights, bits, weights)
    total = az = ay = ax = square = excess = np.float32(0)
    for n in range(count):
        weight = weights[n]
        total += weight
        az += weight * pz[n]
        ay += weight * py[n]
        ax += weight * px[n]
        square += weight * (pz[n] ** 2 + py[n] ** 2 + px[n] ** 2)
        excess += weight * own[n]
    az, ay, ax = az / total, ay / total, ax / total
    found[0], found[1], found[2] = az, ay, ax
    found[3] = np.sqrt(max(square / total - az * az - ay * ay - ax * ax, np.float32(0)))
    found[4] = (excess / total - best) / spread


@compiled
def posterior_means(
    first: int,
    last: int,
    costs: Floats,
    places: Floats,
    prior: Floats,
    sharpness: float,
    pull: float,
    result: Floats,
) -> None:
    """Mean and scatter of the displacement, and the mean excess cost, under `exp(-sharpness e - pull |d - prior|^2)`.

    e is the excess of a cost over the cell's lowest, over the excess of its mean. `costs` `(d, h, w, n)`, `places` `(3, n)`,
    `prior` `(3, d, h, w)`. Result `(5, d, h, w)`: three components, scatter, excess.
    """
    count = costs.shape[3]
    weights, bits = np.empty(count, np.float32), np.empty(count, np.int32)
    for z in range(first, last):
        for y in range(costs.shape[1]):
            for x in range(costs.shape[2]):
                posterior(costs[z, y, x], places, prior[:, z, y, x], sharpness, pull, weights, bits, result[:, z, y, x])
