"""L-BFGS for linear transforms: second-order steps from gradients alone, a handful of parameters, no step size to tune."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize

from regsim.errors import GridError
from regsim.registration.descent import Cost, Groups, Outcome, Record

REACH = 24.0
GAIN, SLOPE = 5e-4, 3e-3
LINE_SEARCH = 8
TOO_MANY = 1
"""SciPy's status where the evaluations are used up; the others mean that no lower cost was found."""
FAR = 1e6
"""A place without overlap, in steps: worse than any other."""

Vector = npt.NDArray[np.float64]


class _StoppedError(Exception):
    """The cost is NaN, or the start has no overlap."""


class _Search:
    """The cost as a function of a vector whose unit is one step, in units of what the first step would gain."""

    def __init__(self, cost: Cost, groups: Groups, record: Record, outcome: Outcome):
        self.cost, self.groups, self.record, self.outcome = cost, groups, record, outcome
        self.scale = np.concatenate([np.full(parameter.numel(), length) for parameter, length in groups])
        self.start = gather(groups)
        self.unit = 0.0
        self.best, self.kept = math.inf, self.start

    def __call__(self, steps: Vector) -> tuple[float, Vector]:
        scatter(self.groups, self.start + steps * self.scale)
        try:
            value, smooth = self.cost()
        except GridError as problem:
            if not self.outcome.costs:
                self.outcome.problem = str(problem)
                raise _StoppedError from None
            return FAR, np.zeros_like(steps)
        if not bool(torch.isfinite(value)):
            self.outcome.problem = "the cost is NaN or infinite"
            raise _StoppedError
        slopes = torch.autograd.grad(value, [parameter for parameter, _ in self.groups])
        slope = np.concatenate([each.detach().cpu().double().numpy().ravel() for each in slopes]) * self.scale
        if not np.isfinite(slope).all():
            self.outcome.problem = "the gradient is NaN or infinite"
            raise _StoppedError
        self._note(float(value.detach()), smooth, self.start + steps * self.scale)
        if self.unit == 0.0:
            self.unit = max(float(np.linalg.norm(slope)), 1e-20)
        return (self.outcome.costs[-1] - self.outcome.costs[0]) / self.unit, slope / self.unit

    def _note(self, value: float, smooth: float, place: Vector) -> None:
        self.outcome.costs.append(value)
        if value < self.best:
            self.best, self.kept = value, place
        self.record(len(self.outcome.costs) - 1, value, smooth)


def lower(cost: Cost, groups: Groups, steps: int, record: Record, outcome: Outcome) -> None:
    """Move the parameters to a lower cost, in place.

    The unit of every parameter is its step, and the cost is divided by its slope at the start, so the first step is one step
    long and "converged" means the same for every metric: an iteration that gains less than a two-thousandth of what the
    first slope promised for one step. Places further than 24 steps are not tried.

    Args:
        cost: gives the cost (with gradient) and the penalty within it, for the parameters of the moment.
        groups: each parameter with the length of its first step.
        steps: about the most evaluations (a line search that has begun is finished).
        record: called with number, cost and penalty after each evaluation.
        outcome: is filled.

    References:
        Byrd, Lu, Nocedal and Zhu 1995, doi:10.1137/0916069; SciPy's implementation.
    """
    search = _Search(cost, groups, record, outcome)
    options: Any = {"maxfun": steps, "ftol": GAIN, "gtol": SLOPE, "maxcor": len(search.start), "maxls": LINE_SEARCH}
    try:
        found = minimize(
            search,
            np.zeros(len(search.start)),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-REACH, REACH)] * len(search.start),
            options=options,
        )
        outcome.stop = "steps done" if found.status == TOO_MANY else "converged"
    except _StoppedError:
        pass
    scatter(groups, search.kept)


def gather(pairs: Groups) -> Vector:
    """All parameters as one vector."""
    return np.concatenate([parameter.detach().cpu().double().numpy().ravel() for parameter, _ in pairs])


def scatter(pairs: Groups, values: Vector) -> None:
    """One vector back into the parameters."""
    first = 0
    with torch.no_grad():
        for parameter, _ in pairs:
            part = values[first : first + parameter.numel()]
            parameter.copy_(torch.as_tensor(part).reshape(parameter.shape))
            first += parameter.numel()
