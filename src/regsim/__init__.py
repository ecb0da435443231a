"""regsim: similarity metrics for image registration, and a registration driver that works with any of them.

Data flows down this list: images, prepare, transforms, metrics, registration, evaluation, applications, report, command line.

Names are imported when they are first asked for, so that `regsim --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regsim.applications.check import CheckResult as CheckResult
    from regsim.applications.check import check as check
    from regsim.errors import RegsimError as RegsimError
    from regsim.evaluation.landscape import LandscapePair as LandscapePair
    from regsim.evaluation.landscape import LandscapeSettings as LandscapeSettings
    from regsim.evaluation.landscape import landscape as landscape
    from regsim.evaluation.scoring import score as score
    from regsim.images import Grid as Grid
    from regsim.images import Image as Image
    from regsim.images import read_image as read_image
    from regsim.images import write_image as write_image
    from regsim.metrics import AbstractMetric as AbstractMetric
    from regsim.metrics import load_metric as load_metric
    from regsim.metrics.foreign import Foreign as Foreign
    from regsim.registration import Registration as Registration
    from regsim.registration import register as register
    from regsim.transforms import Transform as Transform
    from regsim.transforms import read_transform as read_transform
    from regsim.transforms import warp as warp
    from regsim.transforms import write_transform as write_transform

__version__ = "0.1.0"
_HOMES = {
    "regsim.applications.check": ("CheckResult", "check"),
    "regsim.errors": ("RegsimError",),
    "regsim.evaluation.landscape": ("LandscapePair", "LandscapeSettings", "landscape"),
    "regsim.evaluation.scoring": ("score",),
    "regsim.images": ("Grid", "Image", "read_image", "write_image"),
    "regsim.metrics": ("AbstractMetric", "load_metric"),
    "regsim.metrics.foreign": ("Foreign",),
    "regsim.registration": ("Registration", "register"),
    "regsim.transforms": ("Transform", "read_transform", "warp", "write_transform"),
}
_PARTS = ("images", "prepare", "transforms", "metrics", "registration", "evaluation", "applications", "report")


def __getattr__(name: str) -> object:
    """A public name or a part of the library, imported now."""
    if name in _PARTS:
        return import_module(f"regsim.{name}")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'regsim' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PARTS, *(name for names in _HOMES.values() for name in names)])
