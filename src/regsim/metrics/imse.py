"""IMSE: how large an evaluator, learnt from one contrast, predicts the images' difference to be were both of that contrast."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from regsim.errors import SettingsError
from regsim.metrics.base import combine, weighted_mean
from regsim.metrics.checkpoint import Card
from regsim.metrics.evaluator_network import EvaluatorNetwork, EvaluatorSettings
from regsim.metrics.learned import LearnedMetric, dims_for, load_network
from regsim.metrics.networks import CHANNELS_LAST
from regsim.metrics.planes import Planes, planes_for

MODELS = {2: "imse-brain-2d", 3: "imse-brain-3d"}
REFERENCES = ("fixed", "moving", "both")
MIRRORED = ("none", "point", "every")
APART = 4
SMALLEST_DIFFERENCE = 0.01
PLANES = 16


@dataclass(frozen=True)
class _Part:
    """The fixed half of one set of planes."""

    planes: Planes
    image: torch.Tensor
    weights: torch.Tensor
    own: torch.Tensor  # the fixed image's own difference over its contrast


@dataclass(frozen=True)
class _State:
    weights: torch.Tensor | None
    parts: list[_Part]


class IndescribableSpatialEvaluator(LearnedMetric):
    """IMSE: the predicted difference of the reference and the other image, had that one the reference's contrast.

    `value = mean |E(other, reference)| / mean |reference(x + 4 e) - reference(x)|`, means over the mask, e one voxel along each
    axis in turn, E the evaluator's prediction of `reference - other in the reference's contrast`. Both images in [0, 1]. No
    unit: 0 = the other image, were it of the reference's contrast, would equal the reference; 1 = they differ as much as the
    reference does from itself four voxels away. Range [0, inf); lower is better. Map: |E|, in the reference's intensities. An
    empty mask gives 0.

    Where only a part overlaps, |E| is a mean over that part, and a fixed reference's own difference counts by that part's share
    of the contrast (mean distance from the mean), so that nothing is gained by leaving the anatomy.

    The evaluator was taught on pairs of one contrast only (T1 in the bundled models): two places of one image, one of them in a
    random style, L1 to the true difference. It judges any contrast against that one, which must be in the reference slot.

    A prediction at a voxel depends on the voxels around it, not on what else the image shows: no layer averages over the
    image, the widest window ends with the receptive field, and intensities are scaled by the caller, once for the whole image
    (`regsim.prepare.rescaled`). The division by the reference's own differences is over the mask. Images of any size of at
    least 2 voxels a side; a model for pictures compares volumes plane by plane, at most 12 planes across each axis, and averages.

    Convention:
        The paper's loss is `mean |E|`, E(warped moving, fixed) with the training contrast fixed, and the warped image in the
        reference slot in the other direction. There |E| can be lowered by flattening the warped reference, not by
        aligning it; the division by the reference's own differences takes that gain away (with a fixed reference it is a
        constant), and makes values of images with much and with little fine structure comparable. In the published code the
        target is half of the difference; here it is the difference, as printed.
        The published network normalises every channel over the whole image, so its values depend on the field of view.

    Args:
        model: a bundled model's name, or a folder that `regsim train` wrote; "auto": `imse-brain-2d` for pictures,
            `imse-brain-3d` for volumes.
        reference: which image has the training contrast: "fixed", "moving" (which is warped in registrations), or "both"
            (two images of that contrast: the mean of both ways).
        mirrored: E is the mean over mirror images, each mirrored back: "none": the images as they lie; "point": and mirrored
            along all axes at once (twice the time); "every": along every choice of axes (4 or 8 times). What the network
            prefers in one direction cancels: nearer optima, smaller errors of prediction.

    Raises:
        SettingsError: another reference, or way of mirroring.
        InputError: not a model folder, a model of another metric, pictures for a model of volumes.

    Example:
        >>> metric = IndescribableSpatialEvaluator()
        >>> image = torch.linspace(0, 1, 24 * 24).reshape(1, 1, 24, 24)
        >>> metric(image, image).shape, metric.difference(image, image).shape
        (torch.Size([1]), torch.Size([1, 1, 24, 24]))

    References:
        Kong et al., Indescribable Multi-modal Spatial Evaluator, 2023, doi:10.1109/CVPR52729.2023.00949.
    """

    name = "imse"
    higher_is_better = False
    value_range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    symmetric = False
    multimodal = True
    expects = "unit"
    has_map = True
    costly = True

    def __init__(self, model: str = "auto", reference: str = "fixed", mirrored: str = "none"):
        super().__init__()
        if reference not in REFERENCES:
            raise SettingsError(f"imse: reference is 'fixed', 'moving' or 'both', got '{reference}'")
        if mirrored not in MIRRORED:
            raise SettingsError(f"imse: mirrored is 'none', 'point' or 'every', got '{mirrored}'")
        self.model, self.reference, self.mirrored = model, reference, mirrored
        self._coarsest: dict[int, float] = {}
        for name in MODELS.values() if model == "auto" else (model,):
            network, settings, self.card = load_network(name, self.name, EvaluatorSettings, EvaluatorNetwork)
            network = network.to(memory_format=CHANNELS_LAST[settings.dims + 2])  # type: ignore[call-overload]
            self.add_module(f"network_{settings.dims}", network)
            self._coarsest[settings.dims] = _largest_voxel(self.card)

    def coarsest(self, dims: int, linear: bool) -> float:
        """Of deformations the largest voxel of its recipe's pairs: their spacing times the largest zoom.

        Linear transforms are captured from farther away by coarser images than that. Deformations gain nothing by them, not
        even where a stage of the recipe shows them (`scales`).
        """
        return math.inf if linear else self._coarsest[dims_for(self._coarsest, dims, self.name)]

    def network_for(self, dims: int) -> EvaluatorNetwork:
        """The evaluator for images of so many axes: of their own number, else one for pictures.

        Raises:
            InputError: pictures, and a model for volumes.
        """
        network = self._modules[f"network_{dims_for(self._coarsest, dims, self.name)}"]
        assert isinstance(network, EvaluatorNetwork)
        return network

    def difference(
        self, other: torch.Tensor, reference: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """E: the reference less the other image in its contrast, `(N, 1, *spatial)`; 0 where the weights are 0.

        Of volumes and a model for pictures: every plane across each axis, averaged.
        """
        network = self.network_for(reference.ndim - 2)
        held = torch.ones_like(reference) if weights is None else (weights > 0).to(reference)
        first, second = other * held, reference * held
        if network.settings.dims == reference.ndim - 2:
            return self._answer(network, first, second) * held
        total = torch.zeros_like(reference)
        for axis in range(2, reference.ndim):
            planes = [image.movedim(axis, 1).flatten(0, 1) for image in (first, second)]
            parts = [
                self._answer(network, *pair)
                for pair in zip(*(torch.split(image, PLANES) for image in planes), strict=True)
            ]
            shape = (len(reference), -1, 1, *planes[0].shape[2:])
            total = total + torch.cat(parts).reshape(shape).movedim(1, axis) / (reference.ndim - 2)
        return total * held

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        held = torch.ones_like(fixed) if weights is None else weights.expand_as(fixed)
        sets = planes_for(fixed.shape[2:], self.network_for(fixed.ndim - 2).settings.dims, self.name)
        parts = [(planes, planes.cut(fixed), planes.cut(held)) for planes in sets]
        return _State(weights, [_Part(*each, _own_difference(*each[1:]) / _contrast(*each[1:])) for each in parts])

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        seen = combine(state.weights, overlap)
        return torch.stack([self._value(part, moving, seen) for part in state.parts]).mean(dim=0)

    def _value(self, part: _Part, moving: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """Of one set of planes, `(M,)`."""
        held = part.weights if seen is None else part.planes.cut(seen.expand_as(moving))
        values = []
        for reference, other in self._ways(part, moving):
            carried = reference is not part.image
            own = _own_difference(reference, held) if carried else part.own * _contrast(reference, held)
            values.append(weighted_mean(self._predicted(other, reference, held).abs(), held, None) / own)
        return part.planes.mean(torch.stack(values).mean(dim=0), held)

    def _ways(self, part: _Part, moving: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Reference and other image, once or both ways."""
        fixed, carried = part.image, part.planes.cut(moving)
        ways = {"fixed": [(fixed, carried)], "moving": [(carried, fixed)]}
        return ways.get(self.reference) or [*ways["fixed"], *ways["moving"]]

    def _predicted(self, other: torch.Tensor, reference: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """E; both images are 0 where either holds no data, as they were in training."""
        inside = (held > 0).to(reference)
        return self._answer(self.network_for(reference.ndim - 2), other * inside, reference * inside)

    def _answer(self, network: EvaluatorNetwork, other: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """E, over the mirror images that `mirrored` asks for."""
        total: torch.Tensor = network(other, reference)
        mirrors = _mirror_images(other.ndim - 2, self.mirrored)
        for axes in mirrors:
            total = total + network(other.flip(axes), reference.flip(axes)).flip(axes)
        return total / (1 + len(mirrors)) if mirrors else total

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        maps = [part.planes.stacked(self._plane_map(part, moving), moving.shape[2:]) for part in state.parts]
        return torch.stack(maps).mean(dim=0)

    def _plane_map(self, part: _Part, moving: torch.Tensor) -> torch.Tensor:
        ways = self._ways(part, moving)
        return torch.stack([self._predicted(other, own, part.weights).abs() for own, other in ways]).mean(dim=0)


def _mirror_images(dims: int, mirrored: str) -> list[tuple[int, ...]]:
    """The array axes of `(N, 1, *spatial)` that each mirror image reverses.

    >>> _mirror_images(2, "point"), _mirror_images(2, "every")
    ([(2, 3)], [(2,), (3,), (2, 3)])
    """
    axes = range(2, dims + 2)
    counts = {"none": (), "point": (dims,), "every": range(1, dims + 1)}[mirrored]
    return [chosen for count in counts for chosen in itertools.combinations(axes, count)]


def _largest_voxel(card: Card) -> float:
    """What the recipe on a card shows its network; without end where it does not tell."""
    match card.settings:
        case {"pairs": {"spacing": float(spacing), "motion": {"common": {"zoom": float(zoom)}}}}:
            return spacing * zoom
    return math.inf


def _contrast(reference: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The mean distance of the reference from its mean, `(M,)`."""
    mean = weighted_mean(reference, weights, None).reshape(-1, *[1] * (reference.ndim - 1))
    return weighted_mean((reference - mean).abs(), weights, None).clamp_min(SMALLEST_DIFFERENCE)


def _own_difference(reference: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The mean difference of the reference from itself `APART` voxels away along an axis, both ends weighed, `(M,)`."""
    axes = tuple(range(1, reference.ndim))
    found = pairs = weights.new_zeros(len(weights))
    for axis, length in enumerate(reference.shape[2:], start=2):
        step = min(APART, length - 1)
        one, there = (reference.narrow(axis, start, length - step) for start in (0, step))
        both = weights.narrow(axis, 0, length - step) * weights.narrow(axis, step, length - step)
        found = found + ((one - there).abs() * both).sum(dim=axes)
        pairs = pairs + both.sum(dim=axes)
    return (found / pairs.clamp_min(torch.finfo(weights.dtype).tiny)).clamp_min(SMALLEST_DIFFERENCE)
