"""The league of all metrics on real images: `python -m benchmarks.league [--quick] [-m NAME ...] [-o DIR]`.

Sets: t1 (T1 slices 3 mm apart, 19 subjects), t1_t2 and t1_flair (one slice in two contrasts). It writes a results folder
a set and, unless `--quick` or `-m` was given, the tables between the markers of docs/metrics.md.

From Python, to judge a metric object of your own:

    from benchmarks.league import evaluate, t1_neighbour_pairs
    found = evaluate([network, "mind"], t1_neighbour_pairs(slices=2), quick=True)
    found.row("mind")["spearman_hidden"], found.row("mind").intervals["spearman_hidden"]
"""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import Progress

from benchmarks.data import data_folder
from regsim.errors import InputError
from regsim.evaluation.landscape import Landscape, LandscapePair, LandscapeSettings, landscape
from regsim.evaluation.landscape_rows import Criterion, LandscapeResults, LandscapeRow
from regsim.images import Grid, Image, read_image
from regsim.metrics import AbstractMetric, usable_metrics
from regsim.prepare import foreground

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
BEGIN, END = "<!-- begin: league, written by python -m benchmarks.league -->", "<!-- end: league -->"
SHOWN = (
    "spearman",
    "spearman_hidden",
    "auc_0",
    "auc_1",
    "auc_2",
    "minima",
    "capture",
    "offset_self",
    "offset_noise",
    "balance",
    "inversion_like",
    "times_mse",
)
LEAST_SHARE = 0.12
SURFACES = 4  # subjects whose surfaces are computed: some 700 probes each, and networks take their time


def axial(volume: Image, index: int) -> Image:
    """One slice across the third axis as an image in mm."""
    grid = Grid.of(volume.grid.shape[1:], volume.grid.spacing[:2])
    return Image(volume.data[:, index].clone(), grid, name=f"{volume.name} z{index}")


