"""Any metric as a loss in other programs: MONAI, FireANTs, plain torch; and as a metric of torchmetrics."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from regsim.errors import SettingsError, unknown_name
from regsim.metrics.base import AbstractMetric
from regsim.metrics.names import load_metric

Reduction = Literal["mean", "sum", "none"]
Loss = Callable[..., torch.Tensor]


class MonaiLoss(nn.Module):
    """A metric as MONAI's image losses are called: `loss(pred, target) -> scalar`, lower = better aligned.

    `pred` is the moved image, `target` the fixed one, both `(N, C, H, W)` or `(N, C, D, H, W)`. The value is the mean of the
    metric's cost over the batch; both images get a gradient. Learned metrics keep their weights: these are frozen.

    Convention:
        The moved image comes first, as in MONAI and FireANTs. VoxelMorph calls `loss(y_true, y_pred)`: exchange the two
        there, unless the metric is symmetric.

    Args:
        metric: a metric, or its name with settings, such as "mind:radius=2".
        reduction: "mean", "sum" or "none" (one number a pair), as in MONAI.

    Raises:
        SettingsError: an unknown metric or reduction, or a metric without a gradient.

    Example:
        >>> MonaiLoss("mse")(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)).item()
        1.0
        >>> round(MonaiLoss("ncc")(torch.eye(4)[None, None], torch.eye(4)[None, None]).item(), 4)
        -1.0

    References:
        Cardoso et al., MONAI, 2022, doi:10.48550/arXiv.2211.02701.
    """

    def __init__(self, metric: str | AbstractMetric, reduction: Reduction = "mean"):
        super().__init__()
        self.metric, self.reduction = _with_gradient(metric), _checked(reduction)

    def forward(self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """The cost of a moved image; `mask` `(N or 1, 1, *spatial)` says where the images count."""
        return _reduced(self.metric.cost(self.metric(target, pred, mask)), self.reduction)


class FireantsLoss(MonaiLoss):
    """A metric as FireANTs wants a loss of one's own: `loss_type="custom", custom_loss=FireantsLoss(metric)`.

    FireANTs calls `loss(moved, fixed)` and asks `get_image_padding()` only where one image is shared out among GPUs: how
    many voxels of its neighbours each GPU must see.

    Args:
        metric: a metric, or its name with settings.
        padding: voxels around a voxel that its value depends on; 0 is right for metrics of single voxels.

    Raises:
        SettingsError: an unknown metric, a metric without a gradient, a negative padding.

    Example:
        >>> loss = FireantsLoss("mind", padding=3)
        >>> loss.get_image_padding(), loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)).item()
        (3, 0.0)

    References:
        Jena, Chaudhari and Gee, FireANTs, 2024, doi:10.48550/arXiv.2404.01249.
    """

    def __init__(self, metric: str | AbstractMetric, padding: int = 0):
        super().__init__(metric)
        if padding < 0:
            raise SettingsError(f"padding: expected voxels, 0 or more, got {padding}")
        self.padding = padding

    def get_image_padding(self) -> int:
        """Voxels that neighbouring parts of an image share."""
        return self.padding


def as_loss(metric: str | AbstractMetric, reduction: Reduction = "mean") -> Loss:
    """A metric as a plain function `loss(moved, fixed, mask=None) -> scalar`, lower = better aligned.

    Args:
        metric: a metric, or its name with settings.
        reduction: "mean", "sum" or "none" over the batch.

    Raises:
        SettingsError: as `MonaiLoss`.

    Example:
        >>> as_loss("mae")(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 2.0)).item()
        2.0
    """
    loss = MonaiLoss(metric, reduction)

    def call(moved: torch.Tensor, fixed: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        value: torch.Tensor = loss(moved, fixed, mask)
        return value

    return call


def TorchmetricsMetric(metric: str | AbstractMetric) -> Any:  # noqa: N802  (it gives an object of that kind)
    """A metric as a `torchmetrics.Metric`: `update(fixed, moving)` for each batch, `compute()` the mean over all pairs.

    The value is the published one, not the cost. `is_differentiable` and `higher_is_better` are the metric's own facts;
    `full_state_update` is False, since an update depends on nothing before it. Sums are float64 and are added up over processes.

    Args:
        metric: a metric, or its name with settings.

    Raises:
        SettingsError: torchmetrics is not installed, or an unknown metric.

    References:
        Detlefsen et al., TorchMetrics, 2022, doi:10.21105/joss.04101.
    """
    found = load_metric(metric)
    if find_spec("torchmetrics") is None:
        raise SettingsError("TorchmetricsMetric needs torchmetrics; install it with: pip install torchmetrics")
    return _torchmetrics_class(found)()


def _torchmetrics_class(metric: AbstractMetric) -> type[Any]:
    """Made here, since torchmetrics is not there for everybody, and wants a metric's facts on the class."""

    class Mean(import_module("torchmetrics").Metric):  # type: ignore[misc]  # known at run time only
        """The mean of a metric over all pairs seen."""

        is_differentiable, higher_is_better, full_state_update = metric.differentiable, metric.higher_is_better, False
        total: torch.Tensor
        pairs: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.metric = metric
            for name in ("total", "pairs"):
                self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

        def update(self, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor | None = None) -> None:
            """One batch of pairs."""
            values = self.metric(fixed, moving, mask)
            self.total = self.total + values.double().sum()
            self.pairs = self.pairs + len(values)

        def compute(self) -> torch.Tensor:
            """The mean."""
            mean: torch.Tensor = self.total / self.pairs
            return mean

    return Mean


def _with_gradient(metric: str | AbstractMetric) -> AbstractMetric:
    found = load_metric(metric)
    if not found.differentiable:
        raise SettingsError(f"metric '{found.name}' has no gradient, so it cannot be a loss; choose another")
    return found


def _checked(reduction: Reduction) -> Reduction:
    if reduction not in ("mean", "sum", "none"):
        raise unknown_name("reduction", reduction, ["mean", "sum", "none"])
    return reduction


def _reduced(values: torch.Tensor, reduction: Reduction) -> torch.Tensor:
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()
