"""Pairs, or parts of them, that have nothing to do with each other: what an error in mm cannot be stated for."""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from regsim.misalign.pairs import PairBatch
from regsim.misalign.smoothing import blurred
from regsim.settings import Settings

Kind = Literal["related", "other", "noise", "turned", "missing", "patch"]
KINDS: tuple[Kind, ...] = ("related", "other", "noise", "turned", "missing", "patch")
NOISE_SIGMA = (0.8, 6.0)
PATCH = (0.12, 0.35)


class UnrelatedSettings(Settings):
    """How often the moving image of a pair, or a part of it, is replaced by what does not belong to the fixed one.

    Args:
        other: another pair's image.
        noise: smooth noise.
        turned: the image mirrored, or turned by a quarter or half turn.
        missing: beyond a plane one image is empty, noise, or another pair's.
        patch: the same within an ellipsoid.
    """

    other: float = Field(default=0.06, ge=0, le=1)
    noise: float = Field(default=0.03, ge=0, le=1)
    turned: float = Field(default=0.06, ge=0, le=1)
    missing: float = Field(default=0.08, ge=0, le=1)
    patch: float = Field(default=0.10, ge=0, le=1)


def with_unrelated(
    batch: PairBatch, settings: UnrelatedSettings, generator: torch.Generator
) -> tuple[PairBatch, torch.Tensor]:
    """Replace (parts of) images at random.

    Returns:
        The batch, and `(N, 1, *spatial)`: 1 where the two images have nothing to do with each other.
    """
    shares = torch.tensor([settings.other, settings.noise, settings.turned, settings.missing, settings.patch])
    shares = torch.cat([(1 - shares.sum()).clamp_min(0)[None], shares])
    kinds = torch.multinomial(shares, len(batch.fixed), replacement=True, generator=generator)
    fixed, moving = batch.fixed.clone(), batch.moving.clone()
    unrelated = torch.zeros_like(batch.mask)
    for item, number in enumerate(kinds.tolist()):
        kind = KINDS[number]
        if kind == "related":
            continue
        if kind in ("other", "noise", "turned"):
            moving[item] = _foreign(batch, item, kind, generator)
            unrelated[item] = 1
            continue
        where = (_half_space if kind == "missing" else _ellipsoid)(batch.mask.shape[2:], generator)[None]
        instead = _foreign(batch, item, _drawn(("empty", "noise", "other"), generator), generator)
        image = moving if float(torch.rand((), generator=generator)) < 0.7 else fixed
        image[item] = torch.lerp(image[item], instead, where)
        unrelated[item] = (where > 0.5).float()
    unrelated = unrelated * batch.mask
    parameters = {**batch.parameters, "unrelated": kinds}
    return replace(batch, fixed=fixed * batch.mask, moving=moving * batch.mask, parameters=parameters), unrelated


def _drawn(options: tuple[str, ...], generator: torch.Generator) -> str:
    return options[int(torch.randint(len(options), (), generator=generator))]


def _foreign(batch: PairBatch, item: int, kind: str, generator: torch.Generator) -> torch.Tensor:
    """`(1, *spatial)`: an image that does not belong to the item's fixed one."""
    image = batch.moving[item]
    if kind == "empty":
        return torch.zeros_like(image)
    if kind == "turned":
        return _turned(image, generator)
    if kind == "other" and len(batch.fixed) > 1:
        step = 1 + int(torch.randint(len(batch.fixed) - 1, (), generator=generator))
        return batch.moving[(item + step) % len(batch.fixed)]
    low, high = NOISE_SIGMA
    sigma = low * (high / low) ** float(torch.rand((), generator=generator))
    noise = torch.randn(image.shape, generator=generator)
    smooth = blurred(noise[None], torch.full((1, image.ndim - 1), sigma))[0]
    grey: torch.Tensor = (0.5 + 0.25 * smooth / smooth.std().clamp_min(1e-6)).clamp(0, 1)
    return grey


def _turned(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirrored along an axis, or turned by 90 or 180 degrees about one (cubes only turn by 90)."""
    dims = image.ndim - 1
    axis = 1 + int(torch.randint(dims, (), generator=generator))
    if float(torch.rand((), generator=generator)) < 0.6:
        return image.flip(axis)
    other = 1 + axis % dims
    turns = 1 + int(torch.randint(3, (), generator=generator)) if image.shape[axis] == image.shape[other] else 2
    return torch.rot90(image, turns, (axis, other))


def _half_space(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """1 beyond a random plane, which leaves 20 to 85 % of the middle line."""
    normal = torch.randn(len(shape), generator=generator)
    if float(torch.rand((), generator=generator)) < 0.6:
        normal = torch.nn.functional.one_hot(normal.abs().argmax(), len(shape)).float() * normal.sign()
    normal = normal / normal.norm().clamp_min(1e-6)
    place = 1.3 * float(torch.rand((), generator=generator)) - 0.6
    beyond: torch.Tensor = (_points(shape) @ normal > place).float()
    return beyond


def _ellipsoid(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """1 inside a random ellipsoid."""
    low, high = PATCH
    half = 2 * (low + (high - low) * torch.rand(len(shape), generator=generator))
    centre = 1.4 * torch.rand(len(shape), generator=generator) - 0.7
    inside: torch.Tensor = (((_points(shape) - centre) / half).norm(dim=-1) < 1).float()
    return inside


def _points(shape: torch.Size) -> torch.Tensor:
    """Places from -1 to 1 along each axis, `(*shape, d)`."""
    axes = [(2 * torch.arange(n) + 1) / n - 1 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
