"""`regsim train` from end to end: what it writes, how it goes on, what it refuses; and model folders as metrics."""

import csv
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
import torch
from PIL import Image as Picture
from safetensors.torch import load, save

from regsim.evaluation.results import Provenance
from regsim.metrics import load_metric, metric_names
from regsim.metrics.checkpoint import CARD, WEIGHTS, Card, read_card
from regsim.metrics.zoo import bundled_models
from regsim.misalign import audit
from regsim.training.recipe import load_recipe, recipe_names
from regsim.training.state import STATE

from .conftest import Command, Samples, volume

FILES = {WEIGHTS, CARD, "curves.csv", "audit.json", "run.json", "report.html"}
TREES = 20
SHAPE = (24, 44, 40)
SETTINGS = (
    "pairs.size=32", "source.spacing=1", "source.shapes=2", "source.shape_size=48", "stages.0.steps=3", "stages.0.batch=4",
    "checked_pairs=16", "tested_pairs=32", "network.hidden=[8]", "network.encoder.channels=[8, 8]",
    "trainer.checkpoint_every=0", "audit=warn",
)  # fmt: skip
SMALL = tuple(word for setting in SETTINGS for word in ("--set", setting))
Table = dict[str, tuple[tuple[object, ...], tuple[str, ...]]]


def brain(seed: int, shape: tuple[int, ...] = SHAPE) -> npt.NDArray[np.float32]:
    """Blobs on dark ground, other ones for each seed."""
    random = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    image = np.zeros(shape)
    for _ in range(12):
        centre, width = np.array(shape) * random.uniform(0.3, 0.7, len(shape)), min(shape) * random.uniform(0.06, 0.16)
        image += random.uniform(40, 120) * np.exp(-((points - centre) ** 2).sum(axis=-1) / (2 * width**2))
    return np.where(image < 12, 0, image).astype(np.float32)


def write(folder: Path, name: str, array: npt.NDArray[Any], spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(volume(array, spacing), str(folder / name))
    return folder / name


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects."""
    folder = tmp_path_factory.mktemp("data") / "scans"
    for number, name in enumerate("abcd"):
        write(folder, f"{name}_t1.nii.gz", brain(number))
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_trees() -> Iterator[None]:
    """The audit's forests, smaller; and the learned metrics registered."""
    import regsim.metrics.siamregqc  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "TREES", TREES)
        yield


