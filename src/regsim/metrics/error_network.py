"""The network under `registration_error`: from matching features to a distribution of the local error, cell by cell."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from regsim.metrics.matching_features import DEFAULT_SCALES, ScaleSettings, feature_count
from regsim.settings import Settings

OFFSET = 0.5
"""D of log(error + D), in working voxels' unit of a spacing of 2; errors far below it need not be told apart."""
CLIP = 4.0
DEFAULT_KNOTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0)


class ErrorNetworkSettings(Settings):
    """A small U-Net over cells.

    Args:
        dims: 2 for pictures, 3 for volumes.
        spacing: of the grid on which it works, physical units.
        scales: of the matching.
        knots: errors between which a distribution is interpolated, physical units, ascending from 0.
        stem: width of the first layer, which looks at one cell at a time.
        widths: of the U-Net's levels, finest first.
    """

    dims: Literal[2, 3] = 3
    spacing: float = Field(default=2.0, gt=0)
    scales: tuple[ScaleSettings, ...] = Field(default=DEFAULT_SCALES, min_length=1, max_length=4)
    knots: tuple[float, ...] = Field(default=DEFAULT_KNOTS, min_length=3, max_length=64)
    stem: int = Field(default=64, ge=1, le=512)
    widths: tuple[int, ...] = Field(default=(32, 48, 64), min_length=2, max_length=5)

    @property
    def side(self) -> int:
        """Working voxels of a cell."""
        return self.scales[0].factor * self.scales[0].side

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(scale.factor * scale.side != self.side for scale in self.scales):
            raise ValueError("scales: factor times side must be the same for all, so that their cells are")
        if self.knots[0] != 0 or any(low >= high for low, high in zip(self.knots, self.knots[1:], strict=False)):
            raise ValueError(f"knots: expected errors that ascend from 0, got {self.knots}")
        if not all(1 <= width <= 512 for width in self.widths):
            raise ValueError(f"widths: expected 1 to 512, got {self.widths}")
        return self


@dataclass(frozen=True)
class CellErrors:
    """What the network says of each cell, `(N, 1, *cells)` each.

    Args:
        expected: mean of the error's distribution, given that the images belong together there; physical units.
        spread: standard deviation of log(error + D).
        unrelated: probability that they do not.
    """

    expected: torch.Tensor
    spread: torch.Tensor
    unrelated: torch.Tensor


class ErrorNetwork(nn.Module):
    """`forward(features, held) -> logits`: one for each knot, and one for "unrelated".

    Normalisation is over the channels of one cell, never over space: a mean over the field of view would take the mean
    error away, and let far cells change near ones.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    knots: torch.Tensor

    def __init__(self, settings: ErrorNetworkSettings):
        super().__init__()
        self.settings = settings
        features, widths, dims = feature_count(settings.scales, settings.dims), settings.widths, settings.dims
        convolve = nn.Conv3d if dims == 3 else nn.Conv2d
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("knots", torch.tensor(settings.knots))
        self.stem = nn.Sequential(
            convolve(features + 1, settings.stem, 1), nn.GELU(), convolve(settings.stem, widths[0], 1)
        )
        steps = zip((widths[0], *widths), widths, strict=False)
        self.down = nn.ModuleList(_Residual(inside, outside, dims) for inside, outside in steps)
        back = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(_Residual(below + level, level, dims) for below, level in back)
        self.last = nn.Sequential(
            convolve(widths[0], settings.stem, 1), nn.GELU(), convolve(settings.stem, len(settings.knots) + 1, 1)
        )

    def forward(self, features: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """`(N, F, *cells)` and the cells' share of the mask, `(N, 1, *cells)`, to `(N, knots + 1, *cells)`."""
        spread = (1, -1) + (1,) * self.settings.dims
        scaled = (features - self.mean.reshape(spread)) / self.deviation.reshape(spread)
        scaled = scaled.clamp(-CLIP, CLIP) * (held > 0)
        level = self.stem(torch.cat([scaled, held], dim=1))
        levels: list[torch.Tensor] = []
        for block in self.down:
            level = block(level if not levels else self._halved(level))
            levels.append(level)
        for block, beside in zip(self.up, levels[-2::-1], strict=True):
            level = block(torch.cat([self._enlarged(level, beside), beside], dim=1))
        logits: torch.Tensor = self.last(level)
        return logits

    def errors(self, logits: torch.Tensor) -> CellErrors:
        """What the logits say."""
        share = logits.softmax(dim=1)
        unrelated = share[:, -1:]
        given = logits[:, :-1].softmax(dim=1)
        knots = self.knots.reshape((1, -1) + (1,) * self.settings.dims)
        logs = torch.log(knots + OFFSET)
        middle = (given * logs).sum(dim=1, keepdim=True)
        spread = (given * (logs - middle).square()).sum(dim=1, keepdim=True).sqrt()
        return CellErrors((given * knots).sum(dim=1, keepdim=True), spread, unrelated)

    def loss(
        self, logits: torch.Tensor, error: torch.Tensor, unrelated: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Mean negative log likelihood over the weights; an error between two knots belongs to both in shares."""
        logs = logits.log_softmax(dim=1)
        clipped = error.clamp(max=float(self.knots[-1]))
        place = torch.bucketize(clipped, self.knots[1:-1], right=True)
        low, high = self.knots[place], self.knots[place + 1]
        share = (clipped - low) / (high - low)
        known = (1 - share) * logs.gather(1, place) + share * logs.gather(1, place + 1)
        likelihood = torch.where(unrelated > 0.5, logs[:, -1:], known)
        return -(likelihood * weights).sum() / weights.sum().clamp_min(1e-6)

    def standardise(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set what the features are scaled by, `(F,)` each."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def _halved(self, level: torch.Tensor) -> torch.Tensor:
        """Means over blocks of 2 cells a side; the last cell of an odd side stands for its missing neighbour."""
        odd = [length for n in reversed(level.shape[2:]) for length in (0, n % 2)]
        even = F.pad(level, odd, mode="replicate") if any(odd) else level
        return F.avg_pool3d(even, 2) if self.settings.dims == 3 else F.avg_pool2d(even, 2)

    def _enlarged(self, level: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        mode = "trilinear" if self.settings.dims == 3 else "bilinear"
        return F.interpolate(level, size=like.shape[2:], mode=mode, align_corners=False)


class _CellNorm(nn.Module):
    """Mean 0 and variance 1 over the channels of each cell, then a scale and a shift for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, level: torch.Tensor) -> torch.Tensor:
        centred = level - level.mean(dim=1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + 1e-5)
        spread = (1, -1) + (1,) * (level.ndim - 2)
        return centred * scale * self.weight.reshape(spread) + self.bias.reshape(spread)


class _Residual(nn.Module):
    """Two convolutions beside a short cut; at first the short cut alone."""

    def __init__(self, inside: int, outside: int, dims: int):
        super().__init__()
        convolve = nn.Conv3d if dims == 3 else nn.Conv2d
        last = convolve(outside, outside, 3, padding=1)
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)
        self.body = nn.Sequential(
            _CellNorm(inside), nn.GELU(), convolve(inside, outside, 3, padding=1),
            _CellNorm(outside), nn.GELU(), last,
        )  # fmt: skip
        self.beside = convolve(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, level: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.beside(level) + self.body(level)
        return found
