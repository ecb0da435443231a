"""Builds docs/performance.md from results: `python -m benchmarks.performance_page [FOLDER] [--publish] [-o PAGE]`.

FOLDER holds the CSV files of `benchmarks.metrics` and `benchmarks.registration`; by default those kept in docs/performance.
`--publish` first copies FOLDER's tables there, and writes docs/performance.md. Pictures go to `images/` beside the page.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from benchmarks.linear_sets import best_of, search_means
from benchmarks.performance_plots import draw
from benchmarks.performance_rows import FULL, SETS, Results, bars, by, contrast, number, peer_wins, values
from benchmarks.rows import Row

DOCS = Path(__file__).parents[1] / "docs"
STORED = DOCS / "performance"
CAPTIONS = {
    "metrics": ("Seconds against voxels", "metrics"),
    "limit": ("Time over the time of one copy of the volume", "metrics"),
    "rigid": ("Rigid: errors, and the search for SimpleITK's best settings", "registration rigid_search rigid"),
    "deformable": ("Deformable: accuracy against seconds", "registration deformable"),
}
NOTES = {
    "rigid": "T2 and FLAIR onto T1 at 1 mm, two patients, random misalignments up to 15 mm and 15 degrees. Error: mean "
    "distance over the head. SimpleITK: Mattes mutual information at the best settings of the search below.",
    "far": "The same from up to 60 mm and 90 degrees. regsim with its global search, SimpleITK from the centres of mass.",
    "ct_mr": "T2 onto CT of a meat phantom, upside down by the files; the reference is a silver standard (a rigid fit by mutual "
    "information, checked by eye).",
    "native": "Clinical T1 and T2 onto FLAIR from the headers. Error: median distance from the publisher's registration, good to "
    "about half a millimetre.",
    "deformable": "Eight pairs of older adults at 2 mm. Mean Dice over the labels of at least 100 voxels; labels judge and "
    "never drive. regsim: default (MIND); regsim lncc: `-m lncc:window=7`. convexAdam and FireANTs follow regsim's affine, whose "
    "seconds count. elastix: its default affine and B-spline maps. All transforms carry the same labels by the same code.",
    "large": "One pair at 1 mm, 160x192x144. Dice of two tissues.",
    "histology": "Rat kidney, neighbouring sections in two stains, grey, in px; about 70 landmarks. elastix: default rigid, "
    "affine and B-spline maps.",
    "em": "Neighbouring sections, scanning electron microscope, 800x800 px. No truth is known: `apart` is the mean distance by "
    "which the maps of both directions fail to cancel; ncc drove neither, mind drove regsim.",
    "scaling": "regsim alone: seconds against voxels, steps and threads.",
}
HEADS = {
    "seconds": "seconds", "memory_mib": "peak MiB", "before": "before", "after": "after", "worst": "worst", "dice": "Dice",
    "folded_percent": "folded %", "consistency": "apart", "ncc": "ncc", "mind": "mind",
}  # fmt: skip


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def cell(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


METRIC_TEXT = """## Metrics, warp, penalties

Value and gradient of one call (best of the repetitions); `bound`: with the fixed image's half done beforehand. `ratio`: over
regsim's time in the same process, calls in turn. `copies`: over the time of one copy of the volume at the machine's memory
bandwidth. Peak memory: above what lay there before the call.
"""


def metric_section(rows: list[Row]) -> list[str]:
    """One table a number of threads: the full size; agreement once."""
    lines = [METRIC_TEXT]
    for threads, own in sorted(by(rows, "threads").items(), reverse=True):
        shapes = list(by(own, "shape"))
        shape = FULL if FULL in shapes else shapes[-1]
        cells = [_metric_cells(row) for row in own if row["shape"] == shape]
        lines += [f"{shape}, {float(threads):.0f} thread(s):", ""]
        lines += table(("what", "who", "seconds", "bound", "ratio", "copies", "peak MiB"), cells)
    lines += ["How far values and interior gradients are from the peers' (largest over all sizes and threads):", ""]
    return lines + _agreement(rows)


def _metric_cells(row: Row) -> list[str]:
    columns = ("seconds", "bound_seconds", "peer_over_ours", "over_limit", "memory_mib")
    return [str(row["what"]), str(row["who"]), *(cell(number(row, column)) for column in columns)]


def _agreement(rows: list[Row]) -> list[str]:
    cells = []
    for what, own in by(rows, "what").items():
        for who, pairs in by(own, "who").items():
            cosines = values(pairs, "gradient_cosine")
            largest = [
                max(values(pairs, column), default=None) for column in ("value_difference", "gradient_difference")
            ]
            if who != "regsim":
                note = str(pairs[0].get("note", ""))
                cells.append([what, who, *map(cell, largest), f"{min(cosines):.4f}" if cosines else "-", note])
    return table(("what", "who", "value", "gradient (norm)", "cosine", "where and why they differ"), cells)


def registration_section(name: str, rows: list[Row]) -> list[str]:
    """Means and medians of a set by contestant."""
    lines = [f"## {name.replace('_', ' ').capitalize()}", "", NOTES[name], ""]
    if name == "scaling":
        return lines + _scaling(rows)
    columns = [column for column in HEADS if any(column in row for row in rows)]
    kinds = dict.fromkeys(map(contrast, rows)) if name == "deformable" else ("",)
    for kind in kinds:
        own = [row for row in rows if not kind or contrast(row) == kind]
        cells = [_summary(who, part, columns, name) for who, part in by(own, "who").items()]
        heads = ("who", "runs", *(HEADS[column] for column in columns), *(["under 2 mm"] if name == "far" else []))
        lines += ([f"{kind.upper()} onto T1:", ""] if kind else []) + table(heads, cells)
    problems = [f"- {row['case']}, {row['who']}: {row['problem']}" for row in rows if "problem" in row]
    notes = sorted(
        {
            f"- {row['case']}, {row['who']}: {row['note']}"
            for row in rows
            if name in ("histology", "em") and "note" in row
        }
    )
    return lines + (["Failed:", "", *problems, ""] if problems else []) + ([*notes, ""] if notes else [])


def _summary(who: str, rows: list[Row], columns: Sequence[str], name: str) -> list[str]:
    """Means; seconds and errors as mean, then median in brackets."""
    cells = [who, str(sum("seconds" in row for row in rows))]
    for column in columns:
        found = values(rows, column)
        if column in ("memory_mib", "worst"):
            cells.append(cell(max(found, default=None)))
        elif column in ("seconds", "after", "consistency") and len(found) > 1:
            cells.append(f"{cell(mean(found))} ({cell(median(found))})")
        else:
            cells.append(cell(mean(found) if found else None))
    if name == "far":
        cells.append(
            f"{100 * mean(number(row, 'after') is not None and float(row['after']) < 2 for row in rows):.0f} %"
        )
    return cells


def _scaling(rows: list[Row]) -> list[str]:
    columns = ("voxels", "steps", "threads", "seconds", "memory_mib")
    cells = [[str(row["case"]), *(cell(number(row, column)) for column in columns)] for row in rows]
    return table(("what", "voxels", "steps", "threads", "seconds", "peak MiB"), cells)


SEARCH_TEXT = """### The search for SimpleITK's best settings

