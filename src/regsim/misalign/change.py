"""What every change of appearance shares: draw, apply, and which images of a batch it happens to."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import AfterValidator, Field

from regsim.errors import InputError
from regsim.settings import Settings

Drawn = dict[str, torch.Tensor]


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"a range that begins at its smaller end, not {ends[0]:g} to {ends[1]:g}")
    return ends


Share = Annotated[float, Field(ge=0, le=1)]
UnitRange = Annotated[tuple[Share, Share], AfterValidator(_rising)]
_NotNegative = Annotated[float, Field(ge=0)]
_Positive = Annotated[float, Field(gt=0)]
_Factor = Annotated[float, Field(ge=1)]
_Count = Annotated[int, Field(ge=2, le=256)]
Range = Annotated[tuple[_NotNegative, _NotNegative], AfterValidator(_rising)]
PositiveRange = Annotated[tuple[_Positive, _Positive], AfterValidator(_rising)]
FactorRange = Annotated[tuple[_Factor, _Factor], AfterValidator(_rising)]
CountRange = Annotated[tuple[_Count, _Count], AfterValidator(_rising)]


class AppearanceChange(Settings, ABC):
    """Changes how a batch of images looks, never where anything is. `changed` draws and applies.

    Images `(N, 1, H, W)` or `(N, 1, D, H, W)`, values in [0, 1]; the same shape and range come out, finite for finite
    images. Each image of the batch gets its own draw. The drawn parameters (first axis N) are the record of what
    happened: `apply(images, drawn)` repeats it exactly, and is a pure function.
    """

    @abstractmethod
    def draw(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        """Parameters for each image, on the images' device; the generator is the CPU's."""

    @abstractmethod
    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The images as these parameters change them."""

    def changed(self, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, Drawn]:
        """The changed images and what was drawn for them."""
        drawn = self.draw(images, generator)
        return self.apply(images, drawn), drawn

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The changed images."""
        return self.changed(images, generator)[0]


class SingleChange(AppearanceChange):
    """One change that happens to each image with a probability; the others come back as they were, bit by bit.

    Args:
        probability: that an image is changed; `drawn["chosen"]` records which were.
    """

    probability: Share = 1.0

    @abstractmethod
    def _parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        """Parameters of all images."""

    @abstractmethod
    def _changed(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        """The chosen images, changed, with the parameters of the chosen ones."""

    def draw(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        """Which images are chosen, and the parameters of all."""
        check_batch(images)
        drawn = {"chosen": happens(len(images), self.probability, generator)}
        drawn.update(self._parameters(images, generator))
        return {name: value.to(images.device) for name, value in drawn.items()}

    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Only the chosen images are worked on."""
        check_batch(images)
        places = drawn["chosen"].to(images.device).nonzero()[:, 0]
        if len(places) == 0:
            return images.clone()
        own = {name: _matched(value, images)[places] for name, value in drawn.items()}
        changed = self._changed(images[places], own).clamp(0, 1)
        return changed if len(places) == len(images) else images.index_copy(0, places, changed)


def _matched(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return values.to(images) if values.is_floating_point() else values.to(images.device)


def check_batch(images: torch.Tensor) -> None:
    """Refuse what is not a batch of one-channel images."""
    if images.ndim not in (4, 5) or images.shape[1] != 1 or not images.is_floating_point():
        raise InputError(
            "a change of appearance needs a float batch (N, 1, H, W) or (N, 1, D, H, W), got "
            f"{tuple(images.shape)} of {str(images.dtype).removeprefix('torch.')}"
        )


def happens(count: int, probability: float, generator: torch.Generator) -> torch.Tensor:
    """`(count,)` bool, each true with this probability."""
    return torch.rand(count, generator=generator) < probability


def uniform(shape: int | tuple[int, ...], ends: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    """Uniform numbers between two ends."""
    return ends[0] + (ends[1] - ends[0]) * torch.rand(shape, generator=generator)


def whole(count: int, ends: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """`(count,)` whole numbers, both ends among them."""
    return torch.randint(ends[0], ends[1] + 1, (count,), generator=generator)


def seeds(count: int, generator: torch.Generator) -> torch.Tensor:
    """`(count,)` seeds, from which `white_noise` makes its fields."""
    return torch.randint(0, 2**31 - 1, (count,), generator=generator)


def white_noise(like: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Standard normal noise of the shape of `like`; item i depends on its own seed only.

    A seed, not the field, is what is drawn and recorded: 8 bytes an image, the same noise on every device, and an
    image's noise does not depend on its neighbours in the batch.
    """
    noise = torch.empty(like.shape)
    own = torch.Generator()
    for item, number in zip(noise, seed.tolist(), strict=True):
        item.normal_(generator=own.manual_seed(number))
    return noise.to(like)


def per_item(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`(N,)` as `(N, 1, 1, 1)` or `(N, 1, 1, 1, 1)`, to go with images."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
