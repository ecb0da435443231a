"""What a landscape leaves behind: rows, the words for each criterion, and the pictures' arrays. No torch here.

A landscape's folder holds `landscape.json` (`LandscapeResults`), `landscape.csv` (one row a metric), `responses.csv` (every
value that was measured), `landscape.npz` (`LandscapeArrays`) and `run.json`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from regsim.evaluation.results import Row, Unit

Best = Literal["higher", "lower", "one", "none"]


@dataclass(frozen=True)
class Criterion:
    """One column of the league table: its heading, which value is best, its unit and a sentence for a reader."""

    name: str
    title: str
    best: Best
    unit: str
    meaning: str


# "UNIT" stands for px or mm.
CRITERIA = (
    Criterion(
        "spearman", "order", "higher", "", "Spearman's rank correlation of cost and true error, all pairs pooled"
    ),
    Criterion("spearman_within", "order in a pair", "higher", "", "the same within each pair, averaged"),
    Criterion(
        "spearman_hidden", "order, outline hidden", "higher", "", "pooled Spearman with only an interior disc shown"
    ),
    Criterion(
        "auc_0", "AUC {0}", "higher", "", "chance that a pair {0} UNIT off costs more than an aligned one, pooled"
    ),
    Criterion("auc_1", "AUC {1}", "higher", "", "the same at {1} UNIT"),
    Criterion("auc_2", "AUC {2}", "higher", "", "the same at {2} UNIT"),
    Criterion("auc_3", "AUC {3}", "higher", "", "the same at {3} UNIT"),
    Criterion(
        "auc_hidden", "AUC {h}, outline hidden", "higher", "", "the same at {h} UNIT with only an interior disc shown"
    ),
    Criterion(
        "minima", "spurious minima", "lower", "", "local minima of the surface besides the one nearest to the truth"
    ),
    Criterion("capture", "capture range", "higher", "UNIT", "true error up to which every greedy descent finds back"),
    Criterion(
        "offset", "offset", "lower", "UNIT", "distance of the optimum from the truth along the axes, images as stored"
    ),
    Criterion("offset_noise", "offset, noise", "lower", "UNIT", "the same with noise on both images"),
    Criterion(
        "offset_self", "offset, itself", "lower", "UNIT", "the same of the fixed image with itself, noise on both"
    ),
    Criterion(
        "offset_degrees", "offset, rotation", "lower", "degrees", "the optimum's distance along the rotation, as stored"
    ),
    Criterion(
        "balance", "rotation balance", "one", "", "response to a rotation over the response to a shift of equal error"
    ),
    Criterion("noise_like", "noise looks like", "lower", "UNIT", "the shift that costs as much as noise of sigma .1"),
    Criterion("blur_like", "blur looks like", "lower", "UNIT", "the shift that costs as much as a blur of 1 voxel"),
    Criterion("gamma_like", "contrast looks like", "lower", "UNIT", "the shift that costs as much as gamma .7 or 1.4"),
    Criterion(
        "inversion_like", "inversion looks like", "lower", "UNIT", "the shift that costs as much as inverted contrast"
    ),
    Criterion("asymmetry", "asymmetry", "lower", "", "largest |m(a, b) - m(b, a)| relative to the value"),
    Criterion("delta", "delta", "none", "", "the paper's sensitivity; not scale free: compares no metrics"),
    Criterion("seconds", "seconds", "lower", "s", "one evaluation of one pair"),
    Criterion("times_mse", "times mse", "lower", "", "the same over that of mse in the same run"),
    Criterion("memory_mb", "memory", "lower", "MB", "memory that one evaluation takes on top"),
)


def criteria(distances: tuple[float, ...] | list[float], hidden_distance: float, unit: Unit) -> list[Criterion]:
    """The criteria with this run's distances and unit put in; AUCs beyond the distances asked for are left out."""
    kept = []
    for item in CRITERIA:
        place = item.name.removeprefix("auc_")
        if item.name.startswith("auc_") and place.isdigit() and int(place) >= len(distances):
            continue
        words = {"{h}": f"{hidden_distance:g}"} | {f"{{{i}}}": f"{d:g}" for i, d in enumerate(distances)}
        title, meaning = item.title, item.meaning.replace("UNIT", unit)
        for mark, word in words.items():
            title, meaning = title.replace(mark, word), meaning.replace(mark, word)
        kept.append(Criterion(item.name, title, item.best, item.unit.replace("UNIT", unit), meaning))
    return kept


