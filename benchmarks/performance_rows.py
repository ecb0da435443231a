"""Reads the results of the benchmarks, and sums them up: groups, bars, and where a peer still wins."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

from benchmarks.rows import Row, read_rows

OURS = "regsim"
FULL = "160x192x144"
SETS = ("rigid_search", "rigid", "far", "ct_mr", "native", "deformable", "large", "histology", "em", "scaling")


@dataclass
class Results:
    """All tables of a folder, by name; a missing one is empty."""

    tables: dict[str, list[Row]]
    machine: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Results":
        tables = {}
        for name in ("metrics", *SETS):
            path = folder / f"{name}.csv"
            tables[name] = list(read_rows(path)) if path.is_file() else []
        described = folder / "machine.json"
        return cls(tables, json.loads(described.read_text(encoding="utf-8")) if described.is_file() else {})

    def of(self, name: str) -> list[Row]:
        return self.tables.get(name, [])


def number(row: Row, column: str) -> float | None:
    """The value as a number, or None."""
    value = row.get(column)
    return value if isinstance(value, float) else None


def values(rows: Sequence[Row], column: str) -> list[float]:
    """All numbers of a column."""
    return [value for row in rows if (value := number(row, column)) is not None]


def by(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    """Rows by the value of a column, in order of appearance."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row[column]), []).append(row)
    return found


def contrast(row: Row) -> str:
    """The last word of a case: t1, flair."""
    return str(row["case"]).split()[-1]


# --- bars -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """What was asked for, what came, and whether it is reached (None: not measured)."""

    what: str
    asked: str
    came: str
    reached: bool | None


def bars(results: Results) -> list[Bar]:
    """Every bar of the project that these tables can judge."""
    return [*_metric_bars(results), *_linear_bars(results), *_deformable_bars(results), *_section_bars(results)]


def _bar(what: str, asked: str, came: float | None, good: Callable[[float], bool], unit: str = "") -> Bar:
    if came is None:
        return Bar(what, asked, "not measured", None)
    return Bar(what, asked, f"{came:.3g}{unit}", good(came))


METRIC_BARS = (
    ("LNCC 9", "MONAI", 30.0), ("MI 23 bins (gaussian)", "MONAI", 25.0), ("SSIM", "MONAI", 40.0),
    ("MIND-SSC", "convexAdam", 3.0), ("warp", "torch", 3.0),
)  # fmt: skip


def _metric_bars(results: Results) -> list[Bar]:
    found = []
    for what, who, factor in METRIC_BARS:
        rows = [row for row in results.of("metrics") if row["what"] == what and row["shape"] == FULL]
        pair = {str(row["who"]): row for row in rows if row["threads"] == 2.0}
        peer, own = pair.get(who), pair.get(OURS)
        ratio = number(peer, "peer_over_ours") if peer else None
        found.append(
            _bar(f"{what}, {FULL}, times faster than {who}", f">= {factor:g}", ratio, lambda r, f=factor: r >= f)
        )  # type: ignore[misc]
        apart = number(peer, "gradient_difference") if peer else None
        if apart is not None:
            found.append(_bar(f"{what}: interior gradient apart from {who}", "<= 0.001", apart, lambda r: r <= 1e-3))
        memory = number(own, "memory_mib") if own else None
        most = number(peer, "memory_mib") if peer else None
        if memory is not None and most is not None:
            found.append(Bar(f"{what}: peak memory", f"<= {who}: {most:.0f} MiB", f"{memory:.0f} MiB", memory <= most))
    return found


def _linear_bars(results: Results) -> list[Bar]:
    rigid = by(results.of("rigid"), "who")
    own, peer = rigid.get(OURS, []), rigid.get("SimpleITK", [])
    ratio = None
    if own and values(peer, "seconds"):
        ratio = median(values(peer, "seconds")) / median(values(own, "seconds"))
    found = [_bar("rigid, times faster than SimpleITK at its best", ">= 3", ratio, lambda r: r >= 3)]
    if ratio is not None:
        most, came = mean(values(peer, "after")), mean(values(own, "after"))
        found.append(Bar("rigid, mean error", f"<= SimpleITK: {most:.3f} mm", f"{came:.3f} mm", came <= most))
    far = by(results.of("far"), "who").get(OURS, [])
    share = 100 * mean(error < 2 for error in values(far, "after")) if values(far, "after") else None
    found.append(_bar("far starts, error under 2 mm", ">= 95 %", share, lambda r: r >= 95, " %"))
    found.append(_most("far starts, most seconds", "<= 10", values(far, "seconds"), 10))
    found.append(
        _most("CT and MR, error, mm", "<= 3", values(by(results.of("ct_mr"), "who").get(OURS, []), "after"), 3)
    )
    native = by(results.of("native"), "who").get(OURS, [])
    middle = median(values(native, "after")) if values(native, "after") else None
    found.append(_bar("clinical scans, median error, mm", "<= 1", middle, lambda r: r <= 1))
    found.append(_most("clinical scans, most seconds a pair", "<= 5", values(native, "seconds"), 5))
    return found


def _most(what: str, asked: str, found: list[float], limit: float) -> Bar:
    return _bar(what, asked, max(found, default=None), lambda most: most <= limit)


