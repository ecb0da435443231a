"""What a feature network is taught, and checked by: tissues, its own input, and the same features in any contrast."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from regsim.metrics.feature_network import FeatureNetwork
from regsim.metrics.networks import CHANNELS_LAST
from regsim.misalign.views import ViewBatch, ViewMaker
from regsim.training.feature_recipe import FeatureTerm

FEWEST_POINTS = 32
CANDIDATES = 12
NEAR = 2.0
FEWEST_VOXELS = 50
FAR_AWAY = -1e4
BATCH = 8
EMBEDDINGS = (("embedding", 1, 1.0), ("embedding_2", 2, 0.5))
GREY, WHITE = 2, 3


class FeatureObjectives:
    """`objective(network, batch) -> (loss, figures)`: the terms of a stage, weighted and added."""

    def __init__(self, terms: Sequence[FeatureTerm]):
        self.terms = tuple(terms)

    def __call__(self, network: nn.Module, batch: ViewBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Both views go through the network together; the figures are the terms without their weights."""
        assert isinstance(network, FeatureNetwork)
        images = torch.cat([batch.first, batch.second])
        found = network.everything(images.contiguous(memory_format=CHANNELS_LAST[images.ndim]))
        figures: dict[str, torch.Tensor] = {}
        total = images.new_zeros(())
        for term in self.terms:
            figures[term.kind] = self._term(term, found, images, batch)
            total = total + term.weight * figures[term.kind]
        return total, figures

    def _term(
        self, term: FeatureTerm, found: dict[str, torch.Tensor], images: torch.Tensor, batch: ViewBatch
    ) -> torch.Tensor:
        if term.kind == "segmentation":
            tissue = torch.cat([batch.first_tissue, batch.second_tissue])
            return segmentation(found["output"].float(), tissue, term.overlap)
        if term.kind == "autoencoding":
            return (found["output"].float() - images).square().mean()
        parts = [weight * contrast(found[name].float(), batch, term, scale)[0] for name, scale, weight in EMBEDDINGS]
        return torch.stack(parts).sum()


def segmentation(scores: torch.Tensor, tissue: torch.Tensor, overlap: float) -> torch.Tensor:
    """Cross-entropy, the background counting half, plus `overlap` times 1 - soft Dice of the classes that occur.

    Args:
        scores: `(N, classes, *spatial)`.
        tissue: `(N, *spatial)`, -1 where unknown; such voxels take no part.
        overlap: weight of the Dice term.
    """
    known = tissue >= 0
    if not bool(known.any()):
        return 0 * scores.sum()
    wanted, classes = tissue.clamp_min(0), scores.shape[1]
    weights = torch.where(wanted == 0, 0.5, 1.0) * known
    entropy = (F.cross_entropy(scores, wanted, reduction="none") * weights).sum() / weights.sum()
    truth = F.one_hot(wanted, classes).movedim(-1, 1) * known[:, None]
    guess = scores.softmax(dim=1) * known[:, None]
    axes = (0, *range(2, scores.ndim))
    both, all_of = (guess * truth).sum(axes), (guess + truth).sum(axes)
    present = truth.sum(axes) > FEWEST_VOXELS
    if not bool(present.any()):
        return entropy
    return entropy + overlap * (1 - (2 * both / all_of.clamp_min(1))[present].mean())


