"""two_channel: the metric, its network, how it is taught, and the bundled model."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regsim.applications.train_two_channel import TwoChannelJob
from regsim.errors import InputError, SettingsError
from regsim.images.examples import brain
from regsim.images.image import Image
from regsim.metrics import load_metric
from regsim.metrics.checkpoint import Card, read_card, save_model
from regsim.metrics.two_channel import DEFAULT_MODEL, TwoChannelMisalignment
from regsim.metrics.two_channel_network import TwoChannelNetwork, TwoChannelSettings
from regsim.metrics.zoo import model_folder
from regsim.misalign import audit
from regsim.misalign.pairs import PairBatch, PairMaker
from regsim.misalign.sources import shape_subjects
from regsim.prepare import coarser
from regsim.registration.driver import register
from regsim.training.recipe import load_recipe
from regsim.training.two_channel_lesson import CellCrossEntropy, TwoChannelCheck, pair_value
from regsim.training.two_channel_recipe import TwoChannelRecipe

from .conftest import Command, blobs, volume
from .metric_cases import half_mask, textured

SLIM = {"channels": (6,), "hidden": (8,), "normalisation": "none"}


def model(folder: Path, **settings: object) -> TwoChannelMisalignment:
    """An untrained model."""
    chosen = TwoChannelSettings.checked({**SLIM, **settings})
    torch.manual_seed(0)
    card = Card(name="untrained", metric="two_channel", network=chosen.model_dump(mode="json"))
    save_model(folder, card, TwoChannelNetwork(chosen).state_dict())
    return TwoChannelMisalignment(str(folder))


def slices(contrast: str) -> torch.Tensor:
    """An axial plane of the bundled brain at 1.5 mm, `(1, 1, H, W)`."""
    image = coarser(brain(contrast), 1.5)
    return image.data[None, :, image.grid.shape[0] // 2]


def recipe(*changes: str) -> TwoChannelRecipe:
    found = load_recipe("two-channel", changes)
    assert isinstance(found, TwoChannelRecipe)
    return found


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "stride", "patch"),
    [
        ({"stem": 1, "channels": (), "hidden": (4,)}, 1, 3),
        ({"stem": 2, "channels": (), "hidden": (4, 4)}, 2, 10),
        ({"stem": 1, "channels": (4,), "hidden": (4,)}, 2, 8),
        ({"stem": 2, "channels": (32, 48), "hidden": (64, 64)}, 8, 52),
    ],
)
def test_a_cell_is_about_its_patch(settings: dict[str, object], stride: int, patch: int) -> None:
    chosen = TwoChannelSettings.checked({**settings, "normalisation": "none"})
    assert (chosen.stride, chosen.patch) == (stride, patch)
    torch.manual_seed(1)
    network = TwoChannelNetwork(chosen)
    side = -(-3 * patch // stride) * stride
    pair = [torch.randn(1, 1, side, side, requires_grad=True) for _ in range(2)]
    logits = network(*pair)
    assert logits.shape == (1, 1, side // stride, side // stride)
    middle = side // stride // 2
    for gradient in torch.autograd.grad(logits[0, 0, middle, middle], pair):
        rows = gradient[0, 0].abs().sum(dim=1).nonzero()
        assert 0 < int(rows.max() - rows.min()) + 1 <= patch
        inside = middle * stride + stride // 2
        assert int(rows.min()) >= inside - patch // 2 - 1


@pytest.mark.parametrize("wrong", [{"channels": (0,)}, {"hidden": ()}, {"dims": 4}, {"stem": 3}, {"hidden": (5000,)}])
def test_networks_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        TwoChannelSettings.checked(wrong)


# --- the value ------------------------------------------------------------------------------------------------------


def test_mean_probability_over_the_mask(tmp_path: Path) -> None:
    metric = model(tmp_path / "m").double()
    fixed, moving = textured((2, 1, 16, 24)), textured((2, 1, 16, 24), seed=5)
    mask = half_mask(fixed.shape).double()
    wanted = []
    for item in range(2):
        seen = mask[item : item + 1]
        shown = []
        for image in (fixed, moving):
            one = image[item : item + 1]
            mean = (one * seen).sum() / seen.sum()
            spread = ((one - mean).square() * seen).sum() / seen.sum()
            shown.append((one - mean) / spread.sqrt() * seen)
        probability = torch.sigmoid(metric.network(*shown))
        cells = seen.unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(-1, -2))
        wanted.append(float((probability * cells).sum() / cells.sum()))
    torch.testing.assert_close(
        metric(fixed, moving, mask), torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=1e-8
    )
    assert not metric(fixed, moving, torch.zeros_like(mask)).any()


def test_volumes_by_planes_and_models_of_volumes(tmp_path: Path) -> None:
    flat, solid = model(tmp_path / "flat"), model(tmp_path / "solid", dims=3)
    first, second = textured((1, 1, 12, 13, 14)).float(), textured((1, 1, 12, 13, 14), seed=5).float()
    for metric in (flat, solid):
        assert metric(first, second).shape == (1,)
        local = metric.map(first, second)
        assert local.shape == first.shape
        assert 0 <= float(local.min()) <= float(local.max()) <= 1
    thin = [volume[:, :, :1] for volume in (first, second)]
    torch.testing.assert_close(flat(*thin), flat(thin[0][:, :, 0], thin[1][:, :, 0]))
    with pytest.raises(InputError, match=r"two_channel.*is for volumes"):
        solid(first[:, :, 0], second[:, :, 0])


def test_where_the_moving_image_has_no_data_both_are_hidden(tmp_path: Path) -> None:
    """As in training, where both images of a pair are 0 outside what both show."""
    metric = model(tmp_path / "m")
    fixed, moving = textured((1, 1, 24, 24)).float(), textured((1, 1, 24, 24), seed=5).float()
    overlap = torch.ones(1, 1, 24, 24)
    overlap[..., :8] = 0
    bound = metric.bind(fixed)
    damaged = torch.where(overlap > 0, moving, 7.0)
    torch.testing.assert_close(bound(damaged, overlap), bound(moving, overlap))


# --- the lesson -----------------------------------------------------------------------------------------------------


def batch_of(displacement: torch.Tensor) -> PairBatch:
    """Two pictures whose displacement along x is given."""
    count, shape = len(displacement), displacement.shape
    images = textured((count, 1, *shape[1:])).float(), textured((count, 1, *shape[1:]), 5).float()
    ones = torch.ones(count, 1, *shape[1:])
    field = torch.stack([displacement, torch.zeros_like(displacement)], dim=1)
    target = displacement.flatten(1).abs().amax(dim=1)
    return PairBatch(*images, ones, ones, field, target, None, torch.zeros(count, dtype=torch.long), {"target": target})


def test_cells_between_teach_nothing_and_both_kinds_weigh_the_same() -> None:
    length = torch.tensor([0.0, 0.9, 1.1, 3.9, 4.1, 9.0, 9.0]).reshape(1, 1, 1, 7)
    near, far = CellCrossEntropy(1.0, 4.0).kinds(length, torch.ones_like(length))
    torch.testing.assert_close(near.flatten(), torch.tensor([0.5, 0.5, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(far.flatten(), torch.tensor([0, 0, 0, 0, 1, 1, 1]) / 3)
    nothing = CellCrossEntropy(1.0, 4.0).kinds(torch.full_like(length, 2.0), torch.ones_like(length))
    assert not any(kind.any() for kind in nothing)


@torch.no_grad()
def test_an_ignorant_network_loses_log_two() -> None:
    network = TwoChannelNetwork(TwoChannelSettings.checked(SLIM))
    torch.nn.init.zeros_(network.last.weight)
    torch.nn.init.zeros_(network.last.bias)
    apart = torch.zeros(2, 16, 16)
    apart[1] = 6
    for both_ways in (False, True):
        loss, _ = CellCrossEntropy(1.0, 4.0, both_ways)(network, batch_of(apart))
        assert float(loss) == pytest.approx(math.log(2), abs=1e-6)
    torch.nn.init.constant_(network.last.bias, 20.0)  # all is misaligned
    loss, figures = CellCrossEntropy(1.0, 4.0)(network, batch_of(apart))
    assert float(loss) == pytest.approx(10.0, abs=1e-3)
    assert float(figures["accuracy"]) == pytest.approx(0.5)
    assert float(pair_value(network, batch_of(apart))[0]) == pytest.approx(1.0)


def test_it_learns_what_it_is_taught() -> None:
    """Some dozens of steps on one batch of pairs of one contrast."""
    chosen = recipe("pairs.size=32", "pairs.motion.aligned=0.5", 'pairs.appearance=[{kind="noise", sigma=[0.0, 0.02]}]')
    maker = PairMaker(shape_subjects(6, 96, 2, 0), chosen.pairs_of(chosen.stages[0]))
    batch = maker(16, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    network, objective = TwoChannelNetwork(TwoChannelSettings.checked(SLIM)), CellCrossEntropy(1.0, 4.0)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(120):
        loss, figures = objective(network, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.6
    assert float(figures["accuracy"]) > 0.65
    with torch.no_grad():
        found = TwoChannelCheck(lambda count, generator: batch, 16, 0, objective)(network)  # type: ignore[arg-type]
    assert found["loss"] == pytest.approx(float(loss.detach()), abs=0.02)
    assert found["spearman"] > 0.3


# --- recipes --------------------------------------------------------------------------------------------------------


def test_the_first_stage_shows_one_contrast() -> None:
    chosen = recipe()
    first, second = (chosen.pairs_of(stage) for stage in chosen.stages)
    assert first.pairing == ("one_image",)
    assert {change.kind for change in first.appearance} == {"noise", "blur"}
    assert second is chosen.pairs
    assert {"contrasts", "painted"} <= set(second.pairing)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("network.dims=3",), "network.dims and pairs.dims alike"),
        (("pairs.size=100",), "no multiple"),
        (("aligned=5",), "aligned < misaligned"),
        (("misaligned=9",), "largest pairs.motion.error"),
        (('stages.1.decides="auc"',), "expected decides spearman"),
        (('stages.1.better="higher"',), "'loss' and 'higher'"),
        (("stages.0.one_contrasts=true",), "did you mean"),
        (("network.widths=[3]",), "unknown setting"),
    ],
)
def test_recipes_that_make_no_sense(changes: tuple[str, ...], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        recipe(*changes)


SETTINGS = (
    "pairs.size=32", "source.shapes=2", "source.shape_size=48", "stages.0.steps=2", "stages.1.steps=3", "stages.0.batch=4",
    "stages.1.batch=4", "stages.1.check_every=2", "checked_pairs=16", "tested_pairs=32", "network.channels=[6]",
    "network.hidden=[8]", "trainer.checkpoint_every=0", "audit=warn",
)  # fmt: skip
SMALL = tuple(word for setting in SETTINGS for word in ("--set", setting))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number, name in enumerate("abcd"):
        shown = blobs((24, 44, 40), (0.5 * number, 1.0 - number, number))
        sitk.WriteImage(volume(np.where(shown < 12, 0, shown), (1.0, 1.0, 1.0)), str(folder / f"{name}_t1.nii.gz"))
    return folder


def test_training_fills_a_folder_that_is_a_metric(
    scans: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "TREES", 10)
    monkeypatch.setattr(TwoChannelJob, "audited", 100)
    arguments = ("train", "two-channel", "--data", scans, *SMALL)
    shown = command(*arguments, "-o", tmp_path / "m").succeeded().out
    assert "two_channel" in shown
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert names == {"model.safetensors", "card.json", "curves.csv", "audit.json", "run.json", "report.html"}
    card = read_card(tmp_path / "m")
    assert card.metric == "two_channel"
    assert {"threshold", "spearman", "auc", "best_classical"} <= set(card.figures)
    metric = load_metric(str(tmp_path / "m"))
    image = torch.rand(1, 1, 40, 44, generator=torch.Generator().manual_seed(0))
    assert 0 < float(metric(image, image)) < 1
    command(*arguments, "-o", tmp_path / "again").succeeded()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "m" / "model.safetensors"
    ).read_bytes()
    curves = (tmp_path / "m" / "curves.csv").read_text().splitlines()
    assert len(curves) == 1 + 2 + 3
    rows = json.loads((tmp_path / "m" / "audit.json").read_text())
    assert rows["passed"]
    other = command("score", scans / "a_t1.nii.gz", scans / "b_t1.nii.gz", "-m", tmp_path / "m").succeeded().out
    assert other.splitlines()[1].split()[0] == "m"
    command(*arguments, "-o", tmp_path / "m", "--seed", 3).refused("another recipe")


def test_volumes_can_be_learnt_from(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "TREES", 10)
    monkeypatch.setattr(TwoChannelJob, "audited", 100)
    solid = (
        "pairs.dims=3",
        "network.dims=3",
        "pairs.size=16",
        "source.shape_size=24",
        "source.spacing=8",
        "source.shapes=3",
    )
    more = tuple(word for setting in solid for word in ("--set", setting))
    command("train", "two-channel", "-o", tmp_path / "m", *SMALL, *more).succeeded()
    assert read_card(tmp_path / "m").tensors["body.0.weight"].shape == (6, 16, 3, 3, 3)


# --- the bundled model ----------------------------------------------------------------------------------------------


def test_bundled_model_is_small_audited_and_kept_from_its_judges() -> None:
    folder = model_folder(DEFAULT_MODEL)
    card = read_card(folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5e5
    assert card.settings["audit"] == "refuse"
    assert not [note for note in card.notes if "audit failed" in note]
    people = {name.partition("/")[0] for name in (*card.subjects.train, *card.subjects.validation)}
    assert not people & {"msx19", "msl04"}
    assert not people & set(card.subjects.test)
    assert all(source.licence not in ("", "not stated") for source in card.data)
    assert card.figures["spearman"] > card.figures["best_classical_spearman"]  # type: ignore[operator]


@pytest.mark.parametrize("contrast", ["t1", "t2"])
def test_farther_costs_more_on_a_real_brain(contrast: str) -> None:
    fixed, moving = slices("t1"), slices(contrast)
    metric = load_metric("two_channel")
    values = [float(metric(fixed, moving.roll((shift, -shift), (2, 3)))) for shift in (0, 1, 2, 4)]
    assert values == sorted(values)
    assert values[0] < 0.4 < values[-1]
    there, back = metric(fixed, moving), metric(moving, fixed)
    assert abs(float(there - back)) < 0.05


def test_inversion_and_noise_are_no_misalignment() -> None:
    fixed = slices("t1")
    metric = load_metric("two_channel")
    noise = 0.05 * torch.randn(fixed.shape, generator=torch.Generator().manual_seed(0))
    apart = float(metric(fixed, fixed.roll((4, 4), (2, 3))))
    assert float(metric(fixed, fixed + noise)) < 0.6 * apart
    assert float(metric(fixed, (1 - fixed) * (fixed > 0.02))) < 0.6 * apart


def test_it_drives_a_registration() -> None:
    fixed, moving = (Image.of_array(image[0, 0]) for image in (slices("t1"), slices("t2").roll((3, -2), (2, 3))))
    found = register(fixed, moving, "two_channel", "rigid")
    middle = torch.tensor([[60.0, 70.0]])
    error = float((found.transform(middle) - middle - torch.tensor([[-2.0, 3.0]])).norm())
    assert error < 1.0
