"""What a recipe says of the training loop itself: the settings of a stage, and those of a run."""

from typing import Literal, Self

from pydantic import Field, model_validator

from regsim.settings import Settings


class StageSettings(Settings):
    """One stage of training.

    `objective` is its name in errors and curves. `steps` updates are made, each with `batch` pairs (per process).
    `optimiser`: "muon" is `ConvolutionMuon`, with AdamW's learning rates.
    `schedule`: the learning rate stays, rises and falls ("onecycle"; `learning_rate` is its top), or falls to 0 along a
    cosine. `clip`: the largest norm of the gradient; 0 = any. Every `check_every` steps (0 = never) and after the last one
    the network is checked; the figure `decides` (lower or higher is `better`) chooses the weights that are kept, and
    after `patience` checks without a better one the stage ends early (0 = never).
    """

    objective: str = Field(min_length=1, max_length=100)
    steps: int = Field(ge=1, le=100_000_000)
    batch: int = Field(ge=1, le=100_000)
    optimiser: Literal["adam", "adamw", "muon"] = "adam"
    learning_rate: float = Field(gt=0, le=10)
    schedule: Literal["constant", "onecycle", "cosine"] = "constant"
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    clip: float = Field(default=0.0, ge=0)
    check_every: int = Field(default=0, ge=0)
    patience: int = Field(default=0, ge=0)
    decides: str = ""
    better: Literal["lower", "higher"] = "lower"

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.check_every and not self.decides:
            raise ValueError("check_every needs 'decides', the name of the figure that chooses the best network")
        if self.patience and not self.check_every:
            raise ValueError("patience counts checks: give check_every, too")
        return self


class TrainerSettings(Settings):
    """One run. `seed`, `amp` and `channels_last` belong to what is learnt; the others may change when a run is resumed.

    `amp`: mixed precision, "no" everywhere unless asked for; fp16 needs a GPU; a CPU without bf16 goes without.
    `checkpoint_every`: seconds between training states; a killed run repeats at most that much. `fast_memory`: see
    `training.memory`. `ahead`: batches that a thread draws while the network learns; without it 2 on a GPU and none on the
    CPU. They are the same batches.
    """

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = True
    fast_memory: bool = True
    checkpoint_every: float = Field(default=60.0, ge=0)
    ahead: int | None = Field(default=None, ge=0, le=64)
