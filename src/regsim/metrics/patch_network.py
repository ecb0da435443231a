"""A network that sees one patch of both images, as two channels, and says how likely it is that they show the same place."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from regsim.kernels.convolution import halving_convolution
from regsim.metrics.networks import LARGEST_WIDTH
from regsim.settings import Settings

FIRST, SECOND, THIRD = 5, 3, 3
SMALLEST_PATCH, LARGEST_PATCH = 17, 41


class PatchSettings(Settings):
    """The networks of `patch_likelihood`: one for each resolution, all of one form.

    Args:
        dims: 2 for pictures, 3 for volumes.
        patch: side of a patch, voxels.
        channels: of the three convolutions (5 and 3 voxels a side with steps of 2, then 3 voxels without steps).
        hidden: width of the dense layer.
        dropout: share of the dense layer's inputs that a training step leaves out.
        symmetric: patches were mirrored and turned in training, and are when the networks are asked.
        spacings: of the images that each network was taught on, mm, coarse to fine; one network each.
    """

    dims: Literal[2, 3] = 3
    patch: int = Field(default=17, ge=SMALLEST_PATCH, le=LARGEST_PATCH)
    channels: tuple[int, int, int] = (16, 32, 64)
    hidden: int = Field(default=64, ge=1, le=LARGEST_WIDTH)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    symmetric: bool = True
    spacings: tuple[float, ...] = Field(default=(2.0,), min_length=1, max_length=8)

    @property
    def cells(self) -> int:
        """How many cells a side the last convolution leaves of a patch."""
        side = (self.patch - FIRST) // 2 + 1
        return (side - SECOND) // 2 + 1 - (THIRD - 1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not all(1 <= width <= LARGEST_WIDTH for width in self.channels):
            raise ValueError(f"channels: expected widths from 1 to {LARGEST_WIDTH}")
        if any(spacing <= 0 for spacing in self.spacings):
            raise ValueError("spacings: expected positive lengths")
        return self


class PatchNetwork(nn.Module):
    """`network(fixed, moving) -> (N,)`: log-likelihood ratio of patches `(N, 1, *patch)`, by valid convolutions.

    One number, where the paper has two before a softmax: it is their difference. `beside(halved(fixed), moving)` is the same, for
    fixed patches that are asked about often.
    """

    def __init__(self, settings: PatchSettings):
        super().__init__()
        convolve = nn.Conv2d if settings.dims == 2 else nn.Conv3d
        first, second, third = settings.channels
        self.body = nn.Sequential(
            convolve(2, first, FIRST, stride=2),
            nn.ReLU(),
            convolve(first, second, SECOND, stride=2),
            nn.ReLU(),
            convolve(second, third, THIRD),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(settings.dropout),
            nn.Linear(third * settings.cells**settings.dims, settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, 1),
        )

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """`(N,)`."""
        logits: torch.Tensor = self.head(self.body(torch.cat([fixed, moving], dim=1)))
        return logits[:, 0]

    def halved(self, fixed: torch.Tensor) -> torch.Tensor:
        """What the first convolution makes of the fixed patches alone."""
        first = self._first
        return halving_convolution(fixed, first.weight[:, :1], first.bias)

    def beside(self, half: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """`(N,)`, from `halved(fixed)` and the moving patches."""
        both = half + halving_convolution(moving, self._first.weight[:, 1:])
        logits: torch.Tensor = self.head(self.body[1:](both))
        return logits[:, 0]

    @property
    def _first(self) -> nn.Conv2d | nn.Conv3d:
        layer = self.body[0]
        assert isinstance(layer, nn.Conv2d | nn.Conv3d)
        return layer


class PatchNetworks(nn.Module):
    """One network for each resolution, coarse to fine."""

    def __init__(self, settings: PatchSettings):
        super().__init__()
        self.settings = settings
        self.levels = nn.ModuleList(PatchNetwork(settings) for _ in settings.spacings)

    def nearest(self, spacing: float | None) -> PatchNetwork:
        """The network that was taught nearest to this spacing (by ratio); the finest where none is known."""
        known = torch.tensor(self.settings.spacings).log()
        wanted = known.min() if spacing is None else torch.tensor(spacing).log()
        network = self.levels[int((known - wanted).abs().argmin())]
        assert isinstance(network, PatchNetwork)
        return network
