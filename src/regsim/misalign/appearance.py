"""How images look, changed at random: one list of all changes, chains of them, and one of several."""

from collections.abc import Mapping
from typing import Annotated, Literal, final

import torch
from pydantic import Field

from regsim.misalign.change import AppearanceChange, Drawn, Share, SingleChange, check_batch, happens, per_item
from regsim.misalign.clusters import ClusterMixture
from regsim.misalign.curves import BezierCurve, Gamma, IntensityMap, Inversion, SmoothCurve
from regsim.misalign.degrade import BiasField, Blur, Downsampled, Noise, Occlusion
from regsim.misalign.shuffle_remap import ShuffleRemap

__all__ = [
    "Appearance",
    "AppearanceChange",
    "BezierCurve",
    "BiasField",
    "Blur",
    "Chain",
    "ClusterMixture",
    "Downsampled",
    "Drawn",
    "Gamma",
    "IntensityMap",
    "Inversion",
    "Noise",
    "Occlusion",
    "OneOf",
    "ShuffleRemap",
    "SingleChange",
    "SmoothCurve",
]


@final
class Chain(AppearanceChange):
    """Several changes, one after the other.

    What is drawn is named by place and change: `drawn["0.sigma"]` is the first change's sigma. Some changes look at the
    image that they change (a cluster's centre), so the draw of one needs the result of those before it: `draw` and
    then `apply` costs twice what `changed` does.

    Args:
        changes: in order; none leaves the images as they are.
        probability: that an image is changed at all.

    Example:
        >>> chain = Chain.checked({"changes": [{"kind": "gamma"}, {"kind": "noise", "sigma": [0.0, 0.05]}]})
        >>> images = torch.rand((2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        >>> changed, drawn = chain.changed(images, torch.Generator().manual_seed(1))
        >>> changed.shape, sorted(drawn)[:3]
        (torch.Size([2, 1, 8, 8]), ['0.chosen', '0.dark', '0.gamma'])
    """

    kind: Literal["chain"] = "chain"
    changes: tuple["Appearance", ...] = ()
    probability: Share = 1.0

    def draw(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        """As `changed`, without the images."""
        return self.changed(images, generator)[1]

    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Each change with its own part of what was drawn."""
        running = images
        for place, change in enumerate(self.changes):
            running = change.apply(running, _part(drawn, place))
        return _where(drawn["chosen"], running, images)

    def changed(self, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, Drawn]:
        """The changed images and what was drawn for them."""
        check_batch(images)
        drawn = {"chosen": happens(len(images), self.probability, generator).to(images.device)}
        running = images
        for place, change in enumerate(self.changes):
            running, own = change.changed(running, generator)
            drawn.update({f"{place}.{name}": value for name, value in own.items()})
        return _where(drawn["chosen"], running, images), drawn


@final
class OneOf(AppearanceChange):
    """For each image one of several changes, all equally likely; `drawn["which"]` says which.

    Args:
        changes: to choose from; list one twice to make it twice as likely.
        probability: that an image is changed at all.
    """

    kind: Literal["one_of"] = "one_of"
    changes: tuple["Appearance", ...] = Field(min_length=1)
    probability: Share = 1.0

    def draw(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        """As `changed`, without the images."""
        return self.changed(images, generator)[1]

    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Each image by the change that it drew."""
        changed = images.clone()
        for place, change in enumerate(self.changes):
            items = _items(drawn, place, images.device)
            if len(items) > 0:
                own = {name: value[items] for name, value in _part(drawn, place).items()}
                changed[items] = change.apply(images[items], own)
        return changed

    def changed(self, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, Drawn]:
        """The changed images and what was drawn for them (zeros for images that drew another change)."""
        check_batch(images)
        count = len(images)
        drawn = {
            "chosen": happens(count, self.probability, generator).to(images.device),
            "which": torch.randint(0, len(self.changes), (count,), generator=generator).to(images.device),
        }
        changed = images.clone()
        for place, change in enumerate(self.changes):
            items = _items(drawn, place, images.device)
            if len(items) > 0:
                changed[items], own = change.changed(images[items], generator)
                drawn.update({f"{place}.{name}": _spread(value, items, count) for name, value in own.items()})
        return changed, drawn


def _items(drawn: Mapping[str, torch.Tensor], place: int, device: torch.device) -> torch.Tensor:
    return (drawn["chosen"] & (drawn["which"] == place)).to(device).nonzero()[:, 0]


def _spread(values: torch.Tensor, items: torch.Tensor, count: int) -> torch.Tensor:
    return values.new_zeros((count, *values.shape[1:])).index_copy(0, items, values)


def _part(drawn: Mapping[str, torch.Tensor], place: int) -> Drawn:
    start = f"{place}."
    return {name.removeprefix(start): value for name, value in drawn.items() if name.startswith(start)}


def _where(chosen: torch.Tensor, changed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    if bool(chosen.all()):
        return changed.clone() if changed is images else changed
    return torch.where(per_item(chosen, images) > 0, changed, images)


Appearance = Annotated[
    Noise
    | Blur
    | BiasField
    | Downsampled
    | Occlusion
    | Gamma
    | Inversion
    | BezierCurve
    | SmoothCurve
    | ShuffleRemap
    | ClusterMixture
    | Chain
    | OneOf,
    Field(discriminator="kind"),
]
Chain.model_rebuild()
OneOf.model_rebuild()
