"""Features for other programs: TorchScript in IMPACT's form, and channels as images that ANTs registers."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regsim.applications.export import export_features, feature_images
from regsim.errors import InputError, SettingsError
from regsim.images.image import Image
from regsim.metrics import DeepSimilarity
from regsim.metrics.checkpoint import Card, DataSource, save_model
from regsim.metrics.export import FeatureExtractor, field_of_view, level_facts
from regsim.metrics.feature_network import LEVELS, FeatureNetwork, FeatureNetworkSettings, Level

from .conftest import Command, blobs

SIZES = {2: [(1, 1, 16, 24), (2, 1, 19, 33), (1, 1, 3, 2)], 3: [(1, 1, 16, 8, 16), (2, 1, 9, 13, 18)]}


def settings(dims: int, levels: tuple[Level, ...] = LEVELS) -> FeatureNetworkSettings:
    return FeatureNetworkSettings.checked({"dims": dims, "widths": (4, 6, 8, 8), "features": 4, "levels": levels})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two models of random weights: for pictures, with all levels, and for volumes, with three."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    several: tuple[Level, ...] = ("tissues", "embedding_2", "encoder_3")
    for dims, levels in ((2, LEVELS), (3, several)):
        chosen = settings(dims, levels)
        with torch.random.fork_rng():
            torch.manual_seed(dims)
            network = FeatureNetwork(chosen)
        data = (DataSource(name="made up", licence="CC0-1.0"),)
        card = Card(
            name=f"random {dims}",
            metric="deepsim",
            network=chosen.model_dump(mode="json"),
            data=data,
            licence="CC0-1.0",
        )
        found[dims] = folder / f"random-{dims}d"
        save_model(found[dims], card, network.state_dict())
    return found


def loaded(file: Path) -> Any:
    """The script, which this test has written itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        return torch.jit.load(str(file))


def image_of(shape: tuple[int, ...]) -> torch.Tensor:
    return 300 * torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 20


@pytest.fixture(scope="module")
def exported(places: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {dims: folder / export_features(place, folder).file for dims, place in places.items()}


# --- the script -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dims", "shape"), [(dims, shape) for dims, sizes in SIZES.items() for shape in sizes])
def test_script_is_eager(dims: int, shape: tuple[int, ...], places: dict[int, Path], exported: dict[int, Path]) -> None:
    image, metric = image_of(shape), DeepSimilarity(str(places[dims]))
    found = loaded(exported[dims])(image)
    expected = metric.maps(image, None)
    assert isinstance(found, list)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_impacts_four_tensors(places: dict[int, Path], exported: dict[int, Path]) -> None:
    """The image, how many maps, the whole image's statistics, directions: the first so many maps come back."""
    image, script = image_of((1, 1, 20, 21)), loaded(exported[2])
    whole = script(image)
    stats, direction = torch.tensor([0.0, 1.0, 0.5, 0.2]), torch.eye(2)
    for count in (1, 2, len(LEVELS)):
        some = script(image, torch.tensor([count]), stats, direction)
        assert len(some) == count
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(some, whole, strict=False))


def test_a_gradient_reaches_the_image_and_constant_images_stay_finite(exported: dict[int, Path]) -> None:
    script = loaded(exported[3])
    image = image_of((1, 1, 9, 12, 10)).requires_grad_()
    sum(each.sum() for each in script(image)).backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    assert all(torch.isfinite(each).all() for each in script(torch.full((1, 1, 9, 8, 8), 7.0)))
    assert not any(parameter.requires_grad for parameter in script.parameters())


