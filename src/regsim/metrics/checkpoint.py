"""Model files: a folder with `model.safetensors` (weights) and `card.json` (what they are, and from what they were learnt).

Nothing in such a folder can run code, and nothing is believed: names, shapes, types and sizes are compared between the
file's header, the card and the network before a tensor is allocated, then the hash, then whether all weights are finite.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, JsonValue
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from regsim.errors import InputError, SettingsError
from regsim.output import staged
from regsim.settings import Settings

WEIGHTS, CARD = "model.safetensors", "card.json"
FORMAT = 1
LARGEST_HEADER, LARGEST_CARD = 2**20, 2**22
LARGEST_FILE = 2**31
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
SINGLE, HALF = "F32", "F16"
NAMES = {kind: name for name, kind in TYPES.items()}


class TensorFacts(Settings):
    """Shape and type of one tensor; the type as safetensors calls it (`F32`)."""

    shape: tuple[int, ...] = Field(max_length=8)
    dtype: str


class DataSource(Settings):
    """One data set that a model learnt from, or was judged on."""

    name: str
    licence: str
    source: str = ""
    credit: str = ""


class Subjects(Settings):
    """Names of subjects; no name is in two lists."""

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


class Card(Settings):
    """What a model is.

    `metric`: the registered metric that it belongs to. `network`: the settings of its network, to be validated by that
    metric's own settings class before anything is built. `settings`: the recipe. `tensors` and `sha256` are filled in by
    `save_model`. `figures`: on the test subjects.
    """

    format: int = FORMAT
    name: str = Field(min_length=1, max_length=100)
    metric: str = Field(min_length=1, max_length=100)
    network: dict[str, JsonValue] = Field(default_factory=dict)
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    tensors: dict[str, TensorFacts] = Field(default_factory=dict)
    sha256: str = ""
    data: tuple[DataSource, ...] = ()
    subjects: Subjects = Subjects()
    versions: dict[str, str] = Field(default_factory=dict)
    seed: int = 0
    created: str = ""
    licence: str = ""
    figures: dict[str, float | str | tuple[float, ...]] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


def save_model(folder: Path, card: Card, state: Mapping[str, torch.Tensor]) -> Card:
    """Write weights and card in one step; the card is completed with the tensors' facts and the file's hash.

    Args:
        folder: made where it is missing. A card that stands there is replaced last, so that card and weights belong together.
        card: without `tensors` and `sha256`.
        state: a network's `state_dict()`.

    Raises:
        InputError: weights that are not finite, of a type that has no name in safetensors, or more than 2 GiB.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    odd = [name for name, tensor in tensors.items() if tensor.dtype not in NAMES]
    if odd:
        raise InputError(f"tensor '{odd[0]}' is {tensors[odd[0]].dtype}, which model files do not hold")
    _check_finite(tensors, str(folder))
    written = save(tensors)
    if len(written) > LARGEST_FILE:
        raise InputError(f"the weights take {len(written):,} bytes; model files hold {LARGEST_FILE:,} at most")
    facts = {name: TensorFacts(shape=tuple(value.shape), dtype=NAMES[value.dtype]) for name, value in tensors.items()}
    full = card.model_copy(update={"tensors": facts, "sha256": hashlib.sha256(written).hexdigest()})
    with staged(folder, last=(CARD,)) as part:
        (part / WEIGHTS).write_bytes(written)
        (part / CARD).write_text(json.dumps(full.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    return full


def read_card(folder: Path) -> Card:
    """Read `card.json`.

    Raises:
        InputError: no folder, no card, not JSON, too large, of a newer format, or with an entry that cards do not have.
    """
    if not folder.is_dir():
        raise InputError(f"model '{folder}': no such folder; give a folder that `regsim train` wrote")
    path = folder / CARD
    if not path.is_file():
        raise InputError(f"model '{folder}': holds no {CARD}; give a folder that `regsim train` wrote")
    with path.open("rb") as stream:
        text = stream.read(LARGEST_CARD + 1)
    if len(text) > LARGEST_CARD:
        raise InputError(f"'{path}': larger than any card ({LARGEST_CARD:,} bytes)")
    values = _json(text, f"'{path}'")
    version = values.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise InputError(f"'{path}': a card of format {version}; this regsim reads format {FORMAT}: update regsim")
    if version != FORMAT:
        raise InputError(f"'{path}': not a model card of format {FORMAT} (its 'format' is {version!r})")
    try:
        return Card.checked(values)
    except SettingsError as problem:
        raise InputError(f"'{path}': {problem}") from None


def load_weights(folder: Path, network: nn.Module) -> Card:
    """Load the weights of a model folder into a network that was built from its card's (validated) settings.

    Weights that are stored in half precision become single again. The network may have been built on torch's meta device:
    nothing is allocated before file and network agree.

    Raises:
        InputError: a card or a weights file that is missing, damaged, of another kind or not what the other one says;
            weights that do not fit the network, or are not finite.
    """
    card, path = read_card(folder), folder / WEIGHTS
    header, size = read_header(path)
    wanted = {name: _facts(tensor) for name, tensor in network.state_dict().items()}
    expected = {name: _as_stored(facts, header.get(name)) for name, facts in wanted.items()}
    _compare(header, expected, f"'{path}'", "the network that the card describes")
    _compare(card.tensors, header, f"'{folder / CARD}'", f"{WEIGHTS} beside it")
    content = path.read_bytes()
    if len(content) != size or hashlib.sha256(content).hexdigest() != card.sha256:
        raise InputError(f"'{path}': its SHA-256 is not the one on the card; the file was changed or exchanged")
    try:
        tensors = load(content)
    except SafetensorError as problem:
        raise InputError(f"'{path}' is damaged: {problem}") from None
    _check_finite(tensors, f"{path}")
    read = {name: tensor.float() if wanted[name].dtype == SINGLE else tensor for name, tensor in tensors.items()}
    network.load_state_dict(read, assign=True)
    return card


def read_header(path: Path) -> tuple[dict[str, TensorFacts], int]:
    """The tensors that a safetensors file says it holds, and its size in bytes, from its first bytes alone.

    Convention:
        8 bytes, little endian: the length of the header; the header, JSON; the tensors' bytes, without gaps.

    Raises:
        InputError: missing, empty, a pickle, a zip archive, cut short, too large, or offsets that do not fit the shapes.
    """
    if not path.is_file():
        raise InputError(f"'{path}': no such file; give a folder that `regsim train` wrote")
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        _check_start(path, start, length, size)
        values = _json(stream.read(length), f"header of '{path}'")
    values.pop("__metadata__", None)
    facts, end = {}, 0
    for name, first, last, entry in sorted(_entries(values, path), key=lambda found: (found[1], found[2])):
        needed = math.prod(entry.shape) * TYPES[entry.dtype].itemsize
        if first != end or last - first != needed:
            raise InputError(
                f"'{path}': tensor '{name}' {list(entry.shape)} needs {needed:,} bytes, but has {last - first:,}"
            )
        facts[name], end = entry, last
    if 8 + length + end != size:
        raise InputError(
            f"'{path}': has {size:,} bytes, its header says {8 + length + end:,}; it is cut short or damaged"
        )
    return facts, size


def _check_start(path: Path, start: bytes, length: int, size: int) -> None:
    """What the first bytes give away."""
    pickled = start[:1] == b"\x80" and start[1:2] <= b"\x05" and length > LARGEST_HEADER  # a header may be 0x0380 long
    if start.startswith(b"PK\x03\x04") or pickled:
        raise InputError(
            f"'{path}': a pickle (as torch.save writes), not a safetensors file; pickles can run code and are not read"
        )
    if size == 0:
        raise InputError(f"'{path}': the file is empty")
    if len(start) < 8 or length < 2 or (length > size - 8 and length > LARGEST_HEADER):
        raise InputError(f"'{path}': not a safetensors file")
    if length > LARGEST_HEADER:
        raise InputError(f"'{path}': a header of {length:,} bytes; no model of regsim has more than {LARGEST_HEADER:,}")
    if 8 + length > size:
        raise InputError(f"'{path}': cut short (its header alone takes {8 + length:,} bytes, the file has {size:,})")
    if size > LARGEST_FILE:
        raise InputError(f"'{path}': {size:,} bytes; model files hold {LARGEST_FILE:,} at most")


def _entries(values: dict[str, Any], path: Path) -> list[tuple[str, int, int, TensorFacts]]:
    """Name, first and last byte, shape and type of each tensor of a header."""
    found = []
    for name, entry in values.items():
        match entry:
            case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(first), int(last)]}:
                known = kind in TYPES and len(shape) <= 8 and all(type(side) is int and side >= 0 for side in shape)
            case _:
                known = False
        if not known:
            raise InputError(f"'{path}': its header says nothing usable about tensor '{name}'")
        found.append((name, first, last, TensorFacts(shape=tuple(shape), dtype=kind)))
    return found


