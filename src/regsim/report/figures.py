"""Figures of a registration, drawn by matplotlib without a display: bytes of SVG or PNG come out."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from regsim.evaluation.results import LevelRow, StepRow

Array = npt.NDArray[np.generic]
FOLDED = "#ffd400"
UNKNOWN = "#8a8a8a"
PANEL_PIXELS = 460


@dataclass(frozen=True)
class Theme:
    """The colours of a plot on a light or on a dark page."""

    ink: str
    line: str
    cost: str
    penalty: str
    band: str


LIGHT = Theme(ink="#3c444d", line="#c4cbd2", cost="#0b5cad", penalty="#a34a00", band="#eef1f4")
DARK = Theme(ink="#c3ccd4", line="#414b55", cost="#7db8f5", penalty="#f2b35c", band="#20272e")


@dataclass(frozen=True)
class Span:
    """The steps `first` to `last` (counted over the whole registration) of one level of one stage."""

    stage: str
    level: int
    first: int
    last: int


def spans(steps: list[StepRow]) -> list[Span]:
    """Where each level of each stage lies on the common axis of steps, in the order they were run."""
    found, first = [], 0
    for (stage, level), group in groupby(steps, key=lambda row: (row.stage, row.level)):
        count = len(list(group))
        found.append(Span(stage, level, first, first + count - 1))
        first += count
    return found


def convergence(steps: list[StepRow], levels: list[LevelRow], unit: str, theme: Theme) -> bytes:
    """Cost per step as SVG, with levels and stages marked; the penalty below it where there is one."""
    penalty = _finite([row.penalty for row in steps])
    has_penalty = bool(np.any(np.nan_to_num(penalty) != 0))
    figure = Figure(figsize=(9.6, 4.6 if has_penalty else 3.4), layout="constrained")
    rows = figure.subplots(
        2 if has_penalty else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 1][: 1 + has_penalty]
    )
    parts = spans(steps)
    for axes in rows[:, 0]:
        _prepare(axes, parts, theme)
    _curve(rows[0, 0], _finite([row.cost for row in steps]), parts, theme.cost)
    rows[0, 0].set_ylabel("cost (lower is better)", color=theme.ink)
    if has_penalty:
        _curve(rows[1, 0], penalty, parts, theme.penalty)
        rows[1, 0].set_ylabel("penalty", color=theme.ink)
    _label_levels(rows[0, 0], parts, levels, unit, theme)
    rows[-1, 0].set_xlabel("step of the optimiser, all levels in order", color=theme.ink)
    return as_svg(figure)


def warped_grid(grid: Array, background: Array, lines: int = 22) -> bytes:
    """A regular grid on the moving image after warping, over the warped image `(height, width)`, as PNG.

    `grid`: `(2, height, width)`, the row and column that every pixel is mapped to; its level lines are the grid lines.
    """
    figure, axes = _panel(background.shape)
    axes.imshow(background, cmap="gray", vmin=0, vmax=255, alpha=0.7, interpolation="bilinear")
    step = max(2.0, max(background.shape) / lines)
    for coordinate, colour in zip(_finite(grid), ("#ffb454", "#5cc8ff"), strict=True):
        low, high = _range(coordinate)
        ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
        if len(ticks) and min(coordinate.shape) > 1:
            axes.contour(coordinate, levels=ticks, colors=colour, linewidths=0.9)
    return as_png(figure)


def jacobian_limit(stacks: list[Array]) -> float:
    """The end of the colour scale: a factor above 1 that holds 99% of the unfolded voxels of all planes."""
    values = np.concatenate([_finite(stack).ravel() for stack in stacks]) if stacks else np.empty(0)
    values = values[values > 0]
    spread = float(np.percentile(np.abs(np.log2(values)), 99)) if len(values) else 0.0
    return float(2 ** min(max(spread, 0.1), 3.0))


def jacobian_map(jacobian: Array, fixed: Array, limit: float) -> bytes:
    """The Jacobian determinant `(height, width)` as PNG: logarithmic, white at 1, folded voxels in yellow."""
    values = _finite(jacobian)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.where(values > 0, np.log2(values), np.nan)
    figure, axes = _panel(values.shape)
    figure.set_facecolor(UNKNOWN)
    bound = np.log2(limit)
    axes.imshow(logarithm, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
    if np.any(values <= 0):
        folded = np.where(values <= 0, 1.0, np.nan)
        axes.imshow(folded, cmap=ListedColormap([FOLDED]), vmin=0, vmax=1, interpolation="nearest")
    anatomy = _finite(fixed)
    if min(anatomy.shape) > 1 and np.ptp(anatomy) > 0:
        axes.contour(anatomy, levels=[0.25 * float(np.max(anatomy))], colors="#444444", linewidths=0.5)
    return as_png(figure)


def jacobian_scale(limit: float) -> tuple[list[str], list[float]]:
    """The colour bar: colours from low to high and the factors at its marks."""
    colours = [to_hex(mpl.colormaps["RdBu_r"](position)) for position in np.linspace(0, 1, 9)]
    bound = np.log2(limit)
    return colours, [float(2**mark) for mark in np.linspace(-bound, bound, 5)]


def slice_of_interest(jacobian: Array) -> int:
    """The slice with most folded voxels, or the middle one where nothing folds."""
    folded = (_finite(jacobian) <= 0).reshape(len(jacobian), -1).sum(axis=1)
    return int(np.argmax(folded)) if folded.any() else len(jacobian) // 2


def _finite(values: object) -> npt.NDArray[np.float64]:
    """As float64, NaN where a value is not finite."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _range(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, -1.0)


