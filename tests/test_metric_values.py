"""One table of reference values with their source, and slow second implementations from the papers' formulas."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from scipy.interpolate import BSpline
from skimage.metrics import mean_squared_error, normalized_mutual_information, structural_similarity

from regsim.kernels import histogram
from regsim.kernels.box import box_sum, gaussian_sum
from regsim.metrics import AbstractMetric, load_metric

from .metric_cases import half_mask, metric, noisy, textured

Array = np.ndarray
Pair = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


def _texture(*spatial: int) -> Pair:
    fixed = textured((1, 1, *spatial))
    return fixed, noisy(0.6 * fixed + 0.4 * textured((1, 1, *spatial), seed=5))


def _with_labels(pair: Pair) -> Pair:
    """Two soft labels beside the grey values."""
    soft = [textured((1, 2, *image.shape[2:]), seed) for image, seed in zip(pair, (7, 8), strict=True)]
    return torch.cat([pair[0], soft[0]], dim=1), torch.cat([pair[1], soft[1]], dim=1)


def _numpy(pair: Pair) -> tuple[Array, Array]:
    return pair[0][0, 0].numpy(), pair[1][0, 0].numpy()


# --- other libraries ------------------------------------------------------------------------------------------------


def _itk(pair: Pair, choose: Callable[[sitk.ImageRegistrationMethod], None]) -> float:
    """SimpleITK's metric at the identity, on all voxels."""
    method = sitk.ImageRegistrationMethod()
    choose(method)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    fixed, moving = (sitk.GetImageFromArray(image.astype(np.float64)) for image in _numpy(pair))
    method.SetInitialTransform(sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity))
    return float(method.MetricEvaluate(fixed, moving))


def _monai_mutual_information(pair: Pair, bins: int) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's own deprecations
        from monai.losses import GlobalMutualInformationLoss
    loss = GlobalMutualInformationLoss(kernel_type="b-spline", num_bins=bins)
    return -float(loss(pair[1].float(), pair[0].float()))


def _monai_lncc(pair: Pair, window: int) -> Array:
    """MONAI's map of cc^2 without its zero-padded border."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.losses import LocalNormalizedCrossCorrelationLoss
    loss = LocalNormalizedCrossCorrelationLoss(
        spatial_dims=pair[0].ndim - 2, kernel_size=window, reduction="none", smooth_nr=0, smooth_dr=1e-12
    )
    return _interior(-loss(pair[1], pair[0])[0, 0].numpy(), window // 2)


def _monai_dice(pair: Pair) -> float:
    """Of all channels but the first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.losses import DiceLoss
    loss = DiceLoss(squared_pred=True, smooth_nr=0, smooth_dr=0)
    return 1 - float(loss(pair[0][:, 1:], pair[1][:, 1:]))


def _slow_nccsup(pair: Pair) -> float:
    return _slow_lncc(pair, 5) + 2 * _monai_dice(pair)


def _interior(image: Array, margin: int) -> Array:
    return image[(slice(margin, -margin),) * image.ndim]


def _spline_mi(pair: Pair, bins: int, normalised: bool = False) -> float:
    """Mutual information from scipy's cubic B-spline, voxel by voxel."""
    spline = BSpline.basis_element(np.arange(-2, 3), extrapolate=False)
    rows = []
    for image in _numpy(pair):
        flat = image.ravel()
        position = 1 + (flat - flat.min()) / (flat.max() - flat.min()) * (bins - 3)
        rows.append(np.nan_to_num(spline(np.arange(bins)[None] - position[:, None])))
    joint = rows[0].T @ rows[1] / len(rows[0])
    entropies = [-np.sum(p[p > 0] * np.log(p[p > 0])) for p in (joint.sum(1), joint.sum(0), joint)]
    if normalised:
        return float((entropies[0] + entropies[1]) / entropies[2])
    return float(entropies[0] + entropies[1] - entropies[2])


