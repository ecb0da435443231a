"""What `registration_error` says of pairs whose true error is known: for calibration, and for the figures of a card."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from regsim.evaluation.calibration import KnownError
from regsim.evaluation.check_rows import LEAST_LIKENESS
from regsim.metrics.names import load_metric
from regsim.metrics.registration_error import ErrorEstimate, RegistrationError
from regsim.misalign.pairs import PairBatch, PairMaker

VOXELS = 500
HALVES = 2
LEAST_REGION = 100
Change = Callable[[PairBatch, torch.Generator], tuple[PairBatch, bool]]
LIKENESS = "lncc"


@dataclass(frozen=True)
class Judged:
    """One pair's estimate beside the truth: the calibration's part, and the share called unrelated.

    `fitted`: of different contrasts, and left by a deformable registration.
    """

    known: KnownError
    unrelated_share: float
    fitted: bool = False


def judge_estimate(
    estimate: ErrorEstimate, truth: torch.Tensor, mask: torch.Tensor, subject: str, name: str, seed: int = 0
) -> Judged:
    """Compare an estimate with the true local error.

    Args:
        estimate: of the pair.
        truth: `(1, 1, *spatial)`, unit of the estimate.
        mask: alike, bool: where the truth is known.
        subject, name: see `KnownError`.
        seed: of the sample of voxels.
    """
    expected, spread = estimate.expected[mask] / estimate.scale, estimate.spread[mask]
    true = truth[mask] / estimate.scale
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(true), generator=generator)[:VOXELS]
    regions = [place[mask] for place in octants(mask)]
    regions = [inside for inside in regions if int(inside.sum()) >= LEAST_REGION] or [torch.ones_like(true).bool()]

    def of_regions(values: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([float(values[inside].mean()) for inside in regions])

    known = KnownError(
        subject=subject,
        name=name,
        voxel_expected=expected[some].double().numpy(),
        voxel_spread=spread[some].double().numpy(),
        voxel_truth=true[some].double().numpy(),
        region_expected=of_regions(expected),
        region_spread=of_regions(spread),
        region_truth=of_regions(true),
        mean_expected=float(expected.mean()),
        mean_spread=float(spread.mean()),
        mean_truth=float(true.mean()),
        summary=estimate.summary.double().numpy(),
    )
    return Judged(known, estimate.unrelated_share)


def octants(mask: torch.Tensor) -> list[torch.Tensor]:
    """The mask's parts in the octants (quadrants) of its bounding box, bool like `mask`; empty ones are left out."""
    places = mask[0, 0].nonzero()
    middle = (places.amin(dim=0) + places.amax(dim=0) + 1) // HALVES
    found = []
    for number in range(HALVES ** len(middle)):
        part = mask.clone()
        for axis, cut in enumerate(middle.tolist()):
            upper = number >> axis & 1
            part.narrow(axis + 2, 0 if upper else cut, cut if upper else mask.shape[axis + 2] - cut).fill_(False)
        if bool(part.any()):
            found.append(part)
    return found


def judge_made_pairs(
    metric: RegistrationError,
    maker: PairMaker,
    count: int,
    generator: torch.Generator,
    change: Change = lambda batch, _generator: (batch, False),
) -> list[Judged]:
    """Pairs that a maker draws, on the model's working grid, each judged.

    `change` may do something to each first, and says whether that was a deformable registration.
    """
    likeness, found = load_metric(LIKENESS), []
    for number in range(count):
        batch, deformable = change(maker(1, generator), generator)
        content = batch.content > 0
        if not bool(content.any()):
            continue
        estimate = metric.estimate(batch.fixed, batch.moving, batch.content, batch.mask)
        truth = batch.displacement.norm(dim=1, keepdim=True)
        subject = maker.subjects[int(batch.subject[0])].person
        judged = judge_estimate(estimate, truth, content, subject, f"{subject} {number}", number)
        alike = float(likeness(batch.fixed, batch.moving, batch.content)) >= LEAST_LIKENESS
        found.append(replace(judged, fitted=deformable and not alike))
    return found


def pair_figures(judged: Sequence[Judged]) -> dict[str, float]:
    """How good the estimates are, before any calibration.

    - `spearman`: rank correlation of expected and true mean error.
    - `error`: mean absolute difference of expected and true error, over voxels with a true error of 8 at most.
    - `mean_error`: the same for the means over the mask.
    - `called_unrelated`: share of the pairs of which more than a third is called unrelated.
    """
    from scipy.stats import spearmanr

    known = [each.known for each in judged]
    expected, true = (np.array([getattr(each, name) for each in known]) for name in ("mean_expected", "mean_truth"))
    apart = np.concatenate([np.abs(each.voxel_expected - each.voxel_truth)[each.voxel_truth <= 8] for each in known])
    return {
        "spearman": float(spearmanr(expected, true).statistic),
        "error": float(apart.mean()) if apart.size else float("nan"),
        "mean_error": float(np.abs(expected - true).mean()),
        "called_unrelated": float(np.mean([each.unrelated_share > 1 / 3 for each in judged])),
    }
