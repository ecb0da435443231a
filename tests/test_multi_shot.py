"""`regsim train patch-likelihood-multishot --pairs`: what it writes, how it goes on, what it tells of pairs it cannot use."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regsim.errors import InputError
from regsim.evaluation.accuracy import foreground_points, true_errors
from regsim.images.image import Image
from regsim.images.io import read_image, write_image
from regsim.metrics import load_metric
from regsim.metrics.checkpoint import read_card
from regsim.misalign.audit import Audit
from regsim.training.patch_recipe import MultiShotRecipe
from regsim.training.recipe import load_recipe, recipe_names
from regsim.transforms import Rigid, read_transform, warp

from .conftest import Command
from .test_patch_likelihood import smooth

SETTINGS = (
    "network.dims=2", "tested.dims=2", "network.channels=[3, 4, 5]", "network.hidden=6", "learning.steps=3",
    "learning.check_every=3", "learning.batch=16", "patches_compared=12", "checked_patches=16", "audit=warn",
    "network.spacings=[2.0, 1.0]", "settled=0", "trainer.checkpoint_every=0", "patches.appearance=[]",
    "shots=[{spacing=2.0, dither=4.0, apart=8.0, steps=3}, "
    "{spacing=1.0, dither=2.0, apart=8.0, reach=24.0, exchange=true, steps=3}]",
)  # fmt: skip
CHANGES = tuple(word for setting in SETTINGS for word in ("--set", setting))


def written(folder: Path, people: int = 3) -> Path:
    """Pictures of some people, each pair shifted by its own amount; the path of the list."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(people):
        fixed = Image.of_array(smooth((72, 76), number)[0])
        away = Rigid(2, fixed.grid.centre)
        with torch.no_grad():
            away.translation.copy_(torch.tensor([3.0 + number, -2.0]))
        moving = warp(fixed, away.inverse(), fixed.grid)
        for name, image in (("fixed", fixed), ("moving", moving)):
            write_image(image.with_data(image.data.clamp(0, 1)), folder / f"{number}_{name}.png")
        rows.append((f"{number}_fixed.png", f"{number}_moving.png", f"pair{number}", f"person{number}"))
    return listed(folder / "pairs.csv", rows)


