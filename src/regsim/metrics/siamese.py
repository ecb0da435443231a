"""The Siamese network of SiamRegQC: one encoder for both images, and what compares its features."""

from dataclasses import dataclass
from itertools import product
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from regsim.metrics.networks import (
    LARGEST_WIDTH,
    Decoder,
    Encoder,
    EncoderSettings,
    averaged,
    padded,
    pooled,
    standardised,
)
from regsim.settings import Settings

Head = Literal["dense", "local"]
Comparison = Literal["concatenation", "difference", "interaction", "correlation"]
PARTS = {"concatenation": 2, "difference": 1, "interaction": 3, "correlation": 3}
CONFIDENCE = 5.0
LARGEST_HIDDEN = 8192
SMALLEST_LENGTH = 1e-3


class SiameseSettings(Settings):
    """The network of SiamRegQC and its variants.

    Args:
        encoder: see `EncoderSettings`.
        comparison: what the head sees of the two feature maps a and b: both side by side (as published), `|a - b|`, or
            `|a - b|`, `a b` and `a + b`, or these and the correlations of each cell of one image with the cells of the
            other up to `reach` away.
        head: "dense": layers over all cells of a fixed grid (as published); "local": convolutions that give every cell an
            error and a weight, averaged over the mask: any image size.
        reach: cells, for the correlations.
        hidden: widths of the head's inner layers.
        grid: cells a side that the dense head sees.
        summary: width of a layer that sees mean and spread of the local head's last layer over the mask and corrects the
            mean error by a factor (errors of a rotation grow outwards, where confidence is low); 0 = none.
        standardise: bring each image to mean 0 and deviation 1 first.
        centre: subtract each channel's mean over the cells before the cosine (ReLU features are else nearly collinear).
        mirrored: the metric also looks at both images mirrored, and averages: twice the work, steadier values, and no left
            or right. Training does not.
        value: "cosine": `1 - cos` of the two feature maps (as published); "error": the head's misalignment.
    """

    encoder: EncoderSettings = EncoderSettings()
    comparison: Comparison = "difference"
    reach: int = Field(default=2, ge=0, le=6)
    head: Head = "dense"
    hidden: tuple[int, ...] = Field(default=(1024, 256), max_length=4)
    grid: int = Field(default=8, ge=1, le=64)
    summary: int = Field(default=0, ge=0, le=LARGEST_WIDTH)
    standardise: bool = False
    centre: bool = False
    mirrored: bool = False
    value: Literal["cosine", "error"] = "cosine"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.value == "error" and self.head != "local":
            raise ValueError('value "error" needs the local head')
        if self.head == "local" and not self.hidden:
            raise ValueError("hidden: the local head needs one inner layer at least")
        if not all(1 <= width <= LARGEST_HIDDEN for width in self.hidden):
            raise ValueError(f"hidden: expected widths from 1 to {LARGEST_HIDDEN}, got {self.hidden}")
        return self


class SiameseFeatures:
    """What one image is to the network: the features of each block."""

    def __init__(self, blocks: list[torch.Tensor], shape: torch.Size):
        self.blocks = blocks
        self.shape = shape

    @property
    def latent(self) -> torch.Tensor:
        """`(N, C, *cells)`, the last block's features."""
        return self.blocks[-1]


@dataclass(frozen=True)
class LocalAnswer:
    """What the local head says: `(N, 1, *cells)` log(1 + error) and confidence, and the layer before, `(N, hidden, *cells)`."""

    error: torch.Tensor
    confidence: torch.Tensor
    hidden: torch.Tensor


