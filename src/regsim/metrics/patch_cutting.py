"""Which patches of an image are compared, and how they are cut from it."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from regsim.kernels.box import box_sum, local_deviation

CONTRAST_WIDTH = 4
BRIGHT, FLAT = 0.95, 0.05
MOST_SEEN = 100_000
WHOLE = 4
TINY = 1e-6


class PatchCutter:
    """Patches of one size: chosen by their contrast, cut, and weighed by what a mask leaves of them.

    Args:
        side: of a patch, voxels.
        dims: 2 or 3.
    """

    def __init__(self, side: int, dims: int):
        self.side, self.dims = side, dims

    def padded(self, image: torch.Tensor) -> torch.Tensor:
        """Zeros all around, so that every voxel is the centre of a patch, whose first voxel has the centre's old index."""
        return F.pad(image, [self.side // 2, self.side - 1 - self.side // 2] * self.dims)

    def chosen(
        self,
        images: torch.Tensor,
        weights: torch.Tensor,
        count: int,
        seed: int,
        view: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The centres of `count` patches of each image `(N, 1, *spatial)`, as indices `(N, count, dims)`.

        As often as there is contrast (the standard deviation under a Gaussian of a quarter of the patch) within the mask; never
        where it is below a twentieth of the brightest; anywhere in an image without contrast. `view`, in [0, 1]: what another
        image shows; the less of a patch, the rarer it is chosen.
        """
        chances = local_deviation(images, weights, self.side / CONTRAST_WIDTH) * (weights > 0)
        if view is not None:
            chances = chances * (box_sum(view, self.side // 2) / (2 * (self.side // 2) + 1) ** self.dims).clamp(0, 1)
        generator = torch.Generator().manual_seed(seed)
        level = (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) / count
        flat = torch.stack([_places(chance.flatten().double().cpu(), level) for chance in chances]).to(images.device)
        return torch.stack(torch.unravel_index(flat, images.shape[2:]), dim=-1)

    def everywhere(self, shape: Sequence[int], step: int) -> tuple[torch.Tensor, list[int]]:
        """Centres `(1, places, dims)` on a grid with steps of `step` voxels, and how many along each axis."""
        places = [torch.arange((n - 1) % step // 2, n, step) for n in shape]
        centres = torch.stack(torch.meshgrid(*places, indexing="ij"), dim=-1).reshape(1, -1, len(shape))
        return centres, [len(place) for place in places]

    def voxels(self, centres: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """`(N, patches, voxels)`, int64: flat indices of the patches around centres, in the padded image of one of `shape`."""
        steps = torch.meshgrid(*[torch.arange(self.side, device=centres.device)] * self.dims, indexing="ij")
        index = torch.zeros((*centres.shape[:-1], self.side**self.dims), dtype=torch.long, device=centres.device)
        for axis, length in enumerate(shape):
            index = index * (length + self.side - 1) + centres[..., axis, None] + steps[axis].flatten()
        return index

    def within(self, parts: Sequence[torch.Tensor], padded: Sequence[int]) -> torch.Tensor:
        """The voxels that any of these patches shows: flat indices into the image before it was padded, sorted.

        `padded`: spatial shape of the padded image, in which `voxels` counts.
        """
        shown = torch.zeros(math.prod(padded), dtype=torch.bool, device=parts[0].device)
        for index in parts:
            shown[index.flatten()] = True
        before, after = self.side // 2, self.side - 1 - self.side // 2
        own = tuple(slice(before, length - after) for length in padded)
        return shown.reshape(*padded)[own].flatten().nonzero()[:, 0]

    def turned(self, index: torch.Tensor, seed: int) -> torch.Tensor:
        """`voxels` with every patch mirrored and its axes exchanged at random, by any symmetry of the square (cube).

        Both patches of a pair are read in the same order. What a network prefers in one direction then cancels over the
        patches, as it has over its training, which turned every pair of patches so.
        """
        generator = torch.Generator().manual_seed(seed)
        orders = torch.stack(self._orders()).to(index.device)
        which = torch.randint(len(orders), index.shape[1:2], generator=generator).to(index.device)
        return index.gather(2, orders[which].expand_as(index))

    def _orders(self) -> list[torch.Tensor]:
        """For each symmetry, the order in which it reads the voxels of a patch."""
        voxels = torch.arange(self.side**self.dims).reshape([self.side] * self.dims)
        return [
            voxels.permute(axes).flip([axis for axis, turn in enumerate(turns) if turn]).flatten()
            for axes in itertools.permutations(range(self.dims))
            for turns in itertools.product((False, True), repeat=self.dims)
        ]

    def cut(self, padded: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """`(N * patches, 1, *patch)` of a padded image `(N, 1, *spatial)`."""
        return padded.flatten(1).gather(1, index.flatten(1)).reshape(-1, 1, *[self.side] * self.dims)

    def shares(self, padded: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The weight of each patch, `(N, patches)`, from weights of voxels: one of which half is missing counts little."""
        share = padded.flatten(1).gather(1, index.flatten(1)).reshape(index.shape).mean(dim=2)
        return share.clamp(0, 1).pow(WHOLE)


def _places(chance: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Flat indices, spread by chance."""
    seen = chance[chance > TINY]
    if len(seen):
        top = torch.quantile(seen[:: max(1, len(seen) // MOST_SEEN)], BRIGHT)
        chance = torch.where(chance > FLAT * top, chance.clamp_max(top), torch.zeros_like(chance))
    else:
        chance = torch.ones_like(chance)
    cumulated = chance.cumsum(0)
    return torch.searchsorted(cumulated, level * cumulated[-1], right=True).clamp_max(len(chance) - 1)