@pytest.fixture(scope="module")
def trained(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model."""
    from regsim.cli.app import run

    folder = tmp_path_factory.mktemp("models") / "my-metric"
    assert run(["train", "siamregqc", "-o", str(folder), "--data", str(scans), *SMALL]) == 0
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


# --- what a training leaves ---------------------------------------------------------------------------------------------


def test_the_folder_is_whole(trained: Path, scans: Path) -> None:
    assert names(trained) == FILES
    card = read_card(trained)
    parts = [set(part) for part in (card.subjects.train, card.subjects.validation, card.subjects.test)]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert set.union(*parts) == set("abcd")
    assert card.sha256 == hashlib.sha256(weights(trained)).hexdigest()
    assert card.versions["torch"] == torch.__version__
    assert {source.name: source.licence for source in card.data}["scans"] == "not stated"
    assert card.settings["pairs"]["size"] == 32  # type: ignore[index, call-overload]
    assert {"spearman", "spearman_outline_hidden", "auc", "accuracy", "blurred_called_misaligned"} <= set(card.figures)
    assert 0.5 < float(str(card.figures["auc"])) <= 1
    with (trained / "curves.csv").open() as stream:
        assert [row["step"] for row in csv.DictReader(stream)] == ["1", "2", "3"]
    assert audit.Audit.model_validate_json((trained / "audit.json").read_bytes()).passed
    run = Provenance.model_validate_json((trained / "run.json").read_bytes())
    assert {file.name for file in run.inputs} == {"scans", *"abcd"}
    assert str(scans.parent) not in (trained / "run.json").read_text()
    assert (trained / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_the_folder_is_a_metric(trained: Path, samples: Samples, command: Command, tmp_path: Path) -> None:
    pair = (samples.fixed, samples.moving)
    shown = command(
        "score", *pair, "-m", trained, "-m", "mse", "--map", f"{trained}={tmp_path / 'map.nii.gz'}"
    ).succeeded()
    assert [line.split()[0] for line in shown.out.splitlines()] == ["metric", "my-metric", "mse"]
    assert (tmp_path / "map.nii.gz").is_file()
    image = torch.from_numpy(brain(7))[None, None]
    metric = load_metric(str(trained))
    assert metric.name == "siamregqc"
    assert float(metric(image, image)) < float(metric(image, image.roll(6, -1)))
    command("landscape", samples.picture, samples.picture, "-m", trained, "--quick", "-o", tmp_path / "l").succeeded()
    assert (tmp_path / "l" / "report.html").is_file()
    assert "AUC" in command("models", trained).succeeded().out


@pytest.mark.skipif(not bundled_models(), reason="the table of a registration needs the bundled models")
def test_the_folder_drives_a_registration(trained: Path, samples: Samples, command: Command, tmp_path: Path) -> None:
    pair = (samples.picture, samples.moved_picture)
    command("register", *pair, "-o", tmp_path / "run", "-m", trained, "--transform", "rigid", "--finest", 3).succeeded()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["metric"] for row in results["metrics"] if row["drove"]] == ["my-metric"]


def test_a_model_is_named_in_any_folder(trained: Path, samples: Samples, command: Command, tmp_path: Path) -> None:
    for name in ("1x2", "a,b:c", "mse.old"):
        shutil.copytree(trained, tmp_path / name)
        assert name in command("score", samples.fixed, samples.moving, "-m", tmp_path / name).succeeded().out


def test_the_seed_makes_the_weights(trained: Path, scans: Path, command: Command, tmp_path: Path) -> None:
    for name, seed in (("again", 0), ("other", 1)):
        command("train", "siamregqc", "-o", tmp_path / name, "--data", scans, *SMALL, "--seed", seed).succeeded()
    assert weights(tmp_path / "again") == weights(trained)
    assert weights(tmp_path / "other") != weights(trained)


def test_folds(scans: Path, command: Command, tmp_path: Path) -> None:
    arguments = ("train", "siamregqc", "-o", tmp_path / "m", "--data", scans, *SMALL, "--folds", 3, "--json", "-")
    cards = json.loads(command(*arguments).succeeded().out)["models"]
    assert [len(card["subjects"]["test"]) for card in cards] == [2, 1, 1]
    assert sorted(name for card in cards for name in card["subjects"]["test"]) == list("abcd")
    assert names(tmp_path / "m") == {"fold-1", "fold-2", "fold-3"}
    assert all(names(tmp_path / "m" / f"fold-{number}") == FILES for number in (1, 2, 3))
    shutil.rmtree(tmp_path / "m" / "fold-2")  # as if the second one had been killed
    again = json.loads(command(*arguments).succeeded().out)["models"]
    assert [one["created"] == other["created"] for one, other in zip(cards, again, strict=True)][::2] == [True, True]
    assert [one["sha256"] for one in cards] == [one["sha256"] for one in again]


def test_what_is_read_is_said(scans: Path) -> None:
    from regsim.applications.train import read_all

    said: list[str] = []
    read_all([scans], load_recipe("siamregqc"), said.append)
    assert said == [f"reading {name}" for name in "abcd"]


def test_subjects_that_only_judge(scans: Path, command: Command, tmp_path: Path) -> None:
    for number, name in enumerate("xy"):
        write(tmp_path / "unseen", f"{name}_t1.nii.gz", brain(10 + number))
    arguments = (
        "train",
        "siamregqc",
        "-o",
        tmp_path / "m",
        "--data",
        scans,
        "--test-data",
        tmp_path / "unseen",
        *SMALL,
    )
    command(*arguments).succeeded()
    subjects = read_card(tmp_path / "m").subjects
    assert subjects.test == ("x", "y")
    assert len(subjects.train) + len(subjects.validation) == 4
    command(*arguments, "--test-data", scans).refused("'a'", "--test-data", "unseen")


def test_volumes_without_any_files(command: Command, tmp_path: Path) -> None:
    solid = ("pairs.dims=3", "network.encoder.dims=3", "pairs.size=16", "source.shape_size=24", "source.spacing=8")
    more = tuple(word for setting in (*solid, "source.shapes=3") for word in ("--set", setting))
    command("train", "siamregqc", "-o", tmp_path / "m", *SMALL, *more, "--set", "audit=warn").succeeded()
    card = read_card(tmp_path / "m")
    assert card.subjects.test == ("icbm152",)
    assert card.subjects.train == card.subjects.validation == ()
    assert card.tensors["encoder.blocks.0.0.weight"].shape[2:] == (3, 3, 3)
    with pytest.raises(ValueError, match="is for volumes"):
        load_metric(str(tmp_path / "m"))(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16))


def test_pairs_that_leak(scans: Path, command: Command, tmp_path: Path) -> None:
    leak = ("--set", 'pairs.resample="misaligned"', "--set", 'pairs.pairing=["one_image"]')
    arguments = ("train", "siamregqc", "-o", tmp_path / "m", "--data", scans, *SMALL, *leak)
    command(*arguments, "--set", "audit=refuse").refused("give their answer away", "limit", "audit=warn")
    assert CARD not in names(tmp_path / "m")
    command(*arguments, "--set", 'audit="warn"').succeeded()
    assert any("audit failed" in note for note in read_card(tmp_path / "m").notes)
    assert "The pairs leak" in (tmp_path / "m" / "report.html").read_text(encoding="utf-8")


# --- killed, repeated, failed -------------------------------------------------------------------------------------------

KILLED = f"""
import sys
from regsim.misalign import audit
audit.TREES = {TREES}
from regsim.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_training_goes_on(scans: Path, command: Command, tmp_path: Path) -> None:
    arguments = [
        str(word) for word in ("train", "siamregqc", "--data", scans, *SMALL, "--set", "stages.0.steps=12", "-o")
    ]
    broken = tmp_path / "broken"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments, str(broken)], env=environment)
    while process.poll() is None and not (broken / "unfinished" / STATE).is_file():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert names(broken) == {"unfinished"}, "killed too late"
    command(*arguments, broken).succeeded()
    command(*arguments, tmp_path / "whole").succeeded()
    assert names(broken) == FILES
    assert weights(broken) == weights(tmp_path / "whole")


