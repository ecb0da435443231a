"""What learning from roughly aligned pairs is worth: the paper's figure 2 and table 1, and pairs that defeat mutual information.

    python -m benchmarks.multi_shot figure2|table|near|fine|paper|seconds -o DIR [--set t1t2|flair|gradient|ultrasound ...]
        [--seeds 5] [--quick]

- figure2: networks learnt from pairs with one shift of 8 mm, plainly, symmetrised, and dithered more and more: where the
  response to shifts has its optimum, how wide it is, and how many minima it has.
- table: a multi-shot model of each set (trained by the recipe, on pairs up to 20 mm and .2 radian apart a side), where the
  training pairs end, and the registration of pairs of unseen people: by the model, by nmi with 60 bins and Powell at one level
  (the paper's baseline), and by the driver's own plan with mi, nmi and mind; by the driver's own plan with the model each
  person once, by the model and Powell six pairs, partial views by the model after mi.
- near: the same by the recipe whose different places lie near (T1-FLAIR: and roles exchanged in the last two shots).
- fine: the same recipe with a fifth shot at 1 mm, learnt and judged as in `table`.
- paper: the paper's own plan of each of its two tasks (t1t2: four shots; gradient: three), learnt and judged as in `table`.
- seconds: one registration of each test scan by the model, on an idle machine; after `table`.

Rows lie in DIR/multi_shot.csv; what is there is not measured again, and a training that was finished is kept.
`python -m benchmarks.multi_shot_page` makes the tables of docs/patch-likelihood.md from them.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.rough_pairs import Rough, judges, known_of, learners, write_set
from benchmarks.rows import Row, Table, read_rows, write_machine
from benchmarks.ultrasound import ultrasound_judges, write_ultrasound
from regsim.applications.train import TrainRequest, train_model
from regsim.errors import RegsimError
from regsim.evaluation.accuracy import best_rigid, foreground_points, true_errors
from regsim.evaluation.response import responses
from regsim.evaluation.surface import flanks, minima, optimum
from regsim.images import Grid, read_image
from regsim.metrics import load_metric
from regsim.metrics.checkpoint import Card, read_card, save_model
from regsim.metrics.patch_network import PatchNetwork, PatchNetworks, PatchSettings
from regsim.misalign.patch_pairs import PatchPairMaker, PatchPairSettings
from regsim.misalign.rough_pairs import ImagePair, image_pair
from regsim.registration import register
from regsim.registration.schedule import Schedule, schedule_for
from regsim.training.patch_lesson import PatchCrossEntropy
from regsim.training.recipe import load_recipe
from regsim.training.settings import StageSettings, TrainerSettings
from regsim.training.trainer import Stage, train
from regsim.transforms import Rigid, Transform, read_transform

KEY = ("part", "set", "case", "arm")
MEASURED = "before after shift turn_x turn_y turn_z centre width top depth minima accuracy seconds"
COLUMNS = (*KEY, *MEASURED.split())
RECIPE, NEAR_RECIPE = "patch-likelihood-multishot", "patch-likelihood-near"
PAPER_RECIPES = {"t1t2": "patch-likelihood-four-shot", "gradient": "patch-likelihood-three-shot"}
SETS = ("t1t2", "flair", "gradient", "ultrasound")
SUCCESS = 2.0
BIAS = 8.0
ARMS: dict[str, dict[str, object]] = {
    "plain": {"symmetrise": False, "rotation": 0.0},
    "symmetrised": {},
    "dither 3.2": {"dither": 10**0.5},
    "dither 8": {"dither": 8.0},
    "dither 12": {"dither": 12.0},
    "dither 16": {"dither": 16.0},
}
FIGURE_SPACING, FIGURE_STEPS = 2.0, 400
PATCHES, MANY = 256, 2048
POWELL = "nmi 60, Powell"
FIRST = "_0"
TOP = 0.05
# A fan has no room for patches of 68 mm.
NEAR = (
    "network.spacings=[3.0, 2.0]",
    "shots.0.spacing=3.0",
    "shots.1.spacing=3.0",
    "shots.0.apart=20.0",
    "shots.1.apart=20.0",
)
# Nearer still for places that are to lie near.
NEARER = (*NEAR[:-1], "shots.1.apart=10.0", "shots.1.reach=30.0", "shots.2.apart=8.0", "shots.2.reach=24.0")
# What is common to all people's pairs follows the anatomy there.
HIDDEN = ("shots.2.exchange=true", "shots.3.exchange=true")
OWN = {("ultrasound", RECIPE): NEAR, ("ultrasound", NEAR_RECIPE): NEARER, ("flair", NEAR_RECIPE): HIDDEN}
PATCH, DEFAULT = "patch, gradient", "patch, the driver's plan"
SLOW, SLOW_CASES = "patch, Powell", 6
AFTER = "mi, then patch"
OF_NEAR, AFTER_OF_NEAR = "patch of near places, gradient", "mi, then patch of near places"
PAPER, PAPER_SLOW = "the paper's shots, gradient", "the paper's shots, Powell"
FINER = "patch to 1 mm, gradient"
OURS, NEAR_PLACES, THEIRS, FIVE = "multi-shot", "near places", "the paper's shots", "multi-shot to 1 mm"
FINE = (
    "network.spacings=[4.0, 2.0, 1.0]",
    "source.spacing=1.0",
    "shots=[{spacing=4.0, dither=10.0, dither_rotation=6.0, apart=30.0}, "
    "{spacing=4.0, dither=8.0, dither_rotation=4.0, apart=25.0}, {spacing=2.0, dither=5.0, dither_rotation=2.5, apart=15.0}, "
    "{spacing=2.0, dither=2.8, dither_rotation=1.0, apart=15.0}, {spacing=1.0, dither=1.5, dither_rotation=0.6, apart=8.0}]",
)


# --- figure 2 -------------------------------------------------------------------------------------------------------


def figure2(table: Table, folder: Path, seeds: int, quick: bool) -> None:
    """Pairs of eight people, the moving image shifted by 8 mm along x; the response on eight others, aligned."""
    learnt = [_aligned(pair, BIAS) for pair in _one_each(learners("flair", 0))]
    asked = [_aligned(pair, 0.0) for pair in judges("flair", 1)]
    for arm, changes in ARMS.items():
        for seed in range(1 if quick else seeds):
            key = {"part": "figure2", "set": "flair", "case": f"seed {seed}", "arm": arm}
            if not table.has(**key):
                model = _learnt(learnt, PatchPairSettings.checked({"apart": 30.0, **changes}), seed, folder, quick)
                metric = load_metric("patch_likelihood", model=str(model), patches=PATCHES)
                pairs = [
                    (each.fixed, each.moving, Rigid(3, each.fixed.grid.centre)) for each in asked[: 2 if quick else 4]
                ]
                [along] = responses(metric, pairs, FIGURE_SPACING, 30.0, steps=20, only="shift in x")
                table.add({**key, **answer(along.places, along.costs)})
                np.savetxt(folder / f"response {arm} {seed}.csv", np.stack([along.places, along.costs], axis=1))


def answer(places: np.ndarray, costs: np.ndarray) -> Row:
    """Of one response: where its optimum lies, its width halfway up and near the bottom (`TOP` of the height), depth, minima."""
    return {
        "centre": optimum(places, costs),
        "width": flanks(places, costs),
        "top": flanks(places, costs, TOP),
        "depth": float(np.ptp(costs)),
        "minima": minima(costs),
    }


def _one_each(pairs: Iterator[Rough]) -> list[Rough]:
    """The first pair of each person."""
    return list({pair.aligned.subject: pair for pair in reversed(list(pairs))}.values())


def _aligned(pair: Rough, shift: float) -> ImagePair:
    """A pair brought back into alignment, then shifted along x."""
    way = pair.known
    with torch.no_grad():
        way.translation[0] += shift
    reach = 0.5 * FIGURE_SPACING * PatchSettings().patch
    return image_pair(pair.name, pair.aligned.subject, pair.fixed, pair.moving, FIGURE_SPACING, reach, way)


def _learnt(pairs: list[ImagePair], settings: PatchPairSettings, seed: int, folder: Path, quick: bool) -> Path:
    """A model of one network, learnt from pairs as they lie."""
    chosen = PatchSettings(spacings=(FIGURE_SPACING,), symmetric=False)  # asked as the paper asks
    torch.manual_seed(seed)
    whole = PatchNetworks(chosen)
    maker = PatchPairMaker([pair.rough(FIGURE_SPACING) for pair in pairs], chosen.patch, settings)
    stage = StageSettings.checked(
        {
            "objective": "same place",
            "steps": 40 if quick else FIGURE_STEPS,
            "batch": 128,
            "optimiser": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-2,
            "schedule": "onecycle",
            "clip": 1.0,
        }
    )
    network = whole.levels[0]
    assert isinstance(network, PatchNetwork)
    work = folder / "figure2"
    train(network, [Stage(PatchCrossEntropy(), maker, None, stage)], TrainerSettings(seed=seed), work, resume=False)
    save_model(
        work,
        Card(name="figure2", metric="patch_likelihood", network=chosen.model_dump(mode="json")),
        whole.state_dict(),
    )
    return work


# --- table 1 --------------------------------------------------------------------------------------------------------


def table1(table: Table, folder: Path, name: str, quick: bool) -> None:
    """Train, see where the training pairs ended, and register unseen ones."""
    model = folder / f"model-{name}"
    listed = taught(folder, name, RECIPE, model, quick)
    note_training_pairs(table, name, listed, model, OURS)
    note_test_pairs(table, name, quick, lambda pair: plans(str(model), pair))


def near(table: Table, folder: Path, name: str, quick: bool) -> None:
    """The same by the recipe whose different places lie near."""
    model = folder / f"model-{name}-near"
    listed = taught(folder, name, NEAR_RECIPE, model, quick)
    note_training_pairs(table, name, listed, model, NEAR_PLACES)
    note_test_pairs(table, name, quick, lambda pair: near_plans(str(model), pair))


def paper(table: Table, folder: Path, name: str, quick: bool) -> None:
    """The same by the paper's own plan of a task."""
    model = folder / f"model-{name}-paper"
    listed = taught(folder, name, PAPER_RECIPES[name], model, quick)
    note_training_pairs(table, name, listed, model, THEIRS)
    spacings = spacings_of(model)
    ways = {PAPER: patch_plan(str(model), "gradient", spacings), PAPER_SLOW: patch_plan(str(model), "powell", spacings)}
    note_test_pairs(table, name, quick, lambda pair: ways)


