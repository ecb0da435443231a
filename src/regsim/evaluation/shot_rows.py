"""What a multi-shot training tells of each shot and of each pair, as plain rows. No torch here."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

SHOTS, PAIRS = "shots.json", "pairs.csv"
Part = Literal["training", "validation", "left out"]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseRow(_Row):
    """The mean cost of some pairs, moved by known amounts from where a shot found them; lower is better.

    `motion`: "shift in x" ..., "turn". `places`: the amounts, `unit` or degrees. `centre`: of the lowest cost. `width`: of its
    basin, halfway up. `modes`: how many minima.
    """

    motion: str
    places: tuple[float, ...]
    costs: tuple[float, ...]
    centre: float
    width: float
    modes: int


class ShotRow(_Row):
    """One shot.

    `spacing`, `dither`, `apart`, `reach` (0: any distance), `exchange`: of the recipe. `accuracy`: share of the validation
    pairs' patches that is called right. `moved`: by how much the median pair was moved, `unit`. `kept`: pairs whose
    registration failed and that stay where they were. `skipped`: left out, since the pairs had settled at this spacing.
    """

    number: int
    spacing: float
    dither: float
    unit: str
    apart: float = 0.0
    reach: float = 0.0
    exchange: bool = False
    accuracy: float | None = None
    moved: float = 0.0
    kept: int = 0
    seconds: float = 0.0
    skipped: bool = False
    responses: tuple[ResponseRow, ...] = ()


class ShotRows(_Row):
    """All shots of a training."""

    shots: tuple[ShotRow, ...]


class RoughPairRow(_Row):
    """One pair of the list: whose, in which part, by how much each shot moved it, and why where something failed."""

    name: str
    subject: str
    part: Part
    moved: tuple[float | None, ...] = ()
    why: str = ""


def read_shots(path: Path) -> ShotRows:
    """Read `shots.json`."""
    return ShotRows.model_validate_json(path.read_bytes())


def pairs_table(rows: Sequence[RoughPairRow], shots: int) -> str:
    """As the text of `pairs.csv`."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "subject", "part", *[f"moved_{number}" for number in range(1, shots + 1)], "why"])
    for row in rows:
        moved = ["" if each is None else f"{each:.3f}" for each in row.moved]
        table.writerow([row.name, row.subject, row.part, *moved, *[""] * (shots - len(moved)), row.why])
    return text.getvalue()
