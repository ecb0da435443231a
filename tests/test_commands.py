"""The commands through the real command line: what they print, what they write, and what a kill leaves."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regsim.applications import demo
from regsim.evaluation.results import Provenance, RegistrationResults, Views
from regsim.images import Grid, Image, read_image, write_image
from regsim.metrics import metric_names, usable_metrics
from regsim.metrics.mse import MeanSquaredError
from regsim.metrics.zoo import bundled_models
from regsim.registration.schedule import Level, Schedule, Stage
from regsim.transforms import read_transform

from .conftest import Command, Samples, blobs, volume

FILES = {"transform.h5", "results.json", "run.json", "views.npz", "report.html"}
COMMANDS = ("demo", "score", "register", "warp", "models", "report")
SHIFT = [2.0, -1.8, 1.5]
EIGHT = {**os.environ, "OMP_NUM_THREADS": "1"}


def strict(text: str) -> dict[str, object]:
    """JSON without the NaN and Infinity that Python would let pass."""

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    loaded: dict[str, object] = json.loads(text, parse_constant=refuse)
    return loaded


def whole_file(path: Path) -> None:
    """A file of a results folder can be read to its end."""
    if path.suffix == ".json":
        kind = RegistrationResults if path.name == "results.json" else Provenance
        kind.model_validate(strict(path.read_text(encoding="utf-8")))
    elif path.name == "views.npz":
        assert Views.load(path).planes
    elif path.name == "report.html":
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    else:
        assert (read_transform(path) if path.suffix == ".h5" else read_image(path)).ndim in (2, 3)


def whole_folder(run: Path, warped: str = "warped.nii.gz") -> RegistrationResults:
    """Every file of a results folder is there, nothing else is, and each can be read."""
    assert {path.name for path in run.iterdir()} == FILES | {warped, "check"}
    assert (run / "check" / "check.json").is_file()
    for path in run.iterdir():
        if path.is_file():
            whole_file(path)
    results = RegistrationResults.model_validate_json((run / "results.json").read_bytes())
    assert results.files == {"transform": "transform.h5", "warped": warped}
    return results


def error_at_corners(run: Path, fixed: Path, shift: list[float]) -> float:
    corners = read_image(fixed).grid.corners()
    found = read_transform(run / "transform.h5")(corners).detach()
    return float((found - corners - torch.tensor(shift, dtype=torch.float64)).norm(dim=-1).mean())


# --- score --------------------------------------------------------------------------------------------------------------


def test_score_prints_a_table_of_all_metrics(samples: Samples, command: Command) -> None:
    out = command("score", samples.fixed, samples.moving).succeeded().out
    lines = out.splitlines()
    assert lines[0].split() == ["metric", "value", "unit", "better", "seconds"]
    assert [line.split()[0] for line in lines[1:]] == usable_metrics()
    assert all(len(line) <= 80 for line in lines)


def test_score_as_json_on_standard_output_and_in_a_file(samples: Samples, command: Command, tmp_path: Path) -> None:
    printed = command(
        "score", samples.fixed, samples.moving, "-m", "mse", "-m", "mind:radius=1", "--json", "-"
    ).succeeded()
    rows = strict(printed.out)
    assert list(rows) == ["rows"]
    assert isinstance(rows["rows"], list)
    assert [row["metric"] for row in rows["rows"]] == ["mse", "mind"]
    assert all(list(row) == ["metric", "value", "higher_is_better", "unit", "seconds"] for row in rows["rows"])
    saved = command("score", samples.fixed, samples.moving, "-m", "mse", "--json", tmp_path / "s.json").succeeded()
    assert saved.out.startswith("metric")
    row = strict((tmp_path / "s.json").read_text(encoding="utf-8"))["rows"]
    assert isinstance(row, list)
    assert row[0]["value"] == rows["rows"][0]["value"]


def test_a_value_that_is_no_number_is_null(samples: Samples, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MeanSquaredError, "_compare", lambda *_: torch.tensor([float("nan")]))
    rows = strict(command("score", samples.fixed, samples.moving, "-m", "mse", "--json", "-").succeeded().out)["rows"]
    assert isinstance(rows, list)
    assert rows[0]["value"] is None
    assert " - " in command("score", samples.fixed, samples.moving, "-m", "mse").succeeded().out


def test_score_through_a_transform_and_masks(samples: Samples, command: Command) -> None:
    def mse(*options: object) -> float:
        out = command("score", samples.fixed, samples.moving, "-m", "mse", "--json", "-", *options).succeeded().out
        return float(json.loads(out)["rows"][0]["value"])

    plain, aligned = mse(), mse("--transform", samples.transform)
    assert aligned < 0.02 * plain
    masked = mse("--fixed-mask", samples.mask)
    assert masked > plain  # the empty background no longer dilutes the difference
    assert mse("--moving-mask", samples.mask) != plain
    assert mse("--seed", 1, "--threads", 1, "--device", "cpu") == plain


def test_score_writes_maps(samples: Samples, command: Command, tmp_path: Path) -> None:
    solid = ["score", samples.fixed, samples.moving, "-m", "mse"]
    names = (tmp_path / "mse.nii.gz", tmp_path / "mind.mha")
    command(*solid, "--map", f"mse={names[0]}", "--map", f"mind:radius=1={names[1]}").succeeded()
    fixed, moving = read_image(samples.fixed), read_image(samples.moving)
    for name in names:
        assert read_image(name).grid.same_as(fixed.grid)
    np.testing.assert_allclose(
        read_image(names[0]).numpy(), (fixed.numpy() - moving.numpy()) ** 2, rtol=1e-4, atol=1e-3
    )
    flat = ["score", samples.picture, samples.moved_picture, "-m", "mse"]
    command(*flat, "--map", f"mse={tmp_path / 'm.tif'}", "--json", "-").succeeded()
    assert read_image(tmp_path / "m.tif").data.max() > 255


# --- register -----------------------------------------------------------------------------------------------------------


def test_register_volumes(samples: Samples, command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    out = command("register", samples.fixed, samples.moving, "-o", run).succeeded().out
    assert out.splitlines()[0].split() == ["metric", "before", "after", "better"]
    assert out.splitlines()[-1] == f"report: {run / 'report.html'}"
    results = whole_folder(run)
    assert (results.unit, results.transform, results.metric) == ("mm", "rigid", "nmi")
    assert error_at_corners(run, samples.fixed, SHIFT) < 0.4
    itk = sitk.Resample(
        sitk.ReadImage(str(samples.moving)),
        sitk.ReadImage(str(samples.fixed)),
        sitk.ReadTransform(str(run / "transform.h5")),
    )
    difference = np.abs(sitk.GetArrayFromImage(itk) - read_image(run / "warped.nii.gz").numpy())
    assert np.median(difference) < 1e-3
    record = Provenance.model_validate_json((run / "run.json").read_bytes())
    assert [(entry.role, entry.name) for entry in record.inputs] == [
        ("fixed", "fixed.nii.gz"),
        ("moving", "moving.nii.gz"),
    ]
    assert all(len(entry.sha256) == 64 and entry.size > 0 for entry in record.inputs)


def test_register_pictures_speaks_of_pixels_and_never_of_mm(samples: Samples, command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    out = command("register", samples.picture, samples.moved_picture, "-o", run).succeeded().out
    results = whole_folder(run, "warped.png")
    assert results.unit == results.fixed.unit == results.moving.unit == "px"
    assert error_at_corners(run, samples.picture, [3.0, 2.0]) < 0.3
    for text in (
        out,
        (run / "report.html").read_text(encoding="utf-8").partition("<body")[2].partition("<script")[0],
        (run / "results.json").read_text(encoding="utf-8"),
    ):
        words = "".join(letter if letter.isalnum() else " " for letter in text.replace("data:", " data:")).split()
        assert "mm" not in [word for word in words if len(word) < 20]
    named = command("register", samples.picture, samples.moved_picture, "-o", tmp_path / "mm", "--spacing", 0.5)
    assert named.succeeded()
    assert whole_folder(tmp_path / "mm", "warped.png").unit == "mm"


KINDS = {
    "similarity": ["--transform", "similarity"],
    "affine from moments": ["--transform", "affine", "--start", "moments", "--metric", "ncc"],
    "powell": ["--optimiser", "powell", "--finest", 3],
    "from a given start": ["--initial", "TRANSFORM", "--metric", "mse"],
    "with masks": ["--fixed-mask", "MASK", "--moving-mask", "MASK", "--start", "mass"],
    "deformable": ["--transform", "deformable", "--finest", 3, "--linear-metric", "mse", "--metric", "mse"],
    "search": ["--start", "search", "--metric", "ncc"],
    "without a region": ["--fixed-exclude", "REGION", "--moving-exclude", "REGION"],
    "both ways": [*["--transform", "diffeomorphic"], "--symmetric", "--finest", 4, "--metric", "mse"],
    "diffeomorphic": ["--transform", "diffeomorphic", "--finest", 3, "--regularisation", 2, "--metric", "lncc"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_register_in_every_way(kind: str, samples: Samples, command: Command, tmp_path: Path) -> None:
    region = tmp_path / "region.nii.gz"
    excluded = read_image(samples.mask)
    write_image(excluded.with_data(1.0 - (excluded.data > 0).float()), region)
    places = {"TRANSFORM": samples.transform, "MASK": samples.mask, "REGION": region}
    options = [places.get(str(option), option) for option in KINDS[kind]]
    command("register", samples.fixed, samples.moving, "-o", tmp_path / "run", *options).succeeded()
    results = whole_folder(tmp_path / "run")
    assert error_at_corners(tmp_path / "run", samples.fixed, SHIFT) < (
        1.5 if "form" not in kind and kind != "both ways" else 3.0
    )
    deformable = kind in ("deformable", "diffeomorphic", "both ways")
    assert (results.jacobian is not None) == deformable
    if kind == "from a given start":
        assert "initial transform" in results.notes[0]
        assert (results.metrics[4].metric, results.metrics[4].drove) == ("mse", True)


def test_register_writes_a_flat_field_that_ants_reads(samples: Samples, command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command("register", samples.fixed, samples.moving, "-o", run, "--flat-field", "--finest", 3).succeeded()
    stored = sitk.ReadImage(str(run / "displacement.nii.gz"))
    assert stored.GetMetaData("intent_code") == "1007"
    (run / "displacement.nii.gz").rename(tmp_path / "field.nii.gz")
    whole_folder(run)
    points = read_image(samples.fixed).grid.points(torch.float64)[5:15, 5:15, 5:15]
    with torch.no_grad():
        dense, short = (
            read_transform(tmp_path / "field.nii.gz", 3)(points),
            read_transform(run / "transform.h5", 3)(points),
        )
    torch.testing.assert_close(dense, short, atol=1e-3, rtol=0)


def test_register_as_json(samples: Samples, command: Command, tmp_path: Path) -> None:
    arguments = ["register", samples.picture, samples.moved_picture, "-o", tmp_path / "run", "--json", "-"]
    printed = strict(command(*arguments).succeeded().out)
    assert printed == strict((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))


def test_the_warped_picture_keeps_its_range(samples: Samples, command: Command, tmp_path: Path) -> None:
    for scale, name in ((1 / 255, "warped.tif"), (200.0, "warped.tif")):
        moving = tmp_path / "moving.tif"
        write_image(Image.of_array(blobs((48, 56), (2, 3)) * scale), moving)
        command("register", samples.picture, moving, "-o", tmp_path / name).succeeded()
        whole_folder(tmp_path / name, name)
        assert float(read_image(tmp_path / name / name).data.max()) == pytest.approx(200 * scale, rel=0.05)


def test_a_stack_of_pictures_is_kept_as_a_volume(samples: Samples, command: Command, tmp_path: Path) -> None:
    for name, shift in (("a.tif", (0, 0, 0)), ("b.tif", (1, 1, 1))):
        sitk.WriteImage(volume(np.round(blobs((16, 18, 20), shift)).astype(np.uint8)), str(tmp_path / name))
    command("register", tmp_path / "a.tif", tmp_path / "b.tif", "-o", tmp_path / "run").succeeded()
    whole_folder(tmp_path / "run")


def test_register_stops_with_the_last_good_transform(
    samples: Samples, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = tmp_path / "run", [0]
    whole = MeanSquaredError._compare

    def failing(*arguments: object) -> torch.Tensor:
        calls[0] += 1
        return whole(*arguments) * (float("nan") if calls[0] > 60 else 1.0)

    monkeypatch.setattr(MeanSquaredError, "_compare", failing)
    outcome = command("register", samples.fixed, samples.moving, "-o", run, "-m", "mse")
    outcome.refused("stopped at step", "rigid", "NaN", code=1)
    assert [path.name for path in run.iterdir()] == ["last_good_transform.h5"]
    good = read_transform(run / "last_good_transform.h5", 3)
    assert all(bool(torch.isfinite(values).all()) for values in good.parameters())
    assert str(run / "last_good_transform.h5") in outcome.err


# --- warp ---------------------------------------------------------------------------------------------------------------


def test_warp_an_image_there_and_back(samples: Samples, command: Command, tmp_path: Path) -> None:
    there, back = tmp_path / "there.mha", tmp_path / "back.nii.gz"
    outcome = command("warp", samples.moving, samples.transform, "--like", samples.fixed, "-o", there).succeeded()
    assert outcome.out == ""
    expected = sitk.Resample(
        sitk.ReadImage(str(samples.moving)),
        sitk.ReadImage(str(samples.fixed)),
        sitk.ReadTransform(str(samples.transform)),
    )
    inner = (slice(2, -3),) * 3
    np.testing.assert_allclose(read_image(there).numpy()[inner], sitk.GetArrayFromImage(expected)[inner], atol=1e-2)
    command("warp", there, samples.transform, "--like", samples.moving, "-o", back, "--inverse").succeeded()
    inner = (slice(6, -6),) * 3
    difference = np.abs(read_image(back).numpy() - read_image(samples.moving).numpy())[inner]
    assert difference.mean() < 2


@pytest.mark.parametrize("method", ["linear", "nearest", "cubic"])
def test_warp_fills_what_it_cannot_know(method: str, samples: Samples, command: Command, tmp_path: Path) -> None:
    arguments = ["warp", samples.moving, samples.transform, "--like", samples.fixed, "-o", tmp_path / "w.nrrd"]
    command(*arguments, "--fill", -77, "--interpolation", method).succeeded()
    values = read_image(tmp_path / "w.nrrd").numpy()
    assert (values[-1] == -77).all()
    assert values[5:15, 5:15, 5:15].min() > -30


def test_warp_labels(samples: Samples, command: Command, tmp_path: Path) -> None:
    array = np.zeros((20, 22, 24), np.int64)
    array[5:12, 5:12, 5:12], array[12:17, 8:14, 8:14] = 2**24 + 1, 2**33
    write_image(
        Image(torch.from_numpy(array)[None], Grid.of_sitk(sitk.ReadImage(str(samples.moving)))), tmp_path / "l.mha"
    )
    arguments = ["warp", tmp_path / "l.mha", samples.transform, "--like", samples.fixed, "-o", tmp_path / "w.nii.gz"]
    command(*arguments, "--labels").succeeded()
    carried = read_image(tmp_path / "w.nii.gz", labels=True).numpy()
    assert set(np.unique(carried)) == {0, 2**24 + 1, 2**33}
    command(*arguments, "--labels", "--interpolation", "linear").refused("label map", "linear")


def test_warp_pictures(samples: Samples, command: Command, tmp_path: Path) -> None:
    arguments = ["warp", samples.moved_picture, samples.picture_transform, "--like", samples.picture]
    command(*arguments, "-o", tmp_path / "w.png").succeeded()
    assert np.abs(read_image(tmp_path / "w.png").numpy() - read_image(samples.picture).numpy())[:40, :40].max() <= 2


# --- models, report, demo -----------------------------------------------------------------------------------------------


def test_models(command: Command) -> None:
    shown = command("models").succeeded().out
    assert all(name in shown for name in bundled_models() or ["No trained models"])
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    for name in bundled_models():
        assert "subjects" in command("models", name).succeeded().out
    command("models", "nosuch").refused("unknown model 'nosuch'", "regsim train")


def test_report_rebuilds_the_page(samples: Samples, command: Command, tmp_path: Path) -> None:
    run = tmp_path / "a [bold] name"
    command("register", samples.picture, samples.moved_picture, "-o", run).succeeded()
    page = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    outcome = command("report", run).succeeded()
    assert outcome.out == f"report: {run / 'report.html'}\n"
    assert (run / "report.html").read_bytes() == page
    (run / "results.json").write_text("{}")
    command("report", run).refused("results.json", "not the results of a registration")
    assert (run / "report.html").read_bytes() == page


def test_demo_on_a_coarse_grid(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(goal: str, grid: Grid) -> Schedule:
        level = Level(spacing=10, steps=8, step=2)
        return Schedule(stages=(Stage(transform="rigid", metric="nmi", levels=(level,)),))

    monkeypatch.setattr(demo, "SPACING", 6.0)
    monkeypatch.setattr(demo, "schedule_for", quick)
    out = command("demo", "-o", tmp_path / "demo").succeeded().out
    results = whole_folder(tmp_path / "demo")
    assert results.truth is not None
    assert results.truth.after_mean < results.truth.before_mean
    assert "true error: " in out
    assert " mm before, " in out
    assert any("painted" in note for note in results.notes)


# --- how the program behaves --------------------------------------------------------------------------------------------


def regsim(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "regsim", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, encoding="utf-8", env=EIGHT, check=False)


def test_help_needs_no_torch(command: Command) -> None:
    for name in COMMANDS:
        assert f"Usage: regsim {name}" in command(name, "--help").succeeded().out
    assert all(name in command("--help").succeeded().out for name in COMMANDS)
    assert command("--version").succeeded().out.count(".") == 2
    look = (
        "import sys, regsim.cli.app as a; code = a.run(['register', '--help'])\n"
        "heavy = {'torch', 'numpy', 'scipy', 'SimpleITK', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, encoding="utf-8", env=EIGHT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout


def test_public_names_are_imported_when_asked_for() -> None:
    import regsim as library

    assert all(getattr(library, name) is not None for name in dir(library))
    assert library.metrics.metric_names() == metric_names()
    with pytest.raises(AttributeError, match="no attribute 'scoer'"):
        _ = library.scoer


def test_a_pipe_gets_neither_colour_nor_a_progress_bar(samples: Samples, tmp_path: Path) -> None:
    done = regsim("register", samples.picture, samples.moved_picture, "-o", tmp_path / "run", "--threads", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    whole_folder(tmp_path / "run", "warped.png")


def test_interrupted(samples: Samples, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("regsim.applications.align.write_image", interrupt)
    outcome = command("register", samples.picture, samples.moved_picture, "-o", tmp_path / "run")
    outcome.refused("interrupted", code=130)
    assert list((tmp_path / "run").iterdir()) == []


def test_out_of_memory(samples: Samples, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object) -> torch.Tensor:
        return torch.empty(1 << 60)

    monkeypatch.setattr(MeanSquaredError, "_compare", greedy)
    command("score", samples.fixed, samples.moving, "-m", "mse").refused("out of memory", "--finest", code=1)


def test_a_mistake_of_ours_is_one_line_too(
    samples: Samples, command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(MeanSquaredError, "_compare", broken)
    outcome = command("score", samples.fixed, samples.moving, "-m", "mse")
    assert (outcome.code, outcome.err.count("\n"), "REGSIM_DEBUG" in outcome.err) == (1, 1, True)
    monkeypatch.setenv("REGSIM_DEBUG", "1")
    assert "Traceback" in command("score", samples.fixed, samples.moving, "-m", "mse").err


def killed(run: Path, arguments: list[str], pause: float) -> None:
    """Start a run, wait until it begins to write (or for so long), pause, and kill it."""
    process = subprocess.Popen([sys.executable, "-m", "regsim", *arguments], env=EIGHT, stdout=subprocess.DEVNULL)
    while pause >= 0 and process.poll() is None and not any(run.glob(".part-*")):
        time.sleep(0.002)
    time.sleep(abs(pause))
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_at_any_moment_leaves_no_half_file(samples: Samples, command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [str(part) for part in ("register", samples.fixed, samples.moving, "-o", run, "--finest", 3)]
    pauses = random.Random(0)
    for moment in (-2.5, 0.0, pauses.uniform(0.01, 0.1), pauses.uniform(0.1, 0.3), pauses.uniform(0.3, 0.8)):
        killed(run, arguments, moment)
        final = [path for path in run.glob("*") if not path.name.startswith(".part-")]
        assert {path.name for path in final} <= FILES | {"warped.nii.gz"}
        for path in final:
            whole_file(path)
    command(*arguments).succeeded()
    for leftover in run.glob(".part-*"):
        os.utime(leftover, (0, 0))
    command(*arguments).succeeded()
    whole_folder(run)


def test_learn2reg_fields_out_and_in(samples: Samples, command: Command, tmp_path: Path) -> None:
    run, json_file = tmp_path / "run", tmp_path / "warp.json"
    command("register", samples.fixed, samples.moving, "-o", run, "--finest", 3, "--learn2reg").succeeded()
    onto = ("--like", samples.fixed, "-o")
    field, transform = tmp_path / "field.nii.gz", tmp_path / "transform.nii.gz"
    command(
        "warp", samples.moving, run / "learn2reg.nii.gz", *onto, field, "--learn2reg", "--json", json_file
    ).succeeded()
    command("warp", samples.moving, run / "transform.h5", *onto, transform).succeeded()
    first, second = read_image(field).data, read_image(transform).data
    assert (first - second).abs().mean() < 0.002 * second.max()
    assert strict(json_file.read_text())["unit"] == "mm"
    command("warp", samples.moving, run / "transform.h5", *onto, field, "--learn2reg").refused("transform.h5")


PLAN = """
start = "identity"

