"""The page of a trained model: what it says, what it leaves out with a note, and what it must never hold."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from regsim.errors import InputError
from regsim.report.training_page import write_training_page

NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>$\\frac$"
CARD: dict[str, Any] = {
    "format": 1, "name": "brains", "metric": "siamregqc", "network": {"channels": [16, 32]},
    "settings": {"stages": [{"decides": ""}, {"decides": "auc"}]}, "seed": 4, "sha256": "ab" * 32,
    "tensors": {"0.weight": {"shape": [4, 1, 3, 3], "dtype": "F32"}, "0.bias": {"shape": [4], "dtype": "F32"}},
    "data": [{"name": "ICBM 152", "licence": "free", "source": "mni", "credit": "Fonov"}],
    "subjects": {"train": ["a", "b"], "validation": ["c"], "test": ["d"]},
    "figures": {"auc": 0.912, "auc_interval": [0.881, 0.936], "spearman": 0.964}, "notes": ["one note"],
    "something_new": 1,
}  # fmt: skip
CURVES = "stage,step,loss,check_auc,learning_rate,seconds\n" + "".join(
    f"{stage},{step},{1 / step:.4f},{0.5 + step / 100 if stage == 'two' and step % 10 == 0 else ''},0.001,{begun + step}\n"
    for stage, begun in (("one", 0), ("two", 40))
    for step in range(1, 41)
)
AUDIT = {
    "passed": False,
    "probes": [
        {"name": "blur", "question": "Is it blur?", "value": 0.04, "limit": 0.2, "better": "lower", "passed": True},
        {
            "name": "border",
            "question": "Is it the border?",
            "value": 0.9,
            "limit": 0.6,
            "better": "lower",
            "passed": False,
        },
    ],
    "seconds": 3.0,
}


def folder_of(folder: Path, card: dict[str, Any], curves: str | None = CURVES, audit: Any = AUDIT) -> Path:
    (folder / "card.json").write_text(json.dumps(card))
    if curves is not None:
        (folder / "curves.csv").write_text(curves)
    if audit is not None:
        (folder / "audit.json").write_text(json.dumps(audit))
    return folder


def words(page: Path) -> str:
    text = re.sub(r"<style>.*?</style>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"data:image/[^\"]+", "", text)


def test_page_tells_everything(tmp_path: Path) -> None:
    page = write_training_page(folder_of(tmp_path, CARD))
    text = words(page)
    for expected in (
        "brains", "learnt from 2 subjects and judged on 1 that it has never seen", "0.912", "0.881 to 0.936", "0.964",
        "1. one", "2. two", "40 steps in 40.0 s; loss 1.00 at first, 0.0250 at last", "best AUC on validation subjects",
        "The pairs leak", "Is it the border?", "at most 0.600", "failed", "ICBM 152", "Fonov", "one note",
        "4 × 1 × 3 × 3", "regsim score FIXED MOVING -m FOLDER", "stages.2.decides", "abababababababab…",
    ):  # fmt: skip
        assert expected in text, expected
    assert "interval" not in text.replace("95 % interval", "")
    assert page.read_text(encoding="utf-8").count("data:image/svg+xml") == 4
    assert not re.search(r"(?:src|href)=\"(?!data:)", page.read_text(encoding="utf-8"))


def test_page_of_a_bare_card(tmp_path: Path) -> None:
    bare = {"format": 1, "name": "bare", "metric": "m"}
    text = words(write_training_page(folder_of(tmp_path, bare, None, None)))
    for expected in ("None was measured", "No curves were left", "not audited", "names no data"):
        assert expected in text
    figures = {**bare, "figures": {"auc": 0.9}}
    assert "not those of unseen subjects" in words(write_training_page(folder_of(tmp_path, figures, None, None)))


def test_page_escapes_what_it_shows(tmp_path: Path) -> None:
    card = {**CARD, "name": NASTY, "notes": [NASTY], "figures": {NASTY: NASTY}, "network": {NASTY: [NASTY]}}
    text = words(
        write_training_page(folder_of(tmp_path, card, CURVES.replace("auc", "a$b_{").replace("two", "<b>$x$")))
    )
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "<b>" not in text


@pytest.mark.parametrize("curves", ["", "a,b\n1,2\n", CURVES.replace("0.5000", "x"), CURVES + "two,,,,,\n"])
def test_broken_curves_and_audits_leave_a_note(curves: str, tmp_path: Path) -> None:
    text = words(write_training_page(folder_of(tmp_path, CARD, curves, {"passed": 1})))
    assert "curves.csv could not be read" in text
    assert "audit.json could not be read" in text


def test_no_card(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no such file; run `regsim train` first"):
        write_training_page(tmp_path)
    with pytest.raises(InputError, match="not the card of a model: format"):
        write_training_page(folder_of(tmp_path, {**CARD, "format": 2}))
