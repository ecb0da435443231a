"""Trainings of IMSE's evaluator that differ in one thing: styles (the paper's Table 3), and remedies for its biased optimum.

    python -m benchmarks.imse_arms styles|remedies -o DIR --data evaluators.csv --test-data test_contrasts.csv [--steps 3000]
        [--only ARM ...] [--seeds 1]

Each arm is the recipe imse-brain-2d with these changes, and fills DIR/ARM-SEED; what is finished is not trained again. The table
shows, for each contrast that was not seen, relative L1 (1 = as good as predicting nothing) and the rank correlation with the true
error. `python -m benchmarks.imse response -m DIR/ARM-SEED` measures where the optimum of each lies.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from regsim.applications.train import TrainRequest, train_model
from regsim.metrics.checkpoint import Card
from regsim.training.recipe import load_recipe

RECIPE = "imse-brain-2d"
NONE: tuple[str, ...] = ()


def styles(*kinds: str) -> tuple[str, ...]:
    """The change that makes these the styles."""
    return (f"styles.styles=[{', '.join(f'{{{kind}}}' for kind in kinds)}]",)


CLUSTERS, CURVE = 'kind = "cluster_mixture"', 'kind = "smooth_curve"'
ARMS: dict[str, dict[str, tuple[str, ...]]] = {
    "styles": {
        "shuffle-2": styles('kind = "shuffle_remap", segments = [2, 2]'),
        "shuffle-2-10": styles('kind = "shuffle_remap", segments = [2, 10]'),
        "shuffle-2-30": styles('kind = "shuffle_remap", segments = [2, 30]'),
        "shuffle-2-50": styles('kind = "shuffle_remap", segments = [2, 50]'),
        "bezier": styles('kind = "bezier_curve"'),
        "curve": styles(CURVE),
        "clusters": styles(CLUSTERS),
        "clusters-curve": NONE,
        "clusters-curve-shuffle": styles(CLUSTERS, CURVE, 'kind = "shuffle_remap", segments = [2, 10]'),
    },
    "remedies": {
        "as-is": NONE,
        "adamw": ('stages.0.optimiser="adamw"', "stages.0.learning_rate=4e-3", "stages.0.squared=3"),
        "l1": ("stages.0.squared=0",),
        "near-zero": ("pairs.motion.error=[0.15, 21.0]", 'pairs.motion.distribution="log"', "pairs.motion.aligned=0.1"),
        "full-resolution": ("network.stem=1", "network.widths=[12, 24, 40, 64]", "network.blocks=[0, 0, 0, 3]"),
        "larger": ("network.widths=[32, 64, 96]", "network.blocks=[0, 1, 4]"),
        "paper-norm": ('network.normalisation="group"',),
    },
}


def train_arms(
    arms: Sequence[str], kind: str, output: Path, data: Path, test: Path, steps: int, seeds: int
) -> dict[str, list[Card]]:
    """Train what is not there; the cards of each arm."""
    found: dict[str, list[Card]] = {}
    for arm in arms:
        for seed in range(seeds):
            changes = [
                *ARMS[kind][arm],
                f"stages.0.steps={steps}",
                f"trainer.seed={seed}",
                f"stages.0.check_every={steps}",
            ]
            request = TrainRequest(load_recipe(RECIPE, changes), (data,), (test,))
            found.setdefault(arm, []).extend(train_model(request, output / f"{arm}-{seed}"))
    return found


def show(found: dict[str, list[Card]], screen: Console) -> None:
    """Mean and range over the seeds."""
    table = Table("arm", "n")
    contrasts = ("t2", "flair", "pd")
    for name in ("relative", "spearman"):
        for contrast in contrasts:
            table.add_column(f"{name} {contrast}")
    for arm, cards in found.items():
        cells = []
        for name in ("relative", "spearman"):
            for contrast in contrasts:
                values = [float(str(card.figures[f"{name}_{contrast}"])) for card in cards]
                spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
                cells.append(f"{sum(values) / len(values):.3f}{spread}")
        table.add_row(arm, str(len(cards)), *cells)
    screen.print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=tuple(ARMS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--test-data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+")
    asked = parser.parse_args()
    arms = asked.only or tuple(ARMS[asked.kind])
    output = asked.output / asked.kind
    show(
        train_arms(arms, asked.kind, output, asked.data, asked.test_data, asked.steps, asked.seeds), Console(width=160)
    )


if __name__ == "__main__":
    main()
