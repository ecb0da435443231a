"""How good a metric is on pairs of known misalignment from unseen subjects: the figures of a model card."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import spearmanr

from regsim.errors import InputError
from regsim.metrics import AbstractMetric, load_metric
from regsim.misalign.pairs import PairBatch, PairMaker, PairSettings, joined
from regsim.misalign.window import WindowSettings
from regsim.prepare import gaussian

BATCH = 16
BLUR = 1.5
LEAST_MISALIGNED = 2.0
RESAMPLES = 500
HIDDEN = WindowSettings(disc=1.0, box=0.0, smallest=0.35, largest=0.55)
OPEN = WindowSettings(disc=0.0, box=0.0)


@dataclass(frozen=True)
class KnownPairs:
    """Pairs of test subjects: all errors (whole and with the outline hidden), and half of them aligned."""

    graded: PairBatch
    hidden: PairBatch
    sorted: PairBatch


def draw_known_pairs(maker: PairMaker, count: int, seed: int, least: float) -> KnownPairs:
    """Draw the pairs that metrics are judged by; contrasts as in `maker`, without noise, blur or remaps.

    Args:
        maker: of the test subjects.
        count: pairs of each kind.
        seed: of the draws.
        least: smallest mean error of pairs that count as misaligned, physical units.
    """
    settings = maker.settings
    high = settings.motion.error[1]
    if least >= high:
        raise InputError(f"misaligned pairs from {least} on cannot be drawn: the recipe's errors end at {high}")

    def draw(error: tuple[float, float], aligned: float, window: WindowSettings, number: int) -> PairBatch:
        motion = settings.motion.model_copy(update={"error": error, "aligned": aligned, "distribution": "uniform"})
        plain = {"motion": motion, "window": window, "appearance": (), "resample": "both"}
        drawn = _drawn(maker.with_settings(settings.model_copy(update=plain)), count, seed + number)
        return replace(drawn, subject=person[drawn.subject])

    people = [subject.person for subject in maker.subjects]
    person = torch.tensor([people.index(name) for name in people])
    return KnownPairs(
        graded=draw((0.0, high), 0.0, OPEN, 0),
        hidden=draw((0.0, high), 0.0, HIDDEN, 1),
        sorted=draw((least, high), 0.5, OPEN, 2),
    )


def judge(
    metric: AbstractMetric, pairs: KnownPairs, threshold: float | None = None
) -> dict[str, float | tuple[float, ...]]:
    """Figures of one metric; intervals are 95 % by resampling people, given from three people on.

    - `spearman`: rank correlation of cost and true error, all subjects pooled.
    - `spearman_outline_hidden`: the same where only a disc inside is shown.
    - `auc`: area under the ROC curve, misaligned against aligned.
    - `accuracy`: balanced accuracy at `threshold` (of the cost), where one is given.
    - `blurred_called_misaligned`: share of the aligned pairs above the threshold once the moving image is blurred by a
      Gaussian of 1.5 voxels; where one is given.
    """
    graded, hidden, sort = (costs(metric, part) for part in (pairs.graded, pairs.hidden, pairs.sorted))
    figures: dict[str, float | tuple[float, ...]] = {
        "spearman": _correlation(graded, pairs.graded.error),
        "spearman_outline_hidden": _correlation(hidden, pairs.hidden.error),
        "auc": _auc(sort, pairs.sorted.misaligned),
    }
    intervals = {
        "spearman": _interval(pairs.graded.subject, lambda kept: _correlation(graded[kept], pairs.graded.error[kept])),
        "spearman_outline_hidden": _interval(
            pairs.hidden.subject, lambda kept: _correlation(hidden[kept], pairs.hidden.error[kept])
        ),
    }
    if threshold is not None:
        truth = pairs.sorted.misaligned
        figures["accuracy"] = _balanced(sort > threshold, truth)
        soft = _blurred(pairs.sorted)
        above = costs(metric, soft)[~truth] > threshold
        figures["blurred_called_misaligned"] = float(above.double().mean())
        intervals["accuracy"] = _interval(
            pairs.sorted.subject, lambda kept: _balanced(sort[kept] > threshold, truth[kept])
        )
    figures |= {f"{name}_interval": ends for name, ends in intervals.items() if ends}
    return figures


def best_of(names: Sequence[str], pairs: KnownPairs) -> tuple[str, float]:
    """Which of some metrics has the highest rank correlation with the true error, and that."""
    ranks = {name: float(str(judge(load_metric(name), pairs)["spearman"])) for name in names}
    best = max(ranks, key=lambda name: ranks[name])
    return best, ranks[best]


def least_misaligned(settings: PairSettings) -> float:
    """The smallest mean error of pairs that count as misaligned: two voxels, at most half of the recipe's largest error."""
    return min(LEAST_MISALIGNED * settings.spacing, settings.motion.error[1] / 2)


@torch.no_grad()
def costs(metric: AbstractMetric, pairs: PairBatch) -> torch.Tensor:
    """The metric as a cost, `(N,)`."""
    parts = []
    for first in range(0, len(pairs.fixed), BATCH):
        part = slice(first, first + BATCH)
        parts.append(metric.cost(metric(pairs.fixed[part], pairs.moving[part], pairs.mask[part])))
    return torch.cat(parts)


def _drawn(maker: PairMaker, count: int, seed: int) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)
    return joined([maker(min(BATCH, count - first), generator) for first in range(0, count, BATCH)])


def _blurred(pairs: PairBatch) -> PairBatch:
    soft = gaussian(pairs.moving, (BLUR,) * (pairs.moving.ndim - 2)) * pairs.mask
    return replace(pairs, moving=soft)


def _correlation(cost: torch.Tensor, error: torch.Tensor) -> float:
    if len(cost) < 3 or float(cost.std()) == 0:
        return 0.0
    return float(spearmanr(cost, error).statistic)


def _auc(cost: torch.Tensor, misaligned: torch.Tensor) -> float:
    from scipy.stats import mannwhitneyu

    first, second = cost[misaligned], cost[~misaligned]
    if not (len(first) and len(second)):
        return 0.5
    return float(mannwhitneyu(first, second).statistic) / (len(first) * len(second))


def _balanced(called: torch.Tensor, misaligned: torch.Tensor) -> float:
    """Mean of the shares of misaligned pairs called so and of aligned pairs not called so."""
    shares = [(called[misaligned]).double().mean(), (~called[~misaligned]).double().mean()]
    return float(torch.stack(shares).nanmean())


def _interval(subject: torch.Tensor, figure: Callable[[torch.Tensor], float]) -> tuple[float, ...]:
    """95 % of the figure over resampled subjects, with a seed of its own; nothing for fewer than three subjects."""
    members = [(subject == one).nonzero().flatten() for one in sorted(set(subject.tolist()))]
    if len(members) < 3:
        return ()
    random = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        chosen = random.integers(len(members), size=len(members))
        found.append(figure(torch.cat([members[place] for place in chosen])))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)


def compare(metrics: Sequence[AbstractMetric], pairs: KnownPairs) -> dict[str, dict[str, float | tuple[float, ...]]]:
    """The same figures for several metrics."""
    return {metric.name: judge(metric, pairs) for metric in metrics}
