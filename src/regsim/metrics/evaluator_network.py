"""Residual networks from images to an image of their size: IMSE's evaluator, and the generators it is compared with."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from regsim.kernels.box import box_sum
from regsim.kernels.channel_norm import ChannelNorm
from regsim.kernels.convolution import SlabConv3d
from regsim.metrics.networks import CHANNELS_LAST, LARGEST_WIDTH, in_blocks, padded
from regsim.settings import Settings

SMALLEST_POWER = 1e-6
SMALLEST_VARIANCE = 1e-4
WINDOW = 4


class EvaluatorSettings(Settings):
    """The evaluator of `imse`, and generators.

    Args:
        dims: 2 for pictures, 3 for volumes.
        stem: side of the voxel blocks that are rearranged into channels first (1 = none): cheaper, nothing is lost.
        widths: channels of each resolution, finest first; each is half of the one before.
        blocks: residual blocks at each resolution on the way down; the last number is at the coarsest one.
        normalisation: "window": each voxel's channels divided by their size, and at the coarsest resolution each channel
            brought to mean 0 and deviation 1 over 9 cells a side, so that a style can be told from around; "pixel": the first
            alone; "none". With these a prediction depends on nothing beyond `reach`. "group" is the paper's instance
            normalisation (`ChannelNorm`): there it depends on the whole field of view.
    """

    dims: Literal[2, 3] = 2
    stem: Literal[1, 2, 4] = 2
    widths: tuple[int, ...] = Field(default=(24, 40, 64), min_length=1, max_length=6)
    blocks: tuple[int, ...] = Field(default=(0, 0, 3), min_length=1, max_length=6)
    normalisation: Literal["none", "pixel", "window", "group"] = "window"

    @property
    def stride(self) -> int:
        """Voxels for one cell of the coarsest resolution."""
        return int(self.stem * 2 ** (len(self.widths) - 1))

    @property
    def reach(self) -> int:
        """Nothing farther away than this, voxels along any axis, changes a prediction (with "group", everything does)."""
        last = len(self.blocks) - 1
        cells = sum(2**level * (2 * count + 2 * (level < last)) for level, count in enumerate(self.blocks))
        window = 2 * WINDOW * 2**last if self.normalisation == "window" else 0
        return int(self.stem * (cells + 2 + window)) + self.stride

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not all(1 <= width <= LARGEST_WIDTH for width in self.widths):
            raise ValueError(f"widths: expected numbers from 1 to {LARGEST_WIDTH}, got {self.widths}")
        if len(self.blocks) != len(self.widths) or not all(0 <= number <= 16 for number in self.blocks):
            raise ValueError(f"blocks: expected {len(self.widths)} numbers from 0 to 16, got {self.blocks}")
        return self


class ResidualNetwork(nn.Module):
    """`network(*images) -> (N, outputs, *spatial)`: `inputs` images `(N, 1, *spatial)` of any one size, in [0, 1].

    A U-Net whose convolutions come after ReLU, with residual blocks; the last one also sees the images themselves.
    """

    def __init__(self, settings: EvaluatorSettings, inputs: int = 2, outputs: int = 1):
        super().__init__()
        self.settings = settings
        convolve = nn.Conv2d if settings.dims == 2 else SlabConv3d
        widths = settings.widths
        cells = settings.stem**settings.dims
        self.first = convolve(inputs * cells, widths[0], 3, padding=1)
        self.residual = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, settings) for _ in range(count)))
            for width, count in zip(widths, settings.blocks, strict=True)
        )
        self.down = nn.ModuleList(convolve(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.norms = nn.ModuleList(
            _norm(width, settings, level == len(widths) - 1) for level, width in enumerate(widths)
        )
        self.up = nn.ModuleList(convolve(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.merge = nn.ModuleList(convolve(fine, fine, 3, padding=1) for fine in widths[:-1])
        self.last = convolve(widths[0] + inputs * cells, outputs * cells, 3, padding=1)

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        shape, stride = images[0].shape[2:], self.settings.stride
        parts = [in_blocks(padded(image, stride), self.settings.stem) for image in images]
        both = torch.cat(parts, dim=1).contiguous(memory_format=CHANNELS_LAST[len(shape) + 2])
        features = self.first(both)
        skips = []
        for level, residual in enumerate(self.residual):
            features = residual(self.norms[level](features))
            if level < len(self.down):
                skips.append(features)
                features = self.down[level](F.relu(features))
        for level in reversed(range(len(self.up))):
            coarse = F.interpolate(self.up[level](F.relu(features)), scale_factor=2, mode="nearest")
            features = self.merge[level](F.relu(coarse + skips[level]))
        whole = out_of_blocks(self.last(torch.cat([F.relu(features), both], dim=1)), self.settings.stem)
        for axis, length in enumerate(shape, start=2):
            whole = whole.narrow(axis, 0, length)
        return whole


class EvaluatorNetwork(ResidualNetwork):
    """`network(styled, reference) -> difference`: the reference less what the styled image would be in its contrast."""

    def __init__(self, settings: EvaluatorSettings):
        super().__init__(settings, inputs=2)


class GeneratorNetwork(ResidualNetwork):
    """`network(image) -> image` in another contrast."""

    def __init__(self, settings: EvaluatorSettings):
        super().__init__(settings, inputs=1)


class PixelNorm(nn.Module):
    """Channels of each voxel divided by their root mean square: `y = g x / rms_c(x)`; no voxel depends on another."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        size = features.square().mean(dim=1, keepdim=True)
        return features * torch.rsqrt(size + SMALLEST_POWER) * self.gain.reshape(-1, *[1] * (features.ndim - 2))


