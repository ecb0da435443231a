"""Patch likelihood: how likely patches of the two images show the same place, by a network that learnt it from pairs."""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F

from regsim.errors import SettingsError
from regsim.metrics.base import combine
from regsim.metrics.learned import LearnedMetric, dims_for, load_network
from regsim.metrics.patch_cutting import PatchCutter
from regsim.metrics.patch_network import PatchNetwork, PatchNetworks, PatchSettings
from regsim.metrics.planes import Planes, planes_for

MODELS = {2: "patch-likelihood-brain-2d", 3: "patch-likelihood-brain-3d"}
MAP_STEP, AT_ONCE = 4, 256
TINY = 1e-6


@dataclass(frozen=True)
class _Part:
    """The fixed half of one set of planes (or of the volume).

    Args:
        planes: how it is cut from the image.
        cutter, network: of the patches.
        index: `(planes, patches, voxels)`, int64: the voxels of each patch in the padded plane, flattened; a few patches each.
        image: the padded planes, `(planes, 1, *padded)`.
        half: what the network makes of the fixed patches alone, in the parts of `index`.
        weights: `(planes, 1, *padded)`.
    """

    planes: Planes
    cutter: PatchCutter
    network: PatchNetwork
    index: tuple[torch.Tensor, ...]
    image: torch.Tensor
    half: tuple[torch.Tensor, ...]
    weights: torch.Tensor


@dataclass(frozen=True)
class _State:
    weights: torch.Tensor | None
    parts: list[_Part]


