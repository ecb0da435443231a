"""What generators are taught: CycleGAN's and RegGAN's losses, each in one backward pass over generators and discriminators."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from regsim.metrics.evaluator_network import EvaluatorSettings, GeneratorNetwork, ResidualNetwork
from regsim.misalign.restyled import AcrossMaker, RestyledBatch
from regsim.training.checks import drawn
from regsim.training.translation_recipe import TranslationRecipe

TINY = 1e-6
SLOPE = 0.2


class Discriminator(nn.Module):
    """`network(image) -> (N, 1, *cells)`: how real each patch looks; 1 real, 0 made (least squares)."""

    def __init__(self, dims: int, widths: Sequence[int]):
        super().__init__()
        convolve = nn.Conv2d if dims == 2 else nn.Conv3d
        layers: list[nn.Module] = []
        before = 1
        for width in widths:
            layers += [convolve(before, width, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
            before = width
        self.body = nn.Sequential(*layers, convolve(before, 1, 3, padding=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """See the class."""
        found: torch.Tensor = self.body(image)
        return found

    def frozen(self, image: torch.Tensor) -> torch.Tensor:
        """The same, its weights without gradients: what a generator learns from."""
        still = {name: weight.detach() for name, weight in self.named_parameters()}
        found: torch.Tensor = functional_call(self, still, (image,))
        return found


class TranslationSystem(nn.Module):
    """All networks of a training. `generator`, from the other contrast to the training contrast, is what is kept."""

    def __init__(self, recipe: TranslationRecipe):
        super().__init__()
        self.generator = GeneratorNetwork(recipe.network)
        self.judge = Discriminator(recipe.dims, recipe.discriminator)
        if recipe.method == "cyclegan":
            self.back = GeneratorNetwork(recipe.network)
            self.back_judge = Discriminator(recipe.dims, recipe.discriminator)
        else:
            self.registration = ResidualNetwork(_plain(recipe.network), inputs=2, outputs=recipe.dims)


class TranslationLoss:
    """`objective(system, batch) -> (loss, figures)`; the discriminators' terms are added, on images without gradients."""

    def __init__(self, recipe: TranslationRecipe):
        self.recipe = recipe

    def __call__(self, network: nn.Module, batch: RestyledBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch and its figures."""
        assert isinstance(network, TranslationSystem)
        if self.recipe.method == "cyclegan":
            return self._cycle(network, batch)
        return self._corrected(network, batch)

    def _cycle(self, system: TranslationSystem, batch: RestyledBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Adversarial both ways, `|back(G(x)) - x| + |G(back(y)) - y|`, and `|G(y) - y| + |back(x) - x|`; pairs are broken up."""
        recipe, real = self.recipe, batch.reference
        other = batch.styled.roll(1, 0)
        made, made_other = system.generator(other), system.back(real)
        adversarial = _wants_real(system.judge.frozen(made)) + _wants_real(system.back_judge.frozen(made_other))
        cycle = F.l1_loss(system.back(made), other) + F.l1_loss(system.generator(made_other), real)
        identity = F.l1_loss(system.generator(real), real) + F.l1_loss(system.back(other), other)
        judged = _told(system.judge, real, made) + _told(system.back_judge, other, made_other)
        loss = recipe.adversarial * adversarial + recipe.cycle * cycle + recipe.identity * identity + judged
        return loss, {"cycle": cycle.detach(), "judged": judged.detach()}

    def _corrected(
        self, system: TranslationSystem, batch: RestyledBatch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Adversarial, `|G(x) warped by R(G(x), y) - y|`, and the mean square of the field's differences (voxels)."""
        recipe, real, mask = self.recipe, batch.reference, batch.pairs.mask
        made = system.generator(batch.styled)
        field = system.registration(made, real)
        away = ((warped(made, field) - real).abs() * mask).sum() / mask.sum().clamp_min(1)
        smooth = torch.stack([field.diff(dim=axis).square().mean() for axis in range(2, field.ndim)]).sum()
        adversarial, judged = _wants_real(system.judge.frozen(made)), _told(system.judge, real, made)
        loss = recipe.adversarial * adversarial + recipe.correction * away + recipe.smooth * smooth + judged
        return loss, {"corrected": away.detach(), "judged": judged.detach()}


class TranslationCheck:
    """`check(system) -> figures`: `nmae`, mean |G(x) - truth| over the mask, of validation pairs whose truth is known.

    Args:
        maker: of pairs of both contrasts.
        count: how many.
        seed: of the pairs.
    """

    def __init__(self, maker: AcrossMaker, count: int, seed: int):
        self.batches = drawn(maker.restyled, count, seed)

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Figures of a system; see the class."""
        assert isinstance(network, TranslationSystem)
        return {"nmae": translation_error(network.generator, self.batches)}


@torch.no_grad()
def translation_error(generator: nn.Module, batches: Sequence[RestyledBatch]) -> float:
    """Mean |G(x) - truth| over the masks."""
    device = next(generator.parameters()).device
    wrong = total = 0.0
    for batch in (each.to(device) for each in batches):
        mask = batch.pairs.mask
        truth = batch.reference - batch.difference
        wrong += float(((generator(batch.styled) - truth).abs() * mask).sum())
        total += float(mask.sum())
    return wrong / max(total, TINY)


def warped(image: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """The image read at points displaced by a field in voxels, `(N, d, *spatial)`, x first; border values go on."""
    shape = image.shape[2:]
    axes = [torch.linspace(-1, 1, n, device=image.device, dtype=image.dtype) for n in shape]
    still = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
    half = torch.tensor([max(n - 1, 1) / 2 for n in shape[::-1]], device=image.device, dtype=image.dtype)
    where = still + field.movedim(1, -1) / half
    found: torch.Tensor = F.grid_sample(image, where, padding_mode="border", align_corners=True)
    return found


def _wants_real(judged: torch.Tensor) -> torch.Tensor:
    away: torch.Tensor = (judged - 1).square().mean()
    return away


def _told(judge: Discriminator, real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """What the discriminator has to lower."""
    wrong: torch.Tensor = (judge(real) - 1).square().mean() + judge(made.detach()).square().mean()
    return wrong / 2


def _plain(settings: EvaluatorSettings) -> EvaluatorSettings:
    """A smaller network for fields."""
    widths = tuple(max(8, width // 2) for width in settings.widths)
    return settings.model_copy(update={"widths": widths})