# --- slow second implementations ------------------------------------------------------------------------------------


def _slow_mind(image: Array, radius: int, dilation: int) -> tuple[Array, Array]:
    """Heinrich 2013, eq. 1-3 with min-subtraction, voxel by voxel; descriptors and their validity, channels first."""
    dims = image.ndim
    faces = [sign * dilation * np.eye(dims, dtype=int)[axis] for axis in range(dims) for sign in (-1, 1)]
    pairs = [(a, b) for a, b in itertools.combinations(faces, 2) if np.isclose(np.sum((a - b) ** 2), 2 * dilation**2)]
    patch = [np.array(step) for step in itertools.product(range(-radius, radius + 1), repeat=dims)]
    distance = np.full((len(pairs), *image.shape), np.nan)
    for channel, (a, b) in enumerate(pairs):
        for place in np.ndindex(image.shape):
            squares = []
            for step in patch:
                one, two = np.array(place) + a + step, np.array(place) + b + step
                inside = [np.all(p >= 0) and np.all(p < image.shape) for p in (one, two)]
                if all(inside):
                    squares.append((image[tuple(one)] - image[tuple(two)]) ** 2)
            if squares:
                distance[(channel, *place)] = np.mean(squares)
    valid = ~np.isnan(distance)
    excess = distance - np.nanmin(distance, axis=0)
    noise = np.nanmean(excess, axis=0)
    noise = np.clip(noise, 1e-3 * noise.mean(), 1e3 * noise.mean())
    return np.exp(-excess / noise), valid


def _slow_mind_distance(pair: Pair, radius: int, dilation: int) -> float:
    (fixed, valid), (moving, _) = (_slow_mind(image, radius, dilation) for image in _numpy(pair))
    squares = np.where(valid, (fixed - moving) ** 2, 0)
    return float((squares.sum(axis=0) / valid.sum(axis=0)).mean())


def _slow_ngf(pair: Pair) -> float:
    """Haber and Modersitzki 2006: 1 - <n(F), n(M)>^2 with central differences (numpy's, one-sided at the border)."""
    normals = []
    for image in _numpy(pair):
        gradient = np.stack(np.gradient(image))
        length = np.sqrt((gradient**2).sum(axis=0))
        normals.append(gradient / np.sqrt(length**2 + length.mean() ** 2))
    return float(np.mean(1 - (normals[0] * normals[1]).sum(axis=0) ** 2))


def _slow_lncc(pair: Pair, window: int) -> float:
    """cc^2 of each voxel's window by numpy's corrcoef, windows cut at the border."""
    fixed, moving = _numpy(pair)
    radius, values = window // 2, []
    for place in np.ndindex(fixed.shape):
        box = tuple(slice(max(0, p - radius), p + radius + 1) for p in place)
        values.append(np.corrcoef(fixed[box].ravel(), moving[box].ravel())[0, 1] ** 2)
    return float(np.mean(values))


# --- the table ------------------------------------------------------------------------------------------------------

FLAT, RAMP = (
    torch.full((1, 1, 6, 7), 0.25, dtype=torch.float64),
    torch.arange(42.0, dtype=torch.float64).reshape(1, 1, 6, 7),
)
ACROSS = torch.arange(6.0, dtype=torch.float64).reshape(1, 1, 6, 1).expand(1, 1, 6, 6)
HALVES = _row(0, 0, 0, 0, 1, 1, 1, 1)
WINDOW = -sum(p * math.log(p) for p in (1 / 6, 4 / 6, 1 / 6))  # entropy of a cubic B-spline that sits on a bin
TABLE = -sum(
    p * math.log(p) for p in (3 / 8, 3 / 8, 1 / 8, 1 / 8)
)  # of the joint table of HALVES with one in four swapped
LN2 = math.log(2)
LABELLED = torch.cat([RAMP, (RAMP % 7 < 4).double(), (RAMP % 7 >= 5).double()], dim=1)  # 4 and 2 of 7 columns
OTHERWISE = torch.cat([5 - RAMP, (RAMP % 7 < 2).double(), torch.zeros_like(RAMP)], dim=1)  # 2 columns, and none
FLAT_PAIR = (_texture(21, 22), _texture(12, 13, 14))

