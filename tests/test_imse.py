"""imse: evaluator, metric, lesson, recipe, and the bundled models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from regsim.applications.train_imse import ImseJob
from regsim.errors import InputError, SettingsError
from regsim.images.examples import brain
from regsim.images.image import Image
from regsim.kernels.convolution import SlabConv3d
from regsim.metrics import load_metric
from regsim.metrics.checkpoint import Card, read_card, save_model
from regsim.metrics.evaluator_network import EvaluatorNetwork, EvaluatorSettings, out_of_blocks
from regsim.metrics.imse import MODELS, IndescribableSpatialEvaluator
from regsim.metrics.networks import in_blocks
from regsim.metrics.zoo import model_folder
from regsim.misalign import audit
from regsim.misalign.pairs import PairMaker
from regsim.misalign.restyled import AcrossMaker, RestyledMaker, StyleSettings
from regsim.misalign.sources import shape_subjects
from regsim.prepare import coarser, rescaled
from regsim.registration.driver import register
from regsim.training.imse_lesson import EvaluatorCheck, EvaluatorLoss
from regsim.training.imse_recipe import ImseRecipe
from regsim.training.recipe import load_recipe

from .conftest import Command
from .metric_cases import half_mask, textured

SLIM = {"widths": (4, 6), "blocks": (0, 1)}


def model(folder: Path, **settings: object) -> IndescribableSpatialEvaluator:
    """An untrained model."""
    chosen = EvaluatorSettings.checked({**SLIM, **settings})
    torch.manual_seed(0)
    card = Card(name="untrained", metric="imse", network=chosen.model_dump(mode="json"))
    save_model(folder, card, EvaluatorNetwork(chosen).state_dict())
    return IndescribableSpatialEvaluator(str(folder))


def plane(contrast: str) -> torch.Tensor:
    """An axial plane of the bundled brain at 1.5 mm in [0, 1], `(1, 1, H, W)`."""
    image = rescaled(coarser(brain(contrast), 1.5))
    return image.data[None, :, image.grid.shape[0] // 2]


def recipe(*changes: str) -> ImseRecipe:
    found = load_recipe("imse-brain-2d", changes)
    assert isinstance(found, ImseRecipe)
    return found


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 2, 3), (2, 1, 17, 30), (1, 1, 5, 9, 11)])
@pytest.mark.parametrize("stem", [1, 2])
def test_any_size_goes_through(shape: tuple[int, ...], stem: int) -> None:
    network = EvaluatorNetwork(EvaluatorSettings.checked({**SLIM, "stem": stem, "dims": len(shape) - 2}))
    assert network(torch.rand(shape), torch.rand(shape)).shape == shape


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalisation": "pixel"},
        {"normalisation": "none"},
        {"stem": 1, "widths": (4, 4, 4), "blocks": (1, 0, 2)},
    ],
)
def test_nothing_beyond_its_reach_matters(settings: dict[str, object]) -> None:
    """Neither on a prediction nor on where the image ends: an image cut farther away than that gives the same."""
    chosen = EvaluatorSettings.checked({"widths": (3, 4), "blocks": (0, 1), **settings})
    torch.manual_seed(0)
    network = EvaluatorNetwork(chosen).double()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.3)
    side = 2 * chosen.reach + 4 * chosen.stride
    first, second = (textured((1, 1, side, side), seed) for seed in (0, 1))
    first.requires_grad_()
    middle = side // 2
    (gradient,) = torch.autograd.grad(network(first, second)[0, 0, middle, middle], first)
    far = (gradient[0, 0] != 0).nonzero() - middle
    assert 0 < int(far.abs().max()) <= chosen.reach


def test_instance_normalisation_reaches_everywhere() -> None:
    network = EvaluatorNetwork(EvaluatorSettings.checked({**SLIM, "normalisation": "group"})).double()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.3)
    image = textured((1, 1, 160, 160)).requires_grad_()
    (gradient,) = torch.autograd.grad(network(image, textured((1, 1, 160, 160), 1))[0, 0, 2, 2], image)
    assert bool((gradient[0, 0, -1] != 0).any())


@pytest.mark.parametrize("shape", [(2, 1, 6, 8), (1, 1, 4, 6, 8)])
def test_blocks_there_and_back(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape)
    torch.testing.assert_close(out_of_blocks(in_blocks(image, 2), 2), image)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("length", [4, 5, 8, 9])
def test_slabs_are_the_same_convolution(stride: int, length: int) -> None:
    torch.manual_seed(0)
    layer, image = SlabConv3d(3, 5, 3, stride=stride, padding=1), torch.rand(1, 3, length, 6, 7, requires_grad=True)
    found, wanted = layer(image), nn.Conv3d.forward(layer, image)
    torch.testing.assert_close(found, wanted)
    weight = torch.rand_like(found)
    torch.testing.assert_close(
        *(torch.autograd.grad((each * weight).sum(), image)[0] for each in (found, wanted)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "wrong", [{"widths": ()}, {"widths": (0, 4)}, {"blocks": (1,)}, {"blocks": (0, 99)}, {"dims": 4}, {"stem": 3}]
)
def test_networks_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        EvaluatorSettings.checked({**SLIM, **wrong})


# --- the value ------------------------------------------------------------------------------------------------------


def test_mean_prediction_over_the_references_own_differences(tmp_path: Path) -> None:
    metric = model(tmp_path / "m").double()
    fixed, moving = textured((2, 1, 16, 24)), textured((2, 1, 16, 24), seed=5)
    mask = half_mask(fixed.shape).double()
    wanted = []
    for item in range(2):
        seen = mask[item : item + 1]
        reference, other = fixed[item : item + 1] * seen, moving[item : item + 1] * seen
        predicted = metric.network_for(2)(other, reference)
        away = pairs = torch.zeros(())
        for axis in (2, 3):  # from itself four voxels away, both within the mask
            both = seen.roll(-4, axis) * seen
            both.narrow(axis, both.shape[axis] - 4, 4).zero_()
            away = away + ((fixed[item : item + 1].roll(-4, axis) - fixed[item : item + 1]).abs() * both).sum()
            pairs = pairs + both.sum()
        wanted.append(float((predicted.abs() * seen).sum() / seen.sum() * pairs / away))
    found = metric(fixed, moving, mask)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=1e-8)
    assert not metric(fixed, moving, torch.zeros_like(mask)).any()
    local = metric.map(fixed, moving, mask)
    torch.testing.assert_close(local, metric.difference(moving, fixed, mask).abs())


def test_where_a_part_overlaps_a_fixed_references_own_difference_counts_by_its_contrast_there(tmp_path: Path) -> None:
    metric = model(tmp_path / "m").double()
    fixed, moving = textured((1, 1, 16, 24)), textured((1, 1, 16, 24), seed=5)
    part = torch.zeros_like(fixed)
    part[..., 9:] = 1
    contrasts = [(values - values.mean()).abs().mean() for values in (fixed[..., 9:], fixed)]
    own = torch.cat(
        [(fixed[:, :, 4:] - fixed[:, :, :-4]).abs().flatten(), (fixed[..., 4:] - fixed[..., :-4]).abs().flatten()]
    ).mean()
    predicted = metric.network_for(2)(moving * part, fixed * part)[..., 9:].abs().mean()
    wanted = predicted / (own * contrasts[0] / contrasts[1])
    torch.testing.assert_close(metric.bind(fixed)(moving, part)[0], wanted, rtol=1e-6, atol=1e-8)


def test_the_reference_slot(tmp_path: Path) -> None:
    metric = model(tmp_path / "m")
    first, second = textured((1, 1, 16, 24)).float(), textured((1, 1, 16, 24), seed=5).float()
    moving = IndescribableSpatialEvaluator(str(tmp_path / "m"), reference="moving")
    both = IndescribableSpatialEvaluator(str(tmp_path / "m"), reference="both")
    torch.testing.assert_close(moving(first, second), metric(second, first))
    torch.testing.assert_close(both(first, second), (metric(first, second) + moving(first, second)) / 2)
    with pytest.raises(SettingsError, match="'fixed', 'moving' or 'both'"):
        IndescribableSpatialEvaluator(str(tmp_path / "m"), reference="neither")


def test_flattening_a_warped_reference_gains_nothing(tmp_path: Path) -> None:
    """An evaluator that predicts a share of the reference's own contrast, whatever the other image is."""

    class Share(nn.Module):
        settings = EvaluatorSettings.checked(SLIM)

        def forward(self, other: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
            return reference - reference.mean() + 0 * other

    metric = IndescribableSpatialEvaluator(str(model(tmp_path / "m").model), reference="moving")
    metric.network_for = lambda dims: Share()  # type: ignore[method-assign, assignment, return-value]
    fixed, moving = textured((1, 1, 32, 32)).float(), textured((1, 1, 32, 32), seed=5).float()
    whole = float(metric(fixed, moving))
    flat = float(metric(fixed, moving.mean() + 0.3 * (moving - moving.mean())))
    assert flat == pytest.approx(whole, rel=1e-4)


def test_volumes_by_planes_and_models_of_volumes(tmp_path: Path) -> None:
    flat, solid = model(tmp_path / "flat"), model(tmp_path / "solid", dims=3)
    first, second = textured((1, 1, 12, 13, 14)).float(), textured((1, 1, 12, 13, 14), seed=5).float()
    for metric in (flat, solid):
        assert metric(first, second).shape == (1,)
        assert metric.map(first, second).shape == first.shape
        assert metric.difference(first, second).shape == first.shape
    thin = [image[:, :, :1] for image in (first, second)]
    torch.testing.assert_close(flat(*thin), flat(thin[0][:, :, 0], thin[1][:, :, 0]))
    with pytest.raises(InputError, match=r"imse.*is for volumes"):
        solid(first[:, :, 0], second[:, :, 0])


# --- pairs and lesson -----------------------------------------------------------------------------------------------


def shape_maker(*changes: str) -> PairMaker:
    chosen = recipe("pairs.size=32", "pairs.spacing=1.0", "pairs.motion.error=[1.0, 8.0]", *changes)
    subjects = shape_subjects(4, 96, 2, 0)
    painted = [
        replace(subject, images={"t1": (subject.labels % 7).float() / 6}, labels=None)
        for subject in subjects
        if subject.labels is not None
    ]
    return PairMaker(painted, chosen.pairs)


def test_the_difference_is_that_of_the_unstyled_images() -> None:
    maker = shape_maker()
    plain = RestyledMaker(maker, StyleSettings())(6, torch.Generator().manual_seed(3))
    torch.testing.assert_close(plain.reference - plain.styled, plain.difference)
    styles = StyleSettings.checked({"styles": [{"kind": "inversion", "probability": 1.0}]})
    styled = RestyledMaker(maker, styles)(6, torch.Generator().manual_seed(3))
    torch.testing.assert_close(styled.difference, plain.difference)
    assert float((styled.styled - plain.styled).abs().max()) > 0.3
    assert not bool((styled.styled * (1 - styled.pairs.mask)).any())


def test_a_pair_in_several_styles() -> None:
    styles = StyleSettings.checked({"styles": [{"kind": "shuffle_remap"}], "copies": 3})
    batch = RestyledMaker(shape_maker(), styles)(8, torch.Generator().manual_seed(3))
    assert len(batch.styled) == len(batch.pairs.error) == 8
    torch.testing.assert_close(batch.reference[0], batch.reference[3])
    torch.testing.assert_close(batch.difference[0], batch.difference[6])
    assert float((batch.styled[0] - batch.styled[3]).abs().max()) > 0.05


def test_across_true_contrasts_the_truth_is_known() -> None:
    maker = shape_maker()
    both = [replace(each, images={**each.images, "t2": 1 - each.images["t1"]}) for each in maker.subjects]
    across = AcrossMaker(both, maker.settings, "t1", "t2")
    batch = across.restyled(4, torch.Generator().manual_seed(0))
    clean = batch.reference - batch.difference
    inside = batch.pairs.content > 0
    torch.testing.assert_close((1 - batch.styled)[inside], clean[inside], rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="no subject has both"):
        AcrossMaker([], maker.settings, "t1", "t2")


def test_it_learns_what_it_is_taught() -> None:
    """Some dozens of steps on one batch without styles: the difference of two images."""
    batch = RestyledMaker(shape_maker(), StyleSettings())(8, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    network, objective = (
        EvaluatorNetwork(EvaluatorSettings.checked({"widths": (12, 16), "blocks": (0, 0)})),
        EvaluatorLoss(3.0),
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    first, _ = objective(network, batch)
    for _ in range(200):
        loss, figures = objective(network, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.75 * float(first.detach())
    assert float(figures["relative"]) < 0.8  # 1: predicting nothing
    with torch.no_grad():
        check = EvaluatorCheck(lambda count, generator: batch, 16, 0)  # type: ignore[arg-type]
        found, (_, last) = check(network), objective(network, batch)
    assert found["relative"] == pytest.approx(float(last["relative"]), rel=1e-4)


# --- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("network.dims=3",), "network.dims and pairs.dims alike"),
        (('pairs.appearance=[{kind="noise"}]',), "belongs into styles"),
        (('pairs.pairing=["contrasts"]',), "must be one_image"),
        (('stages.0.decides="auc"',), "relative \\(lower\\)"),
        (('stages.0.better="higher"',), "relative \\(higher\\)"),
        (("styles.copies=0",), "copies"),
        (("stages.0.scales=[]",), "scales"),
        (("stages.0.scales=[0, 1]",), "factors of 1 and more"),
    ],
)
def test_recipes_that_make_no_sense(changes: tuple[str, ...], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        recipe(*changes)


SETTINGS = (
    "pairs.size=32", "source.spacing=1", "pairs.spacing=1", "stages.0.steps=3", "stages.0.batch=4", "stages.0.check_every=2",
    "checked_pairs=16", "tested_pairs=32", "network.widths=[4, 6]", "network.blocks=[0, 1]", "trainer.checkpoint_every=0",
    "audit=warn", "shares=[0.5, 0.25, 0.25]",
)  # fmt: skip
SMALL = tuple(word for setting in SETTINGS for word in ("--set", setting))


def test_training_fills_a_folder_that_is_a_metric(
    two_contrasts: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "TREES", 10)
    monkeypatch.setattr(ImseJob, "audited", 100)
    arguments = ("train", "imse-brain-2d", "--data", two_contrasts, *SMALL)
    command(*arguments, "-o", tmp_path / "m").succeeded()
    card = read_card(tmp_path / "m")
    assert card.metric == "imse"
    assert {"relative_t2", "spearman_t2", "best_classical_t2"} <= set(card.figures)
    command(*arguments, "-o", tmp_path / "again", "--set", "trainer.ahead=0").succeeded()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "m" / "model.safetensors"
    ).read_bytes()
    shown = (
        command("score", two_contrasts / "a_t1.nii.gz", two_contrasts / "b_t2.nii.gz", "-m", tmp_path / "m")
        .succeeded()
        .out
    )
    assert shown.splitlines()[1].split()[0] == "m"


# --- the bundled models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS.values())
def test_bundled_models_are_small_audited_and_kept_from_their_judges(name: str) -> None:
    folder = model_folder(name)
    card = read_card(folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2.2e6
    assert card.settings["audit"] == "refuse"
    assert not [note for note in card.notes if "audit failed" in note]
    people = {each.partition("/")[0] for each in (*card.subjects.train, *card.subjects.validation)}
    assert not people & {each.partition("/")[0] for each in card.subjects.test}
    assert "msx19" not in people
    assert card.settings["contrast"] == "t1"
    assert all(source.licence not in ("", "not stated") for source in card.data)


@pytest.mark.parametrize("contrast", ["t1", "t2"])
def test_farther_costs_more_on_a_real_brain(contrast: str) -> None:
    fixed, moving = plane("t1"), plane(contrast)
    metric = load_metric("imse")
    values = [float(metric(fixed, moving.roll((shift, -shift), (2, 3)))) for shift in (0, 1, 2, 4, 8)]
    assert values == sorted(values)
    assert values[0] < 0.7 * values[-1]


def test_what_lies_far_away_changes_no_map() -> None:
    """The field of view: a cut image has the same map as the whole one, but for the reach."""
    fixed, moving = plane("t1"), plane("t2")
    metric = load_metric("imse")
    assert isinstance(metric, IndescribableSpatialEvaluator)
    settings = metric.network_for(2).settings
    padding = -(-settings.reach // settings.stride) * settings.stride
    wide = [torch.nn.functional.pad(image, [0, padding + 40, 0, 0]) for image in (fixed, moving)]
    wide[1][..., -40:] = 0.7
    apart = [torch.nn.functional.pad(image, [0, padding, 0, 0]) for image in (fixed, moving)]
    width = fixed.shape[-1]
    torch.testing.assert_close(
        metric.difference(wide[1], wide[0])[..., :width],
        metric.difference(apart[1], apart[0])[..., :width],
        rtol=0,
        atol=2e-5,
    )


def test_a_level_may_have_a_metric_of_its_own() -> None:
    fixed, moving = (Image.of_array(image[0, 0]) for image in (plane("t1"), plane("t2").roll((3, -2), (2, 3))))
    from regsim.registration.schedule import schedule_for

    plan = schedule_for("rigid", fixed.grid, "nmi", coarse_metric="imse")
    assert plan.metrics == ("imse", "nmi")
    found = register(fixed, moving, schedule=plan)
    assert [level.metric for level in found.levels] == list(plan.stages[0].metrics)
    middle = torch.tensor([[60.0, 70.0]])
    error = float((found.transform(middle) - middle - torch.tensor([[-2.0, 3.0]])).norm())
    assert error < 0.5


def test_it_drives_a_registration_alone() -> None:
    fixed, moving = (Image.of_array(image[0, 0]) for image in (plane("t1"), plane("t2").roll((6, -4), (2, 3))))
    found = register(fixed, moving, "imse", "rigid")
    middle = torch.tensor([[60.0, 70.0]])
    error = float((found.transform(middle) - middle - torch.tensor([[-4.0, 6.0]])).norm())
    assert error < 0.7


# --- mirror images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mirrored", "mirrors"), [("point", [(2, 3)]), ("every", [(2,), (3,), (2, 3)])])
def test_mirrored_predictions_do_not_prefer_a_direction(
    tmp_path: Path, mirrored: str, mirrors: list[tuple[int, ...]]
) -> None:
    """E of mirrored images is the mirrored E, which a network alone does not do."""
    plain = model(tmp_path)
    metric = IndescribableSpatialEvaluator(str(tmp_path), mirrored=mirrored)
    fixed, moving = plane("t1")[..., :64, :64], plane("t2")[..., :64, :64]
    for axes in mirrors:
        turned = metric.difference(moving.flip(axes), fixed.flip(axes)).flip(axes)
        torch.testing.assert_close(turned, metric.difference(moving, fixed))
        alone = plain.difference(moving.flip(axes), fixed.flip(axes)).flip(axes)
        assert float((alone - plain.difference(moving, fixed)).abs().max()) > 1e-4
    expected = torch.stack(
        [plain.difference(moving.flip(axes), fixed.flip(axes)).flip(axes) for axes in [(), *mirrors]]
    )
    torch.testing.assert_close(metric.difference(moving, fixed), expected.mean(dim=0))


def test_mirrored_volumes_have_eight_images() -> None:
    metric = load_metric("imse:mirrored=every")
    assert isinstance(metric, IndescribableSpatialEvaluator)
    volume = torch.rand(1, 1, 9, 10, 11)
    torch.testing.assert_close(
        metric.difference(volume.flip(3), volume.flip(3)).flip(3), metric.difference(volume, volume)
    )
    with pytest.raises(SettingsError, match="mirrored is"):
        load_metric("imse:mirrored=twice")


# --- stages ---------------------------------------------------------------------------------------------------------


def test_a_stage_may_have_harder_pairs() -> None:
    volumes = load_recipe("imse-brain-3d", [])
    assert isinstance(volumes, ImseRecipe)
    plain, hard = volumes.stages
    assert volumes.pairs_of(plain) == volumes.pairs
    assert volumes.styles_of(plain) == volumes.styles
    assert volumes.pairs_of(hard).window.slab > 0 == volumes.pairs.window.slab
    assert volumes.pairs_of(hard).motion == volumes.pairs.motion
    kinds = [[change.kind for change in volumes.styles_of(stage).degrade] for stage in volumes.stages]  # type: ignore[attr-defined]
    assert "occlusion" not in kinds[0]
    assert "occlusion" in kinds[1]
    near = plain.model_copy(update={"near": 4.0})
    assert volumes.pairs_of(near).motion.error == (1.5, 4.0)


# --- what a card's figures come from --------------------------------------------------------------------------------


def test_cards_may_be_judged_by_pairs_of_their_own() -> None:
    plain, volumes = recipe(), load_recipe("imse-brain-3d", [])
    assert isinstance(volumes, ImseRecipe)
    assert plain.tested == plain.pairs
    assert volumes.tested.motion.error == (2.0, 18.0) != volumes.pairs.motion.error
    assert volumes.tested.model_copy(update={"motion": volumes.pairs.motion}) == volumes.pairs
