"""Curves of a training, one figure a stage: the loss above, the figures on validation subjects below."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from regsim.evaluation.shot_rows import ShotRow
from regsim.evaluation.training_rows import CHECK, StageCurves, spoken
from regsim.report.figures import Theme, as_svg

MOST_POINTS = 1500
COLOURS = ("cost", "penalty")


def stage_curves(stage: StageCurves, decides: str, theme: Theme) -> bytes:
    """The course of one stage as SVG.

    Args:
        stage: its curves.
        decides: the figure (without `check_`) that chose the weights; it is drawn first. "" where none did.
        theme: of a light or a dark page.
    """
    checks = sorted(stage.checks, key=lambda name: name != CHECK + decides)[:2]
    figure = Figure(figsize=(9.6, 3.2 + 1.5 * len(checks)), layout="constrained")
    rows = figure.subplots(1 + len(checks), 1, sharex=True, squeeze=False, height_ratios=[3, *[2] * len(checks)])[:, 0]
    for axes in rows:
        _prepare(axes, theme)
    steps = np.asarray(stage.columns["step"])
    _loss(rows[0], steps, np.asarray(stage.columns["loss"]), theme)
    for axes, name, colour in zip(rows[1:], checks, COLOURS, strict=False):
        values = np.asarray(stage.columns[name])
        known = np.isfinite(values)
        axes.plot(steps[known], values[known], color=getattr(theme, colour), linewidth=1.6, marker="o", markersize=4)
        axes.set_ylabel(_plain(spoken(name.removeprefix(CHECK))) + "\n(validation)", color=theme.ink)
    rows[-1].set_xlabel("step", color=theme.ink)
    return as_svg(figure)


def shot_responses(shots: Sequence[ShotRow], theme: Theme) -> bytes:
    """How each shot's metric answers to known motions, as SVG: a panel for each motion, a line for each shot.

    Costs are scaled to [0, 1] within a line: where the lowest lies and how wide its basin is can be compared, heights cannot.
    """
    motions = [answer.motion for answer in shots[0].responses]
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(motions), sharey=True, squeeze=False)[0]
    for place, (axes, motion) in enumerate(zip(panels, motions, strict=True)):
        _prepare(axes, theme)
        axes.axvline(0, color=theme.line, linewidth=1.2)
        for number, shot in enumerate(shots):
            costs = np.asarray(shot.responses[place].costs)
            scaled = (costs - costs.min()) / max(float(np.ptp(costs)), 1e-12)
            share = (number + 1) / len(shots)
            axes.plot(
                shot.responses[place].places,
                scaled,
                color=theme.cost,
                alpha=0.25 + 0.75 * share,
                linewidth=0.8 + 1.4 * share,
                label=f"shot {shot.number}",
            )
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(motion, color=theme.ink, fontsize=10)
        axes.set_xlabel("degrees" if motion == "turn" else shots[0].unit, color=theme.ink)
    panels[0].set_ylabel("cost, scaled (lower is better)", color=theme.ink)
    panels[-1].legend(frameon=False, fontsize=8, labelcolor=theme.ink, loc="upper center")
    return as_svg(figure)


def _loss(axes: Axes, steps: npt.NDArray[np.float64], loss: npt.NDArray[np.float64], theme: Theme) -> None:
    """Every step faintly, and the mean of its neighbours; logarithmic where it falls to less than a tenth."""
    width = max(1, len(loss) // 60)
    smooth = np.convolve(loss, np.ones(width) / width, mode="valid") if len(loss) >= width else loss
    middle = steps[(width - 1) // 2 :][: len(smooth)]
    every = slice(None, None, 1 + len(loss) // MOST_POINTS)
    if width > 1:
        axes.plot(steps[every], loss[every], color=theme.cost, linewidth=0.7, alpha=0.35)
    axes.plot(middle[every], smooth[every], color=theme.cost, linewidth=1.8, marker="o" if len(loss) < 3 else "")
    if smooth.min() > 0 and smooth.max() > 10 * smooth.min():
        axes.set_yscale("log")
    axes.set_ylabel("loss (lower is better)", color=theme.ink)


def _prepare(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=theme.ink, labelsize=9, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.line)
    axes.grid(axis="y", color=theme.line, linewidth=0.5, alpha=0.6)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plain(text: str) -> str:
    """Without what matplotlib would read as a formula."""
    return text.replace("$", r"\$")[:40]
