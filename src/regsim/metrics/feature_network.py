"""The network of DeepSim: a small U-Net whose feature maps are compared, for pictures and volumes."""

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from regsim.metrics.networks import LARGEST_WIDTH
from regsim.settings import Settings

Level = Literal["tissues", "embedding", "embedding_2", "encoder_1", "encoder_2", "encoder_3", "decoder"]
LEVELS: tuple[Level, ...] = ("tissues", "embedding", "embedding_2", "encoder_1", "encoder_2", "encoder_3", "decoder")
SMALLEST_VARIANCE = 1e-3
MOMENTUM = 0.05


class FeatureNetworkSettings(Settings):
    """A U-Net of four resolutions.

    Args:
        dims: 2 for pictures, 3 for volumes.
        windows: radii, in voxels, of the windows over which the input is brought to mean 0 and deviation 1, each a channel
            beside the image itself: a bias field and the image's scale are gone from them.
        widths: channels at full, half, quarter and eighth resolution.
        features: channels of the full-resolution features and of the embeddings.
        classes: of the tissue posterior; the first one is the background.
        levels: the feature maps that are compared, finest first. "tissues": the square roots of the class posteriors, so
            that the cosine of two is their Bhattacharyya coefficient; "embedding", "embedding_2": learnt vectors at full
            and half resolution; "encoder_1" to "encoder_3": the encoder's stages at half, quarter and eighth resolution (as
            DeepSim compares); "decoder": the last layer before the classes.
        temperature: class scores are divided by it before they become posteriors: above 1 they are softer, and unsure places
            count less than sure ones.
        value: what a metric with this network says: "cosine" (as published) or "matching", see
            `matching_probability`.
        beside: share of MIND's descriptors in the finest level's vectors: the metric sets them beside the network's.
        outputs: what the last layer gives in training: "classes" (segmentation) or "image" (autoencoding).
    """

    dims: Literal[2, 3] = 2
    windows: tuple[int, ...] = Field(default=(2, 6), max_length=4)
    widths: tuple[int, int, int, int] = (16, 32, 48, 64)
    features: int = Field(default=16, ge=1, le=LARGEST_WIDTH)
    classes: int = Field(default=4, ge=2, le=256)
    levels: tuple[Level, ...] = Field(default=("tissues",), min_length=1, max_length=len(LEVELS))
    temperature: float = Field(default=1.0, gt=0, le=100)
    value: Literal["cosine", "matching"] = "cosine"
    beside: float = Field(default=0.0, ge=0, lt=1)
    outputs: Literal["classes", "image"] = "classes"

    @property
    def stride(self) -> int:
        """Sides of images are filled up to a multiple of it."""
        return 8

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not all(1 <= width <= LARGEST_WIDTH for width in self.widths):
            raise ValueError(f"widths: expected 1 to {LARGEST_WIDTH}, got {self.widths}")
        if not all(1 <= radius <= 64 for radius in self.windows):
            raise ValueError(f"windows: expected radii from 1 to 64, got {self.windows}")
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels: expected each once, got {self.levels}")
        return self


