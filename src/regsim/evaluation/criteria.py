"""From measured costs to the criteria of the league table, for one metric over all pairs."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regsim.evaluation.landscape_settings import LandscapeSettings
from regsim.evaluation.probes import Known
from regsim.evaluation.statistics import area_under_curve, interval, spearman
from regsim.evaluation.surface import capture_range, delta, optimum, spurious_minima

Array = npt.NDArray[np.float64]
Statistic = Callable[[Sequence[int]], float]


@dataclass(frozen=True, eq=False)
class PairTable:
    """The probes of one pair and their costs `(metrics, probes)`; lower = better aligned."""

    name: str
    subject: str
    probes: list[Known]
    costs: Array

    def of(self, metric: int) -> "Costs":
        """One metric's costs."""
        return Costs(self.probes, self.costs[metric])


@dataclass(frozen=True, eq=False)
class Costs:
    """One metric's costs of one pair's probes."""

    probes: list[Known]
    values: Array

    def take(self, group: str, kind: str | None = None) -> tuple[Array, Array, Array]:
        """Amounts, true errors and costs of a group, or of one kind in it."""
        where = [i for i, p in enumerate(self.probes) if p.group == group and (kind is None or p.kind == kind)]
        chosen = [self.probes[i] for i in where]
        return np.array([p.amount for p in chosen]), np.array([p.error for p in chosen]), self.values[where]

    def kinds(self, group: str) -> list[str]:
        """The kinds of a group in the order in which they were drawn."""
        return list(dict.fromkeys(p.kind for p in self.probes if p.group == group))

    def surface(self, group: str, steps: int) -> tuple[Array, Array] | None:
        """Costs and true errors `(rotations, shifts)`; None where this pair has no surface."""
        _, errors, costs = self.take(group)
        return None if costs.size == 0 else (costs.reshape(steps, steps), errors.reshape(steps, steps))

    def aligned(self) -> float:
        """The cost of the truth, at the tilt of the axes, surfaces and nuisances."""
        return float(self.take("balance", "aligned")[2][0])