class WindowNorm(nn.Module):
    """Each channel brought to mean 0 and deviation 1 over a window of 9 cells a side around each cell; at borders over fewer."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        share = 1 / box_sum(features.new_ones(1, 1, *features.shape[2:]), WINDOW)
        centred = features - box_sum(features, WINDOW) * share
        power = box_sum(centred.square(), WINDOW) * share
        shape = (-1, *[1] * (features.ndim - 2))
        return centred * torch.rsqrt(power + SMALLEST_VARIANCE) * self.weight.reshape(shape) + self.bias.reshape(shape)


class ResidualBlock(nn.Module):
    """`x + conv(relu(conv(relu(x))))`; the last convolution starts at zero, so a deep network starts as a shallow one."""

    def __init__(self, width: int, settings: EvaluatorSettings):
        super().__init__()
        convolve = nn.Conv2d if settings.dims == 2 else SlabConv3d
        self.first = convolve(width, width, 3, padding=1)
        self.second = convolve(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        if self.second.bias is not None:
            nn.init.zeros_(self.second.bias)
        self.norm: nn.Module = ChannelNorm(width) if settings.normalisation == "group" else nn.Identity()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        added: torch.Tensor = self.second(F.relu(self.first(F.relu(self.norm(features)))))
        return features + added


def _norm(width: int, settings: EvaluatorSettings, coarsest: bool) -> nn.Module:
    if settings.normalisation == "window":
        return WindowNorm(width) if coarsest else PixelNorm(width)
    kinds: dict[str, type[nn.Module]] = {"group": ChannelNorm, "pixel": PixelNorm}
    return kinds[settings.normalisation](width) if settings.normalisation in kinds else nn.Identity()


def out_of_blocks(cells: torch.Tensor, side: int) -> torch.Tensor:
    """Channels as blocks of `side` voxels a side: `(N, C * side^d, *spatial)` to `(N, C, *spatial * side)`."""
    if side == 1:
        return cells
    shape: Sequence[int] = cells.shape[2:]
    dims = len(shape)
    split = cells.reshape(len(cells), -1, *[side] * dims, *shape)
    order = [0, 1, *(place for axis in range(dims) for place in (2 + dims + axis, 2 + axis))]
    return split.permute(order).reshape(len(cells), -1, *(side * n for n in shape))


@torch.no_grad()
def inflate(flat: ResidualNetwork, solid: ResidualNetwork) -> None:
    """Give a network for volumes the kernels of one for pictures: at first it treats every plane across z alike, alone.

    A kernel becomes the middle plane of a kernel; where the resolution halves, two planes share it, as they share a cell.

    Args:
        flat: for pictures, of the same widths, blocks and stem.
        solid: for volumes; its weights are replaced.
    """
    side = solid.settings.stem
    for (name, weight), (_, target) in zip(flat.named_parameters(), solid.named_parameters(), strict=True):
        if weight.ndim != 4:
            target.copy_(weight.repeat(side) if name == "last.bias" else weight)
            continue
        target.zero_()
        if name == "first.weight":
            cells = weight.reshape(weight.shape[0], -1, side**2, *weight.shape[2:])
            target[:, :, 1] = cells[:, :, None].expand(-1, -1, side, -1, -1, -1).flatten(1, 3) / side
        elif name == "last.weight":
            _inflate_last(weight, target, side, solid.settings.widths[0])
        elif name.startswith("down."):
            target[:, :, 1] = target[:, :, 2] = weight / 2
        else:
            target[:, :, target.shape[2] // 2] = weight


def _inflate_last(weight: torch.Tensor, target: torch.Tensor, side: int, width: int) -> None:
    """Each plane of an output block has the kernel; of the images' own blocks it sees the same plane."""
    area = side**2
    outputs = target.view(-1, side, area, *target.shape[1:])
    own = weight.reshape(-1, area, *weight.shape[1:])
    images = (weight.shape[1] - width) // area
    for plane in range(side):
        outputs[:, plane, :, :width, 1] = own[:, :, :width]
        for image in range(images):
            there = width + image * side * area + plane * area
            outputs[:, plane, :, there : there + area, 1] = own[:, :, width + image * area : width + (image + 1) * area]