Optimiser / sampling / share of voxels / shrink factors / bins / start, on a few of the starts; smoothing is half the shrink
factor. Taken: the fastest whose mean error is within 5 % of the lowest (bold).
"""


def search_section(rows: list[Row]) -> list[str]:
    """SimpleITK's settings."""
    means = search_means(rows)
    if not means:
        return []
    best = best_of(rows)
    cells = []
    for who, (error, spent) in sorted(means.items(), key=lambda item: item[1]):
        name = _settings(who)
        cells.append([f"**{name}**" if who == best else name, cell(error), cell(spent)])
    lines = [SEARCH_TEXT, *table(("settings", "mean error, mm", "mean seconds"), cells)]
    failed = sorted({_settings(str(row["who"])) for row in rows if "problem" in row})
    return lines + ([f"Failed, or took more than 90 s a start: {', '.join(failed)}.", ""] if failed else [])


def _settings(who: str) -> str:
    return who.removeprefix("SimpleITK ")


HEAD = """# Performance

regsim beside other packages, in one run on one machine. Written by `python -m benchmarks.performance_page` from the tables
that `python -m benchmarks.metrics` and `python -m benchmarks.registration SET` make; `make bench-full` does all of it.
"""
METHOD = """Every run is a process of its own with two threads unless said otherwise. Seconds are those of the registration
call, images in memory; peak memory is above what lay there before it. FireANTs pins SimpleITK 2.2.1, so it is not among the
extras; it runs on the CPU, without its fused CUDA operations, after `pip install --no-deps fireants hydra-core omegaconf`.
"""


def page(results: Results, pictures: dict[str, str]) -> str:
    """The whole page."""
    known = results.machine
    lines = [HEAD]
    if known:
        lines += ["Machine: " + ", ".join(f"{name} {known[name]}" for name in known) + ".", ""]
    lines += [METHOD, *_standing(results)]
    for name, (caption, command) in CAPTIONS.items():
        if name in pictures:
            lines += [f"![{caption}]({pictures[name]})", "", f"{caption} (`python -m benchmarks.{command}`).", ""]
    if results.of("metrics"):
        lines += metric_section(results.of("metrics"))
    for name in SETS[1:]:
        if results.of(name):
            lines += registration_section(name, results.of(name))
        if name == "rigid":
            lines += search_section(results.of("rigid_search"))
    return "\n".join(lines).rstrip() + "\n"


def _standing(results: Results) -> list[str]:
    """Bars reached, and where a peer wins."""
    marks = {True: "yes", False: "**no**", None: "-"}
    cells = [[bar.what, bar.asked, bar.came, marks[bar.reached]] for bar in bars(results)]
    lines = ["## Bars", "", *table(("what", "asked", "came", "reached"), cells)]
    lost = peer_wins(results)
    lines += ["## Where a peer still wins", ""]
    if not lost:
        return [*lines, "Nowhere in these tables.", ""]
    lines += ["Computed from the rows: every figure in which a peer is ahead of the best of regsim's runs.", ""]
    return [*lines, *(f"- {line}" for line in lost), ""]


def build(folder: Path, target: Path) -> None:
    """Write the page and its pictures."""
    results = Results.read(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = draw(results, target.parent / "images")
    pictures = {name: os.path.relpath(path, target.parent) for name, path in made.items()}
    target.write_text(page(results, pictures), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=STORED)
    parser.add_argument("--publish", action="store_true", help="keep FOLDER's tables in docs/performance")
    parser.add_argument("-o", "--output", type=Path, default=DOCS / "performance.md")
    asked = parser.parse_args()
    folder = asked.folder
    if asked.publish and folder != STORED:
        STORED.mkdir(exist_ok=True)
        for file in (*folder.glob("*.csv"), *folder.glob("machine.json")):
            shutil.copyfile(file, STORED / file.name)
        folder = STORED
    build(folder, asked.output)
    print(f"page: {asked.output}")


if __name__ == "__main__":
    main()
