"""The report page: what it says, what it must never hold, and whether a real browser can show it."""

import io
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from regsim.errors import InputError
from regsim.evaluation import results as rows
from regsim.report import figures, pictures, render_registration_page, wording, write_registration_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")
NAN = float("nan")
NASTY = "<script>document.documentElement.dataset.hacked='yes'</script>\"'><img src=x onerror=alert(1)>.nii"


def make_results(unit: rows.Unit = "mm", **changes: object) -> rows.RegistrationResults:
    size = [40, 44, 30] if unit == "mm" else [40, 44]
    facts = [rows.ImageFacts(name=name, size=size, spacing=[1.0] * len(size), unit=unit) for name in ("T1", "T2")]
    steps = [
        rows.StepRow(stage=stage, level=level, step=step, cost=1 / (1 + step), penalty=penalty)
        for stage, penalty in (("rigid", 0.0), ("deformable", 0.02))
        for level in range(2)
        for step in range(12)
    ]
    level = rows.LevelRow(
        stage="rigid", level=0, spacing=4, voxels=1000, iterations=12, cost_first=1, cost_last=0.1, overlap=0.97,
        seconds=0.5, stop="converged",
    )  # fmt: skip
    base = rows.RegistrationResults(
        title="T2 to T1", transform="deformable", metric="mind", unit=unit, fixed=facts[0], moving=facts[1],
        metrics=[
            rows.MetricChange(metric="mind", before=0.4, after=0.1, higher_is_better=False, unit="", drove=True),
            rows.MetricChange(metric="ncc", before=0.2, after=0.9, higher_is_better=True, unit=""),
        ],
        levels=[level], steps=steps, iterations=48, seconds=3.2, peak_memory_mb=512,
    )  # fmt: skip
    return base.model_copy(update=changes)


def make_truth() -> rows.TruthRow:
    shift = rows.ParameterRow(name="translation along x", known=6, recovered=5.9, unit="px")
    return rows.TruthRow(
        before_mean=9.8, after_mean=0.4, after_percentile_95=1.1, after_maximum=2, rigid_error=0.3, parameters=[shift]
    )


def make_views(names: tuple[str, ...], slices: int, deformable: bool = True) -> rows.Views:
    height, width = 44, 40
    row, column = np.mgrid[:height, :width].astype(np.float32)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name in names:
        for kind, shift in (("fixed", 0), ("before", 6), ("after", 1)):
            disc = np.hypot(row - 22, column - 20 - shift)
            stack = [np.where(disc < 8 + index, 200 - 6 * disc, 0) for index in range(slices)]
            arrays[f"{name}_{kind}"] = np.stack(stack).clip(0, 255).astype(np.uint8)
        if deformable:
            jacobian = np.broadcast_to(1 + 0.02 * (row - 22), (slices, height, width)).astype(np.float32).copy()
            jacobian[0, 5, 5], jacobian[0, 6, 6] = -0.2, NAN
            arrays[f"{name}_jacobian"] = jacobian
            arrays[f"{name}_grid"] = np.stack([np.stack([row + np.sin(column / 4), column])] * slices)
    positions = [-2.0 * index for index in range(slices)]
    edges = {"left": "R", "right": "L", "top": "A", "bottom": "P"} if len(names) > 1 else {}
    return rows.Views([rows.Plane(name=name, positions=positions, **edges) for name in names], arrays)


def make_provenance() -> rows.Provenance:
    return rows.Provenance(
        command="regsim register T1 T2", settings={"levels": [4.0, 2.0], "mask": None, "symmetric": True}, seed=3,
        device="cpu", threads=2, versions={"regsim": "0.1.0"}, started="2026-01-01T00:00:00+00:00", seconds=4,
        inputs=[rows.InputFile(role="fixed", name="T1.nii.gz", sha256="0123456789abcdef" * 4, size=1234)],
    )  # fmt: skip


def save(folder: Path, results: rows.RegistrationResults, views: rows.Views | None) -> Path:
    (folder / "results.json").write_text(results.model_dump_json(), encoding="utf-8")
    (folder / "run.json").write_text(make_provenance().model_dump_json(), encoding="utf-8")
    if views is not None:
        views.save(folder / "views.npz")
    return write_registration_page(folder)


def words(page: str) -> str:
    """What a person or a screen reader meets: no style, no script, no pictures; text of tags kept."""
    page = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"data:image/[^\"]+", "", page)


@pytest.fixture(scope="module")
def page_3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    views = make_views(("axial", "coronal", "sagittal"), 3)
    return save(tmp_path_factory.mktemp("mm"), make_results(truth=make_truth()), views)


@pytest.fixture(scope="module")
def page_2d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = make_results("px", metrics=make_results().metrics[1:], notes=["one note"])
    return save(tmp_path_factory.mktemp("px"), results, make_views(("image",), 1, deformable=False))


