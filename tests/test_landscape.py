"""The test bench of metrics: known answers for made-up metrics, a stranger's module, files in and out, bad input."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from benchmarks import league
from regsim.cli.app import run
from regsim.errors import GridError, InputError, SettingsError
from regsim.evaluation.canvas import Canvas
from regsim.evaluation.criteria import PairTable, judge
from regsim.evaluation.landscape import Landscape, LandscapePair, LandscapeSettings, landscape
from regsim.evaluation.landscape_rows import LandscapeArrays, LandscapeResults, criteria
from regsim.evaluation.measuring import Screen
from regsim.evaluation.probes import Drawing, Probe, mean_error
from regsim.evaluation.statistics import area_under_curve, interval, spearman
from regsim.evaluation.surface import capture_range, delta, local_minima, optimum, spurious_minima
from regsim.images import Grid, Image, write_image
from regsim.metrics import REGISTRY
from regsim.metrics.foreign import Foreign
from regsim.report import write_page
from regsim.transforms.sampling import inside

Array = npt.NDArray[np.float64]
SMALL = LandscapeSettings.preset(
    2, quick=True, reach=5.0, shift=4.0, wide_shift=8.0, wide_degrees=8.0, ladder=12, hidden=8, resamples=50
)


def head(seed: int = 0, size: int = 64, air: float = 0.0) -> Image:
    """A smooth textured blob on uniform air (or, with `air`, on a slope)."""
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 1, 9, 9), generator=generator)
    texture = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)[0, 0]
    inside = torch.sigmoid((0.36 * size - ((x - size / 2) ** 2 + 1.3 * (y - size / 2) ** 2).sqrt()) / 0.7)
    return Image(((0.6 + 0.8 * texture) * inside + air * x / size)[None], Grid.of((size, size)), name=f"head {seed}")


def pair(seed: int = 0, air: float = 0.0) -> LandscapePair:
    """Two contrasts of one blob."""
    fixed = head(seed, air=air)
    return LandscapePair(fixed, fixed.with_data(fixed.data**1.3), f"subject {seed}")


def drawn(settings: LandscapeSettings = SMALL, ndim: int = 2) -> tuple[Canvas, list[Probe]]:
    image = (
        head()
        if ndim == 2
        else Image(torch.rand((1, 8, 9, 10), generator=torch.Generator().manual_seed(0)), Grid.of((8, 9, 10)))
    )
    drawing = Drawing(canvas := Canvas(LandscapePair(image, image)), settings, torch.Generator().manual_seed(0))
    return canvas, [*drawing.near(True), *drawing.wide(True)]


def judged(cost: Callable[[Probe, Canvas], float], settings: LandscapeSettings = SMALL) -> dict[str, float]:
    """The criteria of a metric that is told what was done, not shown."""
    canvas, probes = drawn(settings)
    costs = np.array([[cost(probe, canvas) for probe in probes]])
    return judge([PairTable("pair", "1", [probe.known() for probe in probes], costs)], 0, settings)[0]


@pytest.fixture(scope="module")
def found() -> Landscape:
    return landscape([pair(seed) for seed in range(3)], ["mse", "ncc", "mind"], SMALL)


# --- known answers -------------------------------------------------------------------------------------------------------


def test_a_perfect_metric_is_perfect() -> None:
    values = judged(lambda probe, _: probe.error)
    assert all(values[name] == 1 for name in values if name.startswith(("spearman", "auc")))
    assert values["balance"] == pytest.approx(1, abs=0.02)
    for name in ("minima", "offset", "offset_noise", "offset_self", "offset_degrees", "asymmetry"):
        assert values[name] == pytest.approx(0, abs=1e-6), name
    assert all(values[name] == 0 for name in values if name.endswith("_like"))
    _, probes = drawn()
    assert values["capture"] == pytest.approx(max(probe.error for probe in probes if probe.group == "wide"))


def test_a_bias_of_half_a_unit_is_found() -> None:
    def biased(probe: Probe, canvas: Canvas) -> float:
        with torch.no_grad():
            away = probe.motion(canvas.body) - canvas.body - torch.tensor([0.5, 0.0])
        return float((away**2).sum(dim=1).mean())

    assert judged(biased)["offset"] == pytest.approx(0.5, abs=1e-3)


def test_a_periodic_metric_has_spurious_minima() -> None:
    values = judged(lambda probe, _: -math.cos(math.pi * probe.amount) + 0.01 * probe.second**2)
    # shifts of -4 to 4 in steps of 1 and a period of 2: minima at -2, 0 and 2 (borders do not count)
    assert values["minima"] == 2


def test_a_constant_metric_has_stated_values() -> None:
    values = judged(lambda probe, _: 3.0)
    assert all(math.isfinite(value) for value in values.values())
    assert all(values[name] == 0.5 for name in values if name.startswith("auc"))
    assert all(values[name] == 0 for name in values if name.startswith(("spearman", "offset", "balance", "minima")))


def test_nuisance_is_told_in_units_of_shift() -> None:
    values = judged(lambda probe, _: 2.0 if probe.kind == "noise" else probe.error)
    assert values["noise_like"] == pytest.approx(2.0, abs=1e-6)
    assert judged(lambda probe, _: 99.0 if probe.kind == "blur" else probe.error)["blur_like"] == SMALL.reach


def test_surface_by_hand() -> None:
    bowl = np.add.outer(np.arange(-3.0, 4) ** 2, np.arange(-3.0, 4) ** 2)
    two = bowl.copy()
    two[1, 1] = -1
    assert local_minima(two) == [(1, 1), (3, 3)]
    assert spurious_minima(two) == 1
    assert spurious_minima(two - bowl) == 0
    errors = np.sqrt(bowl)
    assert capture_range(bowl, errors) == errors.max()
    assert capture_range(two, errors) < np.sqrt(8)
    assert capture_range(-bowl, errors) == 0
    plane = np.add.outer(np.zeros(5), np.arange(5.0))
    assert delta(plane, 1, 1) == pytest.approx(0.25)
    assert delta(10 * plane, 1, 1) == pytest.approx(25)  # not scale free
    assert optimum(np.arange(5.0), np.arange(5.0)) == 0
    assert optimum(np.arange(5.0), np.ones(5)) == 2


def test_statistics_agree_with_scipy_and_respect_subjects() -> None:
    from scipy.stats import mannwhitneyu, spearmanr

    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 30)).round(1)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert area_under_curve(a, b) == pytest.approx(mannwhitneyu(b, a).statistic / 900)
    values = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0])
    subjects = ["a", "a", "a", "b", "b", "b", "c"]
    low, high = interval(lambda chosen: float(values[list(chosen)].mean()), subjects, 400, 0) or (9, 9)
    assert low <= 0.5
    assert high >= 1.25
    assert interval(lambda _: 0.0, ["a", "b"], 400, 0) is None


# --- probes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_true_errors_are_those_asked_for(ndim: int) -> None:
    canvas, probes = drawn(SMALL if ndim == 2 else SMALL.smaller(0.4), ndim)
    for probe in probes:
        if probe.group in ("ladder", "distance", "hidden_distance"):
            assert probe.error == pytest.approx(probe.amount, rel=0.03, abs=0.01), (probe.group, probe.kind)
        if probe.disc is None:
            assert probe.error == pytest.approx(mean_error(probe.motion, canvas.body))
    assert {probe.kind for probe in probes if probe.group == "ladder"} == {"shift", "rotation", "rigid", "elastic"}


def test_nothing_is_padded() -> None:
    """Where the background is not uniform, one mask for all probes leaves out what any of them would have to invent."""
    image = head(air=1.0)
    canvas = Canvas(LandscapePair(image, image))
    assert not canvas.open
    assert Canvas(LandscapePair(head(), head())).open
    drawing = Drawing(canvas, SMALL, torch.Generator().manual_seed(0))
    probes = list(drawing.surface("surface", 4.0, 4.0, 5))
    valid = canvas.valid([probe.motion for probe in probes])
    assert valid is not None
    for probe in probes:
        mask = Screen(canvas, valid).show([probe]).mask
        assert mask is not None
        here = probe.tilt.mapping(canvas.window)().detach()
        for points in (here, probe.motion(here).detach()):
            assert bool((inside(canvas.grid, points)[mask[0, 0] > 0] == 1).all())
        assert float(mask.mean()) > 0.2


def test_both_images_are_blurred_alike() -> None:
    """White noise keeps the same variance in both, whatever the shift: neither ever lies on the voxel grid."""
    noise = torch.randn((1, 128, 128), generator=torch.Generator().manual_seed(0))
    image = Image(noise, Grid.of((128, 128)))
    canvas = Canvas(LandscapePair(image, image))
    drawing = Drawing(canvas, SMALL, torch.Generator().manual_seed(1))
    for amount in (0.0, 0.25, 0.5, 3.0):
        shown = Screen(canvas, canvas.valid([drawing.axis_shift(0, 3.0)])).show(
            [drawing.probe("axis", "shift x", amount, drawing.axis_shift(0, amount))]
        )
        assert shown.mask is not None
        seen = shown.mask > 0
        assert float(shown.moving[seen].var() / shown.fixed[seen].var()) == pytest.approx(1, abs=0.05)


# --- the whole bench ---------------------------------------------------------------------------------------------------


def test_classical_metrics_do_well(found: Landscape) -> None:
    assert [row.metric for row in found.rows] == ["mse", "ncc", "mind"]
    for row in found.rows:
        assert row["spearman"] > 0.6
        assert row["spearman_within"] > 0.7
        assert row["spearman_hidden_within"] > 0.5
        assert row["auc_3"] > 0.9
        assert row["offset"] < 0.25
        assert row.subjects == 3
        low, high = row.intervals["spearman"]
        assert low <= row["spearman"] <= high
        assert set(row.values) >= {item.name for item in criteria([0.5, 1, 2, 4], 2, "mm")}
    assert found.row("mind")["inversion_like"] < found.row("mse")["inversion_like"]


def test_the_same_seed_gives_the_same_figures(found: Landscape) -> None:
    again = landscape([pair(seed) for seed in range(3)], ["mse", "ncc", "mind"], SMALL)
    other = landscape([pair(0)], ["mse"], SMALL.model_copy(update={"seed": 1}))
    expense = ("seconds", "times_mse", "memory_mb")
    for row, repeated in zip(found.rows, again.rows, strict=True):
        assert {k: v for k, v in row.values.items() if k not in expense} == {
            k: v for k, v in repeated.values.items() if k not in expense
        }
    assert not np.array_equal(other.tables[0].costs[0], found.tables[0].costs[0])


def test_a_metric_that_regsim_has_never_seen() -> None:
    class Mine(nn.Module):
        def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
            return 1 - (fixed - moving).abs().mean()  # one number a call

    known = set(REGISTRY)
    mine = Foreign(Mine(), "mine", higher_is_better=True)
    row = landscape([pair()], [mine, "mae"], SMALL).row("mine")
    assert row["spearman"] == pytest.approx(landscape([pair()], ["mae"], SMALL).row("mae")["spearman"])
    assert set(REGISTRY) == known
    with pytest.raises(InputError, match="expected one number a pair"):
        Foreign(lambda fixed, moving: fixed - moving, "wrong", False)(torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4))
    with pytest.raises(InputError, match="finite"):
        landscape([pair()], [Foreign(lambda fixed, moving: math.nan, "nan", False)], SMALL)


def test_a_biased_metric_on_images_is_found_out() -> None:
    biased = Foreign(lambda f, m: ((f[..., 1:] - m[..., :-1]) ** 2).mean(), "one voxel off", higher_is_better=False)
    image = head()
    row = landscape([LandscapePair(image, image)], [biased], SMALL).rows[0]
    assert row["offset"] == pytest.approx(1, abs=0.1)
    assert row["asymmetry"] > 0.01


def test_other_kinds_of_images() -> None:
    volume = Image(torch.rand((1, 9, 10, 11), generator=torch.Generator().manual_seed(0)), Grid.of((9, 10, 11), 3.0))
    tiny = LandscapeSettings.preset(3, quick=True, ladder=8, hidden=4, repeats=2, axis_steps=5, resamples=0)
    in_3d = landscape([LandscapePair(volume, volume)], ["ncc"], tiny)
    assert in_3d.row("ncc")["spearman"] > 0.3
    assert any("as large as asked" in note for note in in_3d.results.notes)
    colour = head().with_data(torch.cat([head().data, head(1).data]))
    assert landscape([LandscapePair(colour, colour)], ["mse"], SMALL).row("mse")["spearman"] > 0.8
    sloped = landscape([pair(air=0.5)], ["ncc"], SMALL)
    assert sloped.row("ncc")["spearman"] > 0.8


def test_a_pair_that_is_not_aligned_is_doubted() -> None:
    image = head()
    moved = image.with_data(image.data.roll(3, dims=2))
    said = landscape([LandscapePair(image, moved)], ["mse", "ncc"], SMALL).results.notes
    assert any("is the pair aligned" in note for note in said)
    assert not any("is the pair aligned" in note for note in landscape([pair()], ["mse"], SMALL).results.notes)


def test_pairs_must_be_of_one_kind() -> None:
    with pytest.raises(GridError, match="at least one pair"):
        landscape([], ["mse"])
    picture = LandscapePair(Image.of_array(torch.rand(16, 16)), Image.of_array(torch.rand(16, 16)))
    with pytest.raises(GridError, match="one kind"):
        landscape([pair(), picture], ["mse"])
    flat = head().with_data(torch.ones(1, 64, 64))
    with pytest.raises(InputError, match="constant"):
        landscape([LandscapePair(flat, head())], ["mse"])
    with pytest.raises(SettingsError, match="did you mean 'mind'"):
        landscape([pair()], ["mimd"])


def test_the_league_is_written_between_its_markers(found: Landscape) -> None:
    page = f"before\n{league.BEGIN}\nold\n{league.END}\nafter"
    text = league.rewritten(page, {"Blobs": found.results})
    assert text.startswith(f"before\n{league.BEGIN}\n**Blobs** (3 pairs of 3 subjects)")
    assert text.endswith(f"{league.END}\nafter")
    assert "old" not in text
    assert all(f"| `{row.metric}` |" in text for row in found.rows)
    with pytest.raises(InputError, match="no markers"):
        league.rewritten("empty", {})
    assert league.BEGIN in league.PAGE.read_text(encoding="utf-8")


# --- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("landscape")
    for seed in range(2):
        write_image(pair(seed).fixed, place / f"fixed_{seed}.nii.gz")
        write_image(pair(seed).moving, place / f"moving_{seed}.nii.gz")
    lines = ["fixed,moving,subject", *[f"fixed_{n}.nii.gz,moving_{n}.nii.gz,s{n}" for n in range(2)]]
    (place / "pairs.csv").write_text("\n".join(lines))
    words = ["landscape", "--pairs", place / "pairs.csv", "-o", place / "out", "--quick", "--reach", 4, "-m", "ncc"]
    words += ["-m", "mind:radius=2", "-m", "mind", "--json", place / "out.json"]
    assert run([str(word) for word in words]) == 0
    return place


def test_the_folder_holds_what_is_promised(folder: Path) -> None:
    out = folder / "out"
    files = {"landscape.csv", "responses.csv", "landscape.json", "landscape.npz", "run.json", "report.html"}
    assert {path.name for path in out.iterdir()} == files
    with (out / "landscape.csv").open(newline="") as stream:
        league = list(csv.DictReader(stream))
    assert [line["metric"] for line in league] == ["ncc", "mind:radius=2", "mind"]
    assert 0 < float(league[0]["auc_at_0.5"]) <= 1
    assert (league[0]["subjects"], league[0]["unit"]) == ("2", "mm")
    results = LandscapeResults.model_validate_json((out / "landscape.json").read_bytes())
    assert results.rows[0]["spearman"] == pytest.approx(float(league[0]["spearman"]), rel=1e-4)
    assert json.loads((folder / "out.json").read_text())["pairs"] == 2
    with (out / "responses.csv").open(newline="") as stream:
        line = next(csv.DictReader(stream))
    assert list(line) == ["metric", "pair", "subject", "group", "kind", "amount", "second", "error", "value"]
    arrays = LandscapeArrays.load(out / "landscape.npz")
    assert {"fixed", "aligned", "surface_0", "wide_2", "ladder_1", "map_misaligned_2"} <= set(arrays.arrays)


def test_the_page_is_rebuilt_from_the_folder(folder: Path) -> None:
    page = folder / "out" / "report.html"
    first = page.read_text(encoding="utf-8")
    page.unlink()
    assert run(["report", str(folder / "out")]) == 0
    assert page.read_text(encoding="utf-8") == first
    assert "mind:radius=2" in first
    assert "https://" not in first.replace("http://www.w3.org", "")
    (folder / "out" / "landscape.npz").write_bytes(b"cut")
    write_page(folder / "out")
    assert "landscape.npz could not be read" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fixed_0.nii.gz"], "give FIXED and MOVING"),
        (["fixed_0.nii.gz", "nowhere.nii.gz"], "nowhere.nii.gz"),
        (["fixed_0.nii.gz", "moving_0.nii.gz", "--pairs", "pairs.csv"], "not both"),
        (["fixed_0.nii.gz", "moving_0.nii.gz", "-m", "mimd"], "did you mean 'mind'"),
        (["fixed_0.nii.gz", "moving_0.nii.gz", "--noise", "-1"], "noise"),
        (["--pairs", "nowhere.csv"], "cannot be read as a table of pairs"),
        (["--pairs", "headless.csv"], "no column 'fixed'"),
        (["--pairs", "empty.csv"], "holds no pair"),
        (["--pairs", "hole.csv"], "line 2"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "headless.csv").write_text("a,b\n1,2\n")
    (folder / "empty.csv").write_text("fixed,moving\n")
    (folder / "hole.csv").write_text("fixed,moving\nfixed_0.nii.gz,\n")
    assert run(["landscape", *words, "-o", "bad"]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not (folder / "bad").exists()
