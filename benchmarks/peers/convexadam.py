"""convexAdam: MIND-SSC descriptors, and the discrete and continuous registration on them.

References:
    Siebert et al., ConvexAdam, 2024, doi:10.1109/TMI.2024.3462248.
"""

import contextlib
import io
import time

import numpy as np
import torch
from convexAdam.convex_adam_MIND import convex_adam_pt
from convexAdam.convex_adam_utils import MINDSSC

from benchmarks.peers import Found
from regsim.images import Image
from regsim.transforms import Composite, DisplacementField, Transform, warp


def descriptor_distance(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """Squared difference of the descriptors (radius 1, dilation 2, as its registration has them), a value a voxel."""
    with torch.no_grad():
        here = MINDSSC(fixed, 1, 2, device="cpu")
    return (MINDSSC(moving, 1, 2, device="cpu") - here).square().mean(dim=1)


def register(fixed: Image, moving: Image, affine: Transform) -> Found:
    """Its whole pipeline at its defaults, on the moving image after an affine registration (not timed here)."""
    carried = warp(moving, affine, fixed)
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        vectors = convex_adam_pt(fixed.data[0], carried.data[0], device=torch.device("cpu"), dtype=torch.float32)
    seconds = time.perf_counter() - began
    steps = np.ascontiguousarray(vectors[..., ::-1]) @ fixed.grid.matrix.T
    field = DisplacementField(torch.from_numpy(steps).movedim(-1, 0).float(), fixed.grid)
    return Found(Composite([affine, field]), seconds)
