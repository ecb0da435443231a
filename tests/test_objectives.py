"""What networks are taught: each objective at hand-made inputs, and what it does to a network."""

import math

import pytest
import torch
from torch import nn

from regsim.errors import SettingsError
from regsim.metrics.networks import EncoderSettings, in_blocks, padded, standardised
from regsim.metrics.siamese import SiameseNetwork, SiameseSettings, correlations
from regsim.misalign.pairs import PairBatch, PairMaker, PairSettings
from regsim.misalign.sources import shape_subjects
from regsim.training.checks import PairCheck, best_threshold
from regsim.training.objectives import (
    Autoencoding,
    CosineContrast,
    CrossEntropy,
    Learner,
    LocalRegression,
    Lookup,
    Objective,
    Objectives,
    Ranking,
    Regression,
    Segmentation,
)

SLIM = EncoderSettings(stem=2, channels=(8, 8), normalisation="group", signed=True)
PAPER = SiameseSettings(encoder=EncoderSettings(channels=(8, 8, 4, 4)), hidden=(16, 8), grid=2)
LOCAL = SiameseSettings(
    encoder=SLIM, comparison="correlation", reach=1, head="local", hidden=(8,), standardise=True, value="error"
)


@pytest.fixture(scope="module")
def pairs() -> PairBatch:
    maker = PairMaker(shape_subjects(2, 48, 2, seed=0), PairSettings(size=32))
    return maker(8, torch.Generator().manual_seed(0))


def learner(settings: SiameseSettings, *objectives: Objective) -> Learner:
    torch.manual_seed(0)
    return Learner(SiameseNetwork(settings), objectives)


def test_eq_2_as_printed_is_inverted() -> None:
    """With the labels that the paper prints, features of aligned pairs are pushed apart."""
    same, apart = torch.tensor([1.0]), torch.tensor([0.0])
    aligned, misaligned = torch.tensor([False]), torch.tensor([True])
    meant, printed = CosineContrast(margin=0.0), CosineContrast(margin=0.0, as_printed=True)
    for right, loss in ((True, meant), (False, printed)):
        assert (loss.of_cosine(same, aligned) < loss.of_cosine(apart, aligned)) == right
        assert (loss.of_cosine(apart, misaligned) < loss.of_cosine(same, misaligned)) == right
    cosine = torch.tensor([0.8])
    assert math.isclose(float(meant.of_cosine(cosine, aligned)), 0.04, abs_tol=1e-6)
    assert math.isclose(float(meant.of_cosine(cosine, misaligned)), 0.64, abs_tol=1e-6)
    assert math.isclose(float(CosineContrast(margin=0.5).of_cosine(cosine, misaligned)), 0.09, abs_tol=1e-6)


def test_eq_2_as_printed_inverts_the_metric(pairs: PairBatch) -> None:
    """Trained a little on nothing but Eq. 2: as meant, misaligned pairs end farther apart; as printed, nearer."""
    gaps = {}
    for printed in (False, True):
        term = CosineContrast(margin=0.0, as_printed=printed)
        taught = learner(PAPER.model_copy(update={"centre": True, "encoder": SLIM}), term)
        optimiser = torch.optim.Adam(taught.parameters(), lr=3e-3)
        for _ in range(40):
            loss, _ = Objectives([term])(taught, pairs)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        distance = Lookup(taught, pairs).distance.detach()
        gaps[printed] = float(distance[pairs.misaligned].mean() - distance[~pairs.misaligned].mean())
    assert gaps[False] > 0 > gaps[True]


