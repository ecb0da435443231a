"""The documentation holds: its Python runs, its commands exist and run, its links lead somewhere, its tables are true."""

import contextlib
import importlib.util
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import typer

import regsim
from regsim.cli.app import app, run
from regsim.images.examples import brain, brain_tissues
from regsim.images.landmarks import write_landmarks
from regsim.misalign import audit
from regsim.prepare import coarser
from regsim.transforms import Rigid, warp

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
RUN_PAGES = [page for page in PAGES if page.name not in ("lab-notes.md", "add-a-metric.md")]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
TOO_LONG = {"demo"}
SHORT_TRAINING = (
    "pairs.size=16", "source.spacing=9", "source.shapes=2", "source.shape_size=32", "stages.0.steps=2", "stages.0.batch=2",
    "checked_pairs=16", "tested_pairs=32", "network.hidden=[8]", "network.encoder.channels=[8, 8]", "audit=warn",
)  # fmt: skip
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = [Block(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in FENCE.finditer(text)]
    return [block for block in found if block.language == language]


def commands(page: Path) -> list[list[str]]:
    """The words of every `regsim ...` line in the page's shell blocks, without comments."""
    lines = [line for block in blocks(page, "bash") for line in block.text.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0] == "regsim"]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


pages = pytest.mark.parametrize("page", PAGES, ids=page_id)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with everything that the pages speak of, tiny; the tests of this file run inside it, in order."""
    place = tmp_path_factory.mktemp("docs")
    fixed, labels = coarser(brain("t1"), 9.0), warp(brain_tissues(), None, coarser(brain("t1"), 9.0), "labels")
    shift = Rigid(3, fixed.grid.centre)
    shift.translation.data[0] = 6.0
    wide = fixed.grid.padded(1)
    with contextlib.chdir(place):
        regsim.write_image(fixed, "fixed.nii.gz")
        regsim.write_image(warp(coarser(brain("t2"), 9.0), shift.inverse(), wide), "moving.nii.gz")
        regsim.write_image(labels, "fixed_labels.nii.gz")
        regsim.write_image(warp(labels, shift.inverse(), wide), "labels.nii.gz")
        for name in ("fixed", "moving"):
            image = regsim.read_image(f"{name}.nii.gz")
            regsim.write_image(image.with_data((image.data > 0.05).float()), f"{name}_mask.nii.gz")
        lesion = torch.zeros_like(fixed.data)
        lesion[:, 8:11, 9:12, 6:9] = 1
        regsim.write_image(fixed.with_data(lesion), "fixed_lesion.nii.gz")
        regsim.write_image(regsim.Image.of_array(torch.rand(6, 24, 24), (1.0, 1.0, 4.0)), "thick.nii.gz")
        write_landmarks(fixed.grid.corners(), Path("fixed_points.csv"))
        write_landmarks(shift(fixed.grid.corners()).detach(), Path("moving_points.csv"))
        Path("pairs.csv").write_text(
            "fixed,moving,fixed_mask,name\nfixed.nii.gz,moving.nii.gz,,anna\nfixed.nii.gz,moving.nii.gz,fixed_mask.nii.gz,ben\n",
            encoding="utf-8",
        )
        _sections(fixed)
        _subjects(fixed)
        for name in ("dicom_t1", "dicom_t2"):
            _dicom(Path(name), fixed)
        yield place


def _sections(image: regsim.Image) -> None:
    """Two neighbouring pictures of 48 x 48 pixels."""
    for number in (1, 2):
        section = image.data[0, image.grid.size[2] // 2 + number]
        big = torch.nn.functional.interpolate(section[None, None], (48, 48), mode="bilinear")[0, 0] * 255
        regsim.write_image(regsim.Image.of_array(big.round()), f"section_{number}.png")


def _subjects(image: regsim.Image) -> None:
    """Four subjects, each the brain cut and lit in its own way; and four blocks of sections."""
    Path("scans").mkdir()
    for number, name in enumerate(("anna", "ben", "cleo", "dan")):
        data = image.data.flip(3) if number % 2 else image.data
        regsim.write_image(image.with_data(data ** (0.7 + 0.2 * number)), f"scans/{name}_t1.nii.gz")
        block = Path("sections", name)
        block.mkdir(parents=True)
        for place in (8, 9, 10):
            picture = torch.nn.functional.interpolate(data[:, place][None], (48, 48), mode="bilinear")[0, 0]
            regsim.write_image(regsim.Image.of_array((picture * 255).round()), block / f"{place:03d}.png")


def _dicom(folder: Path, image: regsim.Image) -> None:
    """One series of axial slices."""
    folder.mkdir()
    volume = sitk.Cast(image.with_data(image.data * 1000).to_sitk(), sitk.sitkInt16)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number in range(volume.GetDepth()):
        piece = volume[:, :, number]
        position = "\\".join(f"{v:.4f}" for v in volume.TransformIndexToPhysicalPoint((0, 0, number)))
        tags = {"0008|0060": "MR", "0020|000e": "1.2.826.0.1.3680043.2.1125.1", "0020|0032": position}
        tags |= {
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(number),
            "0018|0050": f"{volume.GetSpacing()[2]:.4f}",
        }
        for tag, value in tags.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number:03d}.dcm"))
        writer.Execute(piece)


@pages
def test_commands_exist(page: Path) -> None:
    for words in commands(page):
        assert words, f"{page_id(page)}: a bare `regsim`"
        assert words[0] in COMMANDS, f"{page_id(page)}: no command {words[0]}"
        COMMANDS[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("page", [page for page in RUN_PAGES if commands(page) or blocks(page, "python")], ids=page_id)
def test_blocks_and_commands_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shell before Python, since the Python reads what the commands wrote; blocks of a page share their names."""
    monkeypatch.setattr(audit, "TREES", 10)
    for words in commands(page):
        if words[0] in TOO_LONG or words[1:2] == ["demo"]:
            continue
        if words[0] == "train" and "--list" not in words:
            words += [word for setting in SHORT_TRAINING for word in ("--set", setting)]
        assert run(words) == 0, f"{page_id(page)}: regsim {shlex.join(words)}"
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page, "python"):
        code = "\n" * block.line + block.text
        exec(compile(code, str(page), "exec"), names)


