"""Other packages behind one call each. A file a package; each is imported only when its package is asked for."""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import SimpleITK as sitk
import torch

from regsim.transforms import Affine, Transform

MODULES = {
    "MONAI": "monai",
    "torchmetrics": "torchmetrics",
    "scikit-image": "skimage",
    "SimpleITK": "SimpleITK",
    "ANTs": "ants",
    "elastix": "itk",
    "convexAdam": "convexAdam",
    "FireANTs": "fireants",
    "torch": "torch",
}


@dataclass(frozen=True)
class Found:
    """What a peer found: a map of fixed points to moving points, and the seconds of its own work (no conversion of images)."""

    transform: Transform
    seconds: float


def installed(who: str) -> bool:
    """Whether the package of a contestant such as "ANTs SyN" is there; regsim always is."""
    module = MODULES.get(who.split()[0])
    return module is None or find_spec(module) is not None


def linear(transform: sitk.Transform) -> Affine:
    """Any linear ITK transform, read off where it sends the origin and the unit points."""
    ndim = transform.GetDimension()
    origin = np.array(transform.TransformPoint([0.0] * ndim))
    columns = [np.array(transform.TransformPoint(point)) - origin for point in np.eye(ndim).tolist()]
    whole = torch.eye(ndim + 1, dtype=torch.float64)
    whole[:-1, :-1] = torch.from_numpy(np.stack(columns, axis=1))
    whole[:-1, -1] = torch.from_numpy(origin)
    return Affine(ndim).set_homogeneous(whole)
