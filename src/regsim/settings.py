"""Settings: pydantic models that refuse unknown keys by naming the nearest known one, and read and write TOML."""

import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from regsim.errors import SettingsError, unknown_name

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KINDS = {
    "model_type": "a group of settings (key = value)",
    "tuple_type": 'a list, such as ["t1", "t2"]',
    "dict_type": "a group of settings (key = value)",
}


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
    if first["type"] == "extra_forbidden":
        return unknown_name("setting", where, _known_beside(model, first["loc"]))
    if first["type"] == "union_tag_invalid":
        expected = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected_tags", "")))
        return unknown_name(f"{where}.kind", str(first.get("ctx", {}).get("tag", "")), expected)
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        return unknown_name(where, first["input"], re.findall(r"'([^']*)'", first["msg"]))
    return SettingsError(f"setting '{where}': {in_plain_words(first)}" if where else in_plain_words(first))


def _known_beside(model: type[Settings], where: tuple[int | str, ...]) -> list[str]:
    """The settings that stand where an unknown one was found, each with the way to it."""
    found = [model]
    for part in where[:-1]:
        if isinstance(part, str):
            below = [
                inner
                for one in found
                if part in one.model_fields
                for inner in _groups(one.model_fields[part].annotation)
            ]
            found = below or [
                one for one in found if "kind" in one.model_fields and one.model_fields["kind"].default == part
            ]
    before = "".join(f"{part}." for part in where[:-1])
    return sorted({before + name for one in found for name in one.model_fields})


def _groups(annotation: Any) -> list[type[Settings]]:
    """The groups of settings that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [inner for part in get_args(annotation) for inner in _groups(part)]


def in_plain_words(error: "ErrorDetails") -> str:
    """What pydantic found, as what was expected and what came.

    >>> in_plain_words({"type": "greater_than", "loc": ("x",), "msg": "Input should be greater than 0", "input": "-1"})
    "expected a number greater than 0, got '-1'"
    """
    if error["type"] == "missing":
        return "is missing"
    if error["type"] in KINDS:
        return f"expected {KINDS[error['type']]}, got {error['input']!r}"
    if error["type"] == "too_short":
        return "expected at least one entry, got none"
    said = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ").split(", unable")[0]
    said = f"a number {said}" if said.startswith(("greater", "less")) else said
    return (
        f"expected {said}, got {error['input']!r}"
        if said != error["msg"] and not error["msg"].startswith("Value error")
        else said
    )
