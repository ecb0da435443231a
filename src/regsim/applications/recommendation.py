"""Which regularisation weight to take: the stated rule."""

import math
from collections.abc import Sequence

from regsim.evaluation.sweep_rows import SweepRow

FOLDED_LIMIT = 0.001
TOLERANCE = 0.01


def recommended(rows: Sequence[SweepRow]) -> tuple[float, str]:
    """The weight, and the rule that chose it in words.

    Weights are admitted where less than 0.1 % of the fixed foreground is folded. Of these: the smallest landmark error where
    there are landmarks; else the highest mean Dice where there are labels; else the smallest weight whose gain of the judging
    metric (which drives nothing) is within 1 % of the best gain. Where no weight is admitted: the one that folds least.
    """
    admitted = [row for row in rows if row.folded < FOLDED_LIMIT]
    if not admitted:
        least = min(rows, key=lambda row: (row.folded, -row.weight))
        return least.weight, "it folds least; every weight folds 0.1 % of the foreground or more: try larger weights"
    landmarks = [row for row in admitted if row.landmarks is not None]
    if landmarks:
        best = min(landmarks, key=lambda row: (row.landmarks or 0.0, -row.weight))
        return best.weight, "smallest landmark error of the weights that fold less than 0.1 %"
    labels = [row for row in admitted if row.dice is not None]
    if labels:
        best = max(labels, key=lambda row: (row.dice or 0.0, row.weight))
        return best.weight, "highest mean Dice of the weights that fold less than 0.1 %"
    judged = [row for row in admitted if row.judge is not None and not math.isnan(row.gain)]
    if not judged:
        return min(row.weight for row in admitted), "smallest weight that folds less than 0.1 %; no metric could judge"
    highest = max(row.gain for row in judged)
    near = [row for row in judged if row.gain >= highest - TOLERANCE * abs(highest)]
    name = "" if near[0].judge is None else near[0].judge.metric
    return (
        min(row.weight for row in near),
        f"smallest weight that folds less than 0.1 % and whose gain of {name}, which does not drive, is within 1 % of the best",
    )
