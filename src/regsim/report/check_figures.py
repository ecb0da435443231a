"""Pictures of a check: the error over the anatomy, edges, and the histogram of local errors."""

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from regsim.evaluation.check_rows import CheckResults
from regsim.report import figures, pictures

Array = npt.NDArray[np.generic]
Pixels = npt.NDArray[np.uint8]
MAP = "plasma"
OPACITY = 0.55
HATCH = 200
SMALLEST, PERIOD = 420, 10
RELIABILITY = (("mean", "mean over a pair"), ("voxel", "single voxels"))


def colour_bar(count: int = 17) -> list[str]:
    """The colours of the error map from 0 to its end, as they look over medium grey."""
    colours = [np.array(mpl.colormaps[MAP](place)[:3]) for place in np.linspace(0, 1, count)]
    return [to_hex(tuple(OPACITY * colour + (1 - OPACITY) * 0.5)) for colour in colours]


def error_over(fixed: Array, error: Array, unrelated: Array, largest: float) -> Pixels:
    """The error in colour over the grey anatomy, `(height, width, 3)`; grey hatching where the images seem unrelated.

    Args:
        fixed: `(height, width)` grey values.
        error: alike, NaN outside the mask.
        unrelated: alike, probability.
        largest: error of the last colour.
    """
    factor = max(1, round(SMALLEST / max(fixed.shape)))
    grey, values, odd = (_enlarged(np.asarray(each, np.float64), factor) for each in (fixed, error, unrelated))
    inside = np.isfinite(values)
    colours = mpl.colormaps[MAP](np.clip(np.where(inside, values, 0) / largest, 0, 1))[..., :3] * 255
    mixed = OPACITY * colours + (1 - OPACITY) * grey[..., None]
    picture = np.where(inside[..., None], mixed, 0.7 * grey[..., None] * np.ones(3))
    rows, columns = np.indices(grey.shape)
    stripes = (rows + columns) % PERIOD < PERIOD // 2
    unlike = inside & (np.nan_to_num(odd) > 0.5)
    picture[unlike & stripes] = HATCH
    picture[unlike & ~stripes] = 0.45 * grey[unlike & ~stripes][:, None]
    return np.round(picture).astype(np.uint8)


def crops(fixed: Array, moved: Array) -> list[tuple[str, Pixels]]:
    """The surroundings of a place: both images, and the edges of the fixed one over the moved one."""
    first, second = np.asarray(fixed, np.uint8), np.asarray(moved, np.uint8)
    edges = pictures.outlines(first, second, pictures.edge_limit(first))
    return [("fixed", first), ("moved", second), ("edges of fixed over moved", edges)]


def histogram(results: CheckResults, theme: figures.Theme) -> bytes:
    """Shares of the mask by expected error, and by its bounds, with the limits of the verdict, as SVG."""
    rows, limits = results.histogram, results.limits
    edges = np.array(rows.edges)
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.stairs(100 * np.array(rows.expected), edges, fill=True, color=theme.cost, alpha=0.35)
    axes.stairs(100 * np.array(rows.expected), edges, color=theme.cost, linewidth=1.6, label="expected")
    axes.stairs(100 * np.array(rows.lower), edges, color=theme.ink, linewidth=1.1, linestyle=":", label="lower bound")
    axes.stairs(
        100 * np.array(rows.upper), edges, color=theme.penalty, linewidth=1.3, linestyle="--", label="upper bound"
    )
    for value, name in ((limits.pass_at, "pass"), (limits.fail_at, "fail")):
        if value < edges[-1]:
            axes.axvline(value, color=theme.ink, linewidth=1)
            axes.annotate(
                name, (value, 1), xycoords=("data", "axes fraction"), xytext=(3, -3), textcoords="offset points",
                va="top", fontsize=9, color=theme.ink,
            )  # fmt: skip
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"local error ({results.unit}); the last bin holds all above", color=theme.ink)
    axes.set_ylabel("% of the mask", color=theme.ink)
    axes.tick_params(colors=theme.ink, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.line)
    legend = axes.legend(frameon=False, fontsize=9, loc="upper right")
    for text in legend.get_texts():
        text.set_color(theme.ink)
    return figures.as_svg(figure)


def reliability(results: CheckResults, theme: figures.Theme) -> bytes:
    """True against expected error on the calibration's pairs, with this pair's expected error, as SVG."""
    curves = results.trust.reliability
    panels = [(level, title) for level, title in RELIABILITY if len(curves.get(level, ())) > 1]
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    for axes, (level, title) in zip(np.atleast_1d(figure.subplots(1, max(1, len(panels)))), panels, strict=False):
        predicted, observed, lower, upper = np.array(curves[level]).T
        end = 1.05 * max(predicted.max(), observed.max(), results.limits.fail_at)
        axes.set_facecolor("none")
        axes.plot([0, end], [0, end], color=theme.line, linewidth=1)
        axes.fill_between(predicted, lower, upper, color=theme.cost, alpha=0.2, linewidth=0, label="90 % interval")
        axes.plot(predicted, observed, "o-", color=theme.cost, markersize=4, linewidth=1.3, label="mean true error")
        if level == "mean" and results.expected_error < end:
            axes.axvline(results.expected_error, color=theme.penalty, linewidth=1.2, linestyle="--", label="this pair")
        axes.set_xlim(0, end)
        axes.set_ylim(0, end)
        axes.set_title(title, fontsize=10, color=theme.ink)
        axes.set_xlabel(f"expected error ({results.unit})", color=theme.ink)
        axes.set_ylabel(f"true error ({results.unit})", color=theme.ink)
        axes.tick_params(colors=theme.ink, labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(theme.line)
        for text in axes.legend(frameon=False, fontsize=9, loc="lower right").get_texts():
            text.set_color(theme.ink)
    return figures.as_svg(figure)


def _enlarged(values: npt.NDArray[np.float64], factor: int) -> npt.NDArray[np.float64]:
    return values.repeat(factor, axis=0).repeat(factor, axis=1)
