"""Scores of a pair by any metrics, as rows."""

import time
from collections.abc import Sequence

import torch

from regsim.errors import GridError, InputError
from regsim.evaluation.results import MetricRow
from regsim.images.image import Image
from regsim.metrics import AbstractMetric, load_metric, usable_metrics
from regsim.prepare import rescaled
from regsim.transforms.base import Transform
from regsim.transforms.warp import warp


def score(
    fixed: Image,
    moving: Image,
    metrics: Sequence[str | AbstractMetric] | None = None,
    transform: Transform | None = None,
) -> list[MetricRow]:
    """Score a pair by metrics, all that work by their name alone where none are named.

    Convention:
        The moving image is carried onto the fixed grid (linear) by `transform`, or by the files' own geometry. Only voxels
        where both have data, and which the masks of both admit, count. Intensities are taken as they are stored.

    Args:
        fixed: its grid is the common one.
        moving: any grid of the same dimension.
        metrics: names (`name:setting=value` too) or metric objects.
        transform: fixed points to moving points.

    Returns:
        One row a metric: value, direction, unit, seconds.

    Raises:
        InputError: a constant image.
        GridError: no overlap, 2-D against 3-D, pixels against mm.
        SettingsError: unknown metric.

    Example:
        >>> image = Image.of_array(torch.arange(64.0).reshape(8, 8))
        >>> score(image, image, ["mse"])[0].value
        0.0
    """
    ready = [load_metric(metric) for metric in (metrics or usable_metrics())]
    for image in (fixed, moving):
        if float(image.data.min()) == float(image.data.max()):
            raise InputError(f"'{image.name}' is constant ({float(image.data.min()):g} everywhere): nothing to compare")
    if fixed.data.shape[0] != moving.data.shape[0]:
        raise GridError(f"fixed has {fixed.data.shape[0]} channels, moving {moving.data.shape[0]}")
    carried, mask = on_fixed_grid(fixed, moving, transform)
    spacing = tuple(reversed(fixed.grid.spacing))
    return [_row(metric.with_spacing(spacing), fixed, carried, mask) for metric in ready]


def on_fixed_grid(fixed: Image, moving: Image, transform: Transform | None) -> tuple[Image, torch.Tensor | None]:
    """The moving image on the fixed grid, and where both have data, `(1, 1, *shape)`; None where that is everywhere.

    Raises:
        GridError: they do not overlap.
    """
    same = transform is None and moving.grid.same_as(fixed.grid) and moving.grid.unit == fixed.grid.unit
    carried = moving if same else warp(moving, transform, fixed)
    mask = carried.mask if fixed.mask is None or carried.mask is None else carried.mask * fixed.mask
    mask = fixed.mask if carried.mask is None else mask
    if mask is None or bool((mask == 1).all()):
        return carried, None
    if float(mask.sum()) < 2:
        raise GridError(f"no overlap: '{fixed.name}' and '{moving.name}' do not meet in space; register them first")
    return carried, mask[None]


def as_expected(metric: AbstractMetric, fixed: Image, moving: Image) -> tuple[Image, Image]:
    """Both images with the intensities that the metric expects: as stored, or scaled to [0, 1]."""
    return (fixed, moving) if metric.expects == "any" else (rescaled(fixed), rescaled(moving))


def _row(metric: AbstractMetric, fixed: Image, moving: Image, mask: torch.Tensor | None) -> MetricRow:
    pair = as_expected(metric, fixed, moving)
    began = time.perf_counter()
    with torch.no_grad():
        value = float(metric(pair[0].batch, pair[1].batch, mask)[0])
    return MetricRow(
        metric=metric.name,
        value=value,
        higher_is_better=metric.higher_is_better,
        unit=fixed.grid.unit if metric.unit == "mm" else metric.unit,
        seconds=time.perf_counter() - began,
    )