class LandscapeRow(Row):
    """One metric. `values` by criterion; `intervals`: 95 %, over subjects, where there were three or more.

    NaN (null in JSON) is memory where the system does not tell it; everything else has a stated value.
    """

    metric: str
    higher_is_better: bool
    pairs: int
    subjects: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]] = {}

    @model_validator(mode="before")
    @classmethod
    def _null_values(cls, content: object) -> object:
        if isinstance(content, dict) and isinstance(content.get("values"), dict):
            told = {name: math.nan if value is None else value for name, value in content["values"].items()}
            return {**content, "values": told}
        return content

    def __getitem__(self, criterion: str) -> float:
        """A value by its criterion's name."""
        return self.values[criterion]


class ResponseRow(Row):
    """One value that was measured. `group`, `kind`, `amount`, `second`: see `evaluation.probes.Probe`; `value` as published."""

    metric: str
    pair: str
    subject: str
    group: str
    kind: str
    amount: float
    second: float
    error: float
    value: float


class CurveRow(Row):
    """One response curve, averaged over the pairs: cost over amount, 0 = aligned, 1 = a shift of 4 units (or the nearest)."""

    metric: str
    kind: str
    amounts: list[float]
    responses: list[float]


class NuisanceRow(Row):
    """What a change of intensity at alignment looks like, as a shift; `limit` = at least the reach."""

    metric: str
    kind: str
    amount: float
    looks_like: float


class LandscapeResults(Row):
    """All that one landscape found out."""

    schema_version: Literal[1] = 1
    title: str
    unit: Unit
    ndim: int
    distances: list[float]
    hidden_distance: float
    reach: float
    pairs: int
    subjects: int
    rows: list[LandscapeRow]
    curves: list[CurveRow] = []
    nuisances: list[NuisanceRow] = []
    notes: list[str] = []
    seconds: float

    def criteria(self) -> list[Criterion]:
        """The columns of its table."""
        return criteria(self.distances, self.hidden_distance, self.unit)


class LandscapeArrays:
    """Arrays for the pictures, by name.

    `surface_N`, `wide_N` `(rotations, shifts)` costs of metric number N (order of the rows), `surface_minima_N`,
    `wide_minima_N` `(count, 2)` their local minima (row, column), on `surface_shifts`,
    `surface_degrees`, `wide_shifts`, `wide_degrees`; `ladder_errors`, `ladder_N` costs; `fixed`, `aligned`, `misaligned`
    `(height, width)` in [0, 1], `shown` `(height, width)` mask; `map_aligned_N`, `map_misaligned_N` where the metric has a map.
    """

    def __init__(self, arrays: dict[str, npt.NDArray[np.generic]]):
        self.arrays = arrays

    def get(self, name: str) -> npt.NDArray[np.generic] | None:
        """An array, or None where this run has none."""
        return self.arrays.get(name)

    def save(self, path: Path) -> None:
        """Write one `.npz` (arrays only, nothing pickled)."""
        with path.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **self.arrays)

    @classmethod
    def load(cls, path: Path) -> "LandscapeArrays":
        """Read what `save` wrote."""
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return cls({name: stored[name] for name in stored.files})


def league_csv(results: LandscapeResults) -> str:
    """One line a metric: values, then the ends of the intervals."""
    names = [item.name for item in results.criteria()]
    titles = [_column(item.name, results) for item in results.criteria()]
    head = ["metric", "higher_is_better", "pairs", "subjects", "unit"]
    lines = [[*head, *titles, *[f"{title}_{end}" for title in titles for end in ("low", "high")]]]
    for row in results.rows:
        ends = [f"{v:.6g}" for name in names for v in row.intervals.get(name, (math.nan, math.nan))]
        facts = [row.metric, str(row.higher_is_better).lower(), str(row.pairs), str(row.subjects), results.unit]
        lines.append([*facts, *[f"{row.values[name]:.6g}" for name in names], *ends])
    return "".join(",".join(_quoted(cell) for cell in line) + "\n" for line in lines)


def _column(name: str, results: LandscapeResults) -> str:
    """`auc_2` as `auc_at_2`: by distance, not by number."""
    place = name.removeprefix("auc_")
    return f"auc_at_{results.distances[int(place)]:g}" if name != place and place.isdigit() else name


def _quoted(cell: str) -> str:
    return json.dumps(cell) if any(mark in cell for mark in ',"\n') else "" if cell == "nan" else cell