def fine(table: Table, folder: Path, name: str, quick: bool) -> None:
    """The same by a recipe that goes on to 1 mm."""
    model = folder / f"model-{name}-fine"
    listed = taught(folder, name, RECIPE, model, quick, FINE)
    note_training_pairs(table, name, listed, model, FIVE)
    ways = {FINER: patch_plan(str(model), "gradient", spacings_of(model))}
    note_test_pairs(table, name, quick, lambda pair: ways)


def taught(folder: Path, name: str, recipe: str, model: Path, quick: bool, more: Sequence[str] = ()) -> Path:
    """Train on the pairs of a set, which are written first; their list."""
    place = folder / "pairs"
    listed = write_ultrasound(place) if name == "ultrasound" else write_set(name, place)
    train_model(TrainRequest(load_recipe(recipe, [*changes(name, recipe, quick), *more]), pairs=listed), model)
    return listed


def note_training_pairs(table: Table, name: str, listed: Path, model: Path, arm: str) -> None:
    """Where the pairs ended."""
    for row in read_rows(listed):
        key = {"part": "training pairs", "set": name, "case": str(row["name"]), "arm": arm}
        path = model / "transforms" / f"{row['name']}.txt"
        if not table.has(**key) and path.exists():
            known = known_of(listed.parent, str(row["name"]))
            points = foreground_points(read_image(Path(str(row["fixed"]))))[::7]
            table.add({**key, **errors(read_transform(path, 3), known, points)})