def _as_stored(wanted: TensorFacts, stored: TensorFacts | None) -> TensorFacts:
    """A network's single-precision weights may be stored in half precision."""
    if stored is not None and (wanted.dtype, stored.dtype) == (SINGLE, HALF):
        return wanted.model_copy(update={"dtype": HALF})
    return wanted


def _facts(tensor: torch.Tensor) -> TensorFacts:
    return TensorFacts(shape=tuple(tensor.shape), dtype=NAMES.get(tensor.dtype, str(tensor.dtype)))


def _compare(found: Mapping[str, TensorFacts], expected: Mapping[str, TensorFacts], what: str, whose: str) -> None:
    """Names, shapes and types, each difference in one line; the first one is told."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing and extra:
        raise InputError(
            f"{what}: tensor '{missing[0]}' is missing and '{extra[0]}' is there instead ({whose} differs)"
        )
    if missing:
        raise InputError(f"{what}: tensor '{missing[0]}' is missing, which {whose} has ({len(missing)} in all)")
    if extra:
        raise InputError(f"{what}: tensor '{extra[0]}' is extra, {whose} has none ({len(extra)} in all)")
    for name, entry in found.items():
        if entry != expected[name]:
            raise InputError(
                f"{what}: tensor '{name}' is {_shape(entry)}, expected {_shape(expected[name])} as in {whose}"
            )


def _shape(entry: TensorFacts) -> str:
    return f"{entry.dtype} {list(entry.shape)}"


def _check_finite(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"'{what}': tensor '{name}' holds weights that are not finite (NaN or Inf)")


def _json(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object, each key once."""
    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as problem:
        reason = "nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        raise InputError(f"{what}: not JSON ({reason})") from None
    if not isinstance(values, dict):
        raise InputError(f"{what}: not a JSON object")
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands there twice")
    return values
