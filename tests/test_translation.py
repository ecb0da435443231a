"""Translation: the metric, CycleGAN's and RegGAN's lessons, the figures, and `regsim translate`."""

import json
import math
from pathlib import Path

import pytest
import torch

from regsim.applications.train_translation import TranslationJob
from regsim.applications.translate import HISTOGRAM, translated
from regsim.errors import GridError, InputError, SettingsError
from regsim.evaluation.translation import compare_translation
from regsim.images import Image, read_image
from regsim.images.examples import brain
from regsim.metrics import load_metric
from regsim.metrics.checkpoint import read_card
from regsim.metrics.translation import TranslatedMeanAbsoluteError
from regsim.misalign import audit
from regsim.prepare import coarser
from regsim.training.recipe import load_recipe
from regsim.training.translation_lesson import Discriminator, TranslationLoss, TranslationSystem, warped
from regsim.training.translation_recipe import TranslationRecipe

from .conftest import Command
from .metric_cases import generator_folder, half_mask, textured


def recipe(name: str, *changes: str) -> TranslationRecipe:
    found = load_recipe(name, changes)
    assert isinstance(found, TranslationRecipe)
    return found


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures_by_their_formulas_and_the_bound() -> None:
    truth = Image.of_array(textured((1, 1, 40, 44))[0, 0].float() * 300)
    found = truth.with_data(truth.data + 9 * torch.randn(truth.data.shape, generator=torch.Generator().manual_seed(0)))
    rows = {row.region: row for row in compare_translation(found, truth, "x")}
    low, high = torch.quantile(
        truth.data.flatten().double(), torch.tensor([0.001, 0.999], dtype=torch.float64)
    ).tolist()
    span = high - low
    away = (found.data - truth.data).double() / span
    assert rows["whole"].nmae == pytest.approx(float(away.abs().mean()), rel=1e-6)
    assert rows["whole"].psnr == pytest.approx(-10 * math.log10(float(away.square().mean())), rel=1e-6)
    for row in rows.values():
        assert row.psnr <= -20 * math.log10(row.nmae)
        assert 0 < row.ssim < 1
    same = compare_translation(truth, truth, "x")[0]
    assert (same.nmae, same.psnr, same.ssim) == (0.0, 100.0, pytest.approx(1.0))


def test_figures_need_one_grid_and_a_truth_that_varies() -> None:
    first = Image.of_array(textured((1, 1, 20, 20))[0, 0].float())
    with pytest.raises(GridError, match="two grids"):
        compare_translation(first, Image.of_array(torch.rand(20, 21)), "x")
    with pytest.raises(InputError, match="constant"):
        compare_translation(first, first.with_data(torch.ones_like(first.data)), "x")


# --- the metric -----------------------------------------------------------------------------------------------------


def test_mean_absolute_error_after_translation() -> None:
    metric = load_metric("translation", model=str(generator_folder())).double()
    assert isinstance(metric, TranslatedMeanAbsoluteError)
    fixed, moving = textured((2, 1, 16, 24)), textured((2, 1, 16, 24), seed=5)
    mask = half_mask(fixed.shape).double()
    away = (fixed * mask - metric.network(moving * mask)).abs()
    wanted = (away * mask).flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1)
    torch.testing.assert_close(metric(fixed, moving, mask), wanted)
    block = textured((1, 1, 6, 16, 24)).double()
    assert metric.translated(block).shape == block.shape
    with pytest.raises(SettingsError, match="regsim train cyclegan"):
        load_metric("translation")


# --- the lessons ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cyclegan", "reggan"])
def test_one_pass_teaches_generators_and_discriminators_apart(name: str) -> None:
    """The discriminator's gradient comes from its own term alone, the generator's from all but that."""
    from regsim.misalign.pairs import PairBatch
    from regsim.misalign.restyled import RestyledBatch

    chosen = recipe(name, "network.widths=[4, 6]", "network.blocks=[0, 1]", "discriminator=[4, 6]")
    torch.manual_seed(0)
    system = TranslationSystem(chosen)
    images = [textured((3, 1, 32, 32), seed).float() for seed in range(3)]
    ones, nothing = torch.ones(3, 1, 32, 32), torch.zeros(3)
    pairs = PairBatch(images[0], images[1], ones, ones, torch.zeros(3, 2, 32, 32), nothing, None, nothing.long(), {})
    loss, figures = TranslationLoss(chosen)(system, RestyledBatch(images[1], images[0], images[0] - images[2], pairs))
    loss.backward()
    for weight in system.parameters():
        assert weight.grad is not None
        assert bool(weight.grad.isfinite().all())
    together = [weight.grad.clone() for weight in system.judge.parameters() if weight.grad is not None]
    system.zero_grad()
    made = system.generator(images[1].roll(1, 0) if name == "cyclegan" else images[1]).detach()
    alone = ((system.judge(images[0]) - 1).square().mean() + system.judge(made).square().mean()) / 2
    alone.backward()
    for mine, weight in zip(together, system.judge.parameters(), strict=True):
        torch.testing.assert_close(mine, weight.grad)
    assert all(float(value) > 0 for value in figures.values())


