"""What a sweep over regularisation weights leaves behind: one row a weight, and why one of them is recommended. No torch here.

A sweep's folder holds `sweep.json` (`SweepResults`), `sweep.csv` (one line a weight), `run.json`, and results folders:
`affine` for the linear stages, which all weights share, and one a weight.
"""

import csv
import io
import math
from typing import Literal

from regsim.evaluation.batch_rows import judging
from regsim.evaluation.results import ImageFacts, MetricChange, Row, Unit

RESULTS, TABLE = "sweep.json", "sweep.csv"


class SweepRow(Row):
    """One weight. Shares and determinants are of the fixed foreground; NaN (null in JSON) = not defined.

    `metrics`: before = after the linear stages. `folded`: share with a Jacobian determinant of 0 or less. `smallest`: the
    least determinant. `spread`: standard deviation of its logarithm where it is above 0; 0 = volumes nowhere change.
    `dice`: mean over labels. `landmarks`: mean distance. `inverse`: mean distance between points and where they come back
    to through the transform and its inverse. `folder`: relative to the sweep's.
    """

    weight: float
    metrics: list[MetricChange]
    folded: float
    smallest: float
    spread: float
    inverse: float = math.nan
    dice: float | None = None
    landmarks: float | None = None
    seconds: float
    folder: str

    def metric(self, name: str) -> MetricChange:
        """One metric by its name."""
        return next(row for row in self.metrics if row.metric == name)

    @property
    def judge(self) -> MetricChange | None:
        """The metric that judges: the same for every weight."""
        return judging(self.metrics)

    @property
    def gain(self) -> float:
        """How much better the judging metric became by the deformation; NaN where none judges."""
        judge = self.judge
        return math.nan if judge is None else (judge.after - judge.before) * (1 if judge.higher_is_better else -1)


class SweepResults(Row):
    """All that one sweep found out.

    `metric`: what drives the deformation. `rule`: what the recommendation goes by. `dice_before`, `landmarks_before`: after the
    linear stages. `linear_seconds`: what these took.
    """

    schema_version: Literal[1] = 1
    title: str
    transform: str
    metric: str
    unit: Unit
    fixed: ImageFacts
    moving: ImageFacts
    rows: list[SweepRow]
    recommended: float
    rule: str
    dice_before: float | None = None
    landmarks_before: float | None = None
    linear_seconds: float
    notes: list[str] = []
    seconds: float


def sweep_csv(results: SweepResults) -> str:
    """One line a weight; every metric has a column."""
    stream = io.StringIO(newline="")
    names = [change.metric for change in results.rows[0].metrics]
    facts = ("weight", "folded_percent", "smallest_jacobian", "spread_log_jacobian", "inverse_error")
    head = [*facts, "dice", "landmark_error", "seconds", *names, "recommended", "folder"]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    for row in results.rows:
        numbers = [
            row.weight,
            100 * row.folded,
            row.smallest,
            row.spread,
            row.inverse,
            row.dice,
            row.landmarks,
            row.seconds,
        ]
        values = [_cell(value) for value in (*numbers, *(row.metric(name).after for name in names))]
        writer.writerow([*values, str(row.weight == results.recommended).lower(), row.folder])
    return stream.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.8g}"
