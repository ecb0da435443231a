"""`regsim check`: the rule, what it measures, what it writes, what it refuses, and how `register` ends with it.

The models here are tiny and untrained, with a given answer: what they say is known, whatever the images are.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import regsim
from regsim.applications.check import CheckResult, check
from regsim.applications.check_pair import check_pair, cut_alike, default_working
from regsim.applications.check_regions import label_regions, sides, worst_places
from regsim.errors import GridError, InputError, RegsimError, SettingsError, TransformError
from regsim.evaluation.batch_rows import BatchResults, PairRow, pairs_csv
from regsim.evaluation.check_rows import CheckResults, Limits
from regsim.evaluation.results import ImageFacts, Provenance, RegistrationResults
from regsim.evaluation.verdict import Findings, judge
from regsim.images import Grid, Image, read_image, write_image
from regsim.metrics import registration_error
from regsim.metrics.checkpoint import Card, save_model
from regsim.metrics.error_calibration import LEVELS, PROBABILITIES, Calibration, Summaries
from regsim.metrics.error_network import ErrorNetwork, ErrorNetworkSettings
from regsim.metrics.matching_features import ScaleSettings, summary_places
from regsim.report import render_check_page, write_page
from regsim.transforms import Affine, DisplacementField, Rigid, Transform, warp

from .conftest import Command, Samples, blobs, volume

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FILES = {"error_map.nii.gz", "error_lower.nii.gz", "error_upper.nii.gz", "unrelated.nii.gz"}
FOLDER = FILES | {"check.json", "run.json", "views.npz", "report.html"}
SCALES = (ScaleSettings(factor=1, reach=1, side=2),)
LIMITS = Limits(pass_at=2, fail_at=4, working=2)
NASTY = "<script>document.documentElement.dataset.hacked='yes'</script>\"'><img src=x onerror=alert(1)>.nii"


# --- models that always give the same answer ----------------------------------------------------------------------------


def make_model(
    folder: Path,
    dims: int,
    error: float = 1.0,
    width: float = 0.3,
    unrelated: float = 0.0,
    far: float = 1e3,
    name: str = "tiny",
) -> Path:
    """A model that expects about `error` everywhere; its calibration takes pairs up to a distance of `far` as its own."""
    torch.manual_seed(0)
    settings = ErrorNetworkSettings(dims=dims, scales=SCALES, stem=4, widths=(4, 4))  # type: ignore[arg-type]
    network = ErrorNetwork(settings)
    last, knots = network.last[-1], torch.tensor(settings.knots)
    with torch.no_grad():
        last.weight.zero_()
        last.bias[:-1] = -((knots - error) ** 2) / (2 * width**2)
        last.bias[-1] = 40.0 if unrelated > 0.5 else -40.0
    save_model(
        folder,
        Card(name=name, metric="registration_error", network=settings.model_dump(mode="json")),
        network.state_dict(),
    )
    calibration(name, len(summary_places(SCALES, dims)), far).write(folder / "calibration.json")
    return folder


def calibration(name: str, size: int, far: float = 1e3) -> Calibration:
    """Bounds of a normal distribution; 20 subjects, so that 90 % is guaranteed and 95 % is not."""
    quantiles = tuple(NormalDist().inv_cdf(each) for each in PROBABILITIES)
    unit = tuple(tuple(float(i == j) for j in range(size)) for i in range(size))
    known = Summaries(centre=(0.0,) * size, scale=(1.0,) * size, precision=unit, distances=((far,),) * 20)
    return Calibration(
        model=name, description="made by hand", unit="mm", subjects=20, pairs=20, voxels=1000,
        quantiles=dict.fromkeys(LEVELS, quantiles), summaries=known,
    )  # fmt: skip


@dataclass(frozen=True)
class Models:
    good: Path
    bad: Path
    wide: Path
    unrelated: Path
    far: Path
    flat: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    place = tmp_path_factory.mktemp("models")
    return Models(
        good=make_model(place / "good", 3),
        bad=make_model(place / "bad", 3, error=8.0),
        wide=make_model(place / "wide", 3, error=3.0, width=30.0),
        unrelated=make_model(place / "unrelated", 3, unrelated=1.0),
        far=make_model(place / "far", 3, far=0.0),
        flat=make_model(place / "flat", 2),
    )


@pytest.fixture(autouse=True)
def bundled(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for the models that come with regsim."""
    monkeypatch.setattr(registration_error, "MODELS", {2: str(models.flat), 3: str(models.good)})


def scene(spacing: float = 2.0, size: int = 24) -> Image:
    return Image.of_array(blobs((size,) * 3, (0, 0, 0)), (spacing,) * 3, "scene")


