"""Model files: a round trip, and one clear line for each way in which a folder is not what it says."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from regsim.errors import InputError
from regsim.metrics import checkpoint
from regsim.metrics.checkpoint import CARD, WEIGHTS, Card, DataSource, Subjects, load_weights, read_card, save_model


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def card() -> Card:
    return Card(
        name="demo", metric="siamregqc", network={"channels": [4, 2], "norm": True}, settings={"steps": 3}, seed=4,
        data=(DataSource(name="ICBM152", licence="open", credit="MNI"),), subjects=Subjects(train=("a",), test=("b",)),
        versions={"torch": "2.13"}, licence="Apache-2.0", figures={"auc": 0.91, "interval": (0.88, 0.94)}, notes=("one",),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", card(), network().state_dict())
    return tmp_path / "model"


def test_round_trip(folder: Path) -> None:
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    back = load_weights(folder, other)
    for mine, known in zip(other.state_dict().values(), network().state_dict().values(), strict=True):
        assert torch.equal(mine, known)
    written = back.model_dump(exclude={"tensors", "sha256"})
    assert written == card().model_dump(exclude={"tensors", "sha256"})
    assert back.tensors["0.weight"].shape == (4, 1, 3, 3)
    assert back.tensors["1.num_batches_tracked"].dtype == "I64"
    assert read_card(folder) == back
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]


def test_any_memory_order_and_type_is_written(tmp_path: Path) -> None:
    state = {
        "last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "short": torch.rand(3).bfloat16(),
        "flag": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.0),
    }
    state["tied"] = state["last"]
    save_model(tmp_path, card(), state)
    holder = nn.Module()
    for name, value in state.items():
        holder.register_buffer(name, torch.zeros_like(value))
    load_weights(tmp_path, holder)
    assert all(torch.equal(value, state[name]) for name, value in holder.state_dict().items())


def test_writing_replaces_both_files(folder: Path) -> None:
    changed = {name: value + 1 for name, value in network().state_dict().items()}
    save_model(folder, card(), changed)
    assert read_card(folder).sha256 == load_weights(folder, network()).sha256


def test_weights_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not finite"):
        save_model(tmp_path, card(), {"a": torch.tensor([1.0, float("nan")])})
    with pytest.raises(InputError, match="complex64, which model files do not hold"):
        save_model(tmp_path, card(), {"a": torch.zeros(2, dtype=torch.complex64)})
    assert list(tmp_path.iterdir()) == []


# --- folders that lie ---------------------------------------------------------------------------------------------------

Spoil = Callable[[Path], object]


def weights(content: bytes) -> Spoil:
    return lambda folder: (folder / WEIGHTS).write_bytes(content)


def tensors(change: Callable[[dict[str, torch.Tensor]], object], signed: bool = True) -> Spoil:
    """Other tensors in the file; with `signed`, the card tells the truth about the file (but the network does not fit)."""

    def spoil(folder: Path) -> None:
        state = {name: value.clone() for name, value in network().state_dict().items()}
        change(state)
        if signed:
            save_model(folder, card(), {k: torch.nan_to_num(v) for k, v in state.items()})
            values = json.loads((folder / CARD).read_text())
            (folder / WEIGHTS).write_bytes(save(state))
            values["sha256"] = checkpoint.hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
            (folder / CARD).write_text(json.dumps(values))
        else:
            (folder / WEIGHTS).write_bytes(save(state))

    return spoil


def header(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        values = json.loads(content[8 : 8 + length])
        change(values)
        text = json.dumps(values).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return spoil


def edited(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        values = json.loads((folder / CARD).read_text())
        change(values)
        (folder / CARD).write_text(json.dumps(values))

    return spoil


def card_text(content: bytes) -> Spoil:
    return lambda folder: (folder / CARD).write_bytes(content)


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return stream.getvalue()


def cut(count: int) -> Spoil:
    return lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:count])


def flipped(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(content))


def gone(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def place(name: str, **values: Any) -> Spoil:
    return header(lambda found: found[name].update(values))


HUGE = struct.pack("<Q", 2**20 + 1) + b"{" + b" " * 2**20 + b"}"
LIES: dict[str, tuple[Spoil, str]] = {
    "missing tensor": (tensors(lambda s: s.pop("2.bias")), "tensor '2.bias' is missing, which the network"),
    "extra tensor": (tensors(lambda s: s.update(more=torch.zeros(2))), "tensor 'more' is extra, the network"),
    "renamed tensor": (
        tensors(lambda s: s.update({"2.offset": s.pop("2.bias")})),
        "'2.bias' is missing and '2.offset' is there instead",
    ),
    "larger tensor": (
        tensors(lambda s: s.update({"2.weight": torch.zeros(4, 4)})),
        r"tensor '2.weight' is F32 \[4, 4\], expected F32 \[2, 4\] as in the network",
    ),
    "another type": (tensors(lambda s: s.update({"2.bias": torch.zeros(2).double()})), "F64 .*expected F32"),
    "not finite": (
        tensors(lambda s: s.update({"2.bias": torch.tensor([1.0, float("nan")])})),
        "tensor '2.bias' holds weights that are not finite",
    ),
    "other weights": (tensors(lambda s: s["2.bias"].add_(1), signed=False), "SHA-256 is not the one on the card"),
    "one bit": (flipped, "SHA-256 is not the one on the card"),
    "pickle": (weights(pickle.dumps({"a": 1})), "a pickle .*not a safetensors file; pickles can run code"),
    "zipped pickle": (weights(zipped()), "a pickle"),
    "empty": (weights(b""), "model.safetensors': the file is empty"),
    "few bytes": (weights(b"abc"), "not a safetensors file"),
    "text": (weights(b"these are no weights at all"), "not a safetensors file"),
    "picture": (weights(b"\x89PNG\r\n\x1a\n" + bytes(100)), "not a safetensors file"),
    "not JSON": (weights(struct.pack("<Q", 9) + b"{'a': 1} "), "header of .*not JSON"),
    "a list": (weights(struct.pack("<Q", 2) + b"[]"), "header of .*not a JSON object"),
    "nested": (weights(struct.pack("<Q", 200000) + b"[" * 200000), "header of .*not JSON"),
    "huge header": (weights(HUGE), "a header of 1,048,577 bytes"),
    "a key twice": (weights(struct.pack("<Q", 15) + b'{"a":{},"a":{}}'), "a key stands there twice"),
    "cut in its data": (cut(-20), "its header says .* it is cut short"),
    "cut in its header": (cut(100), "cut short"),
    "more than it says": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + bytes(8)),
        "its header says .* it is cut short or damaged",
    ),
    "shape in header": (
        place("2.weight", shape=[2**40, 2**20]),
        "tensor '2.weight' .*needs 4,611,686,018,427,387,904 bytes",
    ),
    "negative shape": (place("2.weight", shape=[-2, -4]), "nothing usable about tensor '2.weight'"),
    "shape of text": (place("2.weight", shape="24"), "nothing usable about tensor '2.weight'"),
    "rank 9": (place("2.weight", shape=[1] * 9), "nothing usable about tensor '2.weight'"),
    "type in header": (place("2.weight", dtype="F8"), "nothing usable about tensor '2.weight'"),
    "overlap": (place("2.weight", data_offsets=[0, 32]), "needs"),
    "entry without offsets": (header(lambda found: found.update({"2.weight": {"dtype": "F32"}})), "nothing usable"),
    "no weights": (gone(WEIGHTS), "model.safetensors': no such file"),
    "no card": (gone(CARD), "holds no card.json; give a folder that `regsim train` wrote"),
    "card not JSON": (card_text(b"{"), "card.json': not JSON"),
    "card not text": (card_text(b"\xff\xfe\x00"), "card.json': not JSON"),
    "card a list": (card_text(b"[1]"), "card.json': not a JSON object"),
    "card nested": (card_text(b"[" * 100000), "card.json': not JSON"),
    "card too large": (card_text(b" " * (2**22 + 1)), "larger than any card"),
    "card of tomorrow": (edited(lambda c: c.update(format=2, new=1)), "card of format 2; this regsim reads format 1"),
    "card of something": (edited(lambda c: c.pop("format")), "not a model card of format 1"),
    "card's unknown key": (edited(lambda c: c.update(nam=1)), "unknown setting 'nam'; did you mean 'name'"),
    "card without name": (edited(lambda c: c.pop("name")), "setting 'name': is missing"),
    "card's NaN": (card_text(b'{"format": 1, "name": "a", "metric": "b", "figures": {"c": NaN}}'), "figures"),
    "card's shapes": (
        edited(lambda c: c["tensors"]["2.weight"].update(shape=[4, 4])),
        r"card.json': tensor '2.weight' is F32 \[4, 4\], expected F32 \[2, 4\] as in model.safetensors",
    ),
    "card's tensors": (edited(lambda c: c["tensors"].pop("2.bias")), "card.json': tensor '2.bias' is missing"),
    "card's more tensors": (edited(lambda c: c["tensors"].update(z={"shape": [1], "dtype": "F32"})), "'z' is extra"),
    "card's shape as text": (edited(lambda c: c["tensors"]["2.bias"].update(shape="x")), "tensors.2.bias.shape"),
    "card's hash": (edited(lambda c: c.update(sha256="0" * 64)), "SHA-256 is not the one on the card"),
}


@pytest.mark.parametrize("lie", LIES)
def test_folders_that_lie(lie: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, words = LIES[lie]
    spoil(folder)
    net = network()
    with torch.no_grad():
        before = [tensor.clone() for tensor in net.state_dict().values()]
    if lie != "not finite":
        monkeypatch.setattr(checkpoint, "load", lambda content: pytest.fail("tensors were allocated"))
    with pytest.raises(InputError, match=words) as caught:
        load_weights(folder, net)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert all(torch.equal(old, new) for old, new in zip(before, net.state_dict().values(), strict=True))


def test_sparse_file_of_terabytes(folder: Path) -> None:
    """A header that is right about a size that no model has: told before a byte of it is read."""
    length = 2**40
    text = json.dumps({"a": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}).encode()
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + length)
    with pytest.raises(InputError, match="bytes; model files hold 2,147,483,648 at most"):
        load_weights(folder, network())


def test_folder_missing_or_a_file(folder: Path) -> None:
    for wrong in (folder / "none", folder / CARD):
        with pytest.raises(InputError, match="no such folder; give a folder that `regsim train` wrote"):
            load_weights(wrong, network())
