"""The metric contract: what every metric, classical or learned, ours or a stranger's, promises.

A metric compares a fixed with a moving image that lie on one grid. Subclasses write `_bind` (the fixed image's half of
the work) and `_compare` (the rest); everything else is here.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self, final

import torch
from torch import nn

from regsim import checks
from regsim.errors import InputError, SettingsError, unknown_name
from regsim.kernels.masking import inside

Expects = Literal["any", "unit"]
REGISTRY: dict[str, type["AbstractMetric"]] = {}


class BoundMetric:
    """A metric whose fixed half is done: `bound(moving, overlap=None) -> (N,)`, the published value.

    `overlap`: `(N or 1, 1, *spatial)` weights in [0, 1] that say where the moving image has data; they multiply the
    mask where contributions are averaged, and no gradient flows to them (a cost must not fall by pushing the images
    apart). Registration uses only this.

    `reads`: the voxels that the value depends on, as indices into the flattened `spatial`, sorted, or None: all of them.
    Registration need not fill in the others.
    """

    def __init__(
        self,
        compare: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
        reads: torch.Tensor | None = None,
    ):
        self._compare, self.reads = compare, reads

    def __call__(self, moving: torch.Tensor, overlap: torch.Tensor | None = None) -> torch.Tensor:
        """Compare one moving image (or batch) with the bound fixed image."""
        return self._compare(moving, overlap)


class AbstractMetric(nn.Module, ABC):
    """A similarity (or dissimilarity) of two images.

    Facts on the class are tested over the registry, not trusted:

    - `name`: how the command line and the tables call it.
    - `higher_is_better`, `value_range` (closed ends where reached), `unit` ("" where it has none).
    - `differentiable`: with respect to the moving image.
    - `symmetric`: `m(a, b) == m(b, a)`.
    - `multimodal`: meant for two contrasts.
    - `trainable`: has weights that were learnt.
    - `expects`: "any" intensities, or "unit" (scaled to [0, 1] by the caller).
    - `has_map`: `map` exists.
    - `pointwise`: voxels are compared one by one, wherever they lie, so any sample of them will do.
    - `joint`: channels mean different things and are compared together; else each by itself, and the values averaged.
    - `costly`: takes seconds, and gigabytes, at 1 mm; a registration's page shows it only where it drove.
    - `settles_late`: what it finds at one level is still a voxel or more off at the next; default plans then give every linear
      level the steps of a first one.
    - `needs`: what the user must give before it can be used at all ("" where it works by its name alone).
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    value_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    unit: ClassVar[str] = ""
    differentiable: ClassVar[bool] = True
    symmetric: ClassVar[bool] = True
    multimodal: ClassVar[bool] = False
    trainable: ClassVar[bool] = False
    expects: ClassVar[Expects] = "any"
    has_map: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    costly: ClassVar[bool] = False
    settles_late: ClassVar[bool] = False
    needs: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__ and cls.__module__.startswith("regsim.metrics."):
            REGISTRY[cls.name] = cls

    # --- what a metric writes ---------------------------------------------------------------------------------------

    @abstractmethod
    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> Any:
        """The fixed half. `fixed` is `(M, 1, *spatial)` (channels folded into the batch; `(N, C, *spatial)` where `joint`),
        `weights` `(M, 1, *spatial)` or None."""

    @abstractmethod
    def _compare(self, state: Any, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        """The value, `(M,)`, of `moving` `(M, 1, *spatial)` against what `_bind` returned."""

    def _reads(self, state: Any) -> torch.Tensor | None:
        """See `BoundMetric.reads`: of what `_bind` returned. Most metrics compare all voxels."""
        del state
        return None

    def _local(self, state: Any, moving: torch.Tensor) -> torch.Tensor:
        """The map, `(M, 1, *spatial)`, lower = better aligned."""
        raise SettingsError(f"metric '{self.name}' has no local map")

    # --- what everybody calls ---------------------------------------------------------------------------------------

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """The published value for each pair of a batch.

        Args:
            fixed: `(N, C, H, W)` or `(N, C, D, H, W)`, floating point.
            moving: the same shape. Channels are compared one by one and averaged, unless the metric is `joint`.
            mask: `(N or 1, 1, *spatial)`, bool or weights in [0, 1]. Voxels outside cannot change the value.

        Returns:
            `(N,)`.

        Raises:
            InputError: wrong rank, empty, integer values, two types or devices; a mask outside [0, 1].
            GridError: shapes that differ.
        """
        _check_pair(fixed, moving)
        return self.bind(fixed, mask)(moving)

    @final
    def bind(self, fixed: torch.Tensor, mask: torch.Tensor | None = None) -> BoundMetric:
        """Do the fixed image's half once; the result is called with moving images. Same arguments as `forward`."""
        checks.image_batch(fixed, "fixed")
        weights = None if mask is None else checks.mask_batch(mask, fixed)
        folded = 1 if self.joint else fixed.shape[1]
        state = self._bind(self._fold(_inside(fixed, weights)), _repeat(weights, folded))

        def compare(moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
            _check_pair(fixed, moving)
            seen = None if overlap is None else checks.mask_batch(overlap.detach(), fixed, "overlap")
            values = self._compare(state, self._fold(_inside(moving, weights)), _repeat(seen, folded))
            return values.reshape(fixed.shape[0], folded).mean(dim=1)

        return BoundMetric(compare, self._reads(state))

    @final
    def map(self, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Where the images disagree: `(N, 1, *spatial)`, lower = better aligned; 0 outside the mask.

        Raises:
            SettingsError: this metric has no local map (`has_map`).
        """
        _check_pair(fixed, moving)
        weights = None if mask is None else checks.mask_batch(mask, fixed)
        folded = 1 if self.joint else fixed.shape[1]
        state = self._bind(self._fold(_inside(fixed, weights)), _repeat(weights, folded))
        local = self._local(state, self._fold(_inside(moving, weights)))
        return _inside(local.reshape(len(fixed), folded, *fixed.shape[2:]).mean(dim=1, keepdim=True), weights)

    def _fold(self, tensor: torch.Tensor) -> torch.Tensor:
        """Channels into the batch, `(N, C, ...)` to `(N * C, 1, ...)`, unless they are compared together."""
        return tensor if self.joint else tensor.reshape(-1, 1, *tensor.shape[2:])

    def with_spacing(self, spacing: tuple[float, ...]) -> Self:
        """The metric for images whose voxels have this spacing, z first. Most do not depend on it, and come back as they are."""
        del spacing
        return self

    def with_view(self, view: torch.Tensor) -> Self:
        """The metric for a moving image that shows a part of the fixed one.

        A registration says so at the start of each level. Most metrics do not care, and come back as they are: what is not
        seen does not count in any case (`BoundMetric`).

        Args:
            view: `(1, 1, *spatial)`, in [0, 1]: where the moving image has data as it lies now.
        """
        del view
        return self

    def coarsest(self, dims: int, linear: bool) -> float:
        """The largest voxel (mm; pixels for pictures without spacing) that it can drive a registration by.

        Registrations do the levels of their plan that are coarser at this one. Most metrics know no such end.

        Args:
            dims: of the images.
            linear: rigid to affine transforms, which cannot bend an image to what a metric misjudges; else deformations.
        """
        del dims, linear
        return math.inf

    @final
    def cost(self, value: torch.Tensor) -> torch.Tensor:
        """A value as a cost, lower = better: the one place where a sign is turned."""
        return -value if self.higher_is_better else value

    @classmethod
    def create(cls, **settings: Any) -> Self:
        """Construct with named settings; an unknown name, or a value not of the default's kind, is an error."""
        own = cls.__init__ is not nn.Module.__init__
        known = {name: setting.default for name, setting in inspect.signature(cls).parameters.items() if own}
        for name, value in settings.items():
            if name not in known:
                if not known:
                    raise SettingsError(f"metric '{cls.name}' has no settings, got '{name}'")
                raise unknown_name(f"setting of metric '{cls.name}'", name, list(known))
            if not _same_kind(value, known[name]):
                kind = type(known[name]).__name__
                raise SettingsError(f"{cls.name}: setting '{name}' expects {kind}, got {value!r}")
        return cls(**settings)


def _same_kind(value: object, default: object) -> bool:
    """Whether a setting may take this value: int for int, int or float for float; no default allows all."""
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    if isinstance(default, int | float):
        allowed = int if isinstance(default, int) else int | float
        return isinstance(value, allowed) and not isinstance(value, bool)
    return True


def _check_pair(fixed: torch.Tensor, moving: torch.Tensor) -> None:
    """One rank, one shape, one floating type, one device."""
    checks.image_batch(moving, "moving")
    checks.image_batch(fixed, "fixed")
    checks.same_shape(fixed, moving)
    if fixed.dtype != moving.dtype or fixed.device != moving.device:
        raise InputError(
            f"fixed is {fixed.dtype} on {fixed.device}, moving {moving.dtype} on {moving.device}; "
            "convert one with moving.to(fixed)"
        )


def _inside(tensor: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Zero outside the mask, so that not even a NaN there can reach the value."""
    return tensor if weights is None else inside(tensor, weights)


def _repeat(weights: torch.Tensor | None, channels: int) -> torch.Tensor | None:
    """Weights for folded channels."""
    if weights is None:
        return None
    return weights.contiguous() if channels == 1 else weights.repeat_interleave(channels, dim=0)


def weighted_mean(local: torch.Tensor, weights: torch.Tensor | None, overlap: torch.Tensor | None) -> torch.Tensor:
    """Mean over all voxels, `(M,)`, weighted by mask and overlap; 0 where both leave nothing."""
    together = combine(weights, overlap)
    if together is None:
        return local.flatten(1).mean(dim=1)
    total = together.flatten(1).sum(dim=1)
    return (local * together).flatten(1).sum(dim=1) / total.clamp_min(torch.finfo(total.dtype).tiny)


def combine(weights: torch.Tensor | None, overlap: torch.Tensor | None) -> torch.Tensor | None:
    """Mask times overlap, either of which may be absent."""
    if weights is None or overlap is None:
        return overlap if weights is None else weights
    return weights * overlap


def extremes(image: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimum and maximum of each item where weights are positive, `(M,)`; 0 and 0 where none are."""
    flat = image.flatten(1)
    if weights is None:
        return flat.amin(dim=1), flat.amax(dim=1)
    seen = (weights > 0).flatten(1)
    empty = ~seen.any(dim=1)
    low = torch.where(seen, flat, math.inf).amin(dim=1).masked_fill(empty, 0)
    high = torch.where(seen, flat, -math.inf).amax(dim=1).masked_fill(empty, 0)
    return low, high
