"""The benchmark of metrics across contrasts, on made-up subjects: pairs, resuming, offsets and tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.progress import Progress

from benchmarks import contrast_optimum
from benchmarks.contrast_pairs import CONDITIONS, EXACT, ContrastPairs, Wanted, wanted_pairs
from benchmarks.contrast_rows import Bar, Stored
from benchmarks.contrast_subjects import BEYOND, SETS, Case, brought_together, has_pathology, sources
from benchmarks.contrast_summary import summarise
from benchmarks.contrast_tables import PAIRS_FILE, SUMMARY_FILE, write_tables
from benchmarks.contrasts import PAIR_KEY, labelled, load_metrics, main, measure_case
from benchmarks.data import data_folder
from benchmarks.rows import Row, read_rows
from regsim.errors import InputError
from regsim.misalign.sources import Subject

NEVER = ("msx07", "msl01", "msl03", "ixi", "head", "icbm152")


def made_up(dims: int, side: int = 48, beyond: float = 0.0) -> Case:
    """A ball of soft blobs, bright on dark and dark on bright; the second contrast lies `beyond` voxels on along z."""
    shape = (1, side, side) if dims == 2 else (side,) * 3
    generator = torch.Generator().manual_seed(dims)
    coarse = torch.rand((1, 1, *(max(2, length // 5) for length in shape)), generator=generator)
    blobs = F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]
    axes = torch.meshgrid(*[torch.arange(length) - (length - 1) / 2 for length in shape], indexing="ij")
    away = torch.stack(axes).norm(dim=0)
    seen = away < 0.42 * side
    first = torch.where(seen, 0.2 + 0.8 * blobs, 0.0)
    second = torch.where(seen, 1 - 0.7 * blobs, 0.0)
    if beyond:
        second = (1 - beyond) * second + beyond * second.roll(1, dims=0)
    subject = Subject("nc99", {"t1": first, "flair": second}, None, seen, (0,) if dims == 2 else (0, 1, 2))
    return Case(dims, "t1_flair", subject, 2.0, side)


@pytest.fixture(scope="module", params=(2, 3))
def case(request: pytest.FixtureRequest) -> Case:
    return made_up(request.param, 48 if request.param == 2 else 32)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_errors_are_those_asked_for_over_the_mask(case: Case, condition: str) -> None:
    pairs = ContrastPairs(case)
    for group, error in EXACT.items():
        for number in (0, 1):
            pair = pairs.pair(Wanted(group, number), condition)
            assert pair.error == pytest.approx(error, rel=0.011)
            assert pair.fixed.shape == pair.moving.shape == pair.mask.shape
            assert float((pair.fixed - pair.moving).abs()[pair.mask > 0].mean()) > 0.02
            assert 0 < float(pair.mask.mean()) < 1


def test_pairs_repeat_in_any_order_and_differ_by_number(case: Case) -> None:
    wanted = Wanted("1mm", 1)
    alone = ContrastPairs(case).pair(wanted, "half")
    after = ContrastPairs(case)
    for condition in ("easy", "hidden"):
        after.pair(wanted, condition)
    assert torch.equal(after.pair(wanted, "half").moving, alone.moving)
    assert after.pair(Wanted("1mm", 3), "half").error != alone.error


def test_twins_share_everything_but_the_motion() -> None:
    pairs = ContrastPairs(made_up(2))
    one, other = (pairs.pair(Wanted(group, 0), "noise") for group in ("aligned", "1mm"))
    twins, strangers = (
        abs(float(one.fixed.mean() - pair.fixed.mean())) for pair in (other, pairs.pair(Wanted("ladder", 0), "noise"))
    )
    assert twins < strangers


def test_half_leaves_half_and_hidden_less(case: Case) -> None:
    pairs = ContrastPairs(case)
    whole, half, hidden = (
        float(pairs.pair(Wanted("aligned", 0), name).mask.sum()) for name in ("easy", "half", "hidden")
    )
    assert 0.3 * whole < half < 0.7 * whole
    assert 0 < hidden < 0.7 * whole


def test_a_short_run_has_the_first_pairs_of_a_long_one() -> None:
    assert set(wanted_pairs(2, 6)) < set(wanted_pairs(4, 12))
    errors = sorted(wanted.error for wanted in wanted_pairs(0, 12))
    assert max(np.diff([0, *errors, 8])) < 1.3


def measured(path: Path, *specs: str) -> list[Row]:
    """What stands in the file once these metrics were measured on a made-up subject."""
    stored = Stored(path, PAIR_KEY, ("error", "cost"))
    with Progress(disable=True) as progress:
        wanted = list(wanted_pairs(1, 2))
        measure_case(made_up(2), wanted, ("easy", "noise"), load_metrics(specs), stored, Bar(progress, 1))
    return list(read_rows(path))


def test_measuring_goes_on_and_a_later_metric_sees_the_same_pairs(tmp_path: Path) -> None:
    first = measured(tmp_path / PAIRS_FILE, "ncc")
    assert len(first) == 2 * len(list(wanted_pairs(1, 2)))
    assert measured(tmp_path / PAIRS_FILE, "ncc") == first
    both = measured(tmp_path / PAIRS_FILE, "ncc", "b=nmi:bins=32")
    assert both[: len(first)] == first
    assert [row["error"] for row in both if row["metric"] == "b"] == [row["error"] for row in first]


def test_rows_of_other_pairs_are_refused(tmp_path: Path) -> None:
    other = Stored(tmp_path / "other.csv", PAIR_KEY, ("error", "cost"))
    for row in measured(tmp_path / PAIRS_FILE, "ncc"):
        other.add({**row, "error": 3.0})
    with pytest.raises(InputError, match="other pairs"):
        measured(tmp_path / "other.csv", "mse")


def test_labels() -> None:
    assert labelled("ours/seed1=models/a") == ("ours/seed1", "models/a")
    assert labelled("nmi:bins=64") == ("nmi:bins=64", "nmi:bins=64")
    assert labelled("wide=mind:dilations=(1, 2)") == ("wide", "mind:dilations=(1, 2)")
    with pytest.raises(InputError, match="labelled 'a'"):
        load_metrics(["a=ncc", "a=mse"])


def test_the_optimum_shows_how_far_a_contrast_lies_beyond() -> None:
    shifted = made_up(3, 32, beyond=0.5)
    line, metrics = contrast_optimum.Line("easy", 0, 0), load_metrics(["nmi:bins=32", "mind"])
    for offset in contrast_optimum.offsets(shifted, line, metrics).values():
        assert offset == pytest.approx(0.5, abs=0.15)
    mended = replace(shifted, subject=brought_together(shifted.subject, (0.5, 0.0, 0.0)))
    for offset in contrast_optimum.offsets(mended, line, metrics).values():
        assert offset == pytest.approx(0.0, abs=0.15)
    assert contrast_optimum.line_count(3, 4) == len(list(contrast_optimum.lines(shifted, 4)))


def rows_of(metric: str, cost: float, noise: float = 0.0, subjects: int = 4) -> list[Row]:
    """A metric whose cost is `cost` times the error, and random."""
    random, rows = np.random.default_rng(0), list[Row]()
    for subject in ("msx19", *(f"nc0{number}" for number in range(1, subjects))):
        for condition in ("easy", "noise"):
            for group, number, error in [("aligned", 0, 0.0), ("1mm", 0, 1.0), ("2mm", 0, 2.0)] + [
                ("ladder", n, float(n)) for n in range(6)
            ]:
                place: Row = {"dims": 3.0, "set": "t1_flair", "condition": condition, "subject": subject}
                value = cost * error + noise * random.standard_normal()
                rows.append(
                    {**place, "group": group, "number": number, "metric": metric, "error": error, "cost": value}
                )
    return rows


def test_summary_of_a_right_a_wrong_and_a_random_metric() -> None:
    found = summarise([*rows_of("good", 1.0), *rows_of("bad", -1.0), *rows_of("blind", 0.0, 1.0)], resamples=20)
    by = {(row.condition, row.metric): row for row in found}
    good, bad, blind = (by["all", name] for name in ("good", "bad", "blind"))
    assert (good.spearman, good.auc_1, good.auc_2, good.twins_1, good.spearman_within) == (1, 1, 1, 1, 1)
    assert (bad.spearman, bad.auc_1, bad.twins_1) == (-1, 0, 0)
    assert blind.spearman_low < blind.spearman < blind.spearman_high
    assert 0.05 < blind.auc_1 < 0.95
    assert (by["pathology", "good"].persons, by["easy", "good"].persons) == (1, 4)
    assert by["all hard", "good"].pairs == by["noise", "good"].pairs == by["all", "good"].pairs // 2
    assert {row.set for row in found} == {"t1_flair"}


def test_seeds_get_a_mean_and_a_spread() -> None:
    found = summarise([*rows_of("ours/seed0", 1.0), *rows_of("ours/seed1", -1.0)], resamples=0)
    mean = next(row for row in found if row.metric == "ours" and row.condition == "all")
    assert (mean.seeds, mean.spearman, mean.spearman_low, mean.spearman_high) == (2, 0, -1, 1)
    assert mean.spearman_spread == pytest.approx(2**0.5)


def test_tables_are_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = Stored(tmp_path / PAIRS_FILE, PAIR_KEY, ("error", "cost"))
    for row in rows_of("mind:dilations=(1, 2)", 1.0, subjects=3):
        stored.add(row)
    found = write_tables(tmp_path, conditions=("easy",))
    assert len(list(read_rows(tmp_path / SUMMARY_FILE))) == len(found)
    assert "mind:dilations" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="first"):
        main(["tables", str(tmp_path / "none")])


def test_no_set_holds_a_subject_of_a_training() -> None:
    place = data_folder()
    if place is None:
        pytest.skip("the real test images are not here; set REGSIM_DATA to their folder")
    found = [source for dims in SETS for name in SETS[dims] for source in sources(place, dims, name)]
    assert len({source.name for source in found}) == 32
    for source in found:
        files = " ".join(str(row[2].name) for row in source.rows)
        assert not any(word in files for word in NEVER), files
    names = {f"{source.name}/{source.contrasts[1]}" for source in found}
    assert set(BEYOND) <= names
    assert has_pathology("hg0001/t2")