def test_page_says_what_was_done_and_the_outcome(page_3d: Path) -> None:
    text = words(page_3d.read_text(encoding="utf-8"))
    assert "T2 aligned to T1 (deformable, mind): error 9.8 mm → 0.40 mm" in text
    for expected in (
        "cannot judge the result",
        "translation along x",
        "converged",
        "0123456789ab…",
        "512 MB",
    ):
        assert expected in text
    assert 'title="' + "0123456789abcdef" * 4 in text
    assert page_3d.name == "report.html"
    assert sorted(path.name for path in page_3d.parent.iterdir()) == [
        "report.html", "results.json", "run.json", "views.npz",
    ]  # fmt: skip


def test_page_of_a_run_in_pixels_never_says_mm(page_2d: Path) -> None:
    text = words(page_2d.read_text(encoding="utf-8"))
    assert not re.search(r"\bmm\b", text)
    assert re.search(r"\bpx\b", text)
    assert "ncc 0.20 → 0.90 (better; the true error is not known)" in text
    assert "one note" in text


def test_page_needs_no_network(page_3d: Path, page_2d: Path) -> None:
    for page in (page_3d.read_text(encoding="utf-8"), page_2d.read_text(encoding="utf-8")):
        assert not re.search(r"https?://", page)
        assert not re.search(r"(?:src|srcset|href)=[\"'](?!data:image/)", page)
        assert "@import" not in page
        assert "default-src 'none'" in page


def test_names_of_users_are_escaped() -> None:
    results = make_results(title=NASTY, notes=[NASTY], files={NASTY: NASTY})
    results.fixed.name = NASTY
    results.steps[0].stage = results.levels[0].stage = "$\\bad{" + NASTY
    views = make_views((NASTY,), 2)
    provenance = make_provenance().model_copy(update={"command": NASTY, "settings": {NASTY: [NASTY]}})
    page = render_registration_page(results, provenance, views)
    assert "<script>document" not in page
    assert "<img src=x" not in page
    assert page.count("<script>") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": [], "levels": [], "metrics": []},
        {"steps": [rows.StepRow(stage="rigid", level=0, step=0, cost=NAN, penalty=math.inf)]},
        {"seconds": NAN, "peak_memory_mb": 0.0, "title": ""},
        {"truth": make_truth().model_copy(update={"after_mean": 12.0, "rigid_error": None, "parameters": []})},
    ],
)
def test_page_opens_for_poor_results(tmp_path: Path, changes: dict[str, object]) -> None:
    page = save(tmp_path, make_results(**changes), None).read_text(encoding="utf-8")
    assert "This run left no pictures" in page
    assert ("made things worse" in page) == ("truth" in changes)


def test_worse_metric_without_truth_is_no_verdict(tmp_path: Path) -> None:
    fallen = rows.MetricChange(metric="mse", before=1, after=2, higher_is_better=False, unit="")
    page = save(tmp_path, make_results(metrics=[fallen]), None).read_text(encoding="utf-8")
    assert "did not drive the registration got worse" in page
    assert "made things worse" not in page


def test_metric_without_a_value_is_said_so(tmp_path: Path) -> None:
    lost = rows.MetricChange(metric="lncc", before=NAN, after=math.inf, higher_is_better=True, unit="")
    page = save(tmp_path, make_results(metrics=[lost]), None).read_text(encoding="utf-8")
    assert "not defined" in page
    assert "cannot tell" in page


def test_plane_that_cannot_be_shown_is_named() -> None:
    views = make_views(("axial", "coronal"), 1)
    views.arrays["coronal_after"] = views.arrays["coronal_after"][:, :-1]
    page = render_registration_page(make_results(), None, views)
    assert "differ in size: coronal" in page
    assert "This run left no record" in page


def test_broken_companions_leave_a_note_and_broken_results_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        write_registration_page(tmp_path)
    save(tmp_path, make_results(), None)
    (tmp_path / "views.npz").write_bytes(b"PK\x03\x04 cut short")
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    text = write_registration_page(tmp_path, tmp_path / "other.html").read_text(encoding="utf-8")
    assert "views.npz could not be read" in text
    assert "run.json could not be read (command: Field required)" in text
    (tmp_path / "results.json").write_text('{"title": 3}', encoding="utf-8")
    with pytest.raises(InputError, match="title"):
        write_registration_page(tmp_path)


def test_same_results_give_the_same_page() -> None:
    pages = {render_registration_page(make_results(), None, make_views(("axial",), 2)) for _ in range(2)}
    assert len(pages) == 1


