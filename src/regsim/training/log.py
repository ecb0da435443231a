"""What the trainer writes down: one row a step, kept as numbers in the training state and as `curves.csv` for people."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from regsim.output import write_text

CURVES = "curves.csv"
FIXED = ("stage", "step", "loss", "learning_rate", "seconds")
CHECK = "check_"


@dataclass(frozen=True)
class CurveRow:
    """One step. `figures`: what the objective logs; `check`: figures on the validation subjects, where a check was made.

    `stage` and `step` count from 0 and 1; `learning_rate` is the one this step used; `seconds` are those of training so
    far, pauses between a killed and a resumed run left out.
    """

    stage: int
    name: str
    step: int
    loss: float
    learning_rate: float
    seconds: float
    figures: Mapping[str, float]
    check: Mapping[str, float]


def figure_columns(rows: Sequence[CurveRow]) -> list[str]:
    """The names of all figures, sorted; those of checks begin with `check_` and follow the others."""
    trained = {name for row in rows for name in row.figures}
    checked = {CHECK + name for row in rows for name in row.check}
    return [*sorted(trained), *sorted(checked)]


def write_curves(rows: Sequence[CurveRow], folder: Path) -> None:
    """Write `curves.csv` in one piece: a column for each figure, empty where a row has none."""
    columns = figure_columns(rows)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["stage", "step", "loss", *columns, "learning_rate", "seconds"])
    for row in rows:
        known = {**row.figures, **{CHECK + name: value for name, value in row.check.items()}}
        middle = [_short(known[name]) if name in known else "" for name in columns]
        table.writerow([row.name, row.step, _short(row.loss), *middle, _short(row.learning_rate), f"{row.seconds:.2f}"])
    write_text(folder / CURVES, text.getvalue())


def as_table(rows: Sequence[CurveRow]) -> tuple[list[str], torch.Tensor]:
    """The rows as columns' names and a `(rows, columns)` float64 tensor, NaN where a row has no such figure."""
    columns = figure_columns(rows)
    places = {name: place for place, name in enumerate(columns, start=len(FIXED))}
    table = torch.full((len(rows), len(FIXED) + len(columns)), math.nan, dtype=torch.float64)
    for line, row in enumerate(rows):
        values = {**row.figures, **{CHECK + name: value for name, value in row.check.items()}}
        table[line, : len(FIXED)] = torch.tensor(
            [row.stage, row.step, row.loss, row.learning_rate, row.seconds], dtype=torch.float64
        )
        for name, value in values.items():
            table[line, places[name]] = value
    return columns, table


def from_table(columns: Sequence[str], table: torch.Tensor, names: Sequence[str]) -> list[CurveRow]:
    """The rows of `as_table`; `names` are the stages'."""
    rows = []
    for values in table.tolist():
        stage, step, loss, rate, seconds = values[: len(FIXED)]
        known = {
            name: value for name, value in zip(columns, values[len(FIXED) :], strict=True) if not math.isnan(value)
        }
        figures = {name: value for name, value in known.items() if not name.startswith(CHECK)}
        check = {name.removeprefix(CHECK): value for name, value in known.items() if name.startswith(CHECK)}
        rows.append(CurveRow(int(stage), names[int(stage)], int(step), loss, rate, seconds, figures, check))
    return rows


def _short(value: float) -> str:
    """Enough digits to draw with."""
    return f"{value:.7g}"