# metric, pair, expected, tolerance, source
CLOSED = [
    ("mse", (FLAT, FLAT + 0.5), 0.25, 1e-12, "0.5^2"),
    ("mae", (FLAT, FLAT - 0.5), 0.5, 1e-12, "|0.5|"),
    ("mse", (RAMP, RAMP.flip(-1)), 16.0, 1e-12, "mean of (6 - 2k)^2, k = 0..6"),
    ("ncc", (_row(1, 2, 3, 4), _row(1, 3, 2, 4)), 0.8, 1e-12, "4 / 5"),
    ("ncc", (RAMP, 7 - 3 * RAMP), -1.0, 1e-12, "negative affine"),
    ("ncc", (_row(0, 0, 1, 1), _row(0, 1, 0, 1)), 0.0, 1e-12, "orthogonal"),
    ("lncc:window=3", (RAMP, 7 - 3 * RAMP), 1.0, 1e-9, "any affine"),
    ("lncc:window=3", (RAMP, FLAT), 0.0, 1e-12, "stated: constant image"),
    ("nccsup:window=3", (RAMP, 7 - 3 * RAMP), 1.0, 1e-9, "one channel: any affine"),
    ("nccsup:window=3", (LABELLED, LABELLED), 2.0, 1e-9, "identical"),
    ("nccsup:window=3,weight=3", (LABELLED, OTHERWISE), 1 + 3 / 3, 1e-9, "Dice 2 * 2 / (4 + 2) and 0"),
    (metric("perceptual"), ((RAMP / 41).float(), (RAMP / 41).float()), 1.0, 1e-6, "identical"),
    ("ssim:data_range=1.0", (FLAT, 3 * FLAT), 0.3751 / 0.6251, 1e-9, "luminance term of 0.25 and 0.75"),
    ("ssim:data_range=255", (RAMP, RAMP), 1.0, 1e-12, "identical"),
    ("mi", (HALVES, 5 - HALVES), LN2, 1e-12, "one bit"),
    ("mi", (HALVES, _row(0, 0, 1, 1, 0, 0, 1, 1)), 0.0, 1e-12, "independent"),
    ("mi", (HALVES, _row(0, 0, 0, 1, 0, 1, 1, 1)), 2 * LN2 - TABLE, 1e-12, "2 x 2 table, 3 : 1"),
    ("mi", (HALVES, 0 * HALVES), 0.0, 1e-12, "stated: constant image"),
    ("nmi", (HALVES, 5 - HALVES), 2 * (LN2 + WINDOW) / (LN2 + 2 * WINDOW), 1e-12, "one bit, with the windows' entropy"),
    ("nmi", (HALVES, _row(0, 0, 0, 1, 0, 1, 1, 1)), 2 * (LN2 + WINDOW) / (TABLE + 2 * WINDOW), 1e-12, "2 x 2 table"),
    ("nmi", (HALVES, 0 * HALVES), 1.0, 1e-12, "stated: constant image"),
    ("mind:dilation=1", (FLAT, FLAT + 1), 0.0, 1e-12, "both descriptors are 1"),
    ("mind:dilation=1", (RAMP, 9 - 4 * RAMP), 0.0, 1e-12, "affine intensities"),
    ("ngf", (ACROSS, ACROSS.mT), 1.0, 1e-9, "orthogonal gradients"),
    ("ngf", (ACROSS, -3 * ACROSS), 0.75, 1e-9, "parallel, edge = gradient: 1 - (1/2)^2"),
    ("ngf", (ACROSS, 0 * ACROSS), 1.0, 1e-12, "stated: constant image"),
]
PEERS = [
    *((f"mind:radius={r},dilation={d}", _texture(8, 9), lambda p, r=r, d=d: _slow_mind_distance(p, r, d), 1e-9,
       "NumPy, voxel by voxel") for r, d in ((1, 1), (1, 2), (2, 2), (0, 3))),
    ("mind:dilation=1", _texture(5, 4, 5), lambda p: _slow_mind_distance(p, 1, 1), 1e-9, "NumPy, voxel by voxel"),
    ("mind:dilations=1x2", _texture(6, 5, 5),
     lambda p: (_slow_mind_distance(p, 1, 1) + _slow_mind_distance(p, 1, 2)) / 2, 1e-9, "NumPy, voxel by voxel"),
]  # fmt: skip
for _pair in FLAT_PAIR:
    PEERS += [
        ("mse", _pair, lambda p: float(mean_squared_error(*_numpy(p))), 1e-12, "scikit-image"),
        ("mse", _pair, lambda p: _itk(p, lambda m: m.SetMetricAsMeanSquares()), 1e-9, "SimpleITK MeanSquares"),
        ("ncc", _pair, lambda p: float(np.corrcoef(*(i.ravel() for i in _numpy(p)))[0, 1]), 1e-12, "NumPy corrcoef"),
        ("ncc", _pair, lambda p: math.sqrt(-_itk(p, lambda m: m.SetMetricAsCorrelation())), 1e-9, "SimpleITK: -ncc^2"),
        ("lncc:window=5", _pair, lambda p: _slow_lncc(p, 5), 1e-9, "NumPy corrcoef in windows"),
        ("nccsup:window=5,weight=2", _with_labels(_pair), _slow_nccsup, 1e-9, "the same, and MONAI's DiceLoss twice"),
        ("ngf", _pair, _slow_ngf, 1e-9, "NumPy gradient"),
        ("mi", _pair, lambda p: _spline_mi(p, 32), 1e-9, "scipy BSpline"),
        ("mi:bins=12", _pair, lambda p: _spline_mi(p, 12), 1e-9, "scipy BSpline"),
        ("nmi", _pair, lambda p: _spline_mi(p, 32, normalised=True), 1e-9, "scipy BSpline"),
    ]


