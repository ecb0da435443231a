"""Figures of a landscape, drawn by matplotlib without a display: bytes of SVG or PNG come out."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regsim.evaluation.landscape_rows import CurveRow, NuisanceRow
from regsim.report.figures import Theme, as_png, as_svg

Array = npt.NDArray[np.generic]
Real = npt.NDArray[np.float64]
INK, SURFACE = "#3c444d", "viridis"
STYLES = ("-", "--", ":", "-.")
PANELS = 3
LEVELS = 14
DISPLAY_GAMMA = 0.6
TALLEST_RESPONSE = 4.0


def colour(number: int) -> str:
    """The colour of metric number N: ten colours."""
    palette = mpl.colormaps["tab10"]
    return mpl.colors.to_hex(palette(number % 10))


def style(number: int) -> str:
    """The stroke of metric number N: another one for every ten."""
    return STYLES[(number // 10) % len(STYLES)]


def surface(costs: Array, shifts: Array, degrees: Array, unit: str) -> bytes:
    """Cost over shift and rotation as a 3-D plot, PNG; 0 = lowest, 1 = highest cost."""
    figure = Figure(figsize=(4.2, 3.5), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot(projection="3d")
    across, down = np.meshgrid(_real(shifts), _real(degrees))
    axes.plot_surface(
        across, down, _unit(costs), cmap=SURFACE, rstride=1, cstride=1, linewidth=0.15, edgecolor="#ffffff66"
    )
    axes.set_xlabel(f"shift x [{unit}]", color=INK, fontsize=8, labelpad=-4)
    axes.set_ylabel("rotation [°]", color=INK, fontsize=8, labelpad=-4)
    axes.tick_params(colors=INK, labelsize=7, pad=-2)
    axes.set_zticks([0, 0.5, 1])
    axes.view_init(elev=32, azim=-58)
    return as_png(figure)


def contour(costs: Array, shifts: Array, degrees: Array, unit: str, minima: Array | None) -> bytes:
    """The same from above as PNG: the truth as a cross, local minima `(count, 2)` (row, column) as red rings."""
    figure = Figure(figsize=(3.7, 3.1), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    x, y = _real(shifts), _real(degrees)
    axes.contourf(x, y, _unit(costs), levels=LEVELS, cmap=SURFACE)
    axes.contour(x, y, _unit(costs), levels=LEVELS, colors="white", linewidths=0.4, alpha=0.7)
    axes.plot(0, 0, "+", color="white", markersize=11, markeredgewidth=1.8)
    for row, column in np.empty((0, 2), int) if minima is None else minima:
        axes.plot(
            x[column], y[row], "o", markerfacecolor="none", markeredgecolor="#ff3b30", markersize=9, markeredgewidth=1.8
        )
    axes.set_xlabel(f"shift x [{unit}]", color=INK, fontsize=8)
    axes.set_ylabel("rotation [°]", color=INK, fontsize=8)
    axes.tick_params(colors=INK, labelsize=7)
    return as_png(figure)


def scatter(errors: Array, costs: Array, number: int, unit: str) -> bytes:
    """Cost of random misalignments over their true error, PNG."""
    figure = Figure(figsize=(3.7, 3.1), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.plot(_real(errors), _real(costs), ".", color=colour(number), markersize=5, alpha=0.7)
    axes.set_xlabel(f"true error [{unit}]", color=INK, fontsize=8)
    axes.set_ylabel("cost (lower is better)", color=INK, fontsize=8)
    axes.tick_params(colors=INK, labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return as_png(figure)


def responses(curves: Sequence[CurveRow], metrics: Sequence[str], unit: str, theme: Theme) -> bytes:
    """Response curves of all metrics, one panel a way to move, SVG."""
    kinds = list(dict.fromkeys(curve.kind for curve in curves))
    rows = -(-len(kinds) // PANELS)
    figure = Figure(figsize=(10.4, 2.7 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, PANELS, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(kinds):
            axes.set_visible(False)
            continue
        _plain(axes, theme)
        for curve in (curve for curve in curves if curve.kind == kinds[place]):
            number = metrics.index(curve.metric)
            axes.plot(curve.amounts, curve.responses, color=colour(number), linestyle=style(number), linewidth=1.3)
        axes.set_ylim(top=min(axes.get_ylim()[1], TALLEST_RESPONSE))
        axes.set_xlabel(f"{kinds[place]} [{_amount_unit(kinds[place], unit)}]", color=theme.ink, fontsize=9)
    grid[0, 0].set_ylabel("response", color=theme.ink, fontsize=9)
    return as_svg(figure)


def nuisance_bars(rows: Sequence[NuisanceRow], metrics: Sequence[str], reach: float, unit: str, theme: Theme) -> bytes:
    """What each change of intensity looks like, in px or mm of shift; one panel a kind, SVG."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    figure = Figure(figsize=(10.4, 0.3 * len(metrics) + 1.3), layout="constrained")
    grid = figure.subplots(1, len(kinds), squeeze=False, sharey=True)
    for axes, kind in zip(grid[0], kinds, strict=True):
        _plain(axes, theme)
        amounts = list(dict.fromkeys(row.amount for row in rows if row.kind == kind))
        height = 0.8 / len(amounts)
        for row in (row for row in rows if row.kind == kind):
            number, place = metrics.index(row.metric), amounts.index(row.amount)
            where = number + (place - (len(amounts) - 1) / 2) * height
            strength = 0.4 + 0.6 * (place + 1) / len(amounts)
            axes.barh(where, row.looks_like, height, color=colour(number), alpha=strength)
        axes.set_xlim(0, reach)
        told = ", ".join(f"{amount:g}" for amount in amounts) if len(amounts) > 1 else ""
        axes.set_title(f"{kind} {told}", color=theme.ink, fontsize=9)
        axes.set_xlabel(unit, color=theme.ink, fontsize=9)
    grid[0, 0].set_yticks(range(len(metrics)), [name[:24].replace("$", r"\$") for name in metrics])
    grid[0, 0].invert_yaxis()
    return as_svg(figure)


def picture(values: Array, low: float, high: float, colours: str = "gray") -> npt.NDArray[np.uint8]:
    """A map as colours `(height, width, 3)`, 8 bits; not finite as black."""
    real = np.nan_to_num(_real(values), nan=low)
    scaled = np.clip((real - low) / (high - low if high > low else 1.0), 0, 1)
    rgba = mpl.colormaps[colours](scaled)
    return np.round(rgba[..., :3] * 255).astype(np.uint8)


def overlay(fixed: Array, moving: Array) -> npt.NDArray[np.uint8]:
    """Fixed in green, moving in magenta: grey where they agree."""
    one, other = _show(fixed), _show(moving)
    return np.stack([other, one, other], axis=-1)


def _show(values: Array) -> npt.NDArray[np.uint8]:
    return np.round(np.clip(_real(values), 0, 1) ** DISPLAY_GAMMA * 255).astype(np.uint8)


def _amount_unit(kind: str, unit: str) -> str:
    return "°" if kind.startswith("rotation") else "%" if kind == "scale" else unit


def _plain(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=theme.ink, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.line)


def _unit(costs: Array) -> Real:
    """0 = lowest, 1 = highest; a flat surface stays 0."""
    real = _real(costs)
    low, span = float(real.min()), float(np.ptp(real))
    return (real - low) / (span if span > 0 else 1.0)


def _real(values: Array) -> Real:
    return np.asarray(values, dtype=np.float64)