def test_a_finished_model_is_not_trained_again_nor_lost(
    trained: Path, scans: Path, command: Command, tmp_path: Path
) -> None:
    model = shutil.copytree(trained, tmp_path / "m")
    (model / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    arguments = ("train", "siamregqc", "-o", model, "--data", scans, *SMALL)
    assert "finished before" in command(*arguments, "--set", "trainer.checkpoint_every=9").succeeded().out
    command(*arguments, "--seed", 5).refused("another recipe or other data", "--fresh")
    wild = ("--set", "stages.0.learning_rate=10", "--set", "stages.0.steps=20", "--set", "stages.0.clip=0")
    command(*arguments, "--fresh", *wild).refused("stopped", code=1)
    leaking = ("--set", "pairs.resample=misaligned", "--set", 'pairs.pairing=["one_image"]', "--set", "audit=refuse")
    command(*arguments, "--fresh", *leaking).refused("give their answer away")
    assert {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()} == before
    command(*arguments, "--fresh", "--seed", 5).succeeded()
    assert names(model) == FILES | {"notes.txt"}
    assert read_card(model).seed == 5


# --- recipes ------------------------------------------------------------------------------------------------------------


def test_recipes_are_listed(command: Command) -> None:
    shown = command("train", "--list").succeeded().out
    assert all(name in shown for name in recipe_names())
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


def sets(*settings: str) -> tuple[object, ...]:
    return tuple(word for setting in settings for word in ("--set", setting))


RECIPES: Table = {
    "no recipe": ((), ("expected a recipe", "siamregqc-paper")),
    "unknown recipe": (("siamregqk",), ("did you mean 'siamregqc'",)),
    "no such file": (("my.toml",), ("my.toml", "no such file")),
    "unknown group": (("siamregqc", *sets("pears.size=3")), ("'pears'", "did you mean 'pairs'")),
    "unknown key": (("siamregqc", *sets("pairs.sise=3")), ("did you mean 'pairs.size'",)),
    "unknown deep key": (
        ("siamregqc", *sets("pairs.motion.common.zoon=2")),
        ("did you mean 'pairs.motion.common.zoom'",),
    ),
    "unknown key of an objective": (("siamregqc", *sets("stages.0.objectives.0.wait=2")), ("objectives.0", "weight")),
    "unknown objective": (("siamregqc", *sets("stages.0.objectives.0.kind=rank")), ("did you mean 'ranking'",)),
    "wrong kind": (("siamregqc", *sets("pairs.size=big")), ("pairs.size", "integer", "'big'")),
    "a value for a group": (("siamregqc", *sets("pairs.motion=3")), ("pairs.motion", "a group of settings")),
    "a word for a list": (("siamregqc", *sets("source.contrasts=t1")), ("a list", '["t1", "t2"]')),
    "a list without quotes": (("siamregqc", *sets("source.contrasts=[t1]")), ("as in TOML", '["t1", "t2"]')),
    "no =": (("siamregqc", *sets("pairs.size")), ("key=value",)),
    "no such stage": (("siamregqc", *sets("stages.7.steps=3")), ("from 0 to 0", "'7'")),
    "below a value": (("siamregqc", *sets("pairs.size.x=3")), ("nothing lies below",)),
    "no steps": (("siamregqc", *sets("stages.0.steps=0")), ("stages.0.steps", "1")),
    "not a number": (("siamregqc", *sets("stages.0.learning_rate=nan")), ("finite",)),
    "a billion channels": (("siamregqc", *sets("network.encoder.channels=[1000000000]")), ("channels", "1024")),
    "a billion in the head": (("siamregqc", *sets("network.hidden=[1000000000]")), ("hidden",)),
    "two and three axes": (("siamregqc", *sets("pairs.dims=3")), ("network.encoder.dims",)),
    "shapes that fill the memory": (
        ("siamregqc", *sets("pairs.dims=3", "network.encoder.dims=3", "source.shapes=900")),
        ("source.shapes", "GB"),
    ),
    "crops below the reach": (("siamregqc", *sets("pairs.size=8", "network.encoder.channels=[8,8,8,8]")), ("reach",)),
    "a head that cannot answer": (
        ("siamregqc", *sets('stages.0.objectives=[{kind="cross_entropy"}]')),
        ("cross_entropy", "network.head dense"),
    ),
    "an unknown figure decides": (
        ("siamregqc", *sets("stages.0.check_every=1", "stages.0.decides=auc", "stages.0.better=higher")),
        ("spearman or accuracy",),
    ),
    "the lowest correlation decides": (
        ("siamregqc", *sets("stages.0.check_every=1", "stages.0.decides=spearman")),
        ("better higher",),
    ),
    "sections apart the wrong way": (("siamregqc", *sets("pairs.apart=[5, 1]")), ("apart",)),
    "window": (("siamregqc", *sets("pairs.window.smallest=0.9", "pairs.window.largest=0.2")), ("smallest",)),
    "unknown device": (("siamregqc", "--device", "gpu"), ("did you mean 'cpu'",)),
    "folds without data": (("siamregqc", "--folds", 3), ("--folds 3", "--data")),
    "nothing to train on": (("siamregqc", *sets("source.shapes=1")), ("give --data",)),
}


@pytest.mark.parametrize("mistake", RECIPES)
def test_bad_recipes_and_settings(mistake: str, command: Command, tmp_path: Path) -> None:
    arguments, words = RECIPES[mistake]
    command("train", *arguments, "-o", tmp_path / "m").refused(*words)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is { not", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b'name = "x"', "'metric': is missing"),
        (b"", "missing"),
    ],
)
def test_files_that_are_no_recipe(content: bytes, words: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(content)
    command("train", tmp_path / "r.toml", "-o", tmp_path / "m").refused(words)
    command("train", "siamregqc").refused("-o FOLDER")


def test_every_recipe_is_sound() -> None:
    for name in recipe_names():
        assert load_recipe(name).description


# --- data ---------------------------------------------------------------------------------------------------------------


def sections(folder: Path, *sizes: tuple[int, int], flat: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        noise = np.random.default_rng(number).integers(0, 1 if flat else 255, size)
        Picture.fromarray(noise.astype(np.uint8)).save(folder / f"section{number}.png")


def manifest(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "list.csv").write_text(text)

    return make


def cut(folder: Path) -> None:
    path = folder / "a_t1.nii.gz"
    path.write_bytes(path.read_bytes()[:4000])


def elsewhere(folder: Path) -> None:
    image = volume(brain(9), (1.0, 1.0, 1.0))
    image.SetOrigin((900.0, 0.0, 0.0))
    sitk.WriteImage(image, str(folder / "a_t2.nii.gz"))


def only_one(folder: Path) -> None:
    for name in "bcd":
        (folder / f"{name}_t1.nii.gz").unlink()


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def with_sections(*sizes: tuple[int, int], flat: bool = False) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        emptied(folder)
        sections(folder / "s", *sizes, flat=flat)

    return make


def replaced(
    name: str, array: npt.NDArray[Any], spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write(folder, name, array, spacing)

    return make


HOLES = brain(0)
HOLES[3] = np.nan
HEAD = "subject,contrast,path\n"
DATA: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...]]] = {
    "missing": (shutil.rmtree, "", ("no such folder or manifest",)),
    "empty": (emptied, "", ("holds no images",)),
    "an image": (lambda _folder: None, "a_t1.nii.gz", ("is an image", "folder")),
    "one subject": (only_one, "", ("one subject", "3 or more")),
    "too small": (replaced("a_t1.nii.gz", brain(0, (5, 6, 7))), "", ("'a'", "too small", "pairs.size")),
    "too narrow": (replaced("a_t1.nii.gz", brain(0, (24, 7, 40)), (1, 1, 5)), "", ("'a'", "too narrow", "pairs.size")),
    "constant": (replaced("a_t1.nii.gz", np.full(SHAPE, 3.0, np.float32)), "", ("'a'", "constant")),
    "NaN": (replaced("a_t1.nii.gz", HOLES), "", ("a_t1.nii.gz", "NaN")),
    "truncated": (cut, "", ("a_t1.nii.gz", "truncated")),
    "labels elsewhere": (replaced("a_labels.nii.gz", np.ones((20, 44, 40), np.int16)), "", ("'a'", "another grid")),
    "labels empty": (replaced("a_seg.nii.gz", np.zeros(SHAPE, np.int16)), "", ("'a'", "nothing but background")),
    "labels halved": (replaced("a_dseg.nii.gz", np.full(SHAPE, 0.5, np.float32)), "", ("a_dseg", "whole numbers")),
    "contrasts apart": (elsewhere, "", ("'a'", "'t2'")),
    "flat and solid": (replaced("a_t2.nii.gz", brain(0, (44, 40))), "", ("'a'", "2-D", "3-D")),
    "one contrast twice": (replaced("a_t1.nrrd", brain(8)), "", ("'a'", "two files", "a_t1.nrrd")),
    "sections of two sizes": (with_sections((40, 40), (40, 42)), "", ("differ in size", "section1.png")),
    "a black section": (with_sections((40, 40), (40, 40), flat=True), "", ("section0.png", "constant")),
    "no column": (manifest("subject,path\na,a_t1.nii.gz\n"), "list.csv", ("no column contrast",)),
    "semicolons": (manifest("subject;contrast;path\n"), "list.csv", ("comma-separated",)),
    "no rows": (manifest(HEAD), "list.csv", ("expected rows",)),
    "no file": (manifest(HEAD + "a,t1,none.nii.gz\n"), "list.csv", ("line 2", "none.nii.gz", "does not exist")),
    "empty cell": (manifest(HEAD + "a,,a_t1.nii.gz\n"), "list.csv", ("line 2", "no contrast")),
    "twice": (manifest(HEAD + "a,t1,a_t1.nii.gz\na,T1,b_t1.nii.gz\n"), "list.csv", ("'a'", "two files", "'t1'")),
}


