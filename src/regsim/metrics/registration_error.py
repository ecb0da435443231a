"""Registration error: how far apart two images are, in mm, voxel by voxel, learnt from pairs whose true error is known."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F

from regsim import checks
from regsim.errors import InputError, SettingsError
from regsim.metrics.base import combine
from regsim.metrics.checkpoint import Card
from regsim.metrics.error_calibration import Calibration
from regsim.metrics.error_network import CellErrors, ErrorNetwork, ErrorNetworkSettings
from regsim.metrics.learned import LearnedMetric, load_network
from regsim.metrics.matching_features import matching_features, on_working_grid, resized, summary_places
from regsim.metrics.zoo import bundled_models, model_folder

MODELS = {2: "registration-error-2d", 3: "registration-error-3d"}
CALIBRATION = "calibration.json"
MOST_VOXELS = 2**23
TINY = 1e-6
MUCH_COARSER = 1.5


@dataclass(frozen=True)
class ErrorEstimate:
    """What `registration_error` says of one pair. Maps are `(1, 1, *spatial)` on the images' grid.

    Args:
        expected: of each voxel, in the unit of the spacing.
        spread: of each voxel, standard deviation of log(error + D).
        unrelated: of each voxel, probability that the images do not belong together there.
        value: mean of `expected` over the mask.
        mean_spread: mean of `spread` over the mask.
        unrelated_share: share of the mask where `unrelated` is above one half.
        summary: `(S,)`, what is compared with the pairs of a calibration.
        scale: unit of the spacing for one unit of the network; calibrations are in the network's.
    """

    expected: torch.Tensor
    spread: torch.Tensor
    unrelated: torch.Tensor
    value: float
    mean_spread: float
    unrelated_share: float
    summary: torch.Tensor
    scale: float

    def bounds(self, calibration: Calibration, coverage: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper error of each voxel, maps like `expected`."""
        low, high = calibration.interval(self.expected / self.scale, self.spread, coverage, "voxel")
        return low * self.scale, high * self.scale

    def interval(self, calibration: Calibration, coverage: float) -> tuple[float, float]:
        """Lower and upper end of the mean error."""
        low, high = calibration.interval(self.value / self.scale, self.mean_spread, coverage, "mean")
        return low * self.scale, high * self.scale

    def region(
        self, where: torch.Tensor, calibration: Calibration, coverage: float
    ) -> tuple[float, tuple[float, float]]:
        """Mean error of a region, a bool map like `expected`, and its lower and upper end."""
        if not bool(where.any()):
            raise InputError("the region holds no voxel")
        expected, spread = float(self.expected[where].mean()), float(self.spread[where].mean())
        low, high = calibration.interval(expected / self.scale, spread, coverage, "region")
        return expected, (low * self.scale, high * self.scale)


@dataclass(frozen=True)
class _Cells:
    """The network's answer for one pair, the cells' share of the mask, and what it is a summary of."""

    errors: CellErrors
    weights: torch.Tensor
    summary: torch.Tensor
    shape: tuple[int, ...]


