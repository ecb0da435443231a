"""A metric as a loss of MONAI and FireANTs, as a plain function, and as a metric of torchmetrics."""

import math
import sys

import pytest
import torch
from torch import nn

from regsim.errors import SettingsError
from regsim.metrics import REGISTRY, AbstractMetric, load_metric, usable_metrics
from regsim.metrics.adapters import FireantsLoss, MonaiLoss, TorchmetricsMetric, as_loss

LOSSES = [name for name in usable_metrics() if REGISTRY[name].differentiable]
CLASSICAL = [name for name in LOSSES if not REGISTRY[name].trainable]


def blob(shape: tuple[int, ...], shift: float) -> torch.Tensor:
    """Two Gaussian blobs in [0, 1], `shift` voxels along the last axis."""
    axes = torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij")
    image = torch.zeros(shape)
    for part, width in ((0.4, 3.0), (0.65, 2.0)):
        place = [part * n + (shift if axis == len(shape) - 1 else 0) for axis, n in enumerate(shape)]
        image += torch.exp(-sum((x - c) ** 2 for x, c in zip(axes, place, strict=True)) / (2 * width**2))
    return (image / image.max())[None, None]


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    first, second = blob((24, 26), 0), blob((24, 26), 2)
    return torch.cat([first, second]), torch.cat([second, second])


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_mean_cost_and_falls_with_alignment(name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    fixed, moved = pair
    metric = load_metric(name)
    loss = MonaiLoss(metric)
    expected = metric.cost(metric(fixed, moved))
    torch.testing.assert_close(loss(moved, fixed), expected.mean())
    torch.testing.assert_close(as_loss(metric)(moved, fixed), expected.mean())
    torch.testing.assert_close(FireantsLoss(metric)(moved, fixed), expected.mean())
    torch.testing.assert_close(MonaiLoss(metric, "none")(moved, fixed), expected)
    torch.testing.assert_close(MonaiLoss(metric, "sum")(moved, fixed), expected.sum())
    assert loss(fixed, fixed) < loss(moved, fixed)


def test_a_mask_and_both_gradients_go_through(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    fixed, moved = (image.clone().requires_grad_() for image in pair)
    mask = torch.zeros(1, 1, 24, 26)
    mask[..., :12] = 1
    MonaiLoss("mse")(moved, fixed, mask).backward()
    assert moved.grad is not None
    assert fixed.grad is not None
    assert moved.grad[..., :12].abs().max() > 0
    assert moved.grad[..., 12:].abs().max() == 0
    torch.testing.assert_close(moved.grad, -fixed.grad)


def test_what_cannot_be_a_loss_is_said() -> None:
    with pytest.raises(SettingsError, match="no gradient"):
        MonaiLoss("registration_error")
    with pytest.raises(SettingsError, match="unknown reduction 'men'; did you mean 'mean'"):
        MonaiLoss("mse", "men")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="unknown metric 'mimd'"):
        as_loss("mimd")
    with pytest.raises(SettingsError, match="padding"):
        FireantsLoss("mse", padding=-1)


# --- MONAI ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:monai.networks.blocks.Warp")
@pytest.mark.parametrize("name", ["mse", "lncc", "mind"])
def test_a_field_of_monai_lowers_the_loss(name: str) -> None:
    blocks = pytest.importorskip("monai.networks.blocks", reason="MONAI is not installed")
    fixed, moving = blob((16, 18, 20), 0), blob((16, 18, 20), 1.5)
    warp, field = blocks.Warp(mode="bilinear", padding_mode="border"), torch.zeros(1, 3, 16, 18, 20, requires_grad=True)
    loss, steps = MonaiLoss(name), torch.optim.Adam([field], lr=0.1)
    costs = []
    for _ in range(12):
        steps.zero_grad()
        cost = loss(warp(moving, field), fixed)
        cost.backward()
        steps.step()
        costs.append(cost.item())
    span = abs(loss(fixed, fixed).item() - costs[0])
    assert costs[-1] < costs[0] - 0.2 * span
    assert field.detach().abs().max() > 0.5


def test_it_stands_where_a_loss_of_monai_stands() -> None:
    losses = pytest.importorskip("monai.losses", reason="MONAI is not installed")
    fixed, moved = blob((12, 12, 12), 0), blob((12, 12, 12), 1)
    several = losses.MultiScaleLoss(MonaiLoss("mse"), scales=[1, 2])
    assert 0 < several(moved, fixed).item() < 1


# --- FireANTs -------------------------------------------------------------------------------------------------------


def test_fireants_finds_what_it_asks_a_loss_for(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """It is called (moved, fixed), wants one number to go back from, and asks for a padding."""
    loss = FireantsLoss("lncc", padding=4)
    fixed, moved = pair[0], pair[1].clone().requires_grad_()
    assert isinstance(loss, nn.Module)
    assert loss.get_image_padding() == 4
    value = loss(moved, fixed)
    assert value.ndim == 0
    value.backward()
    assert moved.grad is not None
    assert moved.grad.abs().max() > 0
    assert not hasattr(loss, "set_iterations")
    assert not hasattr(loss, "set_scales")


# --- torchmetrics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSICAL)
def test_torchmetrics_mean_over_batches(name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    fixed, moved = pair
    metric: AbstractMetric = load_metric(name)
    wrapped = TorchmetricsMetric(metric)
    assert (wrapped.is_differentiable, wrapped.higher_is_better) == (metric.differentiable, metric.higher_is_better)
    assert wrapped.full_state_update is False
    batch = wrapped(fixed[:1], moved[:1])
    wrapped.update(fixed, moved)
    values = torch.cat([metric(fixed[:1], moved[:1]), metric(fixed, moved)]).double()
    torch.testing.assert_close(batch, values[:1].mean())
    torch.testing.assert_close(wrapped.compute(), values.mean())
    wrapped.reset()
    wrapped.update(fixed[1:], moved[1:])
    torch.testing.assert_close(wrapped.compute(), values[2])


def test_torchmetrics_collections_take_it(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    both = torchmetrics.MetricCollection({"ours": TorchmetricsMetric("mse"), "theirs": torchmetrics.MeanSquaredError()})
    both.update(*pair)
    found = both.clone().compute()
    assert math.isclose(found["ours"].item(), found["theirs"].item(), rel_tol=1e-5)


def test_without_torchmetrics_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torchmetrics", raising=False)
    monkeypatch.setattr("regsim.metrics.adapters.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="pip install torchmetrics"):
        TorchmetricsMetric("mse")
