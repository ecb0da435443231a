"""Curves of a sweep over the weights, drawn by matplotlib without a display: bytes of SVG come out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regsim.evaluation.sweep_rows import SweepResults
from regsim.report.figures import Theme, as_svg

COLUMNS = 3


@dataclass(frozen=True)
class Curve:
    """One panel: a figure of every weight. `limit`: a line that should not be crossed; `before`: without deformation."""

    title: str
    values: list[float]
    limit: float | None = None
    before: float | None = None


def curves(results: SweepResults) -> list[Curve]:
    """What is drawn, the truest first; a panel without any value is left out."""
    rows, judge = results.rows, results.rows[0].judge
    found = [
        Curve(
            f"landmark error [{results.unit}]",
            [math.nan if row.landmarks is None else row.landmarks for row in rows],
            before=results.landmarks_before,
        ),
        Curve("mean Dice", [math.nan if row.dice is None else row.dice for row in rows], before=results.dice_before),
        Curve("folded [%]", [100 * row.folded for row in rows], limit=0.1),
    ]
    if judge is not None:
        better = "higher" if judge.higher_is_better else "lower"
        values = [row.metric(judge.metric).after for row in rows]
        found.append(Curve(f"{judge.metric} ({better} is better)", values, before=judge.before))
    found.append(Curve("sd of log Jacobian", [row.spread for row in rows]))
    found.append(Curve("smallest Jacobian", [row.smallest for row in rows], limit=0.0))
    return [curve for curve in found if any(math.isfinite(value) for value in curve.values)]


def panels(results: SweepResults, theme: Theme) -> bytes:
    """All curves over the weight, evenly spaced; the recommended weight is marked."""
    shown = curves(results)
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(9.6, 2.6 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    weights = [row.weight for row in results.rows]
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_visible(False)
            continue
        _panel(axes, shown[place], weights, weights.index(results.recommended), theme)
    return as_svg(figure)


def _panel(axes: Axes, curve: Curve, weights: Sequence[float], chosen: int, theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=theme.ink, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.line)
    axes.grid(axis="y", color=theme.line, linewidth=0.5, alpha=0.6)
    places = range(len(weights))
    axes.plot(places, curve.values, color=theme.cost, linewidth=1.6, marker="o", markersize=4)
    axes.plot(chosen, curve.values[chosen], "o", markersize=11, markerfacecolor="none", markeredgecolor=theme.penalty)
    for level, stroke in ((curve.limit, "--"), (curve.before, ":")):
        if level is not None and math.isfinite(level):
            axes.axhline(level, color=theme.ink, linewidth=0.9, linestyle=stroke)
    axes.set_xticks(list(places), [f"{weight:g}" for weight in weights])
    axes.set_title(curve.title, color=theme.ink, fontsize=10)
    axes.set_xlabel("regularisation", color=theme.ink, fontsize=9)
