"""What `benchmarks.metrics` measures: for each computation, regsim and the peers as one call with value and gradient."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks.peers import plain
from regsim.images.grid import Grid
from regsim.metrics import load_metric
from regsim.registration.penalties import PENALTIES
from regsim.transforms import ControlGrid
from regsim.transforms.sampling import sample, to_unit

Answer = tuple[float, torch.Tensor | None]
Call = Callable[[], Answer]
Shape = tuple[int, ...]
OURS = "regsim"


@dataclass(frozen=True)
class Contestant:
    """One way to compute it.

    `prepare(shape)` gives the call to be timed: value and gradient. `bound(shape)` the same with the fixed image's half done
    beforehand. `interior(shape)` the value over windows that lie wholly in the image; `spread(shape)`: over how many voxels
    the value is a mean, which is the scale of the gradient.
    """

    who: str
    prepare: Callable[[Shape], Call]
    bound: Callable[[Shape], Call] | None = None
    interior: Callable[[Shape], float] | None = None
    spread: Callable[[Shape], int] | None = None


@dataclass(frozen=True)
class MetricCase:
    """One computation. `margin`: voxels at the border where gradients may differ. `note`: what differs there, or altogether."""

    what: str
    contestants: tuple[Contestant, ...]
    margin: int = 0
    same: bool = True
    note: str = ""


def pair(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Two smooth images with noise, alike but not equal, `(1, 1, *shape)` in [0, 1]; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((2, 1, *(max(4, n // 8) for n in shape)), generator=generator)
    smooth = F.interpolate(coarse, shape, mode="trilinear", align_corners=True)
    noise = 0.04 * torch.rand((2, 1, *shape), generator=generator)
    mixed = torch.stack([smooth[0], 0.7 * smooth[0] + 0.3 * smooth[1]])
    first, second = (0.95 * mixed + noise).clamp(0, 1)
    return first[None], second[None]


# --- metrics ----------------------------------------------------------------------------------------------------------


Compare = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def comparison(compare: Compare) -> Callable[[Shape], Call]:
    """A function of two images as a call with the gradient of its value with respect to the moving image."""

    def prepare(shape: Shape) -> Call:
        fixed, moving = pair(shape)
        moving.requires_grad_(True)
        return lambda: _differentiated(compare(fixed, moving), moving)

    return prepare


def _differentiated(value: torch.Tensor, leaf: torch.Tensor) -> Answer:
    if not value.requires_grad:
        return float(value.sum()), None
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return float(value.detach().sum()), gradient


def ours(name: str, crop: int = 0, sign: float = 0.0) -> Contestant:
    """A metric of regsim. Its map (times `sign`, plus 1 where that is -1) gives the value over the interior."""
    metric = load_metric(name)

    def bound(shape: Shape) -> Call:
        fixed, moving = pair(shape)
        ready = metric.bind(fixed)
        moving.requires_grad_(True)
        return lambda: _differentiated(ready(moving), moving)

    def interior(shape: Shape) -> float:
        local = cropped(metric.map(*pair(shape)), crop).double().mean()
        return float(1 - local if sign < 0 else local)

    return Contestant(OURS, comparison(metric), bound, interior if sign else None)


def cropped(tensor: torch.Tensor, margin: int) -> torch.Tensor:
    """The last three axes without `margin` voxels on either side."""
    inside = slice(margin, -margin if margin else None)
    return tensor[..., inside, inside, inside]


def _lncc() -> MetricCase:
    from benchmarks.peers import monai

    def interior(shape: Shape) -> float:
        return float(cropped(monai.lncc(*pair(shape), reduction="none"), 4).double().mean())

    contestants = (ours("lncc:window=9", 4, -1.0), Contestant("MONAI", comparison(monai.lncc), interior=interior))
    note = "MONAI pads by zeros, here the window shrinks: 8 voxels at the border differ"
    return MetricCase("LNCC 9", contestants, 8, note=note)


def _mutual_information(kernel: str) -> MetricCase:
    from benchmarks.peers import monai

    peer = comparison(lambda fixed, moving: monai.mutual_information(fixed, moving, kernel))
    note = {
        "gaussian": "MONAI: Gaussian windows; here cubic splines on both images: values differ by definition",
        "b-spline": "MONAI: a box for the fixed image; here splines on both: values differ by definition",
    }[kernel]
    contestants = (ours("mi:bins=23"), Contestant("MONAI", peer))
    return MetricCase(f"MI 23 bins ({kernel})", contestants, same=False, note=note)


def _ssim() -> MetricCase:
    from benchmarks.peers import monai, skimage, torchmetrics

    def interior(shape: Shape) -> float:
        return float(cropped(torchmetrics.local_ssim(*pair(shape)), 5).double().mean())

    peers = (
        Contestant("MONAI", comparison(monai.ssim), interior=_alone(monai.ssim), spread=_inner),
        Contestant("torchmetrics", comparison(torchmetrics.ssim), interior=interior),
        Contestant("scikit-image", comparison(skimage.ssim), interior=_alone(skimage.ssim)),
    )
    note = (
        "MONAI and scikit-image leave out windows that cross the border, torchmetrics reflects it: 10 voxels differ. "
        "scikit-image: value only, no gradient"
    )
    return MetricCase("SSIM", (ours("ssim:data_range=1.0", 5, -1.0), *peers), 10, note=note)


def _alone(compare: Compare) -> Callable[[Shape], float]:
    return lambda shape: float(compare(*pair(shape)))


def _inner(shape: Shape) -> int:
    return (shape[0] - 10) * (shape[1] - 10) * (shape[2] - 10)


def _mind() -> MetricCase:
    from benchmarks.peers import convexadam

    def interior(shape: Shape) -> float:
        return float(cropped(convexadam.descriptor_distance(*pair(shape)), 4).double().mean())

    peer = comparison(lambda fixed, moving: convexadam.descriptor_distance(fixed, moving).mean())
    contestants = (ours("mind", 4, 1.0), Contestant("convexAdam", peer, interior=interior))
    note = "convexAdam repeats border values, here patches shrink: 8 voxels at the border differ"
    return MetricCase("MIND-SSC", contestants, 8, note=note)


def _plain(name: str, compare: Compare) -> MetricCase:
    return MetricCase(name.upper(), (ours(name), Contestant("torch", comparison(compare))))


# --- warp, penalties, control grid ------------------------------------------------------------------------------------


def _points(shape: Shape) -> tuple[Grid, torch.Tensor, torch.Tensor]:
    """Grid, points displaced by a smooth field of up to 2 voxels, and that field `(*shape, 3)`."""
    grid = Grid.of(shape)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand((1, 3, *(max(4, n // 16) for n in shape)), generator=generator) * 4 - 2
    field = F.interpolate(coarse, shape, mode="trilinear", align_corners=True)[0].movedim(0, -1).contiguous()
    return grid, grid.points() + field, field


def _our_warp(shape: Shape) -> Call:
    fixed, moving = pair(shape)
    grid, points, _ = _points(shape)
    points.requires_grad_(True)

    def call() -> Answer:
        carried = sample(moving, grid, points, "linear", "border")
        (gradient,) = torch.autograd.grad(carried, points, fixed)
        return float(carried.detach().mean()), gradient.movedim(-1, 0)

    return call


def _plain_warp(shape: Shape) -> Call:
    fixed, moving = pair(shape)
    grid, points, _ = _points(shape)
    unit = to_unit(points, grid).requires_grad_(True)
    scale = torch.tensor([2.0 / (n - 1) for n in grid.size])

    def call() -> Answer:
        carried = plain.grid_sample(moving, unit)
        (gradient,) = torch.autograd.grad(carried, unit, fixed)
        return float(carried.detach().mean()), (gradient * scale).movedim(-1, 0)

    return call


def _penalty(name: str) -> MetricCase:
    def prepare(own: bool) -> Callable[[Shape], Call]:
        def made(shape: Shape) -> Call:
            grid, _, field = _points(shape)
            field = (4 * field).requires_grad_(True)
            if own:
                return lambda: _differentiated(PENALTIES[name](field, grid), field)
            return lambda: _differentiated(getattr(plain, name)(field), field)

        return made

    return MetricCase(f"penalty {name}", (Contestant(OURS, prepare(True)), Contestant("torch", prepare(False))))


def _control_grid() -> MetricCase:
    def prepare(own: bool) -> Callable[[Shape], Call]:
        def made(shape: Shape) -> Call:
            grid, _, field = _points(shape)
            control = ControlGrid.with_spacing(grid, 4.0)
            matrices = control.matrices(grid)
            upstream = field.movedim(-1, 0).contiguous()
            torch.manual_seed(2)
            control.coefficients.data.normal_()

            def call() -> Answer:
                expanded = control.expand(matrices) if own else plain.expand(control.coefficients, matrices)
                (gradient,) = torch.autograd.grad(expanded, control.coefficients, upstream)
                return float(expanded.detach()[0, 0].double().mean()), gradient

            return call

        return made

    contestants = (Contestant(OURS, prepare(True)), Contestant("torch", prepare(False)))
    return MetricCase("control grid, 4 voxels", contestants)


CASES: dict[str, Callable[[], MetricCase]] = {
    "lncc": _lncc,
    "mi": lambda: _mutual_information("gaussian"),
    "mi_b_spline": lambda: _mutual_information("b-spline"),
    "ssim": _ssim,
    "mind": _mind,
    "warp": lambda: MetricCase(
        "warp",
        (Contestant(OURS, _our_warp), Contestant("torch", _plain_warp)),
        2,
        note="points that rounding puts beyond a voxel border have the neighbouring cell's slope: a few in a million",
    ),
    "mse": lambda: _plain("mse", plain.mse),
    "ncc": lambda: _plain("ncc", plain.ncc),
    "diffusion": lambda: _penalty("diffusion"),
    "bending": lambda: _penalty("bending"),
    "jacobian": lambda: _penalty("jacobian"),
    "control_grid": _control_grid,
}
