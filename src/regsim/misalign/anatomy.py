"""Label maps painted into images of any contrast, and made-up label maps, so that training needs no files to start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field

from regsim.errors import InputError
from regsim.misalign.change import Drawn, Range, Share, UnitRange, happens, seeds, uniform, white_noise
from regsim.misalign.shapes import Shapes, random_shapes
from regsim.misalign.smoothing import blurred, smooth_field
from regsim.settings import Settings

__all__ = ["Anatomies", "Painting", "Shapes", "anatomies", "consecutive", "paint", "random_shapes"]

FEWEST_KNOTS = 4
# Right and left ids of FreeSurfer's sided structures, in `brain_label_maps` too.
RIGHT = (*range(41, 48), *range(49, 55), 58, 60, 62, 63, 163, 164)
LEFT = (*range(2, 9), *range(10, 14), 17, 18, 26, 28, 30, 31, 136, 137)
FREESURFER_TWINS = tuple(zip(RIGHT, LEFT, strict=True))


@final
class Painting(Settings):
    """How a label map becomes an image: every label its own random intensity, spread and texture.

    A voxel of label k becomes `m_k + t_k f + d_k n`: mean m_k, a smooth field f in about [-1, 1] that all labels of an
    image share, each with its own amplitude and sign t_k, white noise n; then a blur, which gives the edges partial
    volume; then clipped to [0, 1]. Each label map of a batch draws its own numbers, so two paintings of one label map
    are two contrasts of one anatomy.

    Convention:
        Label 0 is the background: dark (mean in `dark`, no texture) with probability `background_probability`, else
        painted as any other label. As in SynthSeg intensities are drawn for each label, whatever the tissue; unlike it, the
        result is not stretched to [0, 1], so that the means stay what was drawn. The two sides of a structure look
        alike with probability `paired`, for the ids that `twins` names; other ids are not touched.

    Args:
        mean: range of m.
        spread: range of d.
        texture: range of |t|.
        texture_size: size of the field's features, in voxels.
        dark: range of a dark background's mean.
        background_probability: that label 0 is dark.
        twins: pairs of ids, each painted as its second one where both sides look alike.
        paired: probability that both sides of an image look alike.
        blur: range of the final blur's sigma, in voxels.

    References:
        Billot et al., SynthSeg, 2023, doi:10.1016/j.media.2023.102789.
    """

    mean: UnitRange = (0.0, 1.0)
    spread: Range = (0.0, 0.06)
    texture: Range = (0.0, 0.12)
    texture_size: Annotated[float, Field(gt=0)] = 12.0
    dark: UnitRange = (0.0, 0.04)
    background_probability: Share = 0.8
    twins: tuple[tuple[int, int], ...] = FREESURFER_TWINS
    paired: Share = 0.7
    blur: Range = (0.3, 1.0)

    noise_in_dark: ClassVar[float] = 0.01

    def draw(self, labels: torch.Tensor, generator: torch.Generator) -> Drawn:
        """Parameters for `(N, 1, *spatial)` label maps; their tables' columns are the sorted `ids` of the batch."""
        found = _ids(labels)
        count, spatial = len(labels), labels.shape[2:]
        shape = (count, len(found))
        sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
        drawn = {
            "ids": found.expand(count, -1),
            "dark": happens(count, self.background_probability, generator),
            "means": uniform(shape, self.mean, generator),
            "spreads": uniform(shape, self.spread, generator),
            "textures": uniform(shape, self.texture, generator) * sign,
            "field": torch.rand((count, 1, *self._knots(spatial)), generator=generator) * 2 - 1,
            "blur": uniform(count, self.blur, generator),
            "seed": seeds(count, generator),
        }
        self._pair(drawn, happens(count, self.paired, generator))
        night = drawn["dark"][:, None] & (found.cpu() == 0)
        background = uniform((count, 1), self.dark, generator)
        drawn["means"] = torch.where(night, background, drawn["means"])
        drawn["spreads"] = torch.where(night, drawn["spreads"].clamp_max(self.noise_in_dark), drawn["spreads"])
        drawn["textures"] = torch.where(night, torch.zeros(()), drawn["textures"])
        return {name: value.to(labels.device) for name, value in drawn.items()}

    def _pair(self, drawn: Drawn, alike: torch.Tensor) -> None:
        """Where both sides look alike, an id's column of each table becomes a copy of its twin's."""
        known = drawn["ids"][0].tolist()
        twin = dict(self.twins)
        source = [known.index(twin[number]) if twin.get(number) in known else i for i, number in enumerate(known)]
        for name in ("means", "spreads", "textures"):
            drawn[name] = torch.where(alike[:, None], drawn[name][:, source], drawn[name])

    def apply(self, labels: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The label maps in these colours: float32, `(N, 1, *spatial)`, in [0, 1]."""
        place = _places(labels, drawn["ids"][0].to(labels.device)).flatten(1)
        means, spreads, textures = (
            drawn[name].to(labels.device).gather(1, place).reshape(labels.shape)
            for name in ("means", "spreads", "textures")
        )
        field = smooth_field(drawn["field"].to(labels.device), labels.shape[2:])
        image = torch.addcmul(means, textures, field)
        image.addcmul_(spreads, white_noise(image, drawn["seed"]))
        return blurred(image, drawn["blur"].to(labels.device)).clamp_(0, 1)

    def __call__(self, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw, then apply."""
        return self.apply(labels, self.draw(labels, generator))

    def _knots(self, spatial: torch.Size) -> list[int]:
        return [max(FEWEST_KNOTS, round(length / self.texture_size) + 2) for length in spatial]


def paint(labels: torch.Tensor, generator: torch.Generator, painting: Painting | None = None) -> torch.Tensor:
    """Whole-number label maps `(N, 1, *spatial)`, with any ids, as images in [0, 1] of random contrast (see `Painting`).

    Raises:
        InputError: not a batch of whole-number label maps.

    Example:
        >>> labels = torch.arange(16).reshape(1, 1, 4, 4) // 8
        >>> image = paint(labels, torch.Generator().manual_seed(0))
        >>> image.shape, image.dtype
        (torch.Size([1, 1, 4, 4]), torch.float32)
    """
    return (painting or Painting())(labels, generator)


@dataclass(frozen=True)
class Anatomies:
    """Made-up anatomies: `labels` `(N, 1, *spatial)`, and two paintings of them, `first` and `second`, in [0, 1]."""

    labels: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


def anatomies(
    count: int,
    shape: tuple[int, ...],
    generator: torch.Generator,
    shapes: Shapes | None = None,
    painting: Painting | None = None,
) -> Anatomies:
    """Made-up label maps and two contrasts of each, aligned: all that training needs to start."""
    labels = random_shapes(count, shape, generator, shapes)
    return Anatomies(labels, paint(labels, generator, painting), paint(labels, generator, painting))


def consecutive(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels as 0, 1, 2 ... in the order of their ids, and the ids `(L,)`: `ids[new] == labels`."""
    ids = _ids(labels)
    return _places(labels, ids), ids


def _ids(labels: torch.Tensor) -> torch.Tensor:
    """The sorted ids that occur."""
    if labels.ndim not in (4, 5) or labels.shape[1] != 1 or labels.is_floating_point() or labels.numel() == 0:
        raise InputError(
            "label maps must be whole numbers (N, 1, H, W) or (N, 1, D, H, W), got "
            f"{tuple(labels.shape)} of {str(labels.dtype).removeprefix('torch.')}"
        )
    low, high = (int(end) for end in labels.aminmax())
    if high - low >= 1 << 16:
        sparse: torch.Tensor = torch.unique(labels)
        return sparse.long()
    present = (labels.long() - low).flatten().bincount().nonzero()[:, 0]
    return present + low


def _places(labels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """For each label its place among the sorted ids."""
    low, high = int(ids[0]), int(ids[-1])
    if high - low >= 1 << 16:
        return torch.searchsorted(ids, labels.long())
    table = torch.zeros(high - low + 1, dtype=torch.long, device=labels.device)
    table[ids - low] = torch.arange(len(ids), device=labels.device)
    return table[labels.long() - low]