def judge(
    tables: Sequence[PairTable], metric: int, asked: LandscapeSettings
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """All criteria of one metric that come from costs, and their intervals."""
    costs = [table.of(metric) for table in tables]
    subjects = [table.subject for table in tables]
    values, intervals = {}, {}
    for name, statistic in _statistics(costs, subjects, asked).items():
        values[name] = statistic(range(len(costs)))
        found = interval(statistic, subjects, asked.resamples, asked.seed)
        if found is not None:
            intervals[name] = found
    return values, intervals


def _statistics(costs: Sequence[Costs], subjects: Sequence[str], asked: LandscapeSettings) -> dict[str, Statistic]:
    found: dict[str, Statistic] = {
        "spearman": _pooled_spearman(costs, "ladder"),
        "spearman_within": _mean([spearman(*reversed(c.take("ladder")[1:])) for c in costs], subjects),
        "spearman_hidden": _pooled_spearman(costs, "hidden"),
        "spearman_hidden_within": _mean([spearman(*reversed(c.take("hidden")[1:])) for c in costs], subjects),
    }
    for number, distance in enumerate(asked.distances):
        found[f"auc_{number}"] = _pooled_auc(costs, "distance", distance)
    found["auc_hidden"] = _pooled_auc(costs, "hidden_distance", asked.hidden_distance)
    for name, measured in _by_pair(costs, asked).items():
        found[name] = _mean(measured, subjects)
    return found


def _by_pair(costs: Sequence[Costs], asked: LandscapeSettings) -> dict[str, list[float]]:
    """Criteria that one pair alone gives."""
    found = {
        "minima": [_on_surface(c, "surface", asked.steps, lambda s, _: float(spurious_minima(s))) for c in costs],
        "capture": [_on_surface(c, "wide", asked.wide_steps, capture_range) for c in costs],
        "offset": [_offset(c, "fine") for c in costs],
        "offset_noise": [_offset(c, "fine_noise") for c in costs],
        "offset_self": [_offset(c, "fine_self") for c in costs],
        "offset_degrees": [abs(optimum(*_line(c, "fine", "rotation z"))) for c in costs],
        "balance": [balance(c) for c in costs],
        "noise_like": [looks_like(c, "noise", (0.1,)) for c in costs],
        "blur_like": [looks_like(c, "blur", (1.0,)) for c in costs],
        "gamma_like": [looks_like(c, "gamma", (0.7, 1.4)) for c in costs],
        "inversion_like": [looks_like(c, "inversion", (1.0,)) for c in costs],
        "asymmetry": [_asymmetry(c) for c in costs],
    }
    rows = max(1, round((asked.steps - 1) / (2 * asked.degrees)))
    columns = max(1, round((asked.steps - 1) / (2 * asked.shift)))
    found["delta"] = [_on_surface(c, "surface", asked.steps, lambda s, _: delta(s, rows, columns)) for c in costs]
    return found


def _on_surface(costs: Costs, group: str, steps: int, judge_it: Callable[[Array, Array], float]) -> float:
    surface = costs.surface(group, steps)
    return float("nan") if surface is None else judge_it(*surface)


def _pooled_spearman(costs: Sequence[Costs], group: str) -> Statistic:
    each = [c.take(group) for c in costs]

    def pooled(pairs: Sequence[int]) -> float:
        return spearman(np.concatenate([each[i][2] for i in pairs]), np.concatenate([each[i][1] for i in pairs]))

    return pooled


def _pooled_auc(costs: Sequence[Costs], group: str, distance: float) -> Statistic:
    aligned, misaligned = [], []
    for c in costs:
        amounts, _, values = c.take(group)
        aligned.append(values[amounts == 0])
        misaligned.append(values[amounts == distance])

    def pooled(pairs: Sequence[int]) -> float:
        return area_under_curve(
            np.concatenate([aligned[i] for i in pairs]), np.concatenate([misaligned[i] for i in pairs])
        )

    return pooled


def _mean(values: Sequence[float], subjects: Sequence[str]) -> Statistic:
    """The mean over subjects of the mean over a subject's pairs; pairs that cannot tell are left out."""
    told = np.isfinite(values)
    own = Counter(subject for subject, fine in zip(subjects, told, strict=True) if fine)

    def mean(pairs: Sequence[int]) -> float:
        # every pair weighs one over its subject's number of pairs, so a subject drawn twice counts twice
        kept = [i for i in pairs if told[i]]
        weights = [1 / own[subjects[i]] for i in kept]
        return float(np.average([values[i] for i in kept], weights=weights)) if kept else float("nan")

    return mean


def _line(costs: Costs, group: str, kind: str) -> tuple[Array, Array]:
    amounts, _, values = costs.take(group, kind)
    return amounts, values


def _offset(costs: Costs, group: str) -> float:
    """Length of the vector of the optima along the axes."""
    kinds = [kind for kind in costs.kinds(group) if kind.startswith("shift")]
    return float(np.linalg.norm([optimum(*_line(costs, group, kind)) for kind in kinds]))


def balance(costs: Costs) -> float:
    """(cost of 4 degrees - aligned) / (cost of shifts of equal true error - aligned); 0 where shifts cost nothing."""
    aligned = costs.aligned()
    turned = float(costs.take("balance", "rotation")[2].mean()) - aligned
    shifted = float(costs.take("balance", "shift")[2].mean()) - aligned
    return turned / shifted if shifted > 0 else 0.0


def shift_curve(costs: Costs) -> tuple[Array, Array]:
    """Mean cost of shifts by their length over all axes and both ways, aligned = 0, made to rise (running maximum)."""
    amounts, _, values = (
        np.concatenate(parts) for parts in zip(*[costs.take("axis", k) for k in _shifts(costs)], strict=True)
    )
    lengths = np.unique(np.round(np.abs(amounts), 6))
    means = np.array([values[np.isclose(np.abs(amounts), length)].mean() for length in lengths])
    return lengths, np.maximum.accumulate(means - means[0])


def _shifts(costs: Costs) -> list[str]:
    return [kind for kind in costs.kinds("axis") if kind.startswith("shift")]


def looks_like(costs: Costs, kind: str, amounts: Sequence[float]) -> float:
    """The shift that costs as much as a nuisance (mean over some amounts); 0 = none, the longest = at least that."""
    lengths, curve = shift_curve(costs)
    known, _, values = costs.take("nuisance", kind)
    rise = [float(values[np.isclose(known, amount)][0]) - costs.aligned() for amount in amounts]
    return float(np.mean([np.interp(value, curve, lengths) if value > 0 else 0.0 for value in rise]))


def _asymmetry(costs: Costs) -> float:
    """Largest relative difference of the value when the arguments are exchanged."""
    _, _, exchanged = costs.take("swapped")
    _, _, straight = costs.take("ladder")
    straight = straight[: len(exchanged)]
    size = np.maximum(np.maximum(np.abs(exchanged), np.abs(straight)), np.finfo(np.float32).tiny)
    return float((np.abs(exchanged - straight) / size).max())
