"""Settings: pydantic models that refuse unknown keys by naming the nearest known one, and read and write TOML."""

import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from regsim.errors import SettingsError, unknown_name

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Settings(BaseModel):
    """A group of settings. Immutable; unknown keys and values out of range are errors in one line."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def of_toml(cls, path: str | Path) -> Self:
        """Read a TOML file.

        Raises:
            SettingsError: no such file, not TOML, an unknown key, a value of the wrong kind.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError:
            raise SettingsError(f"settings '{path}': no such file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
            raise SettingsError(f"settings '{path}' is not TOML: {problem}") from None
        return cls.checked(values)

    @classmethod
    def checked(cls, values: dict[str, object]) -> Self:
        """Validate, with our errors."""
        try:
            return cls.model_validate(values)
        except ValidationError as problem:
            raise _in_one_line(cls, problem) from None

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(self.model_dump(mode="json"))


def _in_one_line(model: type[Settings], problem: ValidationError) -> SettingsError:
    found = problem.errors(include_url=False)
    first = next((error for error in found if error["type"] == "extra_forbidden"), found[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return unknown_name("setting", where, sorted(model.model_fields))
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        return unknown_name(where, first["input"], re.findall(r"'([^']*)'", first["msg"]))
    return SettingsError(f"setting '{where}': {in_plain_words(first)}")


def in_plain_words(error: "ErrorDetails") -> str:
    """What pydantic found, as what was expected and what came.

    >>> in_plain_words({"type": "greater_than", "loc": ("x",), "msg": "Input should be greater than 0", "input": "-1"})
    "expected a number greater than 0, got '-1'"
    """
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "too_short":
        return "expected at least one entry, got none"
    said = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ").split(", unable")[0]
    said = f"a number {said}" if said.startswith(("greater", "less")) else said
    return (
        f"expected {said}, got {error['input']!r}"
        if said != error["msg"] and not error["msg"].startswith("Value error")
        else said
    )
