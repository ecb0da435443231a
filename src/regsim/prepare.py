"""What happens to images before they are compared: pure functions, image in, image out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from regsim.errors import GridError, InputError
from regsim.images.grid import Grid
from regsim.images.image import Image

LOW, HIGH = 0.001, 0.999
SAMPLES = 250_000
SMALLEST_SHARE = 1e-4
SMALLEST_SIGMA = 0.1
THINNED_AT_ONCE = 256


def rescaled(image: Image, low: float = LOW, high: float = HIGH) -> Image:
    """Intensities to [0, 1] between two quantiles (over the mask, if there is one), clipped.

    Raises:
        InputError: the image is constant.
    """
    image = image.filled()
    bottom, top = intensity_ends(image, low, high)
    return image.with_data(((image.data - bottom) / (top - bottom)).clamp(0, 1))


def intensity_ends(image: Image, low: float = LOW, high: float = HIGH) -> tuple[float, float]:
    """The intensities that `rescaled` takes to 0 and to 1.

    Raises:
        InputError: the image is constant, holds NaN, or its mask is empty.
    """
    seen = image.data if image.mask is None else image.data[:, image.mask[0] > 0]
    if not bool(torch.isfinite(seen).all()):
        raise InputError(f"'{image.name}' holds NaN or infinite values; replace or mask them")
    if seen.numel() == 0:
        raise InputError(f"'{image.name}': its mask is empty")
    flat = seen.flatten()
    flat = flat[:: max(1, flat.numel() // SAMPLES)]
    ends = torch.quantile(flat, torch.tensor([low, high], dtype=flat.dtype, device=flat.device))
    bottom, top = float(ends[0]), float(ends[1])
    if top <= bottom:
        bottom, top = float(seen.min()), float(seen.max())
    if top <= bottom:
        raise InputError(f"'{image.name}' is constant ({bottom:g} everywhere): there is nothing to compare")
    return bottom, top


def with_label_channels(image: Image, labels: Image, values: Sequence[int] | None = None) -> Image:
    """A grey image with one channel more for each label, 1 inside and 0 outside: what the metric `nccsup` compares.

    The grey values come to [0, 1] first, so that a registration, which scales all channels alike, leaves the labels as they
    are. Give both images of a pair the same `values`, in one order: `label_values(fixed_labels, moving_labels)`.

    Args:
        image: one channel.
        labels: whole numbers on the same grid, as `read_image(path, labels=True)` gives them.
        values: which labels get a channel; all but 0 that the map shows where none are named.

    Returns:
        `1 + len(values)` channels; grid, mask and name as before.

    Raises:
        InputError: more than one channel, a constant image, a map of other than whole numbers, no label, a label twice.
        GridError: the map lies on another grid.

    Example:
        >>> image, labels = Image.of_array([[0.0, 1.0], [2.0, 4.0]]), torch.tensor([[[0, 7], [7, 9]]])
        >>> with_label_channels(image, image.with_data(labels), (7, 9)).data[1].tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    if image.data.shape[0] != 1:
        raise InputError(f"'{image.name}': expected one grey channel, got {image.data.shape[0]}")
    if not labels.grid.same_as(image.grid):
        raise GridError(
            f"labels '{labels.name}' lie on another grid than '{image.name}'; resample them with `regsim warp`"
        )
    chosen = label_values(labels) if values is None else tuple(values)
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"labels '{labels.name}': expected labels, each once, got {chosen}")
    if not labels.is_labels:
        raise InputError(
            f"'{labels.name}' holds {labels.data.dtype}, not labels; read it with read_image(path, labels=True)"
        )
    channels = torch.cat([labels.data[:1] == value for value in chosen])
    grey = rescaled(image).data
    return image.with_data(torch.cat([grey, channels.to(grey)]))


def label_values(*maps: Image) -> tuple[int, ...]:
    """The labels that any of some maps shows, in order, without 0.

    >>> label_values(Image.of_array([[0, 3]]), Image.of_array([[1, 1]]))
    (1, 3)
    """
    return tuple(sorted({int(value) for one in maps for value in np.unique(one.numpy())} - {0}))


def smoothed(image: Image, sigma: tuple[float, ...]) -> Image:
    """Gaussian smoothing; `sigma` in voxels, x, y(, z); the border value goes on outside.

    What lies outside the mask does not bleed in: `G(image * mask) / G(mask)`. The mask stays as it is.
    """
    if image.mask is None:
        return image.with_data(gaussian(image.batch, sigma[::-1])[0])
    inner = torch.where(image.mask > 0, image.data, torch.zeros_like(image.data)) * image.mask
    share = gaussian(image.mask[None], sigma[::-1])[0]
    values = gaussian(inner[None], sigma[::-1])[0] / share.clamp_min(SMALLEST_SHARE)
    return image.with_data(torch.where(share > SMALLEST_SHARE, values, torch.zeros_like(values)))


