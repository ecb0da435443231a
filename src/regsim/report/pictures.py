"""Slices as pictures: grey sprites for the viewer and static pairs with outlines, as PNG inside data URIs."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from regsim.evaluation.results import Plane, Views
from regsim.report import wording

Grey = npt.NDArray[np.uint8]
Real = npt.NDArray[np.float64]
OUTLINE = (255, 212, 0)
KINDS = ("fixed", "before", "after")


@dataclass(frozen=True)
class PlanePictures:
    """One plane of the viewer: a sprite per kind (slices below each other) and the static pair."""

    name: str
    edges: dict[str, str]
    width: int
    height: int
    positions: list[str]
    middle: int
    edge_limit: float
    sprites: dict[str, str]
    static: dict[str, str]


def data_uri(data: bytes, kind: str = "png") -> str:
    """Bytes of a picture as a URI that needs no file and no network."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Grey `(height, width)` or colour `(height, width, 3)` pixels as PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def sprite(stack: Grey) -> bytes:
    """All slices of a stack below each other in one grey PNG."""
    return png(stack.reshape(-1, stack.shape[-1]))


def gradient(image: Grey) -> tuple[Real, Real]:
    """Sobel differences down and across, of the size of the image; zero at its border."""
    down, across = np.zeros(image.shape), np.zeros(image.shape)
    if min(image.shape) > 2:
        values = image.astype(np.float64)
        rows = values[:, :-2] + 2 * values[:, 1:-1] + values[:, 2:]
        columns = values[:-2] + 2 * values[1:-1] + values[2:]
        down[1:-1, 1:-1] = rows[2:] - rows[:-2]
        across[1:-1, 1:-1] = columns[:, 2:] - columns[:, :-2]
    return down, across


def edge_limit(image: Grey) -> float:
    """The strength from which an edge is drawn as an outline: the strongest tenth or so of what is not flat."""
    strength = np.hypot(*gradient(image))
    uneven = strength[strength > 0]
    return float(np.percentile(uneven, 80)) if len(uneven) else 1.0


def outlines(fixed: Grey, moving: Grey, limit: float) -> Grey:
    """The moving image in grey under the edges of the fixed one, which hold for any two contrasts."""
    down, across = gradient(fixed)
    strength = np.hypot(down, across)
    padded = np.pad(strength, 1)
    above, below, before, after = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    upright = np.abs(down) > np.abs(across)
    crest = np.where(upright, (strength >= above) & (strength > below), (strength >= before) & (strength > after))
    picture = np.stack([moving] * 3, axis=-1)
    picture[crest & (strength >= limit)] = OUTLINE
    return picture


def grey_stacks(plane: Plane, views: Views) -> dict[str, Grey] | None:
    """The three stacks of one plane, or None where one is missing, empty or of another shape."""
    found = {kind: views.stack(plane.name, kind) for kind in KINDS}
    stacks = {kind: stack.astype(np.uint8, copy=False) for kind, stack in found.items() if stack is not None}
    shapes = {stack.shape for stack in stacks.values()}
    if len(stacks) < len(KINDS) or len(shapes) != 1:
        return None
    shape = shapes.pop()
    return stacks if len(shape) == 3 and min(shape) > 0 else None


def plane_pictures(plane: Plane, views: Views, unit: str) -> PlanePictures | None:
    """All pictures of one plane, or None where it cannot be shown."""
    stacks = grey_stacks(plane, views)
    if stacks is None:
        return None
    slices, height, width = stacks["fixed"].shape
    middle = slices // 2
    fixed, limit = stacks["fixed"][middle], edge_limit(stacks["fixed"][middle])
    return PlanePictures(
        name=plane.name,
        edges={"left": plane.left, "right": plane.right, "top": plane.top, "bottom": plane.bottom},
        width=width,
        height=height,
        positions=_positions(plane, slices, unit),
        middle=middle,
        edge_limit=limit,
        sprites={kind: data_uri(sprite(stack)) for kind, stack in stacks.items()},
        static={kind: data_uri(png(outlines(fixed, stacks[kind][middle], limit))) for kind in ("before", "after")},
    )


def _positions(plane: Plane, slices: int, unit: str) -> list[str]:
    """A label for every slice: where it lies if that is known, else its number."""
    if len(plane.positions) != slices:
        return [f"slice {index + 1} of {slices}" for index in range(slices)]
    return [f"{round(position, 1) + 0.0:.1f} {unit}".replace("-", wording.MINUS) for position in plane.positions]
