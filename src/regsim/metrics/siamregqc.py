"""SiamRegQC: how far apart a Siamese network finds two images, learnt from pairs of known misalignment."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from regsim.errors import InputError
from regsim.metrics.base import combine
from regsim.metrics.learned import SMALLEST_SIDE, LearnedMetric, load_network, places_along, planes_of, usable_axes
from regsim.metrics.siamese import SiameseFeatures, SiameseNetwork, SiameseSettings

DEFAULT_MODEL = "siamregqc-brain-2d"


@dataclass(frozen=True)
class _Part:
    """The fixed half of one set of planes (or of the whole image: axis None)."""

    axis: int | None
    places: list[int]
    image: torch.Tensor
    features: SiameseFeatures
    weights: torch.Tensor


@dataclass(frozen=True)
class _State:
    weights: torch.Tensor | None
    parts: list[_Part]


class SiameseRegistrationQuality(LearnedMetric):
    """Misalignment as a Siamese network sees it: one encoder for both images, learnt from pairs with known true error.

    With f and m the two images' features: `value = 1 - cos(f, m)` for models of the published kind, or
    `exp(w . log(1 + e)) - 1` for models with an error head, which gives every cell of the feature grid an error e and a
    weight, normalised over the mask. No unit: the second kind was taught with voxels of the training images, but is not
    calibrated. Range [0, inf) (the published kind ends at 2); lower is better. Map: the difference of the two images'
    features before the last pooling, its mean absolute value over the channels; `feature_differences` gives each channel.

    A model for pictures compares volumes plane by plane, at most 12 planes across each axis, and averages. Images of any
    size of at least 2 voxels a side; intensities are standardised over the mask by models that were taught so.

    Convention:
        The paper says "0 = registered, 2 = misaligned"; with features after ReLU its cosine is never negative, so its
        values end at 1. Its Eq. 2 with the labels that it prints (aligned 0) would teach the opposite of its Eq. 4; the
        `paper` recipe turns the labels. Its misaligned pairs alone were resampled; here both images of every pair are.

    Args:
        model: a bundled model's name, or a folder that `regsim train` wrote.

    Raises:
        InputError: not a model folder, a model of another metric, pictures for a model of volumes.

    Example:
        >>> import torch
        >>> board = torch.arange(64.0 * 64).reshape(1, 1, 64, 64).sin().cumsum(-1)
        >>> metric = SiameseRegistrationQuality()
        >>> bool(metric(board, board) < metric(board, board.roll(6, -1)))
        True

    References:
        SiamRegQC, MIDL 2024 (see docs/siamregqc.md for what was changed, and why).
    """

    name = "siamregqc"
    higher_is_better = False
    value_range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    multimodal = True
    has_map = True

    def __init__(self, model: str = DEFAULT_MODEL):
        super().__init__()
        self.model = model
        self.network, self.settings, self.card = load_network(model, self.name, SiameseSettings, SiameseNetwork)

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        return _State(weights, [self._part(fixed, weights, axis) for axis in self._axes(fixed)])

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        seen = combine(state.weights, overlap)
        values = [self._planes_value(part, moving, seen) for part in state.parts]
        return torch.stack(values).mean(dim=0)

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        return self._differences(state, moving).mean(dim=1, keepdim=True)

    def feature_differences(
        self, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`|f - m|` of the last block before pooling, `(N, channels, *spatial)`, interpolated to the images' grid.

        Args:
            fixed, moving: `(N, 1, *spatial)`.
            mask: as for the value.
        """
        if fixed.shape[1] != 1:
            raise InputError(f"siamregqc: feature maps are of images with one channel, got {fixed.shape[1]}")
        self(fixed, moving, mask)  # checks what it is given
        if mask is None:
            return self._differences(self._bind(fixed, None), moving)
        weights = mask.to(fixed).expand(fixed.shape[0], *mask.shape[1:])
        first, second = (torch.where(weights > 0, image, torch.zeros_like(image)) for image in (fixed, moving))
        return self._differences(self._bind(first, weights), second)

    # --- planes ---------------------------------------------------------------------------------------------------------

    def _axes(self, fixed: torch.Tensor) -> list[int | None]:
        """Across which axes planes are cut; None = the image as it is."""
        shape, dims = fixed.shape[2:], self.settings.encoder.dims
        if len(shape) == dims:
            if min(shape) < SMALLEST_SIDE:
                raise InputError(f"siamregqc: needs at least {SMALLEST_SIDE} voxels a side, got {tuple(shape)}")
            return [None]
        if dims == 3:
            raise InputError(f"siamregqc: model '{self.model}' is for volumes, the images are pictures {tuple(shape)}")
        axes: list[int | None] = [*usable_axes(shape)]
        if not axes:
            raise InputError(f"siamregqc: no plane of {tuple(shape)} has {SMALLEST_SIDE} voxels a side")
        return axes

    def _part(self, fixed: torch.Tensor, weights: torch.Tensor | None, axis: int | None) -> _Part:
        places = [] if axis is None else places_along(fixed.shape[axis + 2])
        held = torch.ones_like(fixed) if weights is None else weights
        image, held = _cut(fixed, axis, places), _cut(held, axis, places)
        return _Part(axis, places, image, self._features(image, held), held)

    def _features(self, image: torch.Tensor, held: torch.Tensor) -> SiameseFeatures:
        """Of the image, and behind it in the batch of its mirror where the model looks at both."""
        return self.network.features(self._with_mirror(image), self._with_mirror(held))

    def _with_mirror(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image, image.flip(-1)]) if self.settings.mirrored else image

    def _planes_value(self, part: _Part, moving: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """The value of one set of planes, averaged by how much of each lies in mask and overlap, `(M,)`."""
        held = part.weights if seen is None else _cut(seen, part.axis, part.places)
        other = self._features(_cut(moving, part.axis, part.places), held)
        values = self._value(part.features, other, self._with_mirror(held))
        values = values.reshape(-1, len(held)).mean(dim=0)
        if part.axis is None:
            return values
        share = held.flatten(1).mean(dim=1).reshape(moving.shape[0], -1)
        total = share.sum(dim=1).clamp_min(torch.finfo(share.dtype).tiny)
        return (values.reshape(moving.shape[0], -1) * share).sum(dim=1) / total

    def _value(self, first: SiameseFeatures, second: SiameseFeatures, weights: torch.Tensor) -> torch.Tensor:
        if self.settings.value == "cosine":
            return 1 - self.network.cosine(first, second, weights)
        return torch.expm1(self.network.pooled_error(first, second, weights)[0])

    def _differences(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        """`(M, channels, *spatial)`; of a volume by planes, its planes across the first usable axis."""
        part = state.parts[0]
        other = self.network.unpooled(_cut(moving, part.axis, part.places), part.weights)
        apart = (self.network.unpooled(part.image, part.weights) - other).abs()
        shape = part.features.shape
        size = [n * self.settings.encoder.stride // 2 for n in apart.shape[2:]]
        full = F.interpolate(apart, size=size, mode="bilinear" if apart.ndim == 4 else "trilinear")
        for axis, length in enumerate(shape):
            full = full.narrow(axis + 2, 0, length)
        if part.axis is None:
            return full
        stack = full.reshape(moving.shape[0], len(part.places), *full.shape[1:]).movedim(1, part.axis + 2)
        spatial = moving.shape[2:]
        return F.interpolate(stack, size=list(spatial), mode="trilinear") if stack.shape[2:] != spatial else stack


def _cut(image: torch.Tensor, axis: int | None, places: list[int]) -> torch.Tensor:
    return image if axis is None else planes_of(image, axis, places)
