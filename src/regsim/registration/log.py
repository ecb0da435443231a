"""What the driver writes down: one row a level, one row a step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LevelLog:
    """One level of one stage. Costs: lower is better; `spacing` is the smallest of the level's grid, `metric` what drove."""

    stage: str
    level: int
    spacing: float
    voxels: int
    iterations: int
    cost_first: float
    cost_last: float
    overlap: float
    seconds: float
    stop: str
    metric: str = ""


@dataclass(frozen=True)
class StepLog:
    """One step. `cost` includes `penalty`."""

    stage: str
    level: int
    step: int
    cost: float
    penalty: float
