"""A network that sees both images at once, as two channels, and says for every patch how unlike aligned they look."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from regsim.kernels.channel_norm import ChannelNorm
from regsim.metrics.networks import CHANNELS_LAST, LARGEST_WIDTH, Normalisation, in_blocks, padded, pooled, standardised
from regsim.settings import Settings


class TwoChannelSettings(Settings):
    """The network of `two_channel`.

    Args:
        dims: 2 for pictures, 3 for volumes.
        stem: side of the voxel blocks that are rearranged into channels first (1 = none): cheaper, nothing is lost.
        channels: of the convolutions that are followed by a maximum over 2 voxels a side.
        hidden: of the convolutions after them, at the cells' resolution; each sees one cell farther.
        normalisation: after each convolution: "none", or "group", that is `ChannelNorm`: each channel of each item by itself.
            With "none" a cell's answer depends on its patch alone, but for the standardisation of the images.
    """

    dims: Literal[2, 3] = 2
    stem: Literal[1, 2, 4] = 2
    channels: tuple[int, ...] = Field(default=(32,), max_length=6)
    hidden: tuple[int, ...] = Field(default=(48, 48), min_length=1, max_length=12)
    normalisation: Normalisation = "group"

    @property
    def stride(self) -> int:
        """Voxels for one cell."""
        return int(self.stem * 2 ** len(self.channels))

    @property
    def patch(self) -> int:
        """Side of the patch that a cell's answer is about, voxels."""
        side, step = 1, self.stride
        side += 2 * len(self.hidden)
        for _ in self.channels:
            step //= 2
            side = 2 * side + 2
        return side * self.stem

    @model_validator(mode="after")
    def _widths(self) -> Self:
        if not all(1 <= width <= LARGEST_WIDTH for width in (*self.channels, *self.hidden)):
            raise ValueError(f"channels, hidden: expected widths from 1 to {LARGEST_WIDTH}")
        return self


class TwoChannelNetwork(nn.Module):
    """`network(fixed, moving) -> logits` of "misaligned" for every cell: any image size, no dense layer.

    Both images come from `prepared`. A logit is the logarithm of the odds, for classes that were equally frequent in training.
    """

    def __init__(self, settings: TwoChannelSettings):
        super().__init__()
        self.settings = settings
        convolve = nn.Conv2d if settings.dims == 2 else nn.Conv3d
        before = 2 * settings.stem**settings.dims
        layers: list[nn.Module] = []
        for number, width in enumerate((*settings.channels, *settings.hidden)):
            layers.append(convolve(before, width, 3, padding=1))
            if number < len(settings.channels):  # the maximum before ReLU is the same as after it, and less work
                layers.append(nn.MaxPool2d(2) if settings.dims == 2 else nn.MaxPool3d(2))
            if settings.normalisation == "group":
                layers.append(ChannelNorm(width))
            layers.append(nn.ReLU())
            before = width
        self.body = nn.Sequential(*layers)
        self.last = convolve(before, 1, 1)

    def prepared(self, image: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """`(N, 1, *spatial)` as the network wants it: mean 0 and deviation 1 over the weights, zeros outside and behind."""
        return padded(standardised(image, weights), self.settings.stride)

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """`(N, 1, *cells)`."""
        both = torch.cat([in_blocks(image, self.settings.stem) for image in (fixed, moving)], dim=1)
        logits: torch.Tensor = self.last(self.body(both.contiguous(memory_format=CHANNELS_LAST[both.ndim])))
        return logits

    def shares(self, weights: torch.Tensor) -> torch.Tensor:
        """The mean weight of each cell, `(N, 1, *cells)`, of weights `(N, 1, *spatial)`."""
        cells = [-(-n // self.settings.stride) for n in weights.shape[2:]]
        return pooled(weights, cells, self.settings.stride)
