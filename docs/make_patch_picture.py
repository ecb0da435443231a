"""Make docs/images/patch-likelihood.png: what each shot's metric answers, and where training pairs and test pairs ended.

python docs/make_patch_picture.py
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.multi_shot import OURS
from benchmarks.multi_shot_page import NAMES, rows_of
from regsim.evaluation.shot_rows import read_shots

HERE = Path(__file__).parent
TARGET, SHOTS = HERE / "images" / "patch-likelihood.png", HERE / "patch-likelihood" / "shots.json"
SET = "t1t2"
SHOWN = {"patch, gradient": "patch", "nmi 60, Powell": "nmi,\nPowell", "mi": "mi", "mind": "mind"}


def main() -> None:
    """Write the picture."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in rows_of() if row["set"] == SET]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=[4, 2, 3])
    shots = read_shots(SHOTS).shots
    for number, shot in enumerate(shots):
        answer = next((each for each in shot.responses if each.motion == "shift in y"), None)
        if answer is not None:
            costs = np.asarray(answer.costs)
            share = (number + 1) / len(shots)
            name = f"shot {shot.number}: {shot.spacing:g} mm, dither {shot.dither:g} mm"
            axes[0].plot(
                answer.places,
                (costs - costs.min()) / np.ptp(costs),
                color="#0b5cad",
                alpha=0.2 + 0.8 * share,
                label=name,
            )
    axes[0].axvline(0, color="#c4cbd2")
    axes[0].set(xlabel="pairs shifted along y, mm", ylabel="cost, scaled", title="what each shot's metric answers")
    axes[0].legend(frameon=False, fontsize=8)
    trained = [row for row in rows if row["part"] == "training pairs" and row["arm"] == OURS]
    for row in trained:
        axes[1].plot(
            [0, 1], [float(row["before"]), float(row["after"])], color="#0b5cad", alpha=0.4, marker="o", markersize=3
        )
    axes[1].set(
        xticks=[0, 1], xticklabels=["before", "after"], ylabel="true error, mm", title="training pairs", yscale="log"
    )
    random = np.random.default_rng(0)
    for place, arm in enumerate(SHOWN):
        errors = np.array([float(row["after"]) for row in rows if row["part"] == "test" and row["arm"] == arm])
        axes[2].scatter(place + random.uniform(-0.15, 0.15, len(errors)), errors, s=12, color="#a34a00", alpha=0.6)
    axes[2].axhline(2.0, color="#c4cbd2")
    axes[2].set(xticks=range(len(SHOWN)), xticklabels=SHOWN.values(), yscale="log", ylabel="true error, mm",
                title=f"unseen people ({NAMES[SET]})")  # fmt: skip
    for axis in axes[1:]:
        axis.set_yticks([0.2, 0.5, 1, 2, 5, 10, 20], labels=["0.2", "0.5", "1", "2", "5", "10", "20"])
        axis.set_yticks([], minor=True)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(TARGET, dpi=80)


if __name__ == "__main__":
    main()
