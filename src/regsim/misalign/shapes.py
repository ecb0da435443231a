"""Made-up label maps: smooth random shapes, at several scales, inside a random outline or everywhere."""

from typing import Annotated, final

import torch
from pydantic import Field

from regsim.errors import SettingsError
from regsim.misalign.change import CountRange, PositiveRange, Range, Share, happens, uniform, whole
from regsim.misalign.smoothing import along_axes, smooth_field, spline_matrices
from regsim.settings import Settings

OUTSIDE = -1e4


@final
class Shapes(Settings):
    """How made-up label maps look.

    L smooth random fields compete: a voxel gets the label (1 ... L) of the field that is largest there. A field is a sum of
    cubic-spline noise of several sizes, each twice as fine as the one before. With an outline, voxels outside a bumpy
    ellipsoid are background (0), and one or two shells under it, like skin and skull, are labels of their own.

    Args:
        labels: range of L.
        size: range of the coarsest shapes' size, as a share of the shortest side.
        octaves: number of sizes in a field.
        roughness: range of how much of each size's amplitude the next finer one has.
        outline: probability of an outline.
        extent: range of the outline's half axes, as a share of half a side.
        bumps: range of how far the outline departs from an ellipsoid, as a share of its radius.
        shells: probability of shells, where there is an outline.

    References:
        Hoffmann et al., SynthMorph, 2022, doi:10.1109/TMI.2021.3116879.
    """

    labels: CountRange = (4, 16)
    size: PositiveRange = (0.15, 0.5)
    octaves: Annotated[int, Field(ge=1, le=6)] = 3
    roughness: Range = (0.2, 0.7)
    outline: Share = 0.7
    extent: PositiveRange = (0.65, 0.95)
    bumps: Range = (0.0, 0.25)
    shells: Share = 0.5


def random_shapes(
    count: int, shape: tuple[int, ...], generator: torch.Generator, shapes: Shapes | None = None
) -> torch.Tensor:
    """Made-up label maps `(count, 1, *shape)`, int64, on the CPU; 2-D and 3-D (see `Shapes`).

    Raises:
        SettingsError: a shape that is not of two or three axes.

    Example:
        >>> labels = random_shapes(2, (32, 32), torch.Generator().manual_seed(0))
        >>> labels.shape, int(labels.amin()) >= 0
        (torch.Size([2, 1, 32, 32]), True)
    """
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise SettingsError(f"shapes: expected two or three lengths, got {tuple(shape)}")
    settings = shapes or Shapes()
    labels = _regions(count, shape, generator, settings)
    return _outlined(labels, generator, settings)


def _regions(count: int, shape: tuple[int, ...], generator: torch.Generator, settings: Shapes) -> torch.Tensor:
    """The label of the largest field, from 1; one field at a time, so that volumes fit in memory."""
    wanted = whole(count, settings.labels, generator)
    stages = _stages(uniform(count, settings.size, generator), shape, settings.octaves)
    column = (-1, 1, *[1] * len(shape))
    best = torch.full((count, 1, *shape), 2 * OUTSIDE)
    labels = torch.zeros((count, 1, *shape), dtype=torch.long)
    for number in range(1, int(wanted.max()) + 1):
        share = uniform(count, settings.roughness, generator).reshape(column)
        field = _field(stages, share, generator)
        field += torch.where(number <= wanted, 0.0, OUTSIDE).reshape(column)
        labels.masked_fill_(field > best, number)
        best = torch.maximum(best, field)
    return labels


def _stages(size: torch.Tensor, shape: tuple[int, ...], octaves: int) -> list[list[torch.Tensor]]:
    """For each octave the matrices, one an axis, that bring its knots to those of the next, and at last to voxels.

    The first octave's knots are `size` `(N,)` of the shortest side apart, those of each next one half as far.
    """
    knots = []
    for octave in range(octaves):
        step = (size * min(shape) / 2**octave).clamp_min(1)
        knots.append([(length / step).round().long().clamp(1, length) + 3 for length in shape])
    stages = []
    for octave, own in enumerate(knots):
        if octave + 1 < octaves:
            places = [torch.arange(int(n.max())) / (n[:, None] - 1) for n in knots[octave + 1]]
        else:
            places = [torch.linspace(0, 1, length)[None] for length in shape]
        pairs = zip(own, places, strict=True)
        stages.append([spline_matrices(n, int(n.max()), at.clamp_max(1)) for n, at in pairs])
    return stages


def _field(stages: list[list[torch.Tensor]], share: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`(N, 1, *shape)`: spline noise of every octave, each with `share` of the amplitude of the one before."""
    total, amplitude = torch.zeros(()), torch.ones_like(share)
    for matrices in stages:
        knots = [matrix.shape[2] for matrix in matrices]
        total = total + amplitude * torch.randn((len(share), 1, *knots), generator=generator)
        total = along_axes(total, matrices)
        amplitude = amplitude * share
    return total


def _outlined(labels: torch.Tensor, generator: torch.Generator, settings: Shapes) -> torch.Tensor:
    """Background outside an outline and shells under it, for the label maps that draw them."""
    count, shape = len(labels), tuple(labels.shape[2:])
    column = (-1, 1, *[1] * len(shape))
    depth = 1 - _radius(count, shape, generator, settings)
    shelled = happens(count, settings.shells, generator)
    thickness = uniform((count, 2), (0.03, 0.12), generator) * shelled[:, None]
    most = labels.flatten(1).amax(dim=1).reshape(column)
    skin, skull = thickness[:, 0].reshape(column), thickness.sum(dim=1).reshape(column)
    dressed = torch.where(depth < skull, most + 2, labels)
    dressed = torch.where(depth < skin, most + 1, dressed)
    dressed = torch.where(depth < 0, 0, dressed)
    return torch.where(happens(count, settings.outline, generator).reshape(column), dressed, labels)


def _radius(count: int, shape: tuple[int, ...], generator: torch.Generator, settings: Shapes) -> torch.Tensor:
    """Distance from a centre, in units of the outline's radius there: `(count, 1, *shape)`, 1 on the outline."""
    axes = len(shape)
    half = uniform((count, axes), settings.extent, generator)
    centre = (torch.rand((count, axes), generator=generator) * 2 - 1) * (1 - half).clamp_min(0)
    turn = torch.linalg.qr(torch.randn((count, axes, axes), generator=generator) + 4 * torch.eye(axes)).Q
    lines = [torch.linspace(-1, 1, length) for length in shape]
    points = torch.stack(torch.meshgrid(lines, indexing="ij"), dim=-1).reshape(1, -1, axes) - centre[:, None]
    radius = torch.linalg.vector_norm((points @ turn) / half[:, None], dim=-1)
    radius = radius.reshape(count, 1, *shape)
    bumps = smooth_field(torch.randn((count, 1, *[6] * axes), generator=generator), shape)
    amplitude = uniform(count, settings.bumps, generator).reshape(-1, 1, *[1] * axes)
    bumpy: torch.Tensor = radius * (1 + amplitude * bumps)
    return bumpy
