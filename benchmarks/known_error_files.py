"""One pair with known error, and its file: compressed whole numbers, no pickle."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from regsim.images import Grid, Image

STEP, FINEST_ERROR = 1e-3, 0.01


@dataclass(frozen=True)
class KnownErrorPair:
    """Two images on one grid and the true error between them.

    Args:
        name: unique in its set.
        subject: whose head the fixed image shows; sessions of one person share it.
        contrasts: "T1-T1", "T1-T2" or "T1-FLAIR", in either order: the images' own names tell which is which.
        kind: of error.
        fixed, moved: values in about [0, 1].
        mask: `(1, *shape)` bool, the anatomy where both images have data and the truth is known.
        error: `(1, *shape)`, mm, from the fixed image's point to its place in the moved image; 0 outside the mask.
        related: False where nothing corresponds; the error is 0 everywhere then.
    """

    name: str
    subject: str
    contrasts: str
    kind: str
    fixed: Image
    moved: Image
    mask: torch.Tensor
    error: torch.Tensor
    related: bool = True

    @property
    def mean_error(self) -> float:
        """Over the mask, mm."""
        return float(self.error[self.mask].mean())


def store(pair: KnownErrorPair, path: Path) -> None:
    """Write one pair; the file appears whole or not at all."""
    grid = pair.fixed.grid
    about = {
        "name": pair.name, "subject": pair.subject, "contrasts": pair.contrasts, "kind": pair.kind,
        "related": pair.related, "images": [pair.fixed.name, pair.moved.name],
        "grid": [grid.size, grid.spacing, grid.origin, grid.direction],
    }  # fmt: skip
    arrays: dict[str, npt.NDArray[Any]] = {
        "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
        "fixed": _whole(pair.fixed.data, STEP),
        "moved": _whole(pair.moved.data, STEP),
        "error": _whole(pair.error, FINEST_ERROR),
        "mask": np.packbits(pair.mask.numpy()),
    }
    if pair.moved.mask is not None:
        arrays["moved_mask"] = np.packbits(pair.moved.mask.numpy() > 0)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    part.replace(path)


def read_pair(path: Path) -> KnownErrorPair:
    """A pair that `store` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(stored["about"].tobytes())
        size, spacing, origin, direction = about["grid"]
        grid = Grid(tuple(size), tuple(spacing), tuple(origin), tuple(tuple(row) for row in direction))
        fixed, moved, error = (
            torch.from_numpy(stored[name].astype(np.float32) * step)
            for name, step in (("fixed", STEP), ("moved", STEP), ("error", FINEST_ERROR))
        )
        mask = _bits(stored["mask"], grid)
        held = _bits(stored["moved_mask"], grid).float() if "moved_mask" in stored else None
    return KnownErrorPair(
        about["name"],
        about["subject"],
        about["contrasts"],
        about["kind"],
        Image(fixed, grid, name=about["images"][0]),
        Image(moved, grid, held, about["images"][1]),
        mask,
        error,
        about["related"],
    )


def _whole(values: torch.Tensor, step: float) -> npt.NDArray[np.uint16]:
    return (values / step).round().clamp(0, 65535).numpy().astype(np.uint16)


def _bits(packed: npt.NDArray[np.uint8], grid: Grid) -> torch.Tensor:
    return torch.from_numpy(np.unpackbits(packed, count=grid.voxels).reshape(1, *grid.shape).astype(bool))
