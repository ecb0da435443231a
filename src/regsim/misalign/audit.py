"""The audit of a pair maker: can the answer be read off without comparing the images?

Each probe is a forest of small trees that is shown a few figures which say nothing about alignment by right: the sharpness
of one image, its borders, its brightness. Where it tells aligned from misaligned pairs all the same, a network will find the
shortcut, too, and look good while it has learnt nothing.
"""

import time
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata

from regsim.errors import InputError
from regsim.misalign.pairs import PairBatch, PairMaker, joined
from regsim.prepare import gaussian
from regsim.settings import Settings

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

Array = npt.NDArray[np.float64]
SIDES = ("fixed", "moving")
FOLDS, TREES, LEAF = 5, 100, 20
BLURS = (1.0, 2.0)
SURE = 0.7
ONE_IMAGE_LIMIT, BLUR_LIMIT, OUTLINE_LIMIT = 0.62, 0.4, 0.98
TINY = 1e-6
BATCH = 32


class Probe(Settings):
    """One question to the pairs.

    Args:
        name, question: what was asked, in words.
        value, limit: the figure, and where it must lie.
        better: on which side of the limit.
        passed: whether it does.
        refuses: a probe that fails stops the training (else it only warns).
    """

    name: str
    question: str
    value: float
    limit: float
    better: Literal["lower", "higher"] = "lower"
    passed: bool
    refuses: bool = True


class Audit(Settings):
    """All probes of a pair maker. `passed`: none that refuses has failed."""

    passed: bool
    probes: list[Probe]
    pairs: int
    seconds: float


def audit(maker: PairMaker, count: int = 480, seed: int = 0) -> Audit:
    """Probe a pair maker with fresh pairs, half of them aligned.

    - one image: the area under the ROC curve of a probe that sees one image of each pair only.
    - border: the same for the outermost voxels of both images.
    - blur: the share of aligned pairs called misaligned (surely) once one image is blurred, by a probe that sees the
      sharpness of both images only.
    - outline: the area under the ROC curve of the mismatch of the two silhouettes: high where outlines alone tell.
      A warning, not a refusal: outlines are honest evidence, but a metric that leans on nothing else fails inside.

    Args:
        maker: its subjects and settings are kept, but for the share of aligned pairs.
        count: pairs to draw.
        seed: of the pairs and of the trees.

    Raises:
        InputError: fewer than 100 pairs are asked for.
    """
    if count < 100:
        raise InputError(f"audit: expected at least 100 pairs, got {count}; fewer tell nothing")
    motion = maker.settings.motion.model_copy(update={"aligned": 0.5})
    return audit_pairs(
        _draw(maker.with_settings(maker.settings.model_copy(update={"motion": motion})), count, seed), seed
    )


def audit_pairs(drawn: PairBatch, seed: int = 0, elsewhere: bool = False) -> Audit:
    """`audit` of pairs that were drawn before, about half of them aligned.

    `elsewhere`: misaligned ones show different places, so that the borders of both images together tell by right; those of
    either image alone must not.
    """
    began, count = time.perf_counter(), len(drawn.fixed)
    answer = drawn.misaligned.numpy()
    images = {"fixed": drawn.fixed, "moving": drawn.moving}
    alone = max(_probe_auc(_looks(images[side]), answer, seed) for side in SIDES)
    edges = [_borders(images[side]) for side in SIDES]
    looked = edges if elsewhere else [np.concatenate(edges, axis=1)]
    borders = max(_probe_auc(look, answer, seed) for look in looked)
    blurred = _blurred_called_misaligned(drawn, answer, seed)
    outline = _auc(_silhouette_mismatch(drawn), answer)
    probes = [
        _probe("one image", "can one image alone tell whether the pair is aligned? (AUC)", alone, ONE_IMAGE_LIMIT),
        _probe("border", "can the borders tell? (AUC)", borders, ONE_IMAGE_LIMIT),
        _probe("blur", "aligned but blurred pairs that sharpness alone calls misaligned (share)", blurred, BLUR_LIMIT),
        _probe("outline", "can silhouettes alone tell? (AUC; a warning)", outline, OUTLINE_LIMIT, refuses=False),
    ]
    passed = all(probe.passed for probe in probes if probe.refuses)
    return Audit(passed=passed, probes=probes, pairs=count, seconds=time.perf_counter() - began)


def complaint(found: Audit) -> str:
    """What a failed audit says, in one line."""
    failed = [probe for probe in found.probes if probe.refuses and not probe.passed]
    said = "; ".join(f"{probe.name}: {probe.value:.2f}, limit {probe.limit:.2f}" for probe in failed)
    return f"the pairs give their answer away ({said}): a network would learn the shortcut"


def _probe(name: str, question: str, value: float, limit: float, refuses: bool = True) -> Probe:
    return Probe(name=name, question=question, value=value, limit=limit, passed=value <= limit, refuses=refuses)


