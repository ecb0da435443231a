"""`registration_error`: known displacements, spacing, masks, sizes, models, bad input, and the recipe from end to end."""

import math
from pathlib import Path

import pytest
import torch

from regsim.errors import InputError, SettingsError
from regsim.images.examples import brain
from regsim.metrics import load_metric
from regsim.metrics.checkpoint import Card, read_card, save_model
from regsim.metrics.error_calibration import Calibration
from regsim.metrics.error_network import ErrorNetwork, ErrorNetworkSettings
from regsim.metrics.registration_error import MODELS, RegistrationError
from regsim.metrics.zoo import bundled_models, model_folder
from regsim.misalign.unrelated import UnrelatedSettings
from regsim.prepare import coarser, rescaled

from .metric_cases import noisy, textured


@pytest.fixture(scope="module")
def metric() -> RegistrationError:
    return RegistrationError()


@pytest.fixture(scope="module")
def head() -> torch.Tensor:
    """A block of the bundled brain at 2 mm, `(1, 1, z, y, x)`."""
    return block("t1")


def block(contrast: str, voxels: int = 0) -> torch.Tensor:
    """What the block shows where the head lies so many voxels further along x."""
    whole = coarser(rescaled(brain(contrast)), 2.0).batch
    return whole[:, :, 22:70, 28:84, 22 - voxels : 74 - voxels].contiguous()


def moved(contrast: str, voxels: int) -> torch.Tensor:
    return noisy(block(contrast, voxels), 3, 0.01).float()


def inner(image: torch.Tensor) -> torch.Tensor:
    """Where the head is bright, away from the borders."""
    mask = image > 0.2
    for axis in range(2, image.ndim):
        mask.narrow(axis, 0, 8).fill_(False)
        mask.narrow(axis, image.shape[axis] - 8, 8).fill_(False)
    return mask


# --- what it says of known displacements --------------------------------------------------------------------------------


@pytest.mark.parametrize(("voxels", "within"), [(1, 0.8), (2, 0.6), (4, 1.2)])
def test_a_shift_is_read_in_mm(metric: RegistrationError, head: torch.Tensor, voxels: int, within: float) -> None:
    """This head is an average of 152, smooth: small errors of such images are read too large."""
    found = metric.estimate(noisy(head, 2, 0.01).float(), moved("t1", voxels), inner(head))
    assert found.value == pytest.approx(2 * voxels, abs=within)
    assert found.unrelated_share < 0.1


def test_an_aligned_pair_reads_below_one_mm(metric: RegistrationError, head: torch.Tensor) -> None:
    for moving in (moved("t1", 0), moved("t2", 0)):
        assert metric.estimate(noisy(head, 2, 0.01).float(), moving, inner(head)).value < 1


def test_another_contrast_is_read_alike(metric: RegistrationError, head: torch.Tensor) -> None:
    values = [metric.estimate(head, moved("t2", voxels), inner(head)).value for voxels in (0, 1, 2, 4)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(8, rel=0.35)


def test_noise_is_unrelated(metric: RegistrationError, head: torch.Tensor) -> None:
    noise = textured(tuple(head.shape), 9).float()
    found = metric.estimate(head, noise, inner(head))
    assert found.unrelated_share > 0.5
    aligned = metric.estimate(head, moved("t1", 0), inner(head))
    assert aligned.unrelated_share < 0.05


def test_only_one_side_moved_is_found_there(metric: RegistrationError, head: torch.Tensor) -> None:
    moving = moved("t1", 0)
    half = head.shape[2] // 2
    moving[:, :, half:] = moved("t1", 3)[:, :, half:]
    found = metric.estimate(head, moving, inner(head))
    below, above = inner(head), inner(head)
    below[:, :, half - 4 :], above[:, :, : half + 4] = False, False
    assert float(found.expected[above].mean()) > 3 * float(found.expected[below].mean())


# --- spacing -----------------------------------------------------------------------------------------------------------


def test_millimetres_follow_the_spacing(metric: RegistrationError, head: torch.Tensor) -> None:
    pair = head, moved("t1", 2)
    plain = metric.estimate(*pair, inner(head)).value
    stated = RegistrationError(spacing=(2.0, 2.0, 2.0)).estimate(*pair, inner(head)).value
    small = RegistrationError(spacing=0.2, working=0.2).estimate(*pair, inner(head)).value
    assert stated == pytest.approx(plain)
    assert small == pytest.approx(plain / 10, rel=1e-4)


def test_a_fine_grid_says_the_same(head: torch.Tensor, metric: RegistrationError) -> None:
    fine = [torch.nn.functional.interpolate(each, scale_factor=2, mode="trilinear") for each in (head, moved("t1", 2))]
    mask = torch.nn.functional.interpolate(inner(head).float(), scale_factor=2) > 0
    found = metric.with_spacing((1.0, 1.0, 1.0)).estimate(*fine, mask)
    assert found.expected.shape == fine[0].shape
    assert found.value == pytest.approx(metric.estimate(head, moved("t1", 2), inner(head)).value, rel=0.15)


def test_thick_slices(head: torch.Tensor, metric: RegistrationError) -> None:
    """0.5 x 0.5 x 4 mm: every second plane, four voxels in plane for one."""
    both = [each[:, :, ::2] for each in (head, moved("t1", 2))]
    thick = [torch.nn.functional.interpolate(each, scale_factor=(1, 4, 4), mode="trilinear") for each in both]
    found = metric.with_spacing((4.0, 0.5, 0.5)).estimate(*thick, thick[0] > 0.2)
    assert found.expected.shape == thick[0].shape
    assert 2 < found.value < 6


# --- masks, sizes, batches ------------------------------------------------------------------------------------------------


def test_what_may_be_seen_is_wider_than_what_is_judged(metric: RegistrationError, head: torch.Tensor) -> None:
    mask = torch.zeros_like(head, dtype=torch.bool)
    mask[:, :, 18:28, 22:32, 18:28] = True
    seen = torch.ones_like(head)
    wide = metric.estimate(head, moved("t1", 2), mask, seen)
    narrow = metric.estimate(head, moved("t1", 2), mask, mask)
    assert wide.value == pytest.approx(4, rel=0.35)
    assert wide.mean_spread <= narrow.mean_spread + 0.05
    assert wide.expected.shape == head.shape


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (1, 1, 5, 40), (1, 1, 1, 9, 9), (1, 1, 2, 3, 4)], ids=str)
def test_any_size(metric: RegistrationError, shape: tuple[int, ...]) -> None:
    image = textured(shape).float()
    found = metric.estimate(image, image)
    assert math.isfinite(found.value)
    assert found.expected.shape == image.shape
    assert bool(found.spread.isfinite().all())


