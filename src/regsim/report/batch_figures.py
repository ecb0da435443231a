"""The small picture of a pair: edges of the fixed image over the moving one, before and after, as JPEG."""

import io

import numpy as np
from PIL import Image

from regsim.evaluation.results import Views
from regsim.report.pictures import Grey, edge_limit, grey_stacks, outlines

LONGEST_SIDE = 150
GAP = 4
QUALITY = 78


def thumbnail(views: Views) -> bytes | None:
    """The middle slice of the first plane that can be shown, at most 150 pixels a side; None where none can."""
    for plane in views.planes:
        stacks = grey_stacks(plane, views)
        if stacks is not None:
            middle = len(stacks["fixed"]) // 2
            fixed, before, after = (_reduced(stacks[kind][middle]) for kind in ("fixed", "before", "after"))
            limit = edge_limit(fixed)
            gap = np.full((fixed.shape[0], GAP, 3), 255, np.uint8)
            return _jpeg(np.concatenate([outlines(fixed, before, limit), gap, outlines(fixed, after, limit)], axis=1))
    return None


def _reduced(picture: Grey) -> Grey:
    """Averaged down before edges are sought, so that they stay one pixel wide."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    return np.asarray(image)


def _jpeg(pixels: Grey) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return stream.getvalue()
