"""What the sets of `benchmarks.registration` share: one run, one row, and how a transform is judged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import peak_memory
from benchmarks.peers import Found
from benchmarks.rows import Row, Table
from regsim.errors import RegsimError
from regsim.evaluation.accuracy import dice
from regsim.images import Image
from regsim.prepare import coarser
from regsim.registration import register
from regsim.registration.schedule import Goal, Schedule, schedule_for
from regsim.transforms import Transform, warp

OURS = "regsim"
SMALLEST_LABEL = 100
COLUMNS = (
    "set", "case", "who", "threads", "seconds", "memory_mib", "before", "after", "worst", "dice", "folded_percent",
    "consistency", "ncc", "mind", "voxels", "steps", "note", "problem",
)  # fmt: skip
KEY = ("case", "who", "threads")


@dataclass(frozen=True)
class Run:
    """One registration to be measured: which case, by whom, with what settings."""

    case: str
    who: str
    settings: str = ""
    threads: int = 2


@dataclass(frozen=True)
class Plan:
    """What was asked for. `peers`: which contestants beside regsim take part."""

    quick: bool
    peers: tuple[str, ...]

    def takes(self, who: str) -> bool:
        """Whether this contestant takes part."""
        return who.startswith(OURS) or who.lower() in (peer.lower() for peer in self.peers)


@dataclass(frozen=True)
class BenchmarkSet:
    """`runs(plan, table, data)`: what to measure, in order; it may look at the rows so far. `measure(data, run)`: one row.
    `limit`: seconds after which a run is given up."""

    about: str
    runs: Callable[[Plan, Table, Path], Iterator[Run]]
    measure: Callable[[Path, Run], Row]
    limit: float = 1800.0


def measured(work: Callable[[], Found]) -> tuple[Found, Row]:
    """Do the work; its seconds and peak memory as columns."""
    with peak_memory() as memory:
        found = work()
    return found, {"seconds": found.seconds, "memory_mib": memory.mebibytes}


def ours(
    fixed: Image, moving: Image, goal: Goal, metric: str | None = None, schedule: Schedule | None = None
) -> tuple[Found, Row]:
    """regsim's `register`, all of it, after a tiny registration that loads what is compiled."""
    warm_up(fixed, moving, goal, metric)

    def work() -> Found:
        found = register(fixed, moving, metric, goal, schedule=schedule)
        return Found(found.transform, found.seconds)

    return measured(work)


def warm_up(fixed: Image, moving: Image, goal: Goal, metric: str | None) -> None:
    """Two steps a level at 16 voxels: nothing is compiled or imported in the measured call."""
    small = [coarser(image, float(image.grid.extent.max()) / 16) for image in (fixed, moving)]
    register(*small, metric, goal, schedule=with_steps(schedule_for(goal, small[0].grid, metric), 0.0))


def with_steps(schedule: Schedule, factor: float) -> Schedule:
    """The same plan with more or fewer steps a level (at least two)."""
    stages = []
    for stage in schedule.stages:
        levels = tuple(
            level.model_copy(update={"steps": max(2, round(factor * level.steps))}) for level in stage.levels
        )
        stages.append(stage.model_copy(update={"levels": levels}))
    return schedule.model_copy(update={"stages": tuple(stages)})


def searching(goal: Goal, fixed: Image) -> tuple[Schedule, str]:
    """The default plan with the global search as its start; where this version has none, the usual start, and a note."""
    try:
        return schedule_for(goal, fixed.grid, start="search"), ""  # type: ignore[arg-type]
    except (RegsimError, ValueError):
        return schedule_for(goal, fixed.grid), "this version has no start 'search': auto"


def overlap(found: Found, fixed_labels: Image, moving_labels: Image) -> Row:
    """Mean Dice over the labels of at least 100 voxels, and the share of the fixed grid that folds."""
    grid = fixed_labels.grid
    carried = warp(moving_labels, found.transform, grid, "labels")
    with torch.no_grad():
        folded = float((found.transform.jacobian_determinant(grid) <= 0).float().mean())
    overlaps = list(dice(fixed_labels, carried, SMALLEST_LABEL).values())
    return {"dice": float(np.mean(overlaps)), "folded_percent": 100 * folded}


def errors(distances: torch.Tensor, before: torch.Tensor, how: Callable[[torch.Tensor], torch.Tensor]) -> Row:
    """Error before and after as `how` sums it up, and the largest after."""
    return {"before": float(how(before)), "after": float(how(distances)), "worst": float(distances.max())}


def mapped(transform: Transform, points: torch.Tensor) -> torch.Tensor:
    """Points through a transform, without gradient."""
    with torch.no_grad():
        found: torch.Tensor = transform(points)
    return found