class FeatureNetwork(nn.Module):
    """`forward(image) -> maps`: one `(N, C, *cells)` for each of the settings' levels; `image` `(N, 1, *spatial)` in [0, 1].

    Sides must be multiples of 8. Normalisation is by batch statistics in training and by stored ones afterwards, so a value
    depends on its receptive field (about 90 voxels) and on nothing else.
    """

    def __init__(self, settings: FeatureNetworkSettings):
        super().__init__()
        self.settings = settings
        self.dims, self.windows, self.smallest = settings.dims, list(settings.windows), SMALLEST_VARIANCE
        full, half, quarter, eighth = settings.widths
        convolve = nn.Conv2d if settings.dims == 2 else nn.Conv3d
        dims = settings.dims
        self.enter = _Block(dims, 1 + len(settings.windows), full)
        self.down_1 = nn.Sequential(_Block(dims, full, half, 2), _Block(dims, half, half))
        self.down_2 = nn.Sequential(_Block(dims, half, quarter, 2), _Block(dims, quarter, quarter))
        self.down_3 = nn.Sequential(_Block(dims, quarter, eighth, 2), _Block(dims, eighth, eighth))
        self.across_2, self.up_2 = convolve(eighth, quarter, 1), _Block(dims, quarter, quarter)
        self.across_1, self.up_1 = convolve(quarter, half, 1), _Block(dims, half, half)
        self.across_0 = convolve(half, settings.features, 1)
        self.leave = _Block(dims, full, settings.features)
        self.last = convolve(settings.features, settings.classes if settings.outputs == "classes" else 1, 1)
        self.embedding = convolve(settings.features, settings.features, 1)
        self.embedding_2 = convolve(half, settings.features, 1)
        self.levels, self.temperature = list(settings.levels), settings.temperature

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The feature maps of the settings' levels."""
        found = self.everything(image)
        return [found[level] for level in self.levels]

    def everything(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """All maps by name, and "output": class scores, or the image again."""
        seen = self.channels(image)
        one = self.enter(seen)
        two = self.down_1(one)
        four = self.down_2(two)
        eight = self.down_3(four)
        up_four = self.up_2(four + self.grown(self.across_2(eight), four))
        up_two = self.up_1(two + self.grown(self.across_1(up_four), two))
        fine = self.leave.joined(one, self.grown(self.across_0(up_two), one))
        output = self.last(fine)
        return {
            "tissues": (output / self.temperature).softmax(1).clamp(min=1e-8).sqrt(),
            "embedding": self.embedding(fine),
            "embedding_2": self.embedding_2(up_two),
            "encoder_1": two,
            "encoder_2": four,
            "encoder_3": eight,
            "decoder": fine,
            "output": output,
        }

    def channels(self, image: torch.Tensor) -> torch.Tensor:
        """The image, and beside it the image at local mean 0 and local deviation 1."""
        found = [image]
        for radius in self.windows:
            mean = self.local_mean(image, radius)
            variance = self.local_mean(image * image, radius) - mean * mean
            found.append((image - mean) / (variance.clamp(min=0.0) + self.smallest).sqrt())
        return torch.cat(found, dim=1)

    def local_mean(self, image: torch.Tensor, radius: int) -> torch.Tensor:
        """The mean over a window of `2 radius + 1` voxels, of what lies inside the image, axis by axis."""
        mean = image
        for axis in range(2, 2 + self.dims):
            mean = _along(mean, axis, radius)
        return mean

    def grown(self, cells: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Interpolated to another map's cells."""
        if self.dims == 2:
            return F.interpolate(cells, size=[like.shape[2], like.shape[3]], mode="bilinear", align_corners=False)
        size = [like.shape[2], like.shape[3], like.shape[4]]
        return F.interpolate(cells, size=size, mode="trilinear", align_corners=False)


class _Block(nn.Module):
    """Convolution of 3 voxels a side, normalisation by batch, and SiLU, which has no kinks for a registration to trip over."""

    def __init__(self, dims: int, inside: int, outside: int, stride: int = 1):
        super().__init__()
        convolve = nn.Conv2d if dims == 2 else nn.Conv3d
        normalise = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        self.convolve = convolve(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.normalise = normalise(outside, momentum=MOMENTUM)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.normalise(self.convolve(features))
        return F.silu(found)

    def joined(self, features: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """With another map added before the normalisation."""
        found: torch.Tensor = self.normalise(self.convolve(features) + other)
        return F.silu(found)


def _along(image: torch.Tensor, axis: int, radius: int) -> torch.Tensor:
    """The running mean along one axis, by differences of running sums."""
    length = image.shape[axis]
    zero = torch.zeros_like(image.narrow(axis, 0, 1))
    total = torch.cat([zero, image.cumsum(axis)], dim=axis)
    place = torch.arange(length, device=image.device)
    first, last = (place - radius).clamp(min=0), (place + radius + 1).clamp(max=length)
    shape = [1] * image.ndim
    shape[axis] = length
    count = (last - first).to(image.dtype).reshape(shape)
    return (total.index_select(axis, last) - total.index_select(axis, first)) / count
