"""The benchmarks of features as a loss and within one contrast: their own logic, on made-up rows."""

from pathlib import Path

import pytest
import torch

from benchmarks import feature_loss, within_contrast
from benchmarks.feature_loss import compared, measure, with_noise
from benchmarks.rows import Row, read_rows
from regsim.images import Image
from regsim.metrics.deepsim import DeepSimilarity
from regsim.registration.schedule import schedule_for


def test_rows_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def cases(place: Path, metric: str, quick: bool) -> feature_loss.Cases:
        def work() -> Row:
            calls.append(metric)
            return {"dice": 0.5, "threads": 2.0}

        return {"1": work, "2": work}

    monkeypatch.setattr(feature_loss, "SETS", {"between": cases})
    monkeypatch.setattr(feature_loss, "data_folder", lambda: tmp_path)
    for specs in (["mind"], ["mind", "other/seed0=ncc"]):
        measure(["between"], specs, tmp_path, False)
    assert calls == ["mind", "mind", "ncc", "ncc"]
    rows = list(read_rows(tmp_path / "feature_loss.csv"))
    assert [row["metric"] for row in rows] == ["mind", "mind", "other/seed0", "other/seed0"]


def test_dice_is_compared_pair_by_pair() -> None:
    rows: list[Row] = [{"case": str(n), "metric": "mind", "dice": 0.5 + 0.01 * n} for n in range(4)]
    rows += [{"case": str(n), "metric": "new", "dice": 0.5012 + 0.01 * n + 0.0002 * (n % 2)} for n in range(4)]
    assert compared(rows, "mind") == ""
    assert compared(rows, "new").startswith("+0.0013 (")
    assert float(compared(rows, "new").rpartition(" ")[2]) < 0.05


def test_noise_has_the_strength_that_was_asked_for() -> None:
    image = Image.of_array(torch.full((40, 40), 80.0))
    noisy = with_noise(image, 0.1, 0).data
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.1)
    assert float(noisy.mean()) == pytest.approx(1.0, abs=0.02)


def test_seeds_are_summed_up_and_levels_judged_alone() -> None:
    rows = [
        {"metric": f"net/seed{n}", "spearman": 0.8 + 0.1 * n, "spearman_outline_hidden": 0.5, "auc": 1.0}
        for n in (0, 1)
    ]
    assert within_contrast.summary(rows) == {"net": ["0.850 ± 0.071", "0.500 ± 0.000", "1.000 ± 0.000"]}
    assert list(within_contrast.variants("ncc", "ncc")) == ["ncc"]
    assert list(within_contrast.variants("ours/seed0", "deepsim-brain-2d")) == ["ours/seed0"]
    assert isinstance(within_contrast.variants("ours/seed0", "deepsim-brain-2d")["ours/seed0"], DeepSimilarity)


def test_penalties_are_multiplied() -> None:
    image = Image.of_array(torch.rand(32, 32))
    name, plan = feature_loss.smoother("ncc*4", image)
    assert name == "ncc"
    assert plan is not None
    usual = schedule_for("deformable", image.grid, "ncc")
    for stage, own in zip(plan.stages, usual.stages, strict=True):
        assert stage.penalties == {kind: 4 * weight for kind, weight in own.penalties.items()}
    assert any(stage.penalties for stage in plan.stages)
    assert feature_loss.smoother("mind", image) == (None, None)
