"""Network bodies that learned metrics share: convolution blocks, encoders, decoders, for pictures and volumes."""

from collections.abc import Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from regsim.kernels.channel_norm import ChannelNorm
from regsim.settings import Settings

Normalisation = Literal["none", "group"]
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
LARGEST_WIDTH = 1024
WIDEST_DECODER = 32
TINY = 1e-3
SMALLEST_VARIANCE = 1e-20


class EncoderSettings(Settings):
    """An encoder of blocks, each halving the resolution.

    Args:
        dims: 2 for pictures, 3 for volumes.
        stem: side of the voxel blocks that are rearranged into channels first (1 = none): cheaper, nothing is lost.
        channels: of each block.
        normalisation: "group" is `ChannelNorm`, that is `GroupNorm(C, C)`: each channel of each item by itself.
        signed: the last block ends without ReLU, so that features can point anywhere.
    """

    dims: Literal[2, 3] = 2
    stem: Literal[1, 2, 4] = 1
    channels: tuple[int, ...] = Field(default=(128, 64, 32, 16), min_length=1, max_length=8)
    normalisation: Normalisation = "none"
    signed: bool = False

    @property
    def stride(self) -> int:
        """Voxels for one cell of the last block's output."""
        return int(self.stem * 2 ** len(self.channels))

    @model_validator(mode="after")
    def _widths(self) -> Self:
        if not all(1 <= width <= LARGEST_WIDTH for width in self.channels):
            raise ValueError(f"channels: expected widths from 1 to {LARGEST_WIDTH}, got {self.channels}")
        return self


class Encoder(nn.Module):
    """`forward(image) -> features of each block`, finest first.

    A block is a convolution of 3 voxels a side, the maximum over 2 voxels a side, the normalisation, and ReLU. (Maximum
    before ReLU is the same as after it, and a quarter of the work in 2-D.)
    """

    def __init__(self, settings: EncoderSettings):
        super().__init__()
        self.settings = settings
        widths = (settings.stem**settings.dims, *settings.channels)
        last = len(settings.channels) - 1
        self.blocks = nn.ModuleList(
            _block(widths[place], widths[place + 1], settings, settings.signed and place == last)
            for place in range(len(settings.channels))
        )
        self.pool = nn.MaxPool2d(2) if settings.dims == 2 else nn.MaxPool3d(2)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """`(N, 1, *spatial)` to one tensor a block, each at half the resolution of the one before."""
        found = []
        features = self.stem(image)
        for block in self.blocks:
            parts = list(block.children())
            features = self.pool(parts[0](features))
            for part in parts[1:]:
                features = part(features)
            found.append(features)
        return found

    def unpooled(self, image: torch.Tensor) -> torch.Tensor:
        """The last block's features before they are pooled, at twice the resolution of its output."""
        features = [self.stem(image), *self.forward(image)]
        finest: torch.Tensor = self.blocks[-1](features[-2])
        return finest

    def stem(self, image: torch.Tensor) -> torch.Tensor:
        """Voxel blocks as channels, innermost in memory."""
        return in_blocks(image, self.settings.stem).contiguous(memory_format=CHANNELS_LAST[image.ndim])


class Decoder(nn.Module):
    """The encoder mirrored, but slim: from its last features back to the image's grid, for autoencoding and segmentation."""

    def __init__(self, settings: EncoderSettings, outputs: int = 1):
        super().__init__()
        self.settings = settings
        widths = tuple(min(width, WIDEST_DECODER) for width in reversed(settings.channels))
        outside = (*widths[1:], widths[-1])
        inside = (settings.channels[-1], *outside[:-1])
        self.blocks = nn.ModuleList(_block(*ends, settings, False) for ends in zip(inside, outside, strict=True))
        convolve = nn.Conv2d if settings.dims == 2 else nn.Conv3d
        self.last = convolve(widths[-1], outputs, 3, padding=1)

    def forward(self, features: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """`(N, C, *cells)` to `(N, outputs, *shape)`."""
        for block in self.blocks:
            features = block(F.interpolate(features, scale_factor=2, mode="nearest"))
        mode = "bilinear" if features.ndim == 4 else "trilinear"
        if tuple(features.shape[2:]) != tuple(shape):
            features = F.interpolate(features, size=tuple(shape), mode=mode, align_corners=False)
        image: torch.Tensor = self.last(features)
        return image


def _block(inside: int, outside: int, settings: EncoderSettings, signed: bool) -> nn.Sequential:
    convolve = nn.Conv2d if settings.dims == 2 else nn.Conv3d
    parts: list[nn.Module] = [convolve(inside, outside, 3, padding=1)]
    if settings.normalisation == "group":
        parts.append(ChannelNorm(outside))
    if not signed:
        parts.append(nn.ReLU())
    return nn.Sequential(*parts)


def in_blocks(image: torch.Tensor, side: int) -> torch.Tensor:
    """Blocks of `side` voxels a side as channels: `(N, 1, *spatial)` to `(N, side^d, *spatial / side)`."""
    if side == 1:
        return image
    count, shape = image.shape[0], image.shape[2:]
    split = [part for n in shape for part in (n // side, side)]
    blocks = image.reshape(count, *split)
    dims = len(shape)
    order = (0, *(2 * axis + 2 for axis in range(dims)), *(2 * axis + 1 for axis in range(dims)))
    return blocks.permute(order).reshape(count, side**dims, *(n // side for n in shape))


def standardised(image: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Mean 0 and standard deviation 1 over the weights, 0 where they are 0; a constant image becomes 0 everywhere."""
    axes = tuple(range(1, image.ndim))
    if weights is None:
        weights = torch.ones_like(image)
    total = weights.sum(dim=axes, keepdim=True).clamp_min(TINY)
    centred = image - (image * weights).sum(dim=axes, keepdim=True) / total
    variance = (centred.square() * weights).sum(dim=axes, keepdim=True) / total
    spread = image.abs().amax(dim=axes, keepdim=True).detach().square() * 1e-8
    scaled = centred / (variance + spread).clamp_min(SMALLEST_VARIANCE).sqrt()
    return torch.where(weights > 0, scaled, torch.zeros_like(scaled))


def padded(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Zeros behind every axis up to a multiple."""
    margins: list[int] = []
    for n in image.shape[2:]:
        margins = [0, -n % multiple, *margins]
    return F.pad(image, margins) if any(margins) else image


def pooled(weights: torch.Tensor, shape: Sequence[int], multiple: int) -> torch.Tensor:
    """Weights on a grid of cells of `multiple` voxels: their mean in each cell."""
    return averaged(padded(weights, multiple), shape)


def averaged(values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Means over `shape` cells of equal size."""
    if values.ndim == 4:
        return F.adaptive_avg_pool2d(values, (shape[0], shape[1]))
    return F.adaptive_avg_pool3d(values, (shape[0], shape[1], shape[2]))