def _prepare(axes: Axes, parts: list[Span], theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=theme.ink, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.line)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for index, part in enumerate(parts):
        if index % 2:
            axes.axvspan(part.first - 0.5, part.last + 0.5, color=theme.band, linewidth=0, zorder=0)


def _curve(axes: Axes, values: npt.NDArray[np.float64], parts: list[Span], colour: str) -> None:
    """One line per level: costs of two levels are of two images and are not joined."""
    for part in parts:
        where = np.arange(part.first, part.last + 1)
        marker = "o" if len(where) < 3 else ""
        axes.plot(where, values[where], color=colour, linewidth=1.6, marker=marker, markersize=4)


def _label_levels(axes: Axes, parts: list[Span], levels: list[LevelRow], unit: str, theme: Theme) -> None:
    spacing = {(row.stage, row.level): row.spacing for row in levels}
    total = parts[-1].last + 1 if parts else 1
    for part in parts:
        if (part.last - part.first + 1) / total >= 0.07:
            known = spacing.get((part.stage, part.level))
            _above(axes, part, f"{known:.3g} {unit}" if known is not None else f"level {part.level}", 1.01, theme, 8)
    for stage, members in _stages(parts):
        if (members[-1].last - members[0].first + 1) / total >= 0.07:
            whole = Span(stage, 0, members[0].first, members[-1].last)
            _above(axes, whole, stage[:40], 1.085, theme, 9.5)
        if members[0].first:
            axes.axvline(members[0].first - 0.5, color=theme.ink, linewidth=1, linestyle=(0, (4, 3)))


def _stages(parts: list[Span]) -> Iterator[tuple[str, list[Span]]]:
    for stage, members in groupby(parts, key=lambda part: part.stage):
        yield stage, list(members)


def _above(axes: Axes, part: Span, text: str, height: float, theme: Theme, size: float) -> None:
    axes.text(
        (part.first + part.last) / 2, height, text.replace("$", r"\$"), transform=axes.get_xaxis_transform(),
        ha="center", va="bottom", fontsize=size, color=theme.ink,
    )  # fmt: skip


def _panel(shape: tuple[int, ...]) -> tuple[Figure, Axes]:
    """A figure that one picture fills to its edges."""
    height, width = shape[-2:]
    scale = PANEL_PIXELS / max(height, width)
    figure = Figure(figsize=(max(8, width * scale) / 100, max(8, height * scale) / 100), dpi=100, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return figure, axes


def as_png(figure: Figure) -> bytes:
    """A figure as PNG."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(stream, format="png")
    return stream.getvalue()


def as_svg(figure: Figure) -> bytes:
    """The same bytes for the same figure: no date, no random names."""
    stream = io.BytesIO()
    figure.set_facecolor("none")
    FigureCanvasSVG(figure)
    with mpl.rc_context({"svg.hashsalt": "regsim"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
