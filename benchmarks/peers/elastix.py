"""elastix, by itk-elastix, with the default parameter maps that come with it.

Threads: ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS, read when it is first used. Given as an argument, two threads crash its B-spline
stage (itk-elastix 0.25.4).
"""

import tempfile
import time
from collections.abc import Sequence

import itk
import numpy as np
import torch

from benchmarks.peers import Found
from regsim.images import Image
from regsim.transforms import DisplacementField


def register(fixed: Image, moving: Image, kinds: Sequence[str]) -> Found:
    """`kinds`: names of default parameter maps, one after the other: "rigid", "affine", "bspline"."""
    images = [_to_itk(image) for image in (fixed, moving)]
    parameters = itk.ParameterObject.New()
    for kind in kinds:
        own = parameters.GetDefaultParameterMap(kind)
        own["WriteResultImage"] = ["false"]
        parameters.AddParameterMap(own)
    began = time.perf_counter()
    _, found = itk.elastix_registration_method(*images, parameter_object=parameters, log_to_console=False)
    seconds = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:  # else it leaves a file in the current folder
        vectors = itk.transformix_deformation_field(images[1], found, log_to_console=False, output_directory=folder)
    field = torch.from_numpy(np.ascontiguousarray(np.asarray(vectors), dtype=np.float32)).movedim(-1, 0)
    return Found(DisplacementField(field, fixed.grid), seconds)


def _to_itk(image: Image) -> "itk.Image":
    made = itk.image_from_array(np.ascontiguousarray(image.data[0].numpy(), dtype=np.float32))
    made.SetSpacing(list(image.grid.spacing))
    made.SetOrigin(list(image.grid.origin))
    made.SetDirection(itk.matrix_from_array(np.asarray(image.grid.direction)))
    return made