def note_test_pairs(table: Table, name: str, quick: bool, plans_of: Callable[[Rough], dict[str, Schedule]]) -> None:
    """What each way of registering leaves; the slow ones do fewer pairs."""
    for number, pair in enumerate(test_pairs(name, quick)):
        points = foreground_points(pair.fixed)[::7]
        for arm, plan in plans_of(pair).items():
            key = {"part": "test", "set": name, "case": pair.name, "arm": arm}
            slow = arm == SLOW and number >= SLOW_CASES
            left_out = slow or (arm in (DEFAULT, PAPER_SLOW) and not pair.name.endswith(FIRST))
            if not left_out and not table.has(**key):
                table.add({**key, **registered(pair, plan, points)})


def test_pairs(name: str, quick: bool) -> Iterator[Rough]:
    """Pairs of people that no training shows."""
    if name == "ultrasound":
        return ultrasound_judges(2 if quick else 6)
    return judges(name, 1 if quick else 8 if name != "flair" else 3)


def seconds(table: Table, folder: Path, name: str, quick: bool) -> None:
    """One registration of each test scan by the model that `table` left, all threads; nothing else may run."""
    for pair in test_pairs(name, quick):
        key = {"part": "seconds", "set": name, "case": pair.name, "arm": PATCH}
        if pair.name.endswith(FIRST) and not table.has(**key):
            plan = plans(str(folder / f"model-{name}"), pair)[PATCH]
            table.add({**key, **registered(pair, plan, foreground_points(pair.fixed)[::7])})