# --- the rule -----------------------------------------------------------------------------------------------------------

FINE = {
    "expected": 1.0, "lower": 0.6, "upper": 1.8, "coverage": 0.9, "voxels": 5000, "overlap": 1.0, "unrelated": 0.0,
    "distance": 2.0, "typical": 3.0, "worst": "label 3",
}  # fmt: skip
CASES = [
    ({}, "pass", "within the limit of 2 mm"),
    ({"upper": 2.0}, "pass", "90 % interval 0.6 to 2.0 mm"),
    ({"upper": 2.01}, "review", "neither surely within 2 mm nor surely above 4 mm"),
    ({"folded": 0.0}, "pass", "within"),
    ({"folded": 0.01}, "review", "folds 1.0 % of the mask"),
    ({"folded": 0.009}, "pass", "within"),
    ({"likeness": 0.8}, "pass", "within"),
    ({"likeness": 0.79}, "review", "a deformation made images of different contrast fit (local correlation 0.79)"),
    ({"folded": 0.05}, "review", "folds 5.0 % of the mask"),
    ({"folded": 0.06}, "fail", "folds 6.0 % of the mask, where no anatomy can"),
    ({"unrelated": 0.099}, "pass", "within"),
    ({"unrelated": 0.1}, "review", "unrelated in 10 % of the mask, most in label 3"),
    ({"unrelated": 0.2}, "review", "20 %"),
    ({"unrelated": 0.21}, "cannot tell", "unrelated in 21 % of the mask, most in label 3"),
    ({"unrelated": 0.2, "expected": 9, "lower": 6, "upper": 14}, "fail", "above the limit of 4 mm"),
    ({"unrelated": 0.2, "upper": 3}, "review", "also, the images seem unrelated"),
    ({"expected": 5, "lower": 4.1, "upper": 7}, "fail", "is 5.0 mm"),
    ({"expected": 4.1, "lower": 2.1, "upper": 7}, "fail", "above the limit"),
    ({"expected": 4.1, "lower": 1.9, "upper": 7}, "review", "neither"),
    ({"expected": 3.9, "lower": 2.1, "upper": 7}, "review", "neither"),
    ({"expected": 12, "lower": 10.5, "upper": 30}, "fail", "is > 10 mm (90 % interval > 10 mm)"),
    ({"expected": 0.1, "lower": 0, "upper": 0.4}, "pass", "is < 0.5 mm (90 % interval < 0.5 mm)"),
    ({"expected": 3, "lower": 0.9, "upper": 8.1}, "cannot tell", "too wide"),
    ({"expected": 3, "lower": 1.0, "upper": 8.1}, "review", "neither"),
    ({"expected": 3, "lower": 0.9, "upper": 8.0}, "review", "neither"),
    ({"voxels": 199}, "cannot tell", "199 working voxels of 2 mm; at least 200"),
    ({"voxels": 200}, "pass", "within"),
    ({"overlap": 0.59}, "cannot tell", "59 % of the mask"),
    ({"overlap": 0.6}, "pass", "within"),
    ({"distance": 6.0}, "pass", "within"),
    ({"distance": 6.1}, "cannot tell", "unlike those of the calibration"),
    ({"voxels": 10, "expected": 9, "lower": 6, "upper": 14}, "cannot tell", "10 working voxels"),
]


@pytest.mark.parametrize(("changes", "verdict", "words"), CASES)
def test_the_rule(changes: dict[str, float], verdict: str, words: str) -> None:
    ruling = judge(Findings.checked({**FINE, **changes}), LIMITS)
    assert ruling.verdict == verdict, ruling.reason
    assert words in ruling.reason
    assert ruling.reason.endswith(".")
    assert "\n" not in ruling.reason


def test_the_rule_follows_its_limits() -> None:
    strict = LIMITS.model_copy(update={"pass_at": 1.0, "most_unrelated": 0.05})
    assert judge(Findings.checked(FINE), strict).verdict == "review"
    assert judge(Findings.checked({**FINE, "unrelated": 0.06}), strict).verdict == "cannot tell"
    with pytest.raises(SettingsError, match="expected pass below fail, got pass 4 and fail 2"):
        Limits.checked({"pass_at": 4, "fail_at": 2, "working": 2})


# --- regions and places -------------------------------------------------------------------------------------------------


def test_eighths_are_named_in_space_whatever_the_axes_of_the_array() -> None:
    plain = Grid.of((10, 10, 10), 2.0)
    turned = Grid((10, 10, 10), (2.0,) * 3, (18.0, 0.0, 0.0), ((-1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)))
    for grid in (plain, turned):
        found = {region.name: region.where for region in sides(torch.ones(grid.shape, dtype=torch.bool), grid)}
        assert len(found) == 8
        assert sum(int(where.sum()) for where in found.values()) == 1000
        points = grid.points()[found["left front lower"]]
        assert points[:, 0].min() > 8  # LPS: left is +x
        assert points[:, 1].max() < 10  # front is -y
        assert points[:, 2].max() < 10


