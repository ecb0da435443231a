"""The pictures of docs/performance.md."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.linear_sets import search_means
from benchmarks.performance_rows import FULL, OURS, Results, by, contrast, number, values
from benchmarks.rows import Row

COLOURS = {
    "regsim": "#c0392b", "regsim lncc": "#e67e22", "MONAI": "#2471a3", "torchmetrics": "#7d3c98", "scikit-image": "#b7950b",
    "convexAdam": "#1e8449", "torch": "#707b7c", "SimpleITK": "#2471a3", "ANTs SyN": "#7d3c98", "ANTs SyNCC": "#4a235a",
    "elastix": "#b7950b", "FireANTs": "#117a65",
}  # fmt: skip
SHOWN = ("LNCC 9", "MI 23 bins (gaussian)", "SSIM", "MIND-SSC", "warp")


def draw(results: Results, folder: Path) -> dict[str, Path]:
    """All pictures for which there are rows, by name."""
    made: dict[str, Path] = {}
    plots: dict[str, Callable[[Results], bool]] = {
        "metrics": _metrics, "limit": _limit, "rigid": _rigid, "deformable": _deformable,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    for name, plot in plots.items():
        with plt.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
            if plot(results):
                made[name] = folder / f"performance-{name}.png"
                plt.savefig(made[name], dpi=110, bbox_inches="tight", metadata={"Software": ""})
            plt.close("all")
    return made


def _full_threads(results: Results) -> list[Row]:
    rows = results.of("metrics")
    most = max(values(rows, "threads"), default=0.0)
    return [row for row in rows if row["threads"] == most]


def _metrics(results: Results) -> bool:
    """Seconds against voxels."""
    rows = [row for row in _full_threads(results) if row["what"] in SHOWN]
    if not rows:
        return False
    groups = by(rows, "what")
    figure, axes = plt.subplots(1, len(groups), figsize=(2.3 * len(groups), 2.6), sharey=True, squeeze=False)
    for place, (what, own) in zip(axes[0], groups.items(), strict=True):
        for who, line in by(own, "who").items():
            line = sorted(line, key=lambda row: float(row["voxels"]))
            colour = COLOURS.get(who, "grey")
            place.loglog(values(line, "voxels"), values(line, "seconds"), "o-", ms=3, color=colour, label=who)
        mine = sorted(by(own, "who").get(OURS, []), key=lambda row: float(row["voxels"]))
        place.loglog(values(mine, "voxels"), values(mine, "copy_seconds"), ":", color="black", label="one copy")
        place.set_title(what)
        place.set_xlabel("voxels")
        place.legend(frameon=False, fontsize=6, loc="upper left")
        place.set_ylim(1e-5, 1e4)
    axes[0][0].set_ylabel("seconds, value and gradient")
    figure.tight_layout()
    return True


def _limit(results: Results) -> bool:
    """Times the memory-bandwidth limit, at the largest size."""
    rows = _full_threads(results)
    sizes = [str(row["shape"]) for row in rows]
    if not sizes:
        return False
    size = FULL if FULL in sizes else max(sizes, key=lambda text: float(np.prod([int(n) for n in text.split("x")])))
    groups = by([row for row in rows if row["shape"] == size], "what")
    _, place = plt.subplots(figsize=(6.5, 0.32 * len(groups) + 0.8))
    known = set()
    for height, own in enumerate(groups.values()):
        for row in own:
            who = str(row["who"])
            label = None if who in known else who
            known.add(who)
            over = number(row, "over_limit") or float("nan")
            place.plot(over, height, "o", ms=6, color=COLOURS.get(who, "grey"), label=label)
    place.set_xscale("log")
    place.set_yticks(range(len(groups)), list(groups))
    place.invert_yaxis()
    place.grid(axis="x", color="0.9")
    place.set_xlabel(f"times the time of one copy of the volume, {size}, value and gradient")
    place.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return True


def _rigid(results: Results) -> bool:
    """Errors of both from the same starts; and SimpleITK's settings by error and seconds."""
    parts = by(results.of("rigid"), "who")
    if not parts:
        return False
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.8))
    for who, own in parts.items():
        errors = np.sort(values(own, "after"))
        shares = np.arange(1, len(errors) + 1) / len(errors)
        left.step(errors, 100 * shares, where="post", color=COLOURS.get(who, "grey"), label=who)
    left.set_xlabel("mean error over the head, mm")
    left.set_ylabel("starts with at most this error, %")
    left.set_ylim(0, 102)
    left.legend(frameon=False)
    _search(right, results.of("rigid_search"), parts.get(OURS, []))
    figure.tight_layout()
    return True


def _plain_numbers(axis: Axis) -> None:
    """A logarithmic axis with 0.5, 1, 2, 5, 10 ... in figures."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _search(place: Axes, searched: list[Row], mine: list[Row]) -> None:
    means = search_means(searched)
    for optimiser in dict.fromkeys(who.split()[1].split("/")[0] for who in means):
        points = [means[who] for who in means if who.split()[1].startswith(optimiser + "/")]
        place.loglog([point[1] for point in points], [point[0] for point in points], "o", ms=4, label=optimiser)
    starts = {row["case"] for row in searched}
    own = [row for row in mine if row["case"] in starts]
    if own:
        place.loglog(
            mean(values(own, "seconds")), mean(values(own, "after")), "*", ms=11, color=COLOURS[OURS], label=OURS
        )
    for axis in (place.xaxis, place.yaxis):
        _plain_numbers(axis)
    place.set_xlabel("mean seconds")
    place.set_ylabel("mean error, mm")
    place.set_title("SimpleITK's settings and regsim, same starts", fontsize=9)
    place.legend(frameon=False, fontsize=6)


def _deformable(results: Results) -> bool:
    """Accuracy against seconds, T1 and FLAIR onto T1."""
    rows = [row for row in results.of("deformable") if "dice" in row]
    if not rows:
        return False
    kinds = list(dict.fromkeys(map(contrast, rows)))
    figure, axes = plt.subplots(1, len(kinds), figsize=(3.75 * len(kinds), 2.8), sharey=True, squeeze=False)
    for place, name in zip(axes[0], kinds, strict=True):
        for who, own in by([row for row in rows if contrast(row) == name], "who").items():
            colour = COLOURS.get(who, "grey")
            place.semilogx(values(own, "seconds"), values(own, "dice"), ".", ms=4, color=colour, alpha=0.5)
            place.semilogx(mean(values(own, "seconds")), mean(values(own, "dice")), "o", ms=8, color=colour, label=who)
        place.set_title(f"{name.upper()} onto T1")
        place.set_xlabel("seconds (a dot a pair; large: mean)")
        _plain_numbers(place.xaxis)
        place.grid(color="0.92")
        place.legend(frameon=False, fontsize=6)
    axes[0][0].set_ylabel("mean Dice")
    figure.tight_layout()
    return True
