"""Where the real test images lie. They are not part of the repository: set REGSIM_DATA to the folder that holds the sets."""

import os
from pathlib import Path

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"


def data_folder() -> Path | None:
    """The folder, or None where it is not to be had."""
    folder = Path(os.environ.get("REGSIM_DATA", DEFAULT))
    return folder if folder.is_dir() else None