def changes(name: str, recipe: str, quick: bool) -> list[str]:
    """Of a recipe, for a set."""
    short = ["learning.steps=20", "learning.check_every=20"] if quick else []
    return [f"name={recipe}-{name}", *OWN.get((name, recipe), ()), *short]


def plans(model: str, pair: Rough) -> dict[str, Schedule]:
    """How the test pairs are registered: all start from the identity."""
    grid = pair.fixed.grid
    spacings, finest = spacings_of(Path(model)), max(2.0, min(grid.spacing))
    by_driver = {DEFAULT: model, "mi": "mi", "nmi:bins=60": "nmi:bins=60", "mind": "mind"}
    return {
        PATCH: patch_plan(model, "gradient", spacings),
        **partial_plans(AFTER, model, pair),
        SLOW: patch_plan(model, "powell", spacings),
        POWELL: one_level("nmi:bins=60", finest),
        **{
            arm: schedule_for("rigid", grid, metric, start="identity", finest=finest)
            for arm, metric in by_driver.items()
        },
    }


def near_plans(model: str, pair: Rough) -> dict[str, Schedule]:
    """How the test pairs are registered by a model of near places."""
    own = patch_plan(model, "gradient", spacings_of(Path(model)))
    return {OF_NEAR: own, **partial_plans(AFTER_OF_NEAR, model, pair)}


def partial_plans(arm: str, model: str, pair: Rough) -> dict[str, Schedule]:
    """Of a partial view: by the model after mi; else none."""
    if pair.moving.mask is None:
        return {}
    return {arm: after_mi(model, pair.fixed.grid, spacings_of(Path(model))[-1])}


def spacings_of(model: Path) -> tuple[float, ...]:
    """Of a model's networks, coarse to fine."""
    return PatchSettings.model_validate(read_card(model).network).spacings


def patch_plan(model: str, optimiser: str, spacings: Sequence[float]) -> Schedule:
    """All resolutions of the model, coarse to fine; by gradients the finest once more with more patches, which is exact."""
    levels = patch_levels(model, spacings, exact=optimiser == "gradient")
    stage = {"transform": "rigid", "metric": levels[0]["metric"], "optimiser": optimiser, "levels": levels}
    return Schedule.checked({"stages": [stage], "start": "identity"})


