"""How well costs order and detect known errors, with intervals over subjects, for `benchmarks.contrasts`."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev

import numpy as np
from rich.progress import track

from benchmarks.contrast_subjects import UNSURE_SETS, has_pathology
from benchmarks.rows import Row
from regsim.evaluation.statistics import area_under_curve, interval, spearman

EASY, ALL_SETS, PATHOLOGY, HARD, ALL = "easy", "all sets", "pathology", "all hard", "all"
RESAMPLES, SEED = 300, 0
LEAST_LADDER = 3
Cell = tuple[int, str, str, str]
Statistic = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class Summary:
    """One row of the summary; NaN where there is nothing to say.

    Args:
        dims, set, condition, metric: whose it is. "all sets", "all hard" (all but easy), "all" and "pathology" (easy, only
            subjects with lesions or a tumour) pool pairs.
        seeds: how many trainings a mean is over; 1 for a single metric.
        persons, pairs: how many.
        spearman, auc_1, auc_2: of pooled pairs: rank correlation of cost and true error over the ladder; chance that a pair
            of 1 mm, or 2 mm, costs more than an aligned one.
        twins_1: share of the pairs of 1 mm that cost more than their aligned twin, the same but for the motion.
        *_low, *_high: 95 % over resampled persons (with few persons they lie too high for the AUC, since who is drawn twice
            is compared with himself); of seeds: the lowest and the highest.
        spearman_within: mean over the rank correlations of each subject and condition by itself.
        offset: mean distance of the lowest cost from alignment, voxels.
        *_spread: standard deviation over seeds.
    """

    dims: int
    set: str
    condition: str
    metric: str
    seeds: int = 1
    persons: int = 0
    pairs: int = 0
    spearman: float = float("nan")
    spearman_low: float = float("nan")
    spearman_high: float = float("nan")
    auc_1: float = float("nan")
    auc_1_low: float = float("nan")
    auc_1_high: float = float("nan")
    auc_2: float = float("nan")
    auc_2_low: float = float("nan")
    auc_2_high: float = float("nan")
    twins_1: float = float("nan")
    twins_1_low: float = float("nan")
    twins_1_high: float = float("nan")
    spearman_within: float = float("nan")
    offset: float = float("nan")
    spearman_spread: float = float("nan")
    auc_1_spread: float = float("nan")
    auc_2_spread: float = float("nan")
    twins_1_spread: float = float("nan")


POOLED = ("spearman", "auc_1", "auc_2", "twins_1")
FIGURES = (*POOLED, "spearman_within", "offset")


@dataclass
class _Pairs:
    """The pairs of one cell, column by column, and the offsets of its lowest costs."""

    subject: list[str] = field(default_factory=list)
    place: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    number: list[int] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    offset: list[float] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.subject.append(str(row["subject"]).partition("/")[0])
        self.place.append(f"{row['set']} {row['condition']} {row['subject']}")
        self.group.append(str(row["group"]))
        self.number.append(int(float(row["number"])))
        self.error.append(float(row["error"]))
        self.cost.append(float(row["cost"]))


def summarise(pairs: Iterable[Row], optima: Iterable[Row] = (), resamples: int = RESAMPLES) -> list[Summary]:
    """The summary of rows as `benchmarks.contrasts` writes them, each metric by itself and then the means over seeds."""
    cells: dict[Cell, _Pairs] = defaultdict(_Pairs)
    for row in pairs:
        for cell in _cells(row):
            cells[cell].add(row)
    for row in optima:
        for cell in _cells(row):
            cells[cell].offset.append(abs(float(row["offset"])))
    several = {dims for dims in (2, 3) if len({cell[1] for cell in cells if cell[0] == dims}) > 2}
    cells = {cell: own for cell, own in cells.items() if cell[1] != ALL_SETS or cell[0] in several}
    single = [_summary(cell, cells[cell], resamples) for cell in track(_ordered(cells), "intervals", transient=True)]
    return [*single, *over_seeds(single)]


def over_seeds(single: Sequence[Summary]) -> list[Summary]:
    """For metrics named `name/seed0`, `name/seed1`, ...: one row `name` with means and spreads."""
    groups: dict[Cell, list[Summary]] = defaultdict(list)
    for row in single:
        found = re.fullmatch(r"(.+)/seed\d+", row.metric)
        if found:
            groups[(row.dims, row.set, row.condition, found[1])].append(row)
    return [_mean(cell, rows) for cell, rows in groups.items()]


def _cells(row: Row) -> list[Cell]:
    """Where a row counts."""
    condition = str(row["condition"])
    conditions = [condition, ALL, *([HARD] if condition != EASY else [])]
    if condition == EASY and has_pathology(str(row["subject"])):
        conditions.append(PATHOLOGY)
    sets = [str(row["set"]), *([ALL_SETS] if row["set"] not in UNSURE_SETS else [])]
    places = [(set_name, name) for set_name in sets for name in conditions]
    return [(int(float(row["dims"])), set_name, name, str(row["metric"])) for set_name, name in places]


def _ordered(cells: Iterable[Cell]) -> list[Cell]:
    """3-D first; sets and conditions as they came, what is pooled behind them."""
    cells = list(cells)
    last = {ALL_SETS: 1, PATHOLOGY: 1, HARD: 2, ALL: 3}
    first = {name: number for number, name in enumerate(dict.fromkeys(word for cell in cells for word in cell[1:]))}
    return sorted(
        cells, key=lambda c: (-c[0], last.get(c[1], 0), first[c[1]], last.get(c[2], 0), first[c[2]], first[c[3]])
    )


def _summary(cell: Cell, pairs: _Pairs, resamples: int) -> Summary:
    found: dict[str, float] = {}
    statistics = _statistics(pairs)
    for name, statistic in statistics.items():
        value, ends = statistic(range(len(pairs.group))), interval(statistic, pairs.subject, resamples, SEED)
        found |= {name: value} | ({f"{name}_low": ends[0], f"{name}_high": ends[1]} if ends else {})
    places: dict[str, list[int]] = defaultdict(list)
    for number, place in enumerate(pairs.place):
        places[place].append(number)
    found["spearman_within"] = _mean_of([statistics["spearman"](some) for some in places.values()])
    found["offset"] = _mean_of(pairs.offset)
    return Summary(*cell, persons=len(set(pairs.subject)), pairs=len(pairs.group), **found)  # type: ignore[arg-type]


def _statistics(pairs: _Pairs) -> dict[str, Statistic]:
    """From the numbers of the pairs to each pooled figure."""
    group, cost, error = np.array(pairs.group), np.array(pairs.cost), np.array(pairs.error)
    above = _above_twins(pairs)
    return {
        "spearman": lambda some: _correlation(group, cost, error, some),
        "auc_1": lambda some: _detected(group, cost, "1mm", some),
        "auc_2": lambda some: _detected(group, cost, "2mm", some),
        "twins_1": lambda some: _mean_of(above[np.asarray(some, dtype=int)].tolist()),
    }


def _above_twins(pairs: _Pairs) -> np.ndarray:
    """1 for each pair of 1 mm that costs more than its aligned twin, 0 for less, one half for as much; NaN for other pairs."""
    names = list(zip(pairs.place, pairs.number, pairs.group, strict=True))
    aligned = {name[:2]: cost for name, cost in zip(names, pairs.cost, strict=True) if name[2] == "aligned"}
    found = np.full(len(names), np.nan)
    for number, (name, cost) in enumerate(zip(names, pairs.cost, strict=True)):
        if name[2] == "1mm" and name[:2] in aligned:
            found[number] = 0.5 * (1 + np.sign(cost - aligned[name[:2]]))
    return found


def _correlation(group: np.ndarray, cost: np.ndarray, error: np.ndarray, some: Sequence[int]) -> float:
    """Over the ladder."""
    chosen = np.asarray(some, dtype=int)
    chosen = chosen[group[chosen] == "ladder"]
    return spearman(cost[chosen], error[chosen]) if len(chosen) >= LEAST_LADDER else float("nan")


def _detected(group: np.ndarray, cost: np.ndarray, name: str, some: Sequence[int]) -> float:
    chosen = np.asarray(some, dtype=int)
    aligned, apart = (cost[chosen[group[chosen] == one]] for one in ("aligned", name))
    return area_under_curve(aligned, apart) if len(aligned) and len(apart) else float("nan")


def _mean(cell: Cell, rows: Sequence[Summary]) -> Summary:
    found: dict[str, float] = {name: _mean_of([getattr(row, name) for row in rows]) for name in FIGURES}
    for name in POOLED:
        values = [getattr(row, name) for row in rows]
        found |= {f"{name}_low": min(values), f"{name}_high": max(values)}
        found[f"{name}_spread"] = stdev(values) if len(values) > 1 else float("nan")
    pairs, persons = max(row.pairs for row in rows), max(row.persons for row in rows)
    return Summary(*cell, seeds=len(rows), persons=persons, pairs=pairs, **found)  # type: ignore[arg-type]


def _mean_of(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return mean(finite) if finite else float("nan")
