"""Mean absolute error after translation: the moving image is brought to the fixed one's contrast by a learnt generator."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from regsim.errors import SettingsError
from regsim.metrics.base import combine, weighted_mean
from regsim.metrics.evaluator_network import EvaluatorSettings, GeneratorNetwork
from regsim.metrics.learned import LearnedMetric, load_network
from regsim.metrics.networks import CHANNELS_LAST
from regsim.metrics.planes import Planes, planes_for


@dataclass(frozen=True)
class _State:
    fixed: torch.Tensor
    weights: torch.Tensor | None
    sets: list[Planes]


class TranslatedMeanAbsoluteError(LearnedMetric):
    """`value = mean over the mask of |fixed - G(moving)|`, G a generator from the moving image's contrast to the fixed one's.

    Both images in [0, 1]; no unit. Range [0, inf), lower is better. Map: |fixed - G(moving)|. An empty mask gives 0. G is
    trained by `regsim train cyclegan` (images that need not show one anatomy) or `regsim train reggan` (roughly aligned
    pairs), and knows the one contrast that it was trained on: this is what IMSE is compared with, not a metric for any pair.
    A generator for pictures compares volumes plane by plane, at most 12 planes across each axis, and averages.

    Args:
        model: a folder that `regsim train cyclegan` or `reggan` wrote.

    Raises:
        SettingsError: no model.
        InputError: not a model folder, a model of another metric, pictures for a model of volumes.

    Example:
        >>> TranslatedMeanAbsoluteError()
        Traceback (most recent call last):
            ...
        regsim.errors.SettingsError: metric 'translation' needs model=FOLDER: ...

    References:
        Zhu et al., Unpaired image-to-image translation using cycle-consistent adversarial networks, 2017,
        doi:10.1109/ICCV.2017.244.
        Kong et al., Breaking the dilemma of medical image-to-image translation, 2021 (RegGAN), arXiv:2110.06465.
    """

    name = "translation"
    higher_is_better = False
    value_range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    symmetric = False
    expects = "unit"
    has_map = True
    needs = "model=FOLDER: a generator that `regsim train cyclegan` or `regsim train reggan` wrote"

    def __init__(self, model: str | Path = ""):
        super().__init__()
        if not str(model):
            raise SettingsError(f"metric '{self.name}' needs {self.needs}")
        self.model = str(model)
        self.network, self.settings, self.card = load_network(model, self.name, EvaluatorSettings, GeneratorNetwork)
        self.network.to(memory_format=CHANNELS_LAST[self.settings.dims + 2])  # type: ignore[call-overload]

    def translated(self, image: torch.Tensor) -> torch.Tensor:
        """The image in the other contrast, the same shape; volumes by a generator for pictures: planes across the first axis."""
        if image.ndim - 2 == self.settings.dims:
            found: torch.Tensor = self.network(image)
            return found
        planes: torch.Tensor = self.network(image.movedim(2, 1).flatten(0, 1))
        return planes.reshape(len(image), -1, 1, *image.shape[3:]).movedim(1, 2)

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        return _State(fixed, weights, planes_for(fixed.shape[2:], self.settings.dims, self.name))

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        seen = combine(state.weights, overlap)
        held = torch.ones_like(moving) if seen is None else seen.expand_as(moving)
        values = []
        for planes in state.sets:
            share = planes.cut(held)
            away = (planes.cut(state.fixed) - self.network(planes.cut(moving) * (share > 0))).abs()
            values.append(planes.mean(weighted_mean(away, share, None), share))
        return torch.stack(values).mean(dim=0)

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        maps = [
            planes.stacked((planes.cut(state.fixed) - self.network(planes.cut(moving))).abs(), moving.shape[2:])
            for planes in state.sets
        ]
        return torch.stack(maps).mean(dim=0)
