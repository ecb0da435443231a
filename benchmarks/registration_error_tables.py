"""The tables of docs/check.md, from what `benchmarks.registration_error measure` left: CSV files, one row a figure."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from regsim.evaluation.calibration import KnownError, calibrate, coverage_table
from regsim.evaluation.check_rows import LEAST_LIKENESS, Limits
from regsim.evaluation.statistics import area_under_curve, interval, spearman
from regsim.evaluation.verdict import Findings, judge
from regsim.metrics.error_calibration import Calibration
from regsim.metrics.registration_error import RegistrationError

Array = npt.NDArray[np.float64]
RESAMPLES = 1000
LARGE, SMALL, ALIGNED = 3.0, 1.0, 0.25
CONTRASTS = ("T1-T1", "T1-T2", "T1-FLAIR")
OURS, ALONE = "registration_error", "registration_error (images alone)"
COVERAGE = 0.9
RESOLUTION = 0.5
DEFORMABLE = ("deformable", "diffeomorphic", "SyN", "convexAdam", "over-warped")


@dataclass(frozen=True)
class Measured:
    """One pair: facts as JSON values, and the calibration's part."""

    about: dict[str, Any]
    known: KnownError

    def __getitem__(self, name: str) -> Any:
        return self.about[name]

    def cost(self, metric: str) -> float:
        """Lower = better aligned."""
        if metric == ALONE:
            return float(self.about["seen"])
        return float(self.about["expected"] if metric == OURS else self.about["costs"].get(metric, np.nan))

    @property
    def likeness(self) -> float | None:
        """Local correlation where a deformable method left the pair: its transform would be known to a check."""
        deformable = any(word in f"{self.about['name']} {self.about['kind']}" for word in DEFORMABLE)
        return -self.cost("lncc") if deformable else None

    @property
    def fitted(self) -> bool:
        """Of different contrasts, and made to fit by a deformable registration."""
        return self.likeness is not None and self.likeness < LEAST_LIKENESS


def write_tables(results: Path, output: Path) -> None:
    """All tables, printed and written."""
    calibration = RegistrationError().calibration(3)
    sets = {folder.name: read_set(folder, calibration) for folder in sorted(results.iterdir()) if folder.is_dir()}
    output.mkdir(parents=True, exist_ok=True)
    made: dict[str, list[dict[str, object]]] = {
        "local": local_rows(sets["known"]),
        "ranks": rank_rows(
            {name: pairs for name, pairs in sets.items() if name in ("known", "known-hidden", "residual")}
        ),
        "coverage": coverage_rows({name: pairs for name, pairs in sets.items() if name in ("known", "residual")}),
        "verdicts": [row for name, pairs in sets.items() for row in verdict_rows(name, pairs)],
        "failures": failure_rows(sets["failures"]) if "failures" in sets else [],
        "pairs": [_flat(name, pair) for name, pairs in sets.items() for pair in pairs],
    }
    for name, rows in made.items():
        _write(output / f"{name}.csv", rows)
        if name != "pairs":
            _show(name, rows)


def read_set(folder: Path, calibration: Calibration) -> list[Measured]:
    """The pairs of one set, with the interval and the verdict that the calibration gives them."""
    return [_ruled(_read(path), calibration) for path in sorted(folder.glob("*.npz"))]


def _ruled(pair: Measured, calibration: Calibration) -> Measured:
    """As `regsim check` rules, from the numbers that were measured."""
    known, drift = pair.known, calibration.drift(pair.known.summary)
    expected = float(pair["expected"])
    if pair.fitted and calibration.fitted is not None:
        calibration = calibration.fitted
        expected = calibration.middle(known.mean_expected, known.mean_spread, "mean")
    low, high = calibration.interval(known.mean_expected, known.mean_spread, COVERAGE, "mean")
    ruling = judge(
        Findings(
            expected=expected, lower=low, upper=high, coverage=COVERAGE, voxels=pair["working_voxels"],
            overlap=pair["overlap"], unrelated=pair["unrelated"], distance=drift.distance, typical=drift.typical,
            folded=folded(pair["name"]),
            likeness=pair.likeness,
        ),
        Limits(pass_at=2.0, fail_at=4.0, working=2.0),
    )  # fmt: skip
    changes = {
        "expected": expected,
        "seen": pair["expected"],
        "lower": low,
        "upper": high,
        "verdict": ruling.verdict,
        "reason": ruling.reason,
    }
    changes |= {"distance": drift.distance, "typical": drift.typical}
    return Measured({**pair.about, **changes}, known)


