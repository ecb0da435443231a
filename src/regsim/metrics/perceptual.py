"""Perceptual similarity: the features of VGG16, which was taught to name photographs, compared by their direction."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F

from regsim.errors import SettingsError
from regsim.metrics.base import AbstractMetric, combine
from regsim.metrics.networks import averaged, padded
from regsim.metrics.planes import Planes, planes_for
from regsim.metrics.vgg_network import BLOCKS, EXPECTED, load_vgg

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALLEST_SQUARE = 1e-6
LAYERS = (1, 2, 3)


@dataclass(frozen=True)
class _Part:
    """The fixed half of one set of planes."""

    planes: Planes
    weights: torch.Tensor
    features: list[torch.Tensor]


@dataclass(frozen=True)
class _State:
    weights: torch.Tensor | None
    parts: list[_Part]


class PerceptualSimilarity(AbstractMetric):
    """Cosine between the features that VGG16 finds in both images, at the ends of some of its blocks.

    With `f` and `m` the two images' feature vectors in a cell: `cos = (f . m + e) / sqrt((f . f + e)(m . m + e))`, e = 1e-6;
    `value` = mean over the chosen blocks of the mean of cos over the mask (cells count by the share of their voxels in it).
    No unit. Range [0, 1], 1 = equal features; higher is better. Map: the mean over the blocks of `1 - cos`, interpolated to
    the voxels.

    Grey images in [0, 1] become three equal channels and are brought to ImageNet's mean (.485, .456, .406) and standard
    deviation (.229, .224, .225). They are zero outside the mask, and padded with zeros to sides that the blocks can halve.
    A volume is compared plane by plane, at most 12 planes across each axis, and averaged. An empty mask gives 0.

    Convention:
        DeepSim's VGG baseline is the mean over relu1_2, relu2_2 and relu3_3 of the mean cosine, and so is this; its public
        code gives the network three copies of the grey image without ImageNet's normalisation, for which VGG16 was not
        taught, and is for pictures only. LPIPS (Zhang et al.) and Johnson et al. take squared differences of the features,
        LPIPS with a learnt weight for each channel; those weights are not used here.

    Args:
        weights: a safetensors file with VGG16's weights under torchvision's names (`features.0.weight`, ...); other tensors
            in it are not read. regsim brings none and downloads none. Its widths may be other than VGG16's.
        layers: the blocks, 1 to 5, whose last features are compared: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.

    Raises:
        SettingsError: no weights are named; layers that VGG16 does not have.
        InputError: a file that holds other weights, or none.

    Example:
        A file of PyTorch becomes one of safetensors by two lines of Python::

            import torch, safetensors.torch
            safetensors.torch.save_file(torch.load("vgg16.pth", weights_only=True), "vgg16.safetensors")

        >>> PerceptualSimilarity()
        Traceback (most recent call last):
            ...
        regsim.errors.SettingsError: metric 'perceptual' needs weights=FILE: weights of VGG16 as a safetensors file ...

    References:
        Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, 2018,
        doi:10.1109/CVPR.2018.00068.
        Johnson et al., Perceptual losses for real-time style transfer and super-resolution, 2016,
        doi:10.1007/978-3-319-46475-6_43.
    """

    name = "perceptual"
    higher_is_better = True
    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    trainable = True
    expects = "unit"
    has_map = True
    needs = f"weights=FILE: {EXPECTED}; regsim downloads none"

    def __init__(self, weights: str | Path = "", layers: int | tuple[int, ...] = LAYERS):
        super().__init__()
        if not str(weights):
            raise SettingsError(f"metric '{self.name}' needs {self.needs}")
        self.layers = layers if isinstance(layers, tuple) else (layers,)
        known = [layer for layer in self.layers if type(layer) is int and 1 <= layer <= len(BLOCKS)]
        if not self.layers or len(set(known)) < len(self.layers):
            raise SettingsError(f"perceptual: layers must be some of 1 to {len(BLOCKS)}, each once, got {layers}")
        self.network = load_vgg(Path(weights), max(self.layers))

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        held = torch.ones_like(fixed) if weights is None else weights
        return _State(
            weights, [self._part(fixed, held, planes) for planes in planes_for(fixed.shape[2:], 2, self.name)]
        )

    def _part(self, fixed: torch.Tensor, held: torch.Tensor, planes: Planes) -> _Part:
        weights = planes.cut(held)
        return _Part(planes, weights, self._features(planes.cut(fixed), weights))

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        seen = combine(state.weights, overlap)
        values = [self._value(part, moving, seen) for part in state.parts]
        return torch.stack(values).mean(dim=0)

    def _value(self, part: _Part, moving: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """Of one set of planes, `(M,)`."""
        held = part.weights if seen is None else part.planes.cut(seen)
        levels = []
        for cosine in self._cosines(part, moving):
            share = averaged(padded(held, self._multiple), cosine.shape[2:])
            total = share.flatten(1).sum(dim=1).clamp_min(torch.finfo(share.dtype).tiny)
            levels.append((cosine * share).flatten(1).sum(dim=1) / total)
        return part.planes.mean(torch.stack(levels).mean(dim=0), held)

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        maps = [part.planes.stacked(self._plane_map(part, moving), moving.shape[2:]) for part in state.parts]
        return torch.stack(maps).mean(dim=0)

    def _plane_map(self, part: _Part, moving: torch.Tensor) -> torch.Tensor:
        """`1 - cos`, mean over the blocks, on the planes' own grid."""
        height, width = part.weights.shape[2:]
        size = [n + -n % self._multiple for n in (height, width)]
        fine = [F.interpolate(1 - cosine, size=size, mode="bilinear") for cosine in self._cosines(part, moving)]
        return torch.stack(fine).mean(dim=0)[..., :height, :width]

    def _cosines(self, part: _Part, moving: torch.Tensor) -> list[torch.Tensor]:
        """`(planes, 1, *cells)` for each chosen block."""
        other = self._features(part.planes.cut(moving), part.weights)
        return [_cosine(*pair) for pair in zip(part.features, other, strict=True)]

    def _features(self, image: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
        """Of the chosen blocks."""
        mean, deviation = (image.new_tensor(each).reshape(1, -1, 1, 1) for each in (MEAN, DEVIATION))
        colours = (image - mean) / deviation
        shown = torch.where(weights > 0, colours, torch.zeros_like(colours))
        found = self.network(padded(shown, self._multiple))
        return [found[layer - 1] for layer in self.layers]

    @property
    def _multiple(self) -> int:
        """Of which both sides must be a multiple."""
        return int(2 ** (max(self.layers) - 1))


def _cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """As if each vector had one component more, of the root of e: 1 for equal vectors, even where both are 0."""
    product = (first * second).sum(dim=1, keepdim=True) + SMALLEST_SQUARE
    squares = [each.square().sum(dim=1, keepdim=True) + SMALLEST_SQUARE for each in (first, second)]
    return product / (squares[0] * squares[1]).sqrt()
