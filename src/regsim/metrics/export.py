"""The feature extractor of a DeepSim model as TorchScript, in the form that IMPACT (elastix, ITK) reads."""

import copy
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from regsim.metrics.deepsim import HIGH, LARGEST_SAMPLE, LOW
from regsim.metrics.feature_network import FeatureNetwork, FeatureNetworkSettings, Level
from regsim.settings import Settings

DOWN = "cs" * 3 + "c"
PATHS: dict[Level, str] = {
    "encoder_1": "csc",
    "encoder_2": "cscsc",
    "encoder_3": DOWN,
    "embedding_2": "cgcg" + DOWN,
    "tissues": "gcgcg" + DOWN,
    "embedding": "gcgcg" + DOWN,
    "decoder": "gcgcg" + DOWN,
}


class FeatureExtractor(nn.Module):
    """`forward(image) -> maps`: what `DeepSimilarity.maps` gives without a mask, whole in one module that can be scripted.

    `image` `(N, 1, H, W)` or `(N, 1, D, H, W)`, floating point, any intensities, any size; maps `(N, C, *cells)`, finest
    first. Inside: scaling between the 0.1 % and 99.5 % quantiles of each item, filling with zeros to a multiple of 8,
    the network, and cutting to the image's own cells.

    Convention:
        IMPACT calls a model with the image, or (as its newer versions do) with four tensors: the image, how many maps it
        wants, the whole image's `(min, max, mean, deviation)`, and the image's directions. Of these the second is obeyed (the
        first so many maps come back); the last two are taken and not used: the quantiles are those of what is given.
        So give whole images (`ImpactMode "Static"`, `ImpactPatchSize 0`); a patch would be scaled by itself.
        Gradients flow to the image, as the mode "Jacobian" needs.

        A model for pictures sees pictures. IMPACT leads a volume through it plane by plane along one axis, where
        `DeepSimilarity` takes all three and averages.

    Args:
        network: of a DeepSim model; copied, frozen, in evaluation mode.

    References:
        Boussot et al., IMPACT, 2025, doi:10.48550/arXiv.2503.24121; the form of the models: github.com/vboussot/ImpactLoss,
        Data/Models/README.md; the parameters: elastix, Components/Metrics/Impact/elxImpactMetric.h.
    """

    def __init__(self, network: FeatureNetwork):
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.dims, self.stride, self.sample = network.dims, network.settings.stride, LARGEST_SAMPLE
        self.ends = [LOW, HIGH]

    def forward(
        self,
        x: torch.Tensor,
        nb_layers: torch.Tensor | None = None,
        stats: torch.Tensor | None = None,
        direction: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """The feature maps, finest first."""
        full = self.filled(self.scaled(x)).to(self.network.last.weight.dtype)
        if self.dims == 2:
            full = full.contiguous(memory_format=torch.channels_last)
        else:
            full = full.contiguous(memory_format=torch.channels_last_3d)
        maps: list[torch.Tensor] = []
        for cells in self.network(full):
            maps.append(self.cut(cells, list(x.shape), list(full.shape)))
        if nb_layers is not None and nb_layers.numel() == 1:
            return maps[: int(nb_layers.item())]
        return maps

    def scaled(self, image: torch.Tensor) -> torch.Tensor:
        """Each item from its lower to its upper quantile, as `deepsim.scaled` does."""
        whole = image if image.dtype == torch.float64 else image.to(torch.float32)
        flat = whole.flatten(1)
        step = max(1, flat.shape[1] // self.sample)
        ends = torch.tensor(self.ends, dtype=flat.dtype, device=flat.device)
        shape = [-1] + [1] * (image.ndim - 1)
        found = torch.quantile(flat[:, ::step], ends, dim=1)
        low, high = found[0].reshape(shape), found[1].reshape(shape)
        width = high - low
        return (whole - low) / torch.where(width > 0, width, torch.ones_like(width))

    def filled(self, image: torch.Tensor) -> torch.Tensor:
        """With zeros behind the ends, so that all sides are multiples of the network's stride."""
        margins: list[int] = []
        for axis in range(image.ndim - 1, 1, -1):
            margins.append(0)
            margins.append((self.stride - image.shape[axis] % self.stride) % self.stride)
        return F.pad(image, margins)

    def cut(self, cells: torch.Tensor, shape: list[int], full: list[int]) -> torch.Tensor:
        """The cells that lie over the image, without those over its filling."""
        for axis in range(2, cells.ndim):
            count = (shape[axis] * cells.shape[axis] + full[axis] - 1) // full[axis]
            cells = cells.narrow(axis, 0, count)
        return cells


class LevelFacts(Settings):
    """One feature map: its channels, voxels per cell along a side, and how many voxels along a side one cell depends on."""

    name: Level
    channels: int
    stride: int
    field_of_view: int


def scripted(extractor: FeatureExtractor) -> torch.jit.ScriptModule:
    """As TorchScript. torch calls that outdated since 2.13, but it is what elastix and ITK read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        module: torch.jit.ScriptModule = torch.jit.script(extractor)
    return module


def level_facts(extractor: FeatureExtractor) -> list[LevelFacts]:
    """What each feature map of an extractor is, finest first."""
    side, settings = 16, extractor.network.settings
    with torch.no_grad():
        maps = extractor(torch.zeros(1, 1, *[side] * settings.dims))
    return [
        LevelFacts(
            name=level,
            channels=cells.shape[1],
            stride=side // cells.shape[2],
            field_of_view=field_of_view(level, settings),
        )
        for level, cells in zip(settings.levels, maps, strict=True)
    ]


def field_of_view(level: Level, settings: FeatureNetworkSettings) -> int:
    """How many voxels along a side one cell of a level depends on, at most (the scaling by quantiles left aside).

    It is followed back from the cell: `c`, a convolution of 3 cells; `s`, the same with stride 2; `g`, interpolation from
    cells twice as large; then the widest window of the input.

    >>> field_of_view("encoder_1", FeatureNetworkSettings(windows=(2, 6)))
    21
    """
    widest = 0
    for place in range(settings.stride):
        first = last = place
        for step in PATHS[level]:
            if step == "g":
                first, last = (first - 1) // 2, (last - 1) // 2 + 1
            else:
                times = 2 if step == "s" else 1
                first, last = times * first - 1, times * last + 1
        widest = max(widest, last - first + 1)
    return widest + 2 * max(settings.windows, default=0)