class SiameseNetwork(nn.Module):
    """Encoder, head, and the decoder that the first training step needs.

    The head answers two questions with one body: `logits` (0 aligned, 1 misaligned) for the dense head, and for the local
    head an error in each cell, as log(1 + error).
    """

    def __init__(self, settings: SiameseSettings):
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings.encoder)
        dims = settings.encoder.dims
        width = PARTS[settings.comparison] * settings.encoder.channels[-1]
        width += (2 * settings.reach + 1) ** dims if settings.comparison == "correlation" else 0
        self.summary = _summary(settings)
        self.head = (
            _dense(width * settings.grid**dims, settings) if settings.head == "dense" else _local(width, settings)
        )

    def features(self, image: torch.Tensor, weights: torch.Tensor | None) -> SiameseFeatures:
        """Encode `(N, 1, *spatial)`; images whose sides are no multiple of the stride are padded with zeros."""
        seen = standardised(image, weights) if self.settings.standardise else image
        return SiameseFeatures(self.encoder(padded(seen, self.settings.encoder.stride)), image.shape[2:])

    def unpooled(self, image: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """The last block's features before pooling, for maps."""
        seen = standardised(image, weights) if self.settings.standardise else image
        return self.encoder.unpooled(padded(seen, self.settings.encoder.stride))

    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """What the head sees of two latents."""
        if self.settings.comparison == "concatenation":
            return torch.cat([first, second], dim=1)
        if self.settings.comparison == "difference":
            return (first - second).abs()
        parts = [(first - second).abs(), first * second, first + second]
        if self.settings.comparison == "correlation":
            parts.append(correlations(first, second, self.settings.reach))
        return torch.cat(parts, dim=1)

    def logits(self, first: SiameseFeatures, second: SiameseFeatures) -> torch.Tensor:
        """`(N, 2)`: aligned, misaligned; the dense head."""
        seen = self.compare(first.latent, second.latent)
        cells = averaged(seen, (self.settings.grid,) * (seen.ndim - 2))
        answer: torch.Tensor = self.head(cells.flatten(1))
        return answer

    def local(self, first: SiameseFeatures, second: SiameseFeatures) -> LocalAnswer:
        """What the local head says of every cell."""
        hidden = self.head[:-1](self.compare(first.latent, second.latent))
        if self.settings.comparison in ("concatenation", "correlation"):
            hidden = (hidden + self.head[:-1](self.compare(second.latent, first.latent))) / 2
        answer = self.head[-1](hidden)
        confidence = torch.exp(CONFIDENCE * torch.tanh(answer[:, 1:] / CONFIDENCE))
        return LocalAnswer(F.softplus(answer[:, :1]), confidence, hidden)

    def pooled_error(
        self, first: SiameseFeatures, second: SiameseFeatures, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """log(1 + mean error) over weights `(N, 1, *spatial)`: `(N,)`; the cells' log(1 + error), and their mask weights."""
        said = self.local(first, second)
        cells = pooled(weights, said.error.shape[2:], self.settings.encoder.stride)
        share = said.confidence * cells
        total = share.flatten(1).sum(dim=1, keepdim=True)
        share = share / total.clamp_min(torch.finfo(total.dtype).tiny).reshape(-1, *[1] * (share.ndim - 1))
        mean = (torch.expm1(said.error) * share).flatten(1).sum(dim=1)
        if self.summary is not None:
            average = (said.hidden * share).flatten(2).sum(dim=2)
            centred = said.hidden - average.reshape(*average.shape, *[1] * (share.ndim - 2))
            spread = ((centred.square() * share).flatten(2).sum(dim=2) + SMALLEST_LENGTH**2).sqrt()
            mean = mean * torch.exp(self.summary(torch.cat([average, spread], dim=1))[:, 0].clamp(-2, 2))
        return torch.log1p(mean), said.error, cells

    def cosine(
        self, first: SiameseFeatures, second: SiameseFeatures, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The cosine of the two flattened latents, `(N,)`; cells count by the share of their voxels in the mask."""
        a, b = first.latent, second.latent
        share = (
            torch.ones_like(a[:, :1]) if weights is None else pooled(weights, a.shape[2:], self.settings.encoder.stride)
        )
        if self.settings.centre:
            a, b = (each - _mean(each, share) for each in (a, b))
        a, b = ((each * share.sqrt()).flatten(1) for each in (a, b))
        lengths = (a.square().sum(dim=1) * b.square().sum(dim=1)).clamp_min(torch.finfo(a.dtype).tiny).sqrt()
        flat = (a.square().sum(dim=1) == 0) & (b.square().sum(dim=1) == 0)
        return torch.where(flat, torch.ones_like(lengths), (a * b).sum(dim=1) / lengths)

    def decoder(self) -> Decoder:
        """A fresh decoder for autoencoding; it is no part of the stored model."""
        return Decoder(self.settings.encoder)


def correlations(first: torch.Tensor, second: torch.Tensor, reach: int) -> torch.Tensor:
    """`(N, (2 reach + 1)^d, *cells)`: the cosine of each cell with the other image's cells up to `reach` away.

    Each channel's mean over the cells is taken off first; beyond the border the cosine is 0.
    """
    a, b = (_directions(each) for each in (first, second))
    b = F.pad(b, (reach,) * (2 * (b.ndim - 2)))
    shape = a.shape[2:]
    found = []
    for step in product(range(2 * reach + 1), repeat=len(shape)):
        there = b
        for axis, (start, length) in enumerate(zip(step, shape, strict=True)):
            there = there.narrow(axis + 2, start, length)
        found.append((a * there).sum(dim=1))
    return torch.stack(found, dim=1)


def _directions(features: torch.Tensor) -> torch.Tensor:
    centred = features - features.mean(dim=tuple(range(2, features.ndim)), keepdim=True)
    return centred / (centred.square().sum(dim=1, keepdim=True) + SMALLEST_LENGTH**2).sqrt()


def _mean(features: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    axes = tuple(range(2, features.ndim))
    total = share.sum(dim=axes, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
    return (features * share).sum(dim=axes, keepdim=True) / total


def _dense(width: int, settings: SiameseSettings) -> nn.Sequential:
    """Layers with ReLU between them, two outputs; no softmax: the cross-entropy has it."""
    parts: list[nn.Module] = []
    for hidden in settings.hidden:
        parts += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*parts, nn.Linear(width, 2))


def _summary(settings: SiameseSettings) -> nn.Sequential | None:
    """Two layers; the last one starts at 0, that is at the factor 1."""
    if not settings.summary or settings.head != "local":
        return None
    last = nn.Linear(settings.summary, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(2 * settings.hidden[-1], settings.summary), nn.ReLU(), last)


def _local(width: int, settings: SiameseSettings) -> nn.Sequential:
    """Convolutions over 3 cells a side with ReLU between them, two outputs a cell."""
    convolve = nn.Conv2d if settings.encoder.dims == 2 else nn.Conv3d
    parts: list[nn.Module] = []
    for hidden in settings.hidden:
        parts += [convolve(width, hidden, 3, padding=1), nn.ReLU()]
        width = hidden
    return nn.Sequential(*parts, convolve(width, 2, 1))
