"""The convolutions of VGG16, and its weights from a safetensors file that the user gives."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import nn

from regsim.errors import InputError
from regsim.metrics.checkpoint import TensorFacts, read_header

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""The convolutions of each block by their number in torchvision's `features`."""
COLOURS = 3
SIDE = 3
LARGEST_WIDTH = 1024
FLOATS = ("F64", "F32", "F16", "BF16")
EXPECTED = "weights of VGG16 as a safetensors file with torchvision's names (features.0.weight, features.0.bias, ...)"
LINES = ("import torch, safetensors.torch", "safetensors.torch.save_file(torch.load('{0}', weights_only=True), '{1}')")
"""How a file of torch.save becomes one of safetensors, in Python."""


class VggNetwork(nn.Module):
    """The first blocks of VGG16: convolutions of 3 voxels a side with ReLU, the maximum over 2 x 2 between blocks.

    Args:
        widths: channels of each convolution, block by block; VGG16's own are 64, 128, 256, 512, 512.

    References:
        Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, 2015, arXiv:1409.1556.
    """

    def __init__(self, widths: Sequence[Sequence[int]]):
        super().__init__()
        self.features = nn.ModuleDict()
        before = COLOURS
        for block, sizes in zip(BLOCKS, widths, strict=False):
            for number, width in zip(block, sizes, strict=True):
                self.features[str(number)] = nn.Conv2d(before, width, SIDE, padding=1)
                before = width
        self.depth = len(widths)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """`(N, 3, H, W)`, sides multiples of `2^(depth - 1)`, to the features at the end of each block, finest first."""
        found: list[torch.Tensor] = []
        for block in BLOCKS[: self.depth]:
            image = F.max_pool2d(image, 2) if found else image
            for number in block:
                image = F.relu(self.features[str(number)](image))
            found.append(image)
        return found


def load_vgg(path: Path, depth: int) -> VggNetwork:
    """The first `depth` blocks, frozen, in float32. The widths are the file's; nothing in it can run code.

    Raises:
        InputError: no such file, no safetensors file (a pickle, as torch.save writes, gets the two lines that convert it),
            tensors of another network, weights that are not finite.
    """
    if not path.is_file():
        raise InputError(f"'{path}': no such file; expected {EXPECTED}")
    try:
        header, _ = read_header(path)
    except InputError as problem:
        first, second = LINES[0], LINES[1].format(path.with_suffix(".pth").name, path.with_suffix(".safetensors").name)
        raise InputError(
            f"{problem}. Expected {EXPECTED}; from torchvision's .pth: `{first}`, then `{second}`"
        ) from None
    blocks = BLOCKS[:depth]
    with torch.device("meta"):  # no memory is taken before the file was seen to hold just these tensors
        network = VggNetwork(_widths(path, header, blocks))
    for name, tensor in network.state_dict().items():
        _check(path, name, header, tuple(tensor.shape))
    network.load_state_dict(_read(path, list(network.state_dict())), assign=True)
    network.requires_grad_(False)
    return network.eval()


def _widths(path: Path, header: Mapping[str, TensorFacts], blocks: Sequence[Sequence[int]]) -> list[list[int]]:
    """Of each convolution, from the shapes that the file's header states."""
    found = []
    for block in blocks:
        sizes = []
        for number in block:
            name = f"features.{number}.weight"
            shape = header[name].shape if name in header else ()
            if len(shape) != 4 or not 1 <= shape[0] <= LARGEST_WIDTH:
                said = f"is {list(shape)}" if shape else "is missing"
                raise InputError(f"'{path}': tensor '{name}' {said}; expected {EXPECTED}")
            sizes.append(shape[0])
        found.append(sizes)
    return found


def _check(path: Path, name: str, header: Mapping[str, TensorFacts], shape: tuple[int, ...]) -> None:
    """One tensor's shape and type, from the header alone."""
    if name not in header:
        raise InputError(f"'{path}': tensor '{name}' is missing; expected {EXPECTED}")
    if header[name].shape != shape or header[name].dtype not in FLOATS:
        raise InputError(
            f"'{path}': tensor '{name}' is {header[name].dtype} {list(header[name].shape)}, expected F32 {list(shape)}"
        )


def _read(path: Path, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """These tensors alone: a file of the whole VGG16 holds ten times as much."""
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name).float() for name in names}
    except SafetensorError as problem:
        raise InputError(f"'{path}' is damaged: {problem}") from None
    for name, tensor in tensors.items():
        if not math.isfinite(float(tensor.abs().sum(dtype=torch.float64))):
            raise InputError(f"'{path}': tensor '{name}' holds weights that are not finite (NaN or Inf)")
    return tensors