def test_quarters_of_pictures_are_named_by_their_axes_and_tiny_ones_left_out() -> None:
    found = sides(torch.ones((20, 20), dtype=torch.bool), Grid.of((20, 20), 1.0, "px"))
    assert sorted(region.name for region in found) == ["high x high y", "high x low y", "low x high y", "low x low y"]
    assert sides(torch.ones((4, 4), dtype=torch.bool), Grid.of((4, 4), 1.0, "px")) == []


def test_labels_count_within_the_mask_only() -> None:
    labels = torch.zeros(10, 10, dtype=torch.int64)
    labels[:5], labels[5:8], labels[9:] = 7, 3, 9
    mask = torch.ones(10, 10, dtype=torch.bool)
    mask[:2] = False
    found = {region.name: int(region.where.sum()) for region in label_regions(labels, mask)}
    assert found == {"label 3": 30, "label 7": 30}  # 9 has 10 voxels; 0 is background


def test_the_worst_places_lie_apart_and_in_the_mask() -> None:
    error = torch.zeros(1, 40, 40)
    error[0, 5, 5], error[0, 6, 6], error[0, 30, 30], error[0, 5, 35] = 9, 8, 7, 20
    mask = torch.ones_like(error, dtype=torch.bool)
    mask[0, 5, 35] = False
    assert worst_places(error, mask, Grid.of((1, 40, 40), 2.0), 2.0)[:2] == [(0, 5, 5), (0, 30, 30)]


# --- the pair -----------------------------------------------------------------------------------------------------------


def test_overlap_is_counted_and_what_a_moving_mask_hides_is_not() -> None:
    fixed, shift = scene(), Rigid(3)
    shift.translation.data[0] = 16.0  # of 48 mm
    mask = torch.ones(1, 24, 24, 24)
    pair = check_pair(fixed, fixed, mask, shift.requires_grad_(False), carry=True)
    assert pair.overlap == pytest.approx(2 / 3, abs=0.02)
    assert not pair.mask[:, :, 17:].any()
    half = torch.ones(1, 24, 24, 24)
    half[..., :12] = 0
    hidden = check_pair(fixed, Image(fixed.data, fixed.grid, half), mask, Rigid(3), carry=True)
    assert hidden.overlap == 1.0
    assert not hidden.mask[:, :, :12].any()


def test_values_outside_the_mask_need_not_be_finite() -> None:
    fixed, moved = scene(), scene()
    mask = (fixed.data > 20).float()
    moved.data[0, 0, 0, 0] = torch.nan
    fixed.data[0, 1, 0, 0] = torch.inf
    pair = check_pair(fixed, moved, mask, None)
    assert torch.isfinite(pair.fixed.data).all()
    assert torch.isfinite(pair.moved.data).all()
    assert not pair.held[0, 0, 0]
    moved.data[mask > 0] = torch.nan
    with pytest.raises(InputError, match=r"'scene': \d+ voxels inside the mask are NaN or infinite"):
        check_pair(fixed, moved, mask, None)


def test_pixels_are_worked_on_at_a_size_like_that_of_a_brain() -> None:
    assert default_working(Grid.of((100, 200), 1.0, "px"), 2.0) == 1.0
    assert default_working(Grid.of((100, 1024), 1.0, "px"), 2.0) == 4.0
    assert default_working(Grid.of((100, 1024), 0.5), 2.0) == 2.0


def test_images_of_another_scale_are_worked_on_at_their_own() -> None:
    assert default_working(Grid.of((512, 1024), 0.00065), 1.0) == pytest.approx(1024 * 0.00065 / 256)
    assert default_working(Grid.of((100, 150, 90), 0.1), 2.0) == pytest.approx(15 / 128)
    assert default_working(Grid.of((20, 20, 20), 1.0), 2.0) == 2.0
    assert default_working(Grid.of((80, 90, 80), 2.0), 2.0) == 2.0


def test_a_micrograph_with_a_pixel_size_is_checked_at_its_scale() -> None:
    section = Image.of_array(scene().data[0, 12].numpy(), (0.00065,) * 2, "section")
    found = regsim.check(section, section)
    assert found.results.limits.working == pytest.approx(0.00065)
    assert found.expected_error < 5 * 0.00065