def listed(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("fixed", "moving", "name", "subject"), *rows])
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_small_training_from_end_to_end(command: Command, tmp_path: Path) -> None:
    pairs = written(tmp_path / "data")
    with pairs.open("a") as stream:
        stream.write("lost.png,0_moving.png,lost,person9\nsmall.png,small.png,tiny,person8\n")
    write_image(Image.of_array(smooth((14, 14))[0]), tmp_path / "data" / "small.png")
    folder = tmp_path / "model"
    asked = ("train", "patch-likelihood-multishot", "--pairs", str(pairs), "-o", str(folder), *CHANGES)
    command(*asked).succeeded()
    names = {file.name for file in folder.iterdir()}
    assert {
        "model.safetensors",
        "card.json",
        "curves.csv",
        "audit.json",
        "run.json",
        "report.html",
        "shots.json",
    } <= names
    assert {file.name for file in (folder / "transforms").iterdir()} == {f"pair{number}.txt" for number in range(3)}
    rows = {row["name"]: row for row in rows_of(folder / "pairs.csv")}
    assert rows["lost"]["part"] == "left out"
    assert "lost.png" in rows["lost"]["why"]
    assert rows["tiny"]["part"] == "left out"
    assert "no room" in rows["tiny"]["why"]
    assert sorted(row["part"] for row in rows.values()) == [
        "left out",
        "left out",
        "training",
        "training",
        "validation",
    ]
    for number in range(3):  # a pair cannot end farther away than its shots have moved it
        way = read_transform(folder / "transforms" / f"pair{number}.txt", 2)
        points = foreground_points(read_image(tmp_path / "data" / f"{number}_fixed.png"))
        moved = float(true_errors(way, Rigid(2), points).mean())
        told = float(rows[f"pair{number}"]["moved_1"]) + float(rows[f"pair{number}"]["moved_2"])
        assert 0 < moved <= 1.05 * told + 0.05
    shots = json.loads((folder / "shots.json").read_text())["shots"]
    assert [shot["spacing"] for shot in shots] == [2.0, 1.0]
    assert {answer["motion"] for answer in shots[0]["responses"]} == {"shift in x", "shift in y", "turn"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Shot by shot" in page
    assert "<td>from 8.00 px away</td>" in page
    assert "<td>8.00 to 24.0 px away; roles exchanged</td>" in page
    card = read_card(folder)
    assert set(card.subjects.train) | set(card.subjects.validation) == {f"person{n}/pair{n}" for n in range(3)}
    metric = load_metric("patch_likelihood", model=str(folder))
    assert metric(torch.rand(1, 1, 40, 40), torch.rand(1, 1, 40, 40)).shape == (1,)
    before = (folder / "card.json").read_bytes()
    assert "finished before" in command(*asked).succeeded().out
    assert (folder / "card.json").read_bytes() == before


def test_patches_of_near_places_are_audited_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leak that only the second shot's patches have is told before anything is learnt."""
    from regsim.applications import multi_shot
    from regsim.applications.train import TrainRequest, train_model
    from regsim.misalign.pairs import PairBatch

    audited = multi_shot.audit_pairs
    farthest: list[float] = []

    def hinted(drawn: PairBatch, seed: int, elsewhere: bool) -> Audit:
        farthest.append(float(drawn.error.max()))
        if farthest[-1] < 13.0:
            drawn.moving[drawn.misaligned] *= 0.3
        return audited(drawn, seed, elsewhere)

    monkeypatch.setattr(multi_shot, "audit_pairs", hinted)
    near = (
        "shots=[{spacing=2.0, dither=4.0, apart=14.0, steps=3}, "
        "{spacing=1.0, dither=2.0, apart=4.0, reach=12.0, exchange=true, steps=3}]"
    )
    recipe = load_recipe("patch-likelihood-multishot", [*SETTINGS, "audit=refuse", near])
    with pytest.raises(InputError, match="one image"):
        train_model(TrainRequest(recipe, pairs=written(tmp_path / "data", 6)), tmp_path / "model")
    assert farthest[0] > 13.0 > farthest[1]


def test_a_training_that_was_stopped_goes_on_with_the_shot_it_was_at(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regsim.applications import multi_shot
    from regsim.applications.train import TrainRequest, train_model

    pairs = written(tmp_path / "data")
    request = TrainRequest(load_recipe("patch-likelihood-multishot", SETTINGS), pairs=pairs)
    whole = train_model(request, tmp_path / "whole")[0]
    taught = multi_shot.MultiShotJob._taught
    calls: list[int] = []

    def stops(self: multi_shot.MultiShotJob, number: int, *rest: object) -> object:
        calls.append(number)
        if number == 1 and len(calls) == 2:
            raise KeyboardInterrupt
        return taught(self, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(multi_shot.MultiShotJob, "_taught", stops)
    with pytest.raises(KeyboardInterrupt):
        train_model(request, tmp_path / "cut")
    assert (tmp_path / "cut" / "unfinished" / "shot-1" / "shot.json").is_file()
    other = TrainRequest(load_recipe("patch-likelihood-multishot", [*SETTINGS, "patches_compared=11"]), pairs=pairs)
    with pytest.raises(InputError, match="other settings, data or network"):  # not another training's shots
        train_model(other, tmp_path / "cut")
    registered: list[float] = []
    original = multi_shot.MultiShotJob._registered

    def counted(self: multi_shot.MultiShotJob, pair: object, shot: object, *rest: object) -> object:
        registered.append(shot.spacing)  # type: ignore[attr-defined]
        return original(self, pair, shot, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(multi_shot.MultiShotJob, "_registered", counted)
    card = train_model(request, tmp_path / "cut")[0]
    assert registered == [1.0] * 3  # the second shot's pairs alone
    assert card.sha256 == whole.sha256


def test_a_damaged_shot_is_told(tmp_path: Path) -> None:
    from regsim.applications.multi_shot import STATE
    from regsim.applications.train import TrainRequest, train_model

    request = TrainRequest(load_recipe("patch-likelihood-multishot", SETTINGS), pairs=written(tmp_path / "data"))
    left = tmp_path / "model" / "unfinished" / "shot-1" / STATE
    left.parent.mkdir(parents=True)
    left.write_text('{"row": ')
    with pytest.raises(InputError, match="damaged"):
        train_model(request, tmp_path / "model")


def test_cross_fitted_pairs_are_registered_by_networks_that_have_not_seen_their_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regsim.applications import multi_shot
    from regsim.applications.train import TrainRequest, train_model

    pairs = written(tmp_path / "data", 5)
    changes = [*SETTINGS, "cross_fitted=2", "shares=[0.8, 0.2, 0.0]"]
    taught, registered = multi_shot.MultiShotJob._taught, multi_shot.MultiShotJob._registered
    seen: dict[str, set[str]] = {}
    asked: list[tuple[str, str]] = []

    def noted(self: multi_shot.MultiShotJob, number: int, shot: Any, lie: Any, learners: Any, *rest: Any) -> Any:
        part = rest[1] if len(rest) > 1 else ""
        seen[str(self._folder(number) / part)] = {pair.person for pair in learners}
        return taught(self, number, shot, lie, learners, *rest)

    def used(self: multi_shot.MultiShotJob, pair: Any, shot: Any, metric: Any, before: Any) -> Any:
        asked.append((pair.person, metric.model))
        return registered(self, pair, shot, metric, before)

    monkeypatch.setattr(multi_shot.MultiShotJob, "_taught", noted)
    monkeypatch.setattr(multi_shot.MultiShotJob, "_registered", used)
    request = TrainRequest(load_recipe("patch-likelihood-multishot", changes), pairs=pairs)
    train_model(request, tmp_path / "model")
    assert len(seen) == 2 * 3
    assert len(asked) == 2 * 5
    assert all(person not in seen[folder] for person, folder in asked)
    everybody = {person for people in seen.values() for person in people}
    assert sorted(len(people) for people in seen.values()) == [2, 2, 2, 2, 4, 4]
    assert len(everybody) == 4
    assert not list(tmp_path.glob("model/shot-*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "patch-likelihood-multishot"), "--pairs LIST.csv"),
        (("train", "patch-likelihood-multishot", "--data", "."), "--pairs LIST.csv"),
        (("train", "siamregqc", "--pairs", "pairs.csv"), "multi-shot"),
        (("train", "patch-likelihood-multishot", "--pairs", "none.csv"), "no such file"),
        (
            ("train", "patch-likelihood-multishot", "--pairs", "{pairs}", "--set", "shots.0.spacing=3"),
            "network.spacings",
        ),
        (("train", "patch-likelihood-multishot", "--pairs", "{pairs}", "--set", "patches.dither=3"), "each shot"),
        (("train", "patch-likelihood-multishot", "--pairs", "{pairs}", "--set", "cross_fitted=1"), "at least 2 parts"),
        (
            ("train", "patch-likelihood-multishot", "--pairs", "{pairs}", "--set", "cross_fitted=3", *CHANGES),
            "training pairs are of",
        ),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], words: str, command: Command, tmp_path: Path) -> None:
    pairs = written(tmp_path / "data", 2)
    asked = [word.replace("{pairs}", str(pairs)) for word in arguments]
    command(*asked, "-o", str(tmp_path / "model")).refused(words)
    assert not (tmp_path / "model").exists()


def test_pairs_of_one_person_are_refused_in_one_line(command: Command, tmp_path: Path) -> None:
    written(tmp_path / "data", 2)
    rows = [(f"{n}_fixed.png", f"{n}_moving.png", f"pair{n}", "alice") for n in range(2)]
    pairs = listed(tmp_path / "data" / "one.csv", [*rows, ("gone.png", "0_moving.png", "gone", "bob")])
    asked = ("train", "patch-likelihood-multishot", "--pairs", str(pairs), "-o", str(tmp_path / "model"))
    command(*asked, *CHANGES).refused("2 people", "alice", "gone.png")


def test_a_pair_without_overlap_is_left_out(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for number in range(3):
        image = sitk.GetImageFromArray(np.asarray(smooth((40, 42, 44), number)[0]))
        sitk.WriteImage(image, str(folder / f"{number}.nii.gz"))
        rows.append((f"{number}.nii.gz", f"{number}.nii.gz", f"pair{number}", f"person{number}"))
    image.SetOrigin((500.0, 0.0, 0.0))
    sitk.WriteImage(image, str(folder / "far.nii.gz"))
    pairs = listed(folder / "pairs.csv", [*rows, ("0.nii.gz", "far.nii.gz", "far", "person4")])
    solid = [word for setting in SETTINGS if "dims" not in setting for word in ("--set", setting)]
    command(
        "train", "patch-likelihood-multishot", "--pairs", str(pairs), "-o", str(tmp_path / "model"), *solid
    ).succeeded()
    found = {row["name"]: row for row in rows_of(tmp_path / "model" / "pairs.csv")}
    assert found["far"]["part"] == "left out"
    assert "no contrast" in found["far"]["why"]


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("patch-likelihood")])
def test_recipes_hold_together(name: str) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, MultiShotRecipe)
    dithers = [shot.dither for shot in recipe.shots]
    assert dithers == sorted(dithers, reverse=True)
    assert recipe.finest == recipe.source.spacing