def test_half_and_double_precision_images_are_read(exported: dict[int, Path]) -> None:
    script, image = loaded(exported[2]), image_of((1, 1, 16, 16))
    for found, expected in zip(script(image.double()), script(image), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all(torch.isfinite(each).all() for each in script(image.half()))


@pytest.mark.parametrize("level", LEVELS)
def test_field_of_view_is_what_the_gradient_reaches(level: Level) -> None:
    chosen = settings(2, (level,)).model_copy(update={"windows": (3,)})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = FeatureNetwork(chosen).double().eval()
    reaches = []
    for step in range(8):
        image = image_of((1, 1, 8, 160)).double().requires_grad_()
        cells = network(image / 300)[0]
        place = cells.shape[3] // 2 + step
        cells[0, 0, cells.shape[2] // 2, place].backward()
        assert image.grad is not None
        columns = image.grad[0, 0].abs().amax(dim=0)
        seen = (columns > 1e-12 * columns.max()).nonzero()
        reaches.append(int(seen.max() - seen.min()) + 1)
    assert max(reaches) == field_of_view(level, chosen)


# --- the folder -----------------------------------------------------------------------------------------------------


def test_what_is_written(places: dict[int, Path], exported: dict[int, Path]) -> None:
    folder = exported[2].parent
    assert {file.name for file in folder.iterdir()} == {
        "random-2d.pt", "random-2d.json", "random-3d.pt", "random-3d.json"
    }  # fmt: skip
    facts = json.loads((folder / "random-3d.json").read_text())
    assert (facts["model"], facts["licence"], facts["dims"]) == ("random 3", "CC0-1.0", 3)
    assert facts["data"][0]["licence"] == "CC0-1.0"
    assert [(each["name"], each["channels"], each["stride"]) for each in facts["levels"]] == [
        ("tissues", 4, 1), ("embedding_2", 4, 2), ("encoder_3", 8, 8)
    ]  # fmt: skip
    lines = facts["elastix"]
    assert '(ImpactModelsPath0 "random-3d.pt")' in lines
    assert '(ImpactLayersMask0 "111")' in lines
    assert "(ImpactPatchSize0 0 0 0)" in lines
    network = DeepSimilarity(str(places[3])).network(3)
    assert [each.model_dump() for each in level_facts(FeatureExtractor(network))] == facts["levels"]


def test_the_script_names_no_folder_of_this_machine(exported: dict[int, Path]) -> None:
    import regsim

    content = exported[2].read_bytes()
    assert str(Path(regsim.__file__).parent).encode() not in content
    assert b"debug_pkl" not in content


def test_command(places: dict[int, Path], tmp_path: Path, command: Command) -> None:
    shown = command("models", places[2], "--export", tmp_path / "new").succeeded().out
    assert "random-2d.pt" in shown
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["random-2d.json", "random-2d.pt"]
    facts = json.loads(command("models", places[2], "--export", tmp_path / "new", "--json", "-").succeeded().out)
    assert facts["dims"] == 2


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path: Path, command: Command) -> None:
    export = ("--export", tmp_path / "new")
    command("models", "siamregqc-brain-2d", *export).refused("siamregqc", "no features to export", "regsim train")
    command("models", "mind", *export).refused("'mind' is a metric", "no", "features to export")
    command("models", "deepsim", *export).refused("'deepsim' is a metric")
    command("models", "nosuch", *export).refused("unknown model 'nosuch'")
    command("models", *export).refused("--export needs the name of a model")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="is a metric"):
        export_features("mse", tmp_path)


def test_a_file_in_the_way(places: dict[int, Path], tmp_path: Path, command: Command) -> None:
    (tmp_path / "file").write_text("")
    command("models", places[2], "--export", tmp_path / "file").refused("is a file")


# --- features as images ---------------------------------------------------------------------------------------------


def test_channels_lie_on_the_images_grid_and_have_length_one(places: dict[int, Path]) -> None:
    image = Image.of_array(blobs((20, 26), (0, 0)), (1.5, 0.8))
    metric = DeepSimilarity(str(places[2]), levels=(0, 2))
    channels = feature_images(image, metric)
    assert len(channels) == 8
    assert all(each.grid == image.grid and each.data.shape == image.data.shape for each in channels)
    together = torch.cat([each.data for each in channels])
    torch.testing.assert_close(together.square().sum(dim=0), torch.ones(20, 26), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together, metric.dense(image.batch)[0])


def test_images_without_features_or_with_many_channels_are_refused(places: dict[int, Path]) -> None:
    image = Image.of_array(blobs((20, 26), (0, 0)))
    with pytest.raises(SettingsError, match="'mind' has no features; metrics that have: deepsim"):
        feature_images(image, "mind")
    with pytest.raises(InputError, match="one channel, the image has 3"):
        feature_images(image.with_data(image.data.expand(3, -1, -1)), DeepSimilarity(str(places[2])))


def test_syn_of_ants_registers_feature_channels(places: dict[int, Path]) -> None:
    """Channel by channel, all with one weight: the channels come together."""
    ants = pytest.importorskip("ants", reason="ANTsPy is not installed")
    metric = DeepSimilarity(str(places[2]), levels=(0,))
    fixed, moving = (Image.of_array(blobs((48, 56), shift), (1.0, 1.0)) for shift in ((0, 0), (2, 3)))
    pairs = [
        [ants.from_numpy(np.ascontiguousarray(each.numpy().T), spacing=each.grid.spacing) for each in channels]
        for channels in zip(feature_images(fixed, metric), feature_images(moving, metric), strict=True)
    ]
    found = ants.registration(
        *pairs[0],
        type_of_transform="SyNOnly",
        initial_transform="identity",
        syn_metric="meansquares",
        multivariate_extras=[["meansquares", first, second, 1.0, 0] for first, second in pairs[1:]],
        reg_iterations=(40, 20, 10),
        random_seed=1,
    )
    before = after = 0.0
    for first, second in pairs:
        carried = ants.apply_transforms(first, second, found["fwdtransforms"])
        before += float(np.square(first.numpy() - second.numpy()).mean())
        after += float(np.square(first.numpy() - carried.numpy()).mean())
    assert after < 0.7 * before