@pytest.mark.parametrize("mistake", DATA)
def test_bad_data(mistake: str, scans: Path, command: Command, tmp_path: Path) -> None:
    make, name, words = DATA[mistake]
    data = shutil.copytree(scans, tmp_path / "scans")
    make(data)
    command("train", "siamregqc", "-o", tmp_path / "m", "--data", data / name, *SMALL).refused(*words)
    assert not (tmp_path / "m").exists()


def test_data_that_do_not_suit_the_recipe(scans: Path, command: Command, tmp_path: Path) -> None:
    arguments = ("train", "siamregqc", "--data", scans, *SMALL)
    out = ("-o", tmp_path / "m")
    command(*arguments, *out, *sets('source.contrasts=["t2"]')).refused("contrasts t2", "there are t1")
    command(*arguments, *out, *sets('stages.0.objectives=[{kind="segmentation",classes=[1]}]')).refused("no label map")
    command(*arguments, *out, "--data", scans).refused("two sets", "'a'")
    command(*arguments, *out, "--folds", 9).refused("4 subjects", "9 or more")
    checked = sets(
        "stages.0.check_every=1", "stages.0.decides=spearman", "stages.0.better=higher", "shares=[1.0,0.0,0.0]"
    )
    command(*arguments, *out, *checked).refused("validation subjects")
    thick = shutil.copytree(scans, tmp_path / "thick")
    write(thick, "a_t1.nii.gz", brain(0), (1.0, 1.0, 4.0))
    solid = ("pairs.dims=3", "network.encoder.dims=3", "pairs.size=16", "source.shapes=0")
    command("train", "siamregqc", "--data", thick, *SMALL, *out, *sets(*solid)).refused(
        "'a'", "4 x 1 x 1", "pairs.dims 2"
    )
    assert not (tmp_path / "m").exists()
    (tmp_path / "file").write_text("mine")
    command(*arguments, "-o", tmp_path / "file").refused("is a file", "another -o")
    assert (tmp_path / "file").read_text() == "mine"


