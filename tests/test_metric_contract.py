"""The contract, for every registered metric: a new one is tested by being registered."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from regsim.errors import GridError, InputError, RegsimError, SettingsError
from regsim.metrics import REGISTRY, AbstractMetric, load_metric, usable_metrics

from .metric_cases import (
    MAP_MEAN,
    NAMES,
    PAIRS,
    SHAPES_2D,
    SHAPES_3D,
    half_mask,
    metric,
    noisy,
    pair_for,
    pair_of_contrasts,
    shifts_for,
    textured,
)

TIGHT = {"rtol": 1e-9, "atol": 1e-9}
every_metric = pytest.mark.parametrize("name", NAMES)
both_dims = pytest.mark.parametrize("shape", PAIRS, ids=["2d", "3d"])


def _pair(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    fixed = textured(shape)
    return fixed, noisy(0.7 * fixed + 0.3 * textured(shape, seed=5))


def _metric64(name: str) -> AbstractMetric:
    return metric(name).double()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """On images this small a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- shapes, batches, masks -----------------------------------------------------------------------------------------


@every_metric
@pytest.mark.parametrize("shape", SHAPES_2D + SHAPES_3D, ids=str)
def test_one_value_per_item(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = (image.float() for image in _pair(shape))
    value = metric(name)(fixed, moving)
    assert value.shape == (shape[0],)
    assert value.dtype == torch.float32
    assert value.isfinite().all()


@every_metric
@pytest.mark.parametrize("shape", [(3, 2, 13, 14), (2, 1, 9, 10, 8)], ids=["2d", "3d"])
def test_batch_mates_do_not_matter(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = _pair(shape)
    scale = torch.arange(1, shape[0] + 1, dtype=fixed.dtype).reshape(-1, *(1,) * (len(shape) - 1))
    fixed, moving = fixed / scale, moving / scale
    mask = half_mask(shape)
    mask[0] = True
    together = _metric64(name)(fixed, moving, mask)
    for item in range(shape[0]):
        one = slice(item, item + 1)
        torch.testing.assert_close(_metric64(name)(fixed[one], moving[one], mask[one]), together[one], **TIGHT)


@every_metric
@both_dims
def test_mask_as_bool_as_weights_and_shared(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = (torch.cat((image, image.flip(-1))) for image in _pair(shape))
    mask = half_mask(shape)
    as_bool = _metric64(name)(fixed, moving, mask)
    as_weights = _metric64(name)(fixed, moving, mask.to(fixed.dtype))
    repeated = _metric64(name)(fixed, moving, mask.expand(2, *mask.shape[1:]))
    torch.testing.assert_close(as_bool, as_weights, **TIGHT)
    torch.testing.assert_close(as_bool, repeated, **TIGHT)


@every_metric
@both_dims
def test_equal_weights_are_no_mask(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = _pair(shape)
    half = torch.full((1, 1, *shape[2:]), 0.5)
    torch.testing.assert_close(_metric64(name)(fixed, moving, half), _metric64(name)(fixed, moving), **TIGHT)


@every_metric
@both_dims
def test_nothing_outside_the_mask_counts(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = _pair(shape)
    mask = half_mask(shape)
    value = _metric64(name)(fixed, moving, mask)
    for junk in (torch.nan, torch.inf, -1e6):
        junk_fixed = torch.where(mask, fixed, junk)
        junk_moving = torch.where(mask, moving, junk).requires_grad_(metric(name).differentiable)
        again = _metric64(name)(junk_fixed, junk_moving, mask)
        assert torch.equal(again, value)
        if metric(name).differentiable:
            (gradient,) = torch.autograd.grad(again.sum(), junk_moving)
            assert gradient.isfinite().all()
            assert not gradient[~mask].any()


# --- facts, tested not trusted --------------------------------------------------------------------------------------


@every_metric
@both_dims
def test_symmetric_or_really_not(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = _pair(shape)
    there, back = _metric64(name)(fixed, moving), _metric64(name)(moving, fixed)
    assert torch.allclose(there, back, rtol=1e-6, atol=1e-9) == metric(name).symmetric


@every_metric
@both_dims
def test_values_stay_in_the_range(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = _pair(shape)
    generator = torch.Generator().manual_seed(4)
    noise = torch.rand(shape, generator=generator, dtype=torch.float64)
    low, high = metric(name).value_range
    for other in (fixed, moving, 1 - fixed, noise, torch.zeros_like(fixed)):
        value = metric(name)(fixed.float(), other.float())
        assert ((value >= low - 1e-5) & (value <= high + 1e-5)).all()


@every_metric
@pytest.mark.parametrize("dims", [2, 3])
def test_worse_with_every_shift(name: str, dims: int) -> None:
    judge = _metric64(name)
    costs = [judge.cost(judge(*pair_for(name, dims, shift))).item() for shift in shifts_for(name)]
    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs)
    assert costs[0] < judge.cost(judge(pair_for(name, dims, 0)[0], pair_for(name, dims, 0, seed=9)[1])).item()


@every_metric
@pytest.mark.parametrize("dims", [2, 3])
def test_multimodal_if_and_only_if_claimed(name: str, dims: int) -> None:
    judge = _metric64(name)
    costs = []
    for shift in shifts_for(name):
        costs.append(judge.cost(judge(*pair_of_contrasts(name, dims, shift))).item())
    assert (min(costs) == costs[0]) == judge.multimodal


@every_metric
def test_cost_turns_the_sign_and_nothing_else(name: str) -> None:
    value = torch.tensor([0.25, -3.0])
    sign = -1 if REGISTRY[name].higher_is_better else 1
    assert torch.equal(metric(name).cost(value), sign * value)


@every_metric
def test_facts_are_filled_in(name: str) -> None:
    kind = REGISTRY[name]
    assert kind.name == name
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    assert kind.value_range[0] < kind.value_range[1]
    assert kind.expects in ("any", "unit")
    doc = kind.__doc__ or ""
    assert "better" in doc
    assert "Example:" in doc


# --- bind, overlap, determinism -------------------------------------------------------------------------------------


@every_metric
@both_dims
def test_bind_is_forward_and_repeats(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = _pair(shape)
    for mask in (None, half_mask(shape)):
        bound = _metric64(name).bind(fixed, mask)
        first = bound(moving)
        bound(1 - moving)
        assert torch.equal(bound(moving), first)
        assert torch.equal(_metric64(name)(fixed, moving, mask), first)


@every_metric
@both_dims
def test_full_overlap_is_no_overlap(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = _pair(shape)
    for mask in (None, half_mask(shape)):
        bound = _metric64(name).bind(fixed, mask)
        torch.testing.assert_close(bound(moving, torch.ones(1, 1, *shape[2:])), bound(moving), **TIGHT)


@every_metric
@both_dims
def test_overlap_hides_a_damaged_part_and_takes_no_gradient(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = _pair(shape)
    overlap = torch.ones(1, 1, *shape[2:], dtype=torch.float64)
    overlap[..., :4] = 0
    damaged = torch.where(overlap > 0, moving, torch.zeros_like(moving))
    judge = _metric64(name)
    bound = judge.bind(fixed)
    assert judge.cost(bound(damaged, overlap.requires_grad_())).item() < judge.cost(bound(damaged)).item()
    assert not bound(damaged, overlap).requires_grad
    assert bound(moving, torch.zeros(1, 1, *shape[2:])).isfinite().all()


# --- finite, whatever comes -----------------------------------------------------------------------------------------

DEGENERATE = [
    (1, 1, 1, 12, 13),
    (1, 1, 12, 1, 13),
    (1, 1, 12, 13, 1),
    (1, 1, 12, 1),
    (1, 1, 3, 3),
    (1, 1, 2, 2, 2),
    (1, 1, 1, 1),
]


@every_metric
@pytest.mark.parametrize("shape", [*PAIRS, *DEGENERATE], ids=str)
def test_finite_or_a_clear_error(name: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    texture = torch.rand(shape, generator=generator)
    images = [texture, torch.full(shape, 0.3), torch.zeros(shape)]
    for fixed in images:
        for moving in images:
            for mask in (None, torch.zeros(1, 1, *shape[2:])):
                _check_finite(name, fixed, moving, mask)


def _refuses(name: str, fixed: torch.Tensor) -> bool:
    """Whether an image is too small for the metric, said by an error that names it."""
    try:
        metric(name).bind(fixed)
    except RegsimError as error:
        return name in str(error)
    return False


def _check_finite(name: str, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor | None) -> None:
    moving = moving.clone().requires_grad_(metric(name).differentiable)
    if min(fixed.shape[2:]) <= 8 and _refuses(name, fixed):
        return
    value = metric(name)(fixed, moving, mask)
    assert value.isfinite().all()
    if metric(name).differentiable and value.requires_grad:
        (gradient,) = torch.autograd.grad(value.sum(), moving)
        assert gradient.isfinite().all()
    if metric(name).has_map:
        assert metric(name).map(fixed, moving, mask).isfinite().all()


@every_metric
@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (1e4, 0.0), (100.0, -2000.0)])
def test_finite_at_any_intensity(name: str, scale: float, offset: float) -> None:
    if REGISTRY[name].expects == "unit":
        pytest.skip("expects intensities in [0, 1]")
    fixed, moving = (scale * image.float() + offset for image in _pair(PAIRS[0]))
    fixed[..., :8] = offset
    moving[..., :8] = offset
    moving.requires_grad_(metric(name).differentiable)
    value = metric(name)(fixed, moving)
    assert value.isfinite().all()
    if metric(name).differentiable:
        (gradient,) = torch.autograd.grad(value.sum(), moving)
        assert gradient.isfinite().all()


@every_metric
@both_dims
def test_float32_is_exact_enough(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = (image.float().double() for image in _pair(shape))
    for mask in (None, half_mask(shape)):
        exact = _metric64(name)(fixed, moving, mask)
        torch.testing.assert_close(
            metric(name)(fixed.float(), moving.float(), mask).double(), exact, rtol=2e-5, atol=2e-6
        )
    if REGISTRY[name].expects == "any":
        fixed, moving = ((1000 + 100 * image).float().double() for image in (fixed, moving))
        exact, single = _metric64(name)(fixed, moving), metric(name)(fixed.float(), moving.float())
        torch.testing.assert_close(single.double(), exact, rtol=2e-4, atol=2e-5)


# --- gradients ------------------------------------------------------------------------------------------------------


def _directions(moving: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Random directions and single voxels; the extreme voxels, which may set an intensity range, stay as they are."""
    generator = torch.Generator().manual_seed(6)
    free = torch.ones_like(moving, dtype=torch.bool)
    axes = tuple(range(2, moving.ndim))
    for inside in (torch.ones_like(mask), mask):
        high = torch.where(inside, moving, -torch.inf).amax(dim=axes, keepdim=True)
        low = torch.where(inside, moving, torch.inf).amin(dim=axes, keepdim=True)
        free &= (moving != high) & (moving != low)
    whole = [torch.randn(moving.shape, generator=generator, dtype=torch.float64) * free for _ in range(3)]
    places = free.flatten().nonzero()[::37, 0][:6]
    return whole + [
        torch.zeros_like(moving).flatten().index_fill(0, place, 1.0).reshape(moving.shape) for place in places
    ]


def _layout(tensor: torch.Tensor, last: bool) -> torch.Tensor:
    if not last:
        return tensor.contiguous()
    return tensor.contiguous(memory_format=torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d)


@every_metric
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(1, 1, 12, 13), (1, 2, 12, 13), (1, 2, 6, 7, 8)], ids=str)
def test_gradient_against_finite_differences(name: str, shape: tuple[int, ...], last: bool) -> None:
    judge = _metric64(name)
    if not judge.differentiable:
        pytest.skip("not differentiable")
    fixed, moving = (_layout(image, last) for image in _pair(shape))
    mask = half_mask(shape)
    outputs = [lambda image: judge(fixed, image).sum(), lambda image: judge(fixed, image, mask).sum()]
    if judge.has_map:
        incoming = _layout(textured((1, 1, *shape[2:]), seed=8), last)
        outputs.append(lambda image: (judge.map(fixed, image) * incoming).sum())
    for output in outputs:
        leaf = moving.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(output(leaf), leaf)
        assert gradient.abs().max() > 0
        for direction in _directions(moving, mask):
            step = 1e-7  # a longer one crosses kinks of networks
            slope = (output(moving + step * direction) - output(moving - step * direction)) / (2 * step)
            torch.testing.assert_close((gradient * direction).sum(), slope, rtol=2e-5, atol=2e-8)


@every_metric
def test_gradient_to_the_fixed_image_is_right(name: str) -> None:
    """Not promised, but a wrong one would be a trap for symmetric registration."""
    judge = _metric64(name)
    if not judge.differentiable:
        pytest.skip("not differentiable")
    fixed, moving = _pair((1, 1, 12, 13))
    leaf = fixed.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(leaf, moving).sum(), leaf)
    for direction in _directions(fixed, half_mask(fixed.shape)):
        step = 1e-6
        slope = (judge(fixed + step * direction, moving) - judge(fixed - step * direction, moving)).sum() / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=2e-5, atol=2e-8)


@every_metric
def test_gradient_of_one_item_does_not_depend_on_the_batch_or_layout(name: str) -> None:
    judge = metric(name)
    if not judge.differentiable:
        pytest.skip("not differentiable")
    fixed, moving = (image.float() for image in _pair((3, 2, 13, 14)))

    def gradient(items: slice, last: bool) -> torch.Tensor:
        leaf = _layout(moving[items], last).clone().requires_grad_()
        return torch.autograd.grad(judge(_layout(fixed[items], last), leaf).sum(), leaf)[0]

    whole = gradient(slice(0, 3), False)
    for last in (False, True):
        torch.testing.assert_close(gradient(slice(0, 3), last), whole, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient(slice(0, 1), last), whole[:1], rtol=1e-4, atol=1e-6)


# --- maps -----------------------------------------------------------------------------------------------------------


@every_metric
@both_dims
def test_map(name: str, shape: tuple[int, ...]) -> None:
    judge = _metric64(name)
    fixed, moving = _pair(shape)
    if not judge.has_map:
        with pytest.raises(SettingsError, match="no local map"):
            judge.map(fixed, moving)
        return
    mask = half_mask(shape)
    local = judge.map(fixed, moving, mask)
    assert local.shape == (1, 1, *shape[2:])
    assert not local[~mask].any()
    if name in MAP_MEAN:
        for given, seen in ((None, torch.ones_like(mask)), (mask, mask)):
            mean = judge.map(fixed, moving, given)[seen].mean().reshape(1)
            torch.testing.assert_close(mean, MAP_MEAN[name](judge(fixed, moving, given)), **TIGHT)


@every_metric
@pytest.mark.parametrize("dims", [2, 3])
def test_map_is_lower_where_aligned(name: str, dims: int) -> None:
    if not REGISTRY[name].has_map:
        pytest.skip("no map")
    fixed, aligned = pair_for(name, dims, 0)
    _, away = pair_for(name, dims, 4)
    half = fixed.shape[-1] // 2
    moving = torch.cat((aligned[..., :half], away[..., half:]), dim=-1)
    judge = _metric64(name)
    local = judge.map(fixed, moving) - judge.map(fixed, aligned)  # the two halves of an image need not be alike
    assert local[..., :half].mean() < local[..., half:].mean()


# --- mistakes, and what must not happen to the input ----------------------------------------------------------------


@every_metric
def test_mistakes_are_named(name: str) -> None:
    judge, image = metric(name), torch.rand(2, 1, 8, 9, generator=torch.Generator().manual_seed(0))
    for bad in (image[0], image[0, 0], torch.zeros(1, 1, 0, 4), image[None, None]):
        with pytest.raises(InputError):
            judge(bad, bad)
    for integers in (torch.zeros(2, 1, 8, 9, dtype=torch.uint8), torch.zeros(2, 1, 8, 9, dtype=torch.int64)):
        with pytest.raises(InputError, match="float"):
            judge(integers, integers)
        with pytest.raises(InputError, match="float"):
            judge(image, integers)
    with pytest.raises(GridError):
        judge(image, image[..., :-1])
    with pytest.raises(GridError):
        judge(image, image[:1])
    with pytest.raises(InputError, match="convert"):
        judge(image, image.double())
    with pytest.raises(GridError, match="mask"):
        judge(image, image, torch.ones(2, 1, 8, 8))
    with pytest.raises(InputError, match="mask"):
        judge(image, image, torch.full((2, 1, 8, 9), 1.5))
    with pytest.raises(GridError, match="overlap"):
        judge.bind(image)(image, torch.ones(3, 1, 8, 9))


@every_metric
@both_dims
def test_strides_do_not_matter_and_input_is_kept(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = _pair(shape)
    mask = half_mask(shape)
    expected = _metric64(name)(fixed, moving, mask)
    copies = [image.clone() for image in (fixed, moving, mask)]
    views = [torch.stack((image, image), dim=-1)[..., 0] for image in copies]
    flipped = [image.transpose(-1, -2).contiguous().transpose(-1, -2) for image in copies]
    for images in (copies, views, flipped):
        torch.testing.assert_close(_metric64(name)(*images), expected, **TIGHT)
        for image, original in zip(images, (fixed, moving, mask), strict=True):
            assert torch.equal(image, original)


@every_metric
def test_by_name_and_settings(name: str) -> None:
    ready = metric(name)
    assert isinstance(ready, REGISTRY[name])
    assert load_metric(ready) is ready
    assert (name in usable_metrics()) != bool(REGISTRY[name].needs)
    if REGISTRY[name].needs:
        with pytest.raises(SettingsError, match=f"metric '{name}' needs"):
            load_metric(name)
    with pytest.raises(SettingsError, match=f"metric '{name}'"):
        load_metric(name, no_such_setting=1)


def test_specs() -> None:
    assert load_metric("mind:radius=2, dilation=3").dilations == (3,)
    assert (
        load_metric("mind:dilations=1x2").dilations == load_metric("mind:dilations=(1,2),radius=1").dilations == (1, 2)
    )
    assert load_metric("ssim:window=uniform,data_range=255").data_range == 255
    assert load_metric("ssim:data_range=none").data_range is None
    with pytest.raises(SettingsError, match="did you mean 'mind'"):
        load_metric("mimd")
    with pytest.raises(SettingsError, match="radius"):
        load_metric("mind:radiu=2")
    for wrong in ("lncc:window=8", "lncc:window", "lncc:window=9,window=7", "lncc:window=wide", "lncc:window=(1,2)"):
        with pytest.raises(SettingsError):
            load_metric(wrong)
    for wrong in (
        "mi:bins=4",
        "nmi:bins=32.5",
        "lncc:window=9.0",
        "mind:dilations=1.5x2",
        "mind:radius=-1",
        "mind:dilations=0x1",
        "ngf:edge=0",
        "ssim:size=4",
    ):
        with pytest.raises(SettingsError):
            load_metric(wrong)
    with pytest.raises(SettingsError, match="ready metric"):
        load_metric(load_metric("mse"), window=3)


# --- the page that says how to add one ------------------------------------------------------------------------------


def test_the_documented_example_works() -> None:
    page = (Path(__file__).parents[1] / "docs" / "add-a-metric.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]
    before = dict(REGISTRY)
    try:
        exec(compile(code, "docs/add-a-metric.md", "exec"), {"__name__": "regsim.metrics.log_error"})
        (name,) = set(REGISTRY) - set(before)
        for check in (test_symmetric_or_really_not, test_nothing_outside_the_mask_counts, test_map):
            check(name, PAIRS[0])
        for check in (test_worse_with_every_shift, test_multimodal_if_and_only_if_claimed):
            check(name, 2)
        test_gradient_against_finite_differences(name, (1, 2, 12, 13), True)
        test_mistakes_are_named(name)
        test_facts_are_filled_in(name)
    finally:
        REGISTRY.clear()
        REGISTRY.update(before)
