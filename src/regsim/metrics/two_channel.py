"""Two-channel metric: the probability, patch by patch, that a network gives for "misaligned" when it sees both images at once."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from regsim.metrics.base import combine
from regsim.metrics.learned import LearnedMetric, load_network
from regsim.metrics.networks import padded
from regsim.metrics.planes import Planes, planes_for
from regsim.metrics.two_channel_network import TwoChannelNetwork, TwoChannelSettings

DEFAULT_MODEL = "two-channel-brain-2d"


@dataclass(frozen=True)
class _Part:
    """The fixed half of one set of planes: the image as the network wants it."""

    planes: Planes
    weights: torch.Tensor
    image: torch.Tensor


@dataclass(frozen=True)
class _State:
    weights: torch.Tensor | None
    parts: list[_Part]


class TwoChannelMisalignment(LearnedMetric):
    """The mean probability that a patch of the two images is misaligned, by a network that sees both as two channels.

    `value = mean of p over the mask`, `p = sigmoid(network(fixed, moving))` for each cell, which the network judges by the patch
    around it (`settings.stride` and `settings.patch` voxels a side: 8 and 52 in the bundled model). No unit. Range [0, 1], 0 =
    every patch aligned; lower is better. Map: p, interpolated to the voxels. An empty mask gives 0.

    p was taught on pairs of known misalignment, aligned and misaligned cells weighing the same: it is a probability for even
    odds, and for the two displacements of the recipe (up to 1 voxel, from 4 voxels on). It tells aligned from misaligned; it
    saturates where displacements grow, and says little in flat patches, which stay near one half. Each image is brought to
    mean 0 and standard deviation 1 over the mask.

    Images of any size of at least 2 voxels a side. A model for pictures compares volumes plane by plane, at most 12 planes
    across each axis, and averages.

    Convention:
        Not symmetric: the two channels have weights of their own. Training shows every pair in both orders, so the two
        values are close. Cheng et al. stack patches of 17 x 17 of CT and MR, and give the probability that they correspond
        (higher is better), by dense layers that start from denoising autoencoders; here the network is convolutional, so all
        patches of an image are judged in one pass, it starts from pairs of one contrast, and the probability is that of
        misalignment. Their negatives are patches of other places, which can be told apart without aligning anything; here
        they are the same place, misaligned.

    Args:
        model: a bundled model's name, or a folder that `regsim train` wrote.

    Raises:
        InputError: not a model folder, a model of another metric, pictures for a model of volumes.

    Example:
        >>> import torch
        >>> board = torch.arange(64.0 * 64).reshape(1, 1, 64, 64).sin().cumsum(-1)
        >>> metric = TwoChannelMisalignment()
        >>> bool(metric(board, board) < metric(board, board.roll(6, -1)))
        True

    References:
        Cheng et al., Deep similarity learning for multimodal medical images, 2018, doi:10.1080/21681163.2015.1135299.
    """

    name = "two_channel"
    higher_is_better = False
    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    symmetric = False
    multimodal = True
    has_map = True

    def __init__(self, model: str = DEFAULT_MODEL):
        super().__init__()
        self.model = model
        self.network, self.settings, self.card = load_network(model, self.name, TwoChannelSettings, TwoChannelNetwork)

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        held = torch.ones_like(fixed) if weights is None else weights
        sets = planes_for(fixed.shape[2:], self.settings.dims, self.name)
        return _State(weights, [self._part(fixed, held, planes) for planes in sets])

    def _part(self, fixed: torch.Tensor, held: torch.Tensor, planes: Planes) -> _Part:
        weights = planes.cut(held)
        return _Part(planes, weights, self.network.prepared(planes.cut(fixed), weights))

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        seen = combine(state.weights, overlap)
        return torch.stack([self._value(part, moving, seen) for part in state.parts]).mean(dim=0)

    def _value(self, part: _Part, moving: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """Of one set of planes, `(M,)`."""
        held = part.weights if seen is None else part.planes.cut(seen)
        share = self.network.shares(held)
        total = share.flatten(1).sum(dim=1).clamp_min(torch.finfo(share.dtype).tiny)
        probability = self._logits(part, moving, held).sigmoid()
        return part.planes.mean((probability * share).flatten(1).sum(dim=1) / total, held)

    def _logits(self, part: _Part, moving: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """`(planes, 1, *cells)`. Both images are 0 where either holds no data, as they were in training."""
        other = self.network.prepared(part.planes.cut(moving), held)
        seen = padded(held, self.settings.stride) > 0
        logits: torch.Tensor = self.network(torch.where(seen, part.image, torch.zeros_like(part.image)), other)
        return logits

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        maps = [part.planes.stacked(self._plane_map(part, moving), moving.shape[2:]) for part in state.parts]
        return torch.stack(maps).mean(dim=0)

    def _plane_map(self, part: _Part, moving: torch.Tensor) -> torch.Tensor:
        """p on the grid of the planes, or of the image."""
        coarse = self._logits(part, moving, part.weights).sigmoid()
        mode = "bilinear" if coarse.ndim == 4 else "trilinear"
        fine = F.interpolate(coarse, size=list(part.image.shape[2:]), mode=mode)
        for axis, length in enumerate(part.weights.shape[2:], start=2):
            fine = fine.narrow(axis, 0, length)
        return fine