# --- model folders ------------------------------------------------------------------------------------------------------

Tensors = dict[str, torch.Tensor]
FIRST = "encoder.blocks.0.0.weight"


def card_with(**changes: object) -> Callable[[Path], None]:
    """`a__b=c` changes what lies deeper."""

    def make(folder: Path) -> None:
        card = json.loads((folder / CARD).read_text())
        for way, value in changes.items():
            *path, last = way.split("__")
            place = card
            for part in path:
                place = place[part]
            place[last] = value
        (folder / CARD).write_text(json.dumps(card))

    return make


def tensors_with(change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    """Other weights, and a card that agrees with them."""

    def make(folder: Path) -> None:
        tensors = load(weights(folder))
        change(tensors)
        content = save(tensors)
        (folder / WEIGHTS).write_bytes(content)
        facts = {name: {"shape": list(tensor.shape), "dtype": "F32"} for name, tensor in tensors.items()}
        card_with(sha256=hashlib.sha256(content).hexdigest(), tensors=facts)(folder)

    return make


def renamed(tensors: Tensors) -> None:
    tensors["other"] = tensors.pop(FIRST)


def as_pickle(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"a": 1}))


def halved(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(weights(folder)[:5000])


MODELS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "missing tensor": (tensors_with(lambda tensors: tensors.pop(FIRST)), (FIRST, "missing")),
    "extra tensor": (tensors_with(lambda tensors: tensors.update(more=torch.zeros(3))), ("'more'", "extra")),
    "renamed tensor": (tensors_with(renamed), (FIRST, "'other'")),
    "larger tensor": (tensors_with(lambda tensors: tensors.update({FIRST: torch.zeros(9, 9)})), (FIRST, "[9, 9]")),
    "not finite": (tensors_with(lambda tensors: tensors[FIRST].fill_(torch.nan)), (FIRST, "not finite")),
    "a pickle": (as_pickle, ("pickle", "can run code")),
    "cut short": (halved, ("cut short",)),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), (WEIGHTS, "no such file")),
    "no card": (lambda folder: (folder / CARD).unlink(), (CARD, "regsim train")),
    "card is no JSON": (lambda folder: (folder / CARD).write_text("{"), (CARD, "not JSON")),
    "card lies about shapes": (card_with(tensors={"a": {"shape": [3], "dtype": "F32"}}), (CARD, "'a'")),
    "card of other weights": (card_with(sha256="00"), ("SHA-256",)),
    "newer card": (card_with(format=9), ("format 9", "update")),
    "card of another metric": (card_with(metric="imsy"), ("'imsy'", "no learned metric")),
    "card of a classical metric": (card_with(metric="mse"), ("'mse'", "no learned metric")),
    "billion channels": (card_with(network__encoder__channels=[10**9]), ("channels", "1024")),
    "billion in the head": (card_with(network__hidden=[10**9]), ("hidden",)),
    "gigabytes in the head": (card_with(network__hidden=[8192] * 4), ("head", "missing")),
    "negative": (card_with(network__hidden=[-1]), ("hidden",)),
    "unknown setting": (card_with(network__headd="local"), ("did you mean 'head'",)),
    "five axes": (card_with(network__encoder__dims=5), ("encoder.dims",)),
    "volumes": (card_with(network__encoder__dims=3), ("F32",)),
    "a head without an answer": (card_with(network__head="dense"), ("head",)),
}


