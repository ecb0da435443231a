"""`regsim register --pairs`: what is written, kept, done again, refused, and what a kill leaves. Real processes throughout."""

import csv
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Picture

from regsim.applications import batch
from regsim.applications.batch import PairTask
from regsim.applications.pairs_file import PairFiles, read_pairs_file
from regsim.errors import InputError
from regsim.evaluation.batch_rows import BatchResults, PairRow, pairs_csv
from regsim.evaluation.results import Provenance, Views
from regsim.output import remove_folder
from regsim.report.batch_figures import thumbnail
from regsim.report.batch_page import render_batch_page, write_batch_page

from .conftest import Command, Samples, blobs

QUICK = ["--finest", 4, "-m", "mse"]
OWN = {"transform.h5", "warped.png", "results.json", "run.json", "views.npz", "report.html", "thumbnail.jpg", "check"}


@pytest.fixture
def listed(samples: Samples, tmp_path: Path) -> Path:
    """Three pairs of pictures, the second with a file that is missing."""
    for name, source in (("f.png", samples.picture), ("m.png", samples.moved_picture)):
        (tmp_path / name).write_bytes(source.read_bytes())
    path = tmp_path / "pairs.csv"
    path.write_text("fixed,moving,name,age\nf.png,m.png,anna,7\nf.png,gone.png,,8\nm.png,f.png,,9\n", encoding="utf-8")
    return path


class InThisProcess:
    """The work of the processes, without them: what a pair's own process does is the same."""

    def __init__(self, work: Callable[[PairTask], tuple[PairRow, bool]], workers: int, threads: int):
        self.work = work

    def run(self, tasks: list[PairTask], each: Callable[[PairTask, tuple[PairRow, bool]], None]) -> None:
        for task in tasks:
            each(task, self.work(task))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "WorkList", InThisProcess)


