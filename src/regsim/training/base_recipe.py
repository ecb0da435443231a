"""What every recipe says, whatever is trained."""

from typing import Literal

from pydantic import Field

from regsim.misalign.sources import SourceSettings
from regsim.settings import Settings
from regsim.training.settings import TrainerSettings


class BaseRecipe(Settings):
    """What every recipe says.

    Args:
        name: of the model.
        description: in a sentence.
        licence: of the weights, for the card.
        source: what is read of the subjects' files.
        trainer: seed, device, precision.
        shares: of the subjects, for training, validation and test.
        audit: whether a pair maker that gives its answer away is refused, or only warned of.
    """

    name: str = Field(min_length=1, max_length=100)
    description: str = ""
    licence: str = ""
    source: SourceSettings = SourceSettings()
    trainer: TrainerSettings = TrainerSettings()
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    audit: Literal["refuse", "warn"] = "refuse"
