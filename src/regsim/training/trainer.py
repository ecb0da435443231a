"""The one training loop: stages of steps, on one CPU or many GPUs, that can be killed at any moment and resumed.

A stage is an objective with the batches it learns from, a check on unseen subjects, and settings. Every random draw of a
step comes from generators seeded by (seed, stage, step, process), so the step's number is all the state that the
sampler and dropout have: a resumed run draws what the unbroken one would have drawn, and ends with the same weights.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn

from regsim.errors import InputError, SettingsError, TrainingError, unknown_name
from regsim.kernels.memory import keep_freed_memory
from regsim.output import make_folder
from regsim.training.batches import batches
from regsim.training.devices import fork_generators, make_accelerator, seed_network
from regsim.training.lesson import Batch, Draw, Lesson, Objective
from regsim.training.log import CurveRow, as_table, from_table, write_curves
from regsim.training.memory import weights_channels_last
from regsim.training.settings import StageSettings, TrainerSettings
from regsim.training.state import FORMAT, STATE, Tensors, TrainingState, fingerprint, load_state, save_state, step_seed

__all__ = [
    "Batch",
    "Best",
    "Check",
    "Draw",
    "Objective",
    "Stage",
    "StageSettings",
    "Trained",
    "TrainerSettings",
    "train",
]

Check = Callable[[nn.Module], dict[str, float]]
OnStep = Callable[[CurveRow], None]


@dataclass(frozen=True)
class Stage:
    """What one stage does.

    `draw(size, generator)` makes a batch from nothing random but the generator; `check(network)` gives figures on the
    validation subjects, from a network in evaluation mode without gradients.
    """

    objective: Objective
    draw: Draw
    check: Check | None
    settings: StageSettings


@dataclass(frozen=True)
class Best:
    """The check that chose a stage's weights. `steps`: how many the stage made before it ended."""

    stage: int
    step: int
    steps: int
    figure: str
    value: float


@dataclass(frozen=True)
class Trained:
    """A trained network: the best weights of the last stage where it was checked, else the last ones.

    `best`: one entry for each stage that was checked. `seconds`: of training, pauses left out.
    """

    network: nn.Module
    curves: list[CurveRow]
    best: list[Best]
    seconds: float


def train(
    network: nn.Module,
    stages: Sequence[Stage],
    settings: TrainerSettings,
    folder: Path,
    on_step: OnStep | None = None,
    resume: bool = True,
    recipe: str = "",
) -> Trained:
    """Train a network, in place.

    Args:
        network: its weights are where training starts.
        stages: in order; each goes on from the weights that the one before kept.
        settings: seed, device, precision.
        folder: gets the training state and `curves.csv`, every `checkpoint_every` seconds and at each stage's end.
        on_step: called after every step (by the main process), for a progress bar.
        resume: go on where a killed run left its state in the folder; a finished run comes back at once.
        recipe: what else makes this training what it is (a hash of the data, say); a state of another recipe is refused.

    Raises:
        InputError: the state in the folder is damaged, or of another recipe.
        SettingsError: no stage; a check is asked for and none given, or it lacks the figure that decides.
        TrainingError: a loss or a weight that is not finite; the last good state is kept.
    """
    _check_stages(stages)
    make_folder(folder)
    if settings.fast_memory:
        keep_freed_memory()
    accelerator = make_accelerator(settings)
    network.to(accelerator.device)
    if settings.channels_last:
        weights_channels_last(network)
    with fork_generators(accelerator.device):
        run = _Run(network, stages, settings, folder, accelerator, recipe)
        return run.run(on_step, resume)