[[stages]]
transform = "rigid"
metric = "ncc"
levels = [{ spacing = 4, steps = 20, step = 1 }]

[[stages]]
transform = "control_grid"
metric = "lncc:window=5"
levels = [{ spacing = 3, steps = 10, step = 0.5, control_spacing = 10 }]
penalties = { bending = 5.0, jacobian = 40.0 }
"""


def test_a_plan_of_ones_own(samples: Samples, command: Command, tmp_path: Path) -> None:
    plan, run = tmp_path / "plan.toml", tmp_path / "run"
    plan.write_text(PLAN)
    command("register", samples.fixed, samples.moving, "-o", run, "--schedule", plan).succeeded()
    results = whole_folder(run)
    assert results.transform == "rigid then control_grid"
    assert [level.stage for level in results.levels] == ["rigid", "control_grid"]
    assert [row.metric for row in results.metrics if row.drove] == ["lncc", "ncc"]
    for old, new, words in (
        ("steps = 20", "stepps = 20", "stepps"),
        ("bending = 5.0", "bendding = 5.0", "did you mean 'bending'"),
        ('ncc"', 'nccc"', "did you mean 'ncc'"),
        ("[[stages]]", "[stages", "is not TOML"),
    ):
        plan.write_text(PLAN.replace(old, new, 1))
        command("register", samples.fixed, samples.moving, "-o", tmp_path / "no", "--schedule", plan).refused(words)
    command("register", samples.fixed, samples.moving, "-o", tmp_path / "no", "--schedule", tmp_path / "none").refused(
        "none"
    )
    assert not (tmp_path / "no").exists()


def test_a_reused_folder_keeps_nothing_of_the_run_before(samples: Samples, command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command(
        "register", samples.fixed, samples.moving, "-o", run, "--finest", 3, "--flat-field", "--learn2reg"
    ).succeeded()
    (run / "notes.txt").write_text("mine")
    assert {"displacement.nii.gz", "learn2reg.nii.gz"} <= {file.name for file in run.iterdir()}
    command("register", samples.fixed, samples.moving, "-o", run, "--finest", 3).succeeded()
    assert (run / "notes.txt").read_text() == "mine"
    (run / "notes.txt").unlink()
    whole_folder(run)
    plan = tmp_path / "plan.toml"
    for text in ("stages = []", PLAN.replace("control_spacing = 10", "control_spacing = -4")):
        plan.write_text(text)
        command("register", samples.fixed, samples.moving, "-o", run, "--schedule", plan).refused("setting")
    plan.write_text(PLAN.replace('metric = "lncc:window=5"', 'metric = "lncc:window=5"\noptimiser = "powell"'))
    command("register", samples.fixed, samples.moving, "-o", run, "--schedule", plan).refused("powell")
