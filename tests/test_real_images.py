"""Real images with known answers: a few cases of `benchmarks/accuracy.py`. Skipped where the images are not to be had."""

import pytest

from benchmarks.accuracy import deformable, native, rigid, slices
from benchmarks.data import data_folder

FOLDER = data_folder()
pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="the real test images are not here; set REGSIM_DATA to their folder"
)


def rows_of(benchmark, count: int) -> list[dict]:
    made = benchmark(FOLDER, True)
    return [next(made) for _ in range(count)]


def test_known_shift_rotation_and_scale_of_a_slice() -> None:
    for row in rows_of(slices, 24):
        across = row["metric"].endswith("across")
        assert row["after"] < (0.5 if across else 0.2), row
        if not across:
            assert row["degrees_error"] < 0.1, row


def test_rigid_t2_onto_t1() -> None:
    for row in rows_of(rigid, 1):
        assert row["after"] < 1.0 < row["before"], row


def test_clinical_scans_from_their_headers() -> None:
    assert rows_of(native, 1)[0]["after"] < 1.5


def test_between_subjects_beats_ants_syn() -> None:
    row = rows_of(deformable, 1)[0]
    assert row["dice"] > 0.587, row
    assert row["folded_percent"] < 0.1, row
