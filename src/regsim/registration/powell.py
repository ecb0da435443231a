"""Powell's method for linear transforms: no gradient needed."""

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize

from regsim.errors import GridError
from regsim.registration.descent import Groups, Outcome, Record
from regsim.registration.level import Level
from regsim.registration.quasi_newton import gather, scatter
from regsim.registration.schedule import Level as LevelSettings
from regsim.transforms.base import Transform

REACH = 12.0
LINE_SEARCHES = 4
FAR = 1e30


def minimise(
    level: Level, whole: Transform, scales: Groups, settings: LevelSettings, record: Record, outcome: Outcome
) -> None:
    """Move the parameters to a lower cost, in place.

    Parameters are scaled so that one unit moves points by about the level's `step`, and searched within +-12 steps of the
    start, which keeps line searches from running off to where the images no longer meet (such places cost 1e30).

    Args:
        level: what is compared.
        whole: the transform, of which `scales` names the parameters and what change of each moves points by one unit.
        settings: steps (Powell may evaluate 4 times as often per parameter) and step.
        record: called with number, cost and 0 after each evaluation.
        outcome: is filled.

    References:
        Powell 1964, doi:10.1093/comjnl/7.2.155; SciPy's implementation.
    """
    scale = np.concatenate([np.full(parameter.numel(), settings.step * unit) for parameter, unit in scales])
    start = gather(scales)
    mapping = level.mapping(whole)

    def cost(values: npt.NDArray[np.float64]) -> float:
        scatter(scales, start + values * scale)
        with torch.no_grad():
            try:
                value = float(level.cost(mapping()))
            except GridError:
                return FAR
        if not np.isfinite(value):
            outcome.problem = "the cost is NaN or infinite"
            return FAR
        outcome.costs.append(value)
        record(len(outcome.costs) - 1, value, 0.0)
        return value

    found = minimize(
        cost,
        np.zeros(len(start)),
        method="Powell",
        bounds=[(-REACH, REACH)] * len(start),
        options={"maxfev": settings.steps * len(start) * LINE_SEARCHES, "xtol": 0.02, "ftol": 1e-6},
    )
    outcome.stop = "converged" if found.success else "steps done"
    scatter(scales, start + found.x * scale)
