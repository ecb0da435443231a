"""DeepSim: the cosine of what a network sees in two images, not of their grey values."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F

from regsim.errors import InputError, SettingsError
from regsim.kernels.box import box_sum
from regsim.metrics.feature_network import FeatureNetwork, FeatureNetworkSettings
from regsim.metrics.features import Companion, FeatureMetric, directions
from regsim.metrics.learned import load_network
from regsim.metrics.mind import ModalityIndependentNeighbourhoodDescriptor
from regsim.metrics.networks import CHANNELS_LAST

MODELS = {2: "deepsim-brain-2d", 3: "deepsim-brain-3d"}
LARGEST_SAMPLE = 20_000
LOW, HIGH = 0.001, 0.995
PLANES = 16
REACH = 4
DILATION, MIDDLE = 2, 0.5
COMPANION_DILATIONS = (1, 2)
Warping = Literal["before", "after"]


class DeepSimilarity(FeatureMetric):
    """How alike two images look to a network: the cosine of its features, or how surely they match where they lie.

    `1/L sum_l mean_x cos(f_l(x), m_l(x))`, the mean cosine of two images' feature vectors over cells and levels; or, with
    `value="matching"`, which the bundled models use, the mean probability that the finest features match where they
    lie, and not one or two voxels away (`matching_probability`): noise, bias and contrast lower all cosines alike, and it
    is this level, not the order, that differs from pair to pair.

    Models may set MIND's descriptors beside the network's finest features (`network.beside` on the card; the bundled ones do).
    The features f_l come from a small U-Net that was taught to give one anatomy the same features in any contrast
    (bundled models), to segment, or to reproduce its input (`regsim train`). No unit; range [-1, 1] (from 0 where all
    levels are class posteriors), 1 = the network sees no difference; higher is better. Map: 1 - cosine, averaged over
    the levels. `cosines` gives each level's.

    A network for pictures sees a volume as planes across each axis, and its answers are averaged. Intensities are scaled
    between their 0.1 % and 99.5 % quantiles. Cells outside the mask are left out; levels coarser than the image weigh
    each cell by its share of the mask.

    Convention:
        DeepSim averages each level over its own cells, then over levels; so does this. Its text calls the cosine a mirror of
        NCC, but features after ReLU share a large common part: `centred` takes each channel's mean over the cells off first,
        which makes the value a correlation. `warping` matters to registration only: with "before" the driver takes the
        features once and warps them (as the public code's "extract before transform"), with "after" they are taken from
        every warped image, as published.

    Args:
        model: a bundled model's name, or a folder that `regsim train` wrote; "auto": the bundled one for the images' axes.
        levels: which levels of the model to compare, such as 0x2; all where not given.
        centred: take each channel's mean over the cells off first.
        warping: "before" or "after".
        value: "cosine", "matching", or "auto": what the model is made for (its card's `network.value`).
        guidance: of models with MIND's descriptors beside, in the deformable stages of a registration that takes features before
            warping: two-scale MIND sees the warped image, and the carried features pull this much beside its 1. 0: the
            features with their descriptors drive alone, and MIND is not taken anew.

    Raises:
        SettingsError: a level that the model does not have, a warping of another name, guidance below 0 or above 100.
        InputError: not a model folder, a model of another metric, pictures for a model of volumes, an image smaller than 2
            voxels a side.

    Example:
        >>> board = torch.arange(64.0 * 64).reshape(1, 1, 64, 64).sin().cumsum(-1)
        >>> metric = DeepSimilarity("deepsim-brain-2d")
        >>> bool(metric(board, board) > metric(board, board.roll(6, -1)))
        True

    References:
        Czolbe, Pegios, Krause and Feragen, DeepSim, 2023, doi:10.1016/j.media.2023.102830.
    """

    name = "deepsim"
    higher_is_better = True
    value_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    multimodal = True
    has_map = True

    def __init__(
        self,
        model: str = "auto",
        levels: tuple[int, ...] | None = None,
        centred: bool = False,
        warping: str = "before",
        value: str = "auto",
        guidance: float = 0.1,
    ):
        super().__init__()
        if warping not in ("before", "after"):
            raise SettingsError(f"deepsim: warping is 'before' or 'after', got '{warping}'")
        if value not in ("auto", "cosine", "matching"):
            raise SettingsError(f"deepsim: value is 'auto', 'cosine' or 'matching', got '{value}'")
        if not 0 <= guidance <= 100:
            raise SettingsError(f"deepsim: guidance is from 0 to 100, got {guidance}")
        self.model, self.chosen, self.centred, self.guidance = model, levels, centred, guidance
        self.before_warping = warping == "before"
        names = MODELS.values() if model == "auto" else (model,)
        self._of_dims: dict[int, str] = {}
        for name in names:
            network, settings, card = load_network(name, self.name, FeatureNetworkSettings, FeatureNetwork)
            network = network.to(memory_format=CHANNELS_LAST[settings.dims + 2])  # type: ignore[call-overload]
            self.add_module(f"network_{settings.dims}", network)
            self._of_dims[settings.dims], self.card, self._settings = name, card, settings
            self.matching = (settings.value if value == "auto" else value) == "matching"
            _check_levels(levels, settings, name)

    def maps(self, image: torch.Tensor, weights: torch.Tensor | None) -> list[torch.Tensor]:
        """The feature maps of the chosen levels, finest first, with MIND's descriptors beside the finest ones."""
        found = self._all(image, weights)
        beside = self._settings.beside
        if beside and self._has_finest:
            own = directions(self.descriptors(image, weights))
            found[0] = torch.cat([directions(found[0]) * (1 - beside) ** 0.5, own * beside**0.5], dim=1)
        return self._of_levels(found)

    def own_maps(self, image: torch.Tensor, weights: torch.Tensor | None) -> list[torch.Tensor]:
        """What the network alone says."""
        return self._of_levels(self._all(image, weights))

    def companion(self) -> Companion | None:
        """Two-scale MIND, where the model has descriptors beside its features."""
        if not (self._settings.beside and self.guidance and self._has_finest):
            return None
        return Companion(ModalityIndependentNeighbourhoodDescriptor(dilations=COMPANION_DILATIONS), self.guidance)

    @property
    def _has_finest(self) -> bool:
        return self.chosen is None or 0 in self.chosen

    def _of_levels(self, found: list[torch.Tensor]) -> list[torch.Tensor]:
        chosen = found if self.chosen is None else [found[level] for level in self.chosen]
        return [_centred(each) for each in chosen] if self.centred else chosen

    def _all(self, image: torch.Tensor, weights: torch.Tensor | None) -> list[torch.Tensor]:
        """The network's maps, all levels."""
        if min(image.shape[2:]) < 2:
            raise InputError(f"deepsim: needs at least 2 voxels a side, got {tuple(image.shape[2:])}")
        dims = image.ndim - 2
        seen = scaled(image, weights)
        if dims in self._of_dims:
            found = self._seen(seen)
        elif dims == 3:
            found = self._by_planes(seen)
        else:
            raise InputError(
                f"deepsim: model '{self.model}' is for volumes, the images are pictures {tuple(image.shape[2:])}"
            )
        return found

    def descriptors(self, image: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """MIND's descriptors of the image, around 0; of neighbours 2 voxels apart where the image is large enough, else 1."""
        dilation = DILATION if sorted(image.shape[2:])[-2] > DILATION else 1
        return ModalityIndependentNeighbourhoodDescriptor(dilation=dilation).descriptors(image, weights) - MIDDLE

    def network(self, dims: int) -> FeatureNetwork:
        """The network for images of so many axes.

        Raises:
            InputError: this model has none.
        """
        found = self._modules.get(f"network_{dims}")
        if not isinstance(found, FeatureNetwork):
            raise InputError(f"deepsim: model '{self.model}' has no network for {dims} axes")
        return found

    def _seen(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The network's maps of an image of its own number of axes, cut to the image's cells."""
        network = self.network(image.ndim - 2)
        margins: list[int] = []
        for length in image.shape[2:]:
            margins = [0, -length % network.settings.stride, *margins]
        full = F.pad(image, margins).to(next(network.parameters()).dtype)
        full = full.contiguous(memory_format=CHANNELS_LAST[full.ndim])
        return [_cut(each, image.shape[2:], full.shape[2:]).to(image.dtype) for each in network(full)]

    def _by_planes(self, image: torch.Tensor) -> list[torch.Tensor]:
        """A network for pictures on a volume: all planes across each axis; maps on the image's grid, averaged."""
        total: list[torch.Tensor] = []
        for axis in range(2, 5):
            planes = image.movedim(axis, 1).flatten(0, 1)
            parts = [self._seen(part) for part in torch.split(planes, PLANES)]
            for level, cells in enumerate(torch.cat(each) for each in zip(*parts, strict=True)):
                if cells.shape[2:] != planes.shape[2:]:
                    cells = F.interpolate(cells, size=list(planes.shape[2:]), mode="bilinear", align_corners=False)
                own = cells.reshape(image.shape[0], -1, *cells.shape[1:]).movedim(1, axis)
                if axis == 2:
                    total.append(own / 3)
                else:
                    total[level] = total[level] + own / 3
        return total


def scaled(image: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Each item from its 0.1 % quantile to its 99.5 % quantile; what the mask leaves out is filled from within.

    A mask cuts both images alike. Were what it leaves out black, the cut itself would match perfectly, however the images lie.
    """
    flat = image.flatten(1)
    step = max(1, flat.shape[1] // LARGEST_SAMPLE)
    ends = torch.tensor([LOW, HIGH], dtype=flat.dtype, device=flat.device)
    low, high = torch.quantile(flat[:, ::step], ends, dim=1).reshape(2, -1, *[1] * (image.ndim - 1)).unbind(0)
    width = high - low
    whole = (image - low) / torch.where(width > 0, width, torch.ones_like(width))
    return whole if weights is None else _filled(whole, (weights > 0).to(whole))


def _filled(image: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """What is not held becomes the mean of what is held around it, or of all that is held where nothing is near."""
    axes = tuple(range(1, image.ndim))
    mean = (image * held).sum(axes, keepdim=True) / held.sum(axes, keepdim=True).clamp_min(1)
    near, count = (box_sum(box_sum(each, REACH), REACH) for each in (image * held, held))
    around = torch.where(count > 0, near / count.clamp_min(1e-6), mean)
    return torch.where(held > 0, image, around)


def _centred(cells: torch.Tensor) -> torch.Tensor:
    return cells - cells.mean(dim=tuple(range(2, cells.ndim)), keepdim=True)


def _cut(cells: torch.Tensor, shape: torch.Size, full: torch.Size) -> torch.Tensor:
    """The cells that lie over the image, without those over its filling."""
    for axis, (length, whole) in enumerate(zip(shape, full, strict=True)):
        cells = cells.narrow(axis + 2, 0, -(-length * cells.shape[axis + 2] // whole))
    return cells


def _check_levels(levels: tuple[int, ...] | None, settings: FeatureNetworkSettings, model: str) -> None:
    count = len(settings.levels)
    if levels is not None and (not levels or not all(isinstance(each, int) and 0 <= each < count for each in levels)):
        named = ", ".join(f"{number} = {name}" for number, name in enumerate(settings.levels))
        raise SettingsError(f"deepsim: levels of model '{model}' are {named}; got {levels}")
