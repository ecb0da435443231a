"""SiamRegQC: what the default recipe reaches in three minutes, and the paper's ablations beside the paper's own figures.

    python -m benchmarks.siamregqc default --seeds 3      train on T1, judge on subjects that no training saw
    python -m benchmarks.siamregqc ablation --seeds 3     full, np, nl, np_nl of the paper's network

Data: `benchmarks.manifests`. Every row is written as soon as it is there; a second run goes on where the first one stopped.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import torch

from benchmarks.league import evaluate, t1_neighbour_pairs
from benchmarks.manifests import write_manifests
from regsim.applications.train import TrainRequest, read_all, train_on
from regsim.evaluation.known_pairs import costs, draw_known_pairs, judge
from regsim.evaluation.landscape import LandscapePair
from regsim.images import Image
from regsim.kernels.memory import keep_freed_memory
from regsim.metrics import load_metric
from regsim.metrics.siamese import SiameseNetwork
from regsim.metrics.siamregqc import SiameseRegistrationQuality
from regsim.misalign.pairs import PairBatch, PairMaker
from regsim.misalign.sources import Subject
from regsim.prepare import coarser
from regsim.training.recipe import Recipe, load_recipe

CLASSICAL = ("mse", "ssim", "ncc", "lncc", "mind", "nmi")
APART = 3.0
T1 = ['source.contrasts=["t1"]', "source.shapes=0"]
PAPER = {"full": "the two steps", "np": "no autoencoding", "nl": "no cosine contrast", "np_nl": "neither"}
# The paper prints no accuracy; its Table 2 has the mean value of neighbouring sections and of sections that FFT left misaligned.
PAPER_VALUES = {"full": (0.024, 0.264), "np": (0.010, 0.163), "nl": (0.017, 0.209), "np_nl": (0.004, 0.114)}
LANDSCAPE = ("spearman", "spearman_hidden", "minima", "offset_self", "offset_noise", "balance", "auc_1", "capture")
FIGURES = ("accuracy", "blurred_called_misaligned", "auc", "spearman", "spearman_outline_hidden", "seconds")


def neighbours(recipe: Recipe) -> Recipe:
    """The recipe whose test pairs are axial planes 3 mm apart."""
    pairs = recipe.pairs.model_copy(update={"pairing": ("neighbours",), "apart": (APART, APART)})
    return recipe.model_copy(update={"pairs": pairs})


def axial(subject: Subject) -> Subject:
    """Only planes across the first axis, the fuller half of them."""
    content = subject.seen.float().sum(dim=(1, 2))
    kept = (content >= 0.6 * content.max()).nonzero().flatten()
    part = slice(int(kept.min()), int(kept.max()) + 1)
    images = {name: volume[part] for name, volume in subject.images.items()}
    return Subject(subject.name, images, None, subject.seen[part], (0,), subject.steps, subject.empty_outside)


def judged(folder: Path, recipe: Recipe, test: Sequence[Subject], threshold: float) -> dict[str, float]:
    """Figures of a stored model on the unseen subjects' T1 planes 3 mm apart."""
    motion = recipe.pairs.motion.model_copy(update={"error": (0.0, 12.0)})
    settings = neighbours(recipe).pairs.model_copy(update={"motion": motion})
    pairs = draw_known_pairs(PairMaker([axial(subject) for subject in test], settings), 256, 11, 2.0)
    metric = load_metric("siamregqc", model=str(folder))
    found = judge(metric, pairs, threshold)
    cost, apart = costs(metric, pairs.sorted), pairs.sorted.misaligned
    ranks = {name: judge(load_metric(name), pairs)["spearman"] for name in CLASSICAL}
    plain = {name: value for name, value in found.items() if isinstance(value, float)}
    if isinstance(metric, SiameseRegistrationQuality) and metric.settings.head == "dense":
        plain["classifier accuracy"] = classifier_accuracy(metric.network, pairs.sorted)
    plain |= {"value aligned": float(cost[~apart].mean()), "value misaligned": float(cost[apart].mean())}
    return {**plain, **{f"spearman {name}": value for name, value in ranks.items() if isinstance(value, float)}}


@torch.no_grad()
def classifier_accuracy(network: SiameseNetwork, pairs: PairBatch) -> float:
    """Balanced accuracy of the network's own two outputs, which the metric does not use."""
    called = []
    for first in range(0, len(pairs.fixed), 16):
        part = slice(first, first + 16)
        features = [network.features(image[part], pairs.mask[part]) for image in (pairs.fixed, pairs.moving)]
        called.append(network.logits(*features).argmax(dim=1))
    said, truth = torch.cat(called) == 1, pairs.misaligned
    return float((said[truth].double().mean() + (~said[~truth]).double().mean()) / 2)