def test_no_gradient_flows(metric: RegistrationError) -> None:
    image = textured((1, 1, 24, 24)).float()
    assert not metric(image, image.clone().requires_grad_()).requires_grad


def test_bounds_hold_the_expected_error(metric: RegistrationError, head: torch.Tensor) -> None:
    calibration = metric.calibration(3)
    assert isinstance(calibration, Calibration)
    found = metric.estimate(head, moved("t1", 2), inner(head))
    low, high = found.interval(calibration, 0.9)
    assert 0 <= low <= found.value <= high
    lower, upper = found.bounds(calibration, 0.9)
    assert bool((lower <= upper).all())
    wider = found.bounds(calibration, 0.95)
    assert bool((wider[0] <= lower).all())
    assert bool((wider[1] >= upper).all())


# --- models ----------------------------------------------------------------------------------------------------------------


def test_the_bundled_models_have_cards(metric: RegistrationError) -> None:
    for dims, name in MODELS.items():
        assert name in bundled_models()
        card = read_card(model_folder(name))
        assert card.metric == "registration_error"
        assert card.subjects.train
        assert card.figures
        size = (model_folder(name) / "model.safetensors").stat().st_size
        assert size < 4_000_000
        assert metric.calibration(dims).model == card.name


def test_a_model_for_volumes_refuses_pictures(tmp_path: Path) -> None:
    network = ErrorNetwork(ErrorNetworkSettings(dims=3, stem=4, widths=(2, 3)))
    card = Card(name="tiny", metric="registration_error", network=network.settings.model_dump(mode="json"))
    save_model(tmp_path / "tiny", card, network.state_dict())
    tiny = load_metric(str(tmp_path / "tiny"))
    image = torch.rand(1, 1, 12, 12)
    with pytest.raises(InputError, match="compares 3-D images, not 2-D"):
        tiny(image, image)
    assert isinstance(tiny, RegistrationError)
    with pytest.raises(InputError, match=r"no calibration\.json"):
        tiny.calibration(3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"spacing": -1.0}, "spacing must be positive"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing must be positive"),
        ({"working": math.nan}, "working must be positive"),
    ],
    ids=["negative", "zero", "not a number"],
)
def test_settings_that_cannot_be(settings: dict[str, float], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        RegistrationError(**settings)  # type: ignore[arg-type]


def test_bad_input_in_one_line(metric: RegistrationError) -> None:
    image = torch.rand(1, 1, 12, 12)
    with pytest.raises(InputError, match="one pair with one channel"):
        metric.estimate(image.expand(2, -1, -1, -1), image.expand(2, -1, -1, -1))
    with pytest.raises(InputError, match="holds no voxel"):
        metric.estimate(image, image, torch.zeros_like(image))
    with pytest.raises(SettingsError, match="3 axes"):
        RegistrationError(spacing=(1.0, 1.0, 1.0))(image, image)
    with pytest.raises(InputError, match="too many to work on"):
        RegistrationError(spacing=900.0, working=1.0)(image, image)


def test_network_settings_are_checked() -> None:
    for wrong in ({"knots": (0.0, 2.0, 1.0)}, {"knots": (1.0, 2.0, 3.0)}, {"widths": (0, 3)}):
        with pytest.raises(SettingsError):
            ErrorNetworkSettings.checked(wrong)
    with pytest.raises(SettingsError, match="factor times side"):
        ErrorNetworkSettings.checked({"scales": [{"factor": 1, "side": 2}, {"factor": 2, "side": 2}]})


def test_the_likelihood_prefers_the_truth() -> None:
    network = ErrorNetwork(ErrorNetworkSettings(dims=2, stem=4, widths=(2, 3)))
    error, weights = torch.full((1, 1, 2, 2), 2.25), torch.ones(1, 1, 2, 2)
    related = torch.zeros_like(error)
    logits = torch.zeros(1, len(network.knots) + 1, 2, 2)
    right, wrong = logits.clone(), logits.clone()
    right[:, 6:8], wrong[:, 12] = 8.0, 8.0
    assert network.loss(right, error, related, weights) < network.loss(wrong, error, related, weights)
    said = network.errors(right)
    assert float(said.expected.mean()) == pytest.approx(2.25, abs=0.02)
    assert float(network.loss(logits, error, related, weights)) == pytest.approx(math.log(18), rel=1e-4)
    lost = logits.clone()
    lost[:, -1] = 8.0
    assert float(network.errors(lost).unrelated.mean()) > 0.99
    assert network.loss(lost, error, torch.ones_like(error), weights) < 0.1


def test_shares_of_unrelated_pairs_are_settings() -> None:
    with pytest.raises(SettingsError):
        UnrelatedSettings.checked({"other": 2.0})
