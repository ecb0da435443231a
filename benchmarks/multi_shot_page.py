"""The tables of docs/patch-likelihood.md from the rows beside it: `python -m benchmarks.multi_shot_page`.

The rows, docs/patch-likelihood/multi_shot.csv, are what `python -m benchmarks.multi_shot figure2 table -o DIR` writes.
"""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import ttest_1samp, wilcoxon

from benchmarks.imse_page import DOCS, filled, short, table
from benchmarks.multi_shot import ARMS, FIVE, NEAR_PLACES, OURS, POWELL, SETS, SUCCESS, THEIRS
from benchmarks.rows import Row, read_rows
from regsim.evaluation.statistics import holm

PAGE, ROWS = DOCS / "patch-likelihood.md", DOCS / "patch-likelihood" / "multi_shot.csv"
NAMES = {
    "t1t2": "T1, T2",
    "flair": "T1, FLAIR",
    "gradient": "gradient of T1, T2",
    "ultrasound": "T1, ultrasound-like",
}
NONE = "–"


def rows_of(path: Path = ROWS) -> list[Row]:
    """All rows."""
    return list(read_rows(path))


def figure_of(row: Row, name: str) -> float:
    """A row's shift, or its angles together (root of the sum of squares)."""
    if name != "turn":
        return float(row[name])
    return float(np.sqrt(sum(float(row[f"turn_{axis}"]) ** 2 for axis in "xyz")))


def paired(gaps: dict[str, float]) -> tuple[float, int, float]:
    """p value of paired differences, how many people, and Cohen's d (mean over deviation; below 0: better than the baseline).

    Of five people and more each counts once, by the mean of its pairs (t-test); of fewer every pair counts (Wilcoxon), which
    takes the pairs of one person for independent.
    """
    people: dict[str, list[float]] = {}
    for case, gap in gaps.items():
        people.setdefault(case.rpartition("_")[0], []).append(gap)
    every = np.array(list(gaps.values()))
    effect = float(every.mean() / every.std(ddof=1)) if len(every) > 1 and every.std(ddof=1) > 0 else 0.0
    if len(people) >= 5:
        means = np.array([np.mean(each) for each in people.values()])
        return float(ttest_1samp(means, 0.0).pvalue), len(people), effect
    if len(every) < 2 or not every.any():
        return 1.0, len(people), effect
    return float(wilcoxon(every).pvalue), len(people), effect


def figure2(rows: Sequence[Row]) -> str:
    """Centre, width and minima of each arm: mean and range over the seeds."""
    lines = []
    for arm in ARMS:
        mine = [row for row in rows if row["part"] == "figure2" and row["arm"] == arm]
        if not mine:
            continue
        cells = []
        for column, digits in (("centre", 1), ("top", 1), ("width", 0), ("depth", 1)):
            each = [float(row[column]) for row in mine]
            cells.append(f"{statistics.mean(each):.{digits}f} ({min(each):.{digits}f} to {max(each):.{digits}f})")
        minima = [int(float(row["minima"])) for row in mine]
        lines.append([arm, str(len(mine)), *cells, ", ".join(str(count) for count in minima)])
    heads = (
        "training",
        "seeds",
        "optimum, mm",
        "width near the bottom, mm",
        "halfway up, mm",
        "depth",
        "minima, each seed",
    )
    return table(heads, lines)


def training_pairs(rows: Sequence[Row]) -> str:
    """Where the training pairs began and ended."""
    lines = []
    for name, arm in itertools.product(SETS, (OURS, NEAR_PLACES, FIVE, THEIRS)):
        own = [row for row in rows if (row["part"], row["set"], row["arm"]) == ("training pairs", name, arm)]
        if own:
            before, after = (np.array([float(row[column]) for row in own]) for column in ("before", "after"))
            lines.append(
                [NAMES[name], arm, str(len(own)), f"{np.median(before):.1f}", short(float(np.median(after))),
                 f"{100 * (after < SUCCESS).mean():.0f} %"]
            )  # fmt: skip
    return table(("pairs", "plan", "n", "median error before, mm", "after", "below 2 mm"), lines)


def test_pairs(rows: Sequence[Row]) -> str:
    """Each way of registering, and its comparison with the paper's baseline."""
    lines = []
    for name in SETS:
        own = [row for row in rows if row["part"] == "test" and row["set"] == name]
        arms = list(dict.fromkeys(str(row["arm"]) for row in own))
        values = {arm: {str(row["case"]): row for row in own if row["arm"] == arm} for arm in arms}
        tests = {}
        for arm in (arm for arm in arms if arm != POWELL):
            for figure in ("shift", "turn"):
                shared = [case for case in values[arm] if case in values[POWELL]]
                gaps = {
                    case: figure_of(values[arm][case], figure) - figure_of(values[POWELL][case], figure)
                    for case in shared
                }
                tests[arm, figure] = paired(gaps)
        corrected = dict(zip(tests, holm([test[0] for test in tests.values()]), strict=True))
        for arm in arms:
            found = list(values[arm].values())
            after = np.array([float(row["after"]) for row in found])
            cells = [
                f"{int((after < SUCCESS).sum())} of {len(after)}",
                short(float(np.median(after))),
                _spread(found, "shift"),
            ]
            cells.append(
                ", ".join(short(statistics.mean(float(row[f"turn_{axis}"]) for row in found)) for axis in "xyz")
            )
            for figure in ("shift", "turn"):
                known = (arm, figure) in tests
                cells.append(_compared(corrected[arm, figure], tests[arm, figure][2]) if known else NONE)
            lines.append([NAMES[name], arm, *cells])
    heads = (
        "pairs",
        "driven by",
        "below 2 mm",
        "median, mm",
        "shift, mm",
        "angles about x, y, z, degrees",
        "shift: p; d",
        "turn: p; d",
    )
    return table(heads, lines)


def _spread(found: Sequence[Row], column: str) -> str:
    values = [float(row[column]) for row in found]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{short(statistics.mean(values))} ± {short(deviation)}"


def _compared(probability: float, effect: float) -> str:
    said = "<.001" if probability < 0.001 else short(probability, 3)
    return f"{said}; {effect:+.1f}".replace("+0.", "+.").replace("-0.", "-.")


def seconds(rows: Sequence[Row]) -> str:
    """How long a registration takes, median over all sets: beside other work, and on an idle machine."""
    lines = []
    for arm in dict.fromkeys(str(row["arm"]) for row in rows if row["part"] == "test"):
        beside, idle = (
            [float(row["seconds"]) for row in rows if row["part"] == part and row["arm"] == arm and row.get("seconds")]
            for part in ("test", "seconds")
        )
        if beside:
            alone = f"{statistics.median(idle):.1f} ({min(idle):.1f} to {max(idle):.1f})" if idle else NONE
            lines.append([arm, f"{statistics.median(beside):.1f}", alone])
    return table(("driven by", "seconds, one thread beside other work", "two idle cores, T1 and T2"), lines)


def written(page: str, rows: Sequence[Row]) -> str:
    """The page with its tables."""
    makers = (figure2, training_pairs, test_pairs, seconds)
    return filled(page, {make.__name__: make(rows) for make in makers})


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), rows_of()), encoding="utf-8")