def patch_levels(model: str, spacings: Sequence[float], exact: bool) -> list[dict[str, object]]:
    """A level for each spacing; `exact`: and the last one once more with more patches."""
    few, many = (f"patch_likelihood:model={model},patches={patches}" for patches in (PATCHES, MANY))
    levels: list[dict[str, object]] = [
        {"spacing": spacing, "steps": 60, "step": 0.25 * spacing, "metric": few} for spacing in spacings
    ]
    return [*levels, {"spacing": spacings[-1], "steps": 20, "step": 0.25, "metric": many}] if exact else levels


def after_mi(model: str, grid: Grid, spacing: float) -> Schedule:
    """The driver's own plan for mi, then the model's finest network: mi comes near from afar, the network ends."""
    [stage] = schedule_for("rigid", grid, "mi", start="identity", finest=spacing).stages
    near = [{**level.model_dump(), "metric": "mi"} for level in stage.levels]
    levels = [*near, *patch_levels(model, [spacing], exact=True)]
    return Schedule.checked({"stages": [{"transform": "rigid", "metric": "mi", "levels": levels}], "start": "identity"})


def one_level(metric: str, spacing: float) -> Schedule:
    """Powell at the images' own resolution, as the paper's baseline is described."""
    stage = {
        "transform": "rigid",
        "metric": metric,
        "optimiser": "powell",
        "levels": [{"spacing": spacing, "steps": 200, "step": spacing}],
        "samples": None,
    }
    return Schedule.checked({"stages": [stage], "start": "identity"})


def registered(pair: Rough, plan: Schedule, points: torch.Tensor) -> Row:
    """The errors that a registration leaves; one that fails leaves those that it began with."""
    try:
        found = register(pair.fixed, pair.moving, schedule=plan)
    except RegsimError as problem:
        print(f"{pair.name}: {problem}")
        return errors(Rigid(3), pair.known, points)
    return {**errors(found.transform, pair.known, points), "seconds": found.seconds}


def errors(found: Transform, known: Transform, points: torch.Tensor) -> Row:
    """Mean error over the head, the shift of its centre (mm) and the angles about x, y, z (degrees) between two transforms."""
    ways = [best_rigid(way, points) for way in (found, known)]
    apart = ways[0].matrix() @ ways[1].matrix().T
    turn = Rigid(3)
    turn.set_matrix(apart)
    angles = np.abs(np.rad2deg(turn.rotation.detach().numpy()))
    shift = float((ways[0].translation - ways[1].translation).detach().norm())
    return {
        "before": float(true_errors(Rigid(3), known, points).mean()),
        "after": float(true_errors(found, known, points).mean()),
        "shift": shift,
        **{f"turn_{axis}": float(angle) for axis, angle in zip("xyz", angles, strict=True)},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("figure2", "table", "near", "fine", "paper", "seconds"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--set", action="append", choices=SETS, dest="sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few steps, pairs and seeds: to see that it runs")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    table = Table(asked.output / "multi_shot.csv", COLUMNS, KEY)
    write_machine(asked.output)
    if "figure2" in asked.parts:
        figure2(table, asked.output, asked.seeds, asked.quick)
    for name in (asked.sets or SETS) if "table" in asked.parts else ():
        table1(table, asked.output, name, asked.quick)
    for name in (asked.sets or SETS) if "near" in asked.parts else ():
        near(table, asked.output, name, asked.quick)
    for name in [name for name in asked.sets or SETS if name != "ultrasound"] if "fine" in asked.parts else ():
        fine(table, asked.output, name, asked.quick)
    for name in [name for name in asked.sets or SETS if name in PAPER_RECIPES] if "paper" in asked.parts else ():
        paper(table, asked.output, name, asked.quick)
    for name in (asked.sets or SETS) if "seconds" in asked.parts else ():
        seconds(table, asked.output, name, asked.quick)


if __name__ == "__main__":
    main()