def test_one_mask_that_cut_both_images_is_no_evidence() -> None:
    generator = torch.Generator().manual_seed(0)
    fixed, moved = (torch.rand(40, 40, 40, generator=generator) + 0.1 for _ in range(2))
    axes = torch.arange(40) - 19.5
    ball = axes[:, None, None] ** 2 + axes[:, None] ** 2 + axes**2 < 14**2
    cut, share = cut_alike(fixed * ball, moved * ball, (8, 8, 8))
    assert share == 1
    assert not (cut & ball).any()
    assert cut[~ball & (axes[:, None, None] ** 2 + axes[:, None] ** 2 + axes**2 < 17**2)].all()
    own, share = cut_alike(fixed * ball, moved * ball.roll(1, 0), (8, 8, 8))
    assert share < 0.2
    assert own.float().mean() < 0.1


def test_an_affine_without_an_inverse_is_refused() -> None:
    flat = Affine(3)
    with torch.no_grad():
        flat.set_matrix(torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)))
    with pytest.raises(TransformError, match="not invertible"):
        check_pair(scene(), scene(), None, flat)


def test_a_deformable_registration_between_contrasts_is_read_by_what_such_leave(models: Models, tmp_path: Path) -> None:
    fixed = scene()
    noise = torch.randn(fixed.data.shape, generator=torch.Generator().manual_seed(0))
    other = Image(fixed.data * (1 + 0.5 * noise), fixed.grid, name="other")
    base = calibration("tiny", len(summary_places(SCALES, 3)))
    shifted = {level: tuple(each + 4 for each in table) for level, table in base.quantiles.items()}
    base.model_copy(update={"fitted": base.model_copy(update={"quantiles": shifted})}).write(tmp_path / "c.json")
    bent = DisplacementField(torch.zeros(3, *fixed.grid.shape), fixed.grid)

    def seen(moved: Image, transform: Transform) -> CheckResult:
        return check(fixed, moved, transform=transform, model=str(models.good), calibration=tmp_path / "c.json")

    plain, fitted, alike = seen(other, Rigid(3)), seen(other, bent), seen(fixed, bent)
    assert (plain.verdict, alike.verdict, fitted.verdict) == ("pass", "pass", "review")
    assert fitted.expected_error > 1.2 * plain.expected_error == pytest.approx(1.2 * alike.expected_error)
    assert fitted.interval[0] < fitted.expected_error < fitted.interval[1]
    inside = fitted.pair.mask
    assert float(fitted.error_map.data[0][inside].min()) > float(plain.error_map.data[0][inside].max())
    assert all(region.expected > plain.expected_error for region in fitted.regions)
    assert "deformation made images of different contrast fit" in fitted.reason
    assert any("left on pairs of known error" in note for note in fitted.results.notes)


# --- the library --------------------------------------------------------------------------------------------------------


def test_check_gives_maps_regions_scores_and_a_verdict(models: Models) -> None:
    assert regsim.check is check
    fixed = scene()
    found = check(fixed, fixed, model=str(models.good))
    assert found.verdict == "pass"
    low, high = found.interval
    assert 0 < low < found.expected_error < high <= 2
    assert found.expected_error == pytest.approx(1.0, abs=0.1)
    mask = found.pair.mask[None]
    for image in (found.error_map, found.lower, found.upper, found.unrelated):
        assert image.grid == fixed.grid
        assert torch.isfinite(image.data).all()
        assert (image.data[~mask] == 0).all()
    assert (found.lower.data[mask] <= found.error_map.data[mask]).all()
    assert (found.upper.data[mask] >= found.error_map.data[mask]).all()
    assert [row.interval[1] for row in found.regions] == sorted(
        (row.interval[1] for row in found.regions), reverse=True
    )
    assert sum(row.voxels for row in found.regions) == int(mask.sum())
    assert {row.metric for row in found.scores} == {"mind", "nmi", "lncc", "ncc", "siamregqc"}
    assert found.results.voxels == pytest.approx(float(mask.sum()))
    assert found.results.trust.guaranteed


@pytest.mark.parametrize(
    ("kind", "verdict", "words"),
    [
        ("bad", "fail", "above the limit of 4 mm"),
        ("wide", "cannot tell", "too wide"),
        ("unrelated", "cannot tell", "unrelated in 100 % of the mask"),
        ("far", "cannot tell", "unlike those of the calibration"),
    ],
)
def test_what_the_model_says_decides(models: Models, kind: str, verdict: str, words: str) -> None:
    found = check(scene(), scene(), model=str(getattr(models, kind)))
    assert found.verdict == verdict
    assert words in found.reason


