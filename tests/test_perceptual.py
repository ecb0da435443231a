"""perceptual: VGG16's features from a file that the user gives."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from regsim.errors import InputError, SettingsError
from regsim.evaluation.scoring import score
from regsim.images.image import Image
from regsim.metrics import load_metric, metric_names, usable_metrics
from regsim.metrics.perceptual import DEVIATION, MEAN, PerceptualSimilarity
from regsim.metrics.vgg_network import BLOCKS, VggNetwork

from .conftest import Command, Samples
from .metric_cases import half_mask, noisy, textured, vgg_file, vgg_state

ENDS = {1: 4, 2: 9, 3: 16, 4: 23, 5: 30}


def in_torchvisions_order(state: dict[str, torch.Tensor]) -> nn.Sequential:
    """The same weights in a plain list of layers, numbered as torchvision numbers them."""
    layers: list[nn.Module] = []
    for block in BLOCKS:
        for number in block:
            weight = state[f"features.{number}.weight"]
            layers += [nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    network = nn.Sequential(*layers)
    network.load_state_dict({name.removeprefix("features."): tensor for name, tensor in state.items()})
    return network.double()


def expected(fixed: torch.Tensor, moving: torch.Tensor, layers: tuple[int, ...]) -> torch.Tensor:
    network = in_torchvisions_order(vgg_state())
    mean, deviation = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (MEAN, DEVIATION))
    images = [(image.repeat(1, 3, 1, 1) - mean) / deviation for image in (fixed, moving)]
    values = []
    with torch.no_grad():
        for layer in layers:
            first, second = (network[: ENDS[layer]](image) for image in images)
            values.append(torch.cosine_similarity(first, second, dim=1).flatten(1).mean(dim=1))
    return torch.stack(values).mean(dim=0)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    fixed = textured((2, 1, 32, 48))
    return fixed, noisy(0.7 * fixed + 0.3 * textured((2, 1, 32, 48), 5)).clamp(0, 1)


# --- the value ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [(1, 2, 3), (4,), (1, 2, 3, 4, 5)])
def test_mean_cosine_of_torchvisions_layers(layers: tuple[int, ...], pair: tuple[torch.Tensor, ...]) -> None:
    metric = PerceptualSimilarity(vgg_file(), layers).double()
    torch.testing.assert_close(metric(*pair), expected(*pair, layers), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(metric(pair[0], pair[0]), torch.ones(2, dtype=torch.float64))


def test_vgg16_has_as_many_weights_as_its_paper_says() -> None:
    with torch.device("meta"):
        network = VggNetwork([[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3])
    assert sum(tensor.numel() for tensor in network.parameters()) == 14_714_688
    assert network.state_dict()["features.28.weight"].shape == (512, 512, 3, 3)


def test_any_size_is_padded_and_what_is_added_does_not_count(pair: tuple[torch.Tensor, ...]) -> None:
    metric = PerceptualSimilarity(vgg_file()).double()
    fixed, moving = (image[..., :30, :45] for image in pair)
    mask = torch.zeros_like(pair[0])
    mask[..., :30, :45] = 1
    torch.testing.assert_close(metric(fixed, moving), metric(*pair, mask))


def test_volumes_are_compared_by_planes(pair: tuple[torch.Tensor, ...]) -> None:
    metric = PerceptualSimilarity(vgg_file()).double()
    volumes = [torch.stack([image[:1]] * 3, dim=2) for image in pair]
    across = metric(pair[0][:1], pair[1][:1])
    assert metric.map(*volumes).shape == volumes[0].shape
    thin = [volume[:, :, :1] for volume in volumes]
    torch.testing.assert_close(metric(*thin), across)
    torch.testing.assert_close(metric.map(*thin)[:, :, 0], metric.map(pair[0][:1], pair[1][:1]))
    shifted = [float(metric(volumes[0], volumes[0].roll(shift, 4))) for shift in (0, 1, 3)]
    assert shifted == sorted(shifted, reverse=True)


def test_map_and_value_agree_at_the_first_block(pair: tuple[torch.Tensor, ...]) -> None:
    metric = PerceptualSimilarity(vgg_file(), 1).double()
    mask = half_mask(pair[0].shape)
    local = metric.map(*pair, mask)
    means = torch.stack([local[item][mask[item]].mean() for item in range(2)])
    torch.testing.assert_close(means, 1 - metric(*pair, mask))


# --- what it needs --------------------------------------------------------------------------------------------------


def test_without_weights_it_says_what_to_give() -> None:
    with pytest.raises(SettingsError, match=r"'perceptual' needs weights=FILE.*safetensors.*features\.0\.weight"):
        load_metric("perceptual")
    assert "perceptual" in metric_names()
    assert "perceptual" not in usable_metrics()


def test_all_metrics_are_those_that_work_by_name(pair: tuple[torch.Tensor, ...]) -> None:
    fixed, moving = (Image.of_array(image[0, 0].float()) for image in pair)
    assert [row.metric for row in score(fixed, moving)] == usable_metrics()


def test_the_command_line_takes_a_file(samples: Samples, command: Command, tmp_path: Path) -> None:
    images = (samples.picture, samples.moved_picture)
    spec = f"perceptual:weights={vgg_file()},layers=1x2"
    shown = command("score", *images, "-m", spec, "--map", f"{spec}={tmp_path / 'map.nii.gz'}").succeeded()
    assert shown.out.splitlines()[1].split()[0] == "perceptual"
    assert (tmp_path / "map.nii.gz").is_file()
    command("score", *images, "-m", "perceptual").refused("needs weights=FILE", "safetensors")
    command("register", *images, "-o", tmp_path / "run", "-m", spec, "--transform", "rigid", "--finest", 3).succeeded()
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    assert [row["metric"] for row in rows if row["drove"]] == ["perceptual"]


@pytest.mark.parametrize("layers", ["0", "6", "1x1", "2.5", "true", "()"])
def test_layers_that_vgg_does_not_have(layers: str) -> None:
    with pytest.raises(SettingsError, match="layers must be some of 1 to 5"):
        load_metric(f"perceptual:weights={vgg_file()},layers={layers}")


# --- files ----------------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, torch.Tensor]], object]


def written(folder: Path, change: Change) -> Path:
    state = vgg_state()
    change(state)
    save_file(state, folder / "vgg.safetensors")
    return folder / "vgg.safetensors"


def set_to(name: str, tensor: torch.Tensor) -> Change:
    return lambda state: state.update({name: tensor})


WRONG: dict[str, tuple[Change, str]] = {
    "NaN": (lambda state: state["features.5.weight"].fill_(torch.nan), "features.5.weight.*not finite"),
    "infinite": (set_to("features.2.bias", torch.full((6,), torch.inf)), r"features\.2\.bias.*not finite"),
    "a missing layer": (lambda state: state.pop("features.7.weight"), r"features\.7\.weight' is missing"),
    "a missing bias": (lambda state: state.pop("features.7.bias"), r"features\.7\.bias' is missing"),
    "other names": (lambda state: (state.clear(), state.update({"conv": torch.zeros(2)})), "is missing; expected"),
    "5 x 5": (set_to("features.0.weight", torch.zeros(6, 3, 5, 5)), r"\[6, 3, 5, 5\], expected F32 \[6, 3, 3, 3\]"),
    "one colour": (set_to("features.0.weight", torch.zeros(6, 1, 3, 3)), r"expected F32 \[6, 3, 3, 3\]"),
    "widths that do not follow": (set_to("features.2.weight", torch.zeros(6, 9, 3, 3)), r"expected F32 \[6, 6, 3, 3\]"),
    "a vector": (set_to("features.2.weight", torch.zeros(6)), r"'features\.2\.weight' is \[6\]"),
    "whole numbers": (set_to("features.2.bias", torch.zeros(6, dtype=torch.int64)), r"I64 \[6\], expected F32"),
    "a huge width": (set_to("features.0.weight", torch.zeros(2000, 3, 3, 3)), r"\[2000, 3, 3, 3\]; expected"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_files_of_other_networks(mistake: str, tmp_path: Path) -> None:
    change, words = WRONG[mistake]
    with pytest.raises(InputError, match=words) as caught:
        PerceptualSimilarity(written(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_what_is_not_needed_is_not_read(tmp_path: Path, pair: tuple[torch.Tensor, ...]) -> None:
    def add(state: dict[str, torch.Tensor]) -> None:
        state["classifier.0.weight"] = torch.full((4, 4), torch.nan)
        state["features.28.weight"] = torch.full((6, 6, 3, 3), torch.nan)

    whole = PerceptualSimilarity(written(tmp_path, add)).double()
    torch.testing.assert_close(whole(*pair), PerceptualSimilarity(vgg_file()).double()(*pair))
    half = PerceptualSimilarity(written(tmp_path, lambda state: state.update({k: v.half() for k, v in state.items()})))
    torch.testing.assert_close(half.double()(*pair), whole(*pair), rtol=1e-2, atol=1e-3)


def test_pickles_are_refused_with_the_two_lines_that_convert_them(tmp_path: Path) -> None:
    for name, old in (("new.pth", False), ("old.pth", True), ("named.safetensors", False)):
        torch.save(vgg_state(), tmp_path / name, _use_new_zipfile_serialization=not old)
        with pytest.raises(InputError, match="pickle") as caught:
            PerceptualSimilarity(tmp_path / name)
        stem = name.partition(".")[0]
        said = str(caught.value)
        assert "`import torch, safetensors.torch`" in said
        assert f"save_file(torch.load('{stem}.pth', weights_only=True), '{stem}.safetensors')" in said
        assert "\n" not in said


def test_the_two_lines_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(vgg_state(), tmp_path / "vgg16.pth")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        PerceptualSimilarity(tmp_path / "vgg16.pth")
    place: dict[str, object] = {}
    for line in str(caught.value).split("`")[1::2]:
        exec(line, place)
    assert PerceptualSimilarity(tmp_path / "vgg16.safetensors").layers == (1, 2, 3)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; expected weights of VGG16"):
        PerceptualSimilarity(tmp_path / "nowhere.safetensors")
    with pytest.raises(InputError, match="no such file"):
        PerceptualSimilarity(tmp_path)
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(InputError, match="empty"):
        PerceptualSimilarity(tmp_path / "empty.safetensors")
    cut = vgg_file().read_bytes()[:-10]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    with pytest.raises(InputError, match="cut short"):
        PerceptualSimilarity(tmp_path / "cut.safetensors")
    assert not list(tmp_path.glob("*.pth"))
