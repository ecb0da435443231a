"""What a batch of registrations leaves behind: one row a pair, and which metric judges them. No torch here.

A batch's folder holds `results.json` (`BatchResults`), `pairs.csv` (one line a pair), `run.json`, and a results folder a pair.
"""

import csv
import io
import math
from collections.abc import Sequence
from typing import Literal

from regsim.evaluation.results import MetricChange, Row

JUDGES = ("mind", "lncc", "ngf", "nmi")
THUMBNAIL = "thumbnail.jpg"
TABLE = "pairs.csv"
COLUMNS = (
    "name", "status", "reason", "metric", "before", "after", "higher_is_better", "seconds", "overlap", "folded_percent",
    "folder", "verdict", "expected_error",
)  # fmt: skip


class PairRow(Row):
    """One pair of a batch.

    `metric`, `before`, `after`: of the metric that judges, which drove nothing. `overlap`: of the last level. `folded`: share
    of the fixed foreground. NaN (null in JSON) where the pair failed or, for `folded`, where its transform is linear.
    `folder`: relative to the batch's; empty where the pair failed. `verdict`, `expected_error`: of the check; empty, NaN without.
    """

    name: str
    status: Literal["done", "failed"]
    reason: str = ""
    metric: str = ""
    before: float = math.nan
    after: float = math.nan
    higher_is_better: bool = True
    seconds: float = math.nan
    overlap: float = math.nan
    folded: float = math.nan
    folder: str = ""
    verdict: str = ""
    expected_error: float = math.nan

    @property
    def gain(self) -> float:
        """How much better the metric became; negative = worse."""
        return (self.after - self.before) * (1 if self.higher_is_better else -1)


class BatchResults(Row):
    """All that a batch found out. `kept`: how many pairs an earlier run had done with the same settings and inputs."""

    schema_version: Literal[1] = 1
    title: str
    pairs: list[PairRow]
    kept: int
    workers: int
    threads: int
    seconds: float

    def failed(self) -> list[PairRow]:
        """The pairs that could not be registered."""
        return [row for row in self.pairs if row.status == "failed"]

    def worst_first(self) -> list[PairRow]:
        """Failed pairs, then by change of the metric; one whose change is not known comes before those that are."""
        return sorted(
            self.pairs,
            key=lambda row: (row.status == "done", not math.isnan(row.gain), 0.0 if math.isnan(row.gain) else row.gain),
        )


def judging(changes: Sequence[MetricChange]) -> MetricChange | None:
    """The metric that judges: the first of mind, lncc, ngf and nmi (all fit two contrasts) that drove nothing."""
    free = {row.metric: row for row in changes if not row.drove}
    return next((free[name] for name in JUDGES if name in free), None)


def pairs_csv(results: BatchResults) -> str:
    """One line a pair, in the order of the list."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in results.pairs:
        values = {**row.model_dump(exclude={"folded"}), "folded_percent": 100 * row.folded}
        if not row.metric:
            values["higher_is_better"] = ""
        writer.writerow({name: _cell(values[name]) for name in COLUMNS})
    return stream.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.8g}"
    return value
