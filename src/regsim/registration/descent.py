"""Gradient descent whose step is a length: the loop under deformable stages (and linear ones that ask for adam)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from regsim.errors import GridError

CONVERGED_WINDOW, CONVERGED_SHARE = 15, 1e-3
BETAS = (0.9, 0.99)
SMALLEST_GRADIENT = 1e-20

Cost = Callable[[], tuple[torch.Tensor, float]]
Record = Callable[[int, float, float], None]
Groups = list[tuple[torch.nn.Parameter, float]]


@dataclass
class Outcome:
    """How a descent went: the cost of every step, why it stopped, and what went wrong (empty if nothing did)."""

    costs: list[float] = field(default_factory=list)
    stop: str = "steps done"
    problem: str = ""


def descend(cost: Cost, groups: Groups, steps: int, end: float, record: Record, outcome: Outcome) -> None:
    """Lower a cost by Adam; each parameter's step starts at its own length and falls along a cosine to `end` times that.

    Adam divides the gradient by its own running size, so a step is as long as it is said to be, whatever the cost's scale.
    The parameters of the lowest cost are put back at the end, also when the cost became NaN or the overlap was lost.

    Args:
        cost: gives the cost (with gradient) and the penalty within it, for the parameters of the moment.
        groups: each parameter with the length of its first step.
        steps: at most.
        end: the last step's share of the first.
        record: called with step, cost and penalty after each evaluation.
        outcome: is filled.

    References:
        Kingma and Ba 2015, doi:10.48550/arXiv.1412.6980.
    """
    parameters = [parameter for parameter, _ in groups]
    moments = [_Moments(parameter) for parameter in parameters]
    best = math.inf
    kept = [parameter.detach().clone() for parameter in parameters]
    for step in range(steps):
        share = end + (1 - end) * 0.5 * (1 + math.cos(math.pi * step / steps))
        value, smooth, outcome.problem = _guarded(cost)
        if outcome.problem:
            break
        outcome.costs.append(float(value.detach()))
        if outcome.costs[-1] < best:
            best, kept = outcome.costs[-1], [parameter.detach().clone() for parameter in parameters]
        record(step, outcome.costs[-1], smooth)
        if _converged(outcome.costs):
            outcome.stop = "converged"
            break
        for own, (_, length), slope in zip(moments, groups, torch.autograd.grad(value, parameters), strict=True):
            own.step(slope, length * share)
    with torch.no_grad():
        for parameter, good in zip(parameters, kept, strict=True):
            parameter.copy_(good)


class _Moments:
    """Adam for one parameter. torch's own takes seconds to import (its compiler) and more than our loops at each step."""

    def __init__(self, parameter: torch.nn.Parameter):
        self.parameter, self.steps = parameter, 0
        self.mean, self.square = torch.zeros_like(parameter), torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, slope: torch.Tensor, length: float) -> None:
        """One step against the slope; the first is `length` long in every coordinate."""
        self.steps += 1
        self.mean.lerp_(slope, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(slope, slope, value=1 - BETAS[1])
        unbiased = 1 - BETAS[0] ** self.steps, math.sqrt(1 - BETAS[1] ** self.steps)
        size = (self.square.sqrt() / unbiased[1]).add_(SMALLEST_GRADIENT)
        self.parameter.addcdiv_(self.mean, size, value=-length / unbiased[0])


def _guarded(cost: Cost) -> tuple[torch.Tensor, float, str]:
    """Cost, penalty, and what is wrong with them."""
    try:
        value, smooth = cost()
    except GridError as problem:
        return torch.zeros(()), 0.0, str(problem)
    return value, smooth, "" if bool(torch.isfinite(value)) else "the cost is NaN or infinite"


def _converged(costs: list[float]) -> bool:
    """The last steps changed less than a thousandth of what the level has gained (nothing, if it began at the optimum)."""
    recent = costs[-CONVERGED_WINDOW:]
    if len(recent) < CONVERGED_WINDOW:
        return False
    return max(recent) - min(recent) <= CONVERGED_SHARE * (costs[0] - min(costs))