def gaussian(data: torch.Tensor, sigma: tuple[float, ...]) -> torch.Tensor:
    """Separable Gaussian of `(N, C, *spatial)`; `sigma` in voxels per array axis."""
    for axis, width in enumerate(sigma):
        radius = int(np.ceil(3 * width))
        if radius == 0 or width < SMALLEST_SIGMA:
            continue
        offset = torch.arange(-radius, radius + 1, dtype=data.dtype, device=data.device)
        kernel = torch.exp(-0.5 * (offset / width) ** 2)
        pad = [0, 0] * (data.ndim - 2)
        pad[2 * (data.ndim - 3 - axis)] = pad[2 * (data.ndim - 3 - axis) + 1] = radius
        data = _along(F.pad(data, pad, mode="replicate"), kernel / kernel.sum(), 2 + axis)
    return data


def _along(data: torch.Tensor, kernel: torch.Tensor, axis: int) -> torch.Tensor:
    """Convolve one axis. On a CPU a sum of shifted copies is several times faster than torch's convolution of one channel."""
    if data.device.type != "cpu":
        shape = [1] * data.ndim
        shape[axis] = -1
        spread = kernel.reshape(shape).expand(data.shape[1], *([-1] * (data.ndim - 1)))
        convolve = F.conv2d if data.ndim == 4 else F.conv3d
        convolved: torch.Tensor = convolve(data, spread, groups=data.shape[1])
        return convolved
    length = data.shape[axis] - len(kernel) + 1
    weights = kernel.tolist()
    total: torch.Tensor = data.narrow(axis, 0, length) * weights[0]
    for start, weight in enumerate(weights[1:], start=1):
        total.add_(data.narrow(axis, start, length), alpha=weight)
    return total


def coarser(image: Image, spacing: float) -> Image:
    """The image at about this spacing: smoothed so that nothing aliases, then resampled over the same extent.

    Axes whose voxels are already as large are left alone, so a thick-sliced scan is thinned in its plane only. A mask becomes
    the share of each coarse voxel that it covered, so that small masks and small holes do not vanish.
    The Gaussian has sigma = sqrt(f^2 - 1) / 2 voxels for a factor f, which gives a voxel of the coarse grid about the
    blur that a scanner's voxel of that size would have.
    """
    target = coarse_grid(image.grid, spacing)
    if target.size == image.grid.size:
        return image
    ways = [
        None if few == many else _thinning(many, few) for many, few in zip(image.grid.shape, target.shape, strict=True)
    ]
    image = image.filled()
    if image.mask is None:
        return Image(_thinned(image.data.float(), ways), target, None, image.name)
    share = _thinned(image.mask.float(), ways)
    inner = torch.where(image.mask > 0, image.data, torch.zeros_like(image.data)) * image.mask
    values = _thinned(inner, ways) / share.clamp_min(SMALLEST_SHARE)
    return Image(
        torch.where(share > SMALLEST_SHARE, values, torch.zeros_like(values)), target, share.clamp(0, 1), image.name
    )


Part = tuple[slice, torch.Tensor]
"""Neighbouring voxels of an axis, and the matrix from them to some coarse ones."""