@pytest.mark.parametrize("mistake", MODELS)
def test_bad_models(mistake: str, trained: Path, samples: Samples, command: Command, tmp_path: Path) -> None:
    make, words = MODELS[mistake]
    model = shutil.copytree(trained, tmp_path / "model")
    make(model)
    command("score", samples.fixed, samples.moving, "-m", model).refused(*words)


def test_models_that_are_not_there(samples: Samples, command: Command, tmp_path: Path) -> None:
    pair = (samples.fixed, samples.moving)
    command("score", *pair, "-m", "nosuch").refused("unknown metric 'nosuch'", *metric_names(), *bundled_models())
    command("score", *pair, "-m", tmp_path / "none").refused("none", "no such folder")
    command("score", *pair, "-m", tmp_path).refused("holds no card.json")
    command("score", *pair, "-m", "siamregqc:model=nosuch").refused("unknown model 'nosuch'", "regsim train")
    command("models", "nosuch").refused("unknown model 'nosuch'")


def test_a_header_that_begins_like_a_pickle(tmp_path: Path) -> None:
    """Its length may end in the byte 0x80, with which pickles begin."""
    from regsim.metrics.checkpoint import read_header, save_model

    seen = set()
    for length in range(1, 200):
        save_model(tmp_path / "m", Card(name="x", metric="siamregqc"), {"a" * length: torch.zeros(2)})
        seen.add((tmp_path / "m" / WEIGHTS).read_bytes()[0])
        assert read_header(tmp_path / "m" / WEIGHTS)[1] > 0
    assert 0x80 in seen