def folded(name: str) -> float | None:
    """The transform's share of folding voxels, where the pair's name states it: those are judged as `--transform` does.

    >>> folded("0013 br002/ses1 T1-T2 over-warped 21 % folded"), folded("0014 msl04 T1-FLAIR good small motion")
    (0.21, None)
    """
    found = re.search(r"(\d+) % folded", name)
    return int(found[1]) / 100 if found else None


def local_rows(pairs: Sequence[Measured]) -> list[dict[str, object]]:
    """The local error of the known pairs, by contrast and kind."""
    rows: list[dict[str, object]] = []
    for contrasts in CONTRASTS:
        for kind in ("all", *sorted({pair["kind"] for pair in pairs})):
            chosen = [p for p in pairs if p["contrasts"] == contrasts and kind in ("all", p["kind"])]
            if not chosen:
                continue
            errors = np.array([p["voxel_error"] for p in chosen if p["voxel_error"] is not None])
            means = np.array([[p["expected"], p["truth"]] for p in chosen])
            near = means[means[:, 1] < ALIGNED, 0]
            rows.append({
                "contrasts": contrasts, "kind": kind, "pairs": len(chosen),
                "subjects": len({p["subject"] for p in chosen}), "voxel_error_mm": errors.mean(),
                "mean_error_mm": np.abs(means[:, 0] - means[:, 1]).mean(),
                "bias_mm": (means[:, 0] - means[:, 1]).mean(), "spearman": spearman(means[:, 0], means[:, 1]),
                "aligned_below_1": (near < SMALL).mean() if near.size else "", "aligned": near.size,
            })  # fmt: skip
    return rows


def rank_rows(sets: dict[str, list[Measured]]) -> list[dict[str, object]]:
    """Every metric: rank correlation with the true mean error, contrasts pooled; AUROC of "more than 3 mm".

    "images alone": our metric without the calibration of deformable registrations between contrasts.
    """
    rows: list[dict[str, object]] = []
    for name, pairs in sets.items():
        truth, people = np.array([p["truth"] for p in pairs]), [str(p["subject"]) for p in pairs]
        for metric in _metrics(pairs):
            costs = np.array([p.cost(metric) for p in pairs])
            ends = interval(_rank(costs, truth), people, RESAMPLES, 0)
            rows.append({
                "set": name, "metric": metric, "pairs": len(pairs), "spearman": spearman(costs, truth),
                "spearman_low": ends[0] if ends else "", "spearman_high": ends[1] if ends else "",
                "auroc_3mm": area_under_curve(costs[truth <= LARGE], costs[truth > LARGE]),
            })  # fmt: skip
    return rows


def _rank(costs: Array, truth: Array) -> Callable[[Sequence[int]], float]:
    return lambda chosen: spearman(costs[list(chosen)], truth[list(chosen)])


def coverage_rows(sets: dict[str, list[Measured]]) -> list[dict[str, object]]:
    """Coverage with the bundled calibration, and with one made on other subjects of the same set."""
    rows: list[dict[str, object]] = []
    bundled = RegistrationError().calibration(3)
    for name, pairs in sets.items():
        known = [pair.known for pair in pairs if pair["related"] and not pair.fitted]
        fitted = [pair.known for pair in pairs if pair["related"] and pair.fitted]
        rows += _coverage(name, "bundled", known, lambda _people: bundled)
        if fitted and bundled.fitted is not None:
            own = bundled.fitted
            rows += _coverage(f"{name}, deformed between contrasts", "bundled", fitted, lambda _people, own=own: own)
        rows += _coverage(name, "half of the subjects", known, lambda people, known=known: _halved(known, people))
    return rows


