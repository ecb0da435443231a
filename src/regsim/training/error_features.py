"""Features of pairs with known error, made once and kept in files: what `registration_error` learns from.

Matching costs a hundred times what the network does, and its features do not depend on the network. So they are made
once, in half precision, and read crop by crop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from regsim.errors import InputError
from regsim.metrics.error_network import ErrorNetworkSettings
from regsim.metrics.matching_features import matching_features
from regsim.misalign.error_pairs import ErrorPairs
from regsim.output import atomic_path, make_folder
from regsim.training.state import step_seed

TOGETHER = 4
FIRST_CELL = 97
CONTENT, BESIDE = 1.0, 0.05
OnPairs = Callable[[int, int], None]
MakePairs = Callable[[int, torch.Generator], ErrorPairs]


@dataclass(frozen=True)
class ErrorBatch:
    """What one step learns from, all `(N, ., *cells)`.

    Args:
        features: of the matching, `(N, F, *cells)`.
        held: share of a cell that is shown.
        error: true error, physical units.
        unrelated: 1 where the images do not belong together.
        weights: of the cells in the loss: those without anatomy count little.
    """

    features: torch.Tensor
    held: torch.Tensor
    error: torch.Tensor
    unrelated: torch.Tensor
    weights: torch.Tensor

    def to(self, device: torch.device) -> "ErrorBatch":
        """On a device."""
        parts = (self.features, self.held, self.error, self.unrelated, self.weights)
        return ErrorBatch(*(part.to(device) for part in parts))


class FeatureStore:
    """Features of so many pairs in a folder, `TOGETHER` of them a file; files that are there are not made again.

    Args:
        folder: of the files; made where it is missing.
        maker: of the pairs.
        count: how many pairs.
        settings: of the network that will learn.
        seed: of the draws.
    """

    def __init__(self, folder: Path, maker: MakePairs, count: int, settings: ErrorNetworkSettings, seed: int):
        self.folder, self.maker, self.settings, self.seed = folder, maker, settings, seed
        self.files = [folder / f"{number:05d}.safetensors" for number in range(-(-count // TOGETHER))]

    def fill(self, on_pairs: OnPairs = lambda _done, _all: None) -> None:
        """Make what is missing; `on_pairs(done, all)` after every file."""
        make_folder(self.folder)
        for number, file in enumerate(self.files):
            if not file.is_file():
                self._make(number, file)
            on_pairs((number + 1) * TOGETHER, len(self.files) * TOGETHER)

    def scales(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each feature over shown cells, `(F,)` each, from one cell in 97."""
        found = []
        for file in self.files:
            tensors = read_pairs(file)
            shown = tensors["held"].flatten()[::FIRST_CELL] > 0.5
            found.append(tensors["features"].transpose(0, 1).flatten(1)[:, ::FIRST_CELL][:, shown].float())
        together = torch.cat(found, dim=1)
        return together.mean(dim=1), together.std(dim=1).clamp_min(1e-4)

    def draw(self, size: int, side: int, generator: torch.Generator) -> ErrorBatch:
        """Random crops of `side` cells of random pairs, mirrored and turned at random, all by one draw."""
        parts = [self._crop(side, generator) for _ in range(size)]
        names = ("features", "held", "error", "unrelated", "content")
        features, held, error, unrelated, content = (torch.stack([part[name] for part in parts]) for name in names)
        dims = self.settings.dims
        mirrored = [axis + 2 for axis in range(dims) if float(torch.rand((), generator=generator)) < 0.5]
        order = (torch.randperm(dims, generator=generator) + 2).tolist()
        weights = CONTENT * content + BESIDE * held
        turned = [
            each.float().flip(mirrored).permute(0, 1, *order).contiguous()
            for each in (features, held, error, unrelated, weights)
        ]
        return ErrorBatch(*turned)

    def whole(self) -> list[ErrorBatch]:
        """All pairs, one batch a file, for checks."""
        return [_batch(read_pairs(file)) for file in self.files]

    def _crop(self, side: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        file = self.files[int(torch.randint(len(self.files), (), generator=generator))]
        with safe_open(file, framework="pt") as stored:
            shape = stored.get_slice("held").get_shape()
            item = int(torch.randint(shape[0], (), generator=generator))
            place: list[slice | int] = [item, slice(None)]
            for length in shape[2:]:
                first = int(torch.randint(max(1, length - side + 1), (), generator=generator))
                place.append(slice(first, min(first + side, length)))
            return {name: stored.get_slice(name)[tuple(place)] for name in stored.keys()}  # noqa: SIM118  (not a dict)

    def _make(self, number: int, file: Path) -> None:
        generator = torch.Generator().manual_seed(step_seed(self.seed, 0, number, 0, "error pairs"))
        pairs = self.maker(TOGETHER, generator)
        batch, side = pairs.batch, self.settings.side
        average = F.avg_pool3d if self.settings.dims == 3 else F.avg_pool2d
        features = [
            matching_features(batch.fixed[one], batch.moving[one], batch.mask[one], self.settings.scales)
            for one in (slice(item, item + 1) for item in range(TOGETHER))
        ]
        length = batch.displacement.norm(dim=1, keepdim=True)
        tensors = {
            "features": torch.stack(features),
            "held": average(batch.mask, side),
            "content": average(batch.content, side),
            "error": average(length, side),
            "unrelated": (average(pairs.unrelated, side) > 0.5).float(),
        }
        with atomic_path(file) as part:
            save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, part)


def read_pairs(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file, half precision."""
    try:
        with safe_open(file, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise InputError(f"features '{file}' cannot be read ({problem}); remove the file, it is made again") from None


def _batch(tensors: dict[str, torch.Tensor]) -> ErrorBatch:
    named = {name: tensor.float() for name, tensor in tensors.items()}
    return ErrorBatch(named["features"], named["held"], named["error"], named["unrelated"], named["content"])