def _thinning(many: int, few: int) -> list[Part]:
    """Smooth, then interpolate linearly, along one axis; the border value goes on outside.

    A few hundred coarse voxels at a time, since a matrix for all of a large picture would be mostly zeros.
    """
    factor = many / few
    sigma = 0.5 * np.sqrt(max(factor**2 - 1, 0.0))
    place = np.clip((np.arange(few) + 0.5) * factor - 0.5, 0, many - 1)
    left = np.minimum(place.astype(int), max(many - 2, 0))
    radius = int(np.ceil(3 * sigma)) if sigma >= SMALLEST_SIGMA else 0
    steps = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (steps / max(sigma, SMALLEST_SIGMA)) ** 2)
    kernel /= kernel.sum()
    parts: list[Part] = []
    for rows in np.array_split(np.arange(few), -(-few // THINNED_AT_ONCE)):
        first, last = max(left[rows[0]] - radius, 0), min(left[rows[-1]] + radius + 2, many)
        way = np.zeros((len(rows), last - first))
        for side, share in ((0, 1 - (place - left)), (1, place - left)):
            for step, weight in zip(steps, kernel, strict=True):
                columns = np.clip(left[rows] + side + step, 0, many - 1) - first
                np.add.at(way, (np.arange(len(rows)), columns), share[rows] * weight)
        parts.append((slice(int(first), int(last)), torch.from_numpy(way.astype(np.float32))))
    return parts


def _thinned(data: torch.Tensor, ways: list[list[Part] | None]) -> torch.Tensor:
    """`(C, *spatial)`, each axis multiplied by its matrices."""
    for axis, way in enumerate(ways, start=1):
        if way is not None:
            data = torch.cat(
                [_times(data.narrow(axis, at.start, at.stop - at.start), axis, part) for at, part in way], axis
            )
    return data


def _times(data: torch.Tensor, axis: int, way: torch.Tensor) -> torch.Tensor:
    way = way.to(data.device)
    if axis == data.ndim - 1:
        return data @ way.T
    shape = (*data.shape[:axis], way.shape[0], *data.shape[axis + 1 :])
    return (way @ data.flatten(axis + 1)).reshape(shape)


def coarse_grid(grid: Grid, spacing: float) -> Grid:
    """The grid of `coarser`: at least 4 voxels are kept on each axis that has as many."""
    wanted = []
    for length, own, size in zip(grid.extent, grid.spacing, grid.size, strict=True):
        fewest = min(size, 4)
        wanted.append(min(max(own, spacing), length / fewest) if spacing > 1.01 * own else own)
    return grid.with_spacing(tuple(wanted))


def foreground(image: Image) -> torch.Tensor:
    """Where there is something: `(*shape)` bool, by Otsu's threshold on a lightly smoothed image, holes filled.

    It is a rough outline for summaries (mean error over the head, folding), not a brain extraction.
    """
    if image.mask is not None and bool((image.mask > 0).any()):
        return image.mask[0] > 0
    sigma = tuple(max(image.grid.spacing) / spacing for spacing in image.grid.spacing)
    stored = smoothed(Image(image.data[:1].float().cpu(), image.grid), sigma).to_sitk()
    found = sitk.BinaryFillhole(sitk.OtsuThreshold(stored, 0, 1, 128))
    return torch.from_numpy(sitk.GetArrayFromImage(found) > 0)


def cropped(image: Image, margin: float) -> Image:
    """The part of the image within `margin` (physical units) of the bounding box of its foreground."""
    found = foreground(image).nonzero()
    first, last = found.amin(dim=0).flip(0), found.amax(dim=0).flip(0)
    extra = torch.tensor([int(np.ceil(margin / spacing)) for spacing in image.grid.spacing])
    size = torch.tensor(image.grid.size)
    low, high = (first - extra).clamp_min(0), torch.minimum(last + extra + 1, size)
    origin = image.grid.index_to_physical(low.double())
    grid = replace(image.grid, size=tuple((high - low).tolist()), origin=tuple(origin.tolist()))
    part = (slice(None), *(slice(int(a), int(b)) for a, b in zip(low.flip(0), high.flip(0), strict=True)))
    mask = None if image.mask is None else image.mask[part]
    return Image(image.data[part], grid, mask, image.name)


def centre_of_mass(image: Image) -> torch.Tensor:
    """The intensity-weighted mean position, physical, float64 (intensities above their minimum count)."""
    return _moments(image)[0]


def principal_axes(image: Image) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre of mass and the axes of the image's inertia, one a column, longest first; their signs are arbitrary."""
    centre, covariance = _moments(image)
    _, axes = torch.linalg.eigh(covariance)
    return centre, axes.flip(dims=(1,))


def _moments(image: Image) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean position and covariance, physical, float64: from sums along the axes, in index coordinates."""
    weights = image.data.mean(dim=0) - image.data.min()
    if image.mask is not None:
        weights = weights * image.mask[0]
    total = float(weights.sum(dtype=torch.float64))
    if total <= 0:
        raise InputError(f"'{image.name}' is constant: it has no centre of mass")
    ndim = image.ndim
    centre, covariance = torch.zeros(ndim, dtype=torch.float64), torch.zeros(ndim, ndim, dtype=torch.float64)
    steps = [torch.arange(n, dtype=torch.float64) for n in image.grid.size]
    for first in range(ndim):
        centre[first] = _kept(weights, (first,)) @ steps[first] / total
    around = [step - mean for step, mean in zip(steps, centre, strict=True)]
    for first in range(ndim):
        covariance[first, first] = _kept(weights, (first,)) @ around[first].square() / total
        for second in range(first):
            both = _kept(weights, (first, second))
            covariance[first, second] = covariance[second, first] = around[first] @ both @ around[second] / total
    matrix = torch.as_tensor(image.grid.matrix)
    return image.grid.index_to_physical(centre), matrix @ covariance @ matrix.T


def _kept(weights: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Sums over all axes but these (0 is x), float64; the last axis comes first."""
    others = [dim for dim in range(weights.ndim) if weights.ndim - 1 - dim not in axes]
    return (weights.sum(dim=others, dtype=torch.float64) if others else weights.double()).cpu()
