"""What the metric tests share: deterministic textured images, and how the mean of each map follows from the value."""

import atexit
import math
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from regsim.images.examples import brain
from regsim.metrics import REGISTRY, AbstractMetric, load_metric
from regsim.metrics.checkpoint import Card, save_model
from regsim.metrics.evaluator_network import EvaluatorSettings, GeneratorNetwork
from regsim.metrics.vgg_network import BLOCKS, VggNetwork
from regsim.prepare import coarser, rescaled

NAMES = sorted(REGISTRY)

# The mean of the map as a function of the value; a metric that is not listed is tested for "lower = better" only.
MAP_MEAN = {
    "mse": lambda value: value,
    "mae": lambda value: value,
    "ncc": lambda value: 1 - value,
    "lncc": lambda value: 1 - value,
    "nccsup": lambda value: 1 - value,
    "ssim": lambda value: 1 - value,
    "mi": lambda value: -value,
    "mind": lambda value: value,
    "ngf": lambda value: value,
}

SHAPES_2D = [(1, 1, 17, 20), (3, 1, 15, 16), (2, 3, 13, 14)]
SHAPES_3D = [(1, 1, 9, 10, 11), (2, 2, 7, 8, 9)]
PAIRS = [(1, 1, 24, 27), (1, 1, 11, 12, 13)]


# What the metrics that need something are given.
GIVEN: dict[str, Callable[[], dict[str, str]]] = {
    "perceptual": lambda: {"weights": str(vgg_file())},
    "translation": lambda: {"model": str(generator_folder())},
}


def metric(name: str) -> AbstractMetric:
    return load_metric(name, **GIVEN[name]()) if name in GIVEN else load_metric(name)


def vgg_state(width: int = 6, depth: int = len(BLOCKS), seed: int = 0) -> dict[str, torch.Tensor]:
    """A slim VGG16 with random weights, named as torchvision's; the biases leave no cell without a feature."""
    generator = torch.Generator().manual_seed(seed)
    state = VggNetwork([[width] * len(block) for block in BLOCKS[:depth]]).state_dict()
    for tensor in state.values():
        drawn = torch.randn(tensor.shape, generator=generator)
        tensor.copy_(0.3 * drawn.abs() if tensor.ndim == 1 else math.sqrt(2 / (9 * tensor.shape[1])) * drawn)
    return state


@cache
def vgg_file() -> Path:
    """Such weights in a file, for the whole session."""
    folder = Path(tempfile.mkdtemp(prefix="regsim-vgg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save_file(vgg_state(), folder / "vgg.safetensors")
    return folder / "vgg.safetensors"


@cache
def generator_folder() -> Path:
    """An untrained generator that adds little to an image, for the whole session."""
    folder = Path(tempfile.mkdtemp(prefix="regsim-generator-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    chosen = EvaluatorSettings.checked({"widths": (4, 6), "blocks": (0, 1), "stem": 1})
    network = GeneratorNetwork(chosen)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
        network.last.weight[0, -1, 1, 1] = 1.0  # the image itself
    card = Card(name="untrained", metric="translation", network=chosen.model_dump(mode="json"))
    save_model(folder, card, network.state_dict())
    return folder


def textured(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A smooth random image in [0, 1]: coarse blobs under a finer texture, no two voxels equal."""
    generator = torch.Generator().manual_seed(seed)
    spatial = shape[2:]
    mode = "bilinear" if len(spatial) == 2 else "trilinear"
    image = torch.zeros(shape, dtype=torch.float64)
    for period, strength in ((7, 1.0), (3, 0.35)):
        coarse = [max(2, -(-length // period) + 1) for length in spatial]
        noise = torch.rand(*shape[:2], *coarse, generator=generator, dtype=torch.float64)
        image = image + strength * F.interpolate(noise, size=spatial, mode=mode, align_corners=True)
    low, high = image.amin(), image.amax()
    return ((image - low) / (high - low).clamp_min(1e-9)).to(dtype)


def noisy(image: torch.Tensor, seed: int = 1, sigma: float = 0.05) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return image + sigma * torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image.dtype)


def shifted_pair(dims: int, shift: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Two crops of one larger image, `shift` voxels apart along the last axis: nothing is padded or wrapped."""
    size = 40 if dims == 2 else 20
    image = textured((1, 1, *(size + 4,) * dims), seed)
    fixed = image[(..., *(slice(0, size),) * dims)]
    moving = image[(..., *(slice(0, size),) * (dims - 1), slice(shift, shift + size))]
    return fixed.contiguous(), moving.contiguous()


# Patch networks have learnt brains, T1, T2 and FLAIR, with a dither of 1.4 voxels along every axis (pictures 1.9): they say
# little about blobs, and a voxel is within what they call the same place.
OF_BRAINS = {"patch_likelihood": (0, 2, 4)}
SHIFTS = (0, 1, 2, 4)


def shifts_for(name: str) -> tuple[int, ...]:
    """The shifts that a metric must tell apart."""
    return OF_BRAINS.get(name, SHIFTS)


def pair_for(name: str, dims: int, shift: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """What a metric is for: `shifted_pair`, or the bundled brain beside itself; another seed: beside a mirrored one."""
    if name not in OF_BRAINS:
        return shifted_pair(dims, shift, seed)
    fixed, moving = shifted_brain(dims, shift, "t1")
    return fixed, moving if seed == 3 else moving.flip(-2)


def pair_of_contrasts(name: str, dims: int, shift: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in two contrasts: the second image inverted, or the brain's T2."""
    if name in OF_BRAINS:
        return shifted_brain(dims, shift, "t2")
    fixed, moving = shifted_pair(dims, shift)
    return fixed, 1 - moving


def shifted_brain(dims: int, shift: int, contrast: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The bundled brain's T1 and another contrast, 2 mm, 84 or 48 voxels a side, `shift` voxels apart along the last axis."""
    images = [rescaled(coarser(brain(each), 2.0)).data[0].double() for each in ("t1", contrast)]
    size = 84 if dims == 2 else 48
    first = [(n - size) // 2 for n in images[0].shape]
    cut = [slice(at, at + size) for at in first]
    fixed, moving = images[0][tuple(cut)], images[1][cut[0], cut[1], first[2] + shift : first[2] + shift + size]
    if dims == 2:
        fixed, moving = fixed[size // 2], moving[size // 2]
    return fixed[None, None].contiguous(), moving[None, None].contiguous()


def half_mask(shape: tuple[int, ...]) -> torch.Tensor:
    """A bool mask that leaves out a margin and a hole."""
    mask = torch.zeros((shape[0], 1, *shape[2:]), dtype=torch.bool)
    mask[(..., *(slice(1, -2),) * (len(shape) - 2))] = True
    mask[(..., *(slice(4, 6),) * (len(shape) - 2))] = False
    return mask
