"""Training and calibrating `registration_error`: recipes, features that are kept, model folders, `regsim calibrate`."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from regsim.applications.residual_pairs import ResidualPairMaker
from regsim.errors import InputError, SettingsError
from regsim.metrics import load_metric
from regsim.metrics.checkpoint import Card, read_card, save_model
from regsim.metrics.error_calibration import Calibration
from regsim.metrics.error_network import ErrorNetwork, ErrorNetworkSettings
from regsim.metrics.registration_error import CALIBRATION, RegistrationError
from regsim.misalign import audit
from regsim.misalign.error_pairs import ErrorPairMaker, ErrorPairSettings, with_stripped
from regsim.misalign.sources import SourceSettings, Subject, bundled_subject, shape_subjects
from regsim.misalign.unrelated import KINDS, UnrelatedSettings, with_unrelated
from regsim.training.error_features import FeatureStore, read_pairs
from regsim.training.error_recipe import ErrorRecipe
from regsim.training.recipe import load_recipe

from .conftest import Command, Samples
from .test_train import brain, write

SETTINGS = (
    "network.spacing=1", "source.spacing=1", "pairs.pairs.spacing=1", "pairs.pairs.size=16", "crop=4", "kept_pairs=8",
    "checked_pairs=4", "tested_pairs=16", "network.stem=4", "network.widths=[2, 3]", "stages.0.steps=4", "stages.0.batch=2",
    "stages.0.check_every=2", "shares=[0.5, 0.25, 0.25]", "registered=0", "audit=warn", "trainer.checkpoint_every=0",
)  # fmt: skip
SMALL = tuple(word for setting in SETTINGS for word in ("--set", setting))
TREES = 20


@pytest.fixture(scope="module", autouse=True)
def few_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "TREES", TREES)
        yield


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five subjects."""
    folder = tmp_path_factory.mktemp("data") / "scans"
    for number, name in enumerate("abcde"):
        write(folder, f"{name}_t1.nii.gz", brain(number))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model for volumes on a grid of 1."""
    settings = ErrorNetworkSettings(dims=3, spacing=1.0, stem=4, widths=(2, 3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ErrorNetwork(settings)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    card = Card(name="tiny", metric="registration_error", network=settings.model_dump(mode="json"))
    save_model(folder, card, network.state_dict())
    return folder


def settings_of(**changes: object) -> ErrorPairSettings:
    pairs = {"dims": 2, "size": 32, "pairing": ["painted"], "window": {"disc": 0.0, "box": 0.0}}
    return ErrorPairSettings.checked({"pairs": pairs, **changes})


def shapes() -> list[Subject]:
    return shape_subjects(3, 64, 2, 0)


# --- pairs ---------------------------------------------------------------------------------------------------------------


def test_errors_are_drawn_by_one_of_the_draws() -> None:
    settings = settings_of(draws=[{"error": [0.1, 0.2]}, {"error": [8.0, 9.0], "distribution": "uniform"}])
    maker = ErrorPairMaker(shapes(), settings)
    generator = torch.Generator().manual_seed(0)
    targets = torch.cat([maker(4, generator, unrelated=False).batch.parameters["target"] for _ in range(6)])
    small = targets < 0.5
    assert bool(((targets[small] >= 0.1) & (targets[small] <= 0.2)).all())
    assert bool((targets[~small] >= 4).all())
    assert bool(small.any())
    assert not bool(small.all())
    assert not bool((targets == 0).any())


def test_a_draw_may_look_otherwise() -> None:
    noisy = [{"kind": "noise", "sigma": [0.5, 0.5]}]
    plain, rough = (
        ErrorPairMaker(shapes(), settings_of(draws=[draw]))(4, torch.Generator().manual_seed(1), unrelated=False).batch
        for draw in ({"appearance": []}, {"appearance": noisy})
    )
    assert float((rough.fixed - plain.fixed).std()) > 0.1


@pytest.mark.parametrize("kind", KINDS[1:])
def test_each_way_to_be_unrelated(kind: str) -> None:
    batch = ErrorPairMaker(shapes(), settings_of())(6, torch.Generator().manual_seed(2), unrelated=False).batch
    shares = {name: float(name == kind) for name in KINDS[1:]}
    changed, unrelated = with_unrelated(batch, UnrelatedSettings(**shares), torch.Generator().manual_seed(3))
    assert unrelated.shape == batch.mask.shape
    assert bool(((unrelated == 0) | (unrelated == 1)).all())
    assert bool((unrelated <= batch.mask).all())
    touched = ((changed.fixed != batch.fixed) | (changed.moving != batch.moving)).float()
    whole = kind in ("other", "noise", "turned")
    assert (
        float(unrelated.mean()) == pytest.approx(float(batch.mask.mean())) if whole else 0 < float(unrelated.mean()) < 1
    )
    if not whole:
        assert float((touched * (1 - unrelated)).mean()) < 0.02
    assert changed.parameters["unrelated"].tolist() == [KINDS.index(kind)] * 6  # type: ignore[arg-type]


def test_related_pairs_stay_as_they_are() -> None:
    batch = ErrorPairMaker(shapes(), settings_of())(3, torch.Generator().manual_seed(2), unrelated=False).batch
    nothing = UnrelatedSettings(other=0, noise=0, turned=0, missing=0, patch=0)
    changed, unrelated = with_unrelated(batch, nothing, torch.Generator().manual_seed(0))
    assert torch.equal(changed.moving, batch.moving)
    assert not bool(unrelated.any())


def test_stripped_companions_are_the_same_person() -> None:
    whole = Subject(
        "a", {"t1": torch.rand(20, 20, 20)}, torch.zeros(20, 20, 20, dtype=torch.long),
        torch.ones(20, 20, 20, dtype=torch.bool), empty_outside=False,
    )  # fmt: skip
    assert whole.labels is not None
    whole.labels[6:14, 6:14, 6:14] = 3
    both = with_stripped([whole])
    assert [subject.person for subject in both] == ["a", "a"]
    stripped = both[1].images["t1"]
    assert float(stripped[10, 10, 10]) == float(whole.images["t1"][10, 10, 10])
    assert float(stripped[0].abs().max()) == 0


def test_registered_pairs_keep_the_truth() -> None:
    """The displacement that is said to be left carries the moved image onto the fixed one."""
    settings = ErrorPairSettings.checked({
        "pairs": {
            "dims": 2, "size": 64, "pairing": ["one_image"], "window": {"disc": 0.0, "box": 0.0},
            "motion": {"rigid": 0.0, "elastic": 1.0, "smoothness": [10.0, 12.0]},
        },
        "draws": [{"error": [2.0, 3.0], "distribution": "uniform", "elastic_error": 3.0}],
    })  # fmt: skip
    head = bundled_subject(SourceSettings(spacing=2.0, contrasts=("t1",)))
    drawn = ErrorPairMaker([replace(head, labels=None)], settings)
    before = drawn(3, torch.Generator().manual_seed(0), unrelated=False).batch
    pairs = ResidualPairMaker(drawn)(3, torch.Generator().manual_seed(0)).batch
    assert float(pairs.error.mean()) < float(before.error.mean())
    axes = torch.meshgrid(*[torch.arange(64.0)] * 2, indexing="ij")
    where = ((torch.stack(axes[::-1]) + pairs.displacement) * 2 / 63 - 1).movedim(1, -1)
    back = torch.nn.functional.grid_sample(pairs.moving, where, align_corners=True)
    held = torch.nn.functional.grid_sample(pairs.mask, where, align_corners=True) > 0.99
    for item in range(3):
        chosen = (pairs.content[item] > 0) & held[item]
        assert float(torch.corrcoef(torch.stack([pairs.fixed[item][chosen], back[item][chosen]]))[0, 1]) > 0.95


# --- features -------------------------------------------------------------------------------------------------------------


def test_features_are_made_once_and_the_same_again(tmp_path: Path) -> None:
    network = ErrorNetworkSettings(dims=2, spacing=1.0, stem=4, widths=(2, 3))
    maker = ErrorPairMaker(shapes(), settings_of())
    stores = [FeatureStore(tmp_path / name, maker, 8, network, 5) for name in ("one", "two")]
    told: list[tuple[int, int]] = []
    stores[0].fill(lambda done, of: told.append((done, of)))
    assert told == [(4, 8), (8, 8)]
    times = [file.stat().st_mtime_ns for file in stores[0].files]
    stores[0].files[1].unlink()
    stores[0].fill()
    assert stores[0].files[0].stat().st_mtime_ns == times[0]
    stores[1].fill()
    for first, second in zip(stores[0].files, stores[1].files, strict=True):
        for name, tensor in read_pairs(first).items():
            assert torch.equal(tensor, read_pairs(second)[name]), name
    crops = stores[0].draw(3, 6, torch.Generator().manual_seed(0))
    assert crops.features.shape[:1] == (3,)
    assert crops.features.shape[2:] == (6, 6)
    assert crops.error.shape == crops.held.shape == (3, 1, 6, 6)
    mean, deviation = stores[0].scales()
    assert bool((deviation > 0).all())
    assert mean.shape == crops.features.shape[1:2]


def test_a_damaged_file_of_features_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="remove the file"):
        read_pairs(tmp_path / "0.safetensors")


# --- recipes and training -----------------------------------------------------------------------------------------------------


def test_recipes_fit_their_networks() -> None:
    for name in ("registration-error-2d", "registration-error-3d", "registration-error-3d-long"):
        recipe = load_recipe(name)
        assert isinstance(recipe, ErrorRecipe)
        assert recipe.dims == recipe.pairs.pairs.dims
    assert load_recipe("registration-error-3d", ["pairs.draws=[{}]"]).pairs.draws  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("network.dims=2", "set network.dims and"),
        ("network.spacing=1", "not the network's working spacing"),
        ("crop=40", "crop"),
        ("stages.0.decides=spearman", "decides likelihood"),
        ("pairs.unrelated.nose=0.1", "did you mean 'pairs.unrelated.noise'"),
    ],
)
def test_recipes_that_cannot_be(change: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load_recipe("registration-error-3d", [change])


def test_a_training_from_end_to_end(scans: Path, command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "my-error"
    call = ["train", "registration-error-3d", "-o", folder, "--data", scans, *SMALL]
    command(*call).succeeded()
    card = read_card(folder)
    assert card.metric == "registration_error"
    assert {"spearman", "error", "called_unrelated"} <= set(card.figures)
    assert len(card.subjects.train) + len(card.subjects.validation) + len(card.subjects.test) == 5
    assert (folder / "report.html").is_file()
    assert not (folder / "unfinished").exists()
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert "finished before" in command(*call).succeeded().out
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    metric = load_metric(str(folder))
    image = torch.from_numpy(brain(7))[None, None]
    assert float(metric(image, image)) >= 0


# --- regsim calibrate ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(scans: Path) -> Path:
    """Each scan beside itself."""
    path = scans.parent / "aligned.csv"
    lines = [f"scans/{name}_t1.nii.gz,scans/{name}_t1.nii.gz,{name}" for name in "abc"]
    path.write_text("fixed,moving,subject\n" + "\n".join(lines) + "\n")
    return path


def test_calibrate_writes_what_check_reads(listed: Path, model: Path, command: Command, tmp_path: Path) -> None:
    target = tmp_path / "own.json"
    call = ["calibrate", listed, "-o", target, "--model", model, "--draws", 2, "--registered", 0]
    shown = command(*call).succeeded()
    assert "3 subjects" in shown.out
    assert "worst subject" in shown.out
    made = Calibration.of_json(target)
    assert (made.model, made.subjects, made.pairs, made.unit) == ("tiny", 3, 6, "mm")
    first = target.read_bytes()
    told = json.loads(command(*call, "--json", "-").succeeded().out)
    assert told["subjects"] == 3
    assert len(told["coverage"]) == 9
    assert target.read_bytes() == first
    scan = listed.parent / "scans" / "a_t1.nii.gz"
    done = command("check", scan, scan, "-o", tmp_path / "c", "--model", model, "--calibration", target, "--json", "-")
    assert json.loads(done.succeeded().out)["coverage"] == 0.9


def test_a_pair_that_cannot_be_used_is_left_out(listed: Path, model: Path, command: Command, tmp_path: Path) -> None:
    heading, rest = listed.read_text().split("\n", 1)
    listed.write_text(f"{heading}\nscans/gone.nii.gz,scans/a_t1.nii.gz,d\n{rest}")
    call = ["calibrate", listed, "-o", tmp_path / "c.json", "--model", model, "--draws", 1, "--registered", 0]
    told = json.loads(command(*call, "--json", "-").succeeded().out)
    assert len(told["left_out"]) == 1
    assert "gone.nii.gz" in told["left_out"][0]


def test_bad_lists_in_one_line(listed: Path, model: Path, command: Command, tmp_path: Path) -> None:
    one = listed.with_name("one.csv")
    one.write_text("fixed,moving,subject\n" + "scans/a_t1.nii.gz,scans/a_t1.nii.gz,a\n")
    gone = listed.with_name("gone.csv")
    gone.write_text("fixed,moving\nscans/gone.nii.gz,scans/gone.nii.gz\n")
    cases = {
        "pairs of one subject only": [one, "-o", tmp_path / "c.json"],
        "no pair can be used": [gone, "-o", tmp_path / "c.json"],
        "no such file": [tmp_path / "none.csv", "-o", tmp_path / "c.json"],
        "there is no folder": [listed, "-o", tmp_path / "no" / "c.json"],
    }
    for words, arguments in cases.items():
        command("calibrate", *arguments, "--model", model, "--draws", 1, "--registered", 0).refused(words)
        assert not (tmp_path / "c.json").exists()


def test_pictures_are_calibrated_in_pixels(samples: Samples, command: Command, tmp_path: Path) -> None:
    settings = ErrorNetworkSettings(dims=2, spacing=1.0, stem=4, widths=(2, 3))
    network = ErrorNetwork(settings)
    card = Card(name="flat", metric="registration_error", network=settings.model_dump(mode="json"))
    save_model(tmp_path / "flat", card, network.state_dict())
    path = tmp_path / "pairs.csv"
    path.write_text(
        "fixed,moving,subject\n" + "".join(f"{samples.picture},{samples.picture},{name}\n" for name in "ab")
    )
    target = tmp_path / "flat" / CALIBRATION
    command("calibrate", path, "-o", target, "--model", tmp_path / "flat", "--draws", 2).succeeded()
    metric = load_metric(str(tmp_path / "flat"))
    assert isinstance(metric, RegistrationError)
    assert metric.calibration(2).unit == "px"
