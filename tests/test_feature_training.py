"""What a feature network is taught: the terms of the loss at hand-made inputs, the recipes, and a whole small training."""

from pathlib import Path

import pytest
import torch
from torch import nn

from regsim.errors import SettingsError
from regsim.metrics.feature_network import FeatureNetwork, FeatureNetworkSettings
from regsim.misalign.sources import Subject
from regsim.misalign.views import ViewBatch, ViewMaker, ViewSettings
from regsim.training.feature_lesson import FeatureCheck, FeatureObjectives, contrast, segmentation
from regsim.training.feature_recipe import FeatureRecipe, FeatureTerm
from regsim.training.recipe import load_recipe, recipe_names

from .conftest import Command
from .metric_cases import textured

DEEPSIM = [name for name in recipe_names() if name.startswith("deepsim")]


def views(shift: float, side: int = 48) -> ViewBatch:
    """Two views of one picture, the second moved along the first axis."""
    picture = textured((1, 1, side + 16, side)).float()
    first, second = picture[:, :, 8 : 8 + side], picture[:, :, 8 + int(shift) : 8 + int(shift) + side]
    seen = torch.ones((1, side, side), dtype=torch.bool)
    tissue = (first[:, 0] > 0.5).long() + 2
    return ViewBatch(
        first,
        second,
        tissue,
        tissue,
        seen,
        seen,
        torch.eye(2)[None],
        torch.tensor([[shift, 0.0]]),
        torch.zeros(1).long(),
    )


def test_segmentation_is_lowest_for_the_truth_and_ignores_what_is_unknown() -> None:
    tissue = torch.randint(0, 4, (2, 12, 12), generator=torch.Generator().manual_seed(0))
    right = 20 * torch.nn.functional.one_hot(tissue, 4).movedim(-1, 1).float()
    assert float(segmentation(right, tissue, 0.5)) < 1e-3
    wrong = right.roll(1, 1)
    assert float(segmentation(wrong, tissue, 0.5)) > 10
    half = tissue.clone()
    half[:, :6] = -1
    mixed = torch.cat([wrong[:, :, :6], right[:, :, 6:]], dim=2)
    assert float(segmentation(mixed, half, 0.5)) < 1e-3
    assert float(segmentation(wrong, torch.full_like(tissue, -1), 0.5)) == 0


def test_contrast_is_low_for_features_that_move_with_the_image_and_high_for_those_that_stay() -> None:
    batch, term = views(7.0), FeatureTerm(kind="contrast")
    place = torch.stack(torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij"))
    waves = torch.cat(
        [(place * rate).sin() for rate in (0.15, 0.25, 0.4)] + [(place * rate).cos() for rate in (0.15, 0.25, 0.4)]
    )
    moved = place + torch.tensor([7.0, 0.0]).reshape(2, 1, 1)
    right = torch.cat(
        [(moved * rate).sin() for rate in (0.15, 0.25, 0.4)] + [(moved * rate).cos() for rate in (0.15, 0.25, 0.4)]
    )
    following, share = contrast(torch.stack([waves, right]), batch, term, 1)
    staying, lost = contrast(torch.stack([waves, waves]), batch, term, 1)
    assert float(following) < 0.5 * float(staying)
    assert float(share) > 0.9
    assert float(lost) < 0.2


def test_every_term_teaches_something() -> None:
    batch = views(5.0)
    for kind, outputs in (("segmentation", "classes"), ("contrast", "classes"), ("autoencoding", "image")):
        torch.manual_seed(0)
        network = FeatureNetwork(
            FeatureNetworkSettings.checked({"widths": (4, 6, 8, 8), "features": 6, "outputs": outputs})
        )
        term = FeatureTerm.checked({"kind": kind})
        teach, optimiser = FeatureObjectives([term]), torch.optim.Adam(network.parameters(), 0.02)
        losses = []
        for _ in range(25):
            loss, figures = teach(network, batch)
            assert set(figures) == {kind}
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.8 * losses[0], (kind, losses[0], losses[-1])


def test_the_check_leaves_the_network_as_it_was() -> None:
    labels = torch.zeros(24, 32, 32, dtype=torch.long)
    labels[4:20, 4:28, 4:28], labels[8:16, 10:22, 10:22] = 3, 2
    subject = Subject("made", {}, labels, labels > 0, (0, 1, 2))
    maker = ViewMaker([subject], ViewSettings.checked({"dims": 2, "size": 32, "shift": 3.0}))
    network = FeatureNetwork(FeatureNetworkSettings(widths=(4, 6, 8, 8), features=4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert isinstance(network.train(), nn.Module)
    figures = FeatureCheck(maker, 6, 0)(network)
    assert set(figures) == {"overlap", "matched", "reconstruction"}
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", DEEPSIM)
def test_recipes_hold_together(name: str) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, FeatureRecipe)
    assert recipe.name == name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("network.dims=3", "must be alike"),
        ("views.size=50", "multiple of 8"),
        ("network.outputs=image", "needs network.outputs classes"),
        ("stages.0.decides=luck", "expected decides and better as one of"),
    ],
)
def test_recipes_that_do_not_hold_together_are_refused(change: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load_recipe("deepsim-brain-2d", [change])


def test_an_autoencoder_is_trained_from_nothing_and_scores(command: Command, tmp_path: Path, samples: object) -> None:
    small = [
        "network.widths=[4,6,8,8]",
        "network.features=4",
        "views.size=32",
        "source.shapes=6",
        "source.shape_size=48",
    ]
    quick = [
        "stages.0.steps=6",
        "stages.0.batch=2",
        "stages.0.check_every=3",
        "checked_views=4",
        "tested_pairs=32",
        "pairs.size=32",
    ]
    changes = [word for change in (*small, *quick) for word in ("--set", change)]
    command("train", "deepsim-autoencoder", "-o", tmp_path / "model", *changes).succeeded()
    assert (tmp_path / "model" / "card.json").is_file()
    fixed, moving = samples.picture, samples.moved_picture  # type: ignore[attr-defined]
    assert "model" in command("score", fixed, moving, "-m", tmp_path / "model").succeeded().out