def in_pixels(pair: LandscapePair, spacing: float) -> LandscapePair:
    """A pair at the recipe's resolution, its lengths in pixels."""
    images = [coarser(image, spacing) for image in (pair.fixed, pair.moving)]
    fixed, moving = (Image.of_array(image.data[0], name=image.name) for image in images)
    return LandscapePair(fixed, moving, pair.subject, pair.name)


def on_landscape(folder: Path, recipe: Recipe, metrics: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """The landscape's criteria on T1 slices 3 mm apart of unseen subjects, for the model and other metrics."""
    pairs = [in_pixels(pair, recipe.source.spacing) for pair in t1_neighbour_pairs(slices=1)]
    found = evaluate([load_metric("siamregqc", model=str(folder)), *metrics], pairs, quick=True)
    return {row.metric: {name: row[name] for name in LANDSCAPE} for row in found.rows}


def row(name: str, recipe: Recipe, train: Sequence[Subject], test: Sequence[Subject], out: Path) -> dict[str, float]:
    """Train one model (or take it where it stands) and judge it."""
    folder, stored = out / name, out / f"{name}.json"
    if stored.is_file():
        found: dict[str, float] = json.loads(stored.read_text())
        return found
    began = time.perf_counter()
    card = train_on(train, test, TrainRequest(recipe), folder)[0]
    seconds = float(next(note for note in card.notes if note.startswith("Trained in")).split()[2])
    found = {**judged(folder, recipe, test, float(str(card.figures["threshold"]))), "seconds": seconds}
    if name.startswith("default"):
        found |= {f"landscape {key}": value for key, value in on_landscape(folder, recipe)["siamregqc"].items()}
    found["seconds in all"] = time.perf_counter() - began
    stored.write_text(json.dumps(found, indent=1))
    return found


def table(rows: dict[str, list[dict[str, float]]], figures: Sequence[str]) -> str:
    """Mean and spread over seeds, Markdown."""
    figures = (
        ["classifier accuracy", *figures, "value aligned", "value misaligned"] if "full" in rows else list(figures)
    )
    lines = ["| | " + " | ".join(figures) + " |", "|---" * (len(figures) + 1) + "|"]
    for name, found in rows.items():
        cells = []
        for figure in figures:
            values = [one[figure] for one in found if figure in one]
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{spread}" if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        if name in PAPER_VALUES:
            cells = ["-"] * (len(figures) - 2) + [f"{value:.3f}" for value in PAPER_VALUES[name]]
            lines.append(f"| {name}, the paper's | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arm(name: str, seed: int, changes: Sequence[str]) -> Recipe:
    """One arm of the paper's ablation."""
    recipe = load_recipe("siamregqc-paper", [*T1, f"trainer.seed={seed}", *changes])
    first, second = recipe.stages
    if "nl" in name:
        terms = tuple(
            term.model_copy(update={"weight": 1.0}) for term in second.objectives if term.kind == "cross_entropy"
        )
        second = second.model_copy(update={"objectives": terms})
    return recipe.model_copy(update={"stages": (second,) if name.startswith("np") else (first, second)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("default", "ablation"))
    parser.add_argument("-o", "--output", type=Path, default=Path("siamregqc-benchmark"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="changes")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    keep_freed_memory()
    manifests = write_manifests(asked.output)
    base = load_recipe("siamregqc", [*T1, *asked.changes])
    train, test = read_all([manifests["ship"]], base), read_all([manifests["test_t1"]], base)
    names = ["default"] if asked.what == "default" else list(PAPER)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(asked.seeds):
        for name in names:
            recipe = (
                load_recipe("siamregqc", [*T1, f"trainer.seed={seed}", *asked.changes])
                if name == "default"
                else arm(name, seed, asked.changes)
            )
            rows.setdefault(name, []).append(row(f"{name}-{seed}", recipe, train, test, asked.output))
            print(table(rows, FIGURES), flush=True)
    if names == ["default"]:
        print(table(rows, [f"landscape {name}" for name in LANDSCAPE]))
        print(table(rows, [f"spearman {name}" for name in CLASSICAL]))


if __name__ == "__main__":
    main()
