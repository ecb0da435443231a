"""What can go wrong, in the user's words: every mistake of a user raises a child of `RegsimError`."""

from difflib import get_close_matches


class RegsimError(ValueError):
    """A mistake that the user can mend. The message is one line: what was expected, what came, what to do."""


class InputError(RegsimError):
    """A file or an array that cannot be used: missing, truncated, constant, not finite, of the wrong shape."""


class GridError(RegsimError):
    """Two grids that do not belong together, or one grid that no space can have."""


class TransformError(RegsimError):
    """A transform that cannot be read, inverted or applied to this image."""


class SettingsError(RegsimError):
    """An unknown name or a value out of its range; the message names the nearest or the allowed ones."""


class RegistrationError(RegsimError):
    """A registration that had to stop. `step` says where; `last_good` is the last transform whose cost was finite."""

    def __init__(self, message: str, step: int, last_good: object = None):
        super().__init__(message)
        self.step = step
        self.last_good = last_good


class TrainingError(RegsimError):
    """A training that had to stop: a loss or weights that are not finite. `step` says where; the last good state is kept."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def unknown_name(kind: str, name: str, known: list[str]) -> SettingsError:
    """The error for a name that is not in a list: it lists the known ones and points to the nearest.

    >>> str(unknown_name("metric", "mimd", ["mind", "mse"]))
    "unknown metric 'mimd'; did you mean 'mind'? Known: mind, mse"
    """
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return SettingsError(f"unknown {kind} '{name}'{hint} Known: {', '.join(known)}")
