"""Probes to images, images to numbers: every probe is made once and shown to every metric."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt
import torch

from regsim.errors import InputError
from regsim.evaluation.canvas import Canvas
from regsim.evaluation.probes import Probe
from regsim.metrics import AbstractMetric, BoundMetric
from regsim.transforms.linear import Rigid
from regsim.transforms.sampling import sample

Array = npt.NDArray[np.float64]
VOXELS = 500_000
LARGEST_BATCH = 16
SEEN = 0.999


@dataclass(frozen=True)
class Shown:
    """A batch of image pairs, `(N, C, *window)`, and their mask `(N, 1, *window)`; None where every voxel counts."""

    fixed: torch.Tensor
    moving: torch.Tensor
    mask: torch.Tensor | None
    one_fixed: bool


class Screen:
    """Makes the images of probes, through one window.

    Args:
        canvas: what the probes are read from.
        valid: where all probes of this group find data (`Canvas.valid`).
    """

    def __init__(self, canvas: Canvas, valid: torch.Tensor | None):
        self.canvas, self.valid = canvas, valid
        self._tilt: Rigid | None = None
        self._points = torch.empty(0)

    @torch.no_grad()
    def show(self, probes: Sequence[Probe]) -> Shown:
        """The images of some probes."""
        fixed, moving, masks = [], [], []
        for probe in probes:
            one, other, mask = self._pair(probe)
            fixed.append(one)
            moving.append(other)
            masks.append(mask)
        first = probes[0]
        same = all(_fixed_key(a) == _fixed_key(b) for a, b in pairwise(probes))
        together = None if masks[0] is None else torch.cat([mask for mask in masks if mask is not None])
        return Shown(torch.cat(fixed), torch.cat(moving), together, same and first.disc is None)

    def _pair(self, probe: Probe) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        canvas, grid = self.canvas, self.canvas.grid
        here = self._tilted(probe.tilt)
        there = probe.motion(here.cpu()).to(here)
        fixed = sample(canvas.fixed_values(probe.look), grid, here, "linear", "border")
        moving = sample(canvas.moving_values(probe.look), grid, there, "linear", "border")
        mask = None
        if self.valid is not None:
            mask = (sample(self.valid, grid, here, "linear", "zeros") > SEEN).to(fixed.dtype)
        if probe.disc is not None:
            away = torch.linalg.vector_norm(here - probe.disc.centre.to(here), dim=-1)
            seen = (away <= probe.disc.radius)[None, None].to(fixed.dtype)
            mask = seen if mask is None else mask * seen
        if mask is not None:
            fixed, moving = fixed * mask, moving * mask
        return (moving, fixed, mask) if probe.look.swapped else (fixed, moving, mask)

    def _tilted(self, tilt: Rigid) -> torch.Tensor:
        if tilt is not self._tilt:
            self._tilt = tilt
            self._points = tilt.mapping(self.canvas.window)().to(self.canvas.device)
        return self._points


def _fixed_key(probe: Probe) -> tuple[object, ...]:
    """What the fixed image of a probe depends on."""
    return id(probe.tilt), probe.look.noise_fixed, probe.look.swapped


@torch.no_grad()
def measure(
    metrics: Sequence[AbstractMetric],
    screen: Screen,
    probes: Sequence[Probe],
    advance: Callable[[int], None] | None = None,
) -> Array:
    """Costs (lower = better aligned) `(metrics, probes)`.

    Raises:
        InputError: a metric gave NaN or infinity.
    """
    found: list[Array] = []
    size = max(1, min(LARGEST_BATCH, VOXELS // screen.canvas.window.voxels))
    bound: dict[tuple[object, ...], list[BoundMetric]] = {}
    for chunk in _chunks(probes, size):
        shown = screen.show(chunk)
        if shown.one_fixed:
            key = (*_fixed_key(chunk[0]), len(chunk))
            if key not in bound:
                bound = {key: [metric.bind(shown.fixed, shown.mask) for metric in metrics]}
            values = [ready(shown.moving) for ready in bound[key]]
        else:
            values = [metric(shown.fixed, shown.moving, shown.mask) for metric in metrics]
        costs = [metric.cost(value).double().cpu().numpy() for metric, value in zip(metrics, values, strict=True)]
        _finite(metrics, costs, chunk)
        found.append(np.stack(costs))
        if advance is not None:
            advance(len(chunk))
    return np.concatenate(found, axis=1) if found else np.zeros((len(metrics), 0))


def _chunks(probes: Sequence[Probe], size: int) -> Iterator[tuple[Probe, ...]]:
    """Batches that mix neither probes of one tilt with probes of many, nor those that show all with those that show a disc."""
    for _, alike in groupby(probes, key=lambda probe: probe.disc is None):
        yield from _by_tilt(list(alike), size)


def _by_tilt(probes: list[Probe], size: int) -> Iterator[tuple[Probe, ...]]:
    start = 0
    while start < len(probes):
        key, end = _fixed_key(probes[start]), start
        while end < len(probes) and _fixed_key(probes[end]) == key:
            end += 1
        if end - start == 1:
            while end < len(probes) and (
                end + 1 == len(probes) or _fixed_key(probes[end]) != _fixed_key(probes[end + 1])
            ):
                end += 1
        yield from (tuple(probes[i : min(i + size, end)]) for i in range(start, end, size))
        start = end


def _finite(metrics: Sequence[AbstractMetric], costs: Sequence[Array], chunk: Sequence[Probe]) -> None:
    for metric, values in zip(metrics, costs, strict=True):
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            probe = chunk[int(wrong[0])]
            raise InputError(
                f"metric '{metric.name}' gave {values[wrong[0]]} for finite images ({probe.group}: {probe.kind} "
                f"{probe.amount:.3g}); a landscape needs finite values"
            )
