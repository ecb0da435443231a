"""Powell's method for linear transforms: no gradient needed."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize

from regsim.registration.level import Level
from regsim.transforms.linear import LinearTransform

REACH = 12.0
LINE_SEARCHES = 4


def minimise(level: Level, transform: LinearTransform, steps: int, step: float, record: Callable[[float], None]) -> str:
    """Move the transform's parameters to a lower cost, in place; returns why it stopped.

    Parameters are scaled so that one unit moves points by about `step`, and searched within +-12 steps of the start, which
    keeps line searches from running off where the images no longer meet.

    References:
        Powell 1964, doi:10.1093/comjnl/7.2.155; SciPy's implementation.
    """
    pairs = transform.steps(level.grid.radius)
    scale = np.concatenate([np.full(parameter.numel(), step * unit) for parameter, unit in pairs])
    start = _gather(pairs)
    mapping = transform.mapping(level.grid)

    def cost(values: npt.NDArray[np.float64]) -> float:
        _scatter(pairs, start + values * scale)
        with torch.no_grad():
            value = float(level.cost(mapping()))
        record(value)
        return value

    found = minimize(
        cost,
        np.zeros(len(start)),
        method="Powell",
        bounds=[(-REACH, REACH)] * len(start),
        options={"maxfev": steps * len(start) * LINE_SEARCHES, "xtol": 0.02, "ftol": 1e-6},
    )
    _scatter(pairs, start + found.x * scale)
    return "converged" if found.success else "steps done"


def _gather(pairs: list[tuple[torch.nn.Parameter, float]]) -> npt.NDArray[np.float64]:
    return np.concatenate([parameter.detach().cpu().double().numpy().ravel() for parameter, _ in pairs])


def _scatter(pairs: list[tuple[torch.nn.Parameter, float]], values: npt.NDArray[np.float64]) -> None:
    first = 0
    with torch.no_grad():
        for parameter, _ in pairs:
            part = values[first : first + parameter.numel()]
            parameter.copy_(torch.as_tensor(part).reshape(parameter.shape))
            first += parameter.numel()
