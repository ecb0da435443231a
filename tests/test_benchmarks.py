"""The benchmarks' own logic on tiny inputs: rows, measuring, agreement, choice of settings, and the page from its tables."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.linear_sets import best_of, chosen
from benchmarks.measuring import in_turn, peak_memory
from benchmarks.metric_cases import CASES, OURS
from benchmarks.metrics import COLUMNS as METRIC_COLUMNS
from benchmarks.metrics import KEY as METRIC_KEY
from benchmarks.metrics import agreement, measure
from benchmarks.peers import linear
from benchmarks.peers.simpleitk import OPTIMISERS, Settings
from benchmarks.performance_page import build
from benchmarks.performance_rows import Results, bars, peer_wins
from benchmarks.registration import SETS
from benchmarks.rows import Row, Table, read_rows
from benchmarks.sets import COLUMNS, KEY, Plan, with_steps
from regsim.images import Grid
from regsim.registration.schedule import schedule_for
from regsim.transforms import Rigid

TINY = (24, 24, 24)


def test_table_is_taken_up_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    Table(path, COLUMNS, KEY).add({"set": "rigid", "case": "3", "who": OURS, "threads": 2.0, "seconds": math.pi})
    again = Table(path, COLUMNS, KEY)
    assert again.has(case="3", who=OURS, threads=2.0)
    assert not again.has(case="4", who=OURS, threads=2.0)
    assert again.rows[0]["seconds"] == 3.1416
    with pytest.raises(KeyError, match="colour"):
        again.add({"colour": 1.0})
    again.forget("who", [OURS])
    assert list(Table(path, COLUMNS, KEY).rows) == []


def test_numbered_case_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    Table(path, COLUMNS, KEY).add({"case": "12", "who": OURS, "threads": 2.0})
    assert Table(path, COLUMNS, KEY).has(case="12", who=OURS, threads=2.0)


def test_agreement_is_of_the_interior() -> None:
    gradient = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0))
    other = gradient.clone()
    other[0] += 100
    found = agreement((2.0, gradient), (2.2, other), 1)
    assert found.value == pytest.approx(0.1)
    assert (found.gradient, found.largest) == (0, 0)
    assert (agreement((2.0, gradient), (2.2, other), 0).gradient or 0) > 0.9
    assert agreement((1.0, gradient), (1.0, None), 1).gradient is None


@pytest.mark.parametrize("name", ["mse", "ncc", "warp", "diffusion", "bending", "jacobian", "control_grid"])
def test_we_agree_with_plain_torch(name: str) -> None:
    rows = {str(row["who"]): row for row in measure(name, TINY, 1, 0.0)}
    peer = rows["torch"]
    assert float(peer["value_difference"]) < 1e-4
    assert float(peer["gradient_difference"]) < 2e-3
    assert set(peer) <= set(METRIC_COLUMNS)
    assert rows[OURS]["peer_over_ours"] == 1.0


@pytest.mark.parametrize("name", ["lncc", "ssim", "mind"])
def test_we_agree_with_the_peers_inside(name: str) -> None:
    pytest.importorskip("monai")
    pytest.importorskip("torchmetrics")
    pytest.importorskip("convexAdam")
    for row in measure(name, (32, 32, 32), 1, 0.0):
        if row["who"] != OURS:
            assert float(row["value_difference"]) < 1e-3, row
            assert float(row.get("gradient_difference", 0.0)) < 3e-3, row


def test_every_case_has_us_first() -> None:
    pytest.importorskip("torchmetrics")
    pytest.importorskip("convexAdam")
    for make in CASES.values():
        assert make().contestants[0].who == OURS


def test_calls_are_timed_in_turn() -> None:
    order: list[str] = []
    times = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, 1.0)
    assert "".join(order) == "ababab"
    assert len(times["a"].seconds) == 2
    assert times["a"].best <= times["a"].median


def test_peak_memory_sees_a_passing_array() -> None:
    with peak_memory() as found:
        torch.ones(16_000_000).sum()
    if math.isnan(found.mebibytes):
        pytest.skip("this system does not report it")
    assert 40 < found.mebibytes < 200


def test_search_takes_the_fastest_of_the_good() -> None:
    fast, good, bad = (str(Settings(optimiser)) for optimiser in OPTIMISERS[:3])
    rows: list[Row] = [
        {"who": f"SimpleITK {fast}", "after": 0.52, "seconds": 1.0},
        {"who": f"SimpleITK {good}", "after": 0.50, "seconds": 9.0},
        {"who": f"SimpleITK {bad}", "after": 0.10, "seconds": 0.1},
        {"who": f"SimpleITK {bad}", "problem": "all samples map outside"},
    ]
    assert best_of(rows) == f"SimpleITK {fast}"
    assert chosen(rows).optimiser == OPTIMISERS[0]


def test_linear_transform_of_itk_is_read_exactly() -> None:
    known = Rigid(3, (4.0, 5.0, 6.0))
    with torch.no_grad():
        known.rotation.copy_(torch.tensor([0.1, -0.2, 0.3]))
        known.translation.copy_(torch.tensor([1.0, 2.0, 3.0]))
    points = torch.rand(5, 3, dtype=torch.float64) * 50
    assert torch.allclose(linear(known.to_itk())(points), known(points), atol=1e-9)


def test_plan_takes_whole_names() -> None:
    plan = Plan(True, ("ants syn", "SimpleITK"))
    assert plan.takes("ANTs SyN")
    assert plan.takes("regsim lncc")
    assert not plan.takes("ANTs SyNCC")


def test_sets_can_say_what_they_run(tmp_path: Path) -> None:
    for name, each in SETS.items():
        runs = list(each.runs(Plan(True, ("SimpleITK",)), Table(tmp_path / f"{name}.csv", COLUMNS, KEY), tmp_path))
        assert len({(run.case, run.who, run.threads) for run in runs}) == len(runs), name


def test_steps_are_scaled() -> None:
    schedule = schedule_for("rigid", Grid.of((32, 32, 32)))
    assert with_steps(schedule, 2.0).total_steps == 2 * schedule.total_steps


def _tables(folder: Path) -> None:
    table = Table(folder / "metrics.csv", METRIC_COLUMNS, METRIC_KEY)
    for who, seconds in ((OURS, 0.1), ("MONAI", 4.0)):
        row: Row = {"what": "LNCC 9", "who": who, "shape": "160x192x144", "voxels": 4423680.0, "threads": 2.0}
        row |= {"seconds": seconds, "copy_seconds": 5e-4, "over_limit": seconds / 5e-4, "peer_over_ours": seconds / 0.1}
        table.add({**row, "memory_mib": 10.0, **({"gradient_difference": 1e-4} if who != OURS else {})})
    brains = Table(folder / "deformable.csv", COLUMNS, KEY)
    for who, dice, seconds in ((OURS, 0.65, 5.0), ("regsim lncc", 0.68, 4.0), ("ANTs SyN", 0.58, 2.0)):
        own: Row = {"set": "deformable", "case": "nc01<-nc02 t1", "who": who, "threads": 2.0}
        brains.add({**own, "dice": dice, "seconds": seconds, "folded_percent": 0.0})


def test_page_is_built_from_tables_alone(tmp_path: Path) -> None:
    _tables(tmp_path)
    build(tmp_path, tmp_path / "page" / "performance.md")
    text = (tmp_path / "page" / "performance.md").read_text(encoding="utf-8")
    assert "| LNCC 9, 160x192x144, times faster than MONAI | >= 30 | 40 | yes |" in text
    assert "deformable t1, seconds: ANTs SyN 2, regsim lncc 4 (means)" in text
    assert "Dice: ANTs" not in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "page" / line.partition("](")[2].rstrip(")")).stat().st_size > 5000


def test_bars_without_rows_say_so(tmp_path: Path) -> None:
    empty = Results.read(tmp_path)
    assert {bar.reached for bar in bars(empty)} == {None}
    assert peer_wins(empty) == []


def test_kept_tables_can_be_read() -> None:
    for path in (Path(__file__).parents[1] / "docs" / "performance").glob("*.csv"):
        rows = list(read_rows(path))
        assert rows
        assert all(np.isfinite(row["seconds"]) for row in rows if isinstance(row.get("seconds"), float))
