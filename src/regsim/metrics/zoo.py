"""The trained models that come with regsim, by name: folders beside this file."""

from pathlib import Path

from regsim.errors import SettingsError, unknown_name

MODELS = Path(__file__).parent / "models"


def bundled_models() -> list[str]:
    """Names, sorted.

    >>> "siamregqc-brain-2d" in bundled_models()
    True
    """
    return (
        sorted(folder.name for folder in MODELS.iterdir() if (folder / "card.json").is_file())
        if MODELS.is_dir()
        else []
    )


def model_folder(model: str | Path) -> Path:
    """Where a model lies: a bundled one by its name, else a folder as it is.

    Raises:
        SettingsError: a plain word that is neither (the message lists the bundled ones).
    """
    if str(model) in bundled_models():
        return MODELS / str(model)
    place = Path(model)
    if not place.exists() and place.name == str(model):
        raise SettingsError(
            f"{unknown_name('model', str(model), bundled_models())}; or give a folder that `regsim train` wrote"
        )
    return place
