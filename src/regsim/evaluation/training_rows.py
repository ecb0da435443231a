"""What a training leaves in its model folder, as plain rows for the report. No torch here.

`card.json` (written by `metrics.checkpoint`), `curves.csv` (by `training.log`), `audit.json` (by `misalign.audit`).
Entries that a page does not show are passed over.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CARD, CURVES, AUDIT = "card.json", "curves.csv", "audit.json"
CHECK = "check_"
MOST_ROWS = 2_000_000


class _Shown(BaseModel):
    """A row of which only some entries are shown."""

    model_config = ConfigDict(extra="ignore")


class TensorRow(_Shown):
    """Shape and type of one tensor."""

    shape: tuple[int, ...]
    dtype: str


class DataRow(_Shown):
    """One data set."""

    name: str
    licence: str
    source: str = ""
    credit: str = ""


class SubjectRows(_Shown):
    """Subjects by their part in the training."""

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


class ModelCard(_Shown):
    """The card of a trained model."""

    format: Literal[1]
    name: str
    metric: str
    network: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    tensors: dict[str, TensorRow] = Field(default_factory=dict)
    sha256: str = ""
    data: tuple[DataRow, ...] = ()
    subjects: SubjectRows = SubjectRows()
    versions: dict[str, str] = Field(default_factory=dict)
    seed: int = 0
    created: str = ""
    licence: str = ""
    figures: dict[str, float | str | tuple[float, ...]] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> int:
        """The number of all numbers in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())


class ProbeRow(_Shown):
    """One probe of the audit. `refuses`: failing it stops a training; others only warn."""

    name: str
    question: str
    value: float
    limit: float
    better: Literal["lower", "higher"]
    passed: bool
    refuses: bool = True


class AuditRows(_Shown):
    """Whether the pairs could be told apart without comparing their images."""

    passed: bool
    probes: tuple[ProbeRow, ...]
    pairs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class StageCurves:
    """One stage: a list of values for every column of `curves.csv`, NaN where a step has none."""

    name: str
    columns: dict[str, list[float]]

    @property
    def checks(self) -> list[str]:
        """The columns with figures on validation subjects that have any value."""
        return [name for name, values in self.columns.items() if name.startswith(CHECK) and not _empty(values)]


def read_curves(path: Path) -> list[StageCurves]:
    """Read `curves.csv`; consecutive rows of one name are one stage.

    Raises:
        ValueError: a column or a number is missing.
    """
    stages: list[StageCurves] = []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        names = [name for name in rows.fieldnames or [] if name != "stage"]
        if not {"step", "loss", "learning_rate", "seconds"} <= set(names):
            raise ValueError("no curves")
        for count, row in enumerate(rows):
            if count == MOST_ROWS:
                raise ValueError("too many rows")
            step = float(row["step"])
            if not stages or stages[-1].name != row["stage"] or step <= stages[-1].columns["step"][-1]:
                stages.append(StageCurves(row["stage"], {name: [] for name in names}))
            for name in names:
                stages[-1].columns[name].append(float(row[name] or "nan"))
    return stages


def spoken(name: str) -> str:
    """A figure's name as words.

    >>> spoken("spearman_outline_hidden"), spoken("auc")
    ('rank correlation, outline hidden', 'AUC')
    """
    words = (
        name.replace("_", " ")
        .replace("spearman", "rank correlation")
        .replace("correlation outline", "correlation, outline")
    )
    return "AUC" if words == "auc" else words


def _empty(values: list[float]) -> bool:
    return all(math.isnan(value) for value in values)