def positions(volume: Image, slices: int, apart: int) -> list[int]:
    """Slices spread over the middle of the foreground, each with a neighbour `apart` slices on."""
    share = foreground(volume).float().mean(dim=(1, 2))
    rich = (share > max(LEAST_SHARE, 0.75 * float(share.max()))).nonzero().flatten()
    first, last = int(rich.min()), int(rich.max()) - apart
    if slices == 1 or last <= first:
        return [max(first, (first + last) // 2)]
    return sorted({round(first + (last - first) * i / (slices - 1)) for i in range(slices)})


def t1_neighbour_pairs(
    slices: int = 3, apart: float = 3.0, subjects: Sequence[str] | None = None
) -> list[LandscapePair]:
    """T1 slices (across the third axis) `apart` mm from each other: one anatomy, never one image. 3 whole brains, 16 slabs.

    Args:
        slices: pairs a subject, at most.
        apart: mm.
        subjects: names such as "lapa" or "slab01"; all where not given.
    """
    files = [*sorted(_data().glob("brain_t1_oasis/*_t1.nii.gz")), *sorted(_data().glob("brain_t1_slabs/*_t1.nii.gz"))]
    pairs = []
    for path in files:
        subject = path.name.removeprefix("sub-").removesuffix("_t1.nii.gz")
        if subjects is not None and subject not in subjects:
            continue
        volume = replace(read_image(path), name=subject)
        step = max(1, round(apart / volume.grid.spacing[2]))
        for index in positions(volume, slices, step):
            fixed, moving = axial(volume, index), axial(volume, index + step)
            pairs.append(LandscapePair(fixed, moving, subject, f"{subject} z{index}"))
    return pairs


def contrast_pairs(contrast: str, slices: int = 3, subjects: Sequence[str] | None = None) -> list[LandscapePair]:
    """The same slice in T1 and another contrast ("t2" or "flair"), aligned by whoever gave it."""
    found = sorted(_data().glob(f"brain_t1t2_mni/*_{contrast}.nii.gz"))
    if contrast == "flair":
        found += sorted(_data().glob("brain_t1_flair_labels/*_flair.nii.gz"))
    pairs = []
    for path in found:
        subject = path.name.removeprefix("sub-").removesuffix(f"_{contrast}.nii.gz")
        if subjects is not None and subject not in subjects:
            continue
        first = replace(read_image(path.with_name(path.name.replace(f"_{contrast}", "_t1"))), name=f"{subject} t1")
        second = replace(read_image(path), name=f"{subject} {contrast}")
        for index in positions(first, slices, 0):
            pairs.append(LandscapePair(axial(first, index), axial(second, index), subject, f"{subject} z{index}"))
    return pairs


def settings(quick: bool = False) -> LandscapeSettings:
    """Fewer draws a pair than `regsim landscape` makes of its one pair: here many pairs are pooled."""
    if quick:
        return LandscapeSettings.preset(2, quick=True, surfaces=3, ladder=16, repeats=4, hidden=12)
    return LandscapeSettings.preset(
        2, axis_steps=13, fine_steps=9, wide_steps=13, ladder=24, repeats=4, hidden=16, surfaces=SURFACES
    )


def evaluate(
    metrics: Sequence[str | AbstractMetric] | None,
    pairs: Sequence[LandscapePair],
    quick: bool = False,
    *,
    device: str = "cpu",
    title: str = "League",
    advance: Callable[[int, int], None] | None = None,
) -> Landscape:
    """The landscape of some metrics over some pairs; the whole registry, with its bundled models, where none are given."""
    chosen = list(metrics) if metrics else usable_metrics()
    return landscape(pairs, chosen, settings(quick), device=device, title=title, advance=advance)


NOT_UNSEEN = (
    "T1 against T2, two people from whom siamregqc has learnt (deepsim and imse from one of them): not unseen for these"
)
SETS: dict[str, tuple[str, Callable[[int], list[LandscapePair]]]] = {
    "t1": ("T1 slices 3 mm apart", lambda slices: t1_neighbour_pairs(slices)),
    "t1_t2": (NOT_UNSEEN, lambda slices: contrast_pairs("t2", 3 * slices)),
    "t1_flair": ("T1 against FLAIR", lambda slices: contrast_pairs("flair", max(1, slices - 1))),
}


def table(results: LandscapeResults) -> str:
    """A Markdown table: one row a metric, the best by pooled order first."""
    shown = [item for item in results.criteria() if item.name in SHOWN]
    heads = ["metric", *[f"{item.title}{f' [{item.unit}]' if item.unit else ''}" for item in shown]]
    rows = sorted(results.rows, key=lambda row: -row["spearman"])
    lines = [heads, ["---"] * len(heads), *[[f"`{row.metric}`", *[_cell(row, item) for item in shown]] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: LandscapeRow, item: Criterion) -> str:
    value = row[item.name]
    if math.isnan(value):
        return "–"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if item.name in ("spearman", "spearman_hidden") and item.name in row.intervals:
        low, high = row.intervals[item.name]
        return f"{value:.3f} ({low:.3f}–{high:.3f})"
    return text


def rewritten(page: str, sections: dict[str, LandscapeResults]) -> str:
    """The page with these tables between the markers."""
    body = "\n\n".join(
        f"**{title}** ({found.pairs} pairs of {found.subjects} subjects)\n\n{table(found)}"
        for title, found in sections.items()
    )
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"{PAGE.name}: no markers for the league's tables")
    return f"{before}{BEGIN}\n{body}\n{END}{after}"


def _data() -> Path:
    found = data_folder()
    if found is None:
        raise InputError("no test images: set REGSIM_DATA to the folder that holds the sets")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", choices=[[], *SETS], default=[])
    parser.add_argument("-m", "--metric", action="append", help="a metric's name, or a model's; repeat")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench") / "league")
    parser.add_argument("--slices", type=int, default=1, help="pairs a subject (three times as many from T1 to T2)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    from regsim.applications.landscapes import write_landscape

    sections = {}
    for name in asked.sets or SETS:
        title, make = SETS[name]
        with Progress(transient=True) as bar:
            task = bar.add_task(title, total=None)
            found = evaluate(
                asked.metric,
                make(1 if asked.quick else asked.slices),
                asked.quick,
                device=asked.device,
                title=title,
                advance=lambda done, total, bar=bar, task=task: bar.update(task, completed=done, total=total),
            )
        sections[title] = found.results
        write_landscape(found, asked.output / name, f"python -m benchmarks.league {name}", settings(asked.quick))
        print(f"\n{title}: {found.results.seconds:.0f} s\n{table(found.results)}", flush=True)
    if not (asked.quick or asked.metric or asked.sets):
        PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), sections), encoding="utf-8")


if __name__ == "__main__":
    main()
