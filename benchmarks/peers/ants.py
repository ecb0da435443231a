"""ANTs, by antspyx. Threads: ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS, read when it is first used."""

import tempfile
import time
from pathlib import Path

import ants
import numpy as np

from benchmarks.peers import Found
from regsim.images import Image
from regsim.transforms import Composite, read_transform


def register(fixed: Image, moving: Image, kind: str) -> Found:
    """`kind`: ANTs' own name, "SyN" (mutual information), "SyNCC", "Affine" and so on, at its defaults."""
    images = [_to_ants(image) for image in (fixed, moving)]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = ants.registration(*images, kind, outprefix=str(Path(folder) / "t"), random_seed=1)
        seconds = time.perf_counter() - began
        parts = [read_transform(Path(path), fixed.ndim) for path in reversed(found["fwdtransforms"])]
        for path in {*found["fwdtransforms"], *found["invtransforms"]}:
            Path(path).unlink(missing_ok=True)
    return Found(parts[0] if len(parts) == 1 else Composite(parts), seconds)


def _to_ants(image: Image) -> "ants.ANTsImage":
    grid = image.grid
    array = np.ascontiguousarray(image.data[0].numpy().T)
    return ants.from_numpy(array, list(grid.origin), list(grid.spacing), np.asarray(grid.direction))