def stamps(folder: Path) -> dict[str, int]:
    """When each pair's results were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/results.json")}


def results_of(folder: Path) -> BatchResults:
    return BatchResults.model_validate_json((folder / "results.json").read_bytes())


def test_pairs_are_registered_kept_and_done_again(
    listed: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    call = ["register", "--pairs", listed, "-o", out, *QUICK]
    first = command(*call)
    assert (first.code, first.err) == (1, "")
    assert first.out.splitlines()[0] == f"failed: pair_0002: '{tmp_path / 'gone.png'}' does not exist"
    assert first.out.splitlines()[1].startswith("2 of 3 pairs registered (0 kept)")
    assert {path.name for path in out.iterdir()} == {
        "anna", "pair_0003", "pairs.csv", "results.json", "run.json", "report.html",
    }  # fmt: skip
    assert {path.name for path in (out / "anna").iterdir()} == OWN
    with (out / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["name"], row["status"]) for row in rows] == [
        ("anna", "done"), ("pair_0002", "failed"), ("pair_0003", "done"),
    ]  # fmt: skip
    assert "gone.png" in rows[1]["reason"]
    assert (rows[0]["metric"], rows[0]["higher_is_better"], rows[0]["folded_percent"]) == ("mind", "false", "")
    assert float(rows[0]["after"]) < 0.6 * float(rows[0]["before"])
    assert 0.5 < float(rows[0]["overlap"]) <= 1
    run = Provenance.model_validate_json((out / "run.json").read_bytes())
    assert (run.threads, run.settings["metric"], run.inputs[0].name) == (1, "mse", "pairs.csv")
    assert Provenance.model_validate_json((out / "anna" / "run.json").read_bytes()).threads == 1

    before = stamps(out)
    (tmp_path / "gone.png").write_bytes((tmp_path / "m.png").read_bytes())
    again = json.loads(command(*call, "--json", "-").succeeded().out)
    assert again["kept"] == 2
    assert [row["status"] for row in again["pairs"]] == ["done"] * 3
    assert {name: stamps(out)[name] for name in before} == before

    monkeypatch.setattr(batch, "WorkList", InThisProcess)
    before = stamps(out)
    (tmp_path / "gone.png").write_bytes((tmp_path / "f.png").read_bytes())
    command(*call).succeeded()
    changed = {name for name, stamp in stamps(out).items() if before[name] != stamp}
    assert changed == {"pair_0002"}  # another input

    before = stamps(out)
    for options in (["--seed", 1], ["--start", "centres", "--seed", 1]):
        command(*call, *options).succeeded()
        after = stamps(out)
        assert all(after[name] > before[name] for name in before), options
        assert results_of(out).kept == 0
        before = after


@pytest.mark.usefixtures("here")
def test_a_folder_that_is_not_whole_is_made_again(listed: Path, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    listed.write_text("fixed,moving,name\nf.png,m.png,one\n", encoding="utf-8")
    call = ["register", "--pairs", listed, "-o", out, *QUICK]
    command("register", tmp_path / "f.png", tmp_path / "m.png", "-o", out / "one", *QUICK).succeeded()
    before = stamps(out)
    command(*call).succeeded()
    assert stamps(out) == before  # what `register` made on its own counts too
    assert (out / "one" / "thumbnail.jpg").is_file()
    (out / "one" / "thumbnail.jpg").unlink()
    command(*call).succeeded()
    assert stamps(out) == before
    assert (out / "one" / "thumbnail.jpg").is_file()
    for name in ("transform.h5", "run.json", "report.html"):
        (out / "one" / name).unlink()
        command(*call).succeeded()
        assert stamps(out)["one"] > before["one"], name
        before = stamps(out)
    (out / "one" / "results.json").write_text("{", encoding="utf-8")
    command(*call).succeeded()
    assert results_of(out).kept == 0


@pytest.mark.usefixtures("here")
def test_each_pair_names_its_own_masks_and_start(samples: Samples, command: Command, tmp_path: Path) -> None:
    listed, out = tmp_path / "pairs.csv", tmp_path / "out"
    lines = ["fixed,moving,fixed_mask,initial,name"]
    lines += [f"{samples.fixed},{samples.moving},{samples.mask},{samples.transform},own"]
    lines += [f"{samples.fixed},{samples.moving},,,shared"]
    listed.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    shared = ["--moving-mask", samples.mask, "--fixed-mask", samples.fixed]
    command("register", "--pairs", listed, "-o", out, *QUICK, *shared, "--threads", 1, "--workers", 1).succeeded()
    runs = {name: Provenance.model_validate_json((out / name / "run.json").read_bytes()) for name in ("own", "shared")}
    assert [(entry.role, entry.name) for entry in runs["own"].inputs[2:]] == [
        ("fixed mask", "mask.nii.gz"), ("moving mask", "mask.nii.gz"), ("initial", "shift.tfm"),
    ]  # fmt: skip
    assert [(entry.role, entry.name) for entry in runs["shared"].inputs[2:]] == [
        ("fixed mask", "fixed.nii.gz"), ("moving mask", "mask.nii.gz"),
    ]  # fmt: skip
    assert (results_of(out).threads, results_of(out).workers) == (1, 1)


@pytest.mark.usefixtures("here")
def test_pairs_that_cannot_be_registered_say_why(listed: Path, command: Command, tmp_path: Path) -> None:
    flat, solid, broken = tmp_path / "flat.png", tmp_path / "solid.nii.gz", tmp_path / "nan.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((40, 40), 7, np.uint8)), str(flat))
    volume = blobs((12, 12, 12), (0, 0, 0))
    sitk.WriteImage(sitk.GetImageFromArray(volume), str(solid))
    volume[3, 3, 3] = math.nan
    sitk.WriteImage(sitk.GetImageFromArray(volume), str(broken))
    (tmp_path / "text.png").write_text("no picture")
    pairs = ["f.png,flat.png,flat", "f.png,solid.nii.gz,3-D", "solid.nii.gz,nan.nii.gz,nan", "f.png,text.png,text"]
    listed.write_text("\n".join(["fixed,moving,name", *pairs, "f.png,m.png,good"]) + "\n", encoding="utf-8")
    outcome = command("register", "--pairs", listed, "-o", tmp_path / "out", *QUICK)
    assert (outcome.code, outcome.err) == (1, "")
    rows = {row.name: row for row in results_of(tmp_path / "out").pairs}
    assert rows.pop("good").status == "done"
    assert all(row.status == "failed" and row.reason and "\n" not in row.reason for row in rows.values())
    words = {"flat": "constant", "3-D": "3-D", "nan": "NaN", "text": "text.png"}
    assert all(words[name] in row.reason for name, row in rows.items()), rows


BAD_LISTS = {
    "no column": ("fixed,other\na,b\n", "no column 'moving'"),
    "nothing": ("", "no column 'fixed'"),
    "no line": ("fixed,moving\n", "holds no pair"),
    "empty cell": ("fixed,moving\na,b\nc,\n", "pair 2: moving is empty"),
    "too many cells": ("fixed,moving\na,b,c\n", "pair 1: more cells"),
    "name twice": ("fixed,moving,name\na,b,x\nc,d,X\n", "'X' is given twice, to pairs 1 and 2"),
    "name of another's place": ("fixed,moving,name\na,b,pair_0002\nc,d,\n", "given twice"),
    "name with a path": ("fixed,moving,name\na,b,../x\n", "cannot be a folder's"),
    "hidden name": ("fixed,moving,name\na,b,.x\n", "cannot be a folder's"),
    "name of our file": ("fixed,moving,name\na,b,Pairs.csv\n", "cannot be a folder's"),
    "nearly a column": ("fixed,moving,fixed mask\na,b,c\n", "did you mean 'fixed_mask'?"),
    "not text": (b"\xff\xfe\x00", "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_LISTS)
def test_bad_lists_are_refused(kind: str, command: Command, tmp_path: Path) -> None:
    content, words = BAD_LISTS[kind]
    path = tmp_path / "pairs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    command("register", "--pairs", path, "-o", tmp_path / "out").refused("pairs.csv", words)
    assert not (tmp_path / "out").exists()


def test_bad_calls_are_refused(listed: Path, command: Command, tmp_path: Path) -> None:
    image, out = tmp_path / "f.png", tmp_path / "out"
    command("register", "--pairs", tmp_path / "no.csv", "-o", out).refused("no.csv", "no such file")
    command("register", image, image, "--pairs", listed, "-o", out).refused("not both")
    command("register", image, "--pairs", listed, "-o", out).refused("not both")
    command("register", "-o", out).refused("FIXED", "--pairs")
    command("register", image, "-o", out).refused("MOVING", "--pairs")
    command("register", image, image, "-o", out, "--workers", 2).refused("--workers", "--pairs")
    command("register", "--pairs", listed, "-o", out, "-m", "mimd").refused("mimd", "mind")
    command("register", "--pairs", listed, "-o", out, "--transform", "bent").refused("bent", "rigid")
    both = ["--transform", "deformable", "--optimiser", "powell"]
    command("register", "--pairs", listed, "-o", out, *both).refused("powell")
    for idle in (
        ["--linear-metric", "mse"],
        ["--regularisation", 2],
        ["--transform", "affine", "--linear-metric", "mse"],
    ):
        command("register", "--pairs", listed, "-o", out, *idle).refused("deformation")
    adam = ["--transform", "deformable", "--optimiser", "adam"]
    command("register", "--pairs", listed, "-o", out, *adam).refused("adam", "linear")
    command("register", "--pairs", listed, "-o", listed.parent).refused("pairs.csv", "overwrite", "another -o")
    assert listed.read_text(encoding="utf-8").startswith("fixed,moving")
    command("register", "--pairs", listed, "-o", listed).refused("is a file")
    assert not out.exists()


def test_paths_are_relative_to_the_list(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "p.csv"
    path.write_text('moving,fixed,initial\n"a, b.png",/x/f.png,../t.h5\n', encoding="utf-8")
    below = tmp_path / "lists"
    assert read_pairs_file(path) == [
        PairFiles("pair_0001", Path("/x/f.png"), below / "a, b.png", initial=below / "../t.h5")
    ]
    with pytest.raises(InputError, match="no such file"):
        read_pairs_file(tmp_path / "other.csv")


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and SIGINT")
@pytest.mark.parametrize("way", ["SIGKILL", "SIGINT"])
@pytest.mark.usefixtures("here")
def test_a_run_that_ends_in_the_middle_goes_on(way: str, listed: Path, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    listed.write_text("fixed,moving\n" + "f.png,m.png\nm.png,f.png\n" * 4, encoding="utf-8")
    call = ["register", "--pairs", str(listed), "-o", str(out), "--workers", "2", *map(str, QUICK)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "regsim", *call]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs are deaf to it
    with subprocess.Popen(start, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        while process.poll() is None and not stamps(out):
            time.sleep(0.01)
        process.send_signal(getattr(signal, way))
        said = process.communicate()[1]  # to its end: until the last of its processes has ended
    assert process.returncode == (130 if way == "SIGINT" else -signal.SIGKILL)
    before = stamps(out)
    assert 0 < len(before) < 8
    assert not (out / "results.json").exists()
    for folder in (path for path in out.iterdir() if (path / "results.json").is_file()):
        assert OWN - {"thumbnail.jpg", "report.html", "check"} <= {path.name for path in folder.iterdir()}
    if way == "SIGINT":
        assert f"{len(before)} of 8 pairs have results; the same command goes on" in said
        assert said.splitlines()[-1] == "regsim: interrupted; nothing half-written is left"
        assert not list(out.rglob(".part-*"))
    whole = {path.parent.name for path in out.glob("*/report.html")}
    command(*call).succeeded()
    results = results_of(out)
    assert [row.status for row in results.pairs] == ["done"] * 8
    assert results.kept == len(whole)
    assert {name: stamps(out)[name] for name in whole} == {name: before[name] for name in whole}


def test_being_told_to_stop_while_tidying_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "half-written").touch()
    remove, calls = shutil.rmtree, []

    def interrupted(folder: Path, ignore_errors: bool) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise SystemExit(1)
        remove(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(SystemExit):
        remove_folder(tmp_path / "part")
    assert not (tmp_path / "part").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_process_that_dies_takes_no_other_task_with_it(tmp_path: Path) -> None:
    """In a program of its own, since processes that are started import the module that the work is in."""
    script = tmp_path / "dying.py"
    script.write_text(
        "import os, signal\nfrom regsim.applications.workers import WorkList\n"
        "def work(task):\n    if task == 3:\n        os.kill(os.getpid(), signal.SIGKILL)\n    return task * task\n"
        "if __name__ == '__main__':\n    found = {}\n"
        "    WorkList(work, 2, 1).run(range(6), found.__setitem__)\n    print(sorted(found.items()))\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[(0, 0), (1, 1), (2, 4), (3, None), (4, 16), (5, 25)]"
    assert done.stderr == ""


# --- the page ------------------------------------------------------------------------------------------------------------


def batch_of(*rows: PairRow) -> BatchResults:
    return BatchResults(title="a < b", pairs=list(rows), kept=0, workers=1, threads=1, seconds=1.0)


def row(name: str, before: float, after: float) -> PairRow:
    return PairRow(
        name=name, status="done", metric="mind", before=before, after=after, higher_is_better=False, seconds=1.0,
        overlap=0.9, folder=name,
    )  # fmt: skip


def test_the_worst_come_first_and_nothing_is_taken_as_markup() -> None:
    failed = PairRow(name="<b>gone</b>", status="failed", reason="'<i>x</i>' does not exist")
    results = batch_of(row("good", 0.5, 0.1), row("worse", 0.1, 0.2), row("unknown", math.nan, 0.2), failed)
    assert [one.name for one in results.worst_first()] == ["<b>gone</b>", "unknown", "worse", "good"]
    page = render_batch_page(results)
    assert "<b>gone" not in page
    assert "&lt;i&gt;x" in page
    places = [page.index(f'href="{name}/report.html"') for name in ("unknown", "worse", "good")]
    assert places == sorted(places)
    assert page.count('loading="lazy"') == 3
    assert "http" not in page.replace("http-equiv", "")


def test_names_in_addresses_are_quoted() -> None:
    page = render_batch_page(batch_of(row("50% #2?", 0.2, 0.1)))
    assert 'src="50%25%20%232%3F/thumbnail.jpg"' in page


def test_a_page_of_a_thousand_pairs_is_light() -> None:
    assert (
        len(render_batch_page(batch_of(*[row(f"pair_{number:04d}", 0.2, 0.1) for number in range(1000)]))) < 1_500_000
    )


def test_table_and_rows_hold_what_is_not_known() -> None:
    results = batch_of(row("x", math.nan, 0.1), PairRow(name="y, z", status="failed", reason="a, b"))
    again = BatchResults.model_validate_json(results.model_dump_json())
    assert math.isnan(again.pairs[0].before)
    assert math.isnan(again.pairs[1].gain)
    lines = list(csv.reader(io.StringIO(pairs_csv(results))))
    assert [len(line) for line in lines] == [13, 13, 13]
    assert lines[1][4] == ""
    assert lines[2][:3] == ["y, z", "failed", "a, b"]


@pytest.mark.usefixtures("here")
def test_thumbnails_are_small_and_show_both(listed: Path, command: Command, tmp_path: Path) -> None:
    listed.write_text("fixed,moving,name\nf.png,m.png,one\n", encoding="utf-8")
    command("register", "--pairs", listed, "-o", tmp_path / "out", *QUICK).succeeded()
    folder = tmp_path / "out" / "one"
    picture = Picture.open(io.BytesIO((folder / "thumbnail.jpg").read_bytes()))
    assert (picture.format, picture.size) == ("JPEG", (56 + 4 + 56, 48))
    views = Views.load(folder / "views.npz")
    wide = {name: np.repeat(np.repeat(stack, 9, axis=1), 9, axis=2) for name, stack in views.arrays.items()}
    large = thumbnail(Views(views.planes, wide))
    assert large is not None
    assert max(Picture.open(io.BytesIO(large)).size) <= 304
    assert thumbnail(Views([], {})) is None
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert write_batch_page(tmp_path / "out").read_text(encoding="utf-8") == page
    (tmp_path / "out" / "results.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="not the results of a batch"):
        write_batch_page(tmp_path / "out")
