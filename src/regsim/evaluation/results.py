"""What a run leaves behind, as plain rows: the only thing that `report` reads. No torch here.

A results folder holds `results.json` (`RegistrationResults`), `run.json` (`Provenance`) and `views.npz` (`Views`).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, model_validator

Unit = Literal["mm", "px"]


class Row(BaseModel):
    """A row that refuses unknown keys, so that a misspelt result is never silently dropped.

    JSON knows neither NaN nor infinity: both are written as null, and a null where a number belongs is read as NaN.
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")

    @model_validator(mode="before")
    @classmethod
    def _null_is_nan(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        numbers = {name for name, field in cls.model_fields.items() if field.annotation is float}
        return {name: math.nan if value is None and name in numbers else value for name, value in values.items()}


class MetricRow(Row):
    """One metric of one pair."""

    metric: str
    value: float
    higher_is_better: bool
    unit: str
    seconds: float


class MetricChange(Row):
    """One metric before and after registration. `drove`: this metric drove the registration, so it cannot judge it."""

    metric: str
    before: float
    after: float
    higher_is_better: bool
    unit: str
    drove: bool = False


class LevelRow(Row):
    """One resolution level of one stage of a registration."""

    stage: str
    level: int
    spacing: float
    voxels: int
    iterations: int
    cost_first: float
    cost_last: float
    overlap: float
    seconds: float
    stop: str
    metric: str = ""


class StepRow(Row):
    """One step of the optimiser. `cost`: lower is better, metric plus penalty."""

    stage: str
    level: int
    step: int
    cost: float
    penalty: float


class JacobianRow(Row):
    """The Jacobian determinant of a deformable transform over the fixed foreground; folded where it is <= 0."""

    minimum: float
    percentile_1: float
    median: float
    percentile_99: float
    maximum: float
    folded_fraction: float


class ParameterRow(Row):
    """One number of the known misalignment beside the recovered one."""

    name: str
    known: float
    recovered: float
    unit: str


class TruthRow(Row):
    """True error where the misalignment is known: distances in the unit of the image over the fixed foreground.

    `rigid_error`: the mean distance between the rigid transforms that fit the known and the recovered transform best.
    """

    before_mean: float
    after_mean: float
    after_percentile_95: float
    after_maximum: float
    rigid_error: float | None = None
    parameters: list[ParameterRow] = []


class ImageFacts(Row):
    """What was read: `size` and `spacing` in x, y(, z)."""

    name: str
    size: list[int]
    spacing: list[float]
    unit: Unit


def image_facts_json(name: str, size: Sequence[int], spacing: Sequence[float], unit: Unit) -> str:
    """What was written, as JSON."""
    return ImageFacts(name=name, size=list(size), spacing=list(spacing), unit=unit).model_dump_json(indent=1)


CHECK_FOLDER = "check"
"""Within a registration's results."""


class CheckSummary(Row):
    """What `regsim check` says of the registered pair; its own folder has the rest. `_text`: as far as it is known."""

    verdict: str
    reason: str
    expected_error: float
    interval: tuple[float, float]
    expected_text: str
    interval_text: str
    coverage: float
    page: str


class RegistrationResults(Row):
    """All that one registration found out."""

    schema_version: Literal[1] = 1
    title: str
    transform: str
    metric: str
    unit: Unit
    fixed: ImageFacts
    moving: ImageFacts
    metrics: list[MetricChange]
    levels: list[LevelRow]
    steps: list[StepRow]
    jacobian: JacobianRow | None = None
    truth: TruthRow | None = None
    check: CheckSummary | None = None
    notes: list[str] = []
    iterations: int
    seconds: float
    peak_memory_mb: float
    files: dict[str, str] = {}


class InputFile(Row):
    """One input of a run, so that a result can be traced to the bytes it came from."""

    role: str
    name: str
    sha256: str
    size: int


class Provenance(Row):
    """`run.json`: what was run, on what, with which versions."""

    schema_version: Literal[1] = 1
    command: str
    settings: dict[str, str | int | float | bool | list[str] | list[float] | None]
    seed: int
    device: str
    threads: int
    versions: dict[str, str]
    inputs: list[InputFile]
    started: str
    seconds: float


class Plane(Row):
    """One viewing plane: its name, the labels of its edges, the slices' positions and the length of a pixel's side."""

    name: str
    left: str = ""
    right: str = ""
    top: str = ""
    bottom: str = ""
    positions: list[float]
    pixel: float | None = None


class Views:
    """Slices to look at: for each plane stacks `(slices, height, width)`, square pixels, ready to be shown.

    `fixed`, `before`, `after`: uint8, 0-255. `jacobian`: float32 determinant. `grid`: float32 `(slices, 2, height, width)`,
    for every pixel the pixel position (row, column) that it is mapped to within the plane (the part out of the plane is
    left out). `jacobian` and `grid` are there for deformable transforms only.
    """

    def __init__(self, planes: list[Plane], arrays: dict[str, npt.NDArray[np.generic]]):
        self.planes = planes
        self.arrays = arrays

    def stack(self, plane: str, kind: str) -> npt.NDArray[np.generic] | None:
        """The stack of one kind in one plane, or None where this run has none."""
        return self.arrays.get(f"{plane}_{kind}")

    def save(self, path: Path) -> None:
        """Write one `.npz` (arrays only, nothing pickled)."""
        header = "[" + ",".join(plane.model_dump_json() for plane in self.planes) + "]"
        everything: dict[str, npt.NDArray[np.generic]] = {"planes": np.array(header), **self.arrays}
        with path.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **everything)

    @classmethod
    def load(cls, path: Path) -> "Views":
        """Read what `save` wrote."""
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name != "planes"}
            planes = [Plane.model_validate(entry) for entry in json.loads(str(stored["planes"]))]
        return cls(planes, arrays)