@dataclass
class _Place:
    """How far a run has come. `waited`: checks since the best one."""

    stage: int = 0
    step: int = 0
    waited: int = 0
    best: Best | None = None
    done: list[Best] = field(default_factory=list)


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[Stage],
        settings: TrainerSettings,
        folder: Path,
        accelerator: Accelerator,
        recipe: str,
    ):
        self.network, self.stages, self.settings, self.folder = network, stages, settings, folder
        self.accelerator = accelerator
        self.fingerprint = _fingerprint(network, stages, settings, recipe)
        self.place = _Place()
        self.curves: list[CurveRow] = []
        self.kept: Tensors = {}
        self.before = 0.0
        self.began = self.saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training so far, those before a pause included."""
        return self.before + time.monotonic() - self.began

    def run(self, on_step: OnStep | None, resume: bool) -> Trained:
        state = load_state(self.folder) if resume else None
        if state is not None:
            self._restore(state)
        while self.place.stage < len(self.stages):
            self._stage(state if state is not None and state.facts["lesson"] else None, on_step)
            state = None
        self.network.eval()
        return Trained(self.network, self.curves, self.place.done, self.before if state is not None else self.seconds)

    def _stage(self, state: TrainingState | None, on_step: OnStep | None) -> None:
        """All steps of the present stage that are still to be made."""
        stage, place = self.stages[self.place.stage], self.place
        lesson = Lesson(self.network, stage.objective, stage.settings, self.accelerator)
        if state is not None:
            lesson.restore(state)
        ahead = self._ahead()
        steps = range(place.step, stage.settings.steps)
        with closing(batches(stage.draw, stage.settings.batch, self._seed_of("batch"), steps, ahead)) as drawn:
            while place.step < stage.settings.steps and not self._waited_enough(stage.settings):
                row = self._step(lesson, next(drawn))
                self.curves.append(row)
                if on_step is not None and self.accelerator.is_main_process:
                    on_step(row)
                if time.monotonic() - self.saved >= self.settings.checkpoint_every:
                    self._save(lesson)
        lesson.close()
        self._next_stage()

    def _ahead(self) -> int:
        """How many batches are drawn while the network learns."""
        if self.settings.ahead is not None:
            return self.settings.ahead
        return 2 if self.accelerator.device.type == "cuda" else 0

    def _step(self, lesson: Lesson, batch: Batch) -> CurveRow:
        """One update, and a check where one is due."""
        stage, place = self.stages[self.place.stage], self.place
        rate = lesson.learning_rate
        self.network.train()
        seed_network(self._seed_of("network")(place.step), self.accelerator.device)
        figures = lesson.step(batch)
        place.step += 1
        loss = figures.pop("loss")
        if not math.isfinite(loss):
            raise self._stopped(f"the loss is {loss} at step {place.step}")
        found = self._check(stage) if _is_due(place.step, stage.settings) else {}
        return CurveRow(place.stage, stage.settings.objective, place.step, loss, rate, self.seconds, figures, found)

    def _check(self, stage: Stage) -> dict[str, float]:
        """The figures on unseen subjects; keeps the weights where the deciding one is the best so far."""
        assert stage.check is not None
        self.network.eval()
        with torch.no_grad():
            found = {name: float(value) for name, value in stage.check(self.network).items()}
        name = stage.settings.decides
        if name not in found:
            raise unknown_name("figure to decide by", name, sorted(found))
        value = self._agreed(found[name])
        place = self.place
        if math.isfinite(value) and (place.best is None or _better(value, place.best.value, stage.settings)):
            place.best = Best(place.stage, place.step, place.step, name, value)
            place.waited = 0
            self.kept = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        else:
            place.waited += 1
        return found

    def _agreed(self, value: float) -> float:
        """The main process's value, so that no process stops alone."""
        if self.accelerator.num_processes == 1:
            return value
        return float(broadcast(torch.tensor([value], dtype=torch.float64, device=self.accelerator.device))[0])

    def _waited_enough(self, settings: StageSettings) -> bool:
        return bool(settings.patience) and self.place.waited >= settings.patience

    def _next_stage(self) -> None:
        """Take the weights that the checks chose, and store the state of a stage that has not begun."""
        place = self.place
        if place.best is not None:
            self.network.load_state_dict(self.kept)
            place.done.append(Best(**{**asdict(place.best), "steps": place.step}))
        self.kept = {}
        self.place = _Place(place.stage + 1, done=place.done)
        self._save(None)

    def _seed_of(self, purpose: str) -> Callable[[int], int]:
        seed, stage, process = self.settings.seed, self.place.stage, self.accelerator.process_index
        return lambda step: step_seed(seed, stage, step, process, purpose)

    def _save(self, lesson: Lesson | None) -> None:
        """Write state and curves; weights that are not finite end the training and leave the last good state."""
        weights = self.network.state_dict()
        if not all(bool(torch.isfinite(value).all()) for value in weights.values() if value.is_floating_point()):
            raise self._stopped(f"weights are not finite after step {self.place.step}")
        if self.accelerator.is_main_process:
            columns, table = as_table(self.curves)
            facts = {
                "fingerprint": self.fingerprint,
                "processes": self.accelerator.num_processes,
                "place": asdict(self.place),
                "seconds": self.seconds,
                "columns": columns,
                "lesson": lesson.facts() if lesson is not None else None,
            }
            moments = lesson.tensors() if lesson is not None else {}
            groups = {"network": weights, "best": self.kept, "optimiser": moments, "curves": {"table": table}}
            save_state(self.folder, TrainingState(facts, groups))
            write_curves(self.curves, self.folder)
        self.saved = time.monotonic()

    def _restore(self, state: TrainingState) -> None:
        """Go on where a state was written, if it is this recipe's."""
        facts, path = state.facts, self.folder / STATE
        if facts["fingerprint"] != self.fingerprint:
            raise InputError(
                f"'{path}' is the state of a training with other settings, data or network; give another folder, or "
                "--fresh (remove it) to train from the start"
            )
        if facts["processes"] != self.accelerator.num_processes:
            raise InputError(
                f"'{path}' was written by {facts['processes']} processes, this run has "
                f"{self.accelerator.num_processes}, which would draw other batches; start as many, or remove it"
            )
        known = facts["place"]
        best = [Best(**values) for values in known["done"]]
        now = Best(**known["best"]) if known["best"] else None
        self.place = _Place(known["stage"], known["step"], known["waited"], now, best)
        self.network.load_state_dict(state.tensors["network"])
        self.kept = state.tensors.get("best", {})
        names = [stage.settings.objective for stage in self.stages]
        self.curves = from_table(facts["columns"], state.tensors["curves"]["table"], names)
        self.before = facts["seconds"]

    def _stopped(self, what: str) -> TrainingError:
        settings = self.stages[self.place.stage].settings
        kept = (
            f"the last good state is in '{self.folder / STATE}'"
            if (self.folder / STATE).is_file()
            else "nothing is kept"
        )
        return TrainingError(
            f"training stopped in stage '{settings.objective}': {what}; {kept}; lower learning_rate "
            f"({settings.learning_rate:g}) or set clip ({settings.clip:g})",
            self.place.step,
        )


def _fingerprint(network: nn.Module, stages: Sequence[Stage], settings: TrainerSettings, recipe: str) -> str:
    """What must be the same for a state to be this run's: whatever changes what is learnt."""
    shapes = {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in network.state_dict().items()}
    parts = [stage.settings.model_dump(mode="json") for stage in stages]
    run = settings.model_dump(include={"seed", "amp", "channels_last"})  # dropout's draws follow the memory's order
    return fingerprint({"format": FORMAT, "stages": parts, **run, "network": shapes, "recipe": recipe})


def _check_stages(stages: Sequence[Stage]) -> None:
    """Before any work is done."""
    if not stages:
        raise SettingsError("training needs one stage at least, got none")
    for stage in stages:
        if stage.settings.check_every and stage.check is None:
            raise SettingsError(
                f"stage '{stage.settings.objective}' checks every {stage.settings.check_every} steps, but has no check; "
                "give validation subjects or set check_every to 0"
            )


def _is_due(step: int, settings: StageSettings) -> bool:
    return bool(settings.check_every) and (step % settings.check_every == 0 or step == settings.steps)


def _better(value: float, than: float, settings: StageSettings) -> bool:
    return value < than if settings.better == "lower" else value > than