def _draw(maker: PairMaker, count: int, seed: int) -> PairBatch:
    """Pairs in batches, put together."""
    generator = torch.Generator().manual_seed(seed)
    parts = [maker(min(BATCH, count - first), generator) for first in range(0, count, BATCH)]
    return joined(parts)


def _looks(images: torch.Tensor) -> Array:
    """Sharpness, brightness and borders of each image alone, `(N, figures)`."""
    flat = images.flatten(1)
    levels = torch.quantile(flat, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]), dim=1).T
    general = torch.stack([flat.mean(dim=1), flat.std(dim=1), (flat == 0).float().mean(dim=1)], dim=1)
    return np.concatenate(
        [_sharpness(images), _borders(images), _as_array(torch.cat([general, levels], dim=1))], axis=1
    )


def _sharpness(images: torch.Tensor) -> Array:
    """How much of the variance lies at the finest scales, `(N, 4)`: differences of neighbours, by their order and distance."""
    held = (images > 0).float()
    variance = ((images - images.mean()) * held).square().flatten(1).sum(dim=1).clamp_min(TINY)
    figures = []
    for step in (1, 2):
        first, second = torch.zeros_like(variance), torch.zeros_like(variance)
        for axis in range(2, images.ndim):
            once = _difference(images, held, axis, step)
            first = first + once[0].square().flatten(1).sum(dim=1)
            second = second + _difference(once[0], once[1], axis, step)[0].square().flatten(1).sum(dim=1)
        figures += [(first / variance + TINY).log(), (second / (first + TINY) + TINY).log()]
    return _as_array(torch.stack(figures, dim=1))


def _difference(images: torch.Tensor, held: torch.Tensor, axis: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbours' differences where both hold data."""
    length = images.shape[axis] - step
    both = held.narrow(axis, 0, length) * held.narrow(axis, step, length)
    return (images.narrow(axis, step, length) - images.narrow(axis, 0, length)) * both, both


def _borders(images: torch.Tensor) -> Array:
    """For each face: the share of exact zeros and the mean of the outermost voxels, `(N, 4 d)`."""
    figures = []
    for axis in range(2, images.ndim):
        for at in (0, images.shape[axis] - 2):
            face = images.narrow(axis, at, 2).flatten(1)
            figures += [(face == 0).float().mean(dim=1), face.mean(dim=1)]
    return _as_array(torch.stack(figures, dim=1))


def _silhouette_mismatch(pairs: PairBatch) -> Array:
    """One minus Dice of the two foregrounds, each above a tenth of its image's own brightness."""
    shapes = []
    for images in (pairs.fixed, pairs.moving):
        top = torch.quantile(images.flatten(1), 0.98, dim=1).reshape(-1, *[1] * (images.ndim - 1))
        shapes.append((images > 0.1 * top).flatten(1).float())
    common = (shapes[0] * shapes[1]).sum(dim=1)
    return _as_array(1 - 2 * common / (shapes[0].sum(dim=1) + shapes[1].sum(dim=1)).clamp_min(1))


def _blurred_called_misaligned(pairs: PairBatch, answer: npt.NDArray[np.bool_], seed: int) -> float:
    """Learn from the pairs' sharpness, ask about aligned ones that were left out, with the moving image blurred.

    Only sure answers count: a probe that has found nothing says about one half to everything.
    """
    from sklearn.model_selection import StratifiedKFold

    sharp = [_sharpness(pairs.fixed), _sharpness(pairs.moving)]
    soft = [_sharpness(_blurred(pairs, sigma)) for sigma in BLURS]
    called = np.zeros((len(BLURS), len(answer)), dtype=bool)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for kept, left in folds.split(sharp[0], answer):
        trees = _forest(seed).fit(np.concatenate(sharp, axis=1)[kept], answer[kept])
        for place, moving in enumerate(soft):
            seen = np.concatenate([sharp[0], moving], axis=1)[left]
            called[place, left] = trees.predict_proba(seen)[:, 1] > SURE
    return float(called[:, ~answer].mean(axis=1).max())


def _blurred(pairs: PairBatch, sigma: float) -> torch.Tensor:
    return gaussian(pairs.moving, (sigma,) * (pairs.moving.ndim - 2)) * pairs.mask


def _probe_auc(figures: Array, answer: npt.NDArray[np.bool_], seed: int) -> float:
    """Area under the ROC curve of the forest's out-of-fold answers; .5 = nothing to be seen."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    said = cross_val_predict(_forest(seed), figures, answer, cv=folds, method="predict_proba")[:, 1]
    return _auc(said, answer)


def _forest(seed: int) -> "RandomForestClassifier":
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(TREES, min_samples_leaf=LEAF, random_state=seed, n_jobs=1)


def _auc(score: Array, answer: npt.NDArray[np.bool_]) -> float:
    """The probability that a misaligned pair scores above an aligned one."""
    positive = int(answer.sum())
    negative = len(answer) - positive
    return float((rankdata(score)[answer].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _as_array(figures: torch.Tensor) -> Array:
    return figures.double().numpy()