class PatchLikelihood(LearnedMetric):
    """The mean log-likelihood ratio of "same place" against "another place" over patches that are chosen by their contrast.

    `value = sum of w_p L(fixed patch p, moving patch p) / sum of w_p`, L the network's answer (natural logarithm of the odds,
    both kinds of patch pairs being equally frequent in training), w_p the fourth power of the share of the
    patch that mask and overlap leave. No unit. Range unbounded; 0 = no evidence; higher is better. An empty mask, or an image
    smaller than everything, gives 0.
    Map: -L of the patch around each voxel, from patches a quarter of their side apart, interpolated; lower is better.

    The patches are drawn from the fixed image, once for each `bind`: as often as there is contrast around them, never from
    flat regions or outside the mask, always the same for the same image. An optimiser therefore sees one function, smooth
    where the images are. A registration whose moving image shows less than half of the fixed one draws them where it shows
    something, anew at each level (`with_view`).

    Each pair of patches is shown to the network mirrored and with its axes exchanged at random, both alike, as in its training
    (where the model's `symmetric` says so): what a network prefers in one direction cancels.

    A model holds one network for each resolution of its training; `with_spacing` takes the nearest. A model for pictures
    compares volumes plane by plane, at most 12 planes across each axis.

    Convention:
        Simonovsky et al. and Sedghi et al. sum over patches; here it is the mean, so that the number of patches does not
        change the scale. Sedghi et al. take "the pre-softmax value": of two logits only the difference is a likelihood
        ratio. Not symmetric: the two channels have weights of their own. Expects intensities in [0, 1].

    Args:
        model: a bundled model's name, or a folder that `regsim train` wrote; "auto": `patch-likelihood-brain-2d` for pictures,
            `patch-likelihood-brain-3d` for volumes.
        patches: how many.
        seed: of their draw.
        spacing: of the images, mm; 0: their own, where registrations and scores know it; else the model's finest.

    Raises:
        InputError: not a model folder, a model of another metric, pictures for a model of volumes.

    Example:
        >>> metric, image = PatchLikelihood(), torch.linspace(0, 6, 64).sin()
        >>> image = (image[:, None] * image).abs()[None, None]
        >>> bool(metric(image, image) > metric(image, image.roll(16, -1)))
        True

    References:
        Sedghi et al., Semi-supervised deep metrics for image registration, 2018, arXiv:1804.01565.
        Simonovsky et al., A deep metric for multimodal registration, 2016, doi:10.1007/978-3-319-46726-9_2.
    """

    name = "patch_likelihood"
    higher_is_better = True
    value_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    symmetric = False
    multimodal = True
    expects = "unit"
    has_map = True
    settles_late = True

    def __init__(self, model: str = "auto", patches: int = 1024, seed: int = 0, spacing: float = 0.0):
        super().__init__()
        if patches < 1 or spacing < 0:
            raise SettingsError(f"patch_likelihood: expected patches >= 1 and spacing >= 0, got {patches}, {spacing:g}")
        self.model, self.patches, self.seed, self.spacing = model, patches, seed, spacing
        self._view: torch.Tensor | None = None
        self._dims: list[int] = []
        for name in MODELS.values() if model == "auto" else (model,):
            networks, settings, self.card = load_network(name, self.name, PatchSettings, PatchNetworks)
            self.add_module(f"networks_{settings.dims}", networks)
            self._dims.append(settings.dims)

    def with_spacing(self, spacing: tuple[float, ...]) -> Self:
        """With the network that was taught nearest to this resolution, unless a spacing was given."""
        if self.spacing:
            return self
        other = copy.copy(self)
        other.spacing = math.prod(spacing) ** (1 / len(spacing))
        return other

    def with_view(self, view: torch.Tensor) -> Self:
        """With the patches drawn where the moving image has data by now: the rarer, the less it shows of a patch there."""
        other = copy.copy(self)
        other._view = view
        return other

    def coarsest(self, dims: int, linear: bool) -> float:
        """The coarsest resolution of the model."""
        del linear
        return max(self.networks_for(dims).settings.spacings)

    def networks_for(self, dims: int) -> PatchNetworks:
        """The networks for images of so many axes: of their own number, else those for pictures.

        Raises:
            InputError: pictures, and a model for volumes.
        """
        networks = self._modules[f"networks_{dims_for(self._dims, dims, self.name)}"]
        assert isinstance(networks, PatchNetworks)
        return networks

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        held = torch.ones_like(fixed) if weights is None else weights.expand_as(fixed)
        networks = self.networks_for(fixed.ndim - 2)
        sets = planes_for(fixed.shape[2:], networks.settings.dims, self.name)
        return _State(weights, [self._part(planes, fixed, held, networks) for planes in sets])

    def _part(self, planes: Planes, fixed: torch.Tensor, held: torch.Tensor, networks: PatchNetworks) -> _Part:
        """Choose the patches of each plane, and cut the fixed ones."""
        settings, network = networks.settings, networks.nearest(self.spacing or None)
        cutter, image, weights = PatchCutter(settings.patch, settings.dims), planes.cut(fixed), planes.cut(held)
        each = self.patches if planes.axis is None else max(1, -(-self.patches // len(planes.places)))
        view = None if self._view is None else planes.cut(self._view.to(held).expand_as(held))
        index = cutter.voxels(cutter.chosen(image, weights, each, self.seed, view), image.shape[2:])
        index = cutter.turned(index, self.seed) if settings.symmetric else index
        padded, few = cutter.padded(image), torch.split(index, max(1, AT_ONCE // len(image)), dim=1)
        half = tuple(network.halved(cutter.cut(padded, each)) for each in few)
        return _Part(planes, cutter, network, few, padded, half, cutter.padded(weights))

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        seen = combine(state.weights, overlap)
        return torch.stack([self._value(part, moving, seen) for part in state.parts]).mean(dim=0)

    def _reads(self, state: _State) -> torch.Tensor | None:
        """The voxels of the patches."""
        [part, *others] = state.parts
        if others or part.planes.axis is not None:
            return None
        return part.cutter.within(part.index, part.image.shape[2:])

    def _value(self, part: _Part, moving: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """Of one set of planes, `(M,)`."""
        planes, cutter = part.planes, part.cutter
        held = part.weights if seen is None else cutter.padded(planes.cut(seen.expand_as(moving)))
        image, zero = cutter.padded(planes.cut(moving)), moving.flatten()[:1] * 0.0
        total, counted = zero, zero
        for few, half in zip(part.index, part.half, strict=True):
            weight = cutter.shares(held, few)
            kept = weight[0] > 0
            if len(image) == 1 and not bool(
                kept.all()
            ):  # of a partial view many patches show nothing: they are not asked
                few, half, weight = few[:, kept], half[kept], weight[:, kept]
            if not weight.shape[1]:
                continue
            patches = cutter.cut(image, few)
            likelihood = part.network.beside(half.to(patches), patches).reshape(len(image), -1)
            total = total + (likelihood * weight).sum(dim=1)
            counted = counted + weight.sum(dim=1)
        value = total / counted.clamp_min(TINY)
        return planes.mean(value, held)

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        maps = [part.planes.stacked(_plane_map(part, moving), moving.shape[2:]) for part in state.parts]
        return torch.stack(maps).mean(dim=0)


def _plane_map(part: _Part, moving: torch.Tensor) -> torch.Tensor:
    """-L of patches a quarter of their side apart, interpolated to the voxels of the planes; 0 where nothing is left of one."""
    cutter, other = part.cutter, part.cutter.padded(part.planes.cut(moving))
    shape = [n - cutter.side + 1 for n in other.shape[2:]]
    centres, counts = cutter.everywhere(shape, max(1, cutter.side // MAP_STEP))
    maps = []
    for few in torch.split(centres.to(moving.device), AT_ONCE, dim=1):
        index = cutter.voxels(few, shape).expand(len(other), -1, -1)
        likelihood = part.network(cutter.cut(part.image, index).to(other), cutter.cut(other, index))
        maps.append(-likelihood.reshape(len(other), -1) * (cutter.shares(part.weights, index) > 0))
    coarse = torch.cat(maps, dim=1).reshape(len(other), 1, *counts)
    return F.interpolate(coarse, size=shape, mode="bilinear" if other.ndim == 4 else "trilinear")
