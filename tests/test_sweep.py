"""`regsim sweep`: linear stages once, a folder a weight, the stated rule, what is kept, and the page."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from regsim.applications.recommendation import recommended
from regsim.errors import InputError
from regsim.evaluation.accuracy import dice
from regsim.evaluation.results import MetricChange, Provenance, RegistrationResults
from regsim.evaluation.sweep_rows import SweepResults, SweepRow
from regsim.images import read_image
from regsim.report.sweep_page import write_sweep_page
from regsim.transforms import read_transform, warp

from .conftest import Command, blobs

QUICK = ["-m", "mse", "--weights", "4,.1"]
SHIFT = (2.0, 3.0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that lie (3, 2) px apart and are bent, with labels and landmarks of the shift."""
    folder = tmp_path_factory.mktemp("pair")
    down, across = np.meshgrid(np.arange(48.0), np.arange(56.0), indexing="ij")
    bend = 1.5 * np.sin(across / 9)
    for name, shift, bent in (("fixed", (0.0, 0.0), 0.0), ("moving", SHIFT, bend)):
        picture = blobs((48, 56), shift)
        rows = np.clip(np.round(down + bent).astype(int), 0, 47)
        sitk.WriteImage(
            sitk.GetImageFromArray(np.round(picture[rows, across.astype(int)]).astype(np.uint8)), f"{folder}/{name}.png"
        )
        levels = np.digitize(picture[rows, across.astype(int)], (60, 120)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(levels), f"{folder}/{name}_labels.png")
    points = np.array([(20.0, 20.0), (30.0, 24.0), (36.0, 30.0)])
    for name, moved in (("fixed", 0.0), ("moving", np.array(SHIFT[::-1]))):
        lines = "\n".join(f"{x},{y}" for x, y in points + moved)
        (folder / f"{name}.csv").write_text(f"x,y\n{lines}\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def swept(pair: Path) -> Path:
    """The folder of a sweep with labels."""
    from regsim.cli.app import run

    images = [f"{pair}/fixed.png", f"{pair}/moving.png", "-o", f"{pair}/swept"]
    labels = ["--fixed-labels", f"{pair}/fixed_labels.png", "--moving-labels", f"{pair}/moving_labels.png"]
    assert run(["sweep", *images, *QUICK, *labels]) == 0
    return pair / "swept"


def results_of(folder: Path) -> SweepResults:
    return SweepResults.model_validate_json((folder / "sweep.json").read_bytes())


def registration_of(folder: Path) -> RegistrationResults:
    return RegistrationResults.model_validate_json((folder / "results.json").read_bytes())


def test_linear_stages_are_done_once_and_every_weight_starts_from_them(swept: Path) -> None:
    results = results_of(swept)
    assert [row.folder for row in results.rows] == ["weight_0.1", "weight_4"]
    linear = registration_of(swept / "affine")
    assert {level.stage for level in linear.levels} == {"rigid", "affine"}
    assert results.linear_seconds == linear.seconds
    for row in results.rows:
        own = registration_of(swept / row.folder)
        assert {level.stage for level in own.levels} == {"control_grid"}
        after = {change.metric: change.after for change in linear.metrics}
        assert {change.metric: change.before for change in own.metrics} == pytest.approx(after, rel=1e-3, abs=1e-4)
        run = Provenance.model_validate_json((swept / row.folder / "run.json").read_bytes())
        assert run.settings["regularisation"] == row.weight
        assert json.loads(str(run.settings["schedule"]))["stages"][0]["penalties"]["diffusion"] == row.weight


def test_rows_hold_what_can_be_measured_from_the_folders(swept: Path, pair: Path) -> None:
    results = results_of(swept)
    fixed = read_image(pair / "fixed.png")
    labels = [read_image(pair / f"{name}_labels.png", labels=True) for name in ("fixed", "moving")]
    for row in results.rows:
        transform = read_transform(swept / row.folder / "transform.h5")
        overlap = dice(labels[0], warp(labels[1], transform, labels[0]))
        assert row.dice == pytest.approx(sum(overlap.values()) / len(overlap))
        determinant = transform.jacobian_determinant(fixed.grid)
        assert row.smallest >= float(determinant.min()) - 1e-6
        assert row.landmarks is None
        assert 0 <= row.inverse < 0.05
    loose, stiff = results.rows
    assert loose.spread > stiff.spread > 0
    assert loose.smallest < stiff.smallest
    assert loose.metric("mse").after < stiff.metric("mse").after
    assert results.dice_before is not None
    assert loose.dice is not None
    assert loose.dice > results.dice_before
    assert (loose.metric("mse").drove, loose.metric("nmi").drove) == (True, False)


def test_the_recommendation_goes_by_labels_and_is_written_everywhere(swept: Path) -> None:
    results = results_of(swept)
    admitted = [row for row in results.rows if row.folded < 0.001]
    assert results.recommended == max(admitted, key=lambda row: row.dice or 0).weight
    assert "Dice" in results.rule
    with (swept / "sweep.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [float(line["weight"]) for line in lines] == [0.1, 4]
    assert [float(line["weight"]) for line in lines if line["recommended"] == "true"] == [results.recommended]
    assert float(lines[0]["dice"]) == pytest.approx(results.rows[0].dice, rel=1e-6)
    assert lines[0]["landmark_error"] == ""
    run = Provenance.model_validate_json((swept / "run.json").read_bytes())
    assert run.settings["weights"] == [0.1, 4.0]
    assert [entry.role for entry in run.inputs] == ["fixed", "moving", "fixed labels", "moving labels"]


def test_weights_are_kept_added_and_done_again(pair: Path, command: Command, tmp_path: Path) -> None:
    call = ["sweep", pair / "fixed.png", pair / "moving.png", "-o", tmp_path / "out"]
    labels = ["--fixed-labels", pair / "fixed_labels.png", "--moving-labels", pair / "moving_labels.png"]
    landmarks = ["--fixed-landmarks", pair / "fixed.csv", "--moving-landmarks", pair / "moving.csv"]

    def stamps() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/results.json")}

    first = json.loads(command(*call, *QUICK, "--json", "-").succeeded().out)
    assert [row["weight"] for row in first["rows"]] == [0.1, 4]
    assert first["rows"][0]["dice"] is None
    before = stamps()
    out = command(*call, "-m", "mse", "--weights", "1,4,.1", *landmarks, *labels).succeeded().out
    assert all(len(line) <= 80 for line in out.splitlines()[:4])
    assert "points" in out
    assert "inverse in px" in out
    assert {name: stamps()[name] for name in before} == before
    results = results_of(tmp_path / "out")
    assert [row.weight for row in results.rows] == [0.1, 1, 4]
    assert "landmark" in results.rule
    error = min(row.landmarks or math.inf for row in results.rows)
    assert results.landmarks_before is not None
    assert error < math.hypot(*SHIFT)
    assert f"--regularisation {results.recommended:g}" in out

    before = stamps()
    command(*call, "-m", "ncc", "--weights", "1").succeeded()
    assert [name for name in before if stamps()[name] != before[name]] == ["weight_1"]  # the linear stages are by nmi
    before = stamps()
    command(*call, "-m", "ncc", "--weights", "1", "--transform", "diffeomorphic", "--linear-metric", "mse").succeeded()
    assert {name for name in before if stamps()[name] != before[name]} == {"affine", "weight_1"}
    assert results_of(tmp_path / "out").transform == "diffeomorphic"


def change(metric: str, after: float, drove: bool = False) -> MetricChange:
    return MetricChange(metric=metric, before=0.5, after=after, higher_is_better=False, unit="", drove=drove)


def row(weight: float, judged: float, folded: float = 0.0, **known: float) -> SweepRow:
    metrics = [change("mse", 1 / weight), change("lncc", 0.4, drove=True), change("mind", judged)]
    return SweepRow(
        weight=weight, metrics=metrics, folded=folded, smallest=0.1, spread=0.2, seconds=1.0, folder=f"weight_{weight:g}",
        **known,
    )  # fmt: skip


def test_the_rule_by_hand() -> None:
    def chosen(*rows: SweepRow) -> float:
        return recommended(rows)[0]

    # gains .3, .298, .2: within 1 % of .3 is .297
    assert chosen(row(1, 0.2), row(2, 0.202), row(4, 0.3)) == 1
    assert chosen(row(1, 0.202), row(2, 0.2), row(4, 0.3)) == 1
    assert chosen(row(1, 0.204), row(2, 0.2), row(4, 0.3)) == 2
    assert chosen(row(1, 0.2, folded=0.001), row(2, 0.25), row(4, 0.3)) == 2
    assert chosen(row(1, 0.2, folded=0.000999), row(2, 0.25), row(4, 0.3)) == 1
    # made worse by every weight: the least harm, not the smallest weight
    assert chosen(row(1, 0.9), row(2, 0.7), row(4, 0.6)) == 4
    assert chosen(row(1, 0.2, dice=0.6), row(2, 0.3, dice=0.7), row(4, 0.3, dice=0.65)) == 2
    assert chosen(row(1, 0.2, dice=0.9, landmarks=2), row(2, 0.3, dice=0.7, landmarks=1)) == 2
    assert chosen(row(1, 0.2, dice=0.9, folded=0.01), row(2, 0.3, dice=0.7)) == 2
    assert chosen(row(1, 0.2, folded=0.3), row(2, 0.3, folded=0.2), row(4, 0.3, folded=0.2)) == 4
    assert "larger weights" in recommended([row(1, 0.2, folded=0.3)])[1]
    assert "mind" in recommended([row(1, 0.2)])[1]
    assert chosen(row(1, math.nan), row(2, math.nan)) == 1


BAD_CALLS = {
    "no number": (["--weights", "1,two"], ("weights", "1,two")),
    "no weight": (["--weights", ""], ("weights",)),
    "negative": (["--weights", "1,-1"], ("weights", "at least 0")),
    "not finite": (["--weights", "inf"], ("weights",)),
    "linear": (["--transform", "rigid"], ("deformable", "rigid")),
    "metric": (["-m", "mimd"], ("mimd", "mind")),
    "labels of one": (["--fixed-labels", "fixed_labels.png"], ("labels", "--moving-labels")),
    "landmarks of one": (["--moving-landmarks", "fixed.csv"], ("landmarks", "--fixed-landmarks")),
    "unequal landmarks": (["--fixed-landmarks", "fixed.csv", "--moving-landmarks", "four.csv"], ("as many",)),
    "empty labels": (["--fixed-labels", "empty.png", "--moving-labels", "fixed_labels.png"], ("no label",)),
    "labels of a volume": (["--fixed-labels", "fixed_labels.png", "--moving-labels", "solid.nii.gz"], ("3-D", "2-D")),
}


@pytest.mark.parametrize("kind", BAD_CALLS)
def test_bad_calls_are_refused(
    kind: str, pair: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, words = BAD_CALLS[kind]
    monkeypatch.chdir(pair)
    Path("four.csv").write_text("x,y\n1,1\n2,2\n3,3\n4,5\n", encoding="utf-8")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((48, 56), np.uint8)), "empty.png")
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.uint8)), "solid.nii.gz")
    command("sweep", "fixed.png", "moving.png", "-o", tmp_path / "out", *options).refused(*words)
    assert not (tmp_path / "out").exists()


def test_the_page_shows_every_weight(swept: Path) -> None:
    page = (swept / "report.html").read_text(encoding="utf-8")
    results = results_of(swept)
    assert f"Weight {results.recommended:g} is recommended" in page
    for row in results.rows:
        assert page.count(f'href="{row.folder}/report.html"') == 3
    assert page.count("data:image/svg+xml") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert write_sweep_page(swept).read_text(encoding="utf-8") == page


def test_the_page_does_without_what_is_gone(swept: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_bytes((swept / "sweep.json").read_bytes())
    assert "All figures" in write_sweep_page(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "sweep.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="not the results of a sweep"):
        write_sweep_page(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        write_sweep_page(tmp_path / "elsewhere")
