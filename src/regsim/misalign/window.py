"""What is shown of a pair: the whole crop, or a disc, a box or a slab of it."""

from typing import Self

import torch
from pydantic import Field, model_validator

from regsim.settings import Settings


class WindowSettings(Settings):
    """What of the crop is shown: sometimes only a disc, box or slab, the same for both images, so that outlines are hidden.

    Args:
        disc, box: shares of the pairs that show a disc (ball) or a box only.
        smallest, largest: its diameter or side, as a share of the crop.
        slab: share of the pairs that show a slab across one axis only.
        thinnest: the least thickness of a slab, as a share of the crop; the greatest is `largest`.
    """

    disc: float = Field(default=0.25, ge=0, le=1)
    box: float = Field(default=0.15, ge=0, le=1)
    smallest: float = Field(default=0.3, gt=0, le=1)
    largest: float = Field(default=0.9, gt=0, le=1)
    slab: float = Field(default=0.0, ge=0, le=1)
    thinnest: float = Field(default=0.1, gt=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"window: smallest {self.smallest:g} is above largest {self.largest:g}")
        if self.slab and self.thinnest > self.largest:
            raise ValueError(f"window: thinnest {self.thinnest:g} is above largest {self.largest:g}")
        if self.slab and self.disc + self.box + self.slab > 1:
            raise ValueError(
                f"window: disc, box and slab share more than 1 ({self.disc:g}, {self.box:g}, {self.slab:g})"
            )
        return self


def draw_window(
    count: int, shape: tuple[int, ...], settings: WindowSettings, generator: torch.Generator
) -> torch.Tensor:
    """`(N, 1, *shape)`: 1 everywhere, or within a random disc (ball), box or slab."""
    dims = len(shape)
    half = torch.tensor(shape, dtype=torch.float32) / 2
    axes = [torch.arange(n) - (n - 1) / 2 for n in shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) / half
    kind = torch.rand(count, generator=generator)
    reach = settings.smallest + (settings.largest - settings.smallest) * torch.rand(count, generator=generator)
    middle = (2 * torch.rand(count, dims, generator=generator) - 1) * (1 - reach)[:, None]
    away = (points[None] - middle.reshape(count, *[1] * dims, dims)) / reach.reshape(-1, *[1] * (dims + 1))
    disc, box = away.norm(dim=-1) <= 1, away.abs().amax(dim=-1) <= 1
    kind = kind.reshape(-1, *[1] * dims)
    first, last = settings.disc + settings.box, settings.disc + settings.box + settings.slab
    shown = torch.where(kind < settings.disc, disc, (kind >= first) | box)
    if settings.slab:  # drawn only where asked for: other recipes draw what they drew
        slab = _slabs(count, points, settings, generator)
        shown = torch.where((kind >= first) & (kind < last), slab, shown)
    return shown[:, None].float()


def _slabs(count: int, points: torch.Tensor, settings: WindowSettings, generator: torch.Generator) -> torch.Tensor:
    """`(N, *shape)` bool: within a random slab across a random axis; the points run from -1 to 1."""
    thickness = settings.thinnest + (settings.largest - settings.thinnest) * torch.rand(count, generator=generator)
    axis = torch.randint(points.shape[-1], (count,), generator=generator)
    middle = (2 * torch.rand(count, generator=generator) - 1) * (1 - thickness)
    place = points.movedim(-1, 0)[axis]
    across = [-1, *[1] * (points.ndim - 1)]
    return (place - middle.reshape(across)).abs() <= thickness.reshape(across)