def _coverage(
    name: str, which: str, known: list[KnownError], make: Callable[[set[str]], Calibration]
) -> list[dict[str, object]]:
    """Each half of the subjects judged by the calibration that `make` gives for it, then both together."""
    people = sorted({pair.subject for pair in known})
    halves = [set(people[start::2]) for start in (0, 1)]
    tables = [coverage_table(make(half), [pair for pair in known if pair.subject in half]) for half in halves]
    rows: list[dict[str, object]] = []
    for first, second in zip(*tables, strict=True):
        share = first.subjects / (first.subjects + second.subjects)
        worst = min((first, second), key=lambda row: row.worst_coverage)
        rows.append({
            "set": name, "calibration": which, "level": first.level, "nominal": first.nominal,
            "observed": share * first.observed + (1 - share) * second.observed,
            "below": share * first.below + (1 - share) * second.below,
            "above": share * first.above + (1 - share) * second.above,
            "worst_subject": worst.worst_subject, "worst_coverage": worst.worst_coverage,
            "median_width_mm": share * first.median_width + (1 - share) * second.median_width,
            "subjects": len(people), "pairs": len(known),
        })  # fmt: skip
    return rows


def _halved(known: list[KnownError], judged: set[str]) -> Calibration:
    return calibrate([pair for pair in known if pair.subject not in judged], "half", "the other half", "mm", RESOLUTION)


def verdict_rows(name: str, pairs: Sequence[Measured]) -> list[dict[str, object]]:
    """How often each verdict is given, by kind."""
    rows: list[dict[str, object]] = []
    for kind in sorted({pair["kind"] for pair in pairs}):
        chosen = [pair for pair in pairs if pair["kind"] == kind]
        shares = {
            verdict.replace(" ", "_"): float(np.mean([pair["verdict"] == verdict for pair in chosen]))
            for verdict in ("pass", "review", "fail", "cannot tell")
        }
        truth, expected = (float(np.mean([pair[key] for pair in chosen])) for key in ("truth", "expected"))
        rows.append(
            {"set": name, "kind": kind, "pairs": len(chosen), "truth_mm": truth, "expected_mm": expected, **shares}
        )
    return rows


def failure_rows(pairs: Sequence[Measured]) -> list[dict[str, object]]:
    """Good registrations against failed ones: AUROC of every metric, by kind and over all kinds.

    What our metric says is the expected error, or the largest there is where it cannot tell: both call for a look.
    """
    good = [pair for pair in pairs if pair["kind"] == "good"]
    kinds = sorted({pair["kind"] for pair in pairs} - {"good"})
    rows: list[dict[str, object]] = []
    for metric in (*_metrics(pairs), "check"):
        row: dict[str, object] = {"metric": metric}
        for kind in ("all", *kinds):
            bad = [pair for pair in pairs if pair["kind"] != "good" and kind in ("all", pair["kind"])]
            row[kind] = area_under_curve(*(np.array([_alarm(p, metric) for p in part]) for part in (good, bad)))
        if metric == "check":
            row["found"] = float(np.mean([p["verdict"] not in ("pass",) for p in pairs if p["kind"] != "good"]))
            row["false_alarms"] = float(np.mean([p["verdict"] != "pass" for p in good]))
        rows.append(row)
    return rows


def _alarm(pair: Measured, metric: str) -> float:
    if metric != "check":
        return pair.cost(metric)
    order = ("pass", "review", "fail", "cannot tell")
    return 100.0 * order.index(pair["verdict"]) + min(99.0, pair["expected"])


def _metrics(pairs: Sequence[Measured]) -> list[str]:
    return [OURS, *([ALONE] if any(pair.fitted for pair in pairs) else []), *sorted(pairs[0]["costs"])]


def _read(path: Path) -> Measured:
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(stored["about"].tobytes())
        arrays = {name: stored[name] for name in stored.files if name != "about"}
    single = {name: float(value) for name, value in arrays.items() if value.ndim == 0}
    many = {name: value for name, value in arrays.items() if value.ndim}
    return Measured(about, KnownError(subject=about["subject"], name=about["name"], **single, **many))


def _flat(name: str, pair: Measured) -> dict[str, object]:
    facts = {key: value for key, value in pair.about.items() if key not in ("costs", "reason", "hidden")}
    return {"set": name, **facts, **pair["costs"]}


def _write(path: Path, rows: Iterable[dict[str, object]]) -> None:
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)


def _plain(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


def _show(name: str, rows: Sequence[dict[str, object]]) -> None:
    if not rows:
        return
    table = Table(*rows[0], title=name, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(_plain(float(v) if isinstance(v, np.floating) else v)) for v in row.values()))
    Console(width=200).print(table)