def _deformable_bars(results: Results) -> list[Bar]:
    rows = results.of("deformable")
    t1, flair = ([row for row in rows if contrast(row) == name] for name in ("t1", "flair"))
    own, peer = by(t1, "who").get("regsim lncc", []), by(t1, "who").get("ANTs SyNCC", [])
    if values(peer, "dice"):
        own = [row for row in own if row["case"] in {other["case"] for other in peer if "dice" in other}]
    found = []
    dice = mean(values(own, "dice")) if own else None
    bar = mean(values(peer, "dice")) if values(peer, "dice") else 0.659
    what = f"T1 onto T1, mean Dice (lncc), {len(own)} pair(s)"
    found.append(_bar(what, f">= SyNCC: {bar:.3f}", dice, lambda r: r >= bar))
    ratio = mean(values(peer, "seconds")) / mean(values(own, "seconds")) if own and values(peer, "seconds") else None
    found.append(_bar("T1 onto T1, times faster than SyNCC", ">= 30", ratio, lambda r: r >= 30))
    ours = [row for row in rows if str(row["who"]).startswith(OURS)]
    found.append(_most("most folding, %", "< 0.1", values(ours, "folded_percent"), 0.1))
    across = by(flair, "who").get(OURS, [])
    found.append(
        _bar(
            "FLAIR onto T1, mean Dice", ">= 0.55", mean(values(across, "dice")) if across else None, lambda r: r >= 0.55
        )
    )
    found.append(_pairs_lost(flair))
    found.append(_most("FLAIR onto T1, most seconds", "<= 6", values(across, "seconds"), 6))
    large = [row for row in results.of("large") if row["who"] == OURS]
    found.append(_most("1 mm, seconds", "<= 40", values(large, "seconds"), 40))
    found.append(_most("1 mm, peak memory, MiB", "<= 4096", values(large, "memory_mib"), 4096))
    return found


def _pairs_lost(rows: list[Row]) -> Bar:
    lost = 0.0
    whole = [own for own in by(rows, "case").values() if len(values(own, "dice")) > 1]
    for own in whole:
        dice = {str(row["who"]): number(row, "dice") or 0.0 for row in own}
        lost += any(dice.get(OURS, 0.0) < dice.get(peer, 0.0) for peer in ("ANTs SyN", "convexAdam"))
    return _bar("FLAIR onto T1, pairs below SyN or convexAdam", "0", lost if whole else None, lambda r: r == 0)


SECTION_BARS = (
    ("histology", "after", "kidney sections, median error, px"), ("histology", "seconds", "kidney sections, seconds"),
    ("em", "consistency", "EM sections, forward and backward apart, px"), ("em", "seconds", "EM sections, seconds"),
)  # fmt: skip


def _section_bars(results: Results) -> list[Bar]:
    found = []
    for name, column, what in SECTION_BARS:
        parts = by(results.of(name), "who")
        ours, peer = (values(parts.get(who, []), column) for who in (OURS, "elastix"))
        if not ours or not peer:
            found.append(Bar(what, "<= elastix", "not measured", None))
        else:
            found.append(_most(what, f"<= elastix: {mean(peer):.3g}", [mean(ours)], mean(peer)))
    return found


# --- where a peer wins ------------------------------------------------------------------------------------------------

JUDGED = (
    ("rigid", ("after", "seconds", "memory_mib")), ("far", ("after", "seconds")), ("ct_mr", ("after", "seconds")),
    ("native", ("after", "seconds")), ("deformable", ("dice", "folded_percent", "seconds", "memory_mib")),
    ("large", ("dice", "folded_percent", "seconds", "memory_mib")), ("histology", ("after", "seconds")),
    ("em", ("consistency", "ncc", "seconds")),
)  # fmt: skip
HIGHER = ("dice", "ncc")
NAMES = {
    "after": "error", "seconds": "seconds", "memory_mib": "peak memory, MiB", "dice": "Dice", "folded_percent": "folding, %",
    "consistency": "forward and backward apart", "ncc": "correlation after",
}  # fmt: skip


def peer_wins(results: Results) -> list[str]:
    """One line for every figure in which a peer is ahead of regsim's default."""
    lines = [*_metric_wins(results.of("metrics"))]
    for name, columns in JUDGED:
        rows = results.of(name)
        groups = by(rows, "case") if name == "large" else {"": rows}
        if name == "deformable":
            groups = {kind: [row for row in rows if contrast(row) == kind] for kind in ("t1", "flair")}
        for part, own in groups.items():
            lines += _set_wins(f"{name} {part}".strip(), own, columns)
    return lines


def _metric_wins(rows: list[Row]) -> list[str]:
    lines = []
    for row in rows:
        ratio = number(row, "peer_over_ours")
        if row["who"] != OURS and ratio is not None and ratio < 1:
            place = f"{row['what']}, {row['shape']}, {row['threads']:.0f} thread(s)"
            lines.append(f"{place}: {row['who']} takes {ratio:.2f} of regsim's time")
    return lines


def _set_wins(name: str, rows: list[Row], columns: Sequence[str]) -> list[str]:
    lines = []
    whole = by(rows, "who")
    ours = {who: own for who, own in whole.items() if who.startswith(OURS)}
    for who, own in whole.items():
        if who in ours or not ours:
            continue
        for column in columns:
            theirs = values(own, column)
            sums = {mine: mean(values(each, column)) for mine, each in ours.items() if values(each, column)}
            if not theirs or not sums:
                continue
            sign = -1 if column in HIGHER else 1
            best = min(sums, key=lambda mine: sign * sums[mine])
            if sign * mean(theirs) < sign * sums[best]:
                lines.append(f"{name}, {NAMES[column]}: {who} {mean(theirs):.3g}, {best} {sums[best]:.3g} (means)")
    return lines
