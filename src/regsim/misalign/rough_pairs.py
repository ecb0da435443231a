"""Pairs of images that are only roughly aligned: brought to one grid, and cut anew whenever they have been brought nearer."""

import math
from dataclasses import dataclass, replace

import torch

from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.misalign.patch_pairs import RoughPair
from regsim.misalign.sources import Subject, dark_borders
from regsim.prepare import coarser, foreground, rescaled
from regsim.transforms.base import Transform
from regsim.transforms.warp import warp


@dataclass(frozen=True)
class ImagePair:
    """Two images on one grid of equal steps, in [0, 1]; a mask says where an image holds no data.

    Args:
        name: of the pair.
        person: whose images they are: pairs of one person stay together.
        fixed, moving: on one grid, which reaches beyond the fixed image.
        data_set, licence: for the model card.
    """

    name: str
    person: str
    fixed: Image
    moving: Image
    data_set: str = ""
    licence: str = ""

    @property
    def full_name(self) -> str:
        """Of the person and the pair, as subjects are called."""
        return f"{self.person}/{self.name}"

    @property
    def subject(self) -> Subject:
        """The same as a subject with two "contrasts", fixed and moving."""
        images = {"fixed": self.fixed.data[0], "moving": self.moving.data[0]}
        if self.fixed.ndim == 2:
            images = {name: image[None] for name, image in images.items()}
        seen = foreground(replace(self.fixed, mask=None)).reshape(images["fixed"].shape)
        return Subject(self.full_name, images, None, seen, data_set=self.data_set, licence=self.licence)

    def rough(self, spacing: float, transform: Transform | None = None) -> RoughPair:
        """As patches are cut from it: at a spacing, the moving image carried by a transform."""
        grid = self.fixed.grid.with_spacing((spacing,) * self.fixed.ndim)
        images, held = [], torch.ones(grid.shape, dtype=torch.bool)
        for image, way in ((self.fixed, None), (self.moving, transform)):
            carried = warp(coarser(image, spacing), way, grid)
            images.append(carried.data.contiguous())
            if image.mask is not None and carried.mask is not None:
                held &= carried.mask[0] > 0
        return RoughPair(self.name, images[0], images[1], held, spacing)


def image_pair(
    name: str,
    person: str,
    fixed: Image,
    moving: Image,
    spacing: float,
    reach: float,
    initial: Transform | None = None,
) -> ImagePair:
    """Bring a pair to one grid of steps of `spacing`, around the fixed image and `reach` beyond it on every side (mm).

    Where an image ends in the dark, nothing lies beyond it, and the dark goes on; where it ends in the middle of something,
    what lies beyond is not known, and no patch reaches there.

    Args:
        name, person: see `ImagePair`.
        fixed, moving: on any grids; a mask limits where patches are cut.
        spacing, reach: physical units.
        initial: from fixed to moving points.

    Raises:
        InputError: a constant image.
        GridError: pictures and volumes, pixels and mm.
    """
    scaled = [coarser(rescaled(image), spacing) for image in (fixed, moving)]
    own = scaled[0].grid.with_spacing((spacing,) * fixed.ndim)
    grid = own.padded(math.ceil(reach / spacing))
    still, carried = (_carried(image, way, grid) for image, way in zip(scaled, (None, initial), strict=True))
    return ImagePair(name, person, still, carried)


def _carried(image: Image, transform: Transform | None, grid: Grid) -> Image:
    """On a grid; masked where the image does not say what is there."""
    dark = _ends_dark(image)
    plain = warp(replace(image, mask=None), transform, grid)
    if dark and image.mask is None:
        return replace(plain, mask=None, name=image.name)
    mask = torch.ones_like(image.data[:1]) if image.mask is None else image.mask
    held = warp(Image(mask, image.grid), transform, grid).data.clamp(0, 1)
    return Image(plain.data, grid, held, image.name)


def _ends_dark(image: Image) -> bool:
    """Whether nothing goes on beyond the image's borders."""
    volume = image.data[0]
    return dark_borders(volume if volume.ndim == 3 else volume[None])