def test_fields_are_in_voxels_x_first() -> None:
    image = textured((1, 1, 12, 16)).float()
    field = torch.zeros(1, 2, 12, 16)
    field[:, 0] = 2
    torch.testing.assert_close(warped(image, field)[..., :-2], image[..., 2:], rtol=1e-4, atol=1e-5)


def test_a_discriminator_judges_patches() -> None:
    assert Discriminator(2, (4, 8))(torch.rand(2, 1, 32, 48)).shape == (2, 1, 8, 12)
    assert Discriminator(3, (4,))(torch.rand(1, 1, 8, 8, 8)).shape == (1, 1, 4, 4, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("network.dims=3",), "network.dims and pairs.dims alike"),
        (('other="t1"',), "two contrasts"),
        (('stages.0.decides="auc"',), "expected decides nmae"),
        (('method="pix2pix"',), "method"),
    ],
)
def test_recipes_that_make_no_sense(changes: tuple[str, ...], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        recipe("reggan", *changes)


# --- as a user ------------------------------------------------------------------------------------------------------

SETTINGS = (
    "pairs.size=32", "source.spacing=1", "pairs.spacing=1", "stages.0.steps=3", "stages.0.batch=2", "stages.0.check_every=2",
    "checked_pairs=16", "tested_pairs=32", "network.widths=[4, 6]", "network.blocks=[0, 1]", "discriminator=[4]", "audit=warn",
    "shares=[0.5, 0.25, 0.25]",
)  # fmt: skip
SMALL = tuple(word for setting in SETTINGS for word in ("--set", setting))


@pytest.mark.parametrize("name", ["cyclegan", "reggan"])
def test_a_generator_is_trained_and_translates(
    name: str, two_contrasts: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "TREES", 10)
    monkeypatch.setattr(TranslationJob, "audited", 100)
    command("train", name, "--data", two_contrasts, *SMALL, "-o", tmp_path / "m").succeeded()
    card = read_card(tmp_path / "m")
    assert card.metric == "translation"
    assert {"nmae", "spearman"} <= set(card.figures)
    arguments = (two_contrasts / "a_t2.nii.gz", "--like", two_contrasts / "a_t1.nii.gz", "--method", tmp_path / "m")
    command("translate", *arguments, "-o", tmp_path / "x.nii.gz").succeeded()
    assert read_image(tmp_path / "x.nii.gz").grid.same_as(read_image(two_contrasts / "a_t2.nii.gz").grid)
    command("score", two_contrasts / "a_t1.nii.gz", two_contrasts / "a_t2.nii.gz", "-m", tmp_path / "m").succeeded()


def test_translate_a_real_slice(command: Command, tmp_path: Path) -> None:
    """T2 to T1: nearer to the truth than the histogram brings it, also where the reference is 3 mm away."""
    planes = {}
    for contrast in ("t1", "t2"):
        image = coarser(brain(contrast), 2.0)
        planes[contrast] = Image.of_array(image.data[0, image.grid.shape[0] // 2])
    away = Image.of_array(planes["t1"].data[0].roll((1, -1), (0, 1)))
    for like in (planes["t1"], away):
        found, matched = (
            compare_translation(translated(planes["t2"], like, None, method), planes["t1"], method)[0]
            for method in ("imse", HISTOGRAM)
        )
        assert found.psnr > matched.psnr + 1
        assert found.nmae < matched.nmae


def test_translate_says_what_is_wrong(two_contrasts: Path, command: Command, tmp_path: Path) -> None:
    source, like = two_contrasts / "a_t2.nii.gz", two_contrasts / "a_t1.nii.gz"
    target = tmp_path / "x.nii.gz"
    command("translate", source, "--like", like, "-o", target, "--method", "mind").refused("does not translate")
    command("translate", source, "--like", like, "-o", target, "--method", "histogramm").refused("histogramm")
    command("translate", source, "--like", tmp_path / "no.nii.gz", "-o", target).refused("no.nii.gz")
    command("translate", source, "--like", like, "-o", tmp_path / "x.txt").refused("x.txt")
    assert not target.exists()
    shown = command(
        "translate", source, "--like", like, "-o", target, "--method", HISTOGRAM, "--truth", like, "--json", "-"
    ).succeeded()
    rows = json.loads(shown.out)["rows"]
    assert [row["region"] for row in rows] == ["foreground", "whole"]