def test_errors_scale_with_the_working_voxel(models: Models) -> None:
    mouse = scene(0.2)
    found = check(mouse, mouse, model=str(models.good), working=0.2)
    assert found.expected_error == pytest.approx(0.1, abs=0.01)
    assert (found.results.limits.pass_at, found.results.limits.fail_at) == (0.2, 0.4)
    assert found.verdict == "pass"
    coarse = check(mouse, mouse, model=str(models.good), working=0.9)
    assert (coarse.verdict, "at least 200" in coarse.reason) == ("cannot tell", True)
    assert check(scene(0.02), scene(0.02), model=str(models.good)).results.limits.working == pytest.approx(0.02)


def test_few_voxels_little_overlap_and_thick_slices(models: Models) -> None:
    fixed, ten = scene(), torch.zeros(1, 24, 24, 24)
    ten[0, 12, 12, :10] = 1
    few = check(fixed, fixed, mask=ten, model=str(models.good))
    assert (few.verdict, few.regions) == ("cannot tell", ())
    shift = Rigid(3)
    shift.translation.data[0] = 30.0
    little = check(
        fixed, Image(fixed.data, fixed.grid.padded(0)), mask=torch.ones(1, 24, 24, 24), model=str(models.good)
    )
    assert little.verdict == "pass"
    away = Image(fixed.data, Grid.of((24, 24, 24), 2.0).padded(0), name="away")
    away = warp(away, None, Grid((24, 24, 24), (2.0,) * 3, (24.0, 0.0, 0.0), fixed.grid.direction))
    away = Image(away.data, away.grid, name="away")
    half = check(fixed, away, mask=torch.ones(1, 24, 24, 24), model=str(models.good))
    assert half.verdict == "cannot tell"
    assert "50 % of the mask" in half.reason
    assert "resampled by the files' own geometry" in half.results.notes[0]
    thick = Image.of_array(blobs((12, 64, 64), (0, 0, 0)), (0.5, 0.5, 4.0))
    assert check(thick, thick, model=str(models.good)).verdict == "pass"


def test_pictures_are_judged_in_pixels(models: Models) -> None:
    picture = Image.of_array(blobs((64, 72), (0, 0)), name="picture")
    found = check(picture, picture, model=str(models.flat))
    assert found.results.unit == "px"
    assert "px" in found.reason
    assert found.expected_error == pytest.approx(0.5, abs=0.05)  # half a working voxel of 1 px
    assert found.results.limits.fail_at == 2.0
    assert any("pixels of 1 px" in note for note in found.results.notes)


def test_a_transform_is_applied_only_where_it_must_be(models: Models) -> None:
    fixed, shift = scene(), Rigid(3)
    shift.translation.data[1] = 6.0
    unmoved = warp(fixed, shift.inverse(), fixed.grid.padded(6))
    unmoved = Image(unmoved.data, unmoved.grid, name="unmoved")
    carried = check(fixed, unmoved, transform=shift, model=str(models.good))
    inside = carried.pair.mask
    assert torch.allclose(carried.pair.moved.data[0][inside], fixed.data[0][inside], atol=20)
    assert carried.results.jacobian is not None
    assert carried.results.jacobian.median == pytest.approx(1.0, abs=1e-4)
    there = check(fixed, fixed, transform=shift, model=str(models.good))
    assert torch.equal(there.pair.moved.data, fixed.data)
    assert any("judged for folding only" in note for note in there.results.notes)


def test_the_driver_cannot_judge(models: Models) -> None:
    driven = check(scene(), scene(), model=str(models.good), driver="mind:radius=1")
    assert [row.metric for row in driven.scores if row.drove] == ["mind"]
    assert sum("same descriptors (MIND)" in note for note in driven.results.notes) == 1
    free = check(scene(), scene(), model=str(models.good), driver=["nmi", "siamregqc-brain-2d"])
    assert [row.metric for row in free.scores if row.drove] == ["nmi", "siamregqc"]
    assert not any("MIND" in note for note in free.results.notes)
    with pytest.raises(SettingsError, match="unknown metric 'mimd'"):
        check(scene(), scene(), model=str(models.good), driver="mimd")


def test_a_coverage_without_a_guarantee_says_so(models: Models) -> None:
    found = check(scene(), scene(), model=str(models.good), coverage=0.98)
    assert not found.results.trust.guaranteed
    assert any("20 subjects: too few for the 98 % interval" in note for note in found.results.notes)


def test_the_json_comes_back_and_names_its_unit(models: Models, tmp_path: Path) -> None:
    for image, model, unit in (
        (scene(), models.good, "mm"),
        (Image.of_array(blobs((64, 72), (0, 0))), models.flat, "px"),
    ):
        results = check(image, image, model=str(model)).results
        path = tmp_path / "check.json"
        path.write_text(results.to_json(), encoding="utf-8")
        stored = json.loads(path.read_text(encoding="utf-8"))
        first = [f"expected_error_{unit}", f"interval_{unit}", "coverage", "verdict", "reason", "regions", "scores"]
        assert list(stored)[:7] == first
        assert CheckResults.of_json(path) == results
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="not the results of a check"):
        CheckResults.of_json(path)