def test_wording() -> None:
    assert wording.number(0.0999999) == "0.100"
    assert wording.number(-1234.5) == "−1,234"
    assert wording.number(999.9) == "1,000"
    assert wording.duration(59.99) == "1 min 00 s"
    assert wording.compare(1, 1, True) == "same"
    drove = make_results(metrics=make_results().metrics[:1])
    assert wording.outcome(drove).tone == "unknown"
    assert "cannot judge it" in wording.outcome(drove).sentence
    assert wording.outcome(make_results(metrics=[])).sentence.endswith("nothing measured the outcome")


def test_outlines_lie_on_the_edge_of_the_fixed_image() -> None:
    fixed = np.zeros((20, 20), np.uint8)
    fixed[:, 10:] = 200
    picture = pictures.outlines(fixed, np.full_like(fixed, 50), pictures.edge_limit(fixed))
    marked = np.all(picture == pictures.OUTLINE, axis=-1)
    assert set(np.nonzero(marked)[1]) <= {9, 10}
    assert marked[5].sum() == 1


def test_jacobian_map_is_white_at_one_and_yellow_where_folded() -> None:
    jacobian = np.ones((46, 46), np.float32)
    jacobian[:, 30:] = -1
    uniform = np.zeros((46, 46), np.uint8)
    data = figures.jacobian_map(jacobian, uniform, figures.jacobian_limit([jacobian]))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert pixels[100, 100].min() > 240
    assert tuple(pixels[100, 400]) == (255, 212, 0)
    assert figures.slice_of_interest(np.stack([np.ones((4, 4)), np.ones((4, 4)), np.zeros((4, 4))])) == 2


def browse(page: Path, folder: Path, *options: str) -> str:
    """What headless Chromium prints."""
    assert BROWSER is not None
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True).stdout


@needs_browser
@pytest.mark.parametrize("kind", ["3d", "2d"])
def test_browser_paints_the_viewer(kind: str, page_3d: Path, page_2d: Path, tmp_path: Path) -> None:
    page, planes = (page_3d, 3) if kind == "3d" else (page_2d, 1)
    shot = tmp_path / "shot.png"
    dom = browse(page, tmp_path, "--dump-dom")
    opening = dom[dom.index("<html") : dom.index(">", dom.index("<html"))]
    assert 'data-ready="yes"' in opening
    assert f'data-painted="{planes}"' in opening
    assert "data-error" not in opening
    browse(page, tmp_path, f"--screenshot={shot}", "--window-size=1280,1200")
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels[300:].std() > 10


DRIVER = """
<script>setTimeout(async () => {
  const root = document.documentElement, seen = [];
  const canvas = document.querySelector("canvas");
  const wait = (time) => new Promise((done) => setTimeout(done, time));
  const look = () => { seen.push(canvas.toDataURL()); };
  for (const mode of ["overlay", "outlines", "checkerboard", "difference", "swipe"]) {
    document.querySelector(`input[value=${mode}]`).click(); look();
  }
  document.querySelector("input[value=before]").click(); look();
  const slider = document.querySelector("input.slice");
  slider.value = 0; slider.dispatchEvent(new Event("input", { bubbles: true })); look();
  const flicker = document.getElementById("flicker");
  flicker.click(); look(); await wait(600); look();
  root.dataset.flickered = flicker.getAttribute("aria-pressed");
  window.dispatchEvent(new Event("blur"));
  root.dataset.stopped = flicker.getAttribute("aria-pressed");
  root.dataset.position = document.querySelector("output").textContent;
  root.dataset.different = new Set(seen).size + " of " + seen.length;
  root.dataset.overflow = root.scrollWidth - root.clientWidth;
}, 1000);</script></body>"""


@needs_browser
def test_browser_controls_change_the_picture_and_nothing_overflows(page_3d: Path, tmp_path: Path) -> None:
    page = re.sub(r"<meta http-equiv[^>]*>", "", page_3d.read_text(encoding="utf-8"))  # lets the driver in
    driven = tmp_path / "driven.html"
    driven.write_text(page.replace("</body>", DRIVER), encoding="utf-8")
    dom = browse(driven, tmp_path, "--dump-dom", "--window-size=420,900")
    opening = dom[dom.index("<html") : dom.index(">", dom.index("<html"))]
    assert "data-error" not in opening
    for expected in (
        'flickered="true"', 'stopped="false"', 'different="9 of 9"', 'overflow="0"', 'position="0.0 mm"',
    ):  # fmt: skip
        assert expected in opening


@needs_browser
def test_browser_runs_no_script_from_a_name(tmp_path: Path) -> None:
    results = make_results(title=NASTY, notes=[NASTY])
    page = tmp_path / "page.html"
    page.write_text(render_registration_page(results, None, make_views((NASTY,), 2)), encoding="utf-8")
    dom = browse(page, tmp_path, "--dump-dom")
    assert "data-hacked" not in dom[dom.index("<html") : dom.index(">", dom.index("<html"))]
    assert 'data-ready="yes"' in dom