@pytest.mark.parametrize(
    ("spec", "pair", "expected", "tolerance", "source"), CLOSED, ids=lambda v: v if isinstance(v, str) else ""
)
def test_closed_forms(spec: str | AbstractMetric, pair: Pair, expected: float, tolerance: float, source: str) -> None:
    assert load_metric(spec)(*pair).item() == pytest.approx(expected, abs=tolerance), source


@pytest.mark.parametrize(
    ("spec", "pair", "peer", "tolerance", "source"), PEERS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_second_implementations(
    spec: str, pair: Pair, peer: Callable[[Pair], float], tolerance: float, source: str
) -> None:
    assert load_metric(spec)(*pair).item() == pytest.approx(peer(pair), abs=tolerance), source


# --- where only a part, or only the order, can agree ----------------------------------------------------------------


@pytest.mark.parametrize("pair", FLAT_PAIR, ids=["2d", "3d"])
@pytest.mark.parametrize("window", ["gaussian", "uniform"])
def test_ssim_map_is_scikit_images_inside(pair: Pair, window: str) -> None:
    fixed, moving = _numpy(pair)
    settings = {"gaussian_weights": True, "sigma": 1.5} if window == "gaussian" else {"win_size": 7}
    _, peer = structural_similarity(fixed, moving, data_range=1.3, use_sample_covariance=False, full=True, **settings)
    ours = 1 - load_metric("ssim", window=window, data_range=1.3).map(*pair)[0, 0].numpy()
    margin = 5 if window == "gaussian" else 3
    np.testing.assert_allclose(_interior(ours, margin), _interior(peer, margin), atol=1e-12)


def test_ssim_takes_its_range_from_the_fixed_image_inside_the_mask() -> None:
    fixed, moving = (100 * image for image in _texture(14, 15))
    mask = half_mask(fixed.shape)
    span = float(fixed[mask].max() - fixed[mask].min())
    expected = load_metric("ssim", data_range=span)(fixed, moving, mask)
    torch.testing.assert_close(load_metric("ssim")(fixed, moving, mask), expected)


@pytest.mark.parametrize("pair", FLAT_PAIR, ids=["2d", "3d"])
@pytest.mark.parametrize("window", [5, 9])
def test_lncc_map_is_monais_inside(pair: Pair, window: int) -> None:
    ours = 1 - load_metric("lncc", window=window).map(*pair)[0, 0].numpy()
    np.testing.assert_allclose(_interior(ours, window // 2), _monai_lncc(pair, window), atol=1e-6)


def test_mutual_information_is_near_the_peers_that_bin_otherwise() -> None:
    """MONAI and ITK (Mattes) use one bin for the fixed image and pad by two bins."""
    pair = _texture(60, 61)
    ours = load_metric("mi").bind(pair[0])(pair[1]).item()
    mattes = -_itk(pair, lambda m: m.SetMetricAsMattesMutualInformation(32))
    assert _monai_mutual_information(pair, 32) == pytest.approx(mattes, rel=0.05)
    assert ours == pytest.approx(mattes, rel=0.15)
    assert ours < mattes


def test_normalised_mutual_information_orders_as_scikit_images() -> None:
    fixed, other = _texture(60, 61)[0], textured((1, 1, 60, 61), seed=8)
    mixed = [(1 - share) * fixed + share * other for share in (0.0, 0.1, 0.3, 0.6, 1.0)]
    ours = [load_metric("nmi")(fixed, moving).item() for moving in mixed]
    peer = [normalized_mutual_information(*_numpy((fixed, moving)), bins=32) for moving in mixed]
    assert ours == sorted(ours, reverse=True)
    assert peer == sorted(peer, reverse=True)


@pytest.mark.parametrize("name", ["mse", "mae", "ncc", "lncc", "ssim", "mi", "nmi", "mind", "ngf"])
@pytest.mark.parametrize("pair", FLAT_PAIR, ids=["2d", "3d"])
def test_the_edge_of_a_mask_is_the_border_of_an_image(name: str, pair: Pair) -> None:
    inside = (..., *(slice(2, -1),) * (pair[0].ndim - 2))
    mask = torch.zeros(pair[0].shape, dtype=torch.bool)
    mask[inside] = True
    cropped = load_metric(name)(pair[0][inside], pair[1][inside])
    torch.testing.assert_close(load_metric(name)(*pair, mask), cropped, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mse", "mae", "ncc"])
def test_overlap_is_a_mask_for_global_metrics(name: str) -> None:
    fixed, moving = FLAT_PAIR[0]
    overlap = half_mask(fixed.shape)
    torch.testing.assert_close(
        load_metric(name).bind(fixed)(moving, overlap), load_metric(name)(fixed, moving, overlap)
    )


@pytest.mark.parametrize("name", ["mse", "mae", "ncc", "mi", "nmi"])
def test_what_lies_outside_the_overlap_does_not_count(name: str) -> None:
    fixed, moving = FLAT_PAIR[0]
    overlap = half_mask(fixed.shape)
    bound = load_metric(name).bind(fixed)
    torch.testing.assert_close(bound(torch.where(overlap, moving, 99.0), overlap), bound(moving, overlap))


@pytest.mark.parametrize("name", ["lncc", "mind"])
def test_flat_noiseless_background_neither_explodes_nor_pulls(name: str) -> None:
    """voxelmorph issues 127, 178, 211: unguarded variances."""
    fixed, moving = (image.float() for image in _texture(40, 40))
    for image in (fixed, moving):
        image[..., :20] = 0.0
    moving.requires_grad_()
    (gradient,) = torch.autograd.grad(load_metric(name)(fixed, moving).sum(), moving)
    assert gradient[..., :10].abs().max() < 1e-3 * gradient[..., 25:].abs().max()
    assert gradient.abs().max() < 50 * gradient[..., 25:].abs().max()


@pytest.mark.parametrize(
    ("spec", "part"), [("lncc:window=3", 0.005), ("mind:dilation=1", 0.02), ("ssim", 0.005), ("ngf", 0.005)]
)
def test_gradient_where_a_nearly_flat_part_is_held_at_the_floor(spec: str, part: float) -> None:
    generator = torch.Generator().manual_seed(0)
    fixed, moving = (torch.rand(1, 1, 7, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    faint = torch.ones_like(fixed)
    faint[..., :6] = part
    metric = load_metric(spec)
    leaves = tuple((image * faint).requires_grad_() for image in (fixed, moving))
    assert torch.autograd.gradcheck(metric, leaves, eps=1e-7, atol=1e-5, rtol=1e-3)


def test_gradient_where_neighbours_tie() -> None:
    """Rows without texture: pairs of neighbours left and right are equally far, and share the minimum's gradient."""
    rows = textured((1, 1, 9, 2))[..., :1]
    fixed, moving = (image.expand(1, 1, 9, 8).clone() for image in (rows, rows.square()))
    along = noisy(torch.zeros_like(rows)).expand(1, 1, 9, 8)
    leaf = moving.requires_grad_()
    metric = load_metric("mind:dilation=1")
    (gradient,) = torch.autograd.grad(metric(fixed, leaf).sum(), leaf)
    slope = (metric(fixed, moving + 1e-6 * along) - metric(fixed, moving - 1e-6 * along)) / 2e-6
    torch.testing.assert_close((gradient * along).sum(), slope.sum().detach(), rtol=1e-5, atol=1e-9)


# --- kernels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 10), (3, 11), (5, 6, 7), (1, 4, 9)], ids=str)
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 7])
def test_box_sum_is_scipys(shape: tuple[int, ...], radius: int) -> None:
    image = textured((1, 1, *shape))
    width = 2 * radius + 1
    peer = ndimage.uniform_filter(image[0, 0].numpy(), width, mode="constant") * width ** len(shape)
    np.testing.assert_allclose(box_sum(image, radius)[0, 0].numpy(), peer, atol=1e-12)


def test_gaussian_sum_is_scipys_and_its_own_adjoint() -> None:
    image, other = textured((1, 1, 14, 15)), textured((1, 1, 14, 15), seed=2).requires_grad_()
    peer = ndimage.gaussian_filter(image[0, 0].numpy(), 1.5, mode="constant", truncate=3.5)
    np.testing.assert_allclose(gaussian_sum(image, 1.5)[0, 0].numpy(), peer, atol=1e-12)
    (gradient,) = torch.autograd.grad((gaussian_sum(other, 1.5) * image).sum(), other)
    torch.testing.assert_close(gradient, gaussian_sum(image, 1.5))


def test_joint_histogram_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (1 + 6 * textured((2, 1, 9, 11), seed=s).flatten(1) for s in (0, 1))
    first, second = first.requires_grad_(), second.requires_grad_()
    weights = textured((2, 1, 9, 11), seed=4).flatten(1)

    def results() -> tuple[torch.Tensor, ...]:
        counts = histogram.joint_histogram(first, second, weights, 9)
        return counts, *torch.autograd.grad((counts * torch.arange(9)).square().sum(), (first, second))

    whole = results()
    torch.testing.assert_close(whole[0].sum(dim=(1, 2)), weights.sum(dim=1))
    monkeypatch.setitem(histogram._BLOCK_ELEMENTS, "cpu", 100)
    for block, one in zip(results(), whole, strict=True):
        torch.testing.assert_close(block, one)