class RegistrationError(LearnedMetric):
    """The expected registration error: how far, on average, points of the fixed image lie from their places in the moving one.

    MIND-SSC descriptors of both images are compared at all displacements within a ball, at two scales. What the costs
    say without regard to direction (80 to 130 features a cell: `kernels.matching.describe`) goes into a small U-Net, which
    gives each cell a distribution of the error over fixed knots, and a probability that the images are unrelated there.
    `value` = mean over the mask of the distribution's mean, given that the images belong together. Unit: that of `spacing`
    (mm). Range [0, 20] times spacing over working spacing; lower is better. Map: the expected error of each voxel.

    Not differentiable. Any two contrasts; 2-D and 3-D have a model each. Images of other spacing are brought to the
    network's working grid inside. `estimate` gives the map, its spread, and where the images seem unrelated; with a
    `Calibration` also bounds.

    Convention:
        An error is the length of the displacement that is left, from a point of the fixed image to its true place in the moving
        image; not a distance of surfaces. Where an image shows nothing (flat tissue, air), the expected error is what the
        surroundings and the training suggest; the spread says how little is known.

    Args:
        model: a bundled model, or a folder that `regsim train` wrote; empty: the bundled one for the images' dimension.
        spacing: of the images' voxels, one number, or one for each axis of the array (z first); 0: the working grid's own.
        working: spacing of the working grid; 0: the one of training, or the images' own where that is much coarser. Errors
            are scaled with it, so a mouse can be compared on a grid of .2 mm as a man is on one of 2 mm.

    Raises:
        SettingsError: a spacing that is not positive, or not one for each axis.
        InputError: a model of another metric; images that have another dimension than the model, or too many working
            voxels.

    Example:
        >>> metric = RegistrationError()
        >>> image = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
        >>> metric(image, image).shape
        torch.Size([1])

    References:
        Heinrich et al., MIND-SSC, 2013, doi:10.1007/978-3-642-40811-3_24.
    """

    name = "registration_error"
    higher_is_better = False
    value_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    unit = "mm"
    differentiable = False
    symmetric = False
    multimodal = True
    has_map = True

    def __init__(self, model: str = "", spacing: float | tuple[float, ...] = 0.0, working: float = 0.0):
        super().__init__()
        names = {0: model} if model else {dims: name for dims, name in MODELS.items() if _is_there(name)}
        loaded = [load_network(name, self.name, ErrorNetworkSettings, ErrorNetwork) for name in names.values()]
        self.networks = torch.nn.ModuleDict({str(settings.dims): network for network, settings, _ in loaded})
        self.cards: dict[int, Card] = {settings.dims: card for _, settings, card in loaded}
        self.folders: dict[int, Path] = {
            settings.dims: model_folder(name) for (_, settings, _), name in zip(loaded, names.values(), strict=True)
        }
        if loaded:
            self.card = loaded[-1][2]
        self.model, self.spacing, self.working = model, spacing, working
        given = spacing if isinstance(spacing, tuple) else (spacing,)
        if not all(math.isfinite(step) and step >= 0 for step in given) or (len(given) > 1 and min(given) == 0):
            raise SettingsError(f"registration_error: spacing must be positive, got {spacing}")
        if not (math.isfinite(working) and working >= 0):
            raise SettingsError(f"registration_error: working must be positive, got {working}")

    def with_spacing(self, spacing: tuple[float, ...]) -> Self:
        """The same for images of this spacing (z first), unless one was given."""
        if self.spacing != 0:
            return self
        return type(self)(self.model, tuple(spacing), self.working)

    def settings(self, dims: int) -> ErrorNetworkSettings:
        """Of the network for images of this dimension."""
        return self._network(dims).settings

    def calibration(self, dims: int) -> Calibration:
        """The calibration that came with the model.

        Raises:
            InputError: the model has none.
        """
        self._network(dims)
        path = self.folders[dims] / CALIBRATION
        if not path.is_file():
            raise InputError(f"model '{self.cards[dims].name}' has no {CALIBRATION}; make one with regsim calibrate")
        return Calibration.of_json(path)

    @torch.no_grad()
    def estimate(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        mask: torch.Tensor | None = None,
        seen: torch.Tensor | None = None,
    ) -> ErrorEstimate:
        """All that can be said of one pair.

        Args:
            fixed, moving: `(1, 1, *spatial)`.
            mask: alike, bool or weights: over what means are taken; everything if None.
            seen: alike: where the images may be looked at; everything if None. Larger than the mask where what surrounds it
                may help.

        Raises:
            InputError, GridError: as for calling the metric; a mask without a voxel.
        """
        checks.image_batch(fixed, "fixed")
        checks.image_batch(moving, "moving")
        checks.same_shape(fixed, moving)
        if fixed.shape[:2] != (1, 1):
            raise InputError(f"an estimate is of one pair with one channel, got {tuple(fixed.shape)}")
        held = torch.ones_like(fixed) if seen is None else checks.mask_batch(seen, fixed, "seen")
        weights = held if mask is None else checks.mask_batch(mask, fixed)
        if float(weights.sum()) <= 0:
            raise InputError("the mask holds no voxel; there is nothing to estimate")
        cells = self._cells(fixed * held, moving * held, held, weights)
        scale, share = self._scale(fixed.ndim - 2), cells.weights / cells.weights.sum()
        return ErrorEstimate(
            expected=self._spread_out(cells.errors.expected, cells, fixed) * scale,
            spread=self._spread_out(cells.errors.spread, cells, fixed),
            unrelated=self._spread_out(cells.errors.unrelated, cells, fixed),
            value=float((cells.errors.expected * share).sum()) * scale,
            mean_spread=float((cells.errors.spread * share).sum()),
            unrelated_share=float(((cells.errors.unrelated > 0.5) * share).sum()),
            summary=cells.summary,
            scale=scale,
        )

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> Any:
        self._network(fixed.ndim - 2)
        return fixed, torch.ones_like(fixed) if weights is None else weights

    @torch.no_grad()
    def _compare(
        self,
        state: tuple[torch.Tensor, torch.Tensor],
        moving: torch.Tensor,
        overlap: torch.Tensor | None,
    ) -> torch.Tensor:
        fixed, held = state
        values = []
        for item in range(len(fixed)):
            one = slice(item, item + 1)
            seen = held[one]
            averaged = seen if overlap is None else combine(seen, overlap[one])
            assert averaged is not None
            if not bool((averaged > 0).any()):
                values.append(fixed.new_zeros(()))
                continue
            cells = self._cells(fixed[one], moving[one].detach(), (seen > 0).to(seen.dtype), averaged)
            mean = (cells.errors.expected * cells.weights).sum() / cells.weights.sum().clamp_min(TINY)
            values.append(mean * self._scale(fixed.ndim - 2))
        return torch.stack(values)

    @torch.no_grad()
    def _local(self, state: tuple[torch.Tensor, torch.Tensor], moving: torch.Tensor) -> torch.Tensor:
        fixed, held = state
        found = []
        for item in range(len(fixed)):
            one = slice(item, item + 1)
            cells = self._cells(fixed[one], moving[one], (held[one] > 0).to(fixed.dtype), held[one])
            found.append(self._spread_out(cells.errors.expected, cells, fixed[one]) * self._scale(fixed.ndim - 2))
        return torch.cat(found)

    def _network(self, dims: int) -> ErrorNetwork:
        if str(dims) not in self.networks:
            known = " and ".join(f"{other}-D" for other in sorted(self.networks)) or "no"
            raise InputError(
                f"registration_error: {self.model or 'the bundled model'} compares {known} images, not {dims}-D ones; "
                "give another model"
            )
        network = self.networks[str(dims)]
        assert isinstance(network, ErrorNetwork)
        return network

    def _working(self, dims: int) -> float:
        """Spacing of the working grid."""
        given = self.spacing if isinstance(self.spacing, tuple) else (self.spacing,)
        return self.working or working_spacing(min(given), self.settings(dims).spacing)

    def _scale(self, dims: int) -> float:
        return self._working(dims) / self.settings(dims).spacing

    def _working_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """How many voxels the working grid has over the same extent."""
        working = self._working(len(shape))
        given = self.spacing if isinstance(self.spacing, tuple) else (self.spacing,) * len(shape)
        if len(given) != len(shape):
            raise SettingsError(f"registration_error: spacing {given} has {len(given)} axes, the images {len(shape)}")
        found = tuple(max(1, round(n * (step or working) / working)) for n, step in zip(shape, given, strict=True))
        if math.prod(found) > MOST_VOXELS:
            sides = " x ".join(map(str, found))
            raise InputError(
                f"registration_error: {sides} voxels of {working:g} are too many to work on; give a larger working spacing"
            )
        return found

    def _cells(self, fixed: torch.Tensor, moving: torch.Tensor, held: torch.Tensor, weights: torch.Tensor) -> _Cells:
        """The network's answer for one pair; `weights` are those of the means."""
        network = self._network(fixed.ndim - 2)
        settings, shape = network.settings, self._working_shape(fixed.shape[2:])
        if shape != tuple(fixed.shape[2:]):
            fixed, moving = (on_working_grid(image, held, shape) for image in (fixed, moving))
            held, weights = resized(held, shape), resized(weights, shape)
        features = matching_features(fixed, moving, held, settings.scales)[None]
        seen, share = (_in_cells(each, settings.side) for each in (held, weights))
        errors = network.errors(network(features, seen))
        share = share if float(share.sum()) > 0 else torch.ones_like(share)
        part = features[:, summary_places(settings.scales, settings.dims)].flatten(2)[0]
        mean = part @ share.flatten() / share.sum()
        return _Cells(errors, share, mean, shape)

    def _spread_out(self, values: torch.Tensor, cells: _Cells, like: torch.Tensor) -> torch.Tensor:
        """From cells to the images' voxels."""
        side = self.settings(like.ndim - 2).side
        whole = tuple(n * side for n in values.shape[2:])
        mode = "bilinear" if like.ndim == 4 else "trilinear"
        fine = F.interpolate(values, size=whole, mode=mode, align_corners=False)
        for axis, length in enumerate(cells.shape, start=2):
            fine = fine.narrow(axis, 0, length)
        return resized(fine, tuple(like.shape[2:]))


def working_spacing(finest: float, own: float) -> float:
    """Of the working grid: the network's own, or the images' finest voxel side where that is much coarser.

    >>> working_spacing(1.0, 2.0), working_spacing(4.0, 2.0)
    (2.0, 4.0)
    """
    return finest if finest > MUCH_COARSER * own else own


def _is_there(name: str) -> bool:
    """Whether a bundled model can be loaded; a checkout may lack one while it is trained."""
    return name in bundled_models() or Path(name).is_dir()


def _in_cells(values: torch.Tensor, side: int) -> torch.Tensor:
    """Means over cells of `side` voxels; what is added behind the last voxel counts as zero."""
    padding = [length for n in reversed(values.shape[2:]) for length in (0, -n % side)]
    average = F.avg_pool2d if values.ndim == 4 else F.avg_pool3d
    return average(F.pad(values, padding), side)
