"""One squaring `u(x) + u(x + u(x))` of a field of index vectors, and its gradient, each in one pass.

Fields are flat: three numbers a voxel side by side (a picture's third is zero), with one voxel of zeros around every axis of
more than one voxel. So a value that fades out beyond the border is read like any other. Processors like four numbers at once:
the fourth that is read is the neighbour's and is ignored. Gradients, which are also written so, have four numbers a voxel.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, models, register_model

from regsim.kernels.cpu.compiled import compiled, in_slabs

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Steps = tuple[int, int, int]  # from one vector to the next, from one of its numbers to the next, numbers a voxel

_FIELD, _GRADIENT = 3, 4
"""Numbers a voxel."""
_MOST_COPIES = 4
"""Each thread that scatters needs a field of its own."""


class Layout(NamedTuple):
    """Voxels along each axis, and how many voxels apart neighbours lie with the margin: 0 along an axis of one voxel."""

    depth: int
    height: int
    width: int
    right: int
    below: int
    behind: int
    places: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "Layout":
        """For `(D, H, W)`, or `(H, W)`: a picture is a volume of one slice."""
        depth, height, width = (1, *shape)[-3:]
        padded = [length + 2 if length > 1 else 1 for length in (depth, height, width)]
        steps = (1, padded[2], padded[2] * padded[1])
        right, below, behind = (step * (n > 1) for step, n in zip(steps, (width, height, depth), strict=True))
        return cls(depth, height, width, right, below, behind, steps[2] * padded[0])

    @property
    def rows(self) -> int:
        """How many lines of voxels."""
        return self.depth * self.height


def enter(velocity: torch.Tensor, matrix: Matrix, layout: Layout) -> torch.Tensor:
    """Vectors `(ndim, *shape)` times a matrix, as a flat field."""
    field = velocity.new_zeros(_FIELD * layout.places + 1)
    steps = (1, velocity[0].numel(), _FIELD)
    in_slabs(_enter, layout.rows, layout, velocity.view(-1).numpy(), steps, len(matrix), _cube(matrix), field.numpy())
    return field


def leave(field: torch.Tensor, matrix: Matrix, layout: Layout, shape: tuple[int, ...]) -> torch.Tensor:
    """A flat field times a matrix, as vectors `(*shape, ndim)`."""
    vectors = field.new_empty(*shape, len(matrix))
    steps = (len(matrix), 1, _FIELD)
    in_slabs(_leave, layout.rows, layout, field.numpy(), steps, len(matrix), _cube(matrix), vectors.view(-1).numpy())
    return vectors


def square(field: torch.Tensor, layout: Layout) -> torch.Tensor:
    """`u(x) + u(x + u(x))` at every voxel."""
    squared = torch.zeros_like(field)
    in_slabs(_square, layout.rows, layout, field.numpy(), squared.numpy())
    return squared


def enter_gradient(vectors: torch.Tensor, matrix: Matrix, layout: Layout) -> torch.Tensor:
    """Vectors `(*shape, ndim)` times a matrix, in the first row; each thread that scatters has one of the others."""
    work = vectors.new_empty(1 + min(torch.get_num_threads(), _MOST_COPIES), _GRADIENT * layout.places)
    steps = (len(matrix), 1, _GRADIENT)
    in_slabs(_enter, layout.rows, layout, vectors.view(-1).numpy(), steps, len(matrix), _cube(matrix), work[0].numpy())
    return work


def hand_back(field: torch.Tensor, work: torch.Tensor, source: int, layout: Layout) -> int:
    """From the gradient with respect to the squared field, `work[source]`, to that with respect to the field.

    Returns the row of `work` that holds it; its margin means nothing.
    """
    copies = [(source + 1 + copy) % len(work) for copy in range(len(work) - 1)]
    in_slabs(_hand_back, len(copies), layout, field.numpy(), source, work.numpy())
    for copy in copies[1:]:
        work[copies[0]] += work[copy]
    return copies[0]


def leave_gradient(gradient: torch.Tensor, matrix: Matrix, layout: Layout, shape: tuple[int, ...]) -> torch.Tensor:
    """A row of `enter_gradient` times a matrix, as vectors `(ndim, *shape)`."""
    vectors = gradient.new_empty(len(matrix), *shape)
    steps = (1, vectors[0].numel(), _GRADIENT)
    in_slabs(_leave, layout.rows, layout, gradient.numpy(), steps, len(matrix), _cube(matrix), vectors.view(-1).numpy())
    return vectors


def _cube(matrix: Matrix) -> Floats:
    whole = np.zeros((3, 3), np.float32)
    whole[: len(matrix), : len(matrix)] = matrix
    return whole


@compiled
def _enter(
    first: int, last: int, layout: Layout, vectors: Floats, steps: Steps, count: int, matrix: Floats, field: Floats
) -> None:
    ahead, jump, stride = steps
    for row in range(first, last):
        at = stride * _start(layout, row)
        for voxel in range(row * layout.width, (row + 1) * layout.width):
            x, y = vectors[voxel * ahead], vectors[voxel * ahead + jump]
            z = vectors[voxel * ahead + 2 * jump] if count == 3 else np.float32(0)
            for axis in range(3):
                field[at + axis] = matrix[axis, 0] * x + matrix[axis, 1] * y + matrix[axis, 2] * z
            if stride == 4:
                field[at + 3] = np.float32(0)
            at += stride


@compiled
def _leave(
    first: int, last: int, layout: Layout, field: Floats, steps: Steps, count: int, matrix: Floats, vectors: Floats
) -> None:
    ahead, jump, stride = steps
    for row in range(first, last):
        at = stride * _start(layout, row)
        for voxel in range(row * layout.width, (row + 1) * layout.width):
            x, y, z = field[at], field[at + 1], field[at + 2]
            for axis in range(count):
                vectors[voxel * ahead + axis * jump] = matrix[axis, 0] * x + matrix[axis, 1] * y + matrix[axis, 2] * z
            at += stride


@compiled
def _square(first: int, last: int, layout: Layout, field: Floats, squared: Floats) -> None:
    right, below, behind = 3 * layout.right, 3 * layout.below, 3 * layout.behind
    for row in range(first, last):
        y, z, at = row % layout.height, row // layout.height, 3 * _start(layout, row)
        for x in range(layout.width):
            hop_x, share_x, _ = _hop(field[np.uintp(at)], x, layout.width)
            hop_y, share_y, _ = _hop(field[np.uintp(at + 1)], y, layout.height)
            hop_z, share_z, _ = _hop(field[np.uintp(at + 2)], z, layout.depth)
            there = at + hop_x * right + hop_y * below + hop_z * behind
            front = _within(field, there, right, below, share_x, share_y)
            back = _within(field, there + behind, right, below, share_x, share_y)
            _store_three(squared, at, _plus(_load(field, at), np.float32(1), _between(front, back, share_z)))
            at += 3


@compiled
def _hand_back(first: int, last: int, layout: Layout, field: Floats, source: int, work: Floats) -> None:
    right, below, behind, one = layout.right, layout.below, layout.behind, np.float32(1)
    rows, copies, coming = layout.depth * layout.height, len(work) - 1, work[source]
    for copy in range(first, last):
        into = work[(source + 1 + copy) % len(work)]
        into[:] = np.float32(0)
        for row in range(rows * copy // copies, rows * (copy + 1) // copies):
            y, z, at = row % layout.height, row // layout.height, _start(layout, row)
            for x in range(layout.width):
                hop_x, share_x, live_x = _hop(field[np.uintp(3 * at)], x, layout.width)
                hop_y, share_y, live_y = _hop(field[np.uintp(3 * at + 1)], y, layout.height)
                hop_z, share_z, live_z = _hop(field[np.uintp(3 * at + 2)], z, layout.depth)
                near, own, gradient = at + hop_x * right + hop_y * below + hop_z * behind, 4 * at, _load(coming, 4 * at)
                far = near + behind
                front, front_x, front_y = _slopes(field, 3 * near, 3 * right, 3 * below, share_x, share_y)
                back, back_x, back_y = _slopes(field, 3 * far, 3 * right, 3 * below, share_x, share_y)
                along_x = live_x * _dot(gradient, _between(front_x, back_x, share_z))
                along_y = live_y * _dot(gradient, _between(front_y, back_y, share_z))
                along_z = live_z * _dot(gradient, _minus(back, front))
                more = _plus(gradient, one, _three(along_x, along_y, along_z))
                _store(into, own, _plus(_load(into, own), one, more))
                _spread(into, 4 * near, 4 * right, 4 * below, one - share_z, share_x, share_y, gradient)
                _spread(into, 4 * far, 4 * right, 4 * below, share_z, share_x, share_y, gradient)
                at += 1


@compiled
def _start(layout: Layout, row: int) -> int:
    """The place of the first voxel of a line."""
    margin = layout.right + layout.below + layout.behind
    return margin + row // layout.height * layout.behind + row % layout.height * layout.below


@compiled
def _hop(move: Any, index: int, length: int) -> tuple[int, Any, Any]:
    """Whole voxels to go, the share of the next one, and 1 if the whole move counts, else 0.

    No further than to the margin, where everything is zero; not-a-number goes there, too.
    """
    low, high = np.float32(-1 - index), np.float32(length - index)
    held = move if move > low else low
    held = held if held < high else high
    whole = min(np.floor(held), high - np.float32(1))
    return int(whole), held - whole, np.float32(1) if held == move else np.float32(0)


@compiled
def _within(field: Floats, at: int, right: int, below: int, share_x: Any, share_y: Any) -> Any:
    """The vector at a point of one slice."""
    upper = _between(_load(field, at), _load(field, at + right), share_x)
    lower = _between(_load(field, at + below), _load(field, at + below + right), share_x)
    return _between(upper, lower, share_y)


@compiled
def _slopes(field: Floats, at: int, right: int, below: int, share_x: Any, share_y: Any) -> tuple[Any, Any, Any]:
    """The vector at a point of one slice, and how it changes along x and y."""
    left, under = _load(field, at), _load(field, at + below)
    step, step_under = _minus(_load(field, at + right), left), _minus(_load(field, at + below + right), under)
    upper, lower = _plus(left, share_x, step), _plus(under, share_x, step_under)
    down = _minus(lower, upper)
    return _plus(upper, share_y, down), _between(step, step_under, share_y), down


@compiled
def _spread(into: Floats, at: int, right: int, below: int, part: Any, share_x: Any, share_y: Any, vector: Any) -> None:
    """Hand a vector back to the four voxels of one slice that were read."""
    one = np.float32(1)
    for start, share in ((at, part * (one - share_y)), (at + below, part * share_y)):
        _store(into, start, _plus(_load(into, start), share * (one - share_x), vector))
        _store(into, start + right, _plus(_load(into, start + right), share * share_x, vector))


@compiled
def _between(one: Any, other: Any, share: Any) -> Any:
    return _plus(one, share, _minus(other, one))


class Four(types.Type):
    """Four numbers that the processor handles together."""

    def __init__(self) -> None:
        super().__init__(name="Four")


FOUR = Four()
_instructions: Callable[[Callable[..., Any]], Callable[..., Any]] = intrinsic
_REGISTER = ir.VectorType(ir.FloatType(), 4)


@register_model(Four)
class _FourModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any):
        super().__init__(manager, kind, _REGISTER)  # type: ignore[no-untyped-call]


def _address(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    start = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(start, [at]), _REGISTER.as_pointer())


@_instructions
def _load(typing: Any, field: Any, at: Any) -> Any:
    """Four neighbours of a flat array."""

    def written(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *given), align=4)

    return FOUR(field, types.intp), written


@_instructions
def _store_three(typing: Any, field: Any, at: Any, four: Any) -> Any:
    """The neighbour's number stays: another thread may be writing it."""

    def written(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        start = builder.gep(context.make_array(signature.args[0])(context, builder, given[0]).data, [given[1]])
        for lane in (ir.IntType(32)(number) for number in range(3)):
            builder.store(builder.extract_element(given[2], lane), builder.gep(start, [lane]))
        return context.get_dummy_value()

    return types.void(field, types.intp, four), written


@_instructions
def _store(typing: Any, field: Any, at: Any, four: Any) -> Any:
    def written(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        builder.store(given[2], _address(context, builder, signature.args[0], *given[:2]), align=4)
        return context.get_dummy_value()

    return types.void(field, types.intp, four), written


@_instructions
def _minus(typing: Any, one: Any, other: Any) -> Any:
    def written(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.fsub(*given)

    return FOUR(one, other), written


@_instructions
def _plus(typing: Any, one: Any, share: Any, other: Any) -> Any:
    """`one + share * other`, with a single number for the share."""

    def written(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        first = builder.insert_element(ir.Constant(_REGISTER, ir.Undefined), given[1], ir.IntType(32)(0))
        shares = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4))
        return builder.fadd(given[0], builder.fmul(shares, given[2], ("contract",)), ("contract",))

    return FOUR(one, types.float32, other), written


@_instructions
def _three(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """Three numbers, and a zero."""

    def written(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        four = ir.Constant(_REGISTER, [0.0] * 4)
        for lane, number in enumerate(given):
            four = builder.insert_element(four, number, ir.IntType(32)(lane))
        return four

    return FOUR(types.float32, types.float32, types.float32), written


@_instructions
def _dot(typing: Any, one: Any, other: Any) -> Any:
    """Sum of the first three products."""

    def written(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        product = builder.fmul(*given)
        parts = [builder.extract_element(product, ir.IntType(32)(lane)) for lane in range(3)]
        return builder.fadd(builder.fadd(parts[0], parts[1]), parts[2])

    return types.float32(one, other), written