# --- the command --------------------------------------------------------------------------------------------------------


def run_check(command: Command, samples: Samples, out: Path, *more: object) -> dict[str, object]:
    text = command("check", samples.fixed, samples.moving, "-o", out, "--json", "-", *more).succeeded().out
    found: dict[str, object] = json.loads(text)
    return found


def test_the_command_fills_a_folder(samples: Samples, command: Command, models: Models, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = run_check(command, samples, out, "--model", models.good, "--mask", samples.mask)
    assert {path.name for path in out.iterdir()} == FOLDER
    assert found["verdict"] == "pass"
    assert json.loads((out / "check.json").read_text(encoding="utf-8")) == found
    fixed, mask = read_image(samples.fixed), read_image(samples.mask).data > 0
    for name in FILES:
        image = read_image(out / name)
        assert image.grid.same_as(fixed.grid)
        assert (image.data[~mask] == 0).all()
    run = Provenance.model_validate_json((out / "run.json").read_bytes())
    assert [entry.role for entry in run.inputs] == ["fixed", "moved", "mask", "model"]
    page = (out / "report.html").read_text(encoding="utf-8")
    (out / "report.html").unlink()
    command("report", out).succeeded()
    assert (out / "report.html").read_text(encoding="utf-8") == page


def test_the_terminal_fits_80_columns(samples: Samples, command: Command, models: Models, tmp_path: Path) -> None:
    shown = (
        command("check", samples.fixed, samples.moving, "-o", tmp_path / "out", "--model", models.bad).succeeded().out
    )
    assert "FAIL" in shown
    for words in ("worst regions", "siamregqc", "report: "):
        assert words in shown
    assert max(len(line) for line in shown.splitlines() if not line.startswith("report: ")) <= 80


@pytest.mark.parametrize(("kind", "code"), [("good", 0), ("bad", 3), ("far", 4)])
def test_strict_exit_codes(
    kind: str, code: int, samples: Samples, command: Command, models: Models, tmp_path: Path
) -> None:
    words = ("check", samples.fixed, samples.moving, "-o", tmp_path / "out", "--model", getattr(models, kind))
    assert command(*words).code == 0
    outcome = command(*words, "--strict")
    assert (outcome.code, outcome.err) == (code, "")


def test_labels_a_transform_and_limits(samples: Samples, command: Command, models: Models, tmp_path: Path) -> None:
    fixed = read_image(samples.fixed)
    labels = Image((fixed.data > 60).long() + (fixed.data > 20).long(), fixed.grid)
    write_image(labels, tmp_path / "labels.nii.gz")
    more = ("--labels", tmp_path / "labels.nii.gz", "--transform", samples.transform, "--pass", 0.5, "--fail", 0.8)
    found = run_check(command, samples, tmp_path / "out", "--model", models.good, *more)
    assert found["verdict"] == "fail" or found["verdict"] == "review"
    assert {row["name"] for row in found["regions"]} == {"label 1", "label 2"}  # type: ignore[attr-defined]
    assert found["jacobian"] is not None
    assert "Folding" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_pictures_without_a_pixel_size(samples: Samples, command: Command, models: Models, tmp_path: Path) -> None:
    words = (
        "check",
        samples.picture,
        samples.moved_picture,
        "-o",
        tmp_path / "out",
        "--model",
        models.flat,
        "--json",
        "-",
    )
    found = json.loads(command(*words).succeeded().out)
    assert found["expected_error_px"] == pytest.approx(0.5, abs=0.05)
    page = re.sub(
        r"<(style|script)>.*?</\1>", "", (tmp_path / "out" / "report.html").read_text(encoding="utf-8"), flags=re.S
    )
    assert not re.search(r"\bmm\b", re.sub(r"data:image/[^\"]+", "", page))


def test_the_driver_is_found_beside_a_warped_image(
    samples: Samples, command: Command, models: Models, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command("register", samples.fixed, samples.moving, "-o", run, "-m", "ncc", "--no-check").succeeded()
    words = (
        "check",
        samples.fixed,
        run / "warped.nii.gz",
        "-o",
        tmp_path / "out",
        "--model",
        models.good,
        "--json",
        "-",
    )
    scores = json.loads(command(*words).succeeded().out)["scores"]
    assert [row["metric"] for row in scores if row["drove"]] == ["ncc"]
    found = json.loads((tmp_path / "out" / "check.json").read_bytes())
    assert found["jacobian"] is not None
    other = shutil.copy(run / "warped.nii.gz", run / "other.nii.gz")
    words = ("check", samples.fixed, other, "-o", tmp_path / "two", "--model", models.good, "--json", "-")
    assert not any(row["drove"] for row in json.loads(command(*words).succeeded().out)["scores"])
    assert json.loads((tmp_path / "two" / "check.json").read_bytes())["jacobian"] is None
    command("check", samples.fixed, other, "-o", run, "--model", models.good).refused("results of another command")


def mistakes(samples: Samples, models: Models, place: Path) -> dict[str, tuple[list[object], tuple[str, ...]]]:
    """Arguments and what the line must say."""
    fixed, moving = samples.fixed, samples.moving

    def stored(name: str, image: sitk.Image) -> Path:
        sitk.WriteImage(image, str(place / name))
        return place / name

    (place / "cut.nii.gz").write_bytes(fixed.read_bytes()[:500])
    (place / "empty.nii.gz").touch()
    holes = blobs((20, 22, 24), (0, 0, 0))
    holes[10, 11, 12] = np.nan
    nan = stored("nan.nii.gz", volume(holes))
    none = stored("none.nii.gz", volume(np.zeros((20, 22, 24), np.uint8)))
    small = stored("small.nii.gz", volume(np.ones((5, 5, 5), np.uint8)))
    flat = stored("flat.nii.gz", volume(np.full((20, 22, 24), 3, np.float32)))
    away = volume(blobs((20, 22, 24), (0, 0, 0)))
    away.SetOrigin((500.0, 0.0, 0.0))
    singular = sitk.AffineTransform(3)
    singular.SetMatrix((1.0, 0, 0, 0, 1.0, 0, 0, 0, 1e-9))
    sitk.WriteTransform(singular, str(place / "flat.tfm"))
    calibration("another", len(summary_places(SCALES, 3))).write(place / "another.json")
    calibration("tiny", 3).write(place / "short.json")
    model = ["--model", models.good]
    pair = [fixed, moving, *model]
    return {
        "missing": ([fixed, place / "nothing.nii.gz", *model], ("nothing.nii.gz", "does not exist")),
        "truncated": ([place / "cut.nii.gz", moving, *model], ("cut.nii.gz",)),
        "empty": ([fixed, place / "empty.nii.gz", *model], ("empty (0 bytes)",)),
        "nan": ([fixed, nan, *model], ("nan.nii.gz", "NaN")),
        "nan in the mask": ([nan, moving, *model, "--mask", samples.mask], ("nan.nii.gz", "inside its mask")),
        "labels elsewhere": ([*pair, "--labels", small], ("small.nii.gz", "another grid")),
        "mask elsewhere": ([*pair, "--mask", small], ("small.nii.gz", "another grid")),
        "empty mask": ([*pair, "--mask", none], ("none.nii.gz", "no voxel")),
        "constant": ([fixed, flat, *model], ("flat.nii.gz", "constant")),
        "another metric": ([fixed, moving, "--model", "siamregqc-brain-2d"], ("siamregqc",)),
        "another model's calibration": ([*pair, "--calibration", place / "another.json"], ("'another'", "'tiny'")),
        "a short calibration": ([*pair, "--calibration", place / "short.json"], ("summary",)),
        "no calibration": ([*pair, "--calibration", place / "nothing.json"], ("nothing.json",)),
        "no inverse": ([*pair, "--transform", place / "flat.tfm"], ("flat.tfm",)),
        "no overlap": ([fixed, stored("away.nii.gz", away), *model], ("no overlap", "away.nii.gz")),
        "2-D": ([fixed, samples.picture, *model], ("3-D", "2-D")),
        "a model for volumes": ([samples.picture, samples.moved_picture, *model], ("2-D",)),
        "limits": ([*pair, "--pass", 3, "--fail", 2], ("--pass 3", "--fail 2")),
        "a limit above the default": ([*pair, "--pass", 5], ("pass 5", "fail 4")),
        "a limit of zero": ([*pair, "--pass", 0], ("pass_at", "greater than 0")),
        "coverage": ([*pair, "--coverage", 1.5], ("coverage", "less than 1")),
        "coverage beyond the table": ([*pair, "--coverage", 0.999], ("calibration goes from",)),
        "driver": ([*pair, "--driver", "mimd"], ("mimd", "mind")),
        "no such model": ([fixed, moving, "--model", "nothing"], ("nothing",)),
    }


def test_bad_input_is_one_line_and_nothing_is_written(
    samples: Samples, command: Command, models: Models, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for name, (arguments, words) in mistakes(samples, models, tmp_path).items():
        outcome = command("check", *arguments, "-o", out)
        print(name, outcome.err)
        outcome.refused(*words)
        assert not out.exists(), name


# --- the page -----------------------------------------------------------------------------------------------------------


def test_names_of_users_are_escaped_and_no_network_is_needed(models: Models) -> None:
    results = check(scene(), scene(), model=str(models.good)).results
    facts = ImageFacts(name=NASTY, size=[1], spacing=[1.0], unit="mm")
    region = results.regions[0].model_copy(update={"name": NASTY})
    trust = results.trust.model_copy(update={"model": NASTY, "description": NASTY, "data": (NASTY,)})
    changes = {"title": NASTY, "reason": NASTY, "notes": (NASTY,), "fixed": facts, "regions": (region,), "trust": trust}
    page = render_check_page(results.model_copy(update=changes))
    assert "<script>document" not in page
    assert "<img src=x" not in page
    assert page.count("<script>") == 1
    assert not re.search(r"https?://", page)


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")
def test_a_browser_shows_the_page(samples: Samples, command: Command, models: Models, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_check(command, samples, out, "--model", models.good)
    words = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    shown = subprocess.run(
        [*words, (out / "report.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert 'data-ready="yes"' in shown.stdout[:3000]
    assert "data-error" not in shown.stdout[:3000]


def test_a_page_without_pictures_is_a_page(samples: Samples, command: Command, models: Models, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_check(command, samples, out, "--model", models.good)
    (out / "views.npz").write_bytes((out / "views.npz").read_bytes()[:100])
    (out / "run.json").unlink()
    text = write_page(out).read_text(encoding="utf-8")
    assert "views.npz could not be read" in text
    assert "left no record" in text


# --- at the end of a registration ---------------------------------------------------------------------------------------


def test_register_ends_with_a_check(samples: Samples, command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shown = command("register", samples.fixed, samples.moving, "-o", run).succeeded().out
    assert "check: pass, expected error 0.9 mm (90 % interval 0.5 to 1.5 mm), see check/report.html" in shown
    assert {path.name for path in (run / "check").iterdir()} == FOLDER
    results = RegistrationResults.model_validate_json((run / "results.json").read_bytes())
    stored = CheckResults.of_json(run / "check" / "check.json")
    assert results.check is not None
    assert (results.check.verdict, results.check.expected_error) == (stored.verdict, stored.expected_error)
    assert [row.metric for row in stored.scores if row.drove] == ["nmi"]
    assert 'href="check/report.html"' in (run / "report.html").read_text(encoding="utf-8")
    command("register", samples.fixed, samples.moving, "-o", run, "--no-check").succeeded()
    assert not (run / "check").exists()
    again = RegistrationResults.model_validate_json((run / "results.json").read_bytes())
    assert (again.check, again.notes) == (None, [])


def test_a_check_that_cannot_run_does_not_stop_a_registration(
    samples: Samples, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def refuse(*_: object, **__: object) -> None:
        raise RegsimError("the image is\ntoo small")

    monkeypatch.setattr("regsim.applications.check_registration.check_with", refuse)
    shown = command("register", samples.fixed, samples.moving, "-o", run).succeeded().out
    assert "Not checked: the image is too small\n" in shown
    results = RegistrationResults.model_validate_json((run / "results.json").read_bytes())
    assert results.check is None
    assert "Not checked: the image is too small" in results.notes
    assert not (run / "check").exists()


def test_results_of_earlier_versions_are_still_read(samples: Samples, command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command("register", samples.fixed, samples.moving, "-o", run, "--no-check").succeeded()
    old = json.loads((run / "results.json").read_text(encoding="utf-8"))
    del old["check"]
    assert RegistrationResults.model_validate(old).check is None


def test_labels_must_lie_on_the_fixed_grid() -> None:
    labels = Image(torch.ones(1, 3, 3, 3, dtype=torch.int64), Grid.of((3, 3, 3)), name="labels")
    with pytest.raises((GridError, SettingsError)):
        check(scene(), scene(), labels=labels)


def test_a_list_of_pairs_has_the_verdict_in_its_table() -> None:
    rows = [
        PairRow(name="anna", status="done", verdict="review", expected_error=2.5),
        PairRow(name="ben", status="failed", reason="no overlap"),
    ]
    results = BatchResults(title="pairs", pairs=rows, kept=0, workers=1, threads=1, seconds=1.0)
    lines = [line.split(",") for line in pairs_csv(results).splitlines()]
    assert [line[-2:] for line in lines] == [["verdict", "expected_error"], ["review", "2.5"], ["", ""]]
