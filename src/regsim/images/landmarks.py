"""Landmarks: points in physical space, in CSV files."""

import csv
from pathlib import Path

import torch

from regsim.errors import InputError
from regsim.output import atomic_path


def read_landmarks(path: str | Path) -> torch.Tensor:
    """Read landmarks, `(points, ndim)`, float64.

    Convention:
        A CSV file with columns x, y(, z) in physical LPS mm (pixels for pictures); other columns are ignored. RAS points
        must be turned (x and y negated) by whoever wrote them: nothing is guessed.

    Raises:
        InputError: missing file or columns, text that is no finite number, no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"landmarks '{path}': no such file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"landmarks '{path}' is not a CSV text file") from None
    names = {name.strip().lower(): name for name in (rows[0] if rows else {}) if name}
    if not {"x", "y"} <= set(names):
        raise InputError(f"landmarks '{path}': expected columns x, y(, z) and at least one row, got {list(names)}")
    axes = [names[axis] for axis in ("x", "y", "z") if axis in names]
    try:
        points = torch.tensor([[float(row[axis]) for axis in axes] for row in rows], dtype=torch.float64)
    except (TypeError, ValueError):
        raise InputError(f"landmarks '{path}': a value of {', '.join(axes)} is not a number") from None
    if not bool(torch.isfinite(points).all()):
        raise InputError(f"landmarks '{path}': a value of {', '.join(axes)} is NaN or infinite")
    return points


def write_landmarks(points: torch.Tensor, path: str | Path) -> None:
    """Write `(points, ndim)` as CSV with columns x, y(, z), physical LPS."""
    with atomic_path(Path(path)) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["x", "y", "z"][: points.shape[1]])
        writer.writerows(points.tolist())