def contrast(cells: torch.Tensor, batch: ViewBatch, term: FeatureTerm, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of matching places between the two views, and the share of places that match best among their neighbourhood.

    Convention:
        The second view is moved by more than the reach of the neighbourhood. Were it aligned, a network could tell places by
        their distance from the border (it sees the padding), and would learn nothing about the image.

    Args:
        cells: `(2 N, C, *cells)`: of the first views, then of the second ones.
        batch: the views and how they lie.
        term: points, reach, sharpness.
        scale: voxels a cell.
    """
    generator = torch.Generator().manual_seed(int(batch.subject.sum()) + 7 * cells.shape[-1])
    first, second = cells.chunk(2)
    losses, shares = [], []
    for item in range(len(first)):
        places = _matching(batch, item, term.points, generator)
        if places is None:
            continue
        here, there = ((place + 0.5) / scale - 0.5 for place in places)
        loss, share = _matched(first[item], second[item], here, there, term, generator)
        losses.append(loss)
        shares.append(share)
    if not losses:
        return 0 * cells.sum(), cells.new_zeros(())
    return torch.stack(losses).mean(), torch.stack(shares).mean()


def _matching(
    batch: ViewBatch, item: int, points: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Places of anatomy in the first view, between its voxels, and where they lie in the second; None where few are in both."""
    seen = batch.first_seen[item].nonzero()
    if len(seen) < FEWEST_POINTS:
        return None
    drawn = torch.randint(len(seen), (points,), generator=generator).to(seen.device)
    away = torch.rand((points, seen.shape[1]), generator=generator).to(seen.device) - 0.5
    here = seen[drawn] + away
    size = torch.tensor(batch.first.shape[2:], device=seen.device)
    middle = (size - 1) / 2
    there = (here - middle - batch.shift[item]) @ batch.turn[item] + middle
    inside = ((there > 1) & (there < size - 2)).all(dim=1)
    return (here[inside], there[inside]) if int(inside.sum()) >= FEWEST_POINTS else None


def _matched(
    first: torch.Tensor,
    second: torch.Tensor,
    here: torch.Tensor,
    there: torch.Tensor,
    term: FeatureTerm,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of one pair of views: half against other places of the image, half against a place's own surroundings."""
    count, dims = here.shape
    step = torch.randn((count, CANDIDATES, dims), generator=generator).to(here)
    length = 1 + (term.reach - 1) * torch.rand((count, CANDIDATES, 1), generator=generator).to(here)
    around = there[:, None] + step / step.norm(dim=-1, keepdim=True) * length
    own = F.normalize(_read(first, here), dim=0)
    others = F.normalize(_read(second, torch.cat([there[:, None], around], dim=1)), dim=0)
    far = own.T @ others[:, :, 0] * term.sharpness
    close = (torch.cdist(here, here) < NEAR) & ~torch.eye(count, dtype=torch.bool, device=here.device)
    near = torch.einsum("ck,cko->ko", own, others) * term.sharpness
    number = torch.arange(count, device=here.device)
    loss = F.cross_entropy(far.masked_fill(close, FAR_AWAY), number)
    loss = 0.5 * loss + 0.5 * F.cross_entropy(near, torch.zeros_like(number))
    return loss, (near.argmax(dim=1) == 0).float().mean()


def _read(cells: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """`(C, *any)`: linear interpolation of `(C, *cells)` at places `(*any, d)` in array order."""
    size = torch.tensor(cells.shape[1:], device=cells.device)
    unit = ((2 * places + 1) / size - 1).flip(-1).reshape(1, -1, *[1] * (cells.ndim - 2), cells.ndim - 1)
    found = F.grid_sample(cells[None], unit, align_corners=False, padding_mode="border")
    return found.reshape(cells.shape[0], *places.shape[:-1])


class FeatureCheck:
    """`check(network) -> figures` on views of validation subjects.

    - `overlap`: mean Dice of grey and white matter, by the most likely class (0 without labels).
    - `matched`: share of places whose features match best where they should, among their neighbourhood.
    - `reconstruction`: mean squared difference of the views and the network's output, where it is an image.
    """

    def __init__(self, views: ViewMaker, count: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.batches = [views(min(BATCH, count - done), generator) for done in range(0, count, BATCH)]
        self.term = FeatureTerm(kind="contrast")

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Figures of a network, in evaluation mode; its mode is put back."""
        assert isinstance(network, FeatureNetwork)
        device, mode = next(network.parameters()).device, network.training
        network.eval()
        with torch.no_grad():
            rows = [self._of(network, batch.to(device)) for batch in self.batches]
        network.train(mode)
        sums = torch.stack([row[0] for row in rows]).sum(dim=0)
        dice = 2 * sums[:, 0] / sums[:, 1].clamp_min(1)
        means = torch.stack([row[1] for row in rows]).mean(dim=0)
        return {"overlap": float(dice.mean()), "matched": float(means[0]), "reconstruction": float(means[1])}

    def _of(self, network: FeatureNetwork, batch: ViewBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums for the Dice of both tissues, `(2, 2)`, and the two other figures."""
        images = torch.cat([batch.first, batch.second])
        found = network.everything(images.contiguous(memory_format=CHANNELS_LAST[images.ndim]))
        output = found["output"]
        matched = contrast(found["embedding"], batch, self.term, 1)[1]
        if network.settings.outputs == "image":
            return output.new_zeros(2, 2), torch.stack([matched, (output - images).square().mean()])
        tissue = torch.cat([batch.first_tissue, batch.second_tissue])
        guess, known = output.argmax(dim=1), tissue >= 0
        sums = [
            torch.stack(
                [((guess == kind) & (tissue == kind)).sum(), ((guess == kind) & known).sum() + (tissue == kind).sum()]
            )
            for kind in (GREY, WHITE)
        ]
        return torch.stack(sums).float(), torch.stack([matched, output.new_zeros(())])