def test_commands_wrote_what_the_pages_say(folder: Path) -> None:
    tutorial = (ROOT / "docs" / "first-registration.md").read_text(encoding="utf-8")
    promised = set(re.findall(r"^\| `([\w.]+)` \|", tutorial, re.MULTILINE))
    assert promised == set(os.listdir(folder / "result")), "the table of files in first-registration.md"


def test_example_is_the_readmes() -> None:
    script = (ROOT / "examples" / "register_two_images.py").read_text(encoding="utf-8")
    assert script.partition('"""\n\n')[2] == blocks(ROOT / "README.md", "python")[0].text


def test_every_example_is_listed() -> None:
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert all(script.name in listed for script in (ROOT / "examples").glob("*.py"))


@pages
def test_links_resolve(page: Path) -> None:
    for target in LINK.findall(re.sub(FENCE, "", page.read_text(encoding="utf-8"))):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page_id(page)}: {target} leads nowhere"
        assert ROOT in file.parents, f"{page_id(page)}: {target} leads out of the repository"
        assert not anchor or anchor in headings(file), f"{page_id(page)}: {target}: no such heading"


@cache
def headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_no_paths_of_one_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.<])/(?:[a-z_.-]+/)+", re.sub(r"https://\S+", "", text))


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md" and f"({page.name})" not in menu
    ]
    assert not missing


def test_map_of_the_source_is_whole() -> None:
    """Every part stands in the README's map, and every part of the map exists."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Map of the source")[2].partition("\n## ")[0]
    listed = {
        name.rstrip("/")
        for row in re.findall(r"^\| (`.*?`) \|", readme, re.MULTILINE)
        for name in re.findall(r"`(.*?)`", row)
    }
    source = ROOT / "src" / "regsim"
    parts = {path.name for path in source.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert listed - {"src/regsim"} == {name for name in parts if not name.startswith("__")}


def test_tutorial_names_every_part_of_the_page() -> None:
    tutorial = (ROOT / "docs" / "first-registration.md").read_text(encoding="utf-8")
    folder = ROOT / "src" / "regsim" / "report" / "templates"
    templates = [path for path in folder.glob("*.j2") if not path.name.startswith(("landscape", "training"))]
    titles = {
        title for path in templates for title in re.findall(r"<h2[^>]*>([^<{]+)</h2>", path.read_text(encoding="utf-8"))
    }
    assert titles
    assert not [title for title in titles if f"### {title}\n" not in tutorial]


def _table_script() -> ModuleType:
    found = importlib.util.spec_from_file_location("make_metrics_table", ROOT / "docs" / "make_metrics_table.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_tables_of_metrics_are_up_to_date() -> None:
    script = _table_script()
    for page, columns in script.PAGES.items():
        text = page.read_text(encoding="utf-8")
        assert script.BEGIN in text
        assert script.rewritten(text, columns) == text, f"{page.name}: run python docs/make_metrics_table.py"


def test_one_version_everywhere() -> None:
    for name in ("CITATION.cff", "CHANGELOG.md", "pyproject.toml"):
        assert regsim.__version__ in (ROOT / name).read_text(encoding="utf-8"), name


def test_picture_is_small() -> None:
    assert 10_000 < (ROOT / "docs" / "images" / "demo.png").stat().st_size < 300_000


def test_fixture_is_what_the_pages_need(folder: Path) -> None:
    """The synthetic DICOM series reads back as the image it was made from."""
    image, series = regsim.read_image("fixed.nii.gz"), regsim.read_image("dicom_t1")
    assert series.grid.size == image.grid.size
    assert np.allclose(series.numpy(), image.numpy() * 1000, atol=1)
