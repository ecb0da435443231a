"""What learned metrics share: they come from a model folder, and planes of volumes go through networks for pictures."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import nn

from regsim.errors import InputError, SettingsError
from regsim.metrics.base import AbstractMetric
from regsim.metrics.checkpoint import Card, load_weights, read_card
from regsim.metrics.zoo import model_folder
from regsim.settings import Settings

Network = TypeVar("Network", bound=nn.Module)
NetworkSettings = TypeVar("NetworkSettings", bound=Settings)
SMALLEST_SIDE = 2
MOST_PLANES = 12


class LearnedMetric(AbstractMetric):
    """A metric whose weights were learnt; they are frozen. `card` says from what."""

    trainable: ClassVar[bool] = True
    card: Card


def load_network(
    model: str | Path, metric: str, settings: type[NetworkSettings], build: Callable[[NetworkSettings], Network]
) -> tuple[Network, NetworkSettings, Card]:
    """The network of a model folder, frozen, in evaluation mode.

    Args:
        model: a bundled model's name, or a folder that `regsim train` wrote.
        metric: the metric that the card must name.
        settings: the class that the card's network settings must satisfy.
        build: makes the network from them.

    Raises:
        InputError: a folder that is not there or not whole, a model of another metric, or settings on its card that no
            network of this kind has.
    """
    folder = model_folder(model)
    card = read_card(folder)
    if card.metric != metric:
        raise InputError(f"model '{model}' belongs to metric '{card.metric}', not to '{metric}'; give it to that one")
    try:
        chosen = settings.checked(dict(card.network))
    except SettingsError as problem:
        raise InputError(f"model '{model}', network on its card: {problem}") from None
    with torch.device("meta"):  # no memory is taken before the file was seen to hold just these tensors
        network = build(chosen)
    load_weights(folder, network)
    network.requires_grad_(False)
    network.eval()
    return network, chosen, card


def dims_for(known: Collection[int], dims: int, name: str) -> int:
    """Which of a metric's networks serves images of `dims` axes: one of their own number, else that for pictures, plane by plane.

    Raises:
        InputError: pictures, and a network for volumes alone.

    >>> dims_for((2, 3), 3, "imse"), dims_for((2,), 3, "imse")
    (3, 2)
    """
    chosen = dims if dims in known else 2
    if chosen not in known:
        raise InputError(f"{name}: its model is for volumes, the images are pictures")
    return chosen


def planes_of(volume: torch.Tensor, axis: int, places: Sequence[int]) -> torch.Tensor:
    """`(N, 1, D, H, W)` to `(N * places, 1, ...)`: planes across one of its axes, the item's planes together."""
    chosen = volume.index_select(axis + 2, torch.as_tensor(places, device=volume.device))
    return chosen.movedim(axis + 2, 1).flatten(0, 1)


def places_along(length: int, most: int = MOST_PLANES) -> list[int]:
    """At most `most` planes, evenly spread, none at the very ends of a long axis.

    >>> places_along(3), places_along(100, 4)
    ([0, 1, 2], [12, 37, 62, 87])
    """
    if length <= most:
        return list(range(length))
    return [int((place + 0.5) * length / most) for place in range(most)]


def usable_axes(shape: Sequence[int]) -> list[int]:
    """The axes across which planes with two real sides can be cut."""
    return [
        axis for axis in range(len(shape)) if min(n for other, n in enumerate(shape) if other != axis) >= SMALLEST_SIDE
    ]
