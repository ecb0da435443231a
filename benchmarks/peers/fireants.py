"""FireANTs' greedy diffeomorphic registration, on the CPU in plain torch (its fused operations need CUDA).

It pins SimpleITK 2.2.1; beside a newer one it runs when installed by `pip install --no-deps fireants hydra-core omegaconf`.

References:
    Jena et al., FireANTs, 2024, arXiv:2404.01249.
"""

import contextlib
import io
import logging
import tempfile
import time
from pathlib import Path

import SimpleITK as sitk
from fireants.io import BatchedImages
from fireants.io import Image as FireImage
from fireants.registration.greedy import GreedyRegistration

from benchmarks.peers import Found
from regsim.images import Image
from regsim.transforms import LinearTransform, Transform, read_transform


def register(fixed: Image, moving: Image, affine: Transform) -> Found:
    """Its default step, local correlation and shrink factors 4, 2, 1, after an affine registration (not timed here)."""
    assert isinstance(affine, LinearTransform)
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        pair = [_batch(image) for image in (fixed, moving)]
        began = time.perf_counter()
        greedy = GreedyRegistration(
            [4, 2, 1], [200, 100, 50], *pair, loss_type="cc", cc_kernel_size=5, optimizer_lr=0.5, smooth_grad_sigma=1,
            smooth_warp_sigma=0.25, init_affine=affine.homogeneous().float()[None], progress_bar=False,
        )  # fmt: skip
        greedy.optimize()
        seconds = time.perf_counter() - began
        path = Path(folder) / "warp.nii.gz"
        greedy.save_as_ants_transforms(str(path))
        return Found(read_transform(path, fixed.ndim), seconds)


def _batch(image: Image) -> BatchedImages:
    scaled = image.data / image.data.max().clamp_min(1e-6)
    stored = sitk.Cast(image.with_data(scaled).to_sitk(), sitk.sitkFloat32)
    return BatchedImages([FireImage(stored, device="cpu")])