@pytest.mark.parametrize(
    ("term", "settings"),
    [
        (Autoencoding(), PAPER),
        (Segmentation(classes=(1, 2, 3)), PAPER),
        (CrossEntropy(), PAPER),
        (CosineContrast(), PAPER.model_copy(update={"encoder": SLIM})),
        (Ranking(), LOCAL),
        (Regression(), LOCAL),
        (LocalRegression(), LOCAL),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_every_objective_can_be_learnt(term: Objective, settings: SiameseSettings, pairs: PairBatch) -> None:
    """On one batch, seen over and over, the loss falls; that it reaches weights is all that this says."""
    taught = learner(settings, term)
    optimiser = torch.optim.Adam(taught.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        loss, figures = Objectives([term])(taught, pairs)
        assert list(figures) == [term.kind]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.97 * losses[0]


def test_ranking_knows_the_order_only(pairs: PairBatch) -> None:
    def loss(term: Objective, said: torch.Tensor) -> float:
        lookup = Lookup(learner(LOCAL), pairs)
        lookup.__dict__["error"] = (said, torch.zeros(1), torch.zeros(1))
        return float(term.loss(lookup))

    truth = torch.log1p(pairs.error)
    assert loss(Ranking(least=0.0), truth + 7) < 0.5 < loss(Ranking(least=0.0), -truth)
    assert math.isclose(loss(Ranking(), truth + 7), loss(Ranking(), truth), rel_tol=1e-4)
    assert loss(Regression(), truth) == 0 < loss(Regression(), truth + 1)


def test_segmentation_without_labels_says_so(pairs: PairBatch) -> None:
    term = Segmentation(classes=(1,))
    bare = PairBatch(**{**pairs.__dict__, "labels": None})
    with pytest.raises(SettingsError, match="no label maps"):
        Objectives([term])(learner(PAPER, term), bare)


def test_weights_multiply_the_terms(pairs: PairBatch) -> None:
    taught = learner(LOCAL)
    loss, figures = Objectives([Regression(weight=3.0), Ranking(weight=0.5)])(taught, pairs)
    torch.testing.assert_close(loss, 3 * figures["regression"] + 0.5 * figures["ranking"])


def test_the_network_is_symmetric_and_sees_no_padding(pairs: PairBatch) -> None:
    network = learner(LOCAL).network.double()
    fixed, moving, mask = (part.double() for part in (pairs.fixed, pairs.moving, pairs.mask))
    first, second = network.features(fixed, mask), network.features(moving, mask)
    there, back = (network.pooled_error(*two, mask)[0] for two in ((first, second), (second, first)))
    torch.testing.assert_close(there, back)
    assert bool((there >= 0).all())


def test_correlations_find_a_shift() -> None:
    features = torch.randn(1, 6, 9, 9, generator=torch.Generator().manual_seed(0))
    found = correlations(features, features.roll((1, -1), (2, 3)), reach=1)
    assert found.shape == (1, 9, 9, 9)
    inner = found[0, :, 2:-2, 2:-2].mean(dim=(1, 2))
    assert int(inner.argmax()) == 2 * 3 + 0
    assert float(inner.max()) > 0.9


def test_small_parts_of_networks() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    torch.testing.assert_close(in_blocks(image, 2), nn.functional.pixel_unshuffle(image, 2))
    assert padded(torch.zeros(1, 1, 5, 8), 4).shape == (1, 1, 8, 8)
    weights = torch.zeros(1, 1, 4, 4)
    weights[..., :2] = 1
    flat = standardised(image, weights)
    assert not flat[weights == 0].any()
    assert math.isclose(float(flat[weights > 0].std(correction=0)), 1.0, rel_tol=1e-4)
    assert not standardised(torch.full((1, 1, 4, 4), 5.0), None).any()


def test_thresholds_and_checks(pairs: PairBatch) -> None:
    accuracy, threshold = best_threshold(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, False, True]))
    assert (accuracy, threshold) == (1.0, 1.5)
    maker = PairMaker(shape_subjects(2, 48, 2, seed=0), PairSettings(size=32))
    taught = learner(LOCAL)
    figures = PairCheck(maker, 20, seed=0)(taught)
    assert figures == PairCheck(maker, 20, seed=0)(taught)
    assert -1 <= figures["spearman"] <= 1
    assert 0.5 <= figures["accuracy"] <= 1
